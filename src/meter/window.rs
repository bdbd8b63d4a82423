//! Which window a pool is in: computed when it is used first in one, and then kept, so that a running window ends when it was
//! to end, whatever changes meanwhile.

use super::counter::{Counter, PoolKey};
use super::feature::Feature;
use super::look::{Pool, Recurrence};
use crate::accounts::arguments::timestamp;
use crate::error::Error;
use crate::pg::owner::as_owner;
use crate::pg::relations::Relations;
use crate::pg::time_zone::ServerTimeZone;
use entitlements_model::catalog::Anchor;
use entitlements_model::kind::Kind;
use entitlements_model::meter::window::{self, Window};
use entitlements_model::time::{BEGINNING, FOREVER, Time};
use pgrx::prelude::*;
use pgrx::spi::{Spi, SpiClient};

/// The window of the pool that contains `at`, clipped where it would overlap one that is stored.
pub fn window_of(relations: &Relations, pool: &Pool, feature: &Feature, at: Time) -> Result<Window, Error> {
    as_owner(&relations.counters, || {
        Spi::connect(|client| {
            let window = match pool.recurs {
                Some(recurs) => of_credit(client, pool.key, recurs, at)?,
                None => of_plan(client, pool.key, feature, at, at)?,
            };
            clipped(client, pool.key, window, at)
        })
    })
}

/// When the last of `count` windows of a plan's pool ends, counted from the present one, as far as can be told now.
pub fn end_of_windows(
    relations: &Relations,
    pool: &Pool,
    feature: &Feature,
    present: Window,
    count: u32,
    now: Time,
) -> Result<Time, Error> {
    let mut end = present.end;
    for _ in 1..count {
        if end == FOREVER {
            break;
        }
        let next = as_owner(&relations.counters, || Spi::connect(|client| of_plan(client, pool.key, feature, now, end)))?;
        // A term that nobody has ordered yet is taken to be as long as the present one.
        let length = present.end.saturating_sub(present.start);
        end = if next.start <= end && end < next.end && next.end < FOREVER { next.end } else { end.saturating_add(length) };
    }
    Ok(end)
}

fn of_credit(client: &SpiClient<'_>, key: PoolKey, recurs: Recurrence, at: Time) -> Result<Window, Error> {
    let whole = Window { start: recurs.starts_at, end: recurs.expires_at };
    let Some(period) = recurs.period else { return Ok(whole) };
    let found = window::anchored(period, recurs.starts_at, &time_zone(client, key.account)?, at);
    Ok(Window { start: found.start.max(whole.start), end: found.end.min(whole.end) })
}

/// By the rule that is in force at `rule_at`.
fn of_plan(client: &SpiClient<'_>, key: PoolKey, feature: &Feature, rule_at: Time, at: Time) -> Result<Window, Error> {
    if feature.resolved.kind != Kind::Quota {
        return Ok(Window::LIFETIME);
    }
    match (feature.anchor, feature.period) {
        (Some(Anchor::Renewal), _) => term(client, key, at),
        (_, None) | (None, _) => Ok(Window::LIFETIME),
        (Some(Anchor::Calendar), Some(period)) => Ok(window::calendar(period, &time_zone(client, key.account)?, at)),
        (Some(Anchor::Subscription), Some(period)) => {
            let origin = first_start(client, key, rule_at)?;
            Ok(window::anchored(period, origin, &time_zone(client, key.account)?, at))
        }
    }
}

fn time_zone(client: &SpiClient<'_>, account: i64) -> Result<ServerTimeZone, Error> {
    let found = client.select("SELECT time_zone FROM entitlements.accounts WHERE id = $1", Some(1), &[account.into()])?;
    Ok(ServerTimeZone::named(found.first().get_one()?.unwrap_or_else(|| "UTC".to_owned())))
}

/// The subscription in force that gives the feature: a base plan's before an add-on's, then the one that began first.
const SUBSCRIPTION: &str = "SELECT held.id
   FROM entitlements.subscriptions AS held
   JOIN entitlements.plans AS plan ON plan.id = held.plan_id
   JOIN LATERAL (
            SELECT version.id FROM entitlements.plan_versions AS version
             WHERE version.plan_id = held.plan_id AND (held.plan_version_id IS NULL OR version.id = held.plan_version_id)
             ORDER BY version.version DESC LIMIT 1
        ) AS version ON true
   JOIN entitlements.plan_features AS feature ON feature.plan_version_id = version.id AND feature.feature_id = $2 AND feature.amount > 0
  WHERE held.account_id = $1 AND held.superseded_at IS NULL AND held.starts_at <= $3 AND held.in_force_until > $3
  ORDER BY plan.kind DESC, (
            SELECT pg_catalog.min(row.starts_at) FROM entitlements.subscriptions AS row WHERE row.id = held.id AND row.superseded_at IS NULL
        ), held.id
  LIMIT 1";

