//! The rarer writes of metering, as queries: new counters and slots, thresholds, the ledger.

use super::consume::Entry;
use super::counter::{Counter, PLAN, PoolKey};
use crate::accounts::arguments::timestamp;
use crate::error::Error;
use crate::pg::owner::as_owner;
use crate::pg::relations::Relations;
use crate::pg::session::Actor;
use crate::pg::subtransaction::upsert;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::meter::window::Window;
use entitlements_model::time::Time;
use pgrx::spi::Spi;
use pgrx::{AnyNumeric, datum::DatumWithOid};
use std::ffi::CStr;
use std::str::FromStr;

pub fn sql_amount(amount: Amount) -> AnyNumeric {
    AnyNumeric::from_str(&amount.to_string()).expect("amounts are printed as numerics")
}

fn sql_allowance(allowance: Allowance) -> AnyNumeric {
    match allowance {
        Allowance::Finite(amount) => sql_amount(amount),
        Allowance::Unlimited => AnyNumeric::from_str("Infinity").expect("numeric has infinity"),
    }
}

/// Makes the pool's counter for a window and gives its id; None if somebody else just did, or the credit was voided.
pub fn create_counter(relations: &Relations, key: PoolKey, window: Window) -> Result<Option<i64>, Error> {
    const OF_PLAN: &str = "INSERT INTO entitlements.counters (account_id, feature_id, credit_id, window_start, window_end)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT ON CONSTRAINT counters_pool DO NOTHING RETURNING id";
    // The lock: whoever voids the credit sees all of its counters, and none is made afterwards.
    const OF_CREDIT: &str = "INSERT INTO entitlements.counters (account_id, feature_id, credit_id, window_start, window_end)
        SELECT $1, $2, id, $4, $5 FROM entitlements.credits WHERE id = $3 AND voided_at IS NULL FOR SHARE
        ON CONFLICT ON CONSTRAINT counters_pool DO NOTHING RETURNING id";
    let query = if key.credit == PLAN { OF_PLAN } else { OF_CREDIT };
    let arguments: [DatumWithOid<'_>; 5] = [
        key.account.into(),
        key.feature.into(),
        key.credit.into(),
        timestamp(window.start).into(),
        timestamp(window.end).into(),
    ];
    as_owner(&relations.counters, || {
        Spi::connect_mut(|client| {
            let created = upsert(client, c"counters", query, &arguments)?;
            if created.is_empty() { Ok(None) } else { Ok(created.first().get_one()?) }
        })
    })
}

/// What a window left, as a credit.
pub struct CarriedCredit<'a> {
    pub amount: Amount,
    pub priority: i32,
    pub starts_at: Time,
    pub expires_at: Time,
    pub source: &'a str,
    /// One credit for each.
    pub source_ref: String,
}

pub fn carry(relations: &Relations, key: PoolKey, credit: CarriedCredit<'_>) -> Result<(), Error> {
    run(
        relations,
        "INSERT INTO entitlements.credits
                (account_id, feature_id, amount, priority, starts_at, expires_at, source, source_ref, created_by, recorded_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, pg_catalog.now())",
        &[
            key.account.into(),
            key.feature.into(),
            sql_amount(credit.amount).into(),
            credit.priority.into(),
            timestamp(credit.starts_at).into(),
            timestamp(credit.expires_at).into(),
            credit.source.into(),
            credit.source_ref.into(),
            Actor::current().role.into(),
        ],
    )
}

/// Makes the state of a rate that was never used, unless somebody else just did.
pub fn create_rate(relations: &Relations, account: i64, feature: i32, now: Time) -> Result<(), Error> {
    run_upsert(
        relations,
        c"rates",
        "INSERT INTO entitlements.rates (account_id, feature_id, arrival) VALUES ($1, $2, $3)
         ON CONFLICT (account_id, feature_id) DO NOTHING",
        &[account.into(), feature.into(), timestamp(now).into()],
    )
}

