//! From a document and the present catalog to the changes between them.
//!
//! In this order: features, the plans' own members, prices; then, if nothing is wrong so far, the
//! plans with all they inherit. Everything is checked to the end, so one attempt shows all faults.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::fault::Path;
use crate::json::{Json, Member};
use crate::key::{FeatureKey, PlanKey};
use crate::kind::Kind;

use super::change::{Action, Change, PlanVersionRow, Row, differences, from_to};
use super::feature::Feature;
use super::plan::{Cell, Definition, DocValue, Plan, PlanReading};
use super::price::{Price, PriceKey};
use super::read::{self, Findings};
use super::schema::Schema;
use super::state::{PresentPlan, State};
use super::{Error, MAX_CELLS, MAX_FEATURES, MAX_PLANS, MAX_PRICES};

/// Compiled schemas kept at a time; each can take some megabytes.
const MAX_COMPILED: usize = 64;

const MEMBERS: [&str; 4] = ["features", "plans", "prices", "revision"];

/// The changes that make the present catalog what the document states, in an order in which each
/// is valid after those before it.
pub fn plan_changes(state: &State, document: &Json) -> Result<Vec<Change>, Error> {
    let mut work = Work { state, findings: Findings::default(), features: BTreeMap::new(), schemas: HashMap::new() };
    let changes = work.changes(document);
    match changes {
        Some(changes) if work.findings.is_empty() => match work.revision(document) {
            Some(revision) if revision != state.revision && !changes.is_empty() && !state.is_empty() => {
                Err(Error::StaleRevision { document: revision, present: state.revision })
            }
            _ => Ok(changes),
        },
        _ if work.findings.is_invalid() => Err(Error::Invalid(work.findings.into_faults())),
        _ => Err(Error::Conflict(work.findings.into_faults())),
    }
}

struct Work<'s> {
    state: &'s State,
    findings: Findings,
    /// The features that the document names, as they shall be; `None` where that is unclear.
    features: BTreeMap<FeatureKey, Option<Feature>>,
    /// Compiled schemas, no more than [`MAX_COMPILED`].
    schemas: HashMap<FeatureKey, Schema>,
}

/// A plan as it shall be.
struct NextPlan<'s> {
    present: Option<&'s PresentPlan>,
    in_document: bool,
    plan: Cow<'s, Plan>,
    definition: Cow<'s, Definition>,
}

type NextPlans<'s> = BTreeMap<PlanKey, NextPlan<'s>>;
type Cells = BTreeMap<FeatureKey, Cell>;

impl<'s> Work<'s> {
    /// `None` when there are faults that leave nothing to compare.
    fn changes(&mut self, document: &Json) -> Option<Vec<Change>> {
        let root = Path::Root;
        for (member, _) in read::object(document, &root, &mut self.findings)? {
            if !MEMBERS.contains(&member.as_str()) {
                read::unknown_member(member, &MEMBERS, &root.member(member), &mut self.findings);
            }
        }
        self.revision(document);
        let features = self.section(document, "features", MAX_FEATURES);
        let plans = self.section(document, "plans", MAX_PLANS);
        let connectors = self.section(document, "prices", MAX_PRICES);
        let (features, plans, connectors) = (features?, plans?, connectors?);

        self.read_features(features);
        self.check_draws();
        let plans = self.read_plans(plans);
        let prices = self.read_prices(connectors, &plans);
        let order = self.inheritance_order(&plans);
        let flattened = if self.findings.is_empty() { self.flatten(&plans, &order) } else { None };
        let Some(flattened) = flattened else {
            // What else could be published is unclear: each plan of the document may be.
            let published = plans.iter().filter(|(_, next)| next.in_document).map(|(key, _)| key.clone()).collect();
            self.check_prices(&prices, &plans, &published);
            return None;
        };
        let published = changed_plans(&plans, &flattened);
        self.check_published(&plans, &flattened, &published);
        self.check_prices(&prices, &plans, &published);

        let mut changes = self.feature_changes();
        changes.extend(plan_row_changes(&plans, &order));
        changes.extend(
            order.iter().filter(|key| published.contains(*key)).map(|key| publish(key, &plans[key], &flattened[key])),
        );
        changes.extend(self.price_changes(prices));
        Some(changes)
    }

