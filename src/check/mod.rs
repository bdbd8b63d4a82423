//! The check path: may this account do that, by what its rows say in the snapshot of the query that asks.
//!
//! `memo` remembers in `answers` what the present snapshot has shown, `load` reads it from the tables, `history` reads all that was ever
//! recorded, `explain` and `functions` are what SQL calls; the functions that are called for each row of a scan enter through `pg::entry`.

pub mod answers;
pub mod enforcement;
pub mod explain;
pub mod functions;
pub mod history;
pub mod load;
pub mod memo;
