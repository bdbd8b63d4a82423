//! Whose signatures count: the keys that this database trusts, each for one issuer and one purpose.
//!
//! The table is the owner's alone. A key is never changed: it is trusted, and one day distrusted, and its row stays for whoever
//! asks later what it was trusted for. Both are in the audit log.

use crate::accounts::account::raw;
use crate::accounts::arguments::{required, required_moment, required_text, timestamp, transaction_time};
use crate::audit::{self, Chain, Change};
use crate::bundle::withdraw;
use crate::error::Error;
use crate::licence;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use entitlements_bundle::{PublicKey as BundleKey, Purpose};
use entitlements_model::fault::Fault;
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use entitlements_token::{AccountClaim, PublicKey};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// The purpose of keys that sign session tokens; the others are those of signed documents.
pub const SESSION: &str = "session";

/// Most bytes of issuer, audience and claim.
const MOST_BYTES: usize = 1_000;

/// A key as it is to be trusted.
struct Trust<'a> {
    kid: String,
    algorithm: &'static str,
    jwk: String,
    issuer: &'a str,
    purpose: &'a str,
    audience: Option<&'a str>,
    account_claim: Option<&'a str>,
    /// None: from now on.
    valid_from: Option<Time>,
    valid_until: Time,
}

#[pg_extern(sql = false)]
fn trust_key(
    jwk: Option<JsonbText>,
    issuer: Option<&str>,
    purpose: Option<&str>,
    audience: Option<&str>,
    account_claim: Option<&str>,
    valid_from: Option<TimestampWithTimeZone>,
    valid_until: Option<TimestampWithTimeZone>,
) -> String {
    or_raise(connect_to_change(|client| {
        let JsonbText(jwk) = required("jwk", jwk)?;
        let (issuer, purpose) = (name("issuer", issuer)?, required("purpose", purpose)?);
        let key = PublicKey::from_jwk(&jwk).map_err(|faults| invalid_key(&faults))?;
        let (audience, account_claim) = match purpose {
            SESSION => (Some(name("audience", audience)?), Some(claim(account_claim)?)),
            _ => {
                purpose
                    .parse::<Purpose>()
                    .map_err(|_| Error::argument("purpose", "it is not one of: bundle, session, licence, usage_report"))?;
                if audience.is_some() {
                    return Err(Error::argument("audience", "only keys for session tokens have one"));
                }
                // Documents are signed with Ed25519 alone, and name their key by its thumbprint.
                BundleKey::from_jwk(&jwk).map_err(|error| match error {
                    entitlements_bundle::KeyError::Invalid(faults) => invalid_key(&faults),
                    other => Error::Internal(other.to_string()),
                })?;
                (None, None)
            }
        };
        let valid_from = valid_from.map(|from| required_moment("valid_from", Some(from))).transpose()?;
        let valid_until = valid_until.map_or(FOREVER, Time::from);
        if valid_until <= valid_from.unwrap_or_else(transaction_time) {
            return Err(Error::argument("valid_until", "it is not later than valid_from"));
        }
        let trust = Trust {
            kid: key.kid().to_owned(),
            algorithm: key.algorithm().as_str(),
            jwk: key.to_jwk().to_string(),
            issuer,
            purpose,
            audience,
            account_claim,
            // A document may have been signed before its key is trusted; a token is not.
            valid_from: valid_from.or((purpose != SESSION).then_some(BEGINNING)),
            valid_until,
        };
        add(client, &trust)?;
        Ok(trust.kid)
    }))
}

/// A name that takes part in comparisons and in the audit log.
fn name<'a>(argument: &'static str, value: Option<&'a str>) -> Result<&'a str, Error> {
    match required_text(argument, value)? {
        text if text.len() > MOST_BYTES => Err(Error::argument(argument, format!("it is longer than {MOST_BYTES} bytes"))),
        text => Ok(text),
    }
}

fn claim(value: Option<&str>) -> Result<&str, Error> {
    let text = name("account_claim", value)?;
    match AccountClaim::parse(text) {
        Ok(_) => Ok(text),
        Err(fault) => Err(Error::argument("account_claim", fault.to_string())),
    }
}

/// The first fault; none of them holds a value of the key.
fn invalid_key(faults: &[Fault]) -> Error {
    Error::argument("jwk", faults.first().map_or_else(|| "it is no key".to_owned(), Fault::to_string))
}

/// Trusts the key, unless it is trusted so already.
fn add(client: &mut SpiClient<'_>, trust: &Trust<'_>) -> Result<(), Error> {
    audit::take_turn(client, Chain::Catalog)?;
    let present = client.update(
        "SELECT jwk = $3::pg_catalog.jsonb AND issuer = $4 AND audience IS NOT DISTINCT FROM $5
                AND account_claim IS NOT DISTINCT FROM $6 AND ($7 IS NULL OR valid_from = $7) AND valid_until = $8,
                introduced_by IS NOT NULL
           FROM entitlements.trusted_keys WHERE kid = $1 AND purpose = $2 AND distrusted_at IS NULL",
        Some(1),
        &[
            trust.kid.as_str().into(),
            trust.purpose.into(),
            trust.jwk.as_str().into(),
            trust.issuer.into(),
            trust.audience.into(),
            trust.account_claim.into(),
            trust.valid_from.map(timestamp).into(),
            timestamp(trust.valid_until).into(),
        ],
    )?;
    if !present.is_empty() {
        return match present.first().get_two::<bool, bool>()? {
            (Some(true), Some(false)) => Ok(()),
            (Some(true), _) => vouch(client, trust),
            _ => Err(Error::Conflict {
                message: format!("a key named \"{}\" is trusted for this purpose on other terms", trust.kid),
                hint: "Distrust that one first with entitlements.distrust_key.".to_owned(),
            }),
        };
    }
    let inserted = client.update(
        "INSERT INTO entitlements.trusted_keys AS key
                (kid, purpose, issuer, algorithm, jwk, audience, account_claim, valid_from, valid_until, created_by)
         VALUES ($1, $2, $3, $4, $5::pg_catalog.jsonb, $6, $7, $8, $9, $10) RETURNING pg_catalog.to_jsonb(key)::pg_catalog.text",
        None,
        &[
            trust.kid.as_str().into(),
            trust.purpose.into(),
            trust.issuer.into(),
            trust.algorithm.into(),
            trust.jwk.as_str().into(),
            trust.audience.into(),
            trust.account_claim.into(),
            timestamp(trust.valid_from.unwrap_or_else(transaction_time)).into(),
            timestamp(trust.valid_until).into(),
            Actor::current().role.into(),
        ],
    )?;
    let new = inserted.first().get_one::<String>()?.map(raw);
    let change = Change { action: "trust", object: "key", object_id: trust.kid.clone(), old: None, new, reason: None };
    audit::record(client, Chain::Catalog, &[change])
}

