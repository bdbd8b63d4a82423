//! Writing changes of the catalog into the tables, a statement a table however many changes there are.
//!
//! Rows travel as one JSON array. What happened goes to the catalog's audit chain, one entry a change.

use crate::audit::{self, Chain};
use crate::error::Error;
use crate::pg::session::Actor;
use entitlements_model::amount::Allowance;
use entitlements_model::catalog::{
    Action, Cell, Change, DocValue, DrawsOn, Feature, Plan, PlanVersionRow, Price, PriceKey, Row,
};
use entitlements_model::json::{Json, Member};
use entitlements_model::key::{FeatureKey, PlanKey};
use pgrx::spi::SpiClient;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

const FEATURES: &str = "
    MERGE INTO entitlements.features AS present
    USING json_to_recordset($1::json) AS next (
        key text, kind text, combine text, name text, description text, unit text, period interval, anchor text,
        overage text, ceiling numeric, overdraft numeric, thresholds numeric[], rollover numeric, rollover_windows integer, ledger boolean,
        lease interval, linger interval, burst numeric, store text, value_schema jsonb, archived boolean)
    ON present.key = next.key
    WHEN MATCHED THEN UPDATE SET
        kind = next.kind, combine = next.combine, name = next.name, description = next.description, unit = next.unit,
        period = next.period, anchor = next.anchor, overage = next.overage, ceiling = next.ceiling, overdraft = next.overdraft,
        thresholds = next.thresholds, rollover = next.rollover, rollover_windows = next.rollover_windows,
        draws_on = NULL, cost = NULL, ledger = next.ledger, lease = next.lease, linger = next.linger, burst = next.burst,
        store = next.store, value_schema = next.value_schema,
        archived_at = CASE WHEN next.archived THEN coalesce(present.archived_at, now()) END
    WHEN NOT MATCHED THEN INSERT
        (key, kind, combine, name, description, unit, period, anchor, overage, ceiling, overdraft, thresholds, rollover, rollover_windows,
            ledger, lease, linger, burst, store, value_schema, archived_at)
        VALUES (next.key, next.kind, next.combine, next.name, next.description, next.unit, next.period, next.anchor, next.overage,
            next.ceiling, next.overdraft, next.thresholds, next.rollover, next.rollover_windows, next.ledger, next.lease, next.linger, next.burst,
            next.store, next.value_schema, CASE WHEN next.archived THEN now() END)";

/// After [`FEATURES`], so that all of them have their ids.
const DRAWS: &str = "
    UPDATE entitlements.features AS feature
    SET draws_on = pool.id, cost = next.cost
    FROM json_to_recordset($1::json) AS next (key text, draws_on text, cost numeric)
    JOIN entitlements.features AS pool ON pool.key = next.draws_on
    WHERE feature.key = next.key";

const PLANS: &str = "
    MERGE INTO entitlements.plans AS present
    USING json_to_recordset($1::json) AS next (key text, kind text, name text, description text, archived boolean)
    ON present.key = next.key
    WHEN MATCHED THEN UPDATE SET
        name = next.name, description = next.description,
        archived_at = CASE WHEN next.archived THEN coalesce(present.archived_at, now()) END
    WHEN NOT MATCHED THEN INSERT (key, kind, name, description, archived_at)
        VALUES (next.key, next.kind, next.name, next.description, CASE WHEN next.archived THEN now() END)";

/// A transaction that began earlier may have had to wait for its turn: versions are published in their order all the same.
const PLAN_VERSIONS: &str = "
    INSERT INTO entitlements.plan_versions (plan_id, version, kind, rank, definition, published_at, published_by)
    SELECT plan.id, next.version, plan.kind, next.rank, next.definition,
        greatest(now(), (SELECT former.published_at FROM entitlements.plan_versions AS former
            WHERE former.plan_id = plan.id AND former.version = next.version - 1)), $2
    FROM json_to_recordset($1::json) AS next (plan text, version integer, rank integer, definition json)
    JOIN entitlements.plans AS plan ON plan.key = next.plan";

const PLAN_FEATURES: &str = "
    INSERT INTO entitlements.plan_features (plan_version_id, feature_id, kind, enabled, config, amount, per_unit, inherited)
    SELECT published.id, feature.id, feature.kind, next.enabled, next.config, next.amount, next.per_unit, next.inherited
    FROM json_to_recordset($1::json) AS next (plan text, version integer, feature text, enabled boolean, config jsonb,
        amount numeric, per_unit boolean, inherited boolean)
    JOIN entitlements.plans AS plan ON plan.key = next.plan
    JOIN entitlements.plan_versions AS published ON published.plan_id = plan.id AND published.version = next.version
    JOIN entitlements.features AS feature ON feature.key = next.feature";

