//! Guard: the account that a transaction acts for, and what binds whoever shares the database to it.

mod access;
mod columns;
mod functions;
mod protect;
pub mod rows;
pub mod session;
mod table;
mod token;
mod trust;
