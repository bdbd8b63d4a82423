//! Drafts: plans as in a catalog document, edited before they are published.
//!
//! A draft is checked when it is published, which is applying [`document`]; until then only its
//! shape matters.

use crate::fault::{Fault, Path};
use crate::json::{Json, Member};
use crate::key::{FeatureKey, PlanKey};
use crate::kind::PlanKind;

/// A draft of a new plan without features.
pub fn new(kind: PlanKind) -> Json {
    Json::object([("kind", Json::string(kind.as_str())), ("features", Json::Object(Vec::new()))])
}

/// Sets a member of the plan itself, such as `name` or `extends`; null sets it to its default, whatever is published.
pub fn set_member(draft: &mut Json, member: &str, value: Json) -> Result<(), Fault> {
    put(members(draft, &Path::Root)?, member, Some(value));
    Ok(())
}

/// Sets what the draft says about a feature; null takes away what the extended plan gives.
pub fn set_feature(draft: &mut Json, feature: &FeatureKey, value: Json) -> Result<(), Fault> {
    put(features(draft)?, feature.as_str(), Some(value));
    Ok(())
}

/// Lets the draft say nothing about a feature, so that what the extended plan gives counts.
pub fn unset_feature(draft: &mut Json, feature: &FeatureKey) -> Result<(), Fault> {
    put(features(draft)?, feature.as_str(), None);
    Ok(())
}

/// The catalog document that publishes the draft.
pub fn document(plan: &PlanKey, draft: Json) -> Json {
    Json::object([("plans", Json::object([(plan.as_str(), draft)]))])
}

fn features(draft: &mut Json) -> Result<&mut Vec<Member>, Fault> {
    let plan = members(draft, &Path::Root)?;
    let index = match plan.iter().position(|(member, _)| member == "features") {
        Some(index) => index,
        None => {
            plan.push(("features".into(), Json::Object(Vec::new())));
            plan.len() - 1
        }
    };
    members(&mut plan[index].1, &Path::Root.member("features"))
}

fn members<'j>(json: &'j mut Json, path: &Path) -> Result<&'j mut Vec<Member>, Fault> {
    match json {
        Json::Object(members) => Ok(members),
        _ => Err(Fault { path: path.to_string(), fault: format!("must be an object, not {}", json.describe()) }),
    }
}

fn put(members: &mut Vec<Member>, key: &str, value: Option<Json>) {
    match (members.iter().position(|(member, _)| member == key), value) {
        (Some(index), Some(value)) => members[index].1 = value,
        (Some(index), None) => {
            members.remove(index);
        }
        (None, Some(value)) => members.push((key.into(), value)),
        (None, None) => {}
    }
}
