//! Reading and making values of SQL types without the allocations of the general conversions.

use pgrx::pg_sys;
use std::ffi::CStr;

/// The bytes of a varlena value that is neither compressed nor stored elsewhere. Cannot raise an error.
///
/// # Safety
/// `datum` is a valid, non-NULL value of a varlena type such as text, and outlives the bytes.
#[inline(always)]
pub(super) unsafe fn plain_text<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    // SAFETY: by contract a varlena. Its first bytes tell its form (postgres.h, "varlena headers").
    unsafe {
        let value = datum.cast_mut_ptr::<pg_sys::varlena>();
        let plain = pgrx::varatt_is_4b_u(value) || (pgrx::varatt_is_1b(value) && !pgrx::varatt_is_1b_e(value));
        plain.then(|| std::slice::from_raw_parts(pgrx::vardata_any(value).cast(), pgrx::varsize_any_exhdr(value)))
    }
}

/// Calls `read` with the bytes of a varlena value, in place where it is neither compressed nor stored elsewhere.
///
/// # Safety
/// `datum` is a valid, non-NULL value of a varlena type such as text.
#[inline(always)]
pub unsafe fn with_text<R>(datum: pg_sys::Datum, read: impl FnOnce(&[u8]) -> R) -> R {
    // SAFETY: by contract; a detoasted copy lives in the current memory context.
    unsafe {
        match plain_text(datum) {
            Some(text) => read(text),
            None => {
                let value = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
                read(std::slice::from_raw_parts(pgrx::vardata_any(value).cast(), pgrx::varsize_any_exhdr(value)))
            }
        }
    }
}

/// # Safety
/// `datum` is a valid, non-NULL numeric.
pub(super) unsafe fn numeric_text(datum: pg_sys::Datum) -> String {
    // SAFETY: by contract; numeric_out detoasts by itself.
    unsafe { printed(pg_sys::numeric_out, datum) }
}

/// # Safety
/// `datum` is a valid, non-NULL jsonb.
pub(super) unsafe fn jsonb_text(datum: pg_sys::Datum) -> String {
    // SAFETY: by contract; jsonb_out detoasts by itself.
    unsafe { printed(pg_sys::jsonb_out, datum) }
}

/// # Safety
/// `output` is the output function of `datum`'s type.
unsafe fn printed(output: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum, datum: pg_sys::Datum) -> String {
    // SAFETY: output functions take one argument and give a NUL-terminated string of the current memory context, in the
    // database's encoding, which CREATE EXTENSION made sure is UTF8.
    unsafe {
        let text = pgrx::direct_function_call_as_datum(output, &[Some(datum)]).expect("output functions give a value");
        let text = text.cast_mut_ptr::<std::ffi::c_char>();
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        copy
    }
}

/// A text value in memory of our own, for a scan key.
#[derive(Default)]
pub(super) struct TextDatum {
    words: Vec<u32>,
}

impl TextDatum {
    /// Makes the value hold `bytes`. The Datum is valid until the next change of this value.
    pub(super) fn set(&mut self, bytes: &[u8]) -> pg_sys::Datum {
        let size = bytes.len() + pg_sys::VARHDRSZ;
        self.words.clear();
        self.words.resize(size.div_ceil(size_of::<u32>()), 0);
        let start = self.words.as_mut_ptr();
        // SAFETY: the memory is aligned for, and holds, a 4-byte header and the bytes.
        unsafe {
            pgrx::set_varsize_4b(start.cast(), size as i32);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast::<u8>().add(pg_sys::VARHDRSZ), bytes.len());
        }
        pg_sys::Datum::from(start)
    }
}
