//! Plans as catalog documents define them, and the values they give to features.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::amount::Allowance;
use crate::fault::{Fault, Path};
use crate::json::{Json, Member};
use crate::key::{FeatureKey, PlanKey};
use crate::kind::{Kind, PlanKind};

use super::feature::{DESCRIPTION_LENGTH, NAME_LENGTH};
use super::read::{self, Findings};

/// What stays the same over a plan's versions, and what people read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub kind: PlanKind,
    pub name: Option<String>,
    pub description: Option<String>,
    pub archived: bool,
}

/// A plan version as its author wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    pub extends: Option<PlanKey>,
    pub rank: i32,
    /// The plan's own set; `None` takes away what the extended plan gives.
    pub features: BTreeMap<FeatureKey, Option<DocValue>>,
}

/// What a plan version holds of one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub value: DocValue,
    /// The value comes from the plan that this one extends.
    pub inherited: bool,
}

/// A feature's value. Values that mean the same are equal, however they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocValue {
    Flag(bool),
    /// Any JSON but null.
    Config(Arc<Json>),
    Metered {
        allowance: Allowance,
        /// The allowance is for each unit of the subscription's quantity.
        per_unit: bool,
    },
}

/// Most bytes of a config value.
const CONFIG_LENGTH: usize = 65_536;

const MEMBERS: [&str; 7] = ["kind", "name", "description", "extends", "rank", "features", "archived"];

const AMOUNT_MEMBERS: [&str; 2] = ["amount", "per_unit"];

impl DocValue {
    /// Reads the value of a feature of this kind. Whether a config value fits its schema is
    /// another question.
    pub fn parse(kind: Kind, json: &Json) -> Result<DocValue, Vec<Fault>> {
        let mut findings = Findings::default();
        DocValue::read(kind, json, &Path::Root, &mut findings).ok_or_else(|| findings.into_faults())
    }

    pub(super) fn read(kind: Kind, json: &Json, path: &Path, findings: &mut Findings) -> Option<DocValue> {
        match kind {
            Kind::Flag => read::boolean(json, path, findings).map(DocValue::Flag),
            Kind::Config if *json == Json::Null => read::wrong_type(json, "a config value", path, findings),
            Kind::Config if json.to_string().len() > CONFIG_LENGTH => {
                findings.fault(path, || format!("a config value of more than {CONFIG_LENGTH} bytes"));
                None
            }
            Kind::Config => Some(DocValue::Config(Arc::new(json.clone()))),
            Kind::Quota | Kind::Allocation | Kind::Rate => read_metered(json, path, findings),
        }
    }

    /// The value as a document states it.
    pub fn to_json(&self) -> Json {
        match self {
            DocValue::Flag(on) => Json::Bool(*on),
            DocValue::Config(json) => Json::clone(json),
            DocValue::Metered { allowance, per_unit } => {
                let amount = allowance_to_json(*allowance);
                if *per_unit { Json::object([("amount", amount), ("per_unit", Json::Bool(true))]) } else { amount }
            }
        }
    }
}

fn read_metered(json: &Json, path: &Path, findings: &mut Findings) -> Option<DocValue> {
    let Json::Object(members) = json else {
        let allowance = read_allowance(json, path, findings)?;
        return Some(DocValue::Metered { allowance, per_unit: false });
    };
    for (member, _) in members {
        if !AMOUNT_MEMBERS.contains(&member.as_str()) {
            read::unknown_member(member, &AMOUNT_MEMBERS, &path.member(member), findings);
        }
    }
    let per_unit = match json.get("per_unit") {
        Some(json) => read::boolean(json, &path.member("per_unit"), findings),
        None => Some(false),
    };
    let allowance = match json.get("amount") {
        Some(json) => read_allowance(json, &path.member("amount"), findings),
        None => {
            findings.fault(path, || "an amount is missing".into());
            None
        }
    };
    Some(DocValue::Metered { allowance: allowance?, per_unit: per_unit? })
}

pub(super) fn allowance_to_json(allowance: Allowance) -> Json {
    match allowance {
        Allowance::Finite(amount) => Json::number(amount),
        Allowance::Unlimited => Json::string("unlimited"),
    }
}

pub(super) fn read_allowance(json: &Json, path: &Path, findings: &mut Findings) -> Option<Allowance> {
    match json {
        Json::String(text) if text == "unlimited" => Some(Allowance::Unlimited),
        Json::Number(_) => read::amount(json, path, findings).map(Allowance::Finite),
        _ => read::wrong_type(json, "a number or \"unlimited\"", path, findings),
    }
}

impl Plan {
    /// The members of a document that say this, but for defaults.
    pub(super) fn members(&self) -> Vec<(&'static str, Json)> {
        let mut members = vec![("kind", Json::string(self.kind.as_str()))];
        members.extend(self.name.as_ref().map(|name| ("name", Json::string(name))));
        members.extend(self.description.as_ref().map(|text| ("description", Json::string(text))));
        if self.archived {
            members.push(("archived", Json::Bool(true)));
        }
        members
    }
}

impl Definition {
    /// As a document states it: `extends` and `rank` unless default, and `features`.
    pub fn to_json(&self) -> Json {
        Json::object(self.members())
    }

