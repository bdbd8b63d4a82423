//! The domain of entitlements: words, amounts, catalogs and the rules that turn stored rows into an answer.
//!
//! Everything here is a pure function over values. No PostgreSQL, no I/O and no clock: the instant of a question is an
//! argument. So every rule can be tested by itself, and an answer about the past is the same call with another instant.

pub mod amount;
pub mod audit;
pub mod catalog;
pub mod fault;
pub mod json;
pub mod key;
pub mod kind;
pub mod meter;
pub mod period;
pub mod plan;
pub mod resolve;
pub mod suggest;
pub mod time;
pub mod timeline;
