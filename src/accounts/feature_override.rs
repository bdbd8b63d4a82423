//! Overrides: exceptions for one account and feature. At most one of each source is live.

use super::account::{Account, raw};
use super::arguments::{required, required_source, required_text, timestamp, transaction_time};
use super::feature::Feature;
use crate::audit::{self, Change};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use entitlements_model::amount::Allowance;
use entitlements_model::catalog::{DocValue, Schema};
use entitlements_model::fault::Fault;
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::kind::{Kind, OverrideMode};
use entitlements_model::time::{FOREVER, Time};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::value::RawValue;

#[pg_extern(sql = false)]
fn set_override(
    account: Option<&str>,
    feature: Option<&str>,
    mode: Option<&str>,
    value: Option<JsonbText>,
    reason: Option<&str>,
    expires_at: Option<TimestampWithTimeZone>,
    source: Option<&str>,
) -> i64 {
    or_raise(connect_to_change(|client| {
        let new = NewOverride {
            account: required("account", account)?,
            feature: required("feature", feature)?,
            mode: required("mode", mode)?.parse().map_err(|fault| Error::argument("mode", format!("it {fault}")))?,
            value,
            reason: required_text("reason", reason)?,
            expires_at: expires_at.map_or(FOREVER, Time::from),
            source: required_source(source)?,
        };
        set(client, new)
    }))
}

/// What `set_override` is told.
pub struct NewOverride<'a> {
    pub account: &'a str,
    pub feature: &'a str,
    pub mode: OverrideMode,
    pub value: Option<JsonbText>,
    pub reason: &'a str,
    pub expires_at: Time,
    pub source: &'a str,
}

/// What `set_override` does.
pub fn set(client: &mut SpiClient<'_>, new: NewOverride<'_>) -> Result<i64, Error> {
    let NewOverride { account, feature, mode, value, reason, expires_at, source } = new;
    if expires_at <= transaction_time() {
        return Err(Error::argument("expires_at", "it is not in the future"));
    }
    let account = Account::take(client, Some(account))?;
    let feature = Feature::find(client, feature)?;
    let value = Value::read(&feature, mode, value)?;

    let (old, starts_at) = replace(client, &account, &feature, source, reason)?;
    let inserted = client.update(
        "INSERT INTO entitlements.overrides AS override
                (account_id, feature_id, kind, mode, enabled, config, amount, reason, source, created_by, starts_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.jsonb, $7::pg_catalog.numeric, $8, $9, $10, $11, $12)
         RETURNING id, pg_catalog.to_jsonb(override)::pg_catalog.text",
        None,
        &[
            account.id.into(),
            feature.id.into(),
            feature.kind.as_str().into(),
            mode.as_str().into(),
            value.enabled.into(),
            value.config.into(),
            value.amount.into(),
            reason.into(),
            source.into(),
            Actor::current().role.into(),
            timestamp(starts_at).into(),
            timestamp(expires_at.max(starts_at)).into(),
        ],
    )?;
    let (id, new) = inserted.first().get_two::<i64, String>()?;
    let id = id.expect("a key column");
    let change = Change {
        action: "set",
        object: "override",
        object_id: id.to_string(),
        old,
        new: new.map(raw),
        reason: Some(reason.to_owned()),
    };
    audit::record(client, account.chain(), &[change])?;
    Ok(id)
}

/// An override's value by column.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Value {
    pub enabled: Option<bool>,
    pub config: Option<String>,
    pub amount: Option<String>,
}

impl Value {
    fn read(feature: &Feature, mode: OverrideMode, value: Option<JsonbText>) -> Result<Self, Error> {
        let wrong = |fault: String| Error::argument("value", fault);
        let value = match value {
            None => Json::Null,
            Some(JsonbText(text)) => json::parse(&text, Limits::CATALOG).map_err(|faults| wrong(first(faults)))?,
        };
        match mode {
            OverrideMode::Deny if value == Json::Null => return Ok(Self::default()),
            OverrideMode::Deny => return Err(wrong("mode deny takes no value".to_owned())),
            OverrideMode::Add if !feature.kind.is_metered() => {
                return Err(Error::argument("mode", format!("add needs a metered feature, and this is a {}", feature.kind)));
            }
            OverrideMode::Add | OverrideMode::Set => {}
        }
        let schema = match (feature.kind, &feature.value_schema) {
            (Kind::Config, Some(schema)) => Some(compiled(&feature.key, schema)?),
            _ => None,
        };
        Self::of(feature.kind, schema.as_ref(), &value).map_err(wrong)
    }