    fn revision(&mut self, document: &Json) -> Option<i64> {
        let json = document.get("revision")?;
        read::integer(json, 0..=i64::MAX, &Path::Root.member("revision"), &mut self.findings)
    }

    /// The members of one part of the document, if it is an object of a size worth reading.
    fn section<'j>(&mut self, document: &'j Json, name: &str, most: usize) -> Option<&'j [Member]> {
        let Some(json) = document.get(name) else {
            return Some(&[]);
        };
        let path = Path::Root.member(name);
        let members = read::object(json, &path, &mut self.findings)?;
        if members.len() > most {
            self.findings.fault(&path, || format!("{} {name}, more than {most}", members.len()));
            return None;
        }
        Some(members)
    }

    fn read_features(&mut self, members: &[Member]) {
        let root = Path::Root.member("features");
        for (text, json) in members {
            let path = root.member(text);
            let Some(key) = read::key::<FeatureKey>(text, "a feature", &path, &mut self.findings) else {
                continue;
            };
            if *json == Json::Null {
                self.findings.fault(&path, || "a feature cannot be removed; archive it".into());
                continue;
            }
            let present = self.state.features.get(&key);
            let mut feature = Feature::merge(present.map(|present| &present.feature), json, &path, &mut self.findings);
            if let (Some(feature), Some(present)) = (&feature, present.filter(|present| present.in_use)) {
                for (member, from, to) in [
                    ("kind", present.feature.kind.as_str(), feature.kind.as_str()),
                    ("combine", present.feature.combine.as_str(), feature.combine.as_str()),
                ] {
                    if from != to && (member == "kind" || present.feature.kind == feature.kind) {
                        self.findings.conflict(&path.member(member), || {
                            format!("published plans carry the feature, so its {member} stays {from} and cannot become {to}")
                        });
                    }
                }
            }
            if let Some(feature) = &mut feature
                && let Some(schema) = &feature.schema
                && present.is_none_or(|present| present.feature.schema.as_ref() != Some(schema))
                && let Err(reason) = self.compile(&key, schema)
            {
                self.findings.fault(&path.member("schema"), || format!("not a JSON Schema: {reason}"));
                feature.schema = None;
            }
            self.features.insert(key, feature);
        }
        let added = self.features.keys().filter(|key| !self.state.features.contains_key(*key)).count();
        let total = self.state.features.len() + added;
        if total > MAX_FEATURES {
            self.findings.fault(&root, || format!("{total} features with those there are, more than {MAX_FEATURES}"));
        }
    }

    /// What features draw on: quotas that there are and that draw on nothing themselves. Where the document changes what is
    /// drawn on, the fault is there and not at the feature that goes on drawing.
    fn check_draws(&mut self) {
        let state = self.state;
        let root = Path::Root.member("features");
        let untouched = state.features.iter().filter(|(key, _)| !self.features.contains_key(*key));
        let untouched = untouched.map(|(key, present)| (key, Some(&present.feature)));
        for (key, feature) in untouched.chain(self.features.iter().map(|(key, feature)| (key, feature.as_ref()))) {
            let Some(pool_key) = feature.and_then(Feature::pool) else {
                continue;
            };
            let (path, pool_path) = (root.member(key.as_str()), root.member(pool_key.as_str()));
            let path = path.member("draws_on");
            let path = path.member("feature");
            let Some(pool) = self.feature(pool_key) else {
                let known = self.features.keys().chain(state.features.keys()).filter(|known| *known != key);
                let known = known.map(FeatureKey::as_str);
                self.findings.fault(&path, || format!("unknown feature{}", read::nearest(pool_key.as_str(), known)));
                continue;
            };
            let Some((kind, draws, archived)) = pool.map(|pool| (pool.kind, pool.draws_on.is_some(), pool.archived)) else {
                continue;
            };
            let present = state.features.get(key);
            let drew_before = present.and_then(|present| present.feature.pool()) == Some(pool_key);
            let was_archived = state.features.get(pool_key).is_some_and(|present| present.feature.archived);
            let mut fault = |path: &Path, text: String| self.findings.fault(path, || text);
            if pool_key == key {
                fault(&path, "a feature cannot draw on itself".into());
            } else if kind != Kind::Quota && drew_before {
                fault(&pool_path.member("kind"), format!("'{key}' draws on the feature, so it stays a quota"));
            } else if kind != Kind::Quota {
                fault(&path, format!("'{pool_key}' is of kind {kind}; only a quota can be drawn on"));
            } else if draws && drew_before {
                fault(&pool_path.member("draws_on"), format!("'{key}' draws on the feature, so it draws on none itself"));
            } else if draws {
                fault(&path, format!("'{pool_key}' draws on another feature itself"));
            } else if archived && was_archived && !drew_before {
                fault(&path, format!("feature '{pool_key}' is archived"));
            }
        }
    }

    /// A feature as it shall be: `Some(None)` if the document leaves it unclear, `None` if there is none.
    fn feature(&self, key: &FeatureKey) -> Option<Option<&Feature>> {
        match self.features.get(key) {
            Some(feature) => Some(feature.as_ref()),
            None => self.state.features.get(key).map(|present| Some(&present.feature)),
        }
    }

    /// All plans as they shall be.
    fn read_plans(&mut self, members: &[Member]) -> NextPlans<'s> {
        let state = self.state;
        let untouched = |present: &'s PresentPlan| NextPlan {
            present: Some(present),
            in_document: false,
            plan: Cow::Borrowed(&present.plan),
            definition: Cow::Borrowed(&present.definition),
        };
        let mut plans: NextPlans = state.plans.iter().map(|(key, plan)| (key.clone(), untouched(plan))).collect();
        // Plans whose own description is too broken to be read, which others may still extend.
        let mut unclear = HashSet::new();
        let root = Path::Root.member("plans");
        for (text, json) in members {
            let path = root.member(text);
            let Some(key) = read::key::<PlanKey>(text, "a plan", &path, &mut self.findings) else {
                continue;
            };
            if *json == Json::Null {
                self.findings.fault(&path, || "a plan cannot be removed; archive it".into());
                continue;
            }
            let present = state.plans.get(&key);
            let merged = present.map(|present| (&present.plan, &present.definition));
            match PlanReading::merge(merged, json, &path, &mut self.findings) {
                Some(mut reading) => {
                    if let Some(values) = reading.features {
                        reading.definition.features = self.read_values(present, values, &path.member("features"));
                    }
                    let next = NextPlan {
                        present,
                        in_document: true,
                        plan: Cow::Owned(reading.plan),
                        definition: Cow::Owned(reading.definition),
                    };
                    plans.insert(key, next);
                }
                None => {
                    unclear.insert(key);
                }
            }
        }
        if plans.len() > MAX_PLANS {
            let total = plans.len();
            self.findings.fault(&root, || format!("{total} plans with those there are, more than {MAX_PLANS}"));
        }
        self.check_parents(&plans, &unclear);
        plans
    }

    /// A plan's own set as the document states it.
    fn read_values(
        &mut self,
        present: Option<&PresentPlan>,
        members: &[Member],
        root: &Path,
    ) -> BTreeMap<FeatureKey, Option<DocValue>> {
        let mut values = BTreeMap::new();
        for (text, json) in members {
            let path = root.member(text);
            let known = FeatureKey::parse(text).ok().and_then(|key| Some((self.feature(&key)?, key)));
            let Some((feature, key)) = known else {
                let known = self.features.keys().chain(self.state.features.keys());
                self.findings
                    .fault(&path, || format!("unknown feature{}", read::nearest(text, known.map(FeatureKey::as_str))));
                continue;
            };
            let Some((kind, archived)) = feature.map(|feature| (feature.kind, feature.archived)) else {
                continue;
            };
            let own = present.and_then(|present| present.definition.features.get(&key));
            let was_archived = self.state.features.get(&key).is_some_and(|present| present.feature.archived);
            if archived && was_archived && own.is_none() {
                self.findings.fault(&path, || "the feature is archived".into());
            }
            let Some(value) = read::nullable(json, |json| DocValue::read(kind, json, &path, &mut self.findings)) else {
                continue;
            };
            if own != Some(&value)
                && let Some(value) = &value
                && let Err(reason) = self.fits(&key, value)
            {
                self.findings.fault(&path, || reason);
            }
            values.insert(key, value);
        }
        values
    }

    /// Whether a value fits the schema that its feature shall have.
    fn fits(&mut self, key: &FeatureKey, value: &DocValue) -> Result<(), String> {
        let DocValue::Config(json) = value else {
            return Ok(());
        };
        if !self.schemas.contains_key(key) {
            let Some(schema) = self.feature(key).flatten().and_then(|feature| feature.schema.clone()) else {
                return Ok(());
            };
            self.compile(key, &schema).map_err(|reason| format!("cannot be checked: {reason}"))?;
        }
        self.schemas[key].check(json).map_err(|reason| format!("does not fit the feature's schema: {reason}"))
    }

    fn compile(&mut self, key: &FeatureKey, schema: &Json) -> Result<(), String> {
        let schema = Schema::compile(schema)?;
        if self.schemas.len() == MAX_COMPILED {
            self.schemas.clear();
        }
        self.schemas.insert(key.clone(), schema);
        Ok(())
    }

    /// What each plan of the document extends: a plan there is, of the same kind, not retired.
    fn check_parents(&mut self, plans: &NextPlans, unclear: &HashSet<PlanKey>) {
        let root = Path::Root.member("plans");
        for (key, next) in plans.iter().filter(|(_, next)| next.in_document) {
            let Some(parent_key) = &next.definition.extends else {
                continue;
            };
            let plan_path = root.member(key.as_str());
            let path = plan_path.member("extends");
            let Some(parent) = plans.get(parent_key) else {
                if !unclear.contains(parent_key) {
                    let known = plans.keys().map(PlanKey::as_str).filter(|known| *known != key.as_str());
                    self.findings.fault(&path, || {
                        format!("there is no plan '{parent_key}'{}", read::nearest(parent_key.as_str(), known))
                    });
                }
                continue;
            };
            if parent.plan.kind != next.plan.kind {
                let (kind, parent_kind) = (next.plan.kind, parent.plan.kind);
                self.findings.fault(&path, || {
                    format!("a plan of kind {kind} cannot extend '{parent_key}', which is of kind {parent_kind}")
                });
            }
            let extended_before = next.present.and_then(|present| present.definition.extends.as_ref());
            let was_archived = parent.present.is_some_and(|present| present.plan.archived);
            if extended_before != Some(parent_key) && was_archived && parent.plan.archived {
                self.findings.fault(&path, || format!("plan '{parent_key}' is archived"));
            }
        }
    }

    /// All plans, each after the one it extends; plans in a circle are faults and left out, with
    /// those that extend them.
    fn inheritance_order(&mut self, plans: &NextPlans) -> Vec<PlanKey> {
        #[derive(Clone, Copy, PartialEq)]
        enum Visit {
            OnChain,
            Ordered,
            Circular,
        }
        let mut visits: HashMap<&PlanKey, Visit> = HashMap::with_capacity(plans.len());
        let mut order = Vec::with_capacity(plans.len());
        for start in plans.keys() {
            let mut chain = Vec::new();
            let mut next = Some(start);
            let mut outcome = Visit::Ordered;
            while let Some((key, plan)) = next.and_then(|key| plans.get_key_value(key)) {
                match visits.get(key) {
                    None => {
                        visits.insert(key, Visit::OnChain);
                        chain.push(key);
                        next = plan.definition.extends.as_ref();
                        continue;
                    }
                    Some(Visit::OnChain) => {
                        let from = chain.iter().position(|link| *link == key).unwrap_or_default();
                        self.fault_circle(plans, &chain[from..]);
                        outcome = Visit::Circular;
                    }
                    Some(known) => outcome = *known,
                }
                break;
            }
            for key in chain.into_iter().rev() {
                visits.insert(key, outcome);
                if outcome == Visit::Ordered {
                    order.push(key.clone());
                }
            }
        }
        order
    }

    fn fault_circle(&mut self, plans: &NextPlans, circle: &[&PlanKey]) {
        // The present catalog has no circle, so the document closes it.
        let first = circle.iter().position(|key| plans[*key].in_document).unwrap_or_default();
        let root = Path::Root.member("plans");
        self.findings.fault(&root.member(circle[first].as_str()).member("extends"), || {
            let mut text = String::from("plans extend one another in a circle: ");
            for key in circle[first..].iter().chain(&circle[..first]).take(5) {
                text.push_str(key.as_str());
                text.push_str(" → ");
            }
            text.push_str(if circle.len() > 5 { "…" } else { circle[first].as_str() });
            text
        });
    }

    /// What each plan holds with what it inherits.
    fn flatten(&mut self, plans: &NextPlans, order: &[PlanKey]) -> Option<BTreeMap<PlanKey, Cells>> {
        let mut flattened: BTreeMap<PlanKey, Cells> = BTreeMap::new();
        let mut total = 0;
        for key in order {
            let definition = &plans[key].definition;
            let mut cells = match &definition.extends {
                Some(parent) => flattened[parent].clone(),
                None => Cells::new(),
            };
            cells.values_mut().for_each(|cell| cell.inherited = true);
            for (feature, value) in &definition.features {
                match value {
                    Some(value) => cells.insert(feature.clone(), Cell { value: value.clone(), inherited: false }),
                    None => cells.remove(feature),
                };
            }
            total += cells.len();
            if total > MAX_CELLS {
                self.findings.fault(&Path::Root.member("plans"), || {
                    format!("the plans together hold more than {MAX_CELLS} feature values, with what they inherit")
                });
                return None;
            }
            flattened.insert(key.clone(), cells);
        }
        Some(flattened)
    }

    /// Values that a new version would carry on from before must fit the schema of today.
    fn check_published(&mut self, plans: &NextPlans, cells: &BTreeMap<PlanKey, Cells>, published: &HashSet<PlanKey>) {
        let mut checked = HashSet::new();
        let (features, all_plans) = (Path::Root.member("features"), Path::Root.member("plans"));
        for key in plans.keys().filter(|key| published.contains(*key)) {
            for (feature, cell) in &cells[key] {
                let DocValue::Config(json) = &cell.value else {
                    continue;
                };
                if !checked.insert((feature, Arc::as_ptr(json))) {
                    continue;
                }
                if let Err(reason) = self.fits(feature, &cell.value) {
                    let in_document = self.features.contains_key(feature);
                    let (feature_path, plan_path) = (features.member(feature.as_str()), all_plans.member(key.as_str()));
                    let path = if in_document { feature_path.member("schema") } else { plan_path };
                    self.findings.fault(&path, || format!("the value of '{feature}' in plan '{key}' {reason}"));
                }
            }
        }
    }

    /// The prices that the document names; `None` removes one.
    fn read_prices(&mut self, connectors: &[Member], plans: &NextPlans) -> BTreeMap<PriceKey, Option<Price>> {
        let mut prices = BTreeMap::new();
        let root = Path::Root.member("prices");
        for (connector, json) in connectors {
            let path = root.member(connector);
            if read::key::<PlanKey>(connector, "a connector", &path, &mut self.findings).is_none() {
                continue;
            }
            for (external_id, json) in read::object(json, &path, &mut self.findings).unwrap_or_default() {
                let path = path.member(external_id);
                let key = match PriceKey::parse(connector, external_id) {
                    Ok(key) => key,
                    Err(error) => {
                        self.findings.fault(&path, || format!("the id of a price {error}"));
                        continue;
                    }
                };
                let Some(price) = read::nullable(json, |json| Price::read(json, &path, &mut self.findings)) else {
                    continue;
                };
                if let Some(plan) = price.as_ref().map(|price| &price.plan).filter(|plan| !plans.contains_key(*plan)) {
                    self.findings.fault(&path.member("plan"), || {
                        let known = plans.keys().map(PlanKey::as_str);
                        format!("there is no plan '{plan}'{}", read::nearest(plan.as_str(), known))
                    });
                }
                prices.insert(key, price);
            }
        }
        let added = prices.iter().filter(|(key, price)| price.is_some() && !self.state.prices.contains_key(*key)).count();
        let removed = prices.iter().filter(|(key, price)| price.is_none() && self.state.prices.contains_key(*key)).count();
        let total = self.state.prices.len() + added - removed;
        if total > MAX_PRICES {
            self.findings.fault(&root, || format!("{total} prices with those there are, more than {MAX_PRICES}"));
        }
        prices
    }

    /// A price sells a version that there is once the document is applied.
    fn check_prices(&mut self, prices: &BTreeMap<PriceKey, Option<Price>>, plans: &NextPlans, published: &HashSet<PlanKey>) {
        let root = Path::Root.member("prices");
        for (key, price) in prices.iter().filter_map(|(key, price)| Some((key, price.as_ref()?))) {
            let (Some(version), Some(next)) = (price.version, plans.get(&price.plan)) else {
                continue;
            };
            let latest = next.latest_version(published.contains(&price.plan));
            if version > latest {
                let connector = root.member(key.connector());
                let path = connector.member(key.external_id());
                let plan = &price.plan;
                self.findings.fault(&path.member("version"), || {
                    format!("plan '{plan}' has no version {version}, its latest is {latest}")
                });
            }
        }
    }

    fn feature_changes(&self) -> Vec<Change> {
        let present = self.state.features.values();
        let pools: HashSet<_> = present.filter_map(|present| present.feature.pool()).collect();
        let mut features: Vec<_> =
            self.features.iter().filter_map(|(key, feature)| Some((key, feature.as_ref()?))).collect();
        // A feature is there before others draw on it, and stays a pool until they do no longer.
        features.sort_by_key(|(key, feature)| match feature.draws_on {
            _ if pools.contains(*key) && !feature.is_pool() => 2,
            Some(_) => 1,
            None => 0,
        });
        let mut changes = Vec::new();
        for (key, feature) in features {
            let row = |feature: &Feature| Row::Feature(key.clone(), Box::new(feature.clone()));
            let Some(present) = self.state.features.get(key).map(|present| &present.feature) else {
                changes.push(Change { action: Action::Create, detail: feature.to_json(), row: row(feature) });
                continue;
            };
            let updated = Feature { archived: present.archived, ..feature.clone() };
            if updated != *present {
                let detail = differences(&present.members(), &updated.members());
                changes.push(Change { action: Action::Update, detail, row: row(&updated) });
            }
            changes.extend(archiving(present.archived, feature.archived, || row(feature)));
        }
        changes
    }

    fn price_changes(&self, prices: BTreeMap<PriceKey, Option<Price>>) -> Vec<Change> {
        let change = |(key, price): (PriceKey, Option<Price>)| {
            let (action, detail) = match (self.state.prices.get(&key), &price) {
                (None, None) => return None,
                (Some(present), Some(price)) if present == price => return None,
                (None, Some(price)) => (Action::Create, price.to_json()),
                (Some(present), Some(price)) => (Action::Update, from_to(present.to_json(), price.to_json())),
                (Some(present), None) => (Action::Remove, present.to_json()),
            };
            Some(Change { action, detail, row: Row::Price(key, price) })
        };
        prices.into_iter().filter_map(change).collect()
    }
}

