//! `entitled` agrees with a plain SQL join over the same tables, in the same statement, whatever transactions do.
//!
//! `comparison` holds the join and the database that the tests share the shape of; `traps` has one test for each way in which
//! an answer kept in memory is known to go stale, `leaves` has one for what an index may look like, `marks` shows what is kept and what is not; `schedules` looks for unknown ones at random; `standby` asks a hot standby.
//!
//! Many of the traps need two snapshots of the same content, so nobody else may begin or end a transaction in between:
//! the tests of this file run one at a time.

mod comparison;
mod leaves;
mod marks;
mod schedules;
mod standby;
mod traps;
