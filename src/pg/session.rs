//! Who is at the other end, for the audit log, and whether they may write.

use pgrx::pg_sys;
use pgrx::spi::{Spi, SpiClient};
use std::ffi::CStr;

/// Names of the session's user and of the role in force.
pub struct Actor {
    /// Who connected.
    pub session_user: String,
    /// The role that SET ROLE chose, whatever SECURITY DEFINER functions are running; the session user without one.
    pub role: String,
}

impl Actor {
    pub fn current() -> Self {
        // SAFETY: look-ups by OID; a role that was dropped meanwhile gives NULL.
        unsafe { Self { session_user: role_name(pg_sys::GetSessionUserId()), role: role_name(pg_sys::GetOuterUserId()) } }
    }
}

/// Runs what changes something. SPI would first take a transaction id, which a standby has none of.
pub fn connect_to_change<R>(work: impl FnOnce(&mut SpiClient<'_>) -> R) -> R {
    refuse_read_only();
    Spi::connect_mut(work)
}

/// 25006 in a read-only transaction and on a standby, as the server has it for its own commands.
pub fn refuse_read_only() {
    // SAFETY: reads the transaction's state; the name is a static string.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"a change of entitlements".as_ptr()) };
}

/// Takes the text of the running statement from pg_stat_activity, where other sessions of the same role read it.
pub fn hide_statement() {
    // SAFETY: as the server reports each statement; the text is copied.
    unsafe {
        pg_sys::pgstat_report_activity(
            pg_sys::BackendState::STATE_RUNNING,
            c"SELECT entitlements.authenticate(<token>)".as_ptr(),
        );
    }
}

/// Whether each statement sees what was committed before it: READ COMMITTED.
pub fn sees_what_is_committed() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// A number that differs between the backends that are alive.
pub fn process_number() -> usize {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::MyProcPid as usize }
}

/// # Safety
/// Must run in a transaction.
unsafe fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: by contract; the name is a NUL-terminated string or NULL.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() {
            return format!("role {}", role.to_u32());
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}
