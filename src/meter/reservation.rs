//! Reservations: units taken in advance, until they are committed, canceled or the time is up.
//!
//! A reserved unit is a used unit: reserving takes it from the pools by the rules of consuming, so what is committed later was
//! never given to anybody else. The parts of a reservation say which counters its units came from, and there they go back to,
//! also after the window has turned.
//!
//! Time alone ends a reservation. Its row says so only later, when somebody needs the units and sweeps or when `maintain`
//! does; until then whoever reads leaves expired units out. Ending is one change of one row under its lock, so of a commit, a
//! cancel and a sweep exactly one finds the reservation still held.

use super::consume::{Entry, Part, Parts, Request, give_back_to, keep_entry, look_anew, take, take_in_charges};
use super::counter::amount;
use super::decision::Decision;
use super::functions::{feature_key, or_denial, units};
use super::write::sql_amount;
use super::{as_owner_changing, relations};
use crate::accounts::arguments::timestamp;
use crate::error::Error;
use crate::pg::composite::CompositeValue;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::number::AmountArgument;
use crate::pg::session::refuse_read_only;
use crate::pg::snapshot::statement_time;
use entitlements_model::amount::Amount;
use entitlements_model::kind::Reason;
use entitlements_model::time::Time;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::{Spi, SpiClient};
use pgrx::{AnyNumeric, Uuid};

/// Longest time that units are kept, in microseconds: a reservation is a promise to decide soon.
const LONGEST: Time = 366 * DAY;
const DAY: Time = 86_400_000_000;

#[pg_extern(sql = false)]
fn reserve(
    account: Option<&str>,
    feature: Option<&str>,
    n: Option<AmountArgument>,
    ttl: Option<Interval>,
    metadata: Option<JsonbText>,
) -> Uuid {
    let metadata = metadata.map(|JsonbText(text)| text);
    or_raise(make(account, feature, n, ttl, metadata.as_deref()))
}

fn make(
    account: Option<&str>,
    feature: Option<&str>,
    n: Option<AmountArgument>,
    ttl: Option<Interval>,
    metadata: Option<&str>,
) -> Result<Uuid, Error> {
    let (feature, n) = (feature_key(feature)?, units("n", n)?);
    let expires_at = end_of(ttl)?;
    let id = new_id()?;
    let (decision, parts) = take_in_charges(Request { account, feature, n, whole: true, entry: None }, true)?;
    or_denial(decision)?;
    let counters: Vec<i64> = parts.iter().map(|part| part.counter).collect();
    let amounts: Vec<AnyNumeric> = parts.iter().map(|part| sql_amount(part.amount)).collect();
    let first_of = |part: &Part| parts.iter().position(|other| other.charge == part.charge);
    let charges: Vec<i64> = parts.iter().filter_map(first_of).map(|place| place as i64 + 1).collect();
    changing(|client| {
        client.update(
            "INSERT INTO entitlements.reservations (id, account_id, feature_id, amount, created_at, expires_at, metadata)
             SELECT $1, account.id, feature.id, $4, $5, $6, $7::pg_catalog.jsonb
               FROM entitlements.accounts AS account, entitlements.features AS feature
              WHERE account.key = $2 AND feature.key = $3",
            None,
            &[
                id.into(),
                account.into(),
                feature.into(),
                sql_amount(n).into(),
                timestamp(statement_time()).into(),
                timestamp(expires_at).into(),
                metadata.into(),
            ],
        )?;
        client.update(
            "INSERT INTO entitlements.reservation_parts (reservation_id, counter_id, expires_at, amount, place, charge)
             SELECT $1, part.counter_id, $2, part.amount, part.place::pg_catalog.int2, part.charge::pg_catalog.int2
               FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5))
                    WITH ORDINALITY AS part (counter_id, amount, charge, place)",
            None,
            &[id.into(), timestamp(expires_at).into(), counters.into(), amounts.into(), charges.into()],
        )?;
        Ok(())
    })?;
    Ok(id)
}

