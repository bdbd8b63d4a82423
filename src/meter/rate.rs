//! Rates: so many units in a time, decided by `entitlements_model::meter::rate`.
//!
//! By the feature's choice the state is a row of the table `rates` or an entry in shared memory. The row is part of the caller's
//! transaction: whoever asks for the same account and feature waits for its end, and an abort gives the units back. The entry
//! is changed at once and stays changed. Without shared memory, which takes shared_preload_libraries, the row is used.
//!
//! Nobody waits to be denied: what is committed only ever moves the state on, so a denial by the snapshot is final.

use super::decision::{Amounts, Decision};
use super::look::Look;
use super::write;
use crate::check::load::present;
use crate::check::memo::MEMO;
use crate::error::Error;
use crate::pg::change::{Lock, NewValue, Version, Wait, lock};
use crate::pg::relations::{Relations, rate as column};
use crate::pg::scan::{Condition, Order, Place, Row, scan};
use crate::pg::shared_memory::{Filling, Key, Rates};
use crate::pg::snapshot::{ActiveSnapshot, statement_time};
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::Store;
use entitlements_model::kind::Reason;
use entitlements_model::meter::rate::{self, Arrival, Rate};
use entitlements_model::period::Period;
use entitlements_model::time::Time;
use pgrx::prelude::*;
use std::ops::ControlFlow;

/// Whose rate it is.
#[derive(Clone, Copy)]
struct Owner {
    account: i64,
    feature: i32,
}

/// What limits an account's requests.
enum Limit {
    /// Nothing is granted.
    Denied,
    Unlimited,
    Rate(Owner, Rate),
}

impl Limit {
    fn of(look: &Look) -> Self {
        match (look.account, look.allowance) {
            (Some(_), Allowance::Unlimited) if look.granted => Self::Unlimited,
            (Some(account), Allowance::Finite(allowance)) if look.granted => {
                let feature = &look.feature;
                let period = feature.period.map_or(1, micros);
                let burst = feature.burst.unwrap_or(allowance);
                Self::Rate(Owner { account, feature: feature.resolved.id.0 }, Rate { allowance, period, burst })
            }
            _ => Self::Denied,
        }
    }
}

/// A month of a rate's period has 30 days, a day 24 hours.
fn micros(period: Period) -> i64 {
    const DAY: i64 = 24 * 3_600_000_000;
    (i64::from(period.months()) * 30 + i64::from(period.days())) * DAY + period.micros()
}

/// Takes the units or none. None, and nothing was done, where the state has to be looked at again.
pub fn take(
    relations: &Relations,
    snapshot: ActiveSnapshot,
    look: &Look,
    n: Amount,
    now: Time,
) -> Result<Option<Decision>, Error> {
    match Limit::of(look) {
        Limit::Denied => Ok(Some(Decision::of(look, false, look.denial_reason(now)?, n, 0))),
        Limit::Unlimited => Ok(Some(unlimited(look, n, true))),
        Limit::Rate(owner, rate) => {
            let taken = match shared(look) {
                Some(rates) => Some(take_from_memory(rates, owner, rate, n, now)?),
                None => take_from_table(relations, snapshot, owner, rate, n, now)?,
            };
            Ok(taken.map(|decision| limited(look, rate, n, decision, true)))
        }
    }
}

/// Whether the units would be allowed now; writes nothing.
pub fn check(look: &Look, n: Amount, now: Time) -> Result<Decision, Error> {
    match Limit::of(look) {
        Limit::Denied => Ok(Decision::of(look, false, look.denial_reason(now)?, n, 0)),
        Limit::Unlimited => Ok(unlimited(look, n, false)),
        Limit::Rate(owner, rate) => {
            let arrival = match shared(look) {
                Some(rates) => rates.look_up(key(owner)),
                None => MEMO.with(|memo| {
                    memo.read(|reader| Ok(stored(reader.relations, reader.snapshot, owner).map(|(_, arrival)| arrival)))
                })?,
            };
            let before = rate::decide(rate, arrival, now, n);
            // Nothing is taken: what remains is what remains without this request.
            let remaining = match before.allowed {
                true => rate::decide(rate, arrival, now, rate.burst.saturating_add(Amount::LEAST)).remaining,
                false => before.remaining,
            };
            Ok(limited(look, rate, n, rate::Decision { remaining, ..before }, false))
        }
    }
}

/// Shared memory, if that is where the feature's state is to be and the server has it.
fn shared(look: &Look) -> Option<Rates> {
    (look.feature.store == Store::Shared).then(Rates::get).flatten()
}

fn key(owner: Owner) -> Key {
    Key::in_this_database(owner.account, owner.feature)
}

