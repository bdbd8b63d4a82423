//! The bytes of a numeric, after its length word, as numeric.c lays them out: a header with sign and weight, then digits to the
//! base of 10,000, the first of which counts 10,000 to the power of the weight.

use entitlements_model::amount::{Allowance, Amount};

/// The header of a numeric with sign, weight and number of decimals in one word.
const SHORT: u16 = 0x8000;

/// All of the numeric Infinity.
pub const POSITIVE_INFINITY: u16 = 0xD000;

/// What a numeric is as an allowance; None for what is none.
#[inline]
pub fn read(bytes: &[u8]) -> Option<Allowance> {
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

/// Digits to the base of 10,000 that a number of billionths may have before the point and after it.
const MOST_WHOLE_DIGITS: usize = 8;
const MOST_FRACTION_DIGITS: usize = 3;

/// Bytes that the numeric of an amount has at most.
pub const MOST_BYTES: usize = 2 * (1 + MOST_WHOLE_DIGITS + MOST_FRACTION_DIGITS);

/// What `read` reads, in the short form, and its length. As numeric_in makes it: without zeros at either end, and
/// with as many decimals to show as there are.
#[inline]
pub fn bytes_of(billionths: i128) -> ([u8; MOST_BYTES], usize) {
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

    let mut bytes = [0; MOST_BYTES];
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As numeric_send gives them: header and digits; `SELECT numeric_send(…)` has weight, sign and decimals apart.
    fn words(billionths: i128) -> Vec<u16> {
        let (bytes, length) = bytes_of(billionths);
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

    proptest! {
        #[test]
        fn any_amount_is_read_as_it_was_made(billionths in 0..10i128.pow(27)) {
            let (bytes, length) = bytes_of(billionths);
            prop_assert_eq!(read(&bytes[..length]), Amount::from_nanos(billionths).ok().map(Allowance::Finite));
        }
    }

    #[test]
    fn what_is_no_allowance_is_not_read() {
        const NOT_A_NUMBER: u16 = 0xC000;
        const NEGATIVE_INFINITY: u16 = 0xF000;
        let (minus_one, length) = bytes_of(-1_000_000_000);
        assert_eq!(read(&minus_one[..length]), None);
        assert_eq!(read(&NOT_A_NUMBER.to_ne_bytes()), None);
        assert_eq!(read(&NEGATIVE_INFINITY.to_ne_bytes()), None);
        assert_eq!(read(&POSITIVE_INFINITY.to_ne_bytes()), Some(Allowance::Unlimited));
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn numerics_are_read_as_they_were_made() {
        let mut billionths = 1i128;
        while billionths < 10i128.pow(27) {
            for number in [billionths - 1, billionths, billionths + 1, 3 * billionths / 7] {
                let (bytes, length) = bytes_of(number);
                let expected = Amount::from_nanos(number).expect("an amount");
                assert_eq!(read(&bytes[..length]), Some(Allowance::Finite(expected)), "{number}");
            }
            billionths *= 10;
        }
    }
}
