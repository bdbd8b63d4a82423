//! Changing the catalog: documents, drafts of plans, and moving subscriptions to another version of their plan.
//!
//! The domain (`entitlements_model::catalog`) says what a document changes; here the present catalog is read, the changes are
//! written and recorded. The invariant: whoever changes the catalog first takes its turn and only then reads it, so a change is
//! always made from what the one before it left, and no editor loses another's. Readers and dry runs take no turn, lock nothing
//! and write nothing.

mod drafts;
pub mod functions;
mod migrate;
pub mod stored;
pub mod write;
