//! The present catalog, read from the tables into the form in which the domain compares it with a document.
//!
//! One statement reads all of it: one statement has one snapshot, so also a reader that took no turn sees no half of a change.

use crate::accounts::arguments::timestamp;
use crate::error::Error;
use entitlements_model::amount::{Allowance, Amount};
use entitlements_model::catalog::{
    Cell, Definition, DocValue, DrawsOn, Feature, Plan, PresentFeature, PresentPlan, Price, PriceKey, Rollover, State,
};
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::key::FeatureKey;
use entitlements_model::kind::Kind;
use entitlements_model::period::Period;
use entitlements_model::time::{FOREVER, Time};
use pgrx::spi::SpiClient;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

/// Amounts travel as text and intervals in parts, so that no setting of the session changes how they are written. The revision
/// is the newest entry of the catalog's audit chain that is about what a document states; drafts are not.
const STORED: &str = "
    SELECT 'feature' AS what, feature.key, json_build_object(
        'kind', feature.kind, 'combine', feature.combine, 'name', feature.name, 'description', feature.description,
        'unit', feature.unit, 'intervals', intervals.parts, 'anchor', feature.anchor, 'overage', feature.overage, 'ceiling', feature.ceiling::text,
        'overdraft', feature.overdraft::text,
        'thresholds', feature.thresholds::text[], 'rollover', feature.rollover::text,
        'rollover_windows', feature.rollover_windows, 'draws_on', pool.key, 'cost', feature.cost::text, 'ledger', feature.ledger,
        'burst', feature.burst::text, 'store', feature.store, 'schema', feature.value_schema,
        'archived', feature.archived_at IS NOT NULL,
        'in_use', EXISTS (SELECT FROM entitlements.plan_features AS cell WHERE cell.feature_id = feature.id))::text AS content
    FROM entitlements.features AS feature
    LEFT JOIN entitlements.features AS pool ON pool.id = feature.draws_on
    CROSS JOIN LATERAL (
        SELECT json_object_agg(member.name, json_build_array(
            (12 * extract(year FROM member.length) + extract(month FROM member.length))::bigint,
            extract(day FROM member.length)::bigint,
            (60000000 * (60 * extract(hour FROM member.length) + extract(minute FROM member.length))
                + extract(microseconds FROM member.length))::bigint)) AS parts
        FROM (VALUES ('period', feature.period), ('lease', feature.lease), ('linger', feature.linger)) AS member (name, length)
        WHERE member.length IS NOT NULL) AS intervals
    UNION ALL
    SELECT 'plan', plan.key, json_build_object(
        'kind', plan.kind, 'name', plan.name, 'description', plan.description, 'archived', plan.archived_at IS NOT NULL,
        'version', latest.version, 'definition', latest.definition,
        'cells', coalesce((
            SELECT json_agg(json_build_array(
                feature.key, cell.enabled, cell.config, cell.amount::text, cell.per_unit, cell.inherited))
            FROM entitlements.plan_features AS cell
            JOIN entitlements.features AS feature ON feature.id = cell.feature_id
            WHERE cell.plan_version_id = latest.id), '[]'))::text
    FROM entitlements.plans AS plan
    CROSS JOIN LATERAL (
        SELECT published.id, published.version, published.definition
        FROM entitlements.plan_versions AS published
        WHERE published.plan_id = plan.id AND published.published_at <= $1
        ORDER BY published.version DESC
        LIMIT 1) AS latest
    UNION ALL
    SELECT 'price', price.connector, json_build_object(
        'external_id', price.external_id, 'plan', plan.key, 'version', price.version, 'quantity', price.quantity)::text
    FROM entitlements.prices AS price
    JOIN entitlements.plans AS plan ON plan.id = price.plan_id
    UNION ALL
    (SELECT 'revision', '', entry.seq::text
    FROM entitlements.audit_log AS entry
    WHERE entry.chain_id = 0 AND entry.object IN ('feature', 'plan', 'price')
    ORDER BY entry.seq DESC
    LIMIT 1)";

