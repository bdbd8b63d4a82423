//! Blocks: suspensions, each owned by a source that alone lifts it.

use super::account::{Account, raw};
use super::arguments::{required_source, required_text, timestamp, transaction_time};
use super::feature::Feature;
use crate::audit::{self, Change};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::session::{Actor, connect_to_change};
use entitlements_model::time::Time;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::value::RawValue;

#[pg_extern(sql = false)]
fn block(account: Option<&str>, source: Option<&str>, reason: Option<&str>, feature: Option<&str>) -> i64 {
    or_raise(connect_to_change(|client| {
        let (source, reason) = (required_source(source)?, required_text("reason", reason)?);
        let account = Account::take(client, account)?;
        let feature_id = feature.map(|feature| Feature::find(client, feature)).transpose()?.map(|feature| feature.id);
        let found = client.update(
            "SELECT id FROM entitlements.blocks
              WHERE account_id = $1 AND source = $2 AND feature_id IS NOT DISTINCT FROM $3 AND ended_at IS NULL AND reason = $4",
            Some(1),
            &[account.id.into(), source.into(), feature_id.into(), reason.into()],
        )?;
        if !found.is_empty() {
            return Ok(found.first().get_one()?.expect("a key column"));
        }
        let ended = lift(client, &account, source, feature_id, reason)?;
        let starts_at = ended.as_ref().map_or_else(transaction_time, |lifted| lifted.ended_at);
        let inserted = client.update(
            "INSERT INTO entitlements.blocks AS block (account_id, feature_id, source, reason, created_by, starts_at)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING id, pg_catalog.to_jsonb(block)::pg_catalog.text",
            None,
            &[
                account.id.into(),
                feature_id.into(),
                source.into(),
                reason.into(),
                Actor::current().role.into(),
                timestamp(starts_at).into(),
            ],
        )?;
        let (id, new) = inserted.first().get_two::<i64, String>()?;
        let id = id.expect("a key column");
        let change = Change {
            action: "block",
            object: "block",
            object_id: id.to_string(),
            old: ended.map(|lifted| lifted.row),
            new: new.map(raw),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, account.chain(), &[change])?;
        Ok(id)
    }))
}

#[pg_extern(sql = false)]
fn unblock(account: Option<&str>, source: Option<&str>, reason: Option<&str>, feature: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| {
        let (source, reason) = (required_source(source)?, required_text("reason", reason)?);
        let account = Account::take(client, account)?;
        let feature_id = feature.map(|feature| Feature::find(client, feature)).transpose()?.map(|feature| feature.id);
        let Some(lifted) = lift(client, &account, source, feature_id, reason)? else {
            return Ok(false);
        };
        let (object_id, reason) = (lifted.id.to_string(), Some(reason.to_owned()));
        let change = Change { action: "unblock", object: "block", object_id, old: Some(lifted.row), new: None, reason };
        audit::record(client, account.chain(), &[change])?;
        Ok(true)
    }))
}

struct Lifted {
    id: i64,
    ended_at: Time,
    /// As JSON.
    row: Box<RawValue>,
}

/// Ends the live block of this source, if there is one.
fn lift(
    client: &mut SpiClient<'_>,
    account: &Account,
    source: &str,
    feature_id: Option<i32>,
    reason: &str,
) -> Result<Option<Lifted>, Error> {
    let ended = client.update(
        "UPDATE entitlements.blocks block SET ended_at = greatest(pg_catalog.now(), starts_at), ended_by = $4, ended_reason = $5
          WHERE account_id = $1 AND source = $2 AND feature_id IS NOT DISTINCT FROM $3 AND ended_at IS NULL
         RETURNING id, ended_at, pg_catalog.to_jsonb(block)::pg_catalog.text",
        None,
        &[account.id.into(), source.into(), feature_id.into(), Actor::current().role.into(), reason.into()],
    )?;
    if ended.is_empty() {
        return Ok(None);
    }
    let (id, ended_at, row) = ended.first().get_three::<i64, TimestampWithTimeZone, String>()?;
    Ok(Some(Lifted {
        id: id.expect("a key column"),
        ended_at: ended_at.expect("it was set").into(),
        row: raw(row.expect("the updated row")),
    }))
}