/// Who calls for a key that a bundle introduced vouches for it: what becomes of the other key is nothing to it any more.
fn vouch(client: &mut SpiClient<'_>, trust: &Trust<'_>) -> Result<(), Error> {
    let vouched = client.update(
        "UPDATE entitlements.trusted_keys AS key SET introduced_by = NULL
          WHERE kid = $1 AND purpose = $2 AND distrusted_at IS NULL RETURNING pg_catalog.to_jsonb(key)::pg_catalog.text",
        None,
        &[trust.kid.as_str().into(), trust.purpose.into()],
    )?;
    let new = vouched.first().get_one::<String>()?.map(raw);
    let change = Change { action: "trust", object: "key", object_id: trust.kid.clone(), old: None, new, reason: None };
    audit::record(client, Chain::Catalog, &[change])
}

#[pg_extern(sql = false)]
fn distrust_key(kid: Option<&str>, reason: Option<&str>, rows: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| {
        let (kid, reason) = (required("kid", kid)?, required_text("reason", reason)?);
        let ends_rows = match required("rows", rows)? {
            "keep" => false,
            "end" => true,
            _ => return Err(Error::argument("rows", "it is not one of: keep, end")),
        };
        audit::take_turn(client, Chain::Catalog)?;
        let own = licence::distrust_signing_key(client, kid, reason)?;
        let known = client.update("SELECT FROM entitlements.trusted_keys WHERE kid = $1", Some(1), &[kid.into()])?;
        if known.is_empty() && own.is_none() {
            return Err(Error::UnknownRow { object: "key", id: kid.to_owned() });
        }
        let line = line_of(client, kid)?;
        let affected = if ends_rows { line.clone() } else { vec![kid.to_owned()] };
        let changed = distrust(client, kid, &affected, reason)?;
        let still_trusted = trusted_of(client, &line)?;
        if ends_rows {
            for kid in affected.iter().filter(|kid| !still_trusted.contains(kid)) {
                withdraw(client, kid, reason)?;
            }
        } else if !still_trusted.is_empty() {
            pgrx::notice!(
                "keys that were introduced under this one are still trusted: {}; if it was copied, call again with rows => 'end'",
                still_trusted.join(", ")
            );
        }
        Ok(changed || own == Some(true))
    }))
}

/// The key, those that its bundles introduced, those that theirs did, and so on.
fn line_of(client: &mut SpiClient<'_>, kid: &str) -> Result<Vec<String>, Error> {
    const LINE: &str = "
        WITH RECURSIVE line (kid) AS (
            SELECT $1 COLLATE \"C\"
            UNION
            SELECT key.kid FROM entitlements.trusted_keys AS key JOIN line ON key.introduced_by = line.kid)
        SELECT kid FROM line";
    let mut line = Vec::new();
    for row in client.update(LINE, None, &[kid.into()])? {
        line.extend(row.get::<String>(1)?);
    }
    Ok(line)
}

/// False if none of them is trusted. But for `kid` itself, what somebody has vouched for stays.
fn distrust(client: &mut SpiClient<'_>, kid: &str, line: &[String], reason: &str) -> Result<bool, Error> {
    let distrusted = client.update(
        "UPDATE entitlements.trusted_keys AS key SET distrusted_at = pg_catalog.now(), distrusted_by = $3, distrusted_reason = $4
          WHERE distrusted_at IS NULL AND (kid = $1 OR (kid = ANY ($2) AND introduced_by = ANY ($2)))
         RETURNING kid, pg_catalog.to_jsonb(key)::pg_catalog.text",
        None,
        &[kid.into(), line.to_vec().into(), Actor::current().role.into(), reason.into()],
    )?;
    let mut changes = Vec::new();
    for row in distrusted {
        let (object_id, reason) = (row.get::<String>(1)?.unwrap_or_default(), Some(reason.to_owned()));
        let old = row.get::<String>(2)?.map(raw);
        changes.push(Change { action: "distrust", object: "key", object_id, old, new: None, reason });
    }
    audit::record(client, Chain::Catalog, &changes)?;
    Ok(!changes.is_empty())
}

/// Those of the keys that are trusted for bundles.
fn trusted_of(client: &mut SpiClient<'_>, line: &[String]) -> Result<Vec<String>, Error> {
    const TRUSTED: &str = "SELECT kid FROM entitlements.trusted_keys
          WHERE kid = ANY ($1) AND purpose = 'bundle' AND distrusted_at IS NULL ORDER BY kid";
    let mut trusted = Vec::new();
    for row in client.update(TRUSTED, None, &[line.to_vec().into()])? {
        trusted.extend(row.get::<String>(1)?);
    }
    Ok(trusted)
}