    /// The value as a feature of this kind has it, in an override that sets or adds; else what is wrong with it.
    pub fn of(kind: Kind, schema: Option<&Schema>, value: &Json) -> Result<Self, String> {
        if kind.is_metered() && matches!(value, Json::Object(_)) {
            return Err("it is neither a number nor \"unlimited\"".to_owned());
        }
        let read = DocValue::parse(kind, value).map_err(first)?;
        if let Some(schema) = schema {
            schema.check(value)?;
        }
        Ok(match read {
            DocValue::Flag(enabled) => Self { enabled: Some(enabled), ..Self::default() },
            DocValue::Config(config) => Self { config: Some(config.to_string()), ..Self::default() },
            DocValue::Metered { allowance: Allowance::Finite(amount), .. } => {
                Self { amount: Some(amount.to_string()), ..Self::default() }
            }
            DocValue::Metered { allowance: Allowance::Unlimited, .. } => {
                Self { amount: Some("Infinity".to_owned()), ..Self::default() }
            }
        })
    }
}

/// The stored schema of a feature's values.
pub fn compiled(feature: &str, schema: &str) -> Result<Schema, Error> {
    let broken = |fault| Error::Internal(format!("the schema of feature \"{feature}\" cannot be used: {fault}"));
    let schema = json::parse(schema, Limits::CATALOG).map_err(|faults| broken(first(faults)))?;
    Schema::compile(&schema).map_err(broken)
}

/// The first of the faults, with its place where that is not the whole.
fn first(faults: Vec<Fault>) -> String {
    match faults.into_iter().next() {
        Some(Fault { path, fault }) if path == "$" => fault,
        Some(Fault { path, fault }) => format!("{path}: {fault}"),
        None => "it cannot be read".to_owned(),
    }
}

/// Ends the live override of this source, if there is one. Gives it as JSON, and the moment from which the next can hold.
fn replace(
    client: &mut SpiClient<'_>,
    account: &Account,
    feature: &Feature,
    source: &str,
    reason: &str,
) -> Result<(Option<Box<RawValue>>, Time), Error> {
    let ended = client.update(
        "UPDATE entitlements.overrides override SET ended_at = greatest(pg_catalog.now(), starts_at), ended_by = $4, ended_reason = $5
          WHERE account_id = $1 AND feature_id = $2 AND source = $3 AND ended_at IS NULL
         RETURNING pg_catalog.to_jsonb(override)::pg_catalog.text, ended_at",
        None,
        &[account.id.into(), feature.id.into(), source.into(), Actor::current().role.into(), reason.into()],
    )?;
    if ended.is_empty() {
        return Ok((None, transaction_time()));
    }
    let (old, ended_at) = ended.first().get_two::<String, TimestampWithTimeZone>()?;
    Ok((old.map(raw), ended_at.map_or_else(transaction_time, Time::from)))
}

#[pg_extern(sql = false)]
fn clear_override(id: Option<i64>, reason: Option<&str>) -> bool {
    or_raise(connect_to_change(|client| clear(client, id, reason)))
}

/// What `clear_override` does.
pub fn clear(client: &mut SpiClient<'_>, id: Option<i64>, reason: Option<&str>) -> Result<bool, Error> {
    let id = required("id", id)?;
    let reason = required_text("reason", reason)?;
    let found = client.update("SELECT account_id FROM entitlements.overrides WHERE id = $1", Some(1), &[id.into()])?;
    if found.is_empty() {
        return Err(Error::UnknownRow { object: "override", id: id.to_string() });
    }
    let account = Account::take_by_id(client, found.first().get_one()?.expect("a column that is not NULL"))?;
    let ended = client.update(
        "UPDATE entitlements.overrides override SET ended_at = greatest(pg_catalog.now(), starts_at), ended_by = $2, ended_reason = $3
          WHERE id = $1 AND ended_at IS NULL RETURNING pg_catalog.to_jsonb(override)::pg_catalog.text",
        None,
        &[id.into(), Actor::current().role.into(), reason.into()],
    )?;
    if ended.is_empty() {
        return Ok(false);
    }
    let change = Change {
        action: "clear",
        object: "override",
        object_id: id.to_string(),
        old: ended.first().get_one()?.map(raw),
        new: None,
        reason: Some(reason.to_owned()),
    };
    audit::record(client, account.chain(), &[change])?;
    Ok(true)
}
