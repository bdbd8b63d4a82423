//! The keys that bundles are checked with, as the table has them.

use crate::accounts::arguments::timestamp;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::session::Actor;
use entitlements_bundle::{PublicKey, Purpose, TrustSet, TrustedKey};
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;

/// The keys that sign documents, also those withdrawn. Of a key that has several rows counts the one for bundles that is live,
/// then one for bundles that was withdrawn.
pub fn read(client: &SpiClient<'_>) -> Result<TrustSet, Error> {
    const READ: &str = "SELECT issuer, purpose, jwk::pg_catalog.text, valid_from, valid_until, distrusted_at IS NOT NULL
        FROM entitlements.trusted_keys WHERE purpose <> 'session'
        ORDER BY purpose = 'bundle', distrusted_at IS NULL, id";
    let mut keys = Vec::new();
    for row in client.select(READ, None, &[])? {
        let (Some(issuer), Some(purpose), Some(jwk)) = (row.get(1)?, row.get::<String>(2)?, row.get::<String>(3)?) else {
            continue;
        };
        let key = PublicKey::from_jwk(&jwk)
            .map_err(|_| Error::Internal("a key that is trusted for documents is not one of Ed25519".to_owned()))?;
        keys.push(TrustedKey {
            key,
            issuer,
            purpose: purpose.parse().map_err(|_| Error::Internal(format!("keys have no purpose {purpose}")))?,
            not_before: row.get::<TimestampWithTimeZone>(4)?.map_or(BEGINNING, Time::from),
            not_after: row.get::<TimestampWithTimeZone>(5)?.map_or(FOREVER, Time::from),
            distrusted: row.get(6)?.unwrap_or(true),
        });
    }
    Ok(keys.into_iter().collect())
}

/// Trusts keys that a bundle introduces, signed by the key `by`.
pub fn introduce(client: &mut SpiClient<'_>, keys: &[TrustedKey], by: &str, reason: &str) -> Result<(), Error> {
    for known in keys {
        let jwk = known.key.to_jwk().to_string();
        let kid = known.key.kid().to_string();
        client.update(
            "INSERT INTO entitlements.trusted_keys (kid, issuer, purpose, jwk, algorithm, valid_from, valid_until, created_by, introduced_by)
             VALUES ($1, $2, $3, $4::pg_catalog.jsonb, 'EdDSA', $5, $6, $7, $8)",
            None,
            &[
                kid.as_str().into(),
                known.issuer.as_str().into(),
                Purpose::Bundle.as_str().into(),
                jwk.into(),
                timestamp(known.not_before).into(),
                timestamp(known.not_after).into(),
                Actor::current().role.into(),
                by.into(),
            ],
        )?;
        let change = Change {
            action: "trust",
            object: "key",
            object_id: kid,
            old: None,
            new: Some(json!({ "issuer": known.issuer, "purpose": known.purpose.as_str(), "introduced_by": by })),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, Chain::Catalog, &[change])?;
    }
    Ok(())
}
