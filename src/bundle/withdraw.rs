//! Ending what a key signed.

use super::stated::Catalog;
use super::write::{self, Cause, MOST_COMPARISONS, Outcome};
use super::{difference, present, source_of, supersede};
use crate::accounts::arguments::transaction_time;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::licence;
use entitlements_model::time::FOREVER;
use pgrx::spi::SpiClient;

/// Ends what the bundles in force that this key signed brought; none of them is in force any more. The catalog's turn has been
/// taken. Their sequence numbers stay known, and the same claims signed with another key are accepted again.
pub fn withdraw(client: &mut SpiClient<'_>, kid: &str, reason: &str) -> Result<(), Error> {
    const SIGNED: &str =
        "SELECT issuer, sequence FROM entitlements.bundles WHERE kid = $1 AND superseded_at IS NULL ORDER BY issuer";
    let mut signed: Vec<(String, i64)> = Vec::new();
    for row in client.update(SIGNED, None, &[kid.into()])? {
        signed.extend(row.get(1)?.zip(row.get(2)?));
    }
    for (issuer, sequence) in signed {
        end(client, &issuer, sequence, reason)?;
    }
    Ok(())
}

fn end(client: &mut SpiClient<'_>, issuer: &str, sequence: i64, reason: &str) -> Result<(), Error> {
    let (source, name) = (source_of(issuer), format!("{issuer} {sequence}"));
    let catalog = Catalog::read(client, FOREVER)?;
    let cause = Cause { action: "withdraw", bundle: &name, reason: Some(reason) };
    let mut outcome = Outcome::CompareAgain;
    for _ in 0..MOST_COMPARISONS {
        let present = present::read(client, &source, std::iter::empty())?;
        let mut differences = difference::between(present, Vec::new(), transaction_time());
        outcome = write::write(&source, cause, &mut differences, &catalog)?;
        if outcome == Outcome::Written {
            break;
        }
    }
    if outcome == Outcome::CompareAgain {
        return Err(Error::Serialization);
    }
    licence::end_delegations(client, issuer, reason)?;
    supersede(client, issuer)?;
    let (object_id, reason) = (name, Some(reason.to_owned()));
    let change: Change = Change { action: "withdraw", object: "bundle", object_id, old: None, new: None, reason };
    audit::record(client, Chain::Catalog, &[change])
}
