//! The key that this database signs with, and the public parts of all that it has signed with.
//!
//! The private key is read from its file for each signature: replacing the file is all that a rotation takes. What an earlier key
//! signed can be verified for as long as it holds, since `jwks` still gives that key; unless somebody else has it too, and it is
//! distrusted: then nothing that it signed counts here any more.

use crate::audit::{self, Chain, Change};
use crate::bundle;
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::Actor;
use crate::pg::settings;
use crate::pg::subtransaction::upsert;
use entitlements_bundle::{PrivateKey, PublicKey, Purpose, TrustSet, TrustedKey};
use entitlements_model::time::{BEGINNING, FOREVER};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

/// The key to sign with, noted among those that have signed. NE009 if it was distrusted.
pub fn signing_key(client: &mut SpiClient<'_>) -> Result<PrivateKey, Error> {
    let key = bundle::signing_key()?;
    let kid = key.public().kid().to_string();
    if is_distrusted(client, &kid)? {
        return Err(Error::Conflict {
            message: format!("the signing key {kid} is distrusted"),
            hint: "Put another key into the file that entitlements.signing_key_file names; entitlements-bundle keygen makes one."
                .to_owned(),
        });
    }
    const KNOWN: &str = "SELECT FROM entitlements.signing_keys WHERE kid = $1";
    if !super::exists(client, KNOWN, &[kid.as_str().into()])? {
        upsert(
            client,
            c"signing_keys",
            "INSERT INTO entitlements.signing_keys (kid, jwk, first_used_at) VALUES ($1, $2::pg_catalog.jsonb, pg_catalog.now())
             ON CONFLICT (kid) DO NOTHING",
            &[kid.into(), key.public().to_jwk().to_string().into()],
        )?;
    }
    Ok(key)
}

fn is_distrusted(client: &SpiClient<'_>, kid: &str) -> Result<bool, Error> {
    const DISTRUSTED: &str = "SELECT FROM entitlements.signing_keys WHERE kid = $1 AND distrusted_at IS NOT NULL";
    Ok(!client.select(DISTRUSTED, Some(1), &[kid.into()])?.is_empty())
}

/// What a key that has signed here signs counts no longer: somebody else has it. The catalog's turn has been taken. None if it is
/// no such key, false if it was distrusted before.
pub fn distrust(client: &mut SpiClient<'_>, kid: &str, reason: &str) -> Result<Option<bool>, Error> {
    if !super::exists(client, "SELECT FROM entitlements.signing_keys WHERE kid = $1", &[kid.into()])? {
        return Ok(None);
    }
    let distrusted = super::exists(
        client,
        "UPDATE entitlements.signing_keys SET distrusted_at = pg_catalog.now(), distrusted_by = $2, distrusted_reason = $3
          WHERE kid = $1 AND distrusted_at IS NULL RETURNING kid",
        &[kid.into(), Actor::current().role.into(), reason.into()],
    )?;
    if distrusted {
        let (object_id, reason) = (kid.to_owned(), Some(reason.to_owned()));
        let change: Change = Change { action: "distrust", object: "signing_key", object_id, old: None, new: None, reason };
        audit::record(client, Chain::Catalog, &[change])?;
    }
    Ok(Some(distrusted))
}

/// The keys that have signed here, as they vouch for this database's own licences.
pub fn own_licence_keys(client: &SpiClient<'_>, issuer: &str) -> Result<TrustSet, Error> {
    let mut keys = Vec::new();
    const SIGNED: &str = "SELECT jwk::pg_catalog.text, distrusted_at IS NOT NULL FROM entitlements.signing_keys";
    for row in client.select(SIGNED, None, &[])? {
        let Some(jwk) = row.get::<String>(1)? else { continue };
        let key = PublicKey::from_jwk(&jwk).map_err(|error| Error::Internal(format!("a key that has signed: {error}")))?;
        keys.push(TrustedKey {
            key,
            issuer: issuer.to_owned(),
            purpose: Purpose::Licence,
            not_before: BEGINNING,
            not_after: FOREVER,
            distrusted: row.get(2)?.unwrap_or(true),
        });
    }
    Ok(keys.into_iter().collect())
}

/// Keys of `purpose` that this database trusts, also those that were withdrawn.
pub fn trusted_keys(client: &SpiClient<'_>, purpose: Purpose) -> Result<TrustSet, Error> {
    const READ: &str = "SELECT jwk::pg_catalog.text, issuer, valid_from, valid_until, distrusted_at IS NOT NULL
          FROM entitlements.trusted_keys WHERE purpose = $1 AND algorithm = 'EdDSA' ORDER BY id";
    let mut keys = Vec::new();
    for row in client.select(READ, None, &[purpose.as_str().into()])? {
        let (Some(jwk), Some(issuer)) = (row.get::<String>(1)?, row.get::<String>(2)?) else { continue };
        let Ok(key) = PublicKey::from_jwk(&jwk) else { continue };
        let time = |column| row.get::<TimestampWithTimeZone>(column).map(|time| time.map(i64::from));
        keys.push(TrustedKey {
            key,
            issuer,
            purpose,
            not_before: time(3)?.unwrap_or(FOREVER),
            not_after: time(4)?.unwrap_or(BEGINNING),
            distrusted: row.get(5)?.unwrap_or(true),
        });
    }
    Ok(keys.into_iter().collect())
}

#[pg_extern(sql = false)]
fn jwks() -> JsonbText {
    or_raise(Spi::connect(|client| {
        const IN_USE: &str = "SELECT key.jwk::pg_catalog.text FROM entitlements.signing_keys AS key
              WHERE key.distrusted_at IS NULL
                AND (key.needed_until > pg_catalog.statement_timestamp()
                     OR EXISTS (SELECT FROM entitlements.licences AS licence
                                 WHERE licence.kid = key.kid AND licence.expires_at > pg_catalog.statement_timestamp()))
              ORDER BY key.first_used_at DESC, key.kid";
        let present = settings::signing_key_file().map(|_| bundle::signing_key()).transpose()?;
        let mut keys: Vec<PublicKey> = Vec::new();
        if let Some(key) = present
            && !is_distrusted(client, &key.public().kid().to_string())?
        {
            keys.push(key.public().clone());
        }
        for row in client.select(IN_USE, None, &[])? {
            let jwk = row.get::<String>(1)?.unwrap_or_default();
            let key = PublicKey::from_jwk(&jwk).map_err(|error| Error::Internal(error.to_string()))?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let keys: Vec<String> = keys.iter().map(|key| key.to_jwk().to_string()).collect();
        Ok::<_, Error>(JsonbText(format!(r#"{{"keys":[{}]}}"#, keys.join(","))))
    }))
}
