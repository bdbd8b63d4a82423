//! Exact amounts of metered features.
//!
//! An amount is a whole number of billionths, so sums and comparisons are exact and cost an integer operation. Amounts that
//! come from outside are below 10^18 with at most nine fraction digits: below 10^27 billionths.
//!
//! Why results fit: an amount from outside times any `u32` quantity is below 10^27 × 2^32 < 4.3 × 10^36, and `i128` ends at
//! 1.7 × 10^38. So every product is exact, and every sum of up to 39 of the greatest possible products is. A longer sum of
//! such amounts stops at the end of `i128`, which is 10^11 times more than any usage that can be recorded: it compares like
//! the exact sum with everything that exists, and never wraps.

use std::fmt;
use std::str::FromStr;

const FRACTION_DIGITS: usize = 9;
const INTEGER_DIGITS: i64 = 18;
const ONE: i128 = 10i128.pow(FRACTION_DIGITS as u32);
const LIMIT: i128 = 10i128.pow(INTEGER_DIGITS as u32) * ONE;

/// A non-negative number of units, in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i128);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("is not a number")]
    NotANumber,
    #[error("is negative")]
    Negative,
    #[error("is not below 10^18")]
    TooLarge,
    #[error("has more than nine fraction digits")]
    TooFine,
}

impl Amount {
    pub const ZERO: Self = Self(0);

    /// From a count of billionths, under the same limits as an amount read from text.
    pub fn from_nanos(nanos: i128) -> Result<Self, AmountError> {
        match nanos {
            ..0 => Err(AmountError::Negative),
            LIMIT.. => Err(AmountError::TooLarge),
            _ => Ok(Self(nanos)),
        }
    }

    /// The count of billionths.
    pub fn nanos(self) -> i128 {
        self.0
    }

    /// None when the sum does not fit in the representation.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn times(self, quantity: u32) -> Self {
        Self(self.0.saturating_mul(i128::from(quantity)))
    }
}

/// Reads what JSON numbers and PostgreSQL's `numeric` output look like. Digits are significant, not written: `1.50e1` and
/// `1.0000000000` are fine. `-0` is zero, as in `numeric`; `NaN` and `Infinity` are not numbers.
impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let literal = Literal::read(text).ok_or(AmountError::NotANumber)?;
        let written = || literal.integer.bytes().chain(literal.fraction.bytes());
        let count = literal.integer.len() + literal.fraction.len();
        let leading = written().take_while(|digit| *digit == b'0').count();
        if leading == count {
            return Ok(Self::ZERO);
        }
        if literal.negative {
            return Err(AmountError::Negative);
        }
        let trailing = written().rev().take_while(|digit| *digit == b'0').count();
        let significant = count - leading - trailing;
        // value = significant digits × 10^scale
        let scale = literal.exponent + trailing as i64 - literal.fraction.len() as i64;
        if significant as i64 + scale > INTEGER_DIGITS {
            return Err(AmountError::TooLarge);
        }
        if scale < -(FRACTION_DIGITS as i64) {
            return Err(AmountError::TooFine);
        }
        let digits =
            written().skip(leading).take(significant).fold(0i128, |number, digit| number * 10 + i128::from(digit - b'0'));
        Ok(Self(digits * 10i128.pow((scale + FRACTION_DIGITS as i64) as u32)))
    }
}

/// The parts of a number as JSON writes it.
struct Literal<'a> {
    negative: bool,
    integer: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Literal<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (integer, fraction) = match mantissa.split_once('.') {
            Some((integer, fraction)) if is_digits(fraction) => (integer, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let no_leading_zero = integer == "0" || !integer.starts_with('0');
        (is_digits(integer) && no_leading_zero).then_some(Self { negative, integer, fraction, exponent })
    }
}

/// An exponent beyond this is too large or too fine for any text that fits in memory; the bound keeps the sums in `i64`.
const GREATEST_EXPONENT: i64 = 1 << 60;

fn read_exponent(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    is_digits(digits).then(|| sign * digits.parse().unwrap_or(GREATEST_EXPONENT).min(GREATEST_EXPONENT))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The shortest decimal text: no exponent, no trailing zeros.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (integer, fraction) = (self.0 / ONE, self.0 % ONE);
        if fraction == 0 {
            return f.pad(&integer.to_string());
        }
        let digits = format!("{integer}.{fraction:0width$}", width = FRACTION_DIGITS);
        f.pad(digits.trim_end_matches('0'))
    }
}

/// How much of a metered feature: an amount, or no limit. Unlimited is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allowance {
    Finite(Amount),
    Unlimited,
}