const PRICES: &str = "
    MERGE INTO entitlements.prices AS present
    USING (
        SELECT next.connector, next.external_id, plan.id AS plan_id, next.version, next.quantity
        FROM json_to_recordset($1::json) AS next (connector text, external_id text, plan text, version integer, quantity integer)
        LEFT JOIN entitlements.plans AS plan ON plan.key = next.plan) AS next
    ON present.connector = next.connector AND present.external_id = next.external_id
    WHEN MATCHED AND next.plan_id IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET plan_id = next.plan_id, version = next.version, quantity = next.quantity
    WHEN NOT MATCHED THEN INSERT (connector, external_id, plan_id, version, quantity)
        VALUES (next.connector, next.external_id, next.plan_id, next.version, next.quantity)";

/// Writes the changes and records them. The caller has the catalog's turn, and took it before it read what the changes were
/// made from.
pub fn write(client: &mut SpiClient<'_>, changes: &[Change]) -> Result<(), Error> {
    // A change may touch an object twice (updated, then archived): the last row says what it is.
    let mut features = BTreeMap::new();
    let mut draws = BTreeMap::new();
    let mut plans = BTreeMap::new();
    let mut versions = Vec::new();
    let mut cells = Vec::new();
    let mut prices = Vec::new();
    for change in changes {
        match &change.row {
            Row::Feature(key, feature) => {
                features.insert(key, feature_row(key, feature));
                match &feature.draws_on {
                    Some(draws_on) => draws.insert(key, draws_row(key, draws_on)),
                    None => draws.remove(key),
                };
            }
            Row::Plan(key, plan) => {
                plans.insert(key, plan_row(key, plan));
            }
            Row::PlanVersion(row) => {
                versions.push(version_row(row));
                cells.extend(row.cells.iter().map(|(feature, cell)| cell_row(row, feature, cell)));
            }
            Row::Price(key, price) => prices.push(price_row(key, price.as_ref())),
        }
    }
    let actor = Actor::current().role;
    write_rows(client, FEATURES, features.into_values().collect())?;
    write_rows(client, DRAWS, draws.into_values().collect())?;
    write_rows(client, PLANS, plans.into_values().collect())?;
    if !versions.is_empty() {
        client.update(PLAN_VERSIONS, None, &[Json::Array(versions).to_string().into(), actor.into()])?;
    }
    write_rows(client, PLAN_FEATURES, cells)?;
    write_rows(client, PRICES, prices)?;
    let entries: Vec<_> = changes.iter().map(entry).collect();
    audit::record(client, Chain::Catalog, &entries)
}

fn write_rows(client: &mut SpiClient<'_>, statement: &str, rows: Vec<Json>) -> Result<(), Error> {
    if !rows.is_empty() {
        client.update(statement, None, &[Json::Array(rows).to_string().into()])?;
    }
    Ok(())
}

fn text(text: Option<&str>) -> Json {
    text.map_or(Json::Null, Json::string)
}

fn number(number: Option<impl std::fmt::Display>) -> Json {
    number.map_or(Json::Null, Json::number)
}

/// What `numeric` reads.
fn numeric(allowance: Allowance) -> Json {
    match allowance {
        Allowance::Finite(amount) => Json::number(amount),
        Allowance::Unlimited => Json::string("Infinity"),
    }
}

fn feature_row(key: &FeatureKey, feature: &Feature) -> Json {
    let thresholds = feature.thresholds.iter().map(Json::number).collect::<Vec<_>>();
    Json::object([
        ("key", Json::string(key.as_str())),
        ("kind", Json::string(feature.kind.as_str())),
        ("combine", Json::string(feature.combine.as_str())),
        ("name", text(feature.name.as_deref())),
        ("description", text(feature.description.as_deref())),
        ("unit", text(feature.unit.as_deref())),
        ("period", text(feature.period.map(|period| period.to_string()).as_deref())),
        ("anchor", text(feature.anchor.map(|anchor| anchor.as_str()))),
        ("overage", text(feature.overage.map(|overage| overage.as_str()))),
        ("ceiling", number(feature.ceiling)),
        ("overdraft", number(feature.overdraft)),
        ("thresholds", if thresholds.is_empty() { Json::Null } else { Json::Array(thresholds) }),
        ("rollover", feature.rollover.map_or(Json::Null, |rollover| numeric(rollover.max))),
        ("rollover_windows", number(feature.rollover.map(|rollover| rollover.windows))),
        ("ledger", Json::Bool(feature.ledger)),
        ("lease", text(feature.lease.map(|lease| lease.to_string()).as_deref())),
        ("linger", text(feature.linger.map(|linger| linger.to_string()).as_deref())),
        ("burst", number(feature.burst)),
        ("store", text(feature.store.map(|store| store.as_str()))),
        ("value_schema", feature.schema.clone().unwrap_or(Json::Null)),
        ("archived", Json::Bool(feature.archived)),
    ])
}

