//! Columns of the rows that a query gives, where the query or the table sees to it that they are not NULL.

use crate::error::Error;
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;

/// A column, counted from 1.
pub fn present<T: FromDatum + IntoDatum>(row: &SpiHeapTupleData<'_>, column: usize) -> Result<T, Error> {
    row.get(column)?.ok_or_else(|| Error::Internal(format!("column {column} of a row is NULL")))
}

pub fn present_time(row: &SpiHeapTupleData<'_>, column: usize) -> Result<Time, Error> {
    present::<TimestampWithTimeZone>(row, column).map(Time::from)
}