    pub(super) fn members(&self) -> Vec<(&'static str, Json)> {
        let mut members = Vec::new();
        members.extend(self.extends.as_ref().map(|plan| ("extends", Json::string(plan.as_str()))));
        if self.rank != 0 {
            members.push(("rank", Json::number(self.rank)));
        }
        let value = |value: &Option<DocValue>| value.as_ref().map_or(Json::Null, DocValue::to_json);
        let features = self.features.iter().map(|(feature, cell)| (feature.as_str(), value(cell)));
        members.push(("features", Json::object(features)));
        members
    }

    /// Reads back what [`Definition::to_json`] wrote. `kind_of` knows the kind of each feature.
    pub fn parse(json: &Json, kind_of: impl Fn(&str) -> Option<Kind>) -> Result<Definition, Vec<Fault>> {
        let mut findings = Findings::default();
        let mut definition = Definition::default();
        for (member, json) in read::object(json, &Path::Root, &mut findings).unwrap_or_default() {
            let path = Path::Root.member(member);
            match member.as_str() {
                "extends" => set_extends(&mut definition, json, &path, &mut findings),
                "rank" => set_rank(&mut definition, json, &path, &mut findings),
                "features" => {
                    for (key, json) in read::object(json, &path, &mut findings).unwrap_or_default() {
                        let path = path.member(key);
                        let Some(kind) = kind_of(key) else {
                            findings.fault(&path, || "unknown feature".into());
                            continue;
                        };
                        let value = read::nullable(json, |json| DocValue::read(kind, json, &path, &mut findings));
                        if let (Some(key), Some(value)) = (read::key(key, "a feature", &path, &mut findings), value) {
                            definition.features.insert(key, value);
                        }
                    }
                }
                _ => read::unknown_member(member, &["extends", "rank", "features"], &path, &mut findings),
            }
        }
        if findings.is_empty() { Ok(definition) } else { Err(findings.into_faults()) }
    }
}

/// What a document says about a plan, on top of what the plan is now.
pub(super) struct PlanReading<'j> {
    pub(super) plan: Plan,
    /// Without the features that the document states.
    pub(super) definition: Definition,
    /// The plan's own set, where the document states it.
    pub(super) features: Option<&'j [Member]>,
}

impl<'j> PlanReading<'j> {
    /// `None` when not even the kind could be read.
    pub(super) fn merge(
        present: Option<(&Plan, &Definition)>,
        json: &'j Json,
        path: &Path,
        findings: &mut Findings,
    ) -> Option<PlanReading<'j>> {
        let members = read::object(json, path, findings)?;
        let kind = match (json.get("kind"), present) {
            (Some(kind), _) => read::parsed(kind, &path.member("kind"), findings)?,
            (None, Some((present, _))) => present.kind,
            (None, None) => {
                findings.fault(path, || "a new plan needs a kind: base or addon".into());
                return None;
            }
        };
        if let Some((present, _)) = present
            && present.kind != kind
        {
            findings.conflict(&path.member("kind"), || format!("the plan is of kind {}, which cannot change", present.kind));
        }
        let mut reading = match present {
            Some((plan, definition)) => {
                PlanReading { plan: Plan { kind, ..plan.clone() }, definition: definition.clone(), features: None }
            }
            None => PlanReading {
                plan: Plan { kind, name: None, description: None, archived: false },
                definition: Definition::default(),
                features: None,
            },
        };
        for (member, json) in members {
            reading.set_member(member, json, &path.member(member), findings);
        }
        Some(reading)
    }

    fn set_member(&mut self, member: &str, json: &'j Json, path: &Path, findings: &mut Findings) {
        match member {
            "kind" => {}
            "name" => {
                if let Some(name) = read::nullable(json, |json| read::text(json, NAME_LENGTH, path, findings)) {
                    self.plan.name = name;
                }
            }
            "description" => {
                if let Some(text) = read::nullable(json, |json| read::text(json, DESCRIPTION_LENGTH, path, findings)) {
                    self.plan.description = text;
                }
            }
            "extends" => set_extends(&mut self.definition, json, path, findings),
            "rank" => set_rank(&mut self.definition, json, path, findings),
            "features" => {
                let members = read::nullable(json, |json| read::object(json, path, findings).map(|_| ()));
                if members.is_some() {
                    self.definition.features.clear();
                    self.features = match json {
                        Json::Object(members) => Some(members),
                        _ => Some(&[]),
                    };
                }
            }
            "archived" => {
                if let Some(archived) = read::nullable(json, |json| read::boolean(json, path, findings)) {
                    self.plan.archived = archived.unwrap_or_default();
                }
            }
            _ => read::unknown_member(member, &MEMBERS, path, findings),
        }
    }
}

fn set_extends(definition: &mut Definition, json: &Json, path: &Path, findings: &mut Findings) {
    if let Some(extends) = read::nullable(json, |json| read::parsed(json, path, findings)) {
        definition.extends = extends;
    }
}

fn set_rank(definition: &mut Definition, json: &Json, path: &Path, findings: &mut Findings) {
    let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
    if let Some(rank) = read::nullable(json, |json| read::integer(json, range, path, findings)) {
        definition.rank = rank.map_or(0, |rank| rank as i32);
    }
}
