//! `explain`: every row that had a part in an answer, what it did, who stored it and why.
//!
//! The text reads like the output of EXPLAIN; the JSON has the same facts for programs. About a past moment both tell what was
//! decided then, and, where it differs, what would be decided for that moment with what is known now.

use super::functions::sql_time;
use super::history::{Belief, Records};
use super::load::Reader;
use super::memo::MEMO;
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::snapshot::{statement_time, transaction_time};
use entitlements_model::amount::Allowance;
use entitlements_model::kind::Reason;
use entitlements_model::plan::PlanVersionId;
use entitlements_model::resolve::{self, Absence, Contribution, Effect, Entitlement, Feature, Resolved, Source};
use entitlements_model::time::{FOREVER, Time};
use pgrx::prelude::*;
use serde_json::{Map, Value, json};

#[pg_extern(sql = false)]
fn explain(
    account: Option<&str>,
    feature: Option<&str>,
    at: Option<TimestampWithTimeZone>,
    format: Option<&str>,
) -> SetOfIterator<'static, String> {
    SetOfIterator::new(or_raise(lines(account, feature, at, format)))
}

fn lines(
    account: Option<&str>,
    feature: Option<&str>,
    at: Option<TimestampWithTimeZone>,
    format: Option<&str>,
) -> Result<Vec<String>, Error> {
    let account = account.ok_or_else(|| Error::argument("account", "it is NULL"))?;
    let feature = feature.ok_or_else(|| Error::argument("feature", "it is NULL"))?;
    let at = Time::from(at.ok_or_else(|| Error::argument("at", "it is NULL"))?);
    let explanation = MEMO.with(|memo| memo.read(|reader| Explanation::of(reader, account, feature, at)))?;
    match format {
        Some("text") => Ok(explanation.text()),
        Some("json") => Ok(vec![explanation.json().to_string()]),
        Some(_) => Err(Error::argument("format", "it is not one of: text, json")),
        None => Err(Error::argument("format", "it is NULL")),
    }
}

/// The answer for one moment under one belief, with the records it was made from.
struct Account {
    entitlement: Entitlement,
    lineage: Vec<Records>,
    /// What each contribution's subscription holds: plan key and version.
    plans: Vec<Option<(String, i32)>>,
}

struct Explanation {
    account: String,
    known: bool,
    feature_key: String,
    feature: Feature,
    unit: Option<String>,
    at: Time,
    answer: Account,
    /// For a past moment: the answer that the rows of today give.
    hindsight: Option<Account>,
}

impl Explanation {
    fn of(reader: &mut Reader<'_>, account: &str, feature: &str, at: Time) -> Result<Self, Error> {
        let (feature_key, feature) = reader.feature(feature.as_bytes())?;
        let is_past = at < transaction_time();
        let records = reader.records(account.as_bytes(), is_past.then_some(at))?;
        let known = records.is_some();
        let records = records.unwrap_or_default();
        // About the present, explain what entitled says in this statement.
        let at = if at == transaction_time() { statement_time() } else { at };
        let then = if is_past { Belief::RecordedAt(at) } else { Belief::Present };
        let answer = Account::resolve(reader, &feature, &records, then, at, is_past);
        let hindsight = is_past.then(|| Account::resolve(reader, &feature, &records, Belief::Present, at, is_past));
        Ok(Self {
            account: account.to_owned(),
            known,
            feature_key: feature_key.as_str().to_owned(),
            unit: reader.unit(feature.id),
            feature,
            at,
            answer,
            hindsight,
        })
    }

    fn reason(&self, answer: &Account) -> Reason {
        if self.known { answer.entitlement.reason } else { Reason::UnknownAccount }
    }

    fn value(&self, value: &Resolved) -> String {
        match (value_json(value), &self.unit) {
            (value @ Value::Number(_), Some(unit)) => format!("{value} {unit}"),
            (Value::String(word), _) if matches!(value, Resolved::Allowance(_)) => word,
            (value, _) => value.to_string(),
        }
    }

    fn text(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.push(format!("{} for {} at {}", self.feature_key, self.account, moment(self.at)));
        self.describe(&self.answer, &mut lines);
        if let Some(hindsight) = &self.hindsight {
            let same = hindsight.entitlement.value == self.answer.entitlement.value
                && hindsight.entitlement.reason == self.answer.entitlement.reason;
            if same {
                lines.push("With what is known now: the same".to_owned());
            } else {
                lines.push("With what is known now:".to_owned());
                self.describe(hindsight, &mut lines);
            }
        }
        lines
    }

