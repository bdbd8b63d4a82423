//! What has to change for an issuer's rows to be what its bundle states.

use super::present::{PresentAccounts, PresentOverride, PresentSubscription};
use super::stated::{Catalog, Exception, StatedAccount, Terms};
use entitlements_bundle::NumericDate;
use entitlements_model::time::{FOREVER, Time};
use entitlements_model::timeline::{self, Stretch};
use serde_json::value::RawValue;
use serde_json::{Value as JsonValue, json};
use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::hash::Hash;

/// What differs in one account.
pub struct AccountDifference<'b> {
    pub key: Cow<'b, str>,
    /// None for an account that is not there yet.
    pub id: Option<i64>,
    pub subscriptions: Vec<SubscriptionDifference<'b>>,
    pub overrides: Vec<OverrideDifference<'b>>,
}

pub struct SubscriptionDifference<'b> {
    pub reference: Cow<'b, str>,
    /// None for a new one.
    pub id: Option<i64>,
    /// Rows that are no longer believed.
    pub superseded: Vec<i64>,
    pub recorded_at: Time,
    pub added: Vec<Stretch<Terms>>,
    old: Option<Stretch<Terms>>,
    stated: Option<Stretch<Terms>>,
}

pub struct OverrideDifference<'b> {
    pub feature: i32,
    pub old: Option<PresentOverride>,
    pub stated: Option<Exception<'b>>,
}

/// The accounts that differ, new ones too.
pub fn between<'b>(mut present: PresentAccounts, stated: Vec<StatedAccount<'b>>, now: Time) -> Vec<AccountDifference<'b>> {
    let mut differences = Vec::new();
    for stated in stated {
        let held = present.remove(stated.key);
        let id = held.as_ref().map(|held| held.id);
        let held = held.unwrap_or_default();
        let difference = AccountDifference {
            key: Cow::Borrowed(stated.key),
            id,
            subscriptions: subscriptions(held.subscriptions, stated.subscriptions, now),
            overrides: overrides(held.overrides, stated.overrides, now),
        };
        if id.is_none() || difference.has_changes() {
            differences.push(difference);
        }
    }
    let mut gone: Vec<_> = present.into_iter().collect();
    gone.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (key, held) in gone {
        let difference = AccountDifference {
            key: Cow::Owned(key),
            id: Some(held.id),
            subscriptions: subscriptions(held.subscriptions, Vec::new(), now),
            overrides: overrides(held.overrides, Vec::new(), now),
        };
        if difference.has_changes() {
            differences.push(difference);
        }
    }
    differences
}

/// What is stated, each found once by its name.
struct Named<K, V> {
    /// Of many, where each is: in one account there may be very many, but hardly ever are.
    places: Option<HashMap<K, usize>>,
    items: Vec<Option<(K, V)>>,
}

impl<K: Copy + Eq + Hash, V> Named<K, V> {
    const FEW: usize = 8;

    fn new(items: Vec<(K, V)>) -> Self {
        let places = || items.iter().enumerate().map(|(place, (name, _))| (*name, place)).collect();
        let places = (items.len() > Self::FEW).then(places);
        Self { places, items: items.into_iter().map(Some).collect() }
    }

    fn take<N: Eq + Hash + ?Sized>(&mut self, name: &N) -> Option<V>
    where
        K: Borrow<N>,
    {
        let place = match &self.places {
            Some(places) => *places.get(name)?,
            None => {
                let is_named = |item: &Option<(K, V)>| item.as_ref().is_some_and(|(known, _)| known.borrow() == name);
                self.items.iter().position(is_named)?
            }
        };
        self.items[place].take().map(|(_, item)| item)
    }

    /// What was not taken, in its order.
    fn rest(self) -> impl Iterator<Item = (K, V)> {
        self.items.into_iter().flatten()
    }
}

fn subscriptions<'b>(
    held: Vec<PresentSubscription>,
    stated: Vec<(&'b str, Stretch<Terms>)>,
    now: Time,
) -> Vec<SubscriptionDifference<'b>> {
    let mut differences = Vec::new();
    let mut stated = Named::new(stated);
    for subscription in held {
        let stated = subscription.reference.as_deref().and_then(|reference| stated.take(reference));
        differences.extend(SubscriptionDifference::of(subscription, stated, now));
    }
    let new = stated.rest().map(|(reference, stated)| SubscriptionDifference {
        reference: Cow::Borrowed(reference),
        id: None,
        superseded: Vec::new(),
        recorded_at: now,
        added: timeline::restate(&[], now, stated.clone()),
        old: None,
        stated: Some(stated),
    });
    differences.extend(new);
    differences
}

fn overrides<'b>(held: Vec<PresentOverride>, stated: Vec<(i32, Exception<'b>)>, now: Time) -> Vec<OverrideDifference<'b>> {
    let mut differences = Vec::new();
    let mut stated = Named::new(stated);
    for old in held {
        let stated = stated.take(&old.feature);
        if stated.as_ref() != Some(&old.exception) {
            let stated = stated.filter(|exception| exception.expires_at > now);
            differences.push(OverrideDifference { feature: old.feature, old: Some(old), stated });
        }
    }
    // What is over already need not begin.
    let new = stated.rest().filter(|(_, exception)| exception.expires_at > now);
    differences.extend(new.map(|(feature, stated)| OverrideDifference { feature, old: None, stated: Some(stated) }));
    differences
}

