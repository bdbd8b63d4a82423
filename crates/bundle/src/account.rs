//! What a bundle says of one account: its subscriptions and overrides, all of them, and the units that are delegated to the site.

use std::collections::{HashMap, HashSet};

use entitlements_model::amount::Amount;
use entitlements_model::catalog::DocValue;
use entitlements_model::fault::{Excerpt, Faults, Path};
use entitlements_model::json::Json;
use entitlements_model::key::{FeatureKey, PlanKey};
use entitlements_model::kind::{Kind, OverrideMode};

use crate::date::NumericDate;
use crate::delegation::{self, Delegation};
use crate::read::{self, Object};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub subscriptions: Vec<Subscription>,
    pub overrides: Vec<Override>,
    pub delegations: Vec<Delegation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The issuer's name for it, unique within the account: what tells a changed subscription from a new one.
    pub reference: String,
    pub plan: PlanKey,
    /// 1 to `i32::MAX`.
    pub quantity: i32,
    pub starts_at: NumericDate,
    /// `None` = open.
    pub ends_at: Option<NumericDate>,
}

/// At most one a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub feature: FeatureKey,
    pub value: OverrideValue,
    pub reason: String,
    /// `None` = it does not expire.
    pub expires_at: Option<NumericDate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideValue {
    /// Whether it fits the feature's kind is known only where the catalog is.
    Set(Json),
    Add(Amount),
    Deny,
}

impl OverrideValue {
    pub fn mode(&self) -> OverrideMode {
        match self {
            Self::Set(_) => OverrideMode::Set,
            Self::Add(_) => OverrideMode::Add,
            Self::Deny => OverrideMode::Deny,
        }
    }
}

/// Most bytes of a reason.
const REASON_BYTES: usize = 10_000;

impl Account {
    /// `kinds` are those of the features that the bundle's own catalog defines.
    pub(crate) fn read(json: &Json, kinds: &HashMap<&str, Kind>, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["subscriptions", "overrides", "delegations"], faults)?;
        let subscriptions = object.optional("subscriptions", faults, |json, path, faults| {
            distinct(json, path, faults, Subscription::read, "ref", |subscription| &subscription.reference)
        });
        let overrides = object.optional("overrides", faults, |json, path, faults| {
            let read = |json: &Json, path: &Path, faults: &mut Faults| Override::read(json, kinds, path, faults);
            distinct(json, path, faults, read, "feature", |item| item.feature.as_str())
        });
        let delegations = object.optional("delegations", faults, delegation::read_all);
        Some(Self {
            subscriptions: subscriptions?.unwrap_or_default(),
            overrides: overrides?.unwrap_or_default(),
            delegations: delegations?.unwrap_or_default(),
        })
    }

    pub(crate) fn to_json(&self) -> Json {
        let mut members = Vec::new();
        if !self.subscriptions.is_empty() {
            let items = self.subscriptions.iter().map(Subscription::to_json).collect();
            members.push(("subscriptions", Json::Array(items)));
        }
        if !self.overrides.is_empty() {
            members.push(("overrides", Json::Array(self.overrides.iter().map(Override::to_json).collect())));
        }
        if !self.delegations.is_empty() {
            members.push(("delegations", Json::Array(self.delegations.iter().map(Delegation::to_json).collect())));
        }
        Json::object(members)
    }
}

/// The items of an array, of which no two have the same name.
fn distinct<T>(
    json: &Json,
    path: &Path,
    faults: &mut Faults,
    mut read: impl FnMut(&Json, &Path, &mut Faults) -> Option<T>,
    member: &str,
    name: impl Fn(&T) -> &str,
) -> Option<Vec<T>> {
    let items = read::items(json, path, faults)?;
    let count = items.len();
    let read: Vec<T> = items.iter().enumerate().filter_map(|(index, item)| read(item, &path.item(index), faults)).collect();
    if read.len() < count {
        return None;
    }
    // So many are compared sooner than hashed.
    const FEW: usize = 8;
    let mut seen = HashSet::with_capacity(if count > FEW { count } else { 0 });
    for (index, item) in read.iter().enumerate() {
        let is_new = match count > FEW {
            true => seen.insert(name(item)),
            false => read[..index].iter().all(|other| name(other) != name(item)),
        };
        if !is_new {
            faults.push(&path.item(index).member(member), || format!("'{}' appears more than once", Excerpt(name(item))));
            return None;
        }
    }
    Some(read)
}

