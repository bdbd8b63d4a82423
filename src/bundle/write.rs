//! Writing what differs: a few statements over arrays, however many accounts there are.
//!
//! The accounts that change take their turns first, in the order of their ids as everywhere. What was compared before may have
//! changed while this waited: then nothing is written and the caller compares again, now that nobody else can change it.

use super::difference::AccountDifference;
use super::present;
use super::stated::Catalog;
use crate::accounts::arguments::timestamp;
use crate::audit::{self, Chain, Change};
use crate::error::Error;
use crate::pg::session::Actor;
use crate::pg::subtransaction::upsert;
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::value::RawValue;

/// Whether the differences are still what has to change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Written,
    CompareAgain,
}

/// How often accounts are compared anew because somebody changed an issuer's rows meanwhile. With their turns taken nobody
/// can, so the second time is the last unless accounts come into play that were equal before.
pub const MOST_COMPARISONS: usize = 10;

/// Why rows are written, for the audit log.
#[derive(Clone, Copy)]
pub struct Cause<'a> {
    pub action: &'static str,
    /// Its issuer and sequence number.
    pub bundle: &'a str,
    pub reason: Option<&'a str>,
}

/// Writes the differences as changes of `source`. Each step has a connection of its own, whose end frees its arrays and results.
pub fn write(
    source: &str,
    cause: Cause<'_>,
    differences: &mut [AccountDifference<'_>],
    catalog: &Catalog,
) -> Result<Outcome, Error> {
    if differences.is_empty() {
        return Ok(Outcome::Written);
    }
    // Before the ids are known: it tells who is new.
    let sides: Vec<_> = differences.iter().map(|difference| difference.sides(catalog)).collect();
    Spi::connect_mut(|client| create_accounts(client, differences))?;
    let chains: Vec<Chain> = differences.iter().map(|difference| Chain::Account(account_id(difference))).collect();
    Spi::connect_mut(|client| audit::take_turns(client, &chains).map(drop))?;
    if !Spi::connect_mut(|client| still_so(client, differences))? {
        return Ok(Outcome::CompareAgain);
    }
    Spi::connect_mut(|client| supersede(client, differences))?;
    Spi::connect_mut(|client| add_subscriptions(client, source, differences))?;
    Spi::connect_mut(|client| end_overrides(client, cause.bundle, differences))?;
    Spi::connect_mut(|client| add_overrides(client, source, differences))?;
    let entry = |(old, new): (Option<Box<RawValue>>, Option<Box<RawValue>>)| Change {
        action: cause.action,
        object: "bundle",
        object_id: cause.bundle.to_owned(),
        old,
        new,
        reason: cause.reason.map(str::to_owned),
    };
    let entries: Vec<Change<Box<RawValue>>> = sides.into_iter().map(entry).collect();
    let entries: Vec<(Chain, &[Change<Box<RawValue>>])> = chains.into_iter().zip(entries.chunks(1)).collect();
    Spi::connect_mut(|client| audit::record_all(client, &entries))?;
    Ok(Outcome::Written)
}

fn account_id(difference: &AccountDifference<'_>) -> i64 {
    difference.id.expect("accounts that were missing have been created")
}

fn create_accounts(client: &mut SpiClient<'_>, differences: &mut [AccountDifference<'_>]) -> Result<(), Error> {
    let missing = |difference: &&mut AccountDifference<'_>| difference.id.is_none();
    let keys: Vec<String> = differences.iter_mut().filter(missing).map(|difference| difference.key.to_string()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    upsert(
        client,
        c"accounts",
        "INSERT INTO entitlements.accounts (key, created_at)
         SELECT key, pg_catalog.now() FROM pg_catalog.unnest($1) AS stated (key)
         ON CONFLICT (key) DO NOTHING",
        &[keys.clone().into()],
    )?;
    let ids = present::ids(client, keys.iter().map(String::as_str).collect())?;
    for difference in differences.iter_mut().filter(missing) {
        difference.id = ids.get(&*difference.key).copied();
    }
    match differences.iter().find(|difference| difference.id.is_none()) {
        None => Ok(()),
        Some(_) => Err(Error::Serialization),
    }
}

/// Whether the rows that were compared are still there, and none of the accounts was erased meanwhile.
fn still_so(client: &SpiClient<'_>, differences: &[AccountDifference<'_>]) -> Result<bool, Error> {
    let subscriptions = differences.iter().flat_map(|difference| &difference.subscriptions);
    let rows: Vec<i64> = subscriptions.flat_map(|difference| difference.superseded.iter().copied()).collect();
    let overrides = differences.iter().flat_map(|difference| &difference.overrides);
    let overrides: Vec<i64> = overrides.filter_map(|difference| Some(difference.old.as_ref()?.id)).collect();
    let accounts: Vec<i64> = differences.iter().map(account_id).collect();
    let expected = (rows.len() + overrides.len()) as i64;
    const STILL: &str = "
        SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.unnest($1) AS compared (row_id)
                  JOIN entitlements.subscriptions AS held ON held.row_id = compared.row_id WHERE held.superseded_at IS NULL)
             + (SELECT pg_catalog.count(*) FROM pg_catalog.unnest($2) AS compared (id)
                  JOIN entitlements.overrides AS exception ON exception.id = compared.id WHERE exception.ended_at IS NULL)
             - (SELECT pg_catalog.count(*) FROM pg_catalog.unnest($3) AS changing (id)
                  JOIN entitlements.accounts AS account ON account.id = changing.id WHERE account.erased_at IS NOT NULL)";
    let found = client.select(STILL, Some(1), &[rows.into(), overrides.into(), accounts.into()])?;
    Ok(found.first().get_one::<i64>()? == Some(expected))
}

