//! Limits on rows: whatever statement changes a table, its rows are counted and no more of them than are allowed.

mod changes;
mod load;
mod owners;
mod races;
mod stage;
mod statements;