#[pg_extern(sql = false)]
fn commit_reservation(id: Option<Uuid>, actual: Option<AmountArgument>) -> CompositeValue {
    or_raise(commit(id, actual))
}

fn commit(id: Option<Uuid>, actual: Option<AmountArgument>) -> Result<CompositeValue, Error> {
    let id = id.ok_or_else(|| Error::argument("id", "it is NULL"))?;
    let actual = actual.map(|actual| units("actual", Some(actual))).transpose()?;
    let held = end(id, "committed", actual)?.map_err(|ended| ended.refusal(id, "committed"))?;
    let actual = actual.unwrap_or(held.amount);
    if actual < held.amount {
        give_back(held.beyond(actual))?;
    } else if actual > held.amount {
        let n = actual.saturating_sub(held.amount);
        let request = Request { account: Some(&held.account), feature: &held.feature, n, whole: true, entry: None };
        or_denial(take(request, true)?.0)?;
    }
    let look = look_anew(Some(&held.account), &held.feature, statement_time())?;
    let entry = Entry { action: "commit_reservation", idempotency_key: None, metadata: held.metadata.as_deref() };
    keep_entry(&*relations()?, &look, actual.nanos(), Some(entry), statement_time())?;
    Decision::of(&look, true, Reason::Granted, actual, actual.nanos()).into_composite()
}

#[pg_extern(sql = false)]
fn cancel_reservation(id: Option<Uuid>) -> bool {
    or_raise(cancel(id))
}

fn cancel(id: Option<Uuid>) -> Result<bool, Error> {
    let id = id.ok_or_else(|| Error::argument("id", "it is NULL"))?;
    match end(id, "canceled", None)? {
        Ok(held) => give_back(held.beyond(Amount::ZERO)).map(|()| true),
        Err(_) => Ok(false),
    }
}

#[pg_extern(sql = false)]
fn extend_reservation(id: Option<Uuid>, ttl: Option<Interval>) -> TimestampWithTimeZone {
    or_raise(extend(id, ttl))
}

fn extend(id: Option<Uuid>, ttl: Option<Interval>) -> Result<TimestampWithTimeZone, Error> {
    let id = id.ok_or_else(|| Error::argument("id", "it is NULL"))?;
    let expires_at = timestamp(end_of(ttl)?);
    changing(|client| {
        let extended = client.update(
            "UPDATE entitlements.reservations SET expires_at = $2 WHERE id = $1 AND state = 'held' AND expires_at > $3",
            None,
            &[id.into(), expires_at.into(), timestamp(statement_time()).into()],
        )?;
        if extended.is_empty() {
            return Err(Ended::find(client, id)?.refusal(id, "extended"));
        }
        client.update(
            "UPDATE entitlements.reservation_parts SET expires_at = $2 WHERE reservation_id = $1",
            None,
            &[id.into(), expires_at.into()],
        )?;
        Ok(expires_at)
    })
}

/// When a reservation made or extended now ends.
pub fn end_of(ttl: Option<Interval>) -> Result<Time, Error> {
    let fault = |fault: &str| Err(Error::argument("ttl", fault));
    let Some(ttl) = ttl else { return fault("it is NULL") };
    let days = |count: i32, length| Time::from(count).saturating_mul(length * DAY);
    // No month is shorter than 28 days.
    let parts = [days(ttl.months(), 28), days(ttl.days(), 1), ttl.micros()];
    // Also infinity, which is the greatest number of each.
    if parts.iter().any(|part| part.unsigned_abs() > LONGEST as u64) {
        return fault("it is longer than 366 days");
    }
    let now = statement_time();
    let end: Option<TimestampWithTimeZone> = Spi::connect(|client| {
        let found = client.select("SELECT $1 + $2", Some(1), &[timestamp(now).into(), ttl.into()])?;
        found.first().get_one()
    })?;
    match end.map(Time::from) {
        Some(end) if end <= now => fault("it is not positive"),
        Some(end) if end - now > LONGEST => fault("it is longer than 366 days"),
        Some(end) => Ok(end),
        None => fault("it is NULL"),
    }
}

