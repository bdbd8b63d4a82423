//! The server's time zone database.

use super::values::text_datum;
use entitlements_model::meter::window::{LocalTime, TimeZone};
use entitlements_model::time::Time;
use pgrx::pg_sys;

/// A time zone by its name, which was checked when it was stored.
pub struct ServerTimeZone(String);

impl ServerTimeZone {
    pub fn named(name: String) -> Self {
        Self(name)
    }

    fn convert(&self, convert: unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum, time: i64) -> i64 {
        // SAFETY: timestamptz_zone and timestamp_zone take a text and a timestamp, both counts of microseconds.
        unsafe {
            let arguments = [Some(text_datum(&self.0)), Some(pg_sys::Datum::from(time))];
            pgrx::direct_function_call_as_datum(convert, &arguments).expect("a time is no NULL").value() as i64
        }
    }
}

impl TimeZone for ServerTimeZone {
    fn to_local(&self, at: Time) -> LocalTime {
        LocalTime(self.convert(pg_sys::timestamptz_zone, at))
    }

    /// Where the clock is put back the server takes the second of two times; the first is what the offset of the day before gives.
    fn to_utc(&self, local: LocalTime) -> Time {
        const DAY: Time = 86_400_000_000;
        let second = self.convert(pg_sys::timestamp_zone, local.0);
        let day_before = second.saturating_sub(DAY);
        let offset = self.to_local(day_before).0.saturating_sub(day_before);
        let first = local.0.saturating_sub(offset);
        if first < second && self.to_local(first) == local { first } else { second }
    }
}
