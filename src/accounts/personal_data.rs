//! All that is stored about an account: handing it out, and erasing what is personal in it.
//!
//! Erasure keeps the shape of what happened (which plans, when, decided by whom) and the audit chain, and removes what the
//! application wrote: key, metadata, references, reasons, configured values, and the contents of the audit entries.

use super::account::{Account, ERASED_PREFIX};
use super::arguments::{required, required_text};
use super::subscription;
use crate::audit::{self, Change};
use crate::error::Error;
use crate::licence;
use crate::meter::{reservation, seat};
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::json;

#[pg_extern(sql = false)]
fn export_account(account: Option<&str>) -> JsonbText {
    or_raise(Spi::connect(|client| {
        let key = required("account", account)?;
        let found = client.select(
            "SELECT pg_catalog.jsonb_build_object(
                 'account', pg_catalog.to_jsonb(account) || pg_catalog.jsonb_build_object('parent', parent.key),
                 'former_parents', ARRAY(
                     SELECT pg_catalog.to_jsonb(former) || pg_catalog.jsonb_build_object('parent', former_parent.key)
                       FROM entitlements.former_parents former
                       LEFT JOIN entitlements.accounts former_parent ON former_parent.id = former.parent_id
                      WHERE former.account_id = account.id ORDER BY former.until),
                 'subscriptions', ARRAY(
                     SELECT pg_catalog.to_jsonb(subscription)
                            || pg_catalog.jsonb_build_object('plan', plan.key, 'version', version.version)
                       FROM entitlements.subscriptions subscription
                       JOIN entitlements.plans plan ON plan.id = subscription.plan_id
                       LEFT JOIN entitlements.plan_versions version ON version.id = subscription.plan_version_id
                      WHERE subscription.account_id = account.id ORDER BY subscription.row_id),
                 'overrides', ARRAY(
                     SELECT pg_catalog.to_jsonb(override) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.overrides override
                       JOIN entitlements.features feature ON feature.id = override.feature_id
                      WHERE override.account_id = account.id ORDER BY override.id),
                 'blocks', ARRAY(
                     SELECT pg_catalog.to_jsonb(block) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.blocks block
                       LEFT JOIN entitlements.features feature ON feature.id = block.feature_id
                      WHERE block.account_id = account.id ORDER BY block.id),
                 'credits', ARRAY(
                     SELECT pg_catalog.to_jsonb(credit) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.credits credit
                       JOIN entitlements.features feature ON feature.id = credit.feature_id
                      WHERE credit.account_id = account.id ORDER BY credit.id),
                 'usage', ARRAY(
                     SELECT pg_catalog.jsonb_build_object(
                                'feature', feature.key, 'credit_id', nullif(counter.credit_id, 0),
                                'window_start', counter.window_start, 'window_end', counter.window_end,
                                'used', counter.used + coalesce(
                                    (SELECT pg_catalog.sum(slot.used) FROM entitlements.counter_slots slot WHERE slot.counter_id = counter.id), 0))
                       FROM entitlements.counters counter
                       JOIN entitlements.features feature ON feature.id = counter.feature_id
                      WHERE counter.account_id = account.id ORDER BY counter.id),
                 'thresholds', ARRAY(
                     SELECT pg_catalog.to_jsonb(event) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.threshold_events event
                       JOIN entitlements.features feature ON feature.id = event.feature_id
                      WHERE event.account_id = account.id ORDER BY event.at, event.counter_id, event.threshold),
                 'reservations', ARRAY(
                     SELECT pg_catalog.to_jsonb(reservation) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.reservations reservation
                       JOIN entitlements.features feature ON feature.id = reservation.feature_id
                      WHERE reservation.account_id = account.id ORDER BY reservation.created_at, reservation.id),
                 'idempotency_keys', ARRAY(
                     SELECT pg_catalog.jsonb_build_object('key', used.key, 'created_at', used.created_at)
                       FROM entitlements.idempotency_keys used WHERE used.account_id = account.id ORDER BY used.key),
                 'usage_events', ARRAY(
                     SELECT pg_catalog.to_jsonb(event) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.usage_events event
                       LEFT JOIN entitlements.features feature ON feature.id = event.feature_id
                      WHERE event.account_id = account.id ORDER BY event.at, event.id),
                 'seats', ARRAY(
                     SELECT pg_catalog.to_jsonb(seat) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.seats seat
                       JOIN entitlements.features feature ON feature.id = seat.feature_id
                      WHERE seat.account_id = account.id ORDER BY seat.id),
                 'licences', ARRAY(
                     SELECT pg_catalog.to_jsonb(licence) || pg_catalog.jsonb_build_object('seat_feature', feature.key)
                       FROM entitlements.licences licence
                       LEFT JOIN entitlements.features feature ON feature.id = licence.seat_feature_id
                      WHERE licence.account_id = account.id ORDER BY licence.issued_at, licence.id),
                 'imported_licences', ARRAY(
                     SELECT pg_catalog.to_jsonb(licence) FROM entitlements.imported_licences licence
                      WHERE licence.account_id = account.id ORDER BY licence.source, licence.licence_id),
                 'reported_usage', ARRAY(
                     SELECT pg_catalog.to_jsonb(told) FROM entitlements.reported_usage told
                      WHERE told.account_id = account.id ORDER BY told.site, told.feature, told.window_start),
                 'delegations', ARRAY(
                     SELECT pg_catalog.to_jsonb(delegation) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.delegations delegation
                       JOIN entitlements.features feature ON feature.id = delegation.feature_id
                      WHERE delegation.account_id = account.id ORDER BY delegation.id),
                 'received_delegations', ARRAY(
                     SELECT pg_catalog.to_jsonb(delegation) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.received_delegations delegation
                       JOIN entitlements.features feature ON feature.id = delegation.feature_id
                      WHERE delegation.account_id = account.id ORDER BY delegation.issuer, delegation.id),
                 'rates', ARRAY(
                     SELECT pg_catalog.to_jsonb(rate) || pg_catalog.jsonb_build_object('feature', feature.key)
                       FROM entitlements.rates rate
                       JOIN entitlements.features feature ON feature.id = rate.feature_id
                      WHERE rate.account_id = account.id ORDER BY rate.feature_id),
                 'audit_log', ARRAY(
                     SELECT pg_catalog.to_jsonb(entry) FROM entitlements.audit_log entry
                      WHERE entry.chain_id = account.id ORDER BY entry.seq))::pg_catalog.text
               FROM entitlements.accounts account
               LEFT JOIN entitlements.accounts parent ON parent.id = account.parent_id
              WHERE account.key = $1",
            Some(1),
            &[key.into()],
        )?;
        if found.is_empty() {
            return Err(Error::UnknownAccount { account: key.to_owned() });
        }
        Ok(JsonbText(found.first().get_one()?.expect("an object")))
    }))
}

