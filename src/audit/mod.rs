//! The audit log: who changed what, in hash chains that show any alteration.
//!
//! Every function that changes state takes the turn of the chain it belongs to, does its work, and records it, all in the
//! caller's transaction: there is no change without its entry and no entry without its change. The turn is the row lock of
//! the chain's head, so changes of one account (and of the catalog) happen one after another. How entries are hashed is in
//! the `audit` module of the domain crate.

mod immutable;
mod record;
mod verify;

pub use immutable::erase_contents;
pub use record::{Chain, Change, record, record_all, take_turn, take_turns};