    fn describe(&self, answer: &Account, lines: &mut Vec<String>) {
        let entitlement = &answer.entitlement;
        let verdict = if entitlement.granted { "Granted" } else { "Not granted" };
        lines.push(format!("  {verdict}: {} ({})", self.value(&entitlement.value), self.reason(answer).as_str()));
        if entitlement.granted {
            lines.push(format!("  Until: {}", entitlement.expires_at.map_or_else(|| "open-ended".to_owned(), moment)));
        }
        if entitlement.valid_until != FOREVER {
            lines.push(format!("  Next change: {}", moment(entitlement.valid_until)));
        }
        let mut level = 0;
        for (contribution, plan) in entitlement.contributions.iter().zip(&answer.plans) {
            if contribution.level != level {
                level = contribution.level;
                lines.push(format!("  Inherited from {}:", answer.lineage[level].account));
            }
            let indent = " ".repeat(2 + 2 * usize::from(level > 0));
            let [head, facts, origin] = self.contribution(answer, contribution, plan.as_ref());
            lines.push(format!("{indent}->  {head}"));
            lines.extend(
                [facts, origin].into_iter().filter(|line| !line.is_empty()).map(|line| format!("{indent}      {line}")),
            );
        }
    }

    /// The lines about one row: what it is and did, when it is in force, and where it comes from.
    fn contribution(&self, answer: &Account, contribution: &Contribution, plan: Option<&(String, i32)>) -> [String; 3] {
        let records = &answer.lineage[contribution.level];
        let effect = effect(contribution.effect, records);
        let value = contribution.value.as_ref().map(|value| self.value(value));
        match contribution.source {
            Source::Subscription { index } => {
                let record = &records.subscriptions[index];
                let row = &record.row;
                let (plan, version) = plan.map_or(("?", 0), |(plan, version)| (plan.as_str(), *version));
                let policy = if record.follows_latest { ", latest" } else { "" };
                let quantity = if row.quantity == 1 { String::new() } else { format!(" x {}", row.quantity) };
                let grace = row.grace_until.map_or_else(String::new, |until| format!(", grace until {}", moment(until)));
                [
                    format!(
                        "Subscription {}: plan {plan} version {version}{policy}{quantity}{}  ({effect})",
                        row.id,
                        value.map_or_else(String::new, |value| format!(", {value}")),
                    ),
                    format!("{} from {} until {}{grace}", row.status.as_str(), moment(row.starts_at), moment(row.ends_at)),
                    origin(
                        &record.source,
                        record.source_ref.as_deref(),
                        record.reason.as_deref(),
                        &record.recorded_by,
                        record.recorded_at,
                    ),
                ]
            }
            Source::Override { index } => {
                let record = &records.overrides[index];
                let row = &record.row;
                [
                    format!(
                        "Override {}: {}{}  ({effect})",
                        row.id,
                        row.mode.as_str(),
                        value.map_or_else(String::new, |value| format!(" {value}")),
                    ),
                    format!("from {} until {}", moment(record.starts_at), moment(row.expires_at)),
                    origin(&record.source, None, Some(&record.reason), &record.created_by, record.starts_at),
                ]
            }
            Source::Block { index } => {
                let record = &records.blocks[index];
                let scope = if record.row.feature.is_some() { "this feature" } else { "all features" };
                [
                    format!("Block {}: {scope}  ({effect})", record.row.id),
                    format!("from {}", moment(record.starts_at)),
                    origin(&record.source, None, Some(&record.reason), &record.created_by, record.starts_at),
                ]
            }
        }
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("account".to_owned(), self.account.clone().into());
        object.insert("feature".to_owned(), self.feature_key.clone().into());
        object.insert("kind".to_owned(), self.feature.kind.as_str().into());
        object.insert("unit".to_owned(), self.unit.clone().into());
        object.insert("at".to_owned(), time_json(self.at));
        object.extend(self.answer_json(&self.answer));
        if let Some(hindsight) = &self.hindsight {
            object.insert("with_what_is_known_now".to_owned(), self.answer_json(hindsight).into());
        }
        object.into()
    }

    fn answer_json(&self, answer: &Account) -> Map<String, Value> {
        let entitlement = &answer.entitlement;
        let contributions = entitlement.contributions.iter().zip(&answer.plans);
        let mut object = Map::new();
        object.insert("granted".to_owned(), entitlement.granted.into());
        object.insert("reason".to_owned(), self.reason(answer).as_str().into());
        object.insert("value".to_owned(), value_json(&entitlement.value));
        object.insert("expires_at".to_owned(), entitlement.expires_at.map_or(Value::Null, time_json));
        object.insert("valid_until".to_owned(), time_json(entitlement.valid_until));
        object.insert(
            "rows".to_owned(),
            contributions.map(|(contribution, plan)| contribution_json(answer, contribution, plan.as_ref())).collect(),
        );
        object
    }
}