impl Allowance {
    pub const ZERO: Self = Self::Finite(Amount::ZERO);

    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Finite(one), Self::Finite(two)) => Self::Finite(Amount(one.0.saturating_add(two.0))),
            _ => Self::Unlimited,
        }
    }

    /// No units of something unlimited are none of it.
    pub fn times(self, quantity: u32) -> Self {
        match self {
            Self::Finite(amount) => Self::Finite(amount.times(quantity)),
            Self::Unlimited if quantity == 0 => Self::ZERO,
            Self::Unlimited => Self::Unlimited,
        }
    }

    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finite(amount) => amount.fmt(f),
            Self::Unlimited => f.pad("unlimited"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn refused(text: &str) -> AmountError {
        text.parse::<Amount>().unwrap_err()
    }

    #[test]
    fn reads_decimal_and_exponent_notation() {
        for (text, canonical) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.000", "0"),
            ("-0.0e5", "0"),
            ("0e99999999999999999999", "0"),
            ("0.0e-99999999999999999999", "0"),
            ("1", "1"),
            ("10", "10"),
            ("1.50", "1.5"),
            ("1.0000000000", "1"),
            ("0.000000001", "0.000000001"),
            ("1e3", "1000"),
            ("1E+3", "1000"),
            ("1.5e1", "15"),
            ("1e-9", "0.000000001"),
            ("10e-10", "0.000000001"),
            ("1000000000000000000000e-4", "100000000000000000"),
            ("999999999999999999.999999999", "999999999999999999.999999999"),
            ("0.00000000000000000001e20", "1"),
        ] {
            assert_eq!(amount(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_number() {
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1e1.5",
            "e1",
            "NaN",
            "nan",
            "Infinity",
            "-Infinity",
            "0x10",
            "1_000",
            "1,5",
            "1.2.3",
            "--1",
            "007",
            "01.5",
            "१",
        ] {
            assert_eq!(refused(text), AmountError::NotANumber, "{text}");
        }
    }

    #[test]
    fn refuses_negative_too_large_and_too_fine() {
        assert_eq!(refused("-1"), AmountError::Negative);
        assert_eq!(refused("-0.0000000000001"), AmountError::Negative);
        assert_eq!(refused("1000000000000000000"), AmountError::TooLarge);
        assert_eq!(refused("1e18"), AmountError::TooLarge);
        assert_eq!(refused("1e99999999999999999999"), AmountError::TooLarge);
        assert_eq!(refused("0.0000000001"), AmountError::TooFine);
        assert_eq!(refused("1e-99999999999999999999"), AmountError::TooFine);
        assert_eq!(refused("1000000000000000000.0000000001"), AmountError::TooLarge);
    }

    #[test]
    fn counts_billionths_within_the_limits() {
        assert_eq!(Amount::from_nanos(1_500_000_000), Ok(amount("1.5")));
        assert_eq!(Amount::from_nanos(-1), Err(AmountError::Negative));
        assert_eq!(Amount::from_nanos(LIMIT), Err(AmountError::TooLarge));
        assert_eq!(Amount::from_nanos(LIMIT - 1), Ok(amount("999999999999999999.999999999")));
    }

    #[test]
    fn products_of_the_greatest_amount_are_exact_and_so_are_39_of_them_together() {
        let greatest = amount("999999999999999999.999999999");
        let product = greatest.times(u32::MAX);
        assert_eq!(product.nanos(), (LIMIT - 1) * i128::from(u32::MAX));
        let sum = (0..39).try_fold(Amount::ZERO, |sum, _| sum.checked_add(product));
        assert_eq!(sum.map(Amount::nanos), Some(product.nanos() * 39));
        assert_eq!(sum.and_then(|sum| sum.checked_add(product)), None);
        let longer = (0..100).fold(Allowance::ZERO, |sum, _| sum.plus(Allowance::Finite(product)));
        assert_eq!(longer, Allowance::Finite(Amount(i128::MAX)));
    }

    #[test]
    fn unlimited_is_the_greatest_and_absorbs() {
        let greatest = Allowance::Finite(Amount(i128::MAX));
        assert!(Allowance::Unlimited > greatest);
        assert_eq!(Allowance::Unlimited.plus(Allowance::ZERO), Allowance::Unlimited);
        assert_eq!(Allowance::ZERO.plus(Allowance::Unlimited), Allowance::Unlimited);
        assert_eq!(Allowance::Unlimited.times(3), Allowance::Unlimited);
        assert_eq!(Allowance::Unlimited.times(0), Allowance::ZERO);
        assert_eq!(Allowance::Unlimited.to_string(), "unlimited");
    }

    #[test]
    fn display_honours_width() {
        assert_eq!(format!("{:>6}|{:<4}|", amount("1.5"), amount("2")), "   1.5|2   |");
    }

    proptest! {
        #[test]
        fn display_reads_back(nanos in 0..LIMIT) {
            let amount = Amount::from_nanos(nanos).unwrap();
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }

        #[test]
        fn an_exponent_moves_the_point(digits in 0u64..1_000_000_000, exponent in -9i32..=9) {
            let expected = i128::from(digits) * 10i128.pow((exponent + 9) as u32);
            prop_assert_eq!(format!("{digits}e{exponent}").parse::<Amount>().map(Amount::nanos), Ok(expected));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Amount>();
        }

        #[test]
        fn almost_numbers_never_panic(text in "-?[0-9.]{0,30}(e[-+]?[0-9]{0,30})?") {
            let _ = text.parse::<Amount>();
        }

        #[test]
        fn sums_are_those_of_the_counts(one in 0..LIMIT, two in 0..LIMIT, quantity: u32) {
            let (a, b) = (Amount::from_nanos(one).unwrap(), Amount::from_nanos(two).unwrap());
            prop_assert_eq!(a.checked_add(b).map(Amount::nanos), Some(one + two));
            prop_assert_eq!(a.times(quantity).nanos(), one * i128::from(quantity));
            prop_assert_eq!(Allowance::Finite(a).plus(Allowance::Finite(b)), Allowance::Finite(Amount(one + two)));
        }
    }
}
