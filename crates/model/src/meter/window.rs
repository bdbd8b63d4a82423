//! Windows: the spans of time over which usage is counted and after which it starts again.
//!
//! A grid of windows has an origin, and its k-th boundary is the origin plus k periods. The months and days of a period are
//! added to the local time of the origin, the rest to the instant that comes of it. So a month starts at local midnight all
//! year, a boundary on the 31st is on the last day of shorter months and on the 31st again of longer ones, a day on which the
//! clock changes has 23 or 25 hours, and windows of 12 hours are always 12 hours: no change of the clock skips or doubles one.
//!
//! Promises: the window of an instant contains it, its end is the start of the next window, and no window is empty: where a
//! zone leaves out a whole day, as Apia did on 30 December 2011, two boundaries coincide and that day has no window. Cost does
//! not depend on the distance from the origin: which boundary is nearest follows from the mean length of a month.
//!
//! Instants that PostgreSQL cannot store are [`BEGINNING`] and [`FOREVER`]: the first window has no start and the last no end.

use crate::period::Period;
use crate::time::{BEGINNING, FOREVER, Time};

/// A span of time with its start and without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// [`BEGINNING`] if it has no start.
    pub start: Time,
    /// [`FOREVER`] if it has no end.
    pub end: Time,
}

impl Window {
    /// The only window of what never resets.
    pub const LIFETIME: Self = Self { start: BEGINNING, end: FOREVER };

    pub fn contains(self, at: Time) -> bool {
        self.start <= at && at < self.end
    }
}

/// What a clock on the wall shows: microseconds since it showed 2000-01-01 00:00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime(pub i64);

/// The rules of a time zone, for every instant that PostgreSQL can store.
pub trait TimeZone {
    fn to_local(&self, at: Time) -> LocalTime;

    /// A local time that the clock leaves out is as much later as the clock is put forward (02:30 becomes 03:30); one that it
    /// shows twice is the first of the two. Note that PostgreSQL itself takes the second.
    fn to_utc(&self, local: LocalTime) -> Time;
}

/// The window of an instant among those that everybody in a time zone shares. Months are counted from the start of the year
/// 2000; days and what is shorter from the Monday after it, so that weeks start on Monday.
pub fn calendar(period: Period, zone: &(impl TimeZone + ?Sized), at: Time) -> Window {
    let local = if period.months() > 0 { START_OF_2000 } else { FIRST_MONDAY };
    Grid { period, local, origin: zone.to_utc(local), zone }.window(at)
}

/// The window of an instant among those counted from an instant of their own, such as the start of a subscription. They reach
/// back before it as well.
pub fn anchored(period: Period, origin: Time, zone: &(impl TimeZone + ?Sized), at: Time) -> Window {
    let origin = storable(origin);
    Grid { period, local: zone.to_local(origin), origin, zone }.window(at)
}

const START_OF_2000: LocalTime = LocalTime(0);
const FIRST_MONDAY: LocalTime = LocalTime(2 * DAY);

const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// The instants that a `timestamptz` can hold: from the start of 24 November 4714 BC to before the year 294277.
const FIRST_STORABLE: Time = -211_813_488_000_000_000;
const END_OF_STORABLE: Time = 9_223_371_331_200_000_000;

fn storable(at: Time) -> Time {
    at.clamp(FIRST_STORABLE, END_OF_STORABLE - 1)
}

fn saturate(micros: i128) -> Time {
    match i64::try_from(micros) {
        Ok(at) if (FIRST_STORABLE..END_OF_STORABLE).contains(&at) => at,
        _ if micros < 0 => BEGINNING,
        _ => FOREVER,
    }
}

struct Grid<'a, Z: ?Sized> {
    period: Period,
    origin: Time,
    /// The local time of the origin.
    local: LocalTime,
    zone: &'a Z,
}