/// A random uuid, version 4 of RFC 9562.
pub fn new_id() -> Result<Uuid, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Internal(format!("the system gives no random bytes: {error}")))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(Uuid::from_bytes(bytes))
}

/// A reservation that this transaction has ended.
struct Held {
    account: String,
    feature: String,
    amount: Amount,
    metadata: Option<String>,
    /// In the order in which they were taken.
    parts: Vec<HeldPart>,
}

struct HeldPart {
    counter: i64,
    /// Which of the charges it is a part of: each gave the whole.
    charge: i16,
    amount: Amount,
}

impl Held {
    /// What is to be given back where only `kept` units are consumed: of each charge its share, what was taken last first.
    fn beyond(&self, kept: Amount) -> Parts {
        let mut charges: Vec<(i16, Amount)> = Vec::new();
        for part in &self.parts {
            match charges.iter_mut().find(|(charge, _)| *charge == part.charge) {
                Some((_, sum)) => *sum = sum.saturating_add(part.amount),
                None => charges.push((part.charge, part.amount)),
            }
        }
        let mut freed = Parts::new();
        for (charge, taken) in charges {
            let cost = taken.divided_down(self.amount);
            let mut surplus = taken.saturating_sub(kept.scaled_up(cost));
            for part in self.parts.iter().rev().filter(|part| part.charge == charge) {
                let back = part.amount.min(surplus);
                if back > Amount::ZERO {
                    freed.push((part.counter, back));
                    surplus = surplus.saturating_sub(back);
                }
            }
        }
        freed
    }
}

/// A reservation that is not held any more.
struct Ended {
    state: String,
}

impl Ended {
    /// NE010 where there is none.
    fn find(client: &mut SpiClient<'_>, id: Uuid) -> Result<Self, Error> {
        let found = client.update("SELECT state FROM entitlements.reservations WHERE id = $1", Some(1), &[id.into()])?;
        if found.is_empty() {
            return Err(Error::UnknownRow { object: "reservation", id: id.to_string() });
        }
        Ok(Self { state: found.first().get_one()?.unwrap_or_default() })
    }

    fn refusal(&self, id: Uuid, wanted: &str) -> Error {
        let how = match self.state.as_str() {
            // Nobody has needed its units yet.
            "held" | "expired" => "its time is up",
            "committed" => "it was committed",
            _ => "it was canceled",
        };
        Error::Conflict {
            message: format!("reservation {id} cannot be {wanted}: {how}"),
            hint: "Reserve again, or consume.".to_owned(),
        }
    }
}

/// Ends a reservation that is held and whose time is not up, and deletes its parts. Their units are still taken.
fn end(id: Uuid, state: &str, actual: Option<Amount>) -> Result<Result<Held, Ended>, Error> {
    const END: &str = "UPDATE entitlements.reservations AS reservation
            SET state = $2, ended_at = $4, actual = CASE WHEN $2 = 'committed' THEN coalesce($3, reservation.amount) END
           FROM entitlements.accounts AS account, entitlements.features AS feature
          WHERE reservation.id = $1 AND reservation.state = 'held' AND reservation.expires_at > $4
            AND account.id = reservation.account_id AND feature.id = reservation.feature_id
      RETURNING account.key, feature.key, reservation.amount, reservation.metadata::pg_catalog.text";
    const TAKE_APART: &str = "WITH parts AS (
            DELETE FROM entitlements.reservation_parts WHERE reservation_id = $1 RETURNING counter_id, amount, place, charge
        )
        SELECT parts.counter_id, parts.charge, parts.amount FROM parts ORDER BY parts.place";
    let now = timestamp(statement_time());
    changing(|client| {
        let ended = client.update(END, None, &[id.into(), state.into(), actual.map(sql_amount).into(), now.into()])?;
        if ended.is_empty() {
            return Ended::find(client, id).map(Err);
        }
        let row = ended.first();
        let mut held = Held {
            account: row.get(1)?.unwrap_or_default(),
            feature: row.get(2)?.unwrap_or_default(),
            amount: row.get::<AnyNumeric>(3)?.map_or(Amount::ZERO, |stored| amount(&stored.to_string())),
            metadata: row.get(4)?,
            parts: Vec::new(),
        };
        for row in client.update(TAKE_APART, None, &[id.into()])? {
            if let (Some(counter), Some(charge), Some(part)) = (row.get(1)?, row.get(2)?, row.get::<AnyNumeric>(3)?) {
                held.parts.push(HeldPart { counter, charge, amount: amount(&part.to_string()) });
            }
        }
        Ok(Ok(held))
    })
}

