//! Instants, in the representation PostgreSQL stores: `timestamptz` is a count of microseconds with two infinite ends.
//!
//! The ends are ordinary greatest and least integers, so comparing instants needs no special case for `infinity`.

/// Microseconds since 2000-01-01 00:00:00 UTC.
pub type Time = i64;

/// `infinity`: the end of a range that has no end.
pub const FOREVER: Time = i64::MAX;

/// `-infinity`: the start of a range that has no start.
pub const BEGINNING: Time = i64::MIN;

/// The instant that a text of RFC 3339 names, as JSON documents have it: `2026-03-01T12:00:00.5Z`, `2026-03-01 12:00:00+01:00`.
/// Digits beyond a microsecond are cut off; a leap second is the second after. None for any other text.
pub fn from_rfc3339(text: &str) -> Option<Time> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        bytes
            .get(range)?
            .iter()
            .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
    };
    let is = |place: usize, marks: &[u8]| bytes.get(place).is_some_and(|byte| marks.contains(byte));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let days = day_number(year, month, day)?;
    if !separated || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut end = 19;
    let mut micros = 0;
    if is(end, b".") {
        let digits = bytes[end + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let counted = digits.min(6);
        micros = number(end + 1..end + 1 + counted)? * 10i64.pow(6 - counted as u32);
        end += 1 + digits;
    }
    let offset = match bytes.get(end)? {
        b'Z' | b'z' if bytes.len() == end + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == end + 6 && is(end + 3, b":") => {
            let (hours, minutes) = (number(end + 1..end + 3)?, number(end + 4..end + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    Some(seconds * 1_000_000 + micros)
}

/// Days from 2000-01-01 to a date of the Gregorian calendar. None if there is no such date.
fn day_number(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years from March on, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = before + (month * 153 + 2) / 5 + day - 1;
    // 2000-01-01 by the same count.
    Some(days - 730_425)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;

    const UNIX_EPOCH_SECONDS: i64 = -946_684_800;

    fn naive(text: &str) -> Option<Time> {
        let at: Timestamp = text.parse().ok()?;
        Some(at.as_nanosecond().div_euclid(1000) as i64 + UNIX_EPOCH_SECONDS * 1_000_000)
    }

    #[test]
    fn reads_rfc_3339() {
        for (text, expected) in [
            ("2000-01-01T00:00:00Z", Some(0)),
            ("2000-01-01 00:00:00.000001+00:00", Some(1)),
            ("1999-12-31t23:59:59.9999999z", Some(-1)),
            ("2000-01-01T01:00:00+01:00", Some(0)),
            ("1999-12-31T23:30:00-00:30", Some(0)),
            ("2000-02-29T00:00:00Z", Some(59 * 86_400_000_000)),
            ("2001-02-29T00:00:00Z", None),
            ("2000-01-01T00:00:00", None),
            ("2000-01-01T00:00:00+01", None),
            ("2000-01-01T00:00:00.Z", None),
            ("2000-01-01T24:00:00Z", None),
            ("2000-13-01T00:00:00Z", None),
            ("2000-00-01T00:00:00Z", None),
            ("2000-01-00T00:00:00Z", None),
            ("2000-01-01T00:00:00Zx", None),
            ("2000-01-01", None),
            ("infinity", None),
            ("", None),
            ("２000-01-01T00:00:00Z", None),
        ] {
            assert_eq!(from_rfc3339(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_library(
            year in 1i64..=9998, month in 1i64..=12, day in 1i64..=31, hour in 0i64..24, minute in 0i64..60, second in 0i64..60,
            micros in 0i64..1_000_000, offset in -1439i64..=1439,
        ) {
            let sign = if offset < 0 { '-' } else { '+' };
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}{sign}{:02}:{:02}",
                offset.abs() / 60, offset.abs() % 60,
            );
            prop_assert_eq!(from_rfc3339(&text), naive(&text), "{}", text);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            from_rfc3339(&text);
        }
    }
}