#[derive(Deserialize)]
struct FeatureRow<'r> {
    kind: String,
    combine: String,
    name: Option<String>,
    description: Option<String>,
    unit: Option<String>,
    /// None where the feature has none.
    intervals: Option<Intervals>,
    anchor: Option<String>,
    overage: Option<String>,
    ceiling: Option<String>,
    overdraft: Option<String>,
    thresholds: Option<Vec<String>>,
    rollover: Option<String>,
    rollover_windows: Option<u32>,
    draws_on: Option<String>,
    cost: Option<String>,
    ledger: bool,
    burst: Option<String>,
    store: Option<String>,
    #[serde(borrow)]
    schema: Option<&'r RawValue>,
    archived: bool,
    in_use: bool,
}

/// Months, days, microseconds.
type Parts = (i64, i64, i64);

#[derive(Default, Deserialize)]
struct Intervals {
    period: Option<Parts>,
    lease: Option<Parts>,
    linger: Option<Parts>,
}

#[derive(Deserialize)]
struct PlanRow<'r> {
    kind: String,
    name: Option<String>,
    description: Option<String>,
    archived: bool,
    version: i32,
    #[serde(borrow)]
    definition: &'r RawValue,
    #[serde(borrow)]
    cells: Vec<CellRow<'r>>,
}

#[derive(Deserialize)]
struct CellRow<'r>(String, Option<bool>, #[serde(borrow)] Option<&'r RawValue>, Option<String>, bool, bool);

#[derive(Deserialize)]
struct PriceRow {
    external_id: String,
    plan: String,
    version: Option<i32>,
    quantity: u32,
}

/// The whole present catalog.
pub fn read(client: &SpiClient<'_>) -> Result<State, Error> {
    read_at(client, FOREVER)
}

/// The present catalog with the versions of plans that were the latest at `at`.
pub fn read_at(client: &SpiClient<'_>, at: Time) -> Result<State, Error> {
    let mut state = State::default();
    let (mut plans, mut prices) = (Vec::new(), Vec::new());
    for row in client.select(STORED, None, &[timestamp(at).into()])? {
        let what = row.get::<String>(1)?.unwrap_or_default();
        let key = row.get::<String>(2)?.unwrap_or_default();
        let content = row.get::<String>(3)?.unwrap_or_default();
        match what.as_str() {
            "feature" => {
                state.features.insert(parsed(&key)?, feature(deserialized(&content)?)?);
            }
            "plan" => plans.push((key, content)),
            "price" => prices.push((key, content)),
            _ => state.revision = parsed(&content)?,
        }
    }
    for (key, content) in plans {
        let plan = plan(deserialized(&content)?, &state.features)?;
        state.plans.insert(parsed(&key)?, plan);
    }
    for (connector, content) in prices {
        let row: PriceRow = deserialized(&content)?;
        let key = PriceKey::parse(&connector, &row.external_id).map_err(unreadable)?;
        state.prices.insert(key, Price { plan: parsed(&row.plan)?, version: row.version, quantity: row.quantity });
    }
    Ok(state)
}

fn feature(row: FeatureRow) -> Result<PresentFeature, Error> {
    let intervals = row.intervals.unwrap_or_default();
    let rollover = |max: String, windows| Ok::<_, Error>(Rollover { max: allowance(&max)?, windows });
    let draws_on =
        |feature: String, cost: String| Ok::<_, Error>(DrawsOn { feature: parsed(&feature)?, cost: parsed(&cost)? });
    let feature = Feature {
        kind: parsed(&row.kind)?,
        name: row.name,
        description: row.description,
        combine: parsed(&row.combine)?,
        unit: row.unit,
        period: period(intervals.period)?,
        anchor: optional(row.anchor)?,
        overage: optional(row.overage)?,
        ceiling: optional(row.ceiling)?,
        overdraft: optional(row.overdraft)?,
        thresholds: row.thresholds.unwrap_or_default().iter().map(|factor| parsed(factor)).collect::<Result<_, _>>()?,
        rollover: row.rollover.zip(row.rollover_windows).map(|(max, windows)| rollover(max, windows)).transpose()?,
        draws_on: row.draws_on.zip(row.cost).map(|(feature, cost)| draws_on(feature, cost)).transpose()?,
        ledger: row.ledger,
        lease: period(intervals.lease)?,
        linger: period(intervals.linger)?,
        burst: optional(row.burst)?,
        store: optional(row.store)?,
        schema: row.schema.map(exact_json).transpose()?,
        archived: row.archived,
    };
    Ok(PresentFeature { feature, in_use: row.in_use })
}