fn supersede(client: &mut SpiClient<'_>, differences: &[AccountDifference<'_>]) -> Result<(), Error> {
    let subscriptions = differences.iter().flat_map(|difference| &difference.subscriptions);
    let (rows, times): (Vec<i64>, Vec<TimestampWithTimeZone>) = subscriptions
        .flat_map(|difference| difference.superseded.iter().map(|row| (*row, timestamp(difference.recorded_at))))
        .unzip();
    if rows.is_empty() {
        return Ok(());
    }
    client.update(
        "UPDATE entitlements.subscriptions AS held SET superseded_at = stated.at
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS stated (row_id, at)
          WHERE held.row_id = stated.row_id",
        None,
        &[rows.into(), times.into()],
    )?;
    Ok(())
}

#[derive(Default)]
struct SubscriptionColumns {
    ids: Vec<Option<i64>>,
    accounts: Vec<i64>,
    plans: Vec<i32>,
    versions: Vec<Option<i64>>,
    statuses: Vec<&'static str>,
    quantities: Vec<i32>,
    starts: Vec<TimestampWithTimeZone>,
    ends: Vec<TimestampWithTimeZone>,
    term_starts: Vec<TimestampWithTimeZone>,
    graces: Vec<Option<TimestampWithTimeZone>>,
    references: Vec<String>,
    recorded: Vec<TimestampWithTimeZone>,
}

/// A subscription that is new is one stretch, so it takes one id.
fn add_subscriptions(client: &mut SpiClient<'_>, source: &str, differences: &[AccountDifference<'_>]) -> Result<(), Error> {
    let mut columns = SubscriptionColumns::default();
    for account in differences {
        for difference in &account.subscriptions {
            for stretch in &difference.added {
                columns.ids.push(difference.id);
                columns.accounts.push(account_id(account));
                columns.plans.push(stretch.terms.plan);
                columns.versions.push(stretch.terms.version);
                columns.statuses.push(stretch.status.as_str());
                columns.quantities.push(stretch.terms.quantity);
                columns.starts.push(timestamp(stretch.starts_at));
                columns.ends.push(timestamp(stretch.ends_at));
                columns.term_starts.push(timestamp(stretch.term_starts_at));
                columns.graces.push(stretch.grace_until.map(timestamp));
                columns.references.push(difference.reference.to_string());
                columns.recorded.push(timestamp(difference.recorded_at));
            }
        }
    }
    if columns.ids.is_empty() {
        return Ok(());
    }
    client.update(
        "INSERT INTO entitlements.subscriptions
                (id, account_id, plan_id, plan_version_id, status, quantity, starts_at, ends_at, term_starts_at, grace_until,
                 source, source_ref, recorded_at, recorded_by)
         SELECT coalesce(stated.id, pg_catalog.nextval('entitlements.subscription_ids')), stated.account_id, stated.plan_id,
                stated.version_id, stated.status, stated.quantity, stated.starts_at, stated.ends_at, stated.term_starts_at,
                stated.grace_until, $13, stated.source_ref, stated.recorded_at, $14
           FROM ROWS FROM (
                    pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                    pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9), pg_catalog.unnest($10),
                    pg_catalog.unnest($11), pg_catalog.unnest($12)
                ) AS stated (id, account_id, plan_id, version_id, status, quantity, starts_at, ends_at, term_starts_at, grace_until,
                             source_ref, recorded_at)",
        None,
        &[
            columns.ids.into(),
            columns.accounts.into(),
            columns.plans.into(),
            columns.versions.into(),
            columns.statuses.into(),
            columns.quantities.into(),
            columns.starts.into(),
            columns.ends.into(),
            columns.term_starts.into(),
            columns.graces.into(),
            columns.references.into(),
            columns.recorded.into(),
            source.into(),
            Actor::current().role.into(),
        ],
    )?;
    Ok(())
}

