//! What PostgreSQL lays down about the bytes of a numeric, the content of a snapshot, transaction ids and SQLSTATEs, and what the
//! memo keeps of accounts' names and of marks: as far as it can be said, and tested, without a server.
//!
//! Everything is a function over values: no PostgreSQL, no I/O, no clock.

#![forbid(unsafe_code)]

pub mod mark;
pub mod name;
pub mod numeric;
pub mod search;
pub mod snapshot;
pub mod sqlstate;
