//! Reading and making values of SQL types without the allocations of the general conversions.

use entitlements_model::amount::{Allowance, Amount, AmountError};
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
    unsafe { with_text(datum, read_numeric) }.expect("amounts were checked when they were written")
}

/// A numeric that somebody gives for an amount.
///
/// # Safety
/// `datum` is a valid, non-NULL numeric.
pub(super) unsafe fn numeric_amount(datum: pg_sys::Datum) -> Result<Amount, AmountError> {
    // SAFETY: a numeric is a varlena, and printed by its output function.
    unsafe {
        match with_text(datum, read_numeric) {
            Some(Allowance::Finite(amount)) => Ok(amount),
            // What is wrong with it shows best as it is written.
            Some(Allowance::Unlimited) | None => printed(pg_sys::numeric_out, datum).parse(),
        }
    }
}

/// The header of a numeric with sign, weight and number of decimals in one word.
const SHORT: u16 = 0x8000;

/// All of the numeric Infinity.
const POSITIVE_INFINITY: u16 = 0xD000;

/// The bytes of a numeric after its length word, as numeric.c lays them out: a header with sign and weight, then digits to the
/// base of 10,000, the first of which counts 10,000 to the power of the weight. None for what is no allowance.
fn read_numeric(bytes: &[u8]) -> Option<Allowance> {
    const SPECIAL: u16 = 0xC000;
    let word = |at: usize| bytes.get(at..at + 2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    let header = word(0)?;
    let (negative, weight, digits) = match header & SPECIAL {
        SPECIAL => return (header & 0xF000 == POSITIVE_INFINITY).then_some(Allowance::Unlimited),
        // Weight in seven bits, the highest of which is its sign.
        SHORT => (header & 0x2000 != 0, i32::from(header & 0x3F) - i32::from(header & 0x40), 2),
        sign => (sign != 0, i32::from(word(2)? as i16), 4),
    };
    if negative {
        return None;
    }
    let digits = (digits..bytes.len()).step_by(2).map_while(word);
    Amount::from_ten_thousands(weight, digits).ok().map(Allowance::Finite)
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
    let (bytes, length) = numeric_bytes(billionths);
    numeric_datum(&bytes[..length])
}

/// A numeric, where unlimited is Infinity, in the current memory context.
pub(super) fn allowance_datum(allowance: Allowance) -> pg_sys::Datum {
    match allowance {
        Allowance::Finite(amount) => billionths_datum(amount.nanos()),
        Allowance::Unlimited => numeric_datum(&POSITIVE_INFINITY.to_ne_bytes()),
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

/// Digits to the base of 10,000 that a number of billionths may have before the point and after it.
const MOST_WHOLE_DIGITS: usize = 8;
const MOST_FRACTION_DIGITS: usize = 3;

const MOST_NUMERIC_BYTES: usize = 2 * (1 + MOST_WHOLE_DIGITS + MOST_FRACTION_DIGITS);

/// What `read_numeric` reads, in numeric.c's short form, and its length. As numeric_in makes it: without zeros at either end, and
/// with as many decimals to show as there are.
pub(super) fn numeric_bytes(billionths: i128) -> ([u8; MOST_NUMERIC_BYTES], usize) {
    const ONE: u128 = 1_000_000_000;
    const NEGATIVE: u16 = 0x2000;
    let mut whole = billionths.unsigned_abs() / ONE;
    let fraction = (billionths.unsigned_abs() - whole * ONE) as u32;
    let mut digits = [0u16; MOST_WHOLE_DIGITS + MOST_FRACTION_DIGITS];
    let mut place = MOST_WHOLE_DIGITS;
    while whole > 0 {
        place -= 1;
        let higher = whole / 10_000;
        digits[place] = (whole - higher * 10_000) as u16;
        whole = higher;
    }
    // Nine decimals are two digits and a quarter.
    digits[MOST_WHOLE_DIGITS] = (fraction / 100_000) as u16;
    digits[MOST_WHOLE_DIGITS + 1] = (fraction / 10 % 10_000) as u16;
    digits[MOST_WHOLE_DIGITS + 2] = (fraction % 10 * 1000) as u16;

    let first = digits.iter().position(|digit| *digit != 0);
    let used = first.map_or(&digits[..0], |first| {
        let last = digits.iter().rposition(|digit| *digit != 0).unwrap_or(first);
        &digits[first..=last]
    });
    let weight = first.map_or(0, |first| MOST_WHOLE_DIGITS as i16 - 1 - first as i16);
    let decimals = if fraction == 0 { 0 } else { 9 - trailing_zeros(fraction) };
    let sign = if billionths < 0 { NEGATIVE } else { 0 };
    let header = SHORT | sign | (decimals << 7) | (weight as u16 & 0x7F);

    let mut bytes = [0; MOST_NUMERIC_BYTES];
    let words = std::iter::once(&header).chain(used);
    bytes.chunks_exact_mut(2).zip(words).for_each(|(place, word)| place.copy_from_slice(&word.to_ne_bytes()));
    (bytes, 2 * (1 + used.len()))
}

/// Decimal zeros at the end of a number that is not zero.
fn trailing_zeros(number: u32) -> u16 {
    let (mut rest, mut zeros) = (number, 0);
    while rest % 10 == 0 {
        rest /= 10;
        zeros += 1;
    }
    zeros
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

#[cfg(test)]
mod tests {
    use super::{numeric_bytes, read_numeric};
    use entitlements_model::amount::{Allowance, Amount};

    /// As numeric_send gives them: header and digits; `SELECT numeric_send(…)` has weight, sign and decimals apart.
    fn words(billionths: i128) -> Vec<u16> {
        let (bytes, length) = numeric_bytes(billionths);
        bytes[..length].chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn numerics_are_laid_out_as_the_server_does() {
        let one = 1_000_000_000;
        assert_eq!(words(0), [0x8000]);
        assert_eq!(words(one), [0x8000, 1]);
        assert_eq!(words(-one), [0xA000, 1]);
        assert_eq!(words(10_000 * one), [0x8001, 1]);
        assert_eq!(words(10_001 * one), [0x8001, 1, 1]);
        assert_eq!(words(one + one / 2), [0x8080, 1, 5000]);
        assert_eq!(words(1), [0x84FD, 1000]);
    }

    #[test]
    fn numerics_are_read_as_they_were_made() {
        let mut billionths = 1i128;
        while billionths < 10i128.pow(27) {
            for number in [billionths - 1, billionths, billionths + 1, 3 * billionths / 7] {
                let (bytes, length) = numeric_bytes(number);
                let expected = Amount::from_nanos(number).expect("an amount");
                assert_eq!(read_numeric(&bytes[..length]), Some(Allowance::Finite(expected)), "{number}");
            }
            billionths *= 10;
        }
    }
}
