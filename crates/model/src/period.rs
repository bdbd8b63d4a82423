//! The period of a quota or rate: how long one window lasts.
//!
//! Kept as PostgreSQL keeps an interval, in months, days and microseconds, since a month is no
//! number of days and a day no number of hours. Always positive; no part is negative.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period {
    months: i32,
    days: i32,
    micros: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    #[error("is not a period; write a whole number and a unit, such as \"1 month\" or \"12 hours\"")]
    NotAPeriod,
    #[error("is shorter than a second")]
    TooShort,
    #[error("is longer than 1000 years")]
    TooLong,
}

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// 1000 years in each part.
const MAX_MONTHS: i64 = 12_000;
const MAX_DAYS: i64 = 366_000;
const MAX_MICROS: i64 = MAX_DAYS * 24 * HOUR;

impl Period {
    /// From the parts of an interval; microseconds are of a day's time.
    pub fn new(months: i64, days: i64, micros: i64) -> Result<Period, PeriodError> {
        if months < 0 || days < 0 || micros < 0 {
            return Err(PeriodError::NotAPeriod);
        }
        if months > MAX_MONTHS || days > MAX_DAYS || micros > MAX_MICROS {
            return Err(PeriodError::TooLong);
        }
        if months == 0 && days == 0 && micros < SECOND {
            return Err(PeriodError::TooShort);
        }
        Ok(Period { months: months as i32, days: days as i32, micros })
    }

    pub fn months(self) -> i32 {
        self.months
    }

    pub fn days(self) -> i32 {
        self.days
    }

    pub fn micros(self) -> i64 {
        self.micros
    }
}

/// The parts of an interval while it is read; sums that overflow are too long.
#[derive(Default)]
struct Parts {
    months: i64,
    days: i64,
    micros: i64,
}

impl Parts {
    fn add(part: &mut i64, count: i64, unit: i64) -> Result<(), PeriodError> {
        *part = count.checked_mul(unit).and_then(|amount| part.checked_add(amount)).ok_or(PeriodError::TooLong)?;
        Ok(())
    }

    fn add_named(&mut self, count: i64, unit: &str) -> Result<(), PeriodError> {
        match unit {
            "year" | "years" | "yr" | "yrs" => Parts::add(&mut self.months, count, 12),
            "month" | "months" | "mon" | "mons" => Parts::add(&mut self.months, count, 1),
            "week" | "weeks" => Parts::add(&mut self.days, count, 7),
            "day" | "days" => Parts::add(&mut self.days, count, 1),
            "hour" | "hours" | "hr" | "hrs" => Parts::add(&mut self.micros, count, HOUR),
            "minute" | "minutes" | "min" | "mins" => Parts::add(&mut self.micros, count, MINUTE),
            "second" | "seconds" | "sec" | "secs" => Parts::add(&mut self.micros, count, SECOND),
            "millisecond" | "milliseconds" => Parts::add(&mut self.micros, count, 1_000),
            "microsecond" | "microseconds" => Parts::add(&mut self.micros, count, 1),
            _ => Err(PeriodError::NotAPeriod),
        }
    }

    /// `hh:mm` or `hh:mm:ss` with up to six fraction digits, as PostgreSQL prints a time part.
    fn add_clock(&mut self, clock: &str) -> Result<(), PeriodError> {
        let mut fields = clock.split(':');
        let hours = count(fields.next().unwrap_or_default())?;
        let minutes = count(fields.next().unwrap_or_default())?;
        let (seconds, fraction) = match fields.next() {
            Some(seconds) => seconds.split_once('.').unwrap_or((seconds, "0")),
            None => ("0", "0"),
        };
        let seconds = count(seconds)?;
        if fields.next().is_some() || minutes > 59 || seconds > 59 || fraction.len() > 6 {
            return Err(PeriodError::NotAPeriod);
        }
        let micros = count(fraction)? * 10_i64.pow(6 - fraction.len() as u32);
        Parts::add(&mut self.micros, hours, HOUR)?;
        Parts::add(&mut self.micros, minutes * MINUTE + seconds * SECOND + micros, 1)
    }

    /// ISO 8601 duration after its `P`: units in order, each at most once.
    fn add_iso(&mut self, duration: &str) -> Result<(), PeriodError> {
        let (date, time) = match duration.split_once('t') {
            Some((_, "")) => return Err(PeriodError::NotAPeriod),
            Some((date, time)) => (date, time),
            None => (duration, ""),
        };
        for (mut rest, units) in [
            (date, &[('y', "years"), ('m', "months"), ('w', "weeks"), ('d', "days")][..]),
            (time, &[('h', "hours"), ('m', "minutes"), ('s', "seconds")][..]),
        ] {
            for (letter, unit) in units {
                if let Some((number, after)) = rest.split_once(*letter)
                    && number.bytes().all(|b| b.is_ascii_digit())
                {
                    self.add_named(count(number)?, unit)?;
                    rest = after;
                }
            }
            if !rest.is_empty() {
                return Err(PeriodError::NotAPeriod);
            }
        }
        Ok(())
    }
}

fn count(digits: &str) -> Result<i64, PeriodError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(PeriodError::NotAPeriod);
    }
    digits.parse().map_err(|_| PeriodError::TooLong)
}

