//! Idempotency keys: a call that is made again under its key gets the first answer and changes nothing.
//!
//! The first caller inserts the key before it does anything else; another waits there for the end of the first one's
//! transaction. If that commits the answer is there to be read, if it is rolled back the key is free again. What is stored is
//! the whole answer, so the second is exactly the first, a denial included.

use super::as_owner_changing;
use super::decision::{Amounts, Decision};
use crate::error::Error;
use crate::pg::session::refuse_read_only;
use crate::pg::snapshot::statement_time;
use crate::pg::subtransaction::upsert;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::meter::request;
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A call that may have been made before.
pub struct Call<'a> {
    pub function: &'static str,
    pub account: Option<&'a str>,
    pub key: &'a str,
    /// What else was passed.
    pub arguments: Vec<Option<&'a str>>,
}

/// Most bytes of a key.
pub const KEY_BYTES: usize = 255;

/// What keeps a text from being a key.
pub fn fault_of(key: &str) -> Option<String> {
    match key.len() {
        0 => Some("it is empty".to_owned()),
        1..=KEY_BYTES => None,
        _ => Some(format!("it is longer than {KEY_BYTES} bytes")),
    }
}

/// That a key stands for another call.
pub fn used_otherwise(key: &str) -> Error {
    Error::Conflict {
        message: format!("idempotency key \"{key}\" was used with other arguments"),
        hint: "A key stands for one call: use another one for another call.".to_owned(),
    }
}

/// What became of a claim to a key.
enum Claim {
    /// This call is the first: it has this account's key.
    First(i64),
    Repeated(String),
    UnknownAccount,
}

/// Does the work, or gives what it gave when it was done first under this key. An account that is unknown keeps no keys.
pub fn once(call: &Call<'_>, work: impl FnOnce() -> Result<Vec<Decision>, Error>) -> Result<Vec<Decision>, Error> {
    if let Some(fault) = fault_of(call.key) {
        return Err(Error::argument("idempotency_key", fault));
    }
    refuse_read_only();
    let digest = request::digest(call.function, call.arguments.iter().copied());
    match as_owner_changing(|client| claim(client, call, &digest))? {
        Claim::UnknownAccount => work(),
        Claim::Repeated(result) => restored(&result, call.account),
        Claim::First(account) => {
            let decisions = work()?;
            let result = kept(&decisions);
            as_owner_changing(|client| {
                client.update(
                    "UPDATE entitlements.idempotency_keys SET result = $3 WHERE account_id = $1 AND key = $2",
                    None,
                    &[account.into(), call.key.into(), result.into()],
                )?;
                Ok(())
            })?;
            Ok(decisions)
        }
    }
}

fn claim(client: &mut SpiClient<'_>, call: &Call<'_>, digest: &[u8]) -> Result<Claim, Error> {
    let now = TimestampWithTimeZone::try_from(statement_time()).expect("the clock is within the range of timestamptz");
    loop {
        let inserted = upsert(
            client,
            c"idempotency_keys",
            "INSERT INTO entitlements.idempotency_keys (account_id, key, request, created_at)
             SELECT id, $2, $3, $4 FROM entitlements.accounts WHERE key = $1
             ON CONFLICT (account_id, key) DO NOTHING RETURNING account_id",
            &[call.account.into(), call.key.into(), digest.to_vec().into(), now.into()],
        )?;
        if !inserted.is_empty() {
            return Ok(Claim::First(inserted.first().get_one()?.expect("a key column")));
        }
        let found = client.update(
            "SELECT used.request, used.result FROM entitlements.accounts AS account
               LEFT JOIN entitlements.idempotency_keys AS used ON used.account_id = account.id AND used.key = $2
              WHERE account.key = $1",
            Some(1),
            &[call.account.into(), call.key.into()],
        )?;
        if found.is_empty() {
            return Ok(Claim::UnknownAccount);
        }
        match found.first().get_two::<Vec<u8>, String>()? {
            // It was removed just now, by maintain().
            (None, _) => {}
            (Some(request), Some(result)) if request == digest => return Ok(Claim::Repeated(result)),
            (Some(_), _) => return Err(used_otherwise(call.key)),
        }
    }
}

/// A decision as it is stored; the account is the key's.
#[derive(Serialize, Deserialize)]
struct Kept {
    allowed: bool,
    reason: String,
    feature: String,
    kind: String,
    amounts: Option<KeptAmounts>,
    expires_at: Option<Time>,
}

/// Billionths, as text: JSON's readers take numbers for floats.
#[derive(Serialize, Deserialize)]
struct KeptAmounts {
    /// None: unlimited.
    allowance: Option<String>,
    used: String,
    /// None: unlimited.
    remaining: Option<String>,
    requested: String,
    consumed: String,
    overage: String,
    resets_at: Option<Time>,
}

fn kept(decisions: &[Decision]) -> String {
    let amount = |amount: Amount| amount.nanos().to_string();
    let limit = |allowance| match allowance {
        Allowance::Finite(finite) => Some(amount(finite)),
        Allowance::Unlimited => None,
    };
    let one = |decision: &Decision| Kept {
        allowed: decision.allowed,
        reason: decision.reason.as_str().to_owned(),
        feature: decision.feature.clone(),
        kind: decision.kind.as_str().to_owned(),
        amounts: decision.amounts.map(|amounts| KeptAmounts {
            allowance: limit(amounts.allowance),
            used: amount(amounts.used),
            remaining: limit(amounts.remaining),
            requested: amount(amounts.requested),
            consumed: amounts.consumed.to_string(),
            overage: amount(amounts.overage),
            resets_at: amounts.resets_at,
        }),
        expires_at: decision.expires_at,
    };
    let all: Vec<Kept> = decisions.iter().map(one).collect();
    serde_json::to_string(&all).expect("texts and numbers are written as JSON")
}

fn restored(result: &str, account: Option<&str>) -> Result<Vec<Decision>, Error> {
    let damaged = || Error::Internal("a stored decision cannot be read".to_owned());
    let kept: Vec<Kept> = serde_json::from_str(result).map_err(|_| damaged())?;
    let number = |text: String| i128::from_str(&text).map_err(|_| damaged());
    let amount = |text: String| number(text).map(Amount::calculated);
    let limit = |text: Option<String>| match text {
        Some(text) => amount(text).map(Allowance::Finite),
        None => Ok(Allowance::Unlimited),
    };
    let one = |kept: Kept| {
        let amounts = kept.amounts.map(|kept| {
            Ok::<_, Error>(Amounts {
                allowance: limit(kept.allowance)?,
                used: amount(kept.used)?,
                remaining: limit(kept.remaining)?,
                requested: amount(kept.requested)?,
                consumed: number(kept.consumed)?,
                overage: amount(kept.overage)?,
                resets_at: kept.resets_at,
            })
        });
        Ok(Decision {
            allowed: kept.allowed,
            reason: kept.reason.parse().map_err(|_| damaged())?,
            account: account.map(str::to_owned),
            feature: kept.feature,
            kind: kept.kind.parse().map_err(|_| damaged())?,
            amounts: amounts.transpose()?,
            expires_at: kept.expires_at,
        })
    };
    kept.into_iter().map(one).collect()
}
