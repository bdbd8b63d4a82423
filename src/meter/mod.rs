//! Metering: consuming what an account is entitled to, in the caller's transaction.
//!
//! `look` reads with one snapshot what may be used and what was; `pool` takes units from one pool and gives them back (the
//! slot protocol); `consume` does so for all pools that a call touches; `window` says when usage starts again at zero.
//! `many` and `record` take for several features and accounts at once, `reservation` in advance, `idempotency` once only.
//! `seat` gives the units of an allocation to holders. `rate` limits by time instead, without pools.

pub mod consume;
pub mod correction;
pub mod counter;
pub mod credit;
pub mod decision;
pub mod feature;
pub mod functions;
mod history;
mod idempotency;
pub mod look;
mod many;
mod pool;
pub mod rate;
mod record;
pub mod reservation;
mod rollover;
pub mod seat;
mod window;
pub mod write;

pub use consume::fold;

use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::owner::as_owner;
use crate::pg::relations::Relations;
use pgrx::spi::{Spi, SpiClient};
use std::rc::Rc;

/// The extension's tables as they are now.
pub fn relations() -> Result<Rc<Relations>, Error> {
    MEMO.with(|memo| memo.read(|reader| Ok(Rc::clone(reader.relations))))
}

/// Runs queries that change the tables, for callers who have no privilege on them.
pub fn as_owner_changing<R>(work: impl FnOnce(&mut SpiClient<'_>) -> Result<R, Error>) -> Result<R, Error> {
    as_owner(&relations()?.counters, || Spi::connect_mut(work))
}
