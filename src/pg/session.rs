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

/// The role whose privileges count at this moment, by its number: in a function that runs as its owner, the owner, and in what
/// the server evaluates for the owner of a table, such as an expression of an index, that one.
pub fn role_in_force() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the server evaluates something for the owner of a table, in work of somebody else's such as VACUUM.
pub fn is_restricted() -> bool {
    // SAFETY: reads a variable of the backend.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether a transaction, or a subtransaction of it, is the one that is running.
pub fn is_own_transaction(number: u32) -> bool {
    // SAFETY: looks into the state of the transaction; any number will do.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(number.into()) }
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