impl NextPlan<'_> {
    fn latest_version(&self, published: bool) -> i32 {
        self.present.map_or(0, |present| present.version) + i32::from(published)
    }
}

/// The plans that need a new version: what a version records of them is different.
fn changed_plans(plans: &NextPlans, cells: &BTreeMap<PlanKey, Cells>) -> HashSet<PlanKey> {
    let is_changed = |key: &PlanKey, next: &NextPlan| {
        next.present.is_none_or(|present| present.definition != *next.definition || present.cells != cells[key])
    };
    plans.iter().filter(|(key, next)| is_changed(key, next)).map(|(key, _)| key.clone()).collect()
}

/// Creation and changes of the plans themselves, apart from their versions.
fn plan_row_changes(plans: &NextPlans, order: &[PlanKey]) -> Vec<Change> {
    let mut changes = Vec::new();
    for (key, next) in order.iter().map(|key| (key, &plans[key])).filter(|(_, next)| next.in_document) {
        let row = |plan: &Plan| Row::Plan(key.clone(), plan.clone());
        let Some(present) = next.present.map(|present| &present.plan) else {
            let detail = Json::object(next.plan.members());
            changes.push(Change { action: Action::Create, detail, row: row(&next.plan) });
            continue;
        };
        let updated = Plan { archived: present.archived, ..Plan::clone(&next.plan) };
        if updated != *present {
            let detail = differences(&present.members(), &updated.members());
            changes.push(Change { action: Action::Update, detail, row: row(&updated) });
        }
        changes.extend(archiving(present.archived, next.plan.archived, || row(&next.plan)));
    }
    changes
}

