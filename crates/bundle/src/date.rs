//! Moments as documents write them.

use std::fmt;

use entitlements_model::time::Time;

/// Whole seconds since 1970-01-01 00:00:00 UTC (RFC 7519), up to the end of the year 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumericDate(i64);

const LAST: i64 = 253_402_300_799;

/// 2000-01-01, where the model's time begins.
const EPOCH_OF_TIME: i64 = 946_684_800;

const MICROS: i64 = 1_000_000;

impl NumericDate {
    pub const LAST: NumericDate = NumericDate(LAST);

    pub fn from_seconds(seconds: i64) -> Option<Self> {
        (0..=LAST).contains(&seconds).then_some(Self(seconds))
    }

    /// The second that a moment lies in; outside of what can be written, the nearest that can.
    pub fn from_time(time: Time) -> Self {
        Self(time.div_euclid(MICROS).saturating_add(EPOCH_OF_TIME).clamp(0, LAST))
    }

    pub fn seconds(self) -> i64 {
        self.0
    }

    pub fn time(self) -> Time {
        (self.0 - EPOCH_OF_TIME) * MICROS
    }
}

/// `2023-11-14 22:13:20 UTC`.
impl fmt::Display for NumericDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0.div_euclid(86_400));
        let second = self.0.rem_euclid(86_400);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
    }
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_400_YEARS: i64 = 146_097;
    let from_march_0 = day + 719_468;
    let (era, day) = (from_march_0.div_euclid(DAYS_400_YEARS), from_march_0.rem_euclid(DAYS_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (LAST, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(NumericDate::from_seconds(seconds).unwrap().to_string(), text);
        }
        assert_eq!(NumericDate::from_seconds(-1), None);
        assert_eq!(NumericDate::from_seconds(LAST + 1), None);
    }

    #[test]
    fn days_follow_each_other() {
        let mut before = civil(-1);
        for day in 0..800_000 {
            let (year, month, day) = civil(day);
            let follows = match before {
                (y, m, d) if (y, m) == (year, month) => day == d + 1,
                (y, 12, 31) => (year, month, day) == (y + 1, 1, 1),
                (y, m, d) => y == year && month == m + 1 && day == 1 && d >= 28,
            };
            assert!(follows, "{year}-{month}-{day} after {before:?}");
            before = (year, month, day);
        }
    }

    #[test]
    fn the_models_time_and_back() {
        let date = NumericDate(1_700_000_000);
        assert_eq!(NumericDate(EPOCH_OF_TIME).time(), 0);
        assert_eq!(NumericDate::from_time(date.time() + 999_999), date);
        assert_eq!(NumericDate::from_time(date.time() - 1), NumericDate(1_699_999_999));
        assert_eq!(NumericDate::from_time(Time::MAX), NumericDate::LAST);
        assert_eq!(NumericDate::from_time(Time::MIN), NumericDate(0));
    }
}
