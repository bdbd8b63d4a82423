//! Arguments as SQL gives them, made into what the functions need; NE007 says which one is wrong and why.

use crate::error::Error;
use crate::pg::jsonb::JsonbText;
use entitlements_model::period::Period;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use pgrx::datum::Interval;
use pgrx::prelude::*;

pub fn required<T>(argument: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::argument(argument, "it is NULL"))
}

pub fn required_text<'a>(argument: &'static str, value: Option<&'a str>) -> Result<&'a str, Error> {
    match required(argument, value)? {
        text if text.trim().is_empty() => Err(Error::argument(argument, "it is empty")),
        text => Ok(text),
    }
}

/// Most bytes of a source and of a source's name for something, which are indexed.
const SOURCE_BYTES: usize = 255;

pub fn required_source(value: Option<&str>) -> Result<&str, Error> {
    let source = required_text("source", value)?;
    source_name("source", Some(source))?;
    Ok(source)
}

/// A source, or its name for something.
pub fn source_name<'a>(argument: &'static str, value: Option<&'a str>) -> Result<Option<&'a str>, Error> {
    match value {
        Some(text) if text.len() > SOURCE_BYTES => {
            Err(Error::argument(argument, format!("it is longer than {SOURCE_BYTES} bytes")))
        }
        value => Ok(value),
    }
}

/// A moment, not infinity.
pub fn required_moment(argument: &'static str, value: Option<TimestampWithTimeZone>) -> Result<Time, Error> {
    match Time::from(required(argument, value)?) {
        BEGINNING | FOREVER => Err(Error::argument(argument, "it is infinite")),
        moment => Ok(moment),
    }
}

/// An interval that things can come round in: each of its parts is positive or zero.
pub fn period(argument: &'static str, value: Interval) -> Result<Interval, Error> {
    match Period::new(value.months().into(), value.days().into(), value.micros()) {
        Ok(_) => Ok(value),
        Err(fault) => Err(Error::argument(argument, fault.to_string())),
    }
}

/// A JSON object as text, None for NULL.
pub fn object(argument: &'static str, value: Option<JsonbText>) -> Result<Option<String>, Error> {
    match value {
        Some(JsonbText(text)) if !text.starts_with('{') => Err(Error::argument(argument, "it is not a JSON object")),
        value => Ok(value.map(|JsonbText(text)| text)),
    }
}

pub fn timestamp(time: Time) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(time).expect("times come from timestamptz values")
}

/// The moment at which this transaction's changes happen.
pub fn transaction_time() -> Time {
    pgrx::datum::datetime_support::transaction_timestamp().into()
}