fn archiving(was_archived: bool, archived: bool, row: impl FnOnce() -> Row) -> Option<Change> {
    let action = if archived { Action::Archive } else { Action::Restore };
    (was_archived != archived).then(|| Change { action, detail: Json::Object(Vec::new()), row: row() })
}

/// The new version of a plan, and what is different from the one before.
fn publish(key: &PlanKey, next: &NextPlan, cells: &Cells) -> Change {
    let version = next.latest_version(true);
    let no_cells = Cells::new();
    let (before, definition_before) =
        next.present.map_or((&no_cells, None), |present| (&present.cells, Some(&present.definition)));
    let mut detail = vec![("version", Json::number(version))];
    if let Some(before) = definition_before {
        let terms = |definition: &Definition| Definition { features: BTreeMap::new(), ..definition.clone() }.members();
        if let Json::Object(terms) = differences(&terms(before), &terms(&next.definition)) {
            let known = |name: &str| ["extends", "rank"].into_iter().find(|term| *term == name);
            detail.extend(terms.into_iter().filter_map(|(name, value)| Some((known(&name)?, value))));
        }
    }
    let added = cells.iter().filter(|(feature, _)| !before.contains_key(*feature));
    detail.push(("added", Json::object(added.map(|(feature, cell)| (feature.as_str(), cell.value.to_json())))));
    let removed = before.keys().filter(|feature| !cells.contains_key(*feature));
    detail.push(("removed", Json::Array(removed.map(|feature| Json::string(feature.as_str())).collect())));
    let changed = cells.iter().filter_map(|(feature, cell)| {
        let before = before.get(feature).filter(|before| before.value != cell.value)?;
        Some((feature.as_str(), from_to(before.value.to_json(), cell.value.to_json())))
    });
    detail.push(("changed", Json::object(changed)));
    let row = PlanVersionRow {
        plan: key.clone(),
        version,
        kind: next.plan.kind,
        definition: Definition::clone(&next.definition),
        cells: cells.iter().map(|(feature, cell)| (feature.clone(), cell.clone())).collect(),
    };
    Change { action: Action::Publish, detail: Json::object(detail), row: Row::PlanVersion(row) }
}
