//! The present catalog as a document.

use std::collections::BTreeMap;

use crate::json::Json;

use super::plan::Plan;
use super::state::{PresentPlan, State};

/// A document that states the whole catalog: applied to the same catalog it changes nothing,
/// applied to an empty one it makes an equal catalog with plan versions counted anew. (A price
/// pinned to an earlier version of its plan needs a catalog that has this version.) Members are in
/// the order of their keys, those at their default are left out.
pub fn export(state: &State) -> Json {
    let mut document = vec![("revision", Json::number(state.revision))];
    if !state.features.is_empty() {
        let features = state.features.iter().map(|(key, present)| (key.as_str(), present.feature.to_json()));
        document.push(("features", Json::object(features)));
    }
    if !state.plans.is_empty() {
        let plans = state.plans.iter().map(|(key, present)| (key.as_str(), export_plan(present)));
        document.push(("plans", Json::object(plans)));
    }
    if !state.prices.is_empty() {
        let mut connectors: BTreeMap<&str, Vec<(&str, Json)>> = BTreeMap::new();
        for (key, price) in &state.prices {
            connectors.entry(key.connector()).or_default().push((key.external_id(), price.to_json()));
        }
        let prices = connectors.into_iter().map(|(connector, prices)| (connector, Json::object(prices)));
        document.push(("prices", Json::object(prices)));
    }
    Json::object(document)
}

/// A plan as a document states it, from its latest version.
pub fn export_plan(present: &PresentPlan) -> Json {
    let plan = Plan { archived: false, ..present.plan.clone() };
    let mut members = plan.members();
    members.extend(present.definition.members());
    if present.plan.archived {
        members.push(("archived", Json::Bool(true)));
    }
    Json::object(members)
}