impl<'b> SubscriptionDifference<'b> {
    fn of(held: PresentSubscription, stated: Option<Stretch<Terms>>, now: Time) -> Option<Self> {
        let life: Vec<Stretch<Terms>> = held.rows.iter().map(|row| row.stretch.clone()).collect();
        let mut added = match &stated {
            Some(stated) => timeline::restate(&life, now, stated.clone()),
            None => timeline::end(&life, now, now).unwrap_or_else(|_| life.clone()),
        };
        // A transaction that began later may have committed before this one: belief does not go back in time.
        let mut recorded_at = now;
        let mut superseded = Vec::new();
        for row in &held.rows {
            recorded_at = recorded_at.max(row.recorded_at);
            match added.iter().position(|stretch| *stretch == row.stretch) {
                Some(place) => drop(added.remove(place)),
                None => superseded.push(row.row_id),
            }
        }
        if superseded.is_empty() && added.is_empty() {
            return None;
        }
        let old = life.iter().rev().find(|stretch| stretch.starts_at <= now).or(life.first()).cloned();
        let reference = Cow::Owned(held.reference.unwrap_or_default());
        Some(Self { reference, id: Some(held.id), superseded, recorded_at, added, old, stated })
    }
}

/// What happens to a row, and what it was and will be.
pub struct Step {
    pub action: &'static str,
    old: Option<JsonValue>,
    new: Option<JsonValue>,
}

impl Step {
    fn of(old: Option<JsonValue>, new: Option<JsonValue>) -> Self {
        let action = match (&old, &new) {
            (None, _) => "added",
            (Some(_), Some(_)) => "changed",
            (Some(_), None) => "ended",
        };
        Self { action, old, new }
    }

    pub fn detail(self) -> JsonValue {
        match (self.old, self.new) {
            (Some(old), Some(new)) => json!({ "from": old, "to": new }),
            (old, new) => old.or(new).unwrap_or_else(|| json!({})),
        }
    }
}

fn seconds(time: Time) -> Option<i64> {
    (time != FOREVER).then(|| NumericDate::from_time(time).seconds())
}

fn subscription_json(stretch: &Stretch<Terms>, catalog: &Catalog) -> JsonValue {
    json!({
        "plan": catalog.plan_key(stretch.terms.plan),
        "version": stretch.terms.version.and_then(|id| catalog.version_number(id)),
        "quantity": stretch.terms.quantity,
        "starts_at": seconds(stretch.starts_at),
        "ends_at": seconds(stretch.ends_at),
    })
}

fn exception_json(exception: &Exception<'_>) -> JsonValue {
    let raw = |text: &str| RawValue::from_string(text.to_owned()).map_or(JsonValue::Null, |raw| json!(raw));
    let value = &exception.value;
    let value = match (value.enabled, &value.config, value.amount.as_deref()) {
        (Some(enabled), ..) => json!(enabled),
        (None, Some(config), _) => raw(config),
        (None, None, Some("Infinity")) => json!("unlimited"),
        (None, None, Some(amount)) => json!(amount),
        (None, None, None) => JsonValue::Null,
    };
    json!({
        "mode": exception.mode.as_str(), "value": value, "reason": exception.reason, "expires_at": seconds(exception.expires_at),
    })
}

impl SubscriptionDifference<'_> {
    pub fn step(&self, catalog: &Catalog) -> Step {
        let json = |stretch: &Stretch<Terms>| subscription_json(stretch, catalog);
        Step::of(self.old.as_ref().map(json), self.stated.as_ref().map(json))
    }
}

impl OverrideDifference<'_> {
    pub fn step(&self) -> Step {
        Step::of(self.old.as_ref().map(|old| exception_json(&old.exception)), self.stated.as_ref().map(exception_json))
    }
}

impl AccountDifference<'_> {
    fn has_changes(&self) -> bool {
        !self.subscriptions.is_empty() || !self.overrides.is_empty()
    }

    /// What was and what will be, for the audit log: subscriptions by ref, overrides by feature.
    pub fn sides(&self, catalog: &Catalog) -> (Option<Box<RawValue>>, Option<Box<RawValue>>) {
        let mut sides = [Side::default(), Side::default()];
        for difference in &self.subscriptions {
            let step = difference.step(catalog);
            for (side, value) in sides.iter_mut().zip([step.old, step.new]) {
                side.subscriptions.extend(value.map(|value| (difference.reference.to_string(), value)));
            }
        }
        for difference in &self.overrides {
            let step = difference.step();
            for (side, value) in sides.iter_mut().zip([step.old, step.new]) {
                side.overrides.extend(value.map(|value| (catalog.feature_key(difference.feature).to_owned(), value)));
            }
        }
        let [old, new] = sides;
        let new = new.json().or_else(|| self.id.is_none().then(|| json!({})));
        // As text: there may be very many of them.
        let text = |json: JsonValue| RawValue::from_string(json.to_string()).ok();
        (old.json().and_then(text), new.and_then(text))
    }
}

#[derive(Default)]
struct Side {
    subscriptions: serde_json::Map<String, JsonValue>,
    overrides: serde_json::Map<String, JsonValue>,
}

impl Side {
    fn json(self) -> Option<JsonValue> {
        let mut members = serde_json::Map::new();
        for (name, map) in [("subscriptions", self.subscriptions), ("overrides", self.overrides)] {
            if !map.is_empty() {
                members.insert(name.to_owned(), JsonValue::Object(map));
            }
        }
        (!members.is_empty()).then_some(JsonValue::Object(members))
    }
}
