//! The present catalog, as the tables hold it.

use std::collections::BTreeMap;

use crate::key::{FeatureKey, PlanKey};

use super::change::{Change, Row};
use super::feature::Feature;
use super::plan::{Cell, Definition, Plan};
use super::price::{Price, PriceKey};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Rises with every change of the catalog.
    pub revision: i64,
    pub features: BTreeMap<FeatureKey, PresentFeature>,
    pub plans: BTreeMap<PlanKey, PresentPlan>,
    pub prices: BTreeMap<PriceKey, Price>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentFeature {
    pub feature: Feature,
    /// A published plan version, the latest or not, carries the feature.
    pub in_use: bool,
}

/// A plan and its latest version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentPlan {
    pub plan: Plan,
    /// Versions are numbered from 1 without gaps.
    pub version: i32,
    pub definition: Definition,
    /// Own and inherited values.
    pub cells: BTreeMap<FeatureKey, Cell>,
}

impl State {
    /// Nothing is there that a document could take away; so one that was exported elsewhere may
    /// fill the catalog whatever its revision.
    pub(super) fn is_empty(&self) -> bool {
        self.features.is_empty() && self.plans.is_empty() && self.prices.is_empty()
    }

    /// The catalog after these changes, in their order. The revision rises if there are any.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match &change.row {
                Row::Feature(key, feature) => match self.features.get_mut(key) {
                    Some(present) => present.feature = Feature::clone(feature),
                    None => {
                        let present = PresentFeature { feature: Feature::clone(feature), in_use: false };
                        self.features.insert(key.clone(), present);
                    }
                },
                Row::Plan(key, plan) => match self.plans.get_mut(key) {
                    Some(present) => present.plan = plan.clone(),
                    None => {
                        let present = PresentPlan {
                            plan: plan.clone(),
                            version: 0,
                            definition: Definition::default(),
                            cells: BTreeMap::new(),
                        };
                        self.plans.insert(key.clone(), present);
                    }
                },
                Row::PlanVersion(row) => {
                    for (feature, _) in &row.cells {
                        if let Some(present) = self.features.get_mut(feature) {
                            present.in_use = true;
                        }
                    }
                    if let Some(present) = self.plans.get_mut(&row.plan) {
                        present.version = row.version;
                        present.definition = row.definition.clone();
                        present.cells = row.cells.iter().cloned().collect();
                    }
                }
                Row::Price(key, Some(price)) => {
                    self.prices.insert(key.clone(), price.clone());
                }
                Row::Price(key, None) => {
                    self.prices.remove(key);
                }
            }
        }
        self.revision += i64::from(!changes.is_empty());
    }
}
