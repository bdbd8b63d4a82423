//! Who is at the other end: for the audit log.

use pgrx::pg_sys;
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
