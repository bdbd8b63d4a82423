//! What became of the bundles in force: their standing, and whether anybody changed what they brought.

use super::deployment::Deployment;
use super::difference;
use super::stated::{self, Catalog};
use super::{present, source_of, trust};
use crate::accounts::arguments::{required, timestamp, transaction_time};
use crate::catalog::stored;
use crate::error::Error;
use crate::licence;
use crate::pg::error::or_raise;
use entitlements_bundle::{BUNDLE_LIMITS, BUNDLE_TYPE, Bundle, Digest, Jws, Mode, Standing, Terms, TrustSet};
use entitlements_model::catalog;
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

/// The bundle in force of an issuer.
pub struct Status {
    pub issuer: String,
    pub sequence: i64,
    pub kid: String,
    pub missed: i64,
    pub accepted_at: Time,
    pub terms: Terms,
    pub standing: Standing,
    /// What is not as the bundle has it; None if nobody looked.
    pub faults: Option<Vec<String>>,
    digest: String,
}

#[expect(clippy::type_complexity, reason = "the columns of the SQL function")]
#[pg_extern(sql = false)]
fn bundle_status(
    verify: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(issuer, String),
        name!(sequence, i64),
        name!(mode, String),
        name!(phase, String),
        name!(heartbeat_missed, bool),
        name!(clock_behind, bool),
        name!(denies, bool),
        name!(missed, i64),
        name!(issued_at, TimestampWithTimeZone),
        name!(heartbeat_due_at, Option<TimestampWithTimeZone>),
        name!(expires_at, TimestampWithTimeZone),
        name!(grace_ends_at, TimestampWithTimeZone),
        name!(accepted_at, TimestampWithTimeZone),
        name!(kid, String),
        name!(tampered, Option<bool>),
        name!(faults, Option<Vec<String>>),
    ),
> {
    let found = or_raise(required("verify", verify).and_then(|verify| Spi::connect(|client| all(client, verify))));
    TableIterator::new(found.into_iter().map(|status| {
        let Status { terms, standing, .. } = status;
        (
            status.issuer,
            status.sequence,
            terms.mode.as_str().to_owned(),
            standing.phase.as_str().to_owned(),
            standing.heartbeat_missed,
            standing.clock_behind,
            standing.denial.is_some(),
            status.missed,
            timestamp(terms.issued_at),
            terms.heartbeat_due.map(timestamp),
            timestamp(terms.expires),
            timestamp(terms.grace_ends),
            timestamp(status.accepted_at),
            status.kid,
            status.faults.as_ref().map(|faults| !faults.is_empty()),
            status.faults,
        )
    }))
}

const IN_FORCE: &str = "
    SELECT issuer, sequence, digest, kid, issued_at, expires_at, grace_ends_at, heartbeat_due_at, mode, missed, accepted_at
      FROM entitlements.bundles WHERE superseded_at IS NULL ORDER BY issuer";

/// By issuer.
pub fn all(client: &SpiClient<'_>, verify: bool) -> Result<Vec<Status>, Error> {
    let deployment = Deployment::read(client)?;
    let mut statuses = Vec::new();
    for row in client.select(IN_FORCE, None, &[])? {
        statuses.push(Status::read(&row, &deployment)?);
    }
    if verify && !statuses.is_empty() {
        let trust = trust::read(client)?;
        for status in &mut statuses {
            status.faults = Some(status.verify(client, &deployment, &trust)?);
        }
    }
    Ok(statuses)
}

impl Status {
    fn read(row: &SpiHeapTupleData<'_>, deployment: &Deployment) -> Result<Self, Error> {
        let missing = || Error::Internal("a bundle in force lacks a column".to_owned());
        let text = |column| row.get::<String>(column)?.ok_or_else(missing);
        let number = |column| row.get::<i64>(column)?.ok_or_else(missing);
        let time = |column| Ok::<_, Error>(row.get::<TimestampWithTimeZone>(column)?.map(Time::from));
        let mode = text(9)?;
        let terms = Terms {
            issued_at: time(5)?.ok_or_else(missing)?,
            expires: time(6)?.ok_or_else(missing)?,
            grace_ends: time(7)?.ok_or_else(missing)?,
            heartbeat_due: time(8)?,
            mode: mode.parse::<Mode>().map_err(|_| missing())?,
        };
        Ok(Self {
            issuer: text(1)?,
            sequence: number(2)?,
            digest: text(3)?,
            kid: text(4)?,
            missed: number(10)?,
            accepted_at: time(11)?.ok_or_else(missing)?,
            standing: terms.standing(deployment.clock()),
            terms,
            faults: None,
        })
    }