#[pg_extern(sql = false)]
fn erase_account(account: Option<&str>, reason: Option<&str>) -> i64 {
    or_raise(connect_to_change(|client| {
        let reason = required_text("reason", reason)?;
        let account = Account::take(client, account)?;
        refuse_with_children(client, &account)?;
        end_all(client, &account)?;
        blank(client, &account)?;
        audit::erase_contents(client, account.id)?;
        let change = Change {
            action: "erase",
            object: "account",
            object_id: account.id.to_string(),
            old: None,
            new: Some(json!({"key": format!("{ERASED_PREFIX}{}", account.id)})),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, account.chain(), &[change])?;
        Ok(account.id)
    }))
}

/// Locks the account's row first: whoever is just putting an account below it has that lock until it shows.
fn refuse_with_children(client: &mut SpiClient<'_>, account: &Account) -> Result<(), Error> {
    client.update("SELECT FROM entitlements.accounts WHERE id = $1 FOR UPDATE", Some(1), &[account.id.into()])?;
    let found = client.update(
        "SELECT pg_catalog.count(*) FROM entitlements.accounts WHERE parent_id = $1",
        Some(1),
        &[account.id.into()],
    )?;
    match found.first().get_one::<i64>()?.unwrap_or(0) {
        0 => Ok(()),
        children => Err(Error::Conflict {
            message: format!(
                "account {} is the parent of {children} other account{}",
                account.id,
                if children == 1 { "" } else { "s" }
            ),
            hint: "Erase them first, or take them out from below it: entitlements.define_account(child, parent => '')."
                .to_owned(),
        }),
    }
}

