//! Accounts and what they hold: subscriptions, overrides, blocks.
//!
//! Every function that changes an account first takes the turn of the account's audit chain, so changes of one account happen
//! one after another and none is lost, and reads what it changes only then. Rows that explain past answers stay: a change ends
//! rows and adds others. What happens to a subscription's stretches of time is decided by `timeline` of the domain crate.

pub mod account;
pub mod arguments;
mod block;
pub mod feature;
pub mod feature_override;
pub mod personal_data;
mod plan;
pub mod subscription;
