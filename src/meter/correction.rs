//! Corrections: stating how much of a feature was used in the present window.
//!
//! Usage lies in several pools, and others consume meanwhile. All of these pools' counters are locked with their slots before
//! the numbers are final, and what each gets follows from the limits that one look shows: who consumes later starts from what
//! was stated.

use super::consume::{Entry, Parts, Request, Round, Rounds, Subject, Turn, keep_own_entry};
use super::decision::Decision;
use super::look::{Charge, Look};
use crate::accounts::account::Account;
use crate::accounts::arguments::{required, required_text};
use crate::audit::{self, Change};
use crate::error::Error;
use crate::pg::composite::CompositeValue;
use crate::pg::error::or_raise;
use crate::pg::number::AmountArgument;
use crate::pg::session::connect_to_change;
use crate::pg::snapshot::statement_time;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::kind::Reason;
use entitlements_model::meter::burn;
use entitlements_model::time::Time;
use pgrx::prelude::*;
use serde_json::value::RawValue;

#[pg_extern(sql = false)]
fn set_usage(
    account: Option<&str>,
    feature: Option<&str>,
    used: Option<AmountArgument>,
    reason: Option<&str>,
) -> CompositeValue {
    or_raise(correct(account, feature, used, reason).and_then(Decision::into_composite))
}

fn correct(
    key: Option<&str>,
    feature: Option<&str>,
    used: Option<AmountArgument>,
    reason: Option<&str>,
) -> Result<Decision, Error> {
    let (account, feature, used, reason) = connect_to_change(|client| {
        let feature = required("feature", feature)?;
        let reason = required_text("reason", reason)?;
        let AmountArgument(used) = required("used", used)?;
        let used = used.map_err(|fault| Error::argument("used", fault.to_string()))?;
        Ok::<_, Error>((Account::take(client, key)?, feature, used, reason))
    })?;
    let request = Request { account: key, feature, n: used, whole: true, entry: None };
    let mut before = None;
    let mut was = Parts::new();
    let decision = Rounds::without_lapsed().run(Subject::Request(request), |turn| {
        let look = turn.look(request)?;
        look.feature.refuse_uncounted()?;
        if let Some(before) = before {
            let consumed = used.nanos() - Amount::nanos(before);
            let decision = Decision::of(&look, true, Reason::Granted, used, consumed);
            if consumed != 0 {
                let entry = Entry { action: "set_usage", idempotency_key: None, metadata: None };
                keep_own_entry(&turn.relations, &look, consumed, Some(entry), turn.now)?;
            }
            return Ok(Round::Finished((decision, before)));
        }
        let charge = own_charge(&look, account.id, turn.now)?;
        let Some(sum) = state(turn, charge, used, &mut was)? else { return turn.again() };
        before = Some(sum);
        Ok(Round::Again)
    });
    let (decision, before) = decision?;
    connect_to_change(|client| {
        let change = Change {
            action: "set_usage",
            object: "usage",
            object_id: feature.to_owned(),
            old: Some(stated(before)),
            new: Some(stated(used)),
            reason: Some(reason.to_owned()),
        };
        audit::record(client, account.chain(), &[change])
    })?;
    Ok(decision)
}

/// Distributes the usage over the charge's pools and returns what it was; None where the state has to be looked at again. What
/// is restated stays so over the rounds, and `was` has what each counter had before the first.
fn state(turn: &mut Turn<'_>, charge: &Charge, used: Amount, was: &mut Parts) -> Result<Option<Amount>, Error> {
    if let Some(plan) = charge.pools.iter().find(|pool| pool.is_plan())
        && turn.open_window(plan, charge)?
    {
        return Ok(None);
    }
    for (index, stated) in distribution(charge, used) {
        let pool = &charge.pools[index];
        if pool.counter.is_none() && stated == Amount::ZERO {
            continue;
        }
        if turn.open_window(pool, charge)? {
            return Ok(None);
        }
        let counter = pool.counter.as_ref().map_or(0, |counter| counter.id);
        if pool.lapsed > Amount::ZERO {
            turn.sweep(counter)?;
            return Ok(None);
        }
        let Some(before) = turn.restate(pool, |_| stated)? else { return Ok(None) };
        if !was.iter().any(|(known, _)| *known == counter) {
            was.push((counter, before));
        }
    }
    Ok(Some(was.iter().fold(Amount::ZERO, |sum, (_, before)| sum.saturating_add(*before))))
}

/// States what is in use at an account that the feature is counted at, whatever it is granted now. What it was before.
pub fn restate(account: (i64, &str), feature: &str, used: Amount) -> Result<Amount, Error> {
    let (id, key) = account;
    let mut was = Parts::new();
    Rounds::without_lapsed().run(Subject::Past(key, feature, statement_time()), |turn| {
        let look = turn.look_in_use(Request { account: Some(key), feature, n: used, whole: true, entry: None })?;
        let Some(charge) = look.charges.iter().find(|charge| charge.key() == (id, look.feature.resolved.id.0)) else {
            return Err(Error::Internal("what is in use is counted nowhere".to_owned()));
        };
        match state(turn, charge, used, &mut was)? {
            Some(before) => Ok(Round::Finished(before)),
            None => turn.again(),
        }
    })
}

/// The charge that counts the account's own usage of the feature.
fn own_charge(look: &Look, account: i64, now: Time) -> Result<&Charge, Error> {
    let Some(charge) = look.charges.iter().rfind(|charge| charge.feature.resolved.id == look.feature.resolved.id) else {
        return Err(Error::NotEntitled {
            account: look.account_key.clone(),
            feature: look.feature.key.as_str().to_owned(),
            kind: look.feature.resolved.kind,
            reason: look.denial_reason(now)?,
        });
    };
    if charge.account != account {
        return Err(Error::Conflict {
            message: "the account inherits the feature, and its usage is counted at the account that holds it".to_owned(),
            hint: "State the usage of that account; entitlements.explain names it.".to_owned(),
        });
    }
    Ok(charge)
}

/// How much of the usage each pool gets, by its place: as if it had been used in burn order. What goes beyond all of them
/// counts as the plan's, or where no plan allows anything as the last credit's.
fn distribution(charge: &Charge, used: Amount) -> Vec<(usize, Amount)> {
    let places: Vec<usize> = (0..charge.pools.len()).filter(|place| !charge.is_repeat(*place)).collect();
    let allowances: Vec<Allowance> = places.iter().map(|place| charge.pools[*place].allowance).collect();
    let mut stated = burn::split(used, &allowances);
    let within = stated.iter().fold(Amount::ZERO, |sum, part| sum.saturating_add(*part));
    let plan = places.iter().position(|place| charge.pools[*place].is_plan());
    if let Some(part) = stated.get_mut(plan.unwrap_or(places.len().saturating_sub(1))) {
        *part = part.saturating_add(used.saturating_sub(within));
    }
    places.into_iter().zip(stated).collect()
}

/// For the audit log, with every digit.
fn stated(used: Amount) -> Box<RawValue> {
    RawValue::from_string(format!("{{\"used\": {used}}}")).expect("an amount is a JSON number")
}
