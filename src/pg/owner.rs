//! Queries that the extension runs for callers who have no privilege on its tables.

use super::relations::Access;
use pgrx::pg_sys;
use std::ffi::CStr;

/// No operator or function that the caller has put in the way is met.
const SEARCH_PATH: (&CStr, &CStr) = (c"search_path", c"pg_catalog, pg_temp");

/// What an expression that is kept as text means must not depend on the session that reads it.
const SAME_FOR_ALL: [(&CStr, &CStr); 6] = [
    SEARCH_PATH,
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, MDY"),
    (c"IntervalStyle", c"postgres"),
    (c"standard_conforming_strings", c"on"),
    (c"transform_null_equals", c"off"),
];

/// Runs `work` as the owner of the extension's tables, as a SECURITY DEFINER function with a search_path of its own would: no
/// operator or function that the caller has put in the way runs with the owner's rights.
pub fn as_owner<const COLUMNS: usize, R>(access: &Access<COLUMNS>, work: impl FnOnce() -> R) -> R {
    as_owner_of(access.table, pg_sys::SECURITY_LOCAL_USERID_CHANGE, &[SEARCH_PATH], work)
}

/// Runs `work`, which evaluates what the owner of a table has written, with the owner's rights, and in a way that cannot be
/// used to get those of whoever is at work, as the server does with expressions of an index. The table's row security does
/// not bind it, also where it binds its owner, as when the server checks foreign keys. Times and strings are read in one way,
/// whatever the session's settings.
pub fn as_restricted_owner<R>(table: pg_sys::Oid, work: impl FnOnce() -> R) -> R {
    let restricted = pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_NOFORCE_RLS;
    as_owner_of(table, pg_sys::SECURITY_LOCAL_USERID_CHANGE | restricted, &SAME_FOR_ALL, work)
}

fn as_owner_of<R>(table: pg_sys::Oid, flags: u32, settings: &[(&CStr, &CStr)], work: impl FnOnce() -> R) -> R {
    // SAFETY: fmgr_security_definer does the same; an ERROR puts user and settings back with the transaction.
    unsafe {
        let table = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let owner = (*(*table).rd_rel).relowner;
        pg_sys::table_close(table, pg_sys::NoLock as i32);
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | flags as i32);
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = work();
        pg_sys::AtEOXact_GUC(true, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        result
    }
}