impl<Z: TimeZone + ?Sized> Grid<'_, Z> {
    /// The estimate is off by the few days that a month can be off its mean, and by the zone's offset: some steps correct it.
    fn window(&self, at: Time) -> Window {
        let at = storable(at);
        let mut k = self.estimate(at);
        let mut start = self.boundary(k);
        while start > at {
            k -= 1;
            start = self.boundary(k);
        }
        let mut end = self.boundary(k + 1);
        while end <= at {
            k += 1;
            (start, end) = (end, self.boundary(k + 1));
        }
        Window { start, end }
    }

    /// How many periods of mean length lie between the origin and an instant.
    fn estimate(&self, at: Time) -> i64 {
        let months = i128::from(self.period.months()) * i128::from(DAYS_IN_CYCLE * DAY);
        let rest = i128::from(self.period.days()) * i128::from(DAY) + i128::from(self.period.micros());
        let elapsed = (i128::from(at) - i128::from(self.origin)) * i128::from(MONTHS_IN_CYCLE);
        elapsed.div_euclid(months + rest * i128::from(MONTHS_IN_CYCLE)) as i64
    }

    fn boundary(&self, k: i64) -> Time {
        let date = if k == 0 || (self.period.months() == 0 && self.period.days() == 0) {
            self.origin
        } else {
            match self.local_boundary(k) {
                BEGINNING => return BEGINNING,
                FOREVER => return FOREVER,
                local => self.zone.to_utc(LocalTime(local)),
            }
        };
        saturate(i128::from(date) + i128::from(k) * i128::from(self.period.micros()))
    }

    /// The local time of the origin plus the months and days of k periods.
    fn local_boundary(&self, k: i64) -> i64 {
        let (date, time_of_day) = (self.local.0.div_euclid(DAY), self.local.0.rem_euclid(DAY));
        let date = add_months(date, k * i64::from(self.period.months())) + k * i64::from(self.period.days());
        saturate(i128::from(date) * i128::from(DAY) + i128::from(time_of_day))
    }
}

/// The Gregorian calendar repeats after 400 years.
const MONTHS_IN_CYCLE: i64 = 400 * 12;
const DAYS_IN_CYCLE: i64 = 146_097;

/// Days from the start of March to that of each month: with March first, the leap day is the last of a year.
const DAYS_BEFORE_MONTH: [i64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];

/// From 2000-01-01 to 2000-03-01.
const DAYS_BEFORE_MARCH: i64 = 60;

/// Dates are days since 2000-01-01. A day that the month does not have becomes its last one.
fn add_months(date: i64, months: i64) -> i64 {
    let month = month_of(date);
    let target = month + months;
    (first_of(target) + date - first_of(month)).min(first_of(target + 1) - 1)
}

/// The first day of a month, which is counted from March 2000.
fn first_of(month: i64) -> i64 {
    let (year, month) = (month.div_euclid(12), month.rem_euclid(12));
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    DAYS_BEFORE_MARCH + 365 * year + leap_days + DAYS_BEFORE_MONTH[month as usize]
}