/// Ends all that an account holds.
pub fn cancel_all(account: i64) -> Result<(), Error> {
    let mut held = Vec::new();
    changing(|client| {
        let query =
            "SELECT id FROM entitlements.reservations WHERE account_id = $1 AND state = 'held' ORDER BY id FOR UPDATE";
        for row in client.update(query, None, &[account.into()])? {
            held.extend(row.get::<Uuid>(1)?);
        }
        Ok(())
    })?;
    for id in held {
        cancel(Some(id))?;
    }
    sweep_where("account_id = $1", account, statement_time()).map(|_| ())
}

/// Ends the reservations on a counter whose time is up and gives their units back.
pub fn sweep(counter: i64, now: Time) -> Result<(), Error> {
    sweep_where(
        "id IN (SELECT reservation_id FROM entitlements.reservation_parts WHERE counter_id = $1 AND expires_at <= $2)",
        counter,
        now,
    )
    .map(|_| ())
}

/// Ends reservations whose time is up, one after the other by id, so that two who do this never wait for each other in a
/// circle. How many.
fn sweep_where(which: &str, argument: i64, now: Time) -> Result<i64, Error> {
    let query = format!(
        "WITH due AS (
            SELECT id FROM entitlements.reservations WHERE state = 'held' AND expires_at <= $2 AND {which} ORDER BY id FOR UPDATE
        ), ended AS (
            UPDATE entitlements.reservations AS reservation SET state = 'expired', ended_at = reservation.expires_at
              FROM due WHERE reservation.id = due.id
            RETURNING reservation.id
        ), freed AS (
            DELETE FROM entitlements.reservation_parts AS part USING ended WHERE part.reservation_id = ended.id
            RETURNING part.counter_id, part.amount
        )
        SELECT counter_id, pg_catalog.sum(amount), (SELECT pg_catalog.count(*) FROM ended)
          FROM freed GROUP BY counter_id ORDER BY counter_id"
    );
    let (mut freed, mut count) = (Parts::new(), 0);
    changing(|client| {
        for row in client.update(query.as_str(), None, &[argument.into(), timestamp(now).into()])? {
            if let (Some(counter), Some(sum)) = (row.get::<i64>(1)?, row.get::<AnyNumeric>(2)?) {
                freed.push((counter, amount(&sum.to_string())));
            }
            count = row.get(3)?.unwrap_or(0);
        }
        Ok(())
    })?;
    give_back(freed)?;
    Ok(count)
}

/// Ends all reservations whose time is up. How many.
pub fn sweep_all() -> Result<i64, Error> {
    sweep_where("$1 = 0", 0, statement_time())
}

/// In the order of the counters: all who give back several have the same.
fn give_back(mut parts: Parts) -> Result<(), Error> {
    parts.sort_by_key(|(counter, _)| *counter);
    parts.into_iter().try_for_each(|(counter, units)| give_back_to(counter, units))
}

/// 25006 in a read-only transaction.
fn changing<R>(work: impl FnOnce(&mut SpiClient<'_>) -> Result<R, Error>) -> Result<R, Error> {
    refuse_read_only();
    as_owner_changing(work)
}
