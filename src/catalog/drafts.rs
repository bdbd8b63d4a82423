//! Drafts: plans edited step by step and published as a whole.
//!
//! A draft is a plan as a catalog document states it, and publishing it is applying that document. It starts from what is
//! published; if the plan is published otherwise meanwhile, the draft is refused rather than taking that change back. Edits
//! take the catalog's turn, so those of two editors merge.

use super::functions::{json_argument, key_argument, make_so};
use super::{stored, write};
use crate::audit::{self, Chain};
use crate::error::Error;
use crate::pg::error::or_raise;
use crate::pg::jsonb::JsonbText;
use crate::pg::session::{Actor, connect_to_change};
use crate::pg::subtransaction::upsert;
use entitlements_model::catalog::{DocValue, Schema, draft};
use entitlements_model::fault::Fault;
use entitlements_model::json::Json;
use entitlements_model::key::{FeatureKey, PlanKey};
use entitlements_model::kind::{Kind, PlanKind};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

const DRAFT: &str = "
    SELECT draft.definition::text, draft.base_version, latest.version, latest.definition::text
    FROM (SELECT $1 COLLATE \"C\" AS key) AS asked
    LEFT JOIN entitlements.plan_drafts AS draft ON draft.key = asked.key
    LEFT JOIN LATERAL (
        SELECT published.version, published.definition
        FROM entitlements.plans AS plan
        JOIN entitlements.plan_versions AS published ON published.plan_id = plan.id
        WHERE plan.key = asked.key
        ORDER BY published.version DESC
        LIMIT 1) AS latest ON true";

const SAVE: &str = "
    INSERT INTO entitlements.plan_drafts (key, base_version, definition, edited_at, edited_by)
    VALUES ($1, $2, $3::json, now(), $4)
    ON CONFLICT (key) DO UPDATE SET definition = excluded.definition, edited_at = excluded.edited_at, edited_by = excluded.edited_by";

const DISCARD: &str = "DELETE FROM entitlements.plan_drafts WHERE key = $1";

const PLANS: &str = "SELECT key FROM entitlements.plans UNION SELECT key FROM entitlements.plan_drafts";

const FEATURE: &str = "SELECT kind, value_schema::text FROM entitlements.features WHERE key = $1";

const FEATURES: &str = "SELECT key FROM entitlements.features";

/// A plan's draft and the version that is the latest now.
struct Drafted {
    /// None where the plan has no draft.
    draft: Option<Json>,
    /// The version that the draft started from, None for a new plan; without a draft, the latest.
    base: Option<i32>,
    /// The latest version and its definition, None where nothing is published.
    published: Option<(i32, Json)>,
}

impl Drafted {
    fn read(client: &SpiClient<'_>, plan: &PlanKey) -> Result<Self, Error> {
        let row = client.select(DRAFT, Some(1), &[plan.as_str().into()])?.first();
        let exact = |text: Option<String>| text.map(|text| stored::exact(&text)).transpose();
        let (draft, latest) = (exact(row.get(1)?)?, row.get::<i32>(3)?);
        let base = if draft.is_some() { row.get::<i32>(2)? } else { latest };
        Ok(Self { draft, base, published: latest.zip(exact(row.get(4)?)?) })
    }

    fn latest(&self) -> Option<i32> {
        self.published.as_ref().map(|(version, _)| *version)
    }
}

#[pg_extern(sql = false)]
fn define_plan(
    plan: Option<&str>,
    kind: Option<&str>,
    extends: Option<&str>,
    rank: Option<i32>,
    name: Option<&str>,
    description: Option<&str>,
) {
    or_raise(define(plan, kind, extends, rank, name, description));
}

fn define(
    plan: Option<&str>,
    kind: Option<&str>,
    extends: Option<&str>,
    rank: Option<i32>,
    name: Option<&str>,
    description: Option<&str>,
) -> Result<(), Error> {
    let plan = key_argument::<PlanKey>("plan", plan)?;
    let kind = kind.map(|kind| key_argument::<PlanKind>("kind", Some(kind))).transpose()?;
    let extends = match extends {
        None | Some("") => extends.map(|_| Json::Null),
        Some(_) => Some(Json::string(key_argument::<PlanKey>("extends", extends)?.as_str())),
    };
    let text = |text: &str| if text.is_empty() { Json::Null } else { Json::string(text) };
    connect_to_change(|client| {
        audit::take_turn(client, Chain::Catalog)?;
        let drafted = Drafted::read(client, &plan)?;
        let created = if drafted.published.is_none() && drafted.draft.is_none() {
            Some(draft::new(kind.unwrap_or(PlanKind::Base)))
        } else {
            None
        };
        edit(client, &plan, drafted, created, |draft| {
            for (member, value) in [
                ("kind", kind.map(|kind| Json::string(kind.as_str()))),
                ("extends", extends),
                ("rank", rank.map(Json::number)),
                ("name", name.map(text)),
                ("description", description.map(text)),
            ] {
                if let Some(value) = value {
                    draft::set_member(draft, member, value)?;
                }
            }
            Ok(())
        })
    })
}

#[pg_extern(sql = false)]
fn set_plan_feature(plan: Option<&str>, feature: Option<&str>, value: Option<JsonbText>) {
    or_raise(set_feature(plan, feature, value));
}

fn set_feature(plan: Option<&str>, feature: Option<&str>, value: Option<JsonbText>) -> Result<(), Error> {
    let plan = key_argument::<PlanKey>("plan", plan)?;
    let feature = key_argument::<FeatureKey>("feature", feature)?;
    let value = value.map(|value| json_argument("value", &value)).transpose()?;
    connect_to_change(|client| {
        audit::take_turn(client, Chain::Catalog)?;
        check_value(client, &feature, value.as_ref())?;
        let drafted = Drafted::read(client, &plan)?;
        if drafted.draft.is_none() && drafted.published.is_none() {
            return Err(unknown_plan(client, &plan)?);
        }
        edit(client, &plan, drafted, None, |draft| match value {
            Some(value) => draft::set_feature(draft, &feature, value),
            None => draft::unset_feature(draft, &feature),
        })
    })
}

/// Whether the feature takes such a value, so that a slip shows when it is made and not when the draft is published.
fn check_value(client: &SpiClient<'_>, feature: &FeatureKey, value: Option<&Json>) -> Result<(), Error> {
    let known = client.select(FEATURE, Some(1), &[feature.as_str().into()])?;
    if known.is_empty() {
        let known = keys(client, FEATURES)?;
        return Err(Error::unknown_feature(feature.as_str(), known.iter().map(String::as_str)));
    }
    let Some(value) = value.filter(|value| **value != Json::Null) else {
        return Ok(());
    };
    let known = known.first();
    let kind = stored::parsed::<Kind>(&known.get::<String>(1)?.unwrap_or_default())?;
    let typed = DocValue::parse(kind, value).map_err(|faults| invalid_value(faults.first()))?;
    if let (DocValue::Config(config), Some(schema)) = (typed, known.get::<String>(2)?) {
        let schema = Schema::compile(&stored::exact(&schema)?).map_err(Error::Internal)?;
        schema
            .check(&config)
            .map_err(|fault| Error::argument("value", format!("it does not fit the feature's schema: {fault}")))?;
    }
    Ok(())
}

fn invalid_value(fault: Option<&Fault>) -> Error {
    Error::argument("value", fault.map_or_else(String::new, |fault| format!("{}: {}", fault.path, fault.fault)))
}

/// Changes the draft, which starts as `created` or else as what is published, and saves it if that changed anything.
fn edit(
    client: &mut SpiClient<'_>,
    plan: &PlanKey,
    drafted: Drafted,
    created: Option<Json>,
    change: impl FnOnce(&mut Json) -> Result<(), Fault>,
) -> Result<(), Error> {
    let published = drafted.published.map(|(_, definition)| definition);
    let Some(mut draft) = drafted.draft.clone().or(created).or(published) else {
        return Err(Error::Internal(format!("plan {plan} is neither drafted nor published")));
    };
    let before = drafted.draft;
    change(&mut draft)
        .map_err(|fault| Error::Internal(format!("the draft of plan {plan} cannot be edited: {}", fault.fault)))?;
    if before.as_ref() == Some(&draft) {
        return Ok(());
    }
    upsert(
        client,
        c"plan_drafts",
        SAVE,
        &[plan.as_str().into(), drafted.base.into(), draft.to_string().into(), Actor::current().role.into()],
    )?;
    record(client, "edit", plan, before.as_ref(), Some(&draft))
}

fn record(
    client: &mut SpiClient<'_>,
    action: &'static str,
    plan: &PlanKey,
    old: Option<&Json>,
    new: Option<&Json>,
) -> Result<(), Error> {
    let change = audit::Change {
        action,
        object: "draft",
        object_id: plan.to_string(),
        old: old.map(write::raw),
        new: new.map(write::raw),
        reason: None,
    };
    audit::record(client, Chain::Catalog, &[change])
}

#[pg_extern(sql = false)]
fn discard_draft(plan: Option<&str>) -> bool {
    or_raise(discard(plan))
}

fn discard(plan: Option<&str>) -> Result<bool, Error> {
    let plan = key_argument::<PlanKey>("plan", plan)?;
    connect_to_change(|client| {
        audit::take_turn(client, Chain::Catalog)?;
        let Some(draft) = Drafted::read(client, &plan)?.draft else {
            return Ok(false);
        };
        client.update(DISCARD, None, &[plan.as_str().into()])?;
        record(client, "discard", &plan, Some(&draft), None)?;
        Ok(true)
    })
}

#[pg_extern(sql = false)]
fn publish_plan(plan: Option<&str>) -> i32 {
    or_raise(publish(plan))
}

fn publish(plan: Option<&str>) -> Result<i32, Error> {
    let plan = key_argument::<PlanKey>("plan", plan)?;
    connect_to_change(|client| {
        audit::take_turn(client, Chain::Catalog)?;
        let drafted = Drafted::read(client, &plan)?;
        let latest = drafted.latest();
        let Some(draft) = drafted.draft else {
            return match latest {
                Some(version) => Ok(version),
                None => Err(unknown_plan(client, &plan)?),
            };
        };
        if drafted.base != latest {
            let began = drafted.base.map_or_else(|| "before it had any".to_owned(), |version| format!("at {version}"));
            return Err(Error::Conflict {
                message: format!(
                    "plan \"{plan}\" is at version {} by now, its draft began {began}",
                    latest.unwrap_or_default()
                ),
                hint: "Discard the draft with entitlements.discard_draft and make the change again.".to_owned(),
            });
        }
        make_so(client, &draft::document(&plan, draft.clone()))?;
        client.update(DISCARD, None, &[plan.as_str().into()])?;
        record(client, "publish", &plan, Some(&draft), None)?;
        match Drafted::read(client, &plan)?.latest() {
            Some(version) => Ok(version),
            None => Err(Error::Internal(format!("plan {plan} was published without a version"))),
        }
    })
}

/// The error for a plan that is neither drafted nor published.
pub fn unknown_plan(client: &SpiClient<'_>, plan: &PlanKey) -> Result<Error, Error> {
    let known = keys(client, PLANS)?;
    Ok(Error::unknown_plan(plan.as_str(), known.iter().map(String::as_str)))
}

fn keys(client: &SpiClient<'_>, query: &str) -> Result<Vec<String>, Error> {
    client.select(query, None, &[])?.map(|row| Ok(row.get::<String>(1)?.unwrap_or_default())).collect()
}
