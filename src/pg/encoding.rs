//! The one encoding that the extension works in: keys, documents and hashes are defined over UTF-8.

use super::error::or_raise;
use crate::error::Error;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::ffi::CStr;

/// NE011 unless the database's encoding is UTF8. Called by the install script.
#[pg_extern(sql = false)]
fn require_utf8() -> bool {
    or_raise(check());
    true
}

fn check() -> Result<(), Error> {
    // SAFETY: reads variables of the backend; the name is a static string of the server.
    let (encoding, name) = unsafe { (pg_sys::GetDatabaseEncoding(), CStr::from_ptr(pg_sys::GetDatabaseEncodingName())) };
    if encoding == pg_sys::pg_enc::PG_UTF8 as i32 {
        return Ok(());
    }
    Err(Error::Installation {
        fault: format!("the database's encoding is {}", name.to_string_lossy()),
        hint: "Install the extension in a database with encoding UTF8.",
    })
}
