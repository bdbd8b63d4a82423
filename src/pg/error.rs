//! Raising errors with the SQLSTATEs of class NE, which the closed enumeration of pgrx does not have.

use super::settings::{self, ErrorCodes};
use crate::error::Error;
use entitlements_server::sqlstate::packed;
use pgrx::pg_sys;
use std::ffi::{CString, c_char, c_int};

unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlstate: c_int) -> c_int;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errhidestmt(hide: bool) -> c_int;
    fn errhidecontext(hide: bool) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// A copy in the current memory context, which the abort of the transaction frees. NUL bytes end C strings: they are left out.
fn in_memory_context(text: &str) -> *const c_char {
    let text = CString::new(text.replace('\0', "")).unwrap_or_default();
    // SAFETY: pstrdup copies a NUL-terminated string.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}

/// Raises `error` as an ERROR of this transaction.
///
/// Called last in a function that SQL calls, when none of its values are left to drop: errfinish leaves by a long jump.
pub fn raise(error: Error) -> ! {
    let sqlstate = match settings::error_codes() {
        ErrorCodes::Native => error.sqlstate(),
        ErrorCodes::Postgrest => error.http_sqlstate().unwrap_or_else(|| error.sqlstate()),
    };
    let sqlstate = packed(sqlstate);
    let holds_token = matches!(error, Error::TokenRefused(_));
    let message = in_memory_context(&error.to_string());
    let detail = error.detail().map_or(std::ptr::null(), |detail| in_memory_context(&detail));
    let hint = error.hint().map_or(std::ptr::null(), |hint| in_memory_context(&hint));
    drop(error);
    // SAFETY: the sequence that ereport() expands to. The strings live in a memory context. No value with a destructor is
    // alive in this frame, and by contract in none up to the server's.
    unsafe {
        if errstart(pg_sys::elog::PgLogLevel::ERROR as c_int, std::ptr::null()) {
            errcode(sqlstate);
            errmsg_internal(c"%s".as_ptr(), message);
            if !detail.is_null() {
                errdetail_internal(c"%s".as_ptr(), detail);
            }
            if !hint.is_null() {
                errhint(c"%s".as_ptr(), hint);
            }
            // A statement may have the token in its text, which is not for the server's log.
            errhidestmt(holds_token);
            errhidecontext(holds_token);
            errfinish(c"entitlements".as_ptr(), 0, c"raise".as_ptr());
        }
    }
    unreachable!("errfinish does not return from an ERROR")
}

/// Sends a warning to the client and, as far as the server keeps those, the log.
pub fn warn(message: &str, hint: Option<&str>) {
    let message = in_memory_context(message);
    let hint = hint.map(in_memory_context);
    // SAFETY: as in `raise`; of a warning errfinish returns.
    unsafe {
        if errstart(pg_sys::elog::PgLogLevel::WARNING as c_int, std::ptr::null()) {
            errcode(packed("01000"));
            errmsg_internal(c"%s".as_ptr(), message);
            if let Some(hint) = hint {
                errhint(c"%s".as_ptr(), hint);
            }
            errfinish(c"entitlements".as_ptr(), 0, c"warn".as_ptr());
        }
    }
}

/// The value, or the error raised.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => raise(error),
    }
}
