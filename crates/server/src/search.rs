//! Looking for a place among ordered entries of a page that are far from the processor: as few of them as possible are looked at.
//!
//! The page's neighbours tell between which values its entries lie. If these are spread evenly, it can be told about how far into the
//! page a value comes, and only entries near there are looked at (interpolation search; Peterson, 1957). Where they are not, steps that
//! double reach the place, which takes up to twice as many looks as halving the whole (Bentley and Yao, 1976).

use std::ops::Range;

/// A part of a whole, of 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    pub const NONE: Self = Self(0.0);

    /// How far a number lies on the way from one to another.
    pub fn between(lower: i64, number: i64, upper: i64) -> Self {
        let (way, whole) = (number.saturating_sub(lower), upper.saturating_sub(lower));
        Self((way as f64 / whole.max(1) as f64).clamp(0.0, 1.0))
    }

    /// How far a text lies on the way from one to another, where all texts between are as likely. Most keys count in decimals, or are
    /// written with hexadecimal digits, or with digits and letters.
    pub fn between_texts(lower: &[u8], text: &[u8], upper: &[u8]) -> Self {
        /// So many characters decide.
        const CHARACTERS: usize = 6;
        let common = lower.iter().zip(upper).take_while(|(lower, upper)| lower == upper).count();
        let digit = |character: &u8| match character {
            b'0'..=b'9' => character - b'0',
            b'A'..=b'Z' => character - b'A' + 10,
            b'a'..=b'z' => character - b'a' + 10,
            _ => 0,
        };
        let base = match [text, upper].into_iter().flat_map(|text| text.iter().skip(common)).map(digit).max() {
            Some(..10) => 10,
            Some(10..16) => 16,
            _ => 36,
        };
        let number = |text: &[u8]| {
            let digits = text.iter().skip(common).map(digit).chain(std::iter::repeat(0)).take(CHARACTERS);
            digits.fold(0, |sum, digit| sum * base + i64::from(digit))
        };
        Self::between(number(lower), number(text), number(upper))
    }

    /// Below the number, unless that is 0.
    pub fn of(self, number: u16) -> u16 {
        ((self.0 * f64::from(number)) as u16).min(number.saturating_sub(1))
    }
}

/// The first of the places whose entry does not come before what is looked for, which the first ones do and the others do not; their
/// end where all do. With a share, that many of them do, about. `fetch` is told of places that are looked at next, perhaps.
#[inline(always)]
pub fn first_not(places: Range<u16>, share: Option<Share>, fetch: impl Fn(u16), comes_before: impl Fn(u16) -> bool) -> u16 {
    let Range { start: mut from, end: mut to } = places;
    if let Some(share) = share
        && from < to
    {
        // In steps that double away from there, until the place lies between two of them.
        let (guess, mut step) = (from + share.of(to - from), 1);
        if comes_before(guess) {
            from = guess + 1;
            while to - from > step && comes_before(from + step) {
                (from, step) = (from + step + 1, step * 2);
            }
            to = to.min(from + step);
        } else {
            to = guess;
            while to - from > step && !comes_before(to - step) {
                (to, step) = (to - step, step * 2);
            }
            from = from.max(to.saturating_sub(step));
        }
    }
    while from < to {
        let middle = from + (to - from) / 2;
        // Either of the two that may be looked at next is on its way while this one is compared.
        let (lower, upper) = (from + (middle - from) / 2, middle + 1 + (to - middle - 1) / 2);
        if lower < middle {
            fetch(lower);
        }
        if upper < to {
            fetch(upper);
        }
        if comes_before(middle) { from = middle + 1 } else { to = middle }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    fn share() -> impl Strategy<Value = Option<Share>> {
        proptest::option::of((0.0..=1.0).prop_map(Share))
    }

    /// The place, and how many entries were looked at.
    fn look(places: Range<u16>, share: Option<Share>, first: u16) -> (u16, usize) {
        let looks = Cell::new(0);
        let fetch = |place| assert!(places.contains(&place));
        let found = first_not(places.clone(), share, fetch, |place| {
            assert!(places.contains(&place));
            looks.set(looks.get() + 1);
            place < first
        });
        (found, looks.get())
    }

    proptest! {
        #[test]
        fn the_place_is_found_whatever_was_guessed(start in 0..3u16, count in 0..2000u16, first in 0..2000u16, share in share()) {
            let first = start + first.min(count);
            let (found, looks) = look(start..start + count, share, first);
            prop_assert_eq!(found, first);
            prop_assert!(looks <= 2 * (u16::BITS - count.leading_zeros()) as usize + 2, "{} looks", looks);
        }

        #[test]
        fn near_the_guess_few_are_looked_at(count in 10..2000u16, guess in 0.0..=1.0, off in -1..=1i32) {
            let share = Share(guess);
            let first = (i32::from(share.of(count)) + off).clamp(0, i32::from(count)) as u16;
            let (found, looks) = look(0..count, Some(share), first);
            prop_assert_eq!(found, first);
            prop_assert!(looks <= 4, "{} looks", looks);
        }

        #[test]
        fn numbers_are_guessed_where_they_are(lower in -1000..1000i64, count in 1..2000u16, place in 0..2000u16, gap in 1..1000i64) {
            let place = place % count;
            let upper = lower + i64::from(count) * gap;
            let guess = Share::between(lower, lower + i64::from(place) * gap, upper).of(count);
            prop_assert!(guess.abs_diff(place) <= 1, "{} for {}", guess, place);
        }

        #[test]
        fn shares_are_parts(numbers: [i64; 3], texts: [Vec<u8>; 3], number: u16) {
            let [lower, text, upper] = &texts;
            for share in [Share::between(numbers[0], numbers[1], numbers[2]), Share::between_texts(lower, text, upper)] {
                prop_assert!((0.0..=1.0).contains(&share.0));
                prop_assert!(share.of(number) < number.max(1));
            }
        }

        /// The order of the texts, not of what they stand for.
        #[test]
        fn decimals_are_guessed_where_they_are(from in 100_000..800_000u32, count in 2..300u32, place in 0..300u32) {
            near(from, count, place, |number| format!("account-{number}"))?;
        }

        #[test]
        fn hexadecimals_are_guessed_where_they_are(from in 0x1000..0xF0000u32, count in 2..300u32, place in 0..300u32) {
            near(from, count, place, |number| format!("{number:06x}-93d1-11ee"))?;
        }
    }

    fn near(from: u32, count: u32, place: u32, name: impl Fn(u32) -> String) -> Result<(), TestCaseError> {
        let place = place % count;
        let [lower, text, upper] = [from, from + place, from + count].map(name);
        let guess = Share::between_texts(lower.as_bytes(), text.as_bytes(), upper.as_bytes()).of(count as u16);
        prop_assert!(u32::from(guess).abs_diff(place) <= count / 8 + 1, "{} for {} of {}", guess, place, count);
        Ok(())
    }
}
