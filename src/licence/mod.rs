//! Documents that this database signs and takes in beside bundles: licences for applications that verify offline, reports of what
//! a site has used, and units that a site has for a time.
//!
//! The domain (`entitlements_bundle`) knows the documents and when they hold; here they meet the tables. A document that is refused
//! leaves no trace. Private keys are in the file that a superuser's setting names and are never kept or shown.

mod delegation;
mod end;
mod issue;
mod keygen;
mod signing;
mod usage;

use crate::bundle::deployment::Deployment;
use crate::error::Error;
use pgrx::spi::SpiClient;

/// The name under which this database issues and receives documents.
fn own_name(deployment: &Deployment) -> Result<&str, Error> {
    deployment.name.as_deref().ok_or_else(|| Error::Conflict {
        message: "this database has no name".to_owned(),
        hint: "Name it with entitlements.set_deployment: documents are issued and received under that name.".to_owned(),
    })
}

pub use delegation::{
    Arriving as ArrivingDelegation, arriving as arriving_delegations, delegations, end_all as end_delegations,
    faults as delegation_faults, receive as receive_delegations, return_all as return_delegations,
};
pub use end::{end_all, revoked_ids};
pub use signing::{distrust as distrust_signing_key, signing_key};
pub use usage::blank;

/// Whether a row is there.
fn exists(client: &mut SpiClient<'_>, query: &str, arguments: &[pgrx::datum::DatumWithOid<'_>]) -> Result<bool, Error> {
    Ok(!client.update(query, Some(1), arguments)?.is_empty())
}
