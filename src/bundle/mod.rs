//! Signed bundles: what an issuer elsewhere decides, checked, kept and enforced in a database that no network reaches.
//!
//! The domain (`entitlements_bundle`) knows the document, its signature and what it means at a time; here a bundle meets the
//! tables. The invariants: a bundle is checked to its end before anything is written, and one that is refused leaves no trace;
//! an import touches only rows with the source `bundle:<issuer>`, which are then what the bundle states; the highest time seen
//! never falls. Whether what a bundle brought still counts is not written into rows: the check path decides it at each time,
//! see `check::enforcement`.

pub mod deployment;
mod difference;
mod doctor;
mod document;
mod export;
mod import;
mod present;
mod sequence;
mod stated;
mod status;
mod trust;
mod withdraw;
mod write;

use crate::error::Error;
use pgrx::spi::SpiClient;

pub use deployment::raise_highest;
pub use export::signing_key;
pub use withdraw::withdraw;

/// No bundle of the issuer is in force any more.
fn supersede(client: &mut SpiClient<'_>, issuer: &str) -> Result<(), Error> {
    const SUPERSEDE: &str = "
        UPDATE entitlements.bundles SET superseded_at = greatest(pg_catalog.now(), accepted_at), document = NULL, revoked = NULL
         WHERE issuer = $1 AND superseded_at IS NULL";
    client.update(SUPERSEDE, None, &[issuer.into()])?;
    Ok(())
}

/// The source of the rows that came by a bundle of this issuer.
pub fn source_of(issuer: &str) -> String {
    format!("{SOURCE_PREFIX}{issuer}")
}

/// What sources of rows that came by a bundle begin with.
pub const SOURCE_PREFIX: &str = "bundle:";

/// Whether rows with this source came by a bundle.
pub fn is_of_bundle(source: &[u8]) -> bool {
    source.starts_with(SOURCE_PREFIX.as_bytes())
}