fn take_from_memory(rates: Rates, owner: Owner, rate: Rate, n: Amount, now: Time) -> Result<rate::Decision, Error> {
    let full = || Error::Installation {
        fault: "there is no room for another rate in shared memory".to_owned(),
        hint: "Raise entitlements.rate_slots and restart the server, or keep the feature's rates in the table.",
    };
    rates
        .change(key(owner), now, |arrival| {
            let decision = rate::decide(rate, arrival, now, n);
            (decision.arrival, decision)
        })
        .ok_or_else(full)
}

fn take_from_table(
    relations: &Relations,
    snapshot: ActiveSnapshot,
    owner: Owner,
    rate: Rate,
    n: Amount,
    now: Time,
) -> Result<Option<rate::Decision>, Error> {
    let Some((place, arrival)) = stored(relations, snapshot, owner) else {
        let decision = rate::decide(rate, None, now, n);
        if !decision.allowed {
            return Ok(Some(decision));
        }
        write::create_rate(relations, owner.account, owner.feature, now)?;
        return Ok(None);
    };
    let decision = rate::decide(rate, Some(arrival), now, n);
    if !decision.allowed {
        return Ok(Some(decision));
    }
    let locked = lock(&relations.rates, place, snapshot, Version::Newest, Wait::Block, |row| {
        let decision = rate::decide(rate, Some(read(&row.row())), now, n);
        if let (true, Some(arrival)) = (decision.allowed, decision.arrival) {
            row.update(&written(arrival));
        }
        decision
    });
    match locked {
        Lock::Taken(decision) => Ok(Some(decision)),
        Lock::Newer | Lock::Held => Ok(None),
        Lock::Conflict => Err(Error::Serialization),
    }
}

fn stored(relations: &Relations, snapshot: ActiveSnapshot, owner: Owner) -> Option<(Place, Arrival)> {
    let conditions =
        [Condition::Int8Is(column::ACCOUNT_ID, owner.account), Condition::Int4Is(column::FEATURE_ID, owner.feature)];
    let mut found = None;
    scan(&relations.rates, &conditions, Order::Any, snapshot, |row| {
        found = Some((row.place(), read(row)));
        ControlFlow::Break(())
    });
    found
}

fn read(row: &Row<'_, { column::COUNT }>) -> Arrival {
    Arrival { at: present(row.time(column::ARRIVAL)), fraction: present(row.amount(column::FRACTION)).nanos() }
}

/// A fraction of an allowance beyond all amounts counts as a whole microsecond, which allows less.
fn written(arrival: Arrival) -> [(usize, NewValue); 2] {
    let (at, fraction) = match Amount::from_nanos(arrival.fraction) {
        Ok(fraction) => (arrival.at, fraction),
        Err(_) => (arrival.at.saturating_add(1), Amount::ZERO),
    };
    [(column::ARRIVAL, NewValue::Time(at)), (column::FRACTION, NewValue::Amount(fraction))]
}

fn unlimited(look: &Look, n: Amount, takes: bool) -> Decision {
    let amounts = Amounts {
        allowance: Allowance::Unlimited,
        used: Amount::ZERO,
        remaining: Allowance::Unlimited,
        requested: n,
        consumed: if takes { n.nanos() } else { 0 },
        overage: Amount::ZERO,
        resets_at: None,
    };
    decision(look, true, amounts)
}

/// None where the server has no such time.
fn sql_moment(at: Time) -> Option<Time> {
    TimestampWithTimeZone::try_from(at).ok().map(|_| at)
}

fn limited(look: &Look, rate: Rate, n: Amount, of_rate: rate::Decision, takes: bool) -> Decision {
    let amounts = Amounts {
        allowance: look.allowance,
        used: rate.burst.saturating_sub(of_rate.remaining),
        remaining: Allowance::Finite(of_rate.remaining),
        requested: n,
        consumed: if takes && of_rate.allowed { n.nanos() } else { 0 },
        overage: Amount::ZERO,
        resets_at: of_rate.retry_at.and_then(sql_moment),
    };
    decision(look, of_rate.allowed, amounts)
}

fn decision(look: &Look, allowed: bool, amounts: Amounts) -> Decision {
    Decision {
        allowed,
        reason: if allowed { Reason::Granted } else { Reason::RateLimited },
        account: look.account_key.clone(),
        feature: look.feature.key.as_str().to_owned(),
        kind: look.feature.resolved.kind,
        amounts: Some(amounts),
        expires_at: look.expires_at,
    }
}

/// How much room for rates the server's shared memory has, and how much of it is in use; nothing without preloading.
#[pg_extern(sql = false)]
fn shared_rates() -> TableIterator<'static, (name!(slots, i32), name!(busy, i32))> {
    let filling = Rates::get().map(|rates| rates.filling(statement_time()));
    let count = |of: fn(Filling) -> usize, filling| i32::try_from(of(filling)).unwrap_or(i32::MAX);
    TableIterator::new(filling.map(|filling| (count(|all| all.slots, filling), count(|all| all.busy, filling))))
}
