//! Consuming is exact: never over the limit, nothing lost, nobody denied while anything is left.
//!
//! `rules` goes through what each function answers on one connection; `contention` has the situations of a few connections that
//! the slot protocol is made for; `pairs` goes through all pairs of operations; `arithmetic` compares with the domain crate's;
//! `load` lets many connections loose, and `faults` kills the server under them. `stage` and `traffic` are what they share.

mod arithmetic;
mod contention;
mod faults;
mod indexes;
mod load;
mod pairs;
mod rules;
mod stage;
mod traffic;