/// When the subscription that gives the feature began; where none does, when the account was created.
fn first_start(client: &SpiClient<'_>, key: PoolKey, at: Time) -> Result<Time, Error> {
    let query = format!(
        "SELECT coalesce(
            (SELECT pg_catalog.min(row.starts_at) FROM entitlements.subscriptions AS row
              WHERE row.superseded_at IS NULL AND row.id = ({SUBSCRIPTION})),
            (SELECT created_at FROM entitlements.accounts WHERE id = $1))"
    );
    let found = client.select(&query, Some(1), &[key.account.into(), key.feature.into(), timestamp(at).into()])?;
    Ok(found.first().get_one::<TimestampWithTimeZone>()?.map_or(BEGINNING, Time::from))
}

/// The term that the subscription which gives the feature is in; a lifetime where none does.
fn term(client: &SpiClient<'_>, key: PoolKey, at: Time) -> Result<Window, Error> {
    let query = format!(
        "SELECT term.starts_at, coalesce(
                (SELECT pg_catalog.min(later.term_starts_at) FROM entitlements.subscriptions AS later
                  WHERE later.id = term.id AND later.superseded_at IS NULL AND later.term_starts_at > term.starts_at),
                term.ends_at)
           FROM (SELECT row.id, row.term_starts_at AS starts_at, pg_catalog.max(whole.ends_at) AS ends_at
                   FROM entitlements.subscriptions AS row
                   JOIN entitlements.subscriptions AS whole
                     ON whole.id = row.id AND whole.term_starts_at = row.term_starts_at AND whole.superseded_at IS NULL
                  WHERE row.superseded_at IS NULL AND row.starts_at <= $3 AND row.in_force_until > $3 AND row.id = ({SUBSCRIPTION})
                  GROUP BY row.id, row.term_starts_at) AS term"
    );
    let found = client.select(&query, Some(1), &[key.account.into(), key.feature.into(), timestamp(at).into()])?;
    if found.is_empty() {
        return Ok(Window::LIFETIME);
    }
    let (start, end) = found.first().get_two::<TimestampWithTimeZone, TimestampWithTimeZone>()?;
    let (start, end) = (start.map_or(BEGINNING, Time::from), end.map_or(FOREVER, Time::from));
    // In grace the term is over and its window goes on, until a next one begins.
    Ok(if at < end { Window { start, end } } else { Window { start, end: FOREVER } })
}

/// When the window of a counter that follows terms ends, by what is known now: a term without an end may have got one, one that
/// was over may have been made longer or be in grace, and another may have begun since.
pub fn end_of_term(relations: &Relations, counter: &Counter, at: Time) -> Result<Time, Error> {
    let (key, window) = (counter.key, counter.window);
    as_owner(&relations.counters, || {
        Spi::connect(|client| {
            let present = term(client, key, at)?;
            let is_another = present.start > window.start || present == Window::LIFETIME;
            match (is_another, window.end) {
                (true, FOREVER) if present != Window::LIFETIME => {
                    Ok(term(client, key, window.start)?.end.min(present.start))
                }
                (true, end) => Ok(end),
                (false, _) => clipped(client, key, present, at).map(|present| present.end),
            }
        })
    })
}

/// Windows do not overlap: one that began under another rule ends as it was to end.
fn clipped(client: &SpiClient<'_>, key: PoolKey, window: Window, at: Time) -> Result<Window, Error> {
    let found = client.select(
        "SELECT (SELECT pg_catalog.max(window_end) FROM entitlements.counters
                  WHERE account_id = $1 AND feature_id = $2 AND credit_id = $3 AND window_end <= $4),
                (SELECT pg_catalog.min(window_start) FROM entitlements.counters
                  WHERE account_id = $1 AND feature_id = $2 AND credit_id = $3 AND window_start > $4)",
        Some(1),
        &[key.account.into(), key.feature.into(), key.credit.into(), timestamp(at).into()],
    )?;
    let (before, after) = found.first().get_two::<TimestampWithTimeZone, TimestampWithTimeZone>()?;
    Ok(Window {
        start: before.map_or(window.start, |before| window.start.max(before.into())),
        end: after.map_or(window.end, |after| window.end.min(after.into())),
    })
}
