//! Instants, in the representation PostgreSQL stores: `timestamptz` is a count of microseconds with two infinite ends.
//!
//! The ends are ordinary greatest and least integers, so comparing instants needs no special case for `infinity`.

/// Microseconds since 2000-01-01 00:00:00 UTC.
pub type Time = i64;

/// `infinity`: the end of a range that has no end.
pub const FOREVER: Time = i64::MAX;

/// `-infinity`: the start of a range that has no start.
pub const BEGINNING: Time = i64::MIN;
