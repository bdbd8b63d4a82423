//! Whole documents: apply and export, and `define_feature`, which is a document of one feature.

use super::{stored, write};
use crate::audit::{self, Chain};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::connect_to_change;
use entitlements_model::catalog::{self, Action, Change, Object, Row};
use entitlements_model::fault::{Fault, Path};
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::key::FeatureKey;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};
use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

/// A change with how many accounts it affects at once.
struct Effect {
    change: Change,
    accounts: i64,
}

#[pg_extern(sql = false)]
fn apply_catalog(
    document: Option<&str>,
    dry_run: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(action, String),
        name!(object, String),
        name!(key, String),
        name!(detail, JsonbText),
        name!(accounts_affected, i64),
    ),
> {
    let effects = or_raise(apply(document, dry_run));
    TableIterator::new(effects.into_iter().map(|Effect { change, accounts }| {
        (
            change.action.as_str().to_owned(),
            change.object().as_str().to_owned(),
            change.key(),
            JsonbText(change.detail.to_string()),
            accounts,
        )
    }))
}

fn apply(document: Option<&str>, dry_run: Option<bool>) -> Result<Vec<Effect>, Error> {
    let document = document.ok_or_else(|| Error::argument("document", "it is NULL"))?;
    let dry_run = dry_run.ok_or_else(|| Error::argument("dry_run", "it is NULL"))?;
    let document = json::parse(document, Limits::CATALOG).map_err(|faults| Error::InvalidDocument { faults })?;
    if dry_run {
        Spi::connect(|client| effects(client, changes_to(client, &document)?))
    } else {
        connect_to_change(|client| {
            let changes = make_so(client, &document)?;
            effects(client, changes)
        })
    }
}

/// Takes the catalog's turn and makes it what the document states.
pub fn make_so(client: &mut SpiClient<'_>, document: &Json) -> Result<Vec<Change>, Error> {
    audit::take_turn(client, Chain::Catalog)?;
    let changes = changes_to(client, document)?;
    if !changes.is_empty() {
        write::write(client, &changes)?;
    }
    Ok(changes)
}

const FIXED: &str = "
    SELECT feature.key
    FROM entitlements.features AS feature
    WHERE feature.key = ANY ($1) AND (
        EXISTS (SELECT FROM entitlements.overrides AS exception WHERE exception.feature_id = feature.id)
        OR EXISTS (SELECT FROM entitlements.credits AS credit WHERE credit.feature_id = feature.id)
        OR EXISTS (SELECT FROM entitlements.counters AS counter WHERE counter.feature_id = feature.id))
    ORDER BY feature.key";

/// What makes the present catalog what the document states. The domain knows what published plans fix; overrides and credits,
/// also those that ended, and usage fix the kind of their feature too.
pub fn changes_to(client: &SpiClient<'_>, document: &Json) -> Result<Vec<Change>, Error> {
    let changes = catalog::plan_changes(&stored::read(client)?, document)?;
    let of_another_kind: Vec<String> = changes
        .iter()
        .filter(|change| {
            change.action == Action::Update && change.object() == Object::Feature && change.detail.get("kind").is_some()
        })
        .map(Change::key)
        .collect();
    if of_another_kind.is_empty() {
        return Ok(changes);
    }
    let fixed = client.select(FIXED, None, &[of_another_kind.into()])?;
    let fault = |row: SpiHeapTupleData<'_>| -> Result<Fault, Error> {
        let feature = row.get::<String>(1)?.unwrap_or_default();
        let path = Path::Root.member("features").member(&feature).member("kind").to_string();
        Ok(Fault {
            path,
            fault: "accounts have or had overrides, credits or usage of the feature, so its kind cannot change".to_owned(),
        })
    };
    let faults = fixed.map(fault).collect::<Result<Vec<_>, _>>()?;
    if faults.is_empty() { Ok(changes) } else { Err(Error::DocumentConflict { faults }) }
}

/// The accounts that follow a plan's latest version, and those below them, which may inherit what it gives.
const FOLLOWERS: &str = "
    WITH RECURSIVE reached (key, account_id) AS (
        SELECT plan.key, subscription.account_id
        FROM entitlements.plans AS plan
        JOIN entitlements.subscriptions AS subscription ON subscription.plan_id = plan.id
        WHERE plan.key = ANY ($1) AND subscription.plan_version_id IS NULL AND subscription.superseded_at IS NULL
            AND subscription.in_force_until > now()
        UNION
        SELECT reached.key, child.id
        FROM reached JOIN entitlements.accounts AS child ON child.parent_id = reached.account_id)
    SELECT key, count(*) FROM reached GROUP BY key";