/// Whole numbers of units (`1 month`, `1 year 6 months`, `1 day 12:00:00`), or an ISO 8601
/// duration (`P1M`, `PT12H`). Case does not matter.
impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Period, PeriodError> {
        if text.len() > 200 {
            return Err(PeriodError::NotAPeriod);
        }
        let text = text.trim().to_ascii_lowercase();
        let mut parts = Parts::default();
        if let Some(duration) = text.strip_prefix('p') {
            if duration.is_empty() {
                return Err(PeriodError::NotAPeriod);
            }
            parts.add_iso(duration)?;
        } else {
            let mut words = text.split_ascii_whitespace();
            while let Some(word) = words.next() {
                if word.contains(':') {
                    parts.add_clock(word)?;
                    continue;
                }
                let digits = word.trim_end_matches(|c: char| c.is_ascii_lowercase());
                let unit = match &word[digits.len()..] {
                    "" => words.next().ok_or(PeriodError::NotAPeriod)?,
                    unit => unit,
                };
                parts.add_named(count(digits)?, unit)?;
            }
            if text.is_empty() {
                return Err(PeriodError::NotAPeriod);
            }
        }
        Period::new(parts.months, parts.days, parts.micros)
    }
}

/// Text that PostgreSQL reads as this interval and [`Period::from_str`] as this period.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let months = i64::from(self.months);
        let counts = [
            (months / 12, "year"),
            (months % 12, "month"),
            (i64::from(self.days), "day"),
            (self.micros / HOUR, "hour"),
            (self.micros % HOUR / MINUTE, "minute"),
            (self.micros % MINUTE / SECOND, "second"),
            (self.micros % SECOND, "microsecond"),
        ];
        let mut gap = "";
        for (count, unit) in counts.into_iter().filter(|&(count, _)| count > 0) {
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{gap}{count} {unit}{plural}")?;
            gap = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(text: &str) -> Result<(i32, i32, i64), PeriodError> {
        let period: Period = text.parse()?;
        Ok((period.months(), period.days(), period.micros()))
    }

    #[test]
    fn reads_what_people_and_postgresql_write() {
        for (text, expected) in [
            ("1 month", (1, 0, 0)),
            ("1 mon", (1, 0, 0)),
            (" 1  Months ", (1, 0, 0)),
            ("1month", (1, 0, 0)),
            ("7 days", (0, 7, 0)),
            ("2 weeks", (0, 14, 0)),
            ("1 year", (12, 0, 0)),
            ("1 year 6 mons", (18, 0, 0)),
            ("12 hours", (0, 0, 12 * HOUR)),
            ("90 minutes", (0, 0, 90 * MINUTE)),
            ("12:00:00", (0, 0, 12 * HOUR)),
            ("1 day 00:30", (0, 1, 30 * MINUTE)),
            ("1 year 2 mons 3 days 04:05:06.07", (14, 3, 4 * HOUR + 5 * MINUTE + 6 * SECOND + 70_000)),
            ("1500 milliseconds", (0, 0, 1_500_000)),
            ("P1M", (1, 0, 0)),
            ("PT1M", (0, 0, MINUTE)),
            ("p1y2m3dt4h5m6s", (14, 3, 4 * HOUR + 5 * MINUTE + 6 * SECOND)),
            ("P2W", (0, 14, 0)),
        ] {
            assert_eq!(parts(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            " ",
            "month",
            "1",
            "1 fortnight",
            "-1 day",
            "+1 day",
            "1.5 hours",
            "1 day ago",
            "P",
            "PT",
            "P1",
            "P1D2M",
            "P1MT",
            "P-1M",
            "1:2:3:4",
            "1:60",
            "1:00:60",
            "1:00:00.1234567",
            ":",
            "1:",
            "infinity",
            "1 day 2",
            "१ day",
            "1 ṁonth",
        ] {
            assert_eq!(parts(text), Err(PeriodError::NotAPeriod), "{text:?}");
        }
        for text in ["0 days", "00:00", "PT0S", "999 milliseconds"] {
            assert_eq!(parts(text), Err(PeriodError::TooShort), "{text:?}");
        }
        for text in [
            "1001 years",
            "99999999999999999999 days",
            "9223372036854775807 years",
            "366001 days",
            "999999999999:00",
            "P9999Y",
        ] {
            assert_eq!(parts(text), Err(PeriodError::TooLong), "{text:?}");
        }
        assert_eq!(Period::new(0, -1, 0), Err(PeriodError::NotAPeriod));
    }

    #[test]
    fn prints_whole_units() {
        for (text, printed) in [
            ("P1M", "1 month"),
            ("24 months", "2 years"),
            ("PT12H", "12 hours"),
            ("90 minutes", "1 hour 30 minutes"),
            ("1 day 00:00:01.5", "1 day 1 second 500000 microseconds"),
        ] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), printed);
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(months in 0..=MAX_MONTHS, days in 0..=MAX_DAYS, micros in SECOND..=MAX_MICROS) {
            let period = Period::new(months, days, micros).unwrap();
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), near in "[pP0-9ymwdths:. -]{0,20}") {
            let _ = text.parse::<Period>();
            let _ = near.parse::<Period>();
        }
    }
}
