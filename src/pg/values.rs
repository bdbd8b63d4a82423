//! Reading and making values of SQL types without the allocations of the general conversions.

use entitlements_model::amount::{Allowance, Amount, AmountError};
use entitlements_server::numeric;
use pgrx::{AnyNumeric, FromDatum, IntoDatum, pg_sys};
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
    // SAFETY: by contract.
    read(unsafe { text_bytes(datum) })
}

/// The bytes of a varlena value: in place, or in the current memory context where it is compressed or stored elsewhere.
///
/// # Safety
/// `datum` is a valid, non-NULL value of a varlena type such as text. It and the current memory context outlive the bytes.
#[inline(always)]
pub(super) unsafe fn text_bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: by contract.
    unsafe {
        plain_text(datum).unwrap_or_else(|| {
            let value = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            std::slice::from_raw_parts(pgrx::vardata_any(value).cast(), pgrx::varsize_any_exhdr(value))
        })
    }
}

/// A numeric that constraints keep within what amounts can be; Infinity is unlimited.
///
/// # Safety
/// `datum` is a valid, non-NULL numeric.
pub(super) unsafe fn allowance(datum: pg_sys::Datum) -> Allowance {
    // SAFETY: a numeric is a varlena.
    unsafe { with_text(datum, numeric::read) }.expect("amounts were checked when they were written")
}

/// A numeric that somebody gives for an amount.
///
/// # Safety
/// `datum` is a valid, non-NULL numeric.
pub(super) unsafe fn numeric_amount(datum: pg_sys::Datum) -> Result<Amount, AmountError> {
    // SAFETY: a numeric is a varlena, and printed by its output function.
    unsafe {
        match with_text(datum, numeric::read) {
            Some(Allowance::Finite(amount)) => Ok(amount),
            // What is wrong with it shows best as it is written.
            Some(Allowance::Unlimited) | None => printed(pg_sys::numeric_out, datum).parse(),
        }
    }
}

/// # Safety
/// `datum` is a valid, non-NULL numeric[].
pub(super) unsafe fn amounts(datum: pg_sys::Datum) -> Vec<Amount> {
    // SAFETY: by contract an array of numerics.
    let elements = unsafe { pgrx::Array::<AnyNumeric>::from_polymorphic_datum(datum, false, pg_sys::NUMERICARRAYOID) };
    elements
        .into_iter()
        .flat_map(|array| array.iter().flatten().filter_map(|number| number.to_string().parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A numeric of so many billionths, in the current memory context.
pub(super) fn billionths_datum(billionths: i128) -> pg_sys::Datum {
    let (bytes, length) = numeric::bytes_of(billionths);
    numeric_datum(&bytes[..length])
}

/// A numeric, where unlimited is Infinity, in the current memory context.
pub(super) fn allowance_datum(allowance: Allowance) -> pg_sys::Datum {
    match allowance {
        Allowance::Finite(amount) => billionths_datum(amount.nanos()),
        Allowance::Unlimited => numeric_datum(&numeric::POSITIVE_INFINITY.to_ne_bytes()),
    }
}

/// A numeric of these bytes after its length word.
fn numeric_datum(bytes: &[u8]) -> pg_sys::Datum {
    let size = pg_sys::VARHDRSZ + bytes.len();
    // SAFETY: room for a 4-byte header and the bytes.
    unsafe {
        let value = pg_sys::palloc(size);
        pgrx::set_varsize_4b(value.cast(), size as i32);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast::<u8>().add(pg_sys::VARHDRSZ), bytes.len());
        pg_sys::Datum::from(value)
    }
}

/// A text in the current memory context.
pub(super) fn text_datum(text: &str) -> pg_sys::Datum {
    text.into_datum().expect("a text is no NULL")
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
        self.words.clear();
        push_varlena(&mut self.words, bytes);
        pg_sys::Datum::from(self.words.as_ptr())
    }
}

/// Adds a varlena that holds `bytes`, in whole words.
pub(super) fn push_varlena(words: &mut Vec<u32>, bytes: &[u8]) {
    let (at, size) = (words.len(), pg_sys::VARHDRSZ + bytes.len());
    words.resize(at + size.div_ceil(size_of::<u32>()), 0);
    let start = words[at..].as_mut_ptr();
    // SAFETY: the memory is aligned for, and holds, a 4-byte header and the bytes.
    unsafe {
        pgrx::set_varsize_4b(start.cast(), size as i32);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast::<u8>().add(pg_sys::VARHDRSZ), bytes.len());
    }
}