impl Subscription {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["plan", "quantity", "starts_at", "ends_at", "ref"], faults)?;
        let plan = object.required("plan", faults, read::parsed);
        let quantity = object.optional("quantity", faults, |json, path, faults| {
            read::integer(json, 1..=i32::MAX.into(), path, faults).and_then(|quantity| quantity.try_into().ok())
        });
        let starts_at = object.required("starts_at", faults, read::date);
        let ends_at = object.optional("ends_at", faults, read::date);
        let reference = object.required("ref", faults, read::name);
        let subscription = Self {
            reference: reference?,
            plan: plan?,
            quantity: quantity?.unwrap_or(1),
            starts_at: starts_at?,
            ends_at: ends_at?,
        };
        if subscription.ends_at.is_some_and(|ends_at| ends_at < subscription.starts_at) {
            faults.push(&path.member("ends_at"), || "is before starts_at".into());
            return None;
        }
        Some(subscription)
    }

    fn to_json(&self) -> Json {
        let mut members = vec![
            ("plan", Json::string(self.plan.as_str())),
            ("quantity", Json::number(self.quantity)),
            ("starts_at", Json::number(self.starts_at.seconds())),
        ];
        members.extend(self.ends_at.map(|ends_at| ("ends_at", Json::number(ends_at.seconds()))));
        members.push(("ref", Json::string(&self.reference)));
        Json::object(members)
    }
}

impl Override {
    fn read(json: &Json, kinds: &HashMap<&str, Kind>, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["feature", "mode", "value", "reason", "expires_at"], faults)?;
        let feature = object.required("feature", faults, read::parsed::<FeatureKey>);
        let mode = object.required("mode", faults, read::parsed);
        let reason =
            object.required("reason", faults, |json, path, faults| read::bounded_text(json, REASON_BYTES, path, faults));
        let expires_at = object.optional("expires_at", faults, read::date);
        let (feature, mode) = (feature?, mode?);
        let kind = kinds.get(feature.as_str()).copied();
        let value = match mode {
            OverrideMode::Deny => deny(&object, path, faults)?,
            OverrideMode::Set => object.required("value", faults, |json, path, faults| set(json, kind, path, faults))?,
            OverrideMode::Add => object.required("value", faults, |json, path, faults| add(json, kind, path, faults))?,
        };
        Some(Self { feature, value, reason: reason?, expires_at: expires_at? })
    }

    fn to_json(&self) -> Json {
        let mut members =
            vec![("feature", Json::string(self.feature.as_str())), ("mode", Json::string(self.value.mode().as_str()))];
        match &self.value {
            OverrideValue::Set(value) => members.push(("value", value.clone())),
            OverrideValue::Add(amount) => members.push(("value", Json::number(amount))),
            OverrideValue::Deny => {}
        }
        members.push(("reason", Json::string(&self.reason)));
        members.extend(self.expires_at.map(|expires_at| ("expires_at", Json::number(expires_at.seconds()))));
        Json::object(members)
    }
}

fn deny(object: &Object, path: &Path, faults: &mut Faults) -> Option<OverrideValue> {
    let bare = matches!(object.get("value"), None | Some(Json::Null));
    if !bare {
        faults.push(&path.member("value"), || "a denial has no value".into());
    }
    bare.then_some(OverrideValue::Deny)
}

fn set(json: &Json, kind: Option<Kind>, path: &Path, faults: &mut Faults) -> Option<OverrideValue> {
    if *json == Json::Null {
        return read::wrong_type(json, "a value", path, faults);
    }
    if let Some(kind) = kind
        && let Err(found) = DocValue::parse(kind, json)
    {
        faults.push(path, || format!("is no value of a {kind}: {}", found.first().map(|f| &*f.fault).unwrap_or_default()));
        return None;
    }
    Some(OverrideValue::Set(json.clone()))
}

fn add(json: &Json, kind: Option<Kind>, path: &Path, faults: &mut Faults) -> Option<OverrideValue> {
    if let Some(kind) = kind.filter(|kind| !kind.is_metered()) {
        faults.push(path, || format!("nothing can be added to a {kind}"));
        return None;
    }
    read::amount(json, path, faults).map(OverrideValue::Add)
}