fn month_of(date: i64) -> i64 {
    let mut month = ((date - DAYS_BEFORE_MARCH) * MONTHS_IN_CYCLE).div_euclid(DAYS_IN_CYCLE);
    while first_of(month) > date {
        month -= 1;
    }
    while first_of(month + 1) <= date {
        month += 1;
    }
    month
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::{self, DateTime};
    use jiff::{Span, Timestamp, tz};
    use proptest::prelude::*;

    const HOUR: i64 = DAY / 24;

    /// Microseconds from 1970 to 2000.
    const UNIX_EPOCH: i64 = -946_684_800_000_000;

    struct Zone(tz::TimeZone);

    fn zone(name: &str) -> Zone {
        Zone(tz::TimeZone::get(name).unwrap())
    }

    fn timestamp(at: Time) -> Timestamp {
        Timestamp::from_microsecond(at - UNIX_EPOCH).unwrap()
    }

    fn instant(at: Timestamp) -> Time {
        at.as_microsecond() + UNIX_EPOCH
    }

    fn since_2000(local: DateTime) -> i64 {
        instant(local.to_zoned(tz::TimeZone::UTC).unwrap().timestamp())
    }

    impl TimeZone for Zone {
        fn to_local(&self, at: Time) -> LocalTime {
            LocalTime(since_2000(self.0.to_datetime(timestamp(at))))
        }

        /// The rule of RFC 5545: what the clock leaves out is later, what it shows twice is the first.
        fn to_utc(&self, local: LocalTime) -> Time {
            let local = tz::TimeZone::UTC.to_datetime(timestamp(local.0));
            instant(self.0.to_ambiguous_timestamp(local).compatible().unwrap())
        }
    }

    /// For years that jiff does not know.
    struct Fixed(i64);

    impl TimeZone for Fixed {
        fn to_local(&self, at: Time) -> LocalTime {
            LocalTime(at.saturating_add(self.0))
        }

        fn to_utc(&self, local: LocalTime) -> Time {
            local.0.saturating_sub(self.0)
        }
    }

    fn period(text: &str) -> Period {
        text.parse().unwrap()
    }

    /// An instant in UTC from its text.
    fn utc(text: &str) -> Time {
        since_2000(text.parse().unwrap())
    }

    /// An instant from a local time that is unambiguous.
    fn local(zone: &Zone, text: &str) -> Time {
        instant(zone.0.to_ambiguous_timestamp(text.parse().unwrap()).unambiguous().unwrap())
    }

    /// Checks that the windows from an instant on have these boundaries, each given as local time.
    fn assert_boundaries(zone: &Zone, window: impl Fn(Time) -> Window, boundaries: &[&str]) {
        let instants: Vec<Time> = boundaries.iter().map(|text| local(zone, text)).collect();
        for (pair, text) in instants.windows(2).zip(boundaries) {
            let expected = Window { start: pair[0], end: pair[1] };
            for at in [pair[0], pair[0] + (pair[1] - pair[0]) / 2, pair[1] - 1] {
                assert_eq!(window(at), expected, "{text}");
            }
        }
    }

    #[test]
    fn calendar_months_and_years_start_at_local_midnight() {
        let zone = zone("America/New_York");
        let month = |at| calendar(period("1 month"), &zone, at);
        assert_boundaries(&zone, month, &["2024-02-01T00:00", "2024-03-01T00:00", "2024-04-01T00:00", "2024-05-01T00:00"]);
        let year = |at| calendar(period("1 year"), &zone, at);
        assert_boundaries(&zone, year, &["1899-01-01T00:00", "1900-01-01T00:00", "1901-01-01T00:00"]);
        let quarter = |at| calendar(period("3 months"), &zone, at);
        assert_boundaries(&zone, quarter, &["2023-10-01T00:00", "2024-01-01T00:00", "2024-04-01T00:00"]);
    }

    #[test]
    fn calendar_weeks_start_on_monday() {
        let zone = zone("Asia/Kolkata");
        let week = |at| calendar(period("1 week"), &zone, at);
        assert_boundaries(&zone, week, &["2026-01-05T00:00", "2026-01-12T00:00", "2026-01-19T00:00"]);
        assert_boundaries(&zone, week, &["1999-12-20T00:00", "1999-12-27T00:00", "2000-01-03T00:00"]);
        assert_eq!(civil::date(2026, 1, 5).weekday(), civil::Weekday::Monday);
    }

    #[test]
    fn a_day_on_which_the_clock_changes_has_23_or_25_hours() {
        let hours = |zone: &Zone, text| {
            let window = calendar(period("1 day"), zone, local(zone, text));
            (window.end - window.start) as f64 / HOUR as f64
        };
        let new_york = zone("America/New_York");
        assert_eq!(hours(&new_york, "2024-03-09T12:00"), 24.0);
        assert_eq!(hours(&new_york, "2024-03-10T12:00"), 23.0);
        assert_eq!(hours(&new_york, "2024-11-03T12:00"), 25.0);
        let lord_howe = zone("Australia/Lord_Howe");
        assert_eq!(hours(&lord_howe, "2024-10-06T12:00"), 23.5);
        assert_eq!(hours(&lord_howe, "2024-04-07T12:00"), 24.5);
    }

    #[test]
    fn a_midnight_that_the_clock_leaves_out_is_an_hour_later() {
        let zone = zone("America/Sao_Paulo");
        let day = |at| calendar(period("1 day"), &zone, at);
        assert_boundaries(&zone, day, &["2017-10-14T00:00", "2017-10-15T01:00", "2017-10-16T00:00"]);
    }

    #[test]
    fn a_midnight_that_the_clock_shows_twice_is_the_first() {
        let zone = zone("America/Havana");
        // Clocks went from 01:00 back to 00:00, four hours behind UTC before and five after.
        let day = calendar(period("1 day"), &zone, utc("2024-11-03T12:00"));
        assert_eq!(day, Window { start: utc("2024-11-03T04:00"), end: utc("2024-11-04T05:00") });
        let month = anchored(period("1 month"), utc("2024-10-03T04:30"), &zone, utc("2024-11-03T05:00"));
        assert_eq!(month.start, utc("2024-11-03T04:30"));
    }

    #[test]
    fn an_origin_that_the_clock_shows_twice_stays_where_it_is() {
        let zone = zone("America/New_York");
        let second = utc("2024-11-03T06:30");
        let first_window = anchored(period("1 day"), second, &zone, second);
        assert_eq!(first_window, Window { start: second, end: utc("2024-11-04T06:30") });
        assert_eq!(anchored(period("1 day"), second, &zone, second - 1).end, second);
    }

    #[test]
    fn a_day_that_the_zone_leaves_out_has_no_window() {
        let zone = zone("Pacific/Apia");
        let day = |at| calendar(period("1 day"), &zone, at);
        assert_boundaries(&zone, day, &["2011-12-28T00:00", "2011-12-29T00:00", "2011-12-31T00:00", "2012-01-01T00:00"]);
        let noon = |at| anchored(period("1 day"), local(&zone, "2011-12-01T12:00"), &zone, at);
        assert_boundaries(&zone, noon, &["2011-12-28T12:00", "2011-12-29T12:00", "2011-12-31T12:00", "2012-01-01T12:00"]);
        let month = |at| anchored(period("1 month"), local(&zone, "2011-08-30T00:00"), &zone, at);
        assert_boundaries(&zone, month, &["2011-11-30T00:00", "2011-12-31T00:00", "2012-01-30T00:00"]);
    }

    #[test]
    fn the_31st_becomes_the_last_day_of_shorter_months() {
        let zone = zone("Europe/Berlin");
        let month = |at| anchored(period("1 month"), local(&zone, "2024-01-31T09:30"), &zone, at);
        assert_boundaries(
            &zone,
            month,
            &[
                "2023-11-30T09:30",
                "2023-12-31T09:30",
                "2024-01-31T09:30",
                "2024-02-29T09:30",
                "2024-03-31T09:30",
                "2024-04-30T09:30",
                "2024-05-31T09:30",
            ],
        );
        assert_boundaries(&zone, month, &["2025-01-31T09:30", "2025-02-28T09:30", "2025-03-31T09:30"]);
    }

    #[test]
    fn a_year_from_a_leap_day_ends_on_the_28th() {
        let zone = zone("UTC");
        let year = |at| anchored(period("1 year"), utc("2024-02-29T00:00"), &zone, at);
        assert_boundaries(
            &zone,
            year,
            &[
                "2024-02-29T00:00",
                "2025-02-28T00:00",
                "2026-02-28T00:00",
                "2027-02-28T00:00",
                "2028-02-29T00:00",
                "2029-02-28T00:00",
            ],
        );
        assert_boundaries(&zone, year, &["2099-02-28T00:00", "2100-02-28T00:00", "2101-02-28T00:00"]);
    }

    #[test]
    fn months_and_days_add_from_the_origin() {
        let zone = zone("UTC");
        let mixed = |at| anchored(period("1 month 3 days"), utc("2024-01-31T00:00"), &zone, at);
        assert_boundaries(&zone, mixed, &["2024-01-31T00:00", "2024-03-03T00:00", "2024-04-06T00:00", "2024-05-09T00:00"]);
    }

    #[test]
    fn windows_shorter_than_a_day_keep_their_length() {
        let zone = zone("America/New_York");
        let half_day = period("12 hours");
        let origin = local(&zone, "2024-03-09T09:00");
        let half_days = |at| anchored(half_day, origin, &zone, at);
        let boundaries = ["2024-03-09T21:00", "2024-03-10T10:00", "2024-03-10T22:00", "2024-03-11T10:00"];
        assert_boundaries(&zone, half_days, &boundaries);
        for at in (0..400).map(|step| utc("2024-01-01T00:00") + step * 22 * HOUR) {
            let window = calendar(half_day, &zone, at);
            assert!(window.contains(at));
            assert_eq!(window.end - window.start, 12 * HOUR);
        }
    }

    #[test]
    fn the_first_and_the_last_window_are_open() {
        let zone = Fixed(-5 * HOUR);
        for text in ["1 second", "7 hours", "1 day", "1 month", "1 month 3 days 1 hour", "1000 years"] {
            for origin in [BEGINNING, 0, FOREVER] {
                let first = anchored(period(text), origin, &zone, BEGINNING);
                let last = anchored(period(text), origin, &zone, FOREVER);
                assert!(first.start < first.end && first.contains(FIRST_STORABLE), "{text}");
                assert!(last.start < last.end && last.contains(END_OF_STORABLE - 1), "{text}");
            }
        }
        assert_eq!(anchored(period("1 hour 1 second"), 0, &zone, BEGINNING).start, BEGINNING);
        assert_eq!(anchored(period("1 month 1 second"), 0, &zone, FOREVER).end, FOREVER);
        assert!(Window::LIFETIME.contains(BEGINNING) && Window::LIFETIME.contains(END_OF_STORABLE - 1));
    }

    /// Walks boundary by boundary from the origin, with another library's calendar.
    fn naive_anchored(period: Period, origin: Time, zone: &Zone, at: Time) -> Window {
        let start = zone.0.to_datetime(timestamp(origin));
        let boundary = |k: i64| {
            let months = Span::new().months(i64::from(period.months()) * k);
            let days = Span::new().days(i64::from(period.days()) * k);
            let local = start.checked_add(months).unwrap().checked_add(days).unwrap();
            let date =
                if local == start { origin } else { instant(zone.0.to_ambiguous_timestamp(local).compatible().unwrap()) };
            date + k * period.micros()
        };
        let forward = if at >= origin { 1 } else { -1 };
        let (mut k, mut near, mut far) = (0, origin, boundary(forward));
        let passed = |far| if forward > 0 { far <= at } else { far > at };
        while passed(far) {
            k += forward;
            (near, far) = (far, boundary(k + forward));
        }
        Window { start: near.min(far), end: near.max(far) }
    }

    fn zones() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "America/Sao_Paulo",
            "America/Havana",
            "Asia/Kolkata",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Africa/Casablanca",
            "Antarctica/Troll",
            "Pacific/Apia",
            "Pacific/Kwajalein",
            "Pacific/Kiritimati",
        ])
    }

    fn periods() -> impl Strategy<Value = Period> {
        let parts = (0..40i64, 0..100i64, 0..200 * HOUR);
        prop_oneof![
            (1..40i64).prop_map(|months| (months, 0, 0)),
            (1..400i64).prop_map(|days| (0, days, 0)),
            (HOUR..100 * DAY).prop_map(|micros| (0, 0, micros)),
            parts.clone().prop_map(|(months, days, _)| (months, days, 0)),
            parts,
        ]
        .prop_filter_map("no period", |(months, days, micros)| Period::new(months, days, micros).ok())
    }

    /// Instants from 1900 on, many of them on a whole hour.
    fn instants() -> impl Strategy<Value = Time> {
        let range = utc("1900-01-01T00:00")..utc("2100-01-01T00:00");
        (range, any::<bool>()).prop_map(|(at, whole)| if whole { at - at.rem_euclid(HOUR) } else { at })
    }

    fn near(origin: Time) -> impl Strategy<Value = Time> {
        prop_oneof![-400 * DAY..400 * DAY, -8_000 * DAY..8_000 * DAY].prop_map(move |distance| origin + distance)
    }

    proptest! {
        #[test]
        fn the_window_is_the_one_that_walking_finds(
            name in zones(),
            period in periods(),
            (origin, at) in instants().prop_flat_map(|origin| (Just(origin), near(origin))),
        ) {
            let zone = zone(name);
            let window = anchored(period, origin, &zone, at);
            prop_assert!(window.contains(at));
            prop_assert_eq!(window, naive_anchored(period, origin, &zone, at));
        }

        #[test]
        fn a_calendar_is_anchored_at_its_origin(name in zones(), period in periods(), at in near(0)) {
            let zone = zone(name);
            let origin = if period.months() > 0 { "2000-01-01T00:00" } else { "2000-01-03T00:00" };
            let expected = naive_anchored(period, local(&zone, origin), &zone, at);
            prop_assert_eq!(calendar(period, &zone, at), expected);
        }

        #[test]
        fn windows_tile(name in zones(), period in periods(), origin in instants(), at in instants()) {
            let zone = zone(name);
            let window = anchored(period, origin, &zone, at);
            prop_assert!(window.contains(at));
            for inside in [window.start, window.end - 1] {
                prop_assert_eq!(anchored(period, origin, &zone, inside), window);
            }
            let next = anchored(period, origin, &zone, window.end);
            let previous = anchored(period, origin, &zone, window.start - 1);
            prop_assert_eq!((previous.end, next.start), (window.start, window.end));
            prop_assert!(previous.start < previous.end && next.start < next.end);
        }

        #[test]
        fn a_later_instant_has_no_earlier_window(
            name in zones(),
            period in periods(),
            origin in instants(),
            one in instants(),
            two in instants(),
        ) {
            let zone = zone(name);
            let (earlier, later) = (one.min(two), one.max(two));
            let (first, second) = (anchored(period, origin, &zone, earlier), anchored(period, origin, &zone, later));
            prop_assert!(first == second || first.end <= second.start);
        }

        #[test]
        fn every_instant_and_period_has_a_window(
            months in 0..=12_000i64,
            days in 0..=366_000i64,
            micros in prop_oneof![Just(0), Just(1_000_000), 0..=31_622_400_000_000_000i64],
            offset in -15 * HOUR..15 * HOUR,
            origin: Time,
            at: Time,
        ) {
            for period in [(months, 0, 0), (0, days, 0), (0, 0, micros), (months, days, micros)] {
                let Ok(period) = Period::new(period.0, period.1, period.2) else { continue };
                let zone = Fixed(offset);
                for window in [calendar(period, &zone, at), anchored(period, origin, &zone, at)] {
                    prop_assert!(window.start < window.end && window.contains(storable(at)));
                }
            }
        }

        #[test]
        fn months_are_those_of_the_calendar(date in -2_000_000..2_000_000i64, months in -12_000..12_000i64) {
            let day_zero = civil::date(2000, 1, 1);
            let expected = day_zero.checked_add(Span::new().days(date)).unwrap().checked_add(Span::new().months(months));
            prop_assume!(expected.is_ok());
            let days = day_zero.until(expected.unwrap()).unwrap().get_days();
            prop_assert_eq!(add_months(date, months), i64::from(days));
        }
    }
}