    /// Checks the stored document with the key that signed it, and compares it with what is stored beside it.
    fn verify(&self, client: &SpiClient<'_>, deployment: &Deployment, trust: &TrustSet) -> Result<Vec<String>, Error> {
        const KEPT: &str = "SELECT document, revoked FROM entitlements.bundles WHERE issuer = $1 AND superseded_at IS NULL";
        let found = client.select(KEPT, Some(1), &[self.issuer.as_str().into()])?;
        let (document, revoked) = found.first().get_two::<Vec<u8>, Vec<String>>()?;
        let (document, revoked) = (document.unwrap_or_default(), revoked.unwrap_or_default());
        let bundle = match self.signed(&document, trust) {
            Ok(bundle) => bundle,
            Err(fault) => return Ok(vec![fault.to_owned()]),
        };
        drop(document);
        let mut faults = Vec::new();
        if bundle.issuer != self.issuer || bundle.sequence != self.sequence || Terms::of(&bundle) != self.terms {
            faults.push("the stored terms are not those of the document".to_owned());
        }
        if deployment.name.as_deref() != Some(&bundle.audience) {
            faults.push("the document is for a database of another name".to_owned());
        }
        faults.extend(self.compare_catalog(client, &bundle)?);
        faults.extend(self.compare(client, &bundle)?);
        faults.extend(licence::delegation_faults(client, &bundle)?);
        if !revoked.iter().eq(&bundle.revoked) {
            faults.push("the stored list of revoked licences is not that of the document".to_owned());
        }
        Ok(faults)
    }

    fn signed(&self, document: &[u8], trust: &TrustSet) -> Result<Bundle, &'static str> {
        let text = std::str::from_utf8(document).map_err(|_| "the stored document is not a bundle")?;
        let jws = Jws::parse(text, BUNDLE_TYPE, BUNDLE_LIMITS.bytes).map_err(|_| "the stored document is not a bundle")?;
        let signer = trust.get(jws.kid()).ok_or("the key that signed the stored document is not known any more")?;
        let payload = jws.verify(&signer.key).ok_or("the stored document is not what its key signed")?;
        if Digest::of(&payload).to_string() != self.digest || signer.key.kid().to_string() != self.kid {
            return Err("the stored document is not the one that was accepted");
        }
        Bundle::parse(&payload).map_err(|_| "the stored document is not a bundle")
    }

    /// What the catalog would have to become to be as the document states, with the versions of plans that were the latest when it
    /// was accepted: those are what its subscriptions hold.
    fn compare_catalog(&self, client: &SpiClient<'_>, bundle: &Bundle) -> Result<Option<String>, Error> {
        let Some(document) = &bundle.catalog else { return Ok(None) };
        let state = stored::read_at(client, self.accepted_at)?;
        Ok(match catalog::plan_changes(&state, document) {
            Ok(changes) => changes.first().map(|first| {
                format!(
                    "the catalog is not as the document states in {} places, such as {} {}",
                    changes.len(),
                    first.object().as_str(),
                    first.key()
                )
            }),
            Err(_) => Some("the catalog conflicts with what the document states".to_owned()),
        })
    }

    /// What the issuer's rows would have to become to be as the document states.
    fn compare(&self, client: &SpiClient<'_>, bundle: &Bundle) -> Result<Option<String>, Error> {
        let known = Catalog::read(client, self.accepted_at)?;
        let Ok(mut stated) = known.read_accounts(bundle) else {
            return Ok(Some("plans or features that the document names are not there any more".to_owned()));
        };
        stated::as_stored(client, &mut stated)?;
        let present = present::read(client, &source_of(&self.issuer), stated.iter().map(|account| account.key))?;
        let differences = difference::between(present, stated, transaction_time());
        Ok(differences.first().map(|first| {
            format!(
                "the rows of {} accounts are not as the document states, such as those of {}",
                differences.len(),
                first.key
            )
        }))
    }
}
