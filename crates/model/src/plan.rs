//! Published plan versions: immutable sets of feature values.
//!
//! The features are flattened (own and inherited through `extends`) and sorted by id, so a lookup is one binary search and a
//! version can be kept for as long as the process lives.

use std::sync::Arc;

use crate::amount::Allowance;
use crate::kind::PlanKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeatureId(pub i32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanId(pub i32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanVersionId(pub i64);

/// What a plan or an override says about one feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Flag(bool),
    /// JSON text.
    Config(Arc<str>),
    Metered {
        allowance: Allowance,
        /// Whether the allowance is for each unit of the subscription's quantity.
        per_unit: bool,
    },
}

impl Value {
    /// Flag on, any JSON but `null`, an amount above zero or unlimited.
    pub fn grants(&self) -> bool {
        match self {
            Self::Flag(on) => *on,
            Self::Config(json) => json.trim() != "null",
            Self::Metered { allowance, .. } => !allowance.is_zero(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanVersion {
    pub id: PlanVersionId,
    pub kind: PlanKind,
    /// The greater rank decides a config feature.
    pub rank: i32,
    /// Sorted by id, each id once.
    pub features: Vec<(FeatureId, Value)>,
}

impl PlanVersion {
    pub fn get(&self, feature: FeatureId) -> Option<&Value> {
        let position = self.features.binary_search_by_key(&feature, |(id, _)| *id).ok()?;
        Some(&self.features[position].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Amount;

    #[test]
    fn get_finds_what_is_listed_and_nothing_else() {
        let features = [2, 5, 9].map(|id| (FeatureId(id), Value::Config(id.to_string().into()))).to_vec();
        let version = PlanVersion { id: PlanVersionId(1), kind: PlanKind::Base, rank: 0, features };
        for id in 0..12 {
            let expected = [2, 5, 9].contains(&id).then(|| Value::Config(id.to_string().into()));
            assert_eq!(version.get(FeatureId(id)), expected.as_ref());
        }
    }

    #[test]
    fn a_value_grants_when_it_gives_something() {
        let metered = |allowance| Value::Metered { allowance, per_unit: false };
        assert!(Value::Flag(true).grants());
        assert!(!Value::Flag(false).grants());
        assert!(Value::Config("\"standard\"".into()).grants());
        assert!(Value::Config("false".into()).grants());
        assert!(Value::Config("0".into()).grants());
        assert!(Value::Config("\"null\"".into()).grants());
        assert!(!Value::Config("null".into()).grants());
        assert!(metered(Allowance::Unlimited).grants());
        assert!(metered(Allowance::Finite(Amount::from_nanos(1).unwrap())).grants());
        assert!(!metered(Allowance::ZERO).grants());
    }
}