/// Ends all that is in force or will be.
fn end_all(client: &mut SpiClient<'_>, account: &Account) -> Result<(), Error> {
    licence::end_all(client, account.id)?;
    licence::blank(client, account.id)?;
    seat::end_all(client, account.id)?;
    subscription::end_all(client, account)?;
    reservation::cancel_all(account.id)?;
    licence::return_delegations(client, account)?;
    let role = Actor::current().role;
    for end in [
        "UPDATE entitlements.overrides SET ended_at = greatest(pg_catalog.now(), starts_at), ended_by = $2
          WHERE account_id = $1 AND ended_at IS NULL",
        "UPDATE entitlements.blocks SET ended_at = greatest(pg_catalog.now(), starts_at), ended_by = $2
          WHERE account_id = $1 AND ended_at IS NULL",
        "UPDATE entitlements.credits SET voided_at = pg_catalog.now(), voided_by = $2 WHERE account_id = $1 AND voided_at IS NULL",
    ] {
        client.update(end, None, &[account.id.into(), role.as_str().into()])?;
    }
    Ok(())
}

/// Removes what calls that were under way during an erasure have written since: they lock nothing that it could wait for. How
/// many rows of which table.
pub fn erase_late(client: &mut SpiClient<'_>) -> Result<Vec<(&'static str, i64)>, Error> {
    let mut erased = Vec::new();
    for (table, erase) in [
        (
            "idempotency_keys",
            "DELETE FROM entitlements.idempotency_keys AS late USING entitlements.accounts AS account
              WHERE account.erased_at IS NOT NULL AND late.account_id = account.id",
        ),
        (
            "reservations",
            "UPDATE entitlements.reservations AS late SET metadata = NULL FROM entitlements.accounts AS account
              WHERE account.erased_at IS NOT NULL AND late.account_id = account.id AND late.metadata IS NOT NULL",
        ),
        (
            "usage_events",
            "UPDATE entitlements.usage_events AS late SET metadata = NULL, idempotency_key = NULL FROM entitlements.accounts AS account
              WHERE account.erased_at IS NOT NULL AND late.account_id = account.id
                AND (late.metadata IS NOT NULL OR late.idempotency_key IS NOT NULL)",
        ),
    ] {
        erased.push((table, client.update(erase, None, &[])?.len() as i64));
    }
    Ok(erased)
}

fn blank(client: &mut SpiClient<'_>, account: &Account) -> Result<(), Error> {
    for blank in [
        "UPDATE entitlements.subscriptions SET source_ref = NULL, reason = NULL, metadata = NULL WHERE account_id = $1",
        "UPDATE entitlements.overrides SET reason = 'erased', ended_reason = NULL,
                config = CASE WHEN config IS NOT NULL THEN '\"erased\"'::pg_catalog.jsonb END WHERE account_id = $1",
        "UPDATE entitlements.blocks SET reason = 'erased', ended_reason = NULL WHERE account_id = $1",
        "UPDATE entitlements.credits SET source_ref = NULL, reason = NULL, void_reason = NULL WHERE account_id = $1",
        "UPDATE entitlements.reservations SET metadata = NULL WHERE account_id = $1 AND metadata IS NOT NULL",
        "UPDATE entitlements.usage_events SET metadata = NULL, idempotency_key = NULL
          WHERE account_id = $1 AND (metadata IS NOT NULL OR idempotency_key IS NOT NULL)",
        "DELETE FROM entitlements.idempotency_keys WHERE account_id = $1",
        "UPDATE entitlements.delegations SET reason = 'erased' WHERE account_id = $1",
        "UPDATE entitlements.seats SET holder = 'erased:' || id, end_reason = 'erased' WHERE account_id = $1",
    ] {
        client.update(blank, None, &[account.id.into()])?;
    }
    account.keep_parent(client, None)?;
    client.update(
        "UPDATE entitlements.accounts
            SET key = $2, parent_id = NULL, time_zone = 'UTC', metadata = '{}', erased_at = greatest(pg_catalog.now(), created_at)
          WHERE id = $1",
        None,
        &[account.id.into(), format!("{ERASED_PREFIX}{}", account.id).into()],
    )?;
    Ok(())
}
