//! What an issuer has granted here so far: the rows with its source, as they are believed now.

use super::stated::{Exception, Terms};
use crate::accounts::feature_override::Value;
use crate::error::Error;
use crate::pg::rows::{self, QueryRow};
use crate::row::present;
use entitlements_model::kind::Status;
use entitlements_model::time::Time;
use entitlements_model::timeline::Stretch;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use pgrx::spi::SpiClient;
use std::borrow::Cow;

pub struct Row {
    pub row_id: i64,
    pub stretch: Stretch<Terms>,
    pub recorded_at: Time,
}

pub struct PresentSubscription {
    pub id: i64,
    pub reference: Option<String>,
    pub rows: Vec<Row>,
}

pub struct PresentOverride {
    pub id: i64,
    pub feature: i32,
    pub exception: Exception<'static>,
    pub starts_at: Time,
}

#[derive(Default)]
pub struct PresentAccount {
    pub id: i64,
    pub subscriptions: Vec<PresentSubscription>,
    pub overrides: Vec<PresentOverride>,
}

const SUBSCRIPTIONS: &str = "
    SELECT account.key, held.account_id, held.id, held.source_ref, held.row_id, held.plan_id, held.plan_version_id, held.status,
           held.quantity, held.starts_at, held.ends_at, held.term_starts_at, held.grace_until, held.recorded_at
      FROM entitlements.subscriptions AS held
      JOIN entitlements.accounts AS account ON account.id = held.account_id
     WHERE held.source = $1 AND held.superseded_at IS NULL
     ORDER BY held.account_id, held.id, held.starts_at, held.ends_at, held.row_id";

const OVERRIDES: &str = "
    SELECT account.key, exception.account_id, exception.id, exception.feature_id, exception.mode, exception.enabled,
           exception.config::pg_catalog.text, exception.amount::pg_catalog.text, exception.reason, exception.expires_at, exception.starts_at
      FROM entitlements.overrides AS exception
      JOIN entitlements.accounts AS account ON account.id = exception.account_id
     WHERE exception.source = $1 AND exception.ended_at IS NULL
     ORDER BY exception.account_id, exception.feature_id";

/// By the account's key.
pub type PresentAccounts = HashMap<String, PresentAccount, RandomState>;

/// The accounts that have anything of the issuer, and those among the `stated` keys that have nothing of it.
pub fn read<'a>(
    client: &SpiClient<'_>,
    source: &str,
    stated: impl Iterator<Item = &'a str>,
) -> Result<PresentAccounts, Error> {
    let mut accounts = PresentAccounts::default();
    rows::each(client, SUBSCRIPTIONS, &[source.into()], |row| {
        let account = account_of(&mut accounts, row)?;
        let id = stored(row.int8(3))?;
        if account.subscriptions.last().is_none_or(|last| last.id != id) {
            let reference = row.text(4).map(str::to_owned);
            account.subscriptions.push(PresentSubscription { id, reference, rows: Vec::with_capacity(1) });
        }
        account.subscriptions.last_mut().expect("one was just pushed").rows.push(stretch(row)?);
        Ok::<_, Error>(())
    })?;
    rows::each(client, OVERRIDES, &[source.into()], |row| {
        account_of(&mut accounts, row)?.overrides.push(exception(row)?);
        Ok::<_, Error>(())
    })?;
    let others = stated.filter(|key| !accounts.contains_key(*key)).collect();
    let found = ids(client, others)?.into_iter();
    accounts.extend(found.map(|(key, id)| (key, PresentAccount { id, ..PresentAccount::default() })));
    Ok(accounts)
}

fn account_of<'a>(accounts: &'a mut PresentAccounts, row: &QueryRow<'_>) -> Result<&'a mut PresentAccount, Error> {
    let id = stored(row.int8(2))?;
    let account = accounts.entry_ref(stored(row.text(1))?);
    Ok(account.or_insert_with(|| PresentAccount { id, ..PresentAccount::default() }))
}

fn word<T: std::str::FromStr>(word: &str) -> Result<T, Error> {
    word.parse().map_err(|_| Error::Internal(format!("an issuer's row has the unknown word {word}")))
}

fn stretch(row: &QueryRow<'_>) -> Result<Row, Error> {
    Ok(Row {
        row_id: stored(row.int8(5))?,
        stretch: Stretch {
            status: word::<Status>(stored(row.text(8))?)?,
            starts_at: stored(row.time(10))?,
            ends_at: stored(row.time(11))?,
            term_starts_at: stored(row.time(12))?,
            grace_until: row.time(13),
            terms: Terms { plan: stored(row.int4(6))?, version: row.int8(7), quantity: stored(row.int4(9))? },
        },
        recorded_at: stored(row.time(14))?,
    })
}

fn exception(row: &QueryRow<'_>) -> Result<PresentOverride, Error> {
    Ok(PresentOverride {
        id: stored(row.int8(3))?,
        feature: stored(row.int4(4))?,
        exception: Exception {
            mode: word(stored(row.text(5))?)?,
            value: Value {
                enabled: row.bool(6),
                config: row.text(7).map(str::to_owned),
                amount: row.text(8).map(str::to_owned),
            },
            reason: Cow::Owned(stored(row.text(9))?.to_owned()),
            expires_at: stored(row.time(10))?,
        },
        starts_at: stored(row.time(11))?,
    })
}

/// A value that its table does not allow to be NULL.
fn stored<T>(value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::Internal("an issuer's row has a NULL where none can be".to_owned()))
}

/// The ids of those accounts that are there.
pub fn ids(client: &SpiClient<'_>, keys: Vec<&str>) -> Result<HashMap<String, i64>, Error> {
    const IDS: &str = "SELECT account.key, account.id FROM pg_catalog.unnest($1) AS stated (key)
        JOIN entitlements.accounts AS account ON account.key = stated.key";
    let mut ids = HashMap::with_capacity(keys.len());
    if keys.is_empty() {
        return Ok(ids);
    }
    for row in client.select(IDS, None, &[keys.into()])? {
        ids.insert(present(&row, 1)?, present(&row, 2)?);
    }
    Ok(ids)
}