/// The accounts that have a feature by a plan, an override or a credit, and those below them.
const HOLDERS: &str = "
    WITH RECURSIVE feature AS (
        SELECT id, key FROM entitlements.features WHERE key = ANY ($1)),
    reached (key, account_id) AS (
        SELECT held.key, held.account_id
        FROM (
            SELECT feature.key, subscription.account_id
            FROM feature
            JOIN entitlements.plan_features AS cell ON cell.feature_id = feature.id AND cell.amount IS DISTINCT FROM 0
            JOIN entitlements.plan_versions AS version ON version.id = cell.plan_version_id
            CROSS JOIN LATERAL (
                SELECT newer.id FROM entitlements.plan_versions AS newer WHERE newer.plan_id = version.plan_id
                ORDER BY newer.version DESC LIMIT 1) AS latest
            JOIN entitlements.subscriptions AS subscription ON subscription.plan_id = version.plan_id
                AND (subscription.plan_version_id = version.id OR subscription.plan_version_id IS NULL AND latest.id = version.id)
            WHERE subscription.superseded_at IS NULL AND subscription.in_force_until > now()
            UNION ALL
            SELECT feature.key, exception.account_id
            FROM feature JOIN entitlements.overrides AS exception ON exception.feature_id = feature.id
            WHERE exception.ended_at IS NULL AND exception.expires_at > now() AND exception.mode <> 'deny'
            UNION ALL
            SELECT feature.key, credit.account_id
            FROM feature JOIN entitlements.credits AS credit ON credit.feature_id = feature.id
            WHERE credit.voided_at IS NULL AND credit.expires_at > now()) AS held
        UNION
        SELECT reached.key, child.id
        FROM reached JOIN entitlements.accounts AS child ON child.parent_id = reached.account_id)
    SELECT key, count(*) FROM reached GROUP BY key";

/// Members of a feature that decide what may be used: a change of theirs is in force at once, for all who have the feature.
const DECIDING: [&str; 11] =
    ["combine", "period", "anchor", "overage", "ceiling", "overdraft", "rollover", "draws_on", "linger", "burst", "store"];

/// A new version of a plan reaches those who follow its latest, a changed rule of a feature all who have it; nothing else changes
/// an answer at once.
fn effects(client: &SpiClient<'_>, changes: Vec<Change>) -> Result<Vec<Effect>, Error> {
    let is_version = |change: &Change| matches!(change.row, Row::PlanVersion(_));
    let decides = |change: &Change| DECIDING.iter().any(|member| change.detail.get(member).is_some());
    let is_rule = |change: &Change| change.action == Action::Update && change.object() == Object::Feature && decides(change);
    let keys = |which: &dyn Fn(&Change) -> bool| changes.iter().filter(|change| which(change)).map(Change::key).collect();
    let followers = counts(client, FOLLOWERS, keys(&is_version))?;
    let holders = counts(client, HOLDERS, keys(&is_rule))?;
    let effect = |change: Change| {
        let accounts = match () {
            () if is_version(&change) => followers.get(&change.key()),
            () if is_rule(&change) => holders.get(&change.key()),
            () => None,
        };
        Effect { accounts: accounts.copied().unwrap_or(0), change }
    };
    Ok(changes.into_iter().map(effect).collect())
}

/// How many accounts a query finds for each key.
fn counts(client: &SpiClient<'_>, query: &str, keys: Vec<String>) -> Result<HashMap<String, i64>, Error> {
    let mut counts = HashMap::new();
    if !keys.is_empty() {
        for row in client.select(query, None, &[keys.into()])? {
            counts.insert(row.get(1)?.unwrap_or_default(), row.get(2)?.unwrap_or_default());
        }
    }
    Ok(counts)
}

#[pg_extern(sql = false)]
fn export_catalog() -> JsonbText {
    or_raise(Spi::connect(|client| Ok(JsonbText(catalog::export(&stored::read(client)?).to_string()))))
}

#[pg_extern(sql = false)]
fn define_feature(feature: Option<&str>, kind: Option<&str>, definition: Option<JsonbText>) {
    or_raise(define(feature, kind, definition));
}

fn define(feature: Option<&str>, kind: Option<&str>, definition: Option<JsonbText>) -> Result<(), Error> {
    let feature = key_argument::<FeatureKey>("feature", feature)?;
    let definition = definition.ok_or_else(|| Error::argument("definition", "it is NULL"))?;
    let Json::Object(mut members) = json_argument("definition", &definition)? else {
        return Err(Error::argument("definition", "it is not a JSON object"));
    };
    if let Some(kind) = kind {
        if members.iter().any(|(member, _)| member == "kind") {
            return Err(Error::argument("definition", "it states the kind too"));
        }
        members.insert(0, ("kind".into(), Json::string(kind)));
    }
    let document = Json::object([("features", Json::object([(feature.as_str(), Json::Object(members))]))]);
    connect_to_change(|client| make_so(client, &document))?;
    Ok(())
}

/// The key that an argument names.
pub fn key_argument<K: FromStr<Err: Display>>(argument: &'static str, value: Option<&str>) -> Result<K, Error> {
    let value = value.ok_or_else(|| Error::argument(argument, "it is NULL"))?;
    value.parse().map_err(|error| Error::argument(argument, format!("it {error}")))
}

/// The JSON that an argument holds, within the limits of a document.
pub fn json_argument(argument: &'static str, JsonbText(value): &JsonbText) -> Result<Json, Error> {
    json::parse(value, Limits::CATALOG).map_err(|faults| {
        Error::argument(
            argument,
            faults.first().map_or_else(String::new, |fault| format!("{}: {}", fault.path, fault.fault)),
        )
    })
}