/// Leaves so much of a credit; zero voids it.
pub fn cut_credit(relations: &Relations, credit: i64, amount: Amount) -> Result<(), Error> {
    run(
        relations,
        "UPDATE entitlements.credits
            SET amount = CASE WHEN $2 > 0 THEN $2 ELSE amount END,
                voided_at = CASE WHEN $2 > 0 THEN voided_at ELSE pg_catalog.now() END,
                voided_by = CASE WHEN $2 > 0 THEN voided_by ELSE $3 END,
                void_reason = CASE WHEN $2 > 0 THEN void_reason ELSE 'more was left later than can be carried over' END
          WHERE id = $1",
        &[credit.into(), sql_amount(amount).into(), Actor::current().role.into()],
    )
}

/// Gives the counter's window another end; where it had none, what was carried into it ends with it.
pub fn move_end(relations: &Relations, counter: &Counter, end: Time) -> Result<(), Error> {
    run(
        relations,
        "WITH ended AS (
             UPDATE entitlements.counters SET window_end = $2 WHERE id = $1 AND window_end = $3
             RETURNING account_id, feature_id
         )
         UPDATE entitlements.credits AS credit SET expires_at = $2 FROM ended
          WHERE credit.account_id = ended.account_id AND credit.feature_id = ended.feature_id AND $3 = 'infinity'
            AND credit.source = 'rollover' AND credit.expires_at = 'infinity' AND credit.voided_at IS NULL",
        &[counter.id.into(), timestamp(end).into(), timestamp(counter.window.end).into()],
    )
}

/// Adds slots with these shares, numbered from `first`.
pub fn insert_slots(
    relations: &Relations,
    counter: i64,
    first: usize,
    shares: &[Allowance],
    now: Time,
) -> Result<(), Error> {
    let shares: Vec<AnyNumeric> = shares.iter().map(|share| sql_allowance(*share)).collect();
    run(
        relations,
        "INSERT INTO entitlements.counter_slots (counter_id, slot, share, touched_at)
         SELECT $1, ($2 + part.place - 1)::pg_catalog.int2, part.share, $4
           FROM pg_catalog.unnest($3) WITH ORDINALITY AS part (share, place)",
        &[counter.into(), (first as i64).into(), shares.into(), timestamp(now).into()],
    )
}

/// Writes one event for each factor.
pub fn report_thresholds(
    relations: &Relations,
    counter: i64,
    factors: &[Amount],
    allowance: Allowance,
    used: Amount,
    now: Time,
) -> Result<(), Error> {
    let factors: Vec<AnyNumeric> = factors.iter().map(|factor| sql_amount(*factor)).collect();
    run_upsert(
        relations,
        c"threshold_events",
        "INSERT INTO entitlements.threshold_events
                (counter_id, threshold, account_id, feature_id, window_start, allowance, used, at, transaction_id)
         SELECT counter.id, threshold, counter.account_id, counter.feature_id, counter.window_start, $3, $4, $5,
                pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8
           FROM entitlements.counters AS counter, pg_catalog.unnest($2) AS threshold WHERE counter.id = $1
         ON CONFLICT (counter_id, threshold) DO NOTHING",
        &[counter.into(), factors.into(), sql_allowance(allowance).into(), sql_amount(used).into(), timestamp(now).into()],
    )
}

/// What the ledger keeps of one use.
pub struct Event<'a> {
    pub account: i64,
    pub feature: i32,
    /// Negative: given back.
    pub amount: AnyNumeric,
    pub entry: Entry<'a>,
    pub at: Time,
}

pub fn keep_event(relations: &Relations, event: Event<'_>) -> Result<(), Error> {
    run(
        relations,
        "INSERT INTO entitlements.usage_events
                (at, account_id, feature_id, amount, action, role_name, transaction_id, idempotency_key, metadata)
         VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8, $7, $8::pg_catalog.jsonb)",
        &[
            timestamp(event.at).into(),
            event.account.into(),
            event.feature.into(),
            event.amount.into(),
            event.entry.action.into(),
            Actor::current().role.into(),
            event.entry.idempotency_key.into(),
            event.entry.metadata.into(),
        ],
    )
}

fn run(relations: &Relations, query: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    as_owner(&relations.counters, || {
        Spi::connect_mut(|client| client.update(query, None, arguments).map(|_| ()).map_err(Error::from))
    })
}

fn run_upsert(relations: &Relations, table: &CStr, query: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), Error> {
    as_owner(&relations.counters, || Spi::connect_mut(|client| upsert(client, table, query, arguments).map(drop)))
}