fn end_overrides(client: &mut SpiClient<'_>, bundle: &str, differences: &[AccountDifference<'_>]) -> Result<(), Error> {
    let overrides = differences.iter().flat_map(|difference| &difference.overrides);
    let (ids, reasons): (Vec<i64>, Vec<String>) = overrides
        .filter_map(|difference| {
            let reason = difference.stated.as_ref().map_or(bundle, |stated| &stated.reason);
            Some((difference.old.as_ref()?.id, reason.to_owned()))
        })
        .unzip();
    if ids.is_empty() {
        return Ok(());
    }
    client.update(
        "UPDATE entitlements.overrides AS exception
            SET ended_at = greatest(pg_catalog.now(), exception.starts_at), ended_by = $3, ended_reason = stated.reason
           FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS stated (id, reason)
          WHERE exception.id = stated.id",
        None,
        &[ids.into(), reasons.into(), Actor::current().role.into()],
    )?;
    Ok(())
}

#[derive(Default)]
struct OverrideColumns {
    accounts: Vec<i64>,
    features: Vec<i32>,
    modes: Vec<&'static str>,
    enabled: Vec<Option<bool>>,
    configs: Vec<Option<String>>,
    amounts: Vec<Option<String>>,
    reasons: Vec<String>,
    starts: Vec<TimestampWithTimeZone>,
    expiries: Vec<TimestampWithTimeZone>,
}

fn add_overrides(client: &mut SpiClient<'_>, source: &str, differences: &[AccountDifference<'_>]) -> Result<(), Error> {
    let now = crate::accounts::arguments::transaction_time();
    let mut columns = OverrideColumns::default();
    for account in differences {
        for difference in &account.overrides {
            let Some(stated) = &difference.stated else { continue };
            let starts_at: Time = difference.old.as_ref().map_or(now, |old| old.starts_at.max(now));
            columns.accounts.push(account_id(account));
            columns.features.push(difference.feature);
            columns.modes.push(stated.mode.as_str());
            columns.enabled.push(stated.value.enabled);
            columns.configs.push(stated.value.config.clone());
            columns.amounts.push(stated.value.amount.clone());
            columns.reasons.push(stated.reason.to_string());
            columns.starts.push(timestamp(starts_at));
            columns.expiries.push(timestamp(stated.expires_at.max(starts_at)));
        }
    }
    if columns.accounts.is_empty() {
        return Ok(());
    }
    client.update(
        "INSERT INTO entitlements.overrides
                (account_id, feature_id, kind, mode, enabled, config, amount, reason, source, created_by, starts_at, expires_at)
         SELECT stated.account_id, stated.feature_id, feature.kind, stated.mode, stated.enabled, stated.config::pg_catalog.jsonb,
                stated.amount::pg_catalog.numeric, stated.reason, $10, $11, stated.starts_at, stated.expires_at
           FROM ROWS FROM (
                    pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                    pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9)
                ) AS stated (account_id, feature_id, mode, enabled, config, amount, reason, starts_at, expires_at)
           JOIN entitlements.features AS feature ON feature.id = stated.feature_id",
        None,
        &[
            columns.accounts.into(),
            columns.features.into(),
            columns.modes.into(),
            columns.enabled.into(),
            columns.configs.into(),
            columns.amounts.into(),
            columns.reasons.into(),
            columns.starts.into(),
            columns.expiries.into(),
            source.into(),
            Actor::current().role.into(),
        ],
    )?;
    Ok(())
}
