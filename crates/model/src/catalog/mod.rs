//! Catalog documents: reading, checking, comparing with the present catalog, exporting.
//!
//! A document states what some features, plans and prices shall be; what it does not name stays
//! as it is, down to the members of a feature or plan. Only a plan's `features`, a price, and what a
//! feature rolls over or draws on are stated completely. [`plan_changes`] answers with the changes that lead there, or with every
//! fault and where it is; it writes nothing, so a document is applied wholly or not at all.
//!
//! The invariant of the catalog that this module keeps: the latest version of each plan holds what
//! the plan's own definition and the latest version of the plan it extends say. So a changed plan
//! is published together with all that extend it, and applying a document twice changes nothing.
//! A document that carries the `revision` it was exported at changes nothing once the catalog has
//! moved on, so two editors cannot lose each other's change; an empty catalog takes any revision.
//! Versions are immutable: what a feature is (`kind`, `combine`) is fixed once a version carries it.

mod change;
mod changes;
pub mod draft;
mod export;
mod feature;
mod plan;
mod price;
mod read;
mod schema;
mod state;

pub use change::{Action, Change, Object, PlanVersionRow, Row};
pub use changes::plan_changes;
pub use export::{export, export_plan};
pub use feature::{Anchor, DrawsOn, Feature, Overage, Rollover, Store};
pub use plan::{Cell, Definition, DocValue, Plan};
pub use price::{Price, PriceKey};
pub use schema::Schema;
pub use state::{PresentFeature, PresentPlan, State};

use crate::fault::Fault;

/// Most features, plans and prices of a catalog, and most feature values of all its plans'
/// latest versions together.
pub const MAX_FEATURES: usize = 10_000;
pub const MAX_PLANS: usize = 5_000;
pub const MAX_CELLS: usize = 100_000;
pub const MAX_PRICES: usize = 100_000;

/// Why a document is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the catalog document is not valid")]
    Invalid(Vec<Fault>),
    /// The document is valid in itself, but asks to change what cannot change.
    #[error("the catalog document conflicts with published plans")]
    Conflict(Vec<Fault>),
    /// The catalog changed since the document was exported.
    #[error("the catalog document is based on revision {document}, the catalog is at {present}")]
    StaleRevision { document: i64, present: i64 },
}
