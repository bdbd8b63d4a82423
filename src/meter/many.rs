//! Consuming of several features at once, all or nothing.
//!
//! What the features take from one pool is added up, and the pools are taken from in one order, which is that of every other
//! call: two of these never wait for each other in a circle.

use super::consume::{Entry, Line, keep_entry, look_anew, look_at, take_line};
use super::decision::Decision;
use super::idempotency::{Call, once};
use super::look::Look;
use super::relations;
use crate::error::Error;
use crate::pg::composite::CompositeValue;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::refuse_read_only;
use crate::pg::snapshot::statement_time;
use entitlements_model::amount::Amount;
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::kind::Reason;
use pgrx::prelude::*;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Most features in one call.
const MOST_FEATURES: usize = 1000;

#[pg_extern(sql = false)]
fn consume_many(
    account: Option<&str>,
    amounts: Option<JsonbText>,
    idempotency_key: Option<&str>,
    metadata: Option<JsonbText>,
) -> SetOfIterator<'static, CompositeValue> {
    let metadata = metadata.map(|JsonbText(text)| text);
    let rows = called(account, amounts, idempotency_key, metadata.as_deref())
        .and_then(|decisions| decisions.into_iter().map(Decision::into_composite).collect::<Result<Vec<_>, _>>());
    SetOfIterator::new(or_raise(rows))
}

fn called(
    account: Option<&str>,
    amounts: Option<JsonbText>,
    idempotency_key: Option<&str>,
    metadata: Option<&str>,
) -> Result<Vec<Decision>, Error> {
    let amounts = amounts_of(amounts)?;
    let entry = Entry { action: "consume_many", idempotency_key, metadata };
    let Some(key) = idempotency_key else { return take_all(account, &amounts, entry) };
    let texts: Vec<(&str, String)> = amounts.iter().map(|(feature, n)| (feature.as_str(), n.to_string())).collect();
    let mut arguments: Vec<Option<&str>> =
        texts.iter().flat_map(|(feature, n)| [Some(*feature), Some(n.as_str())]).collect();
    arguments.push(metadata);
    once(&Call { function: "consume_many", account, key, arguments }, || take_all(account, &amounts, entry))
}

/// Amounts by feature, in the order of their keys.
fn amounts_of(amounts: Option<JsonbText>) -> Result<BTreeMap<String, Amount>, Error> {
    let fault = |fault: String| Error::argument("amounts", fault);
    let JsonbText(text) = amounts.ok_or_else(|| fault("it is NULL".to_owned()))?;
    let read = json::parse(&text, Limits { bytes: 1 << 20, depth: 1, nodes: 2 * MOST_FEATURES });
    let Ok(Json::Object(members)) = read else {
        return Err(fault(format!("it is not an object of up to {MOST_FEATURES} features with their amounts")));
    };
    if members.is_empty() || members.len() > MOST_FEATURES {
        return Err(fault(format!("it has {} features; 1 to {MOST_FEATURES} can be consumed at once", members.len())));
    }
    members
        .into_iter()
        .map(|(feature, amount)| match amount {
            Json::Number(number) => match Amount::from_str(&number) {
                Ok(Amount::ZERO) => Err(fault(format!("the amount of feature \"{feature}\" is zero"))),
                Ok(amount) => Ok((feature.to_string(), amount)),
                Err(wrong) => Err(fault(format!("the amount of feature \"{feature}\" {wrong}"))),
            },
            _ => Err(fault(format!("the amount of feature \"{feature}\" is not a number"))),
        })
        .collect()
}

/// Takes all of it or raises an error, which undoes what was taken until then.
fn take_all(account: Option<&str>, amounts: &BTreeMap<String, Amount>, entry: Entry<'_>) -> Result<Vec<Decision>, Error> {
    refuse_read_only();
    let Some(key) = account else {
        let feature = amounts.keys().next().cloned().unwrap_or_default();
        let look = look_anew(None, &feature, statement_time())?;
        return Err(Error::NotEntitled {
            account: None,
            feature: look.feature.key.as_str().to_owned(),
            kind: look.feature.resolved.kind,
            reason: Reason::UnknownAccount,
        });
    };
    // What is taken from each charge, and a feature that takes it.
    let mut lines: BTreeMap<(i64, i32), (Amount, &str)> = BTreeMap::new();
    let looks = look_at(key, amounts.keys())?;
    for (look, (feature, n)) in looks.iter().zip(amounts) {
        look.feature.refuse_uncounted()?;
        if look.charges.is_empty() {
            let reason = look.denial_reason(statement_time())?;
            return Err(Decision::of(look, false, reason, *n, 0).into_error());
        }
        for charge in &look.charges {
            let (sum, _) = lines.entry(charge.key()).or_insert((Amount::ZERO, feature.as_str()));
            *sum = sum.saturating_add(n.scaled_up(charge.cost));
        }
    }
    for (charge, (wanted, feature)) in lines {
        let line = Line { account: key, feature, charge, wanted, happened_at: None };
        if let Err(look) = take_line(line)? {
            return Err(denied(&look, amounts[feature]));
        }
    }
    let tables = relations()?;
    let looks = look_at(key, amounts.keys())?;
    let decide = |(look, n): (&Look, &Amount)| {
        keep_entry(&tables, look, n.nanos(), Some(entry), statement_time())?;
        Ok(Decision::of(look, true, Reason::Granted, *n, n.nanos()))
    };
    looks.iter().zip(amounts.values()).map(decide).collect()
}

fn denied(look: &Look, n: Amount) -> Error {
    let reason = if look.charges.is_empty() { look.reason } else { Reason::LimitExceeded };
    Decision::of(look, false, reason, n, 0).into_error()
}