impl Account {
    fn resolve(
        reader: &mut Reader<'_>,
        feature: &Feature,
        records: &[Records],
        belief: Belief,
        at: Time,
        is_past: bool,
    ) -> Self {
        let mut lineage: Vec<Records> = records.iter().map(|records| records.under(belief, at, is_past)).collect();
        for records in &mut lineage {
            records.subscriptions.retain_mut(|record| {
                if record.follows_latest {
                    match reader.latest_at(record.plan, if is_past { at } else { FOREVER }) {
                        Some(version) => record.row.plan_version = version,
                        None => return false,
                    }
                }
                reader.version(record.row.plan_version);
                true
            });
        }
        let holders: Vec<_> = lineage.iter().map(Records::holder).collect();
        let entitlement = resolve::resolve(feature, &holders, reader.catalog, at);
        let plan = |contribution: &Contribution| match contribution.source {
            Source::Subscription { index } => {
                let record = &lineage[contribution.level].subscriptions[index];
                let version: PlanVersionId = record.row.plan_version;
                Some((reader.plan_key(record.plan), reader.version_number(version)))
            }
            Source::Override { .. } | Source::Block { .. } => None,
        };
        let plans = entitlement.contributions.iter().map(plan).collect();
        Self { entitlement, lineage, plans }
    }
}

fn origin(source: &str, source_ref: Option<&str>, reason: Option<&str>, author: &str, at: Time) -> String {
    let source_ref = source_ref.map_or_else(String::new, |source_ref| format!(" {source_ref}"));
    let reason = reason.map_or_else(String::new, |reason| format!(", reason: {reason}"));
    format!("source {source}{source_ref}, by {author} at {}{reason}", moment(at))
}

fn name_of(source: Source, records: &Records) -> String {
    match source {
        Source::Subscription { index } => format!("subscription {}", records.subscriptions[index].row.id),
        Source::Override { index } => format!("override {}", records.overrides[index].row.id),
        Source::Block { index } => format!("block {}", records.blocks[index].row.id),
    }
}

fn effect(effect: Effect, records: &Records) -> String {
    match effect {
        Effect::Counted => "counts".to_owned(),
        Effect::Beaten { by } => format!("beaten by {}", name_of(by, records)),
        Effect::NotGranting => "grants nothing".to_owned(),
        Effect::NotListed => "the plan does not have the feature".to_owned(),
        Effect::NotInForce(absence) => absence_words(absence).to_owned(),
        Effect::Replaces => "decides".to_owned(),
        Effect::Adds => "adds".to_owned(),
        Effect::Denies => "denies".to_owned(),
    }
}

fn absence_words(absence: Absence) -> &'static str {
    match absence {
        Absence::NotStarted => "not in force yet",
        Absence::Ended => "over",
        Absence::GraceOver => "past due, grace is over",
    }
}

fn contribution_json(answer: &Account, contribution: &Contribution, plan: Option<&(String, i32)>) -> Value {
    let records = &answer.lineage[contribution.level];
    let mut object = match contribution.source {
        Source::Subscription { index } => {
            let record = &records.subscriptions[index];
            json!({
                "object": "subscription", "id": record.row.id, "plan": plan.map(|plan| &plan.0), "version": plan.map(|plan| plan.1),
                "version_policy": if record.follows_latest { "latest" } else { "pinned" }, "quantity": record.row.quantity,
                "status": record.row.status.as_str(), "starts_at": time_json(record.row.starts_at),
                "ends_at": time_json(record.row.ends_at), "grace_until": record.row.grace_until.map(time_json),
                "source": record.source, "source_ref": record.source_ref, "reason": record.reason, "by": record.recorded_by,
                "recorded_at": time_json(record.recorded_at),
            })
        }
        Source::Override { index } => {
            let record = &records.overrides[index];
            json!({
                "object": "override", "id": record.row.id, "mode": record.row.mode.as_str(),
                "starts_at": time_json(record.starts_at), "expires_at": time_json(record.row.expires_at), "source": record.source,
                "reason": record.reason, "by": record.created_by,
            })
        }
        Source::Block { index } => {
            let record = &records.blocks[index];
            json!({
                "object": "block", "id": record.row.id, "all_features": record.row.feature.is_none(),
                "starts_at": time_json(record.starts_at), "source": record.source, "reason": record.reason, "by": record.created_by,
            })
        }
    };
    object["account"] = records.account.clone().into();
    object["value"] = contribution.value.as_ref().map_or(Value::Null, value_json);
    object["effect"] = effect(contribution.effect, records).into();
    object
}

fn value_json(value: &Resolved) -> Value {
    match value {
        Resolved::Flag(enabled) => (*enabled).into(),
        Resolved::Config(None) => Value::Null,
        Resolved::Config(Some(json)) => serde_json::from_str(json).unwrap_or(Value::Null),
        Resolved::Allowance(Allowance::Unlimited) => "unlimited".into(),
        Resolved::Allowance(Allowance::Finite(amount)) => {
            serde_json::from_str(&amount.to_string()).expect("amounts are JSON numbers")
        }
    }
}

/// A time as the session's time zone has it.
fn moment(time: Time) -> String {
    sql_time(time).map_or_else(|| "open-ended".to_owned(), |time| time.to_iso_string().replace('T', " "))
}

fn time_json(time: Time) -> Value {
    sql_time(time).map_or(Value::Null, |time| time.to_iso_string().into())
}
