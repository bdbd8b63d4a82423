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
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::kind::Reason;
use entitlements_model::plan::PlanVersionId;
use entitlements_model::resolve::{self, Absence, Contribution, Effect, Entitlement, Feature, Resolved, Source, Withheld};
use entitlements_model::time::{FOREVER, Time};
use pgrx::prelude::*;

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
            (value @ Json::Number(_), Some(unit)) => format!("{value} {unit}"),
            (Json::String(word), _) if matches!(value, Resolved::Allowance(_)) => word.to_string(),
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

    fn json(&self) -> Json {
        let mut members = vec![
            ("account", Json::string(&self.account)),
            ("feature", Json::string(&self.feature_key)),
            ("kind", Json::string(self.feature.kind.as_str())),
            ("unit", optional(self.unit.as_deref())),
            ("at", time_json(self.at)),
        ];
        members.extend(self.answer_json(&self.answer));
        if let Some(hindsight) = &self.hindsight {
            members.push(("with_what_is_known_now", Json::object(self.answer_json(hindsight))));
        }
        Json::object(members)
    }

    fn answer_json(&self, answer: &Account) -> [(&'static str, Json); 6] {
        let entitlement = &answer.entitlement;
        let contributions = entitlement.contributions.iter().zip(&answer.plans);
        let rows = contributions.map(|(contribution, plan)| contribution_json(answer, contribution, plan.as_ref()));
        [
            ("granted", Json::Bool(entitlement.granted)),
            ("reason", Json::string(self.reason(answer).as_str())),
            ("value", value_json(&entitlement.value)),
            ("expires_at", entitlement.expires_at.map_or(Json::Null, time_json)),
            ("valid_until", time_json(entitlement.valid_until)),
            ("rows", Json::Array(rows.collect())),
        ]
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
        let lineage = reader.standing(records, belief, at, is_past);
        let holders: Vec<_> = lineage.iter().map(Records::holder).collect();
        let mut entitlement = resolve::resolve(feature, &holders, reader.catalog, at);
        if !is_past {
            entitlement.valid_until = entitlement.valid_until.min(reader.enforcement_at(at, is_past).until);
        }
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
        Effect::Withheld(Withheld::BundleStale) => "does not count: its bundle has expired".to_owned(),
        Effect::Withheld(Withheld::ClockRollback) => "does not count: the clock was set back".to_owned(),
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

fn contribution_json(answer: &Account, contribution: &Contribution, plan: Option<&(String, i32)>) -> Json {
    let records = &answer.lineage[contribution.level];
    let mut members = match contribution.source {
        Source::Subscription { index } => {
            let record = &records.subscriptions[index];
            let policy = if record.follows_latest { "latest" } else { "pinned" };
            vec![
                ("object", Json::string("subscription")),
                ("id", Json::number(record.row.id)),
                ("plan", optional(plan.map(|(plan, _)| plan.as_str()))),
                ("version", plan.map_or(Json::Null, |(_, version)| Json::number(version))),
                ("version_policy", Json::string(policy)),
                ("quantity", Json::number(record.row.quantity)),
                ("status", Json::string(record.row.status.as_str())),
                ("starts_at", time_json(record.row.starts_at)),
                ("ends_at", time_json(record.row.ends_at)),
                ("grace_until", record.row.grace_until.map_or(Json::Null, time_json)),
                ("source", Json::string(&record.source)),
                ("source_ref", optional(record.source_ref.as_deref())),
                ("reason", optional(record.reason.as_deref())),
                ("by", Json::string(&record.recorded_by)),
                ("recorded_at", time_json(record.recorded_at)),
            ]
        }
        Source::Override { index } => {
            let record = &records.overrides[index];
            vec![
                ("object", Json::string("override")),
                ("id", Json::number(record.row.id)),
                ("mode", Json::string(record.row.mode.as_str())),
                ("starts_at", time_json(record.starts_at)),
                ("expires_at", time_json(record.row.expires_at)),
                ("source", Json::string(&record.source)),
                ("reason", Json::string(&record.reason)),
                ("by", Json::string(&record.created_by)),
            ]
        }
        Source::Block { index } => {
            let record = &records.blocks[index];
            vec![
                ("object", Json::string("block")),
                ("id", Json::number(record.row.id)),
                ("all_features", Json::Bool(record.row.feature.is_none())),
                ("starts_at", time_json(record.starts_at)),
                ("source", Json::string(&record.source)),
                ("reason", Json::string(&record.reason)),
                ("by", Json::string(&record.created_by)),
            ]
        }
    };
    members.push(("account", Json::string(&records.account)));
    members.push(("value", contribution.value.as_ref().map_or(Json::Null, value_json)));
    members.push(("effect", Json::string(effect(contribution.effect, records))));
    Json::object(members)
}

fn optional(text: Option<&str>) -> Json {
    text.map_or(Json::Null, Json::string)
}

/// The value with every digit that is stored.
fn value_json(value: &Resolved) -> Json {
    match value {
        Resolved::Flag(enabled) => Json::Bool(*enabled),
        Resolved::Config(None) => Json::Null,
        Resolved::Config(Some(config)) => json::parse(config, Limits::CATALOG).unwrap_or(Json::Null),
        Resolved::Allowance(Allowance::Unlimited) => Json::string("unlimited"),
        Resolved::Allowance(Allowance::Finite(amount)) => Json::number(amount),
    }
}

/// A time as the session's time zone has it.
fn moment(time: Time) -> String {
    sql_time(time).map_or_else(|| "open-ended".to_owned(), |time| time.to_iso_string().replace('T', " "))
}

fn time_json(time: Time) -> Json {
    sql_time(time).map_or(Json::Null, |time| Json::string(time.to_iso_string()))
}