fn period(parts: Option<Parts>) -> Result<Option<Period>, Error> {
    parts.map(|(months, days, micros)| Period::new(months, days, micros)).transpose().map_err(unreadable)
}

fn plan(row: PlanRow, features: &BTreeMap<FeatureKey, PresentFeature>) -> Result<PresentPlan, Error> {
    let kind_of = |key: &str| -> Option<Kind> { Some(features.get(key)?.feature.kind) };
    Ok(PresentPlan {
        plan: Plan { kind: parsed(&row.kind)?, name: row.name, description: row.description, archived: row.archived },
        version: row.version,
        definition: definition(&exact_json(row.definition)?, kind_of)?,
        cells: row.cells.into_iter().map(cell).collect::<Result<_, _>>()?,
    })
}

fn cell(CellRow(feature, enabled, config, amount, per_unit, inherited): CellRow) -> Result<(FeatureKey, Cell), Error> {
    let value = value(enabled, config.map(RawValue::get), amount.as_deref(), per_unit)?;
    Ok((parsed(&feature)?, Cell { value, inherited }))
}

/// A value as its columns have it.
pub fn value(enabled: Option<bool>, config: Option<&str>, amount: Option<&str>, per_unit: bool) -> Result<DocValue, Error> {
    Ok(match (enabled, config, amount) {
        (Some(on), None, None) => DocValue::Flag(on),
        (None, Some(config), None) => DocValue::Config(Arc::new(exact(config)?)),
        (None, None, Some(amount)) => DocValue::Metered { allowance: allowance(amount)?, per_unit },
        _ => return Err(unreadable("a feature has not exactly one value")),
    })
}

/// A plan version's definition as the tables keep it.
pub fn definition(json: &Json, kind_of: impl Fn(&str) -> Option<Kind>) -> Result<Definition, Error> {
    Definition::parse(json, kind_of).map_err(|faults| {
        unreadable(faults.first().map_or_else(String::new, |fault| format!("{} {}", fault.path, fault.fault)))
    })
}

/// JSON that a table holds.
pub fn exact(text: &str) -> Result<Json, Error> {
    json::parse(text, Limits::CATALOG)
        .map_err(|faults| unreadable(faults.first().map_or_else(String::new, |fault| fault.fault.clone())))
}

fn exact_json(raw: &RawValue) -> Result<Json, Error> {
    exact(raw.get())
}

fn allowance(amount: &str) -> Result<Allowance, Error> {
    match amount {
        "Infinity" => Ok(Allowance::Unlimited),
        _ => parsed::<Amount>(amount).map(Allowance::Finite),
    }
}

/// A word, key or amount that a table holds.
pub fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| unreadable(format!("\"{text}\" {error}")))
}

fn optional<T: FromStr<Err: Display>>(text: Option<String>) -> Result<Option<T>, Error> {
    text.map(|text| parsed(&text)).transpose()
}

fn deserialized<'r, T: Deserialize<'r>>(content: &'r str) -> Result<T, Error> {
    serde_json::from_str(content).map_err(unreadable)
}

fn unreadable(fault: impl Display) -> Error {
    Error::Internal(format!("the stored catalog cannot be read: {fault}"))
}