fn draws_row(key: &FeatureKey, draws_on: &DrawsOn) -> Json {
    Json::object([
        ("key", Json::string(key.as_str())),
        ("draws_on", Json::string(draws_on.feature.as_str())),
        ("cost", Json::number(draws_on.cost)),
    ])
}

fn plan_row(key: &PlanKey, plan: &Plan) -> Json {
    Json::object([
        ("key", Json::string(key.as_str())),
        ("kind", Json::string(plan.kind.as_str())),
        ("name", text(plan.name.as_deref())),
        ("description", text(plan.description.as_deref())),
        ("archived", Json::Bool(plan.archived)),
    ])
}

fn version_row(row: &PlanVersionRow) -> Json {
    Json::object([
        ("plan", Json::string(row.plan.as_str())),
        ("version", Json::number(row.version)),
        ("rank", Json::number(row.definition.rank)),
        ("definition", row.definition.to_json()),
    ])
}

fn cell_row(row: &PlanVersionRow, feature: &FeatureKey, cell: &Cell) -> Json {
    let mut members = vec![
        ("plan", Json::string(row.plan.as_str())),
        ("version", Json::number(row.version)),
        ("feature", Json::string(feature.as_str())),
        ("inherited", Json::Bool(cell.inherited)),
    ];
    match &cell.value {
        DocValue::Flag(on) => members.extend([("enabled", Json::Bool(*on)), ("per_unit", Json::Bool(false))]),
        DocValue::Config(json) => members.extend([("config", Json::clone(json)), ("per_unit", Json::Bool(false))]),
        DocValue::Metered { allowance, per_unit } => {
            members.extend([("amount", numeric(*allowance)), ("per_unit", Json::Bool(*per_unit))]);
        }
    }
    Json::object(members)
}

fn price_row(key: &PriceKey, price: Option<&Price>) -> Json {
    Json::object([
        ("connector", Json::string(key.connector())),
        ("external_id", Json::string(key.external_id())),
        ("plan", text(price.map(|price| price.plan.as_str()))),
        ("version", number(price.and_then(|price| price.version))),
        ("quantity", number(price.map(|price| price.quantity))),
    ])
}

/// JSON for the audit log, digit by digit.
pub fn raw(json: &Json) -> Box<RawValue> {
    RawValue::from_string(json.to_string()).expect("Json is written as JSON")
}

/// What the audit log says about a change.
fn entry(change: &Change) -> audit::Change<Box<RawValue>> {
    let detail = &change.detail;
    let archived = |archived| Json::object([("archived", Json::Bool(archived))]);
    let (old, new) = match (change.action, &change.row) {
        (Action::Create | Action::Publish, _) => (None, Some(detail.clone())),
        (Action::Remove, _) => (Some(detail.clone()), None),
        (Action::Archive, _) => (Some(archived(false)), Some(archived(true))),
        (Action::Restore, _) => (Some(archived(true)), Some(archived(false))),
        (Action::Update, Row::Price(..)) => (detail.get("from").cloned(), detail.get("to").cloned()),
        (Action::Update, _) => (Some(side(detail, "from")), Some(side(detail, "to"))),
    };
    audit::Change {
        action: change.action.as_str(),
        object: change.object().as_str(),
        object_id: change.key(),
        old: old.as_ref().map(raw),
        new: new.as_ref().map(raw),
        reason: None,
    }
}

/// One side of `{"member": {"from": …, "to": …}}`.
fn side(differences: &Json, which: &str) -> Json {
    let Json::Object(members) = differences else {
        return Json::Null;
    };
    let side = |(member, difference): &Member| (member.clone(), difference.get(which).cloned().unwrap_or(Json::Null));
    Json::object(members.iter().map(side))
}
