//! One step from the present catalog to the one a document asks for.

use std::collections::HashSet;

use crate::json::Json;
use crate::key::{FeatureKey, PlanKey};
use crate::kind::PlanKind;

use super::feature::Feature;
use super::plan::{Cell, Definition, Plan};
use super::price::{Price, PriceKey};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub action: Action,
    /// What is different, for people and for the audit log.
    pub detail: Json,
    /// The row as it is from now on.
    pub row: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Create,
    Update,
    /// Retire for new use.
    Archive,
    Restore,
    /// A new version of a plan.
    Publish,
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    Feature,
    Plan,
    Price,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Feature(FeatureKey, Box<Feature>),
    Plan(PlanKey, Plan),
    PlanVersion(PlanVersionRow),
    /// `None`: the price is no longer mapped.
    Price(PriceKey, Option<Price>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanVersionRow {
    pub plan: PlanKey,
    pub version: i32,
    pub kind: PlanKind,
    /// With `extends` and `rank`.
    pub definition: Definition,
    /// Own and inherited, in the order of the keys.
    pub cells: Vec<(FeatureKey, Cell)>,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Archive => "archive",
            Action::Restore => "restore",
            Action::Publish => "publish",
            Action::Remove => "remove",
        }
    }
}

impl Object {
    pub fn as_str(self) -> &'static str {
        match self {
            Object::Feature => "feature",
            Object::Plan => "plan",
            Object::Price => "price",
        }
    }
}

impl Change {
    pub fn object(&self) -> Object {
        match self.row {
            Row::Feature(..) => Object::Feature,
            Row::Plan(..) | Row::PlanVersion(_) => Object::Plan,
            Row::Price(..) => Object::Price,
        }
    }

    /// The key of the object; a price's is its connector, a slash and its id there.
    pub fn key(&self) -> String {
        match &self.row {
            Row::Feature(key, _) => key.to_string(),
            Row::Plan(key, _) => key.to_string(),
            Row::PlanVersion(row) => row.plan.to_string(),
            Row::Price(key, _) => format!("{}/{}", key.connector(), key.external_id()),
        }
    }
}

/// What differs between two objects' members: `{"member": {"from": …, "to": …}}`, null for a
/// member that is at its default.
pub(super) fn differences(from: &[(&str, Json)], to: &[(&str, Json)]) -> Json {
    let value_in = |members: &[(&str, Json)], name: &str| {
        let found = members.iter().find(|(member, _)| *member == name);
        found.map_or(Json::Null, |(_, value)| value.clone())
    };
    let mut names: Vec<&str> = from.iter().chain(to).map(|(member, _)| *member).collect();
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(*name));
    let differences = names.into_iter().filter_map(|name| {
        let (from, to) = (value_in(from, name), value_in(to, name));
        (from != to).then(|| (name, from_to(from, to)))
    });
    Json::object(differences.collect::<Vec<_>>())
}

pub(super) fn from_to(from: Json, to: Json) -> Json {
    Json::object([("from", from), ("to", to)])
}
