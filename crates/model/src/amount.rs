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

/// As far as digits of an amount reach.
const POWERS_OF_TEN: [i128; FRACTION_DIGITS + INTEGER_DIGITS as usize + 1] = {
    let mut powers = [1; FRACTION_DIGITS + INTEGER_DIGITS as usize + 1];
    let mut exponent = 1;
    while exponent < powers.len() {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

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
    pub const ONE: Self = Self(ONE);
    /// The least amount above zero.
    pub const LEAST: Self = Self(1);

    /// From a count of billionths, under the same limits as an amount read from text.
    pub fn from_nanos(nanos: i128) -> Result<Self, AmountError> {
        match nanos {
            ..0 => Err(AmountError::Negative),
            LIMIT.. => Err(AmountError::TooLarge),
            _ => Ok(Self(nanos)),
        }
    }

    /// From a count of billionths that is the result of a calculation and so need not keep to those limits.
    pub fn calculated(nanos: i128) -> Self {
        debug_assert!(nanos >= 0);
        Self(nanos)
    }

    /// From digits to the base of 10,000, the first of which counts 10,000 to the power of `weight`: PostgreSQL's `numeric`.
    pub fn from_ten_thousands(weight: i32, digits: impl Iterator<Item = u16>) -> Result<Self, AmountError> {
        let mut nanos = 0i128;
        for (place, digit) in (0..).zip(digits).filter(|(_, digit)| *digit != 0) {
            let (digit, exponent) = (i128::from(digit), 4 * (weight - place) + FRACTION_DIGITS as i32);
            let power = POWERS_OF_TEN.get(exponent.unsigned_abs() as usize);
            nanos += match power {
                Some(power) if exponent >= 0 => digit * power,
                Some(power) if digit % power == 0 => digit / power,
                _ if exponent >= 0 => return Err(AmountError::TooLarge),
                _ => return Err(AmountError::TooFine),
            };
        }
        Self::from_nanos(nanos)
    }

    /// The count of billionths.
    pub fn nanos(self) -> i128 {
        self.0
    }

    /// None when the sum does not fit in the representation.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Zero when the other is greater.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0))
    }

    pub fn times(self, quantity: u32) -> Self {
        Self(self.0.saturating_mul(i128::from(quantity)))
    }

    /// Whether it is a number of whole units.
    pub fn is_whole(self) -> bool {
        self.0 % ONE == 0
    }

    /// Without the fraction of a unit.
    pub fn floor(self) -> Self {
        Self(self.0 - self.0 % ONE)
    }

    /// One of `count` equal parts, rounded down. The count is above zero.
    pub fn part(self, count: usize) -> Self {
        Self(self.0 / count as i128)
    }

    pub fn scaled_down(self, factor: Self) -> Self {
        self.scaled(factor).0
    }

    pub fn scaled_up(self, factor: Self) -> Self {
        let (product, exact) = self.scaled(factor);
        if exact { product } else { product.saturating_add(Self::LEAST) }
    }

    /// How many times a divisor above zero fits, rounded down to a billionth; the greatest amount where that does not fit.
    pub fn divided_down(self, divisor: Self) -> Self {
        if divisor == Self::ONE {
            return self;
        }
        let (whole, rest) = (self.0 / divisor.0, self.0 % divisor.0);
        // The rest is below the divisor, which comes from outside: the product fits.
        let fraction = rest.saturating_mul(ONE) / divisor.0;
        Self(whole.saturating_mul(ONE).saturating_add(fraction))
    }

    /// The product rounded down, and whether that is all of it. Units and fractions apart, since the product of the counts of
    /// billionths need not fit where that of the amounts does.
    fn scaled(self, factor: Self) -> (Self, bool) {
        let (units, fraction) = (self.0 / ONE, self.0 % ONE);
        let fractions = fraction * (factor.0 % ONE);
        let product = units.saturating_mul(factor.0).saturating_add(fraction * (factor.0 / ONE));
        (Self(product.saturating_add(fractions / ONE)), fractions % ONE == 0)
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

    /// What is left when an amount is taken; zero when that is more than there is.
    pub fn minus(self, amount: Amount) -> Self {
        match self {
            Self::Finite(all) => Self::Finite(all.saturating_sub(amount)),
            Self::Unlimited => Self::Unlimited,
        }
    }

    /// Whether the amount is within the allowance.
    pub fn covers(self, amount: Amount) -> bool {
        Self::Finite(amount) <= self
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
    fn digits_to_the_base_of_ten_thousand() {
        let read = |weight, digits: &[u16]| Amount::from_ten_thousands(weight, digits.iter().copied());
        for (weight, digits, text) in [
            (0, &[][..], "0"),
            (0, &[1], "1"),
            (1, &[1], "10000"),
            (1, &[1, 2345], "12345"),
            (0, &[1, 5000], "1.5"),
            (-3, &[1000], "0.000000001"),
            (-1, &[1234, 5678, 9000], "0.123456789"),
            (4, &[99, 9999, 9999, 9999, 9999, 9999, 9999, 9000], "999999999999999999.999999999"),
        ] {
            assert_eq!(read(weight, digits), Ok(amount(text)), "{text}");
        }
        assert_eq!(read(-3, &[100]), Err(AmountError::TooFine));
        assert_eq!(read(-40, &[1]), Err(AmountError::TooFine));
        assert_eq!(read(4, &[100]), Err(AmountError::TooLarge));
        assert_eq!(read(1000, &[1]), Err(AmountError::TooLarge));
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
    fn a_difference_ends_at_zero_and_a_sum_at_the_greatest_amount() {
        assert_eq!(amount("2.5").saturating_sub(amount("1")), amount("1.5"));
        assert_eq!(amount("1").saturating_sub(amount("1.5")), Amount::ZERO);
        assert_eq!(Amount(i128::MAX).saturating_sub(Amount::LEAST).saturating_add(amount("1")), Amount(i128::MAX));
    }

    #[test]
    fn whole_units() {
        assert!(amount("3").is_whole() && !amount("3.000000001").is_whole());
        assert_eq!(amount("3.999999999").floor(), amount("3"));
        assert_eq!(amount("10").part(3), amount("3.333333333"));
    }

    #[test]
    fn a_product_is_rounded_the_way_that_is_asked_for() {
        let third = amount("0.333333333");
        assert_eq!(third.scaled_down(amount("0.5")), amount("0.166666666"));
        assert_eq!(third.scaled_up(amount("0.5")), amount("0.166666667"));
        assert_eq!(amount("1000").scaled_down(amount("0.8")), amount("800"));
        assert_eq!(amount("1000").scaled_up(amount("0.8")), amount("800"));
        let greatest = amount("999999999999999999.999999999");
        assert_eq!(greatest.scaled_up(Amount::ONE), greatest);
        assert_eq!(Amount(i128::MAX).scaled_up(Amount::ONE), Amount(i128::MAX));
        assert_eq!(greatest.scaled_down(amount("1e10")), Amount((LIMIT - 1) * 10i128.pow(10)));
        assert_eq!(greatest.scaled_down(greatest), Amount(i128::MAX));
        assert_eq!(Amount(i128::MAX).scaled_up(Amount(i128::MAX)), Amount(i128::MAX));
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
            prop_assert_eq!(a.saturating_sub(b).nanos(), (one - two).max(0));
            prop_assert_eq!(Allowance::Finite(a).plus(Allowance::Finite(b)), Allowance::Finite(Amount(one + two)));
        }

        #[test]
        fn products_are_those_of_the_counts(one in 0..LIMIT, two in 0..i128::MAX / LIMIT - 1) {
            let (a, b) = (Amount(one), Amount(two));
            prop_assert_eq!(a.scaled_down(b), Amount(one * two / ONE));
            prop_assert_eq!(a.scaled_up(b), Amount((one * two + ONE - 1) / ONE));
            prop_assert_eq!(b.scaled_up(a), a.scaled_up(b));
        }
    }
}
