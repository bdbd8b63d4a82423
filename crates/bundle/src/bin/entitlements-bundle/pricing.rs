//! Pricing2Yaml files, which describe what a service sells, as catalog documents.
//!
//! What has the same meaning here is converted: features with their values, limits as quotas and allocations, plans, add-ons. What
//! has none is left out and named, so that nobody takes the catalog for more than it is: prices, and which plans an add-on is
//! sold to. A value that does not fit what the file says of its feature is a fault; nothing is guessed at.

use std::collections::{BTreeMap, BTreeSet};

use entitlements_model::fault::{Excerpt, Fault, Faults, Path};
use entitlements_model::json::{Json, Member};
use entitlements_model::key::FeatureKey;
use entitlements_model::kind::Kind;

/// A catalog document, and what of the file is not in it.
#[derive(Debug)]
pub struct Converted {
    pub catalog: Json,
    pub notes: Vec<String>,
}

/// Whether a text is such a file; it starts with the name of the service.
pub fn is_pricing(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("saasName:"))
}

pub fn convert(pricing: &Json) -> Result<Converted, Vec<Fault>> {
    let mut conversion = Conversion::default();
    let catalog = conversion.catalog(pricing);
    match conversion.faults.is_empty() {
        true => Ok(Converted { catalog, notes: conversion.notes() }),
        false => Err(conversion.faults.into_vec()),
    }
}

#[derive(Default)]
struct Conversion {
    faults: Faults,
    /// Members left out: where, with names replaced by `*`, and how often.
    left_out: BTreeMap<String, usize>,
    remarks: BTreeSet<String>,
}

/// A feature of the catalog, by its name in the file.
struct Feature<'j> {
    key: FeatureKey,
    kind: Kind,
    default: Option<&'j Json>,
}

type Features<'j> = BTreeMap<&'j str, Feature<'j>>;

/// Periods that a unit may name: `minute/month`.
const PERIODS: [&str; 7] = ["second", "minute", "hour", "day", "week", "month", "year"];

impl Conversion {
    fn catalog(&mut self, pricing: &Json) -> Json {
        let root = Path::Root;
        self.leave_out(pricing, &root, "", &["features", "usageLimits", "plans", "addOns"]);
        let mut taken = BTreeSet::new();
        let mut definitions = Vec::new();
        let features = self.features(pricing, "features", &mut taken, &mut definitions);
        let limits = self.features(pricing, "usageLimits", &mut taken, &mut definitions);
        let mut plans = Vec::new();
        let path = root.member("plans");
        for (place, (name, plan)) in self.section(pricing, "plans").iter().enumerate() {
            let path = path.member(name);
            let mut values = self.values(plan, "features", &features, true, &path);
            values.extend(self.values(plan, "usageLimits", &limits, true, &path));
            self.leave_out(plan, &path, "plans.*.", &["description", "features", "usageLimits"]);
            plans.push(self.plan(name, plan, "base", Some(place * 10), values, &path));
        }
        let path = root.member("addOns");
        for (name, addon) in self.section(pricing, "addOns") {
            let path = path.member(name);
            let mut values = self.values(addon, "features", &features, false, &path);
            let replaced = self.values(addon, "usageLimits", &limits, false, &path);
            if !replaced.is_empty() {
                self.remarks.insert(format!("{path}.usageLimits: comes on top of what the plan gives, not in its place"));
            }
            let added = self.values(addon, "usageLimitsExtensions", &limits, false, &path);
            for (key, value) in replaced.into_iter().chain(added) {
                if values.iter().any(|(other, _)| *other == key) {
                    self.faults.push(&path, || format!("'{key}' is in usageLimits and in usageLimitsExtensions"));
                }
                values.push((key, value));
            }
            let known = ["description", "features", "usageLimits", "usageLimitsExtensions"];
            self.leave_out(addon, &path, "addOns.*.", &known);
            plans.push(self.plan(name, addon, "addon", None, values, &path));
        }
        let mut names = BTreeSet::new();
        for (key, _) in plans.iter().filter(|(key, _)| !names.insert(key.as_str())) {
            self.faults.push(&root.member("plans"), || format!("two plans or add-ons become '{key}'"));
        }
        Json::object([("features", Json::object(definitions)), ("plans", Json::object(plans))])
    }

    /// The definitions of a section; `taken` holds the keys given out.
    fn features<'j>(
        &mut self,
        pricing: &'j Json,
        section: &'static str,
        taken: &mut BTreeSet<FeatureKey>,
        definitions: &mut Vec<Member>,
    ) -> Features<'j> {
        let mut features = Features::new();
        let root = Path::Root;
        let parent = root.member(section);
        for (name, definition) in self.section(pricing, section) {
            let path = parent.member(name);
            let text = |member: &str| match definition.get(member) {
                Some(Json::String(text)) if !text.is_empty() => Some(text.as_str()),
                _ => None,
            };
            let (kind, mut members) = match self.kind(section, text("valueType"), text("type"), text("unit"), &path) {
                Some((kind, members)) => (kind, members),
                None => continue,
            };
            let Some(mut key) = self.key(name, &path) else { continue };
            if !taken.insert(key.clone()) {
                let other = self.key(&format!("{name}_limit"), &path);
                let Some(other) = other.filter(|_| section == "usageLimits").filter(|other| taken.insert(other.clone()))
                else {
                    self.faults.push(&path, || format!("another name becomes the key '{key}' too"));
                    continue;
                };
                self.remarks.insert(format!("{path}: has the key {other}, since a feature has the same name"));
                key = other;
            }
            members.insert(0, ("kind", Json::string(kind.as_str())));
            if key.as_str() != name {
                members.push(("name", Json::string(name)));
            }
            members.extend(text("description").map(|text| ("description", Json::string(text))));
            definitions.push((key.as_str().into(), Json::object(members)));
            let known: &[&str] = match kind.is_metered() {
                true => &["valueType", "type", "unit", "description", "defaultValue"],
                false => &["valueType", "description", "defaultValue"],
            };
            self.leave_out(definition, &path, &format!("{section}.*."), known);
            features.insert(name, Feature { key, kind, default: definition.get("defaultValue") });
        }
        features
    }

    /// What a definition is here, with the members that belong to its kind.
    fn kind(
        &mut self,
        section: &str,
        value_type: Option<&str>,
        typ: Option<&str>,
        unit: Option<&str>,
        path: &Path,
    ) -> Option<(Kind, Vec<(&'static str, Json)>)> {
        let (unit, period) = match unit.map(|unit| unit.rsplit_once('/').unwrap_or((unit, ""))) {
            Some((unit, period)) if PERIODS.contains(&period) => (Some(unit), Some(period)),
            _ => (unit, None),
        };
        let mut members: Vec<_> = unit.map(|unit| ("unit", Json::string(unit))).into_iter().collect();
        match (value_type, typ) {
            (Some("BOOLEAN"), _) => Some((Kind::Flag, Vec::new())),
            (Some("TEXT"), _) => Some((Kind::Config, Vec::new())),
            (Some("NUMERIC"), _) if section == "features" => Some((Kind::Config, Vec::new())),
            (Some("NUMERIC"), Some("RENEWABLE")) => {
                if period.is_none() {
                    self.remarks.insert(format!("{path}: is renewable, but its unit names no time; a month is assumed"));
                }
                members.push(("period", Json::string(format!("1 {}", period.unwrap_or("month")))));
                Some((Kind::Quota, members))
            }
            (Some("NUMERIC"), Some("NON_RENEWABLE")) => Some((Kind::Allocation, members)),
            (Some("NUMERIC"), Some("TIME_DRIVEN" | "RESPONSE_DRIVEN")) => {
                self.remarks.insert(format!("{path}: limits one use, not a number of them; it is a config value"));
                Some((Kind::Config, Vec::new()))
            }
            (Some("NUMERIC"), _) => {
                let known = "must be RENEWABLE, NON_RENEWABLE, TIME_DRIVEN or RESPONSE_DRIVEN";
                self.faults.push(&path.member("type"), || known.into());
                None
            }
            _ => {
                self.faults.push(&path.member("valueType"), || "must be BOOLEAN, NUMERIC or TEXT".into());
                None
            }
        }
    }

    fn plan(
        &mut self,
        name: &str,
        plan: &Json,
        kind: &str,
        rank: Option<usize>,
        values: Vec<(FeatureKey, Json)>,
        path: &Path,
    ) -> Member {
        let key = self.key(name, path).map_or_else(String::new, |key| key.to_string());
        let mut members = vec![("kind", Json::string(kind))];
        if key != name {
            members.push(("name", Json::string(name)));
        }
        if let Some(Json::String(text)) = plan.get("description")
            && !text.is_empty()
        {
            members.push(("description", Json::string(text)));
        }
        members.extend(rank.filter(|rank| *rank > 0).map(|rank| ("rank", Json::number(rank))));
        members.push(("features", Json::object(values.into_iter().map(|(key, value)| (key.to_string(), value)))));
        (key.into(), Json::object(members))
    }

    /// The values that a plan gives in one of its sections, the defaults too where `complete`.
    fn values(
        &mut self,
        plan: &Json,
        section: &'static str,
        features: &Features,
        complete: bool,
        path: &Path,
    ) -> Vec<(FeatureKey, Json)> {
        let parent = path.member(section);
        let own = match plan.get(section) {
            None | Some(Json::Null) => &[][..],
            Some(json) => self.members(json, &parent),
        };
        let mut given: BTreeMap<&str, &Json> = BTreeMap::new();
        for (name, entry) in own {
            let path = parent.member(name);
            if !features.contains_key(name.as_str()) {
                self.faults.push(&path, || "is not defined in this file".into());
            }
            let value = self.members(entry, &path).iter().find(|(member, _)| member == "value");
            match value {
                Some((_, Json::Null)) | None if complete => {}
                Some((_, Json::Null)) | None => {
                    self.remarks.insert(format!("{path}: has no value and is left out"));
                }
                Some((_, value)) => {
                    given.insert(name, value);
                }
            }
        }
        let mut values = Vec::new();
        for (name, feature) in features {
            let default = feature.default.filter(|default| complete && **default != Json::Null);
            let Some(value) = given.get(name).copied().or(default) else { continue };
            let value = match (feature.kind, value) {
                (Kind::Flag, Json::Bool(_)) | (Kind::Config, _) => value.clone(),
                (kind, Json::Number(_)) if kind.is_metered() => value.clone(),
                (kind, Json::String(word)) if kind.is_metered() && word.eq_ignore_ascii_case("unlimited") => {
                    Json::string("unlimited")
                }
                (kind, other) => {
                    let wanted = if kind == Kind::Flag { "true or false" } else { "a number or .inf" };
                    self.faults.push(&parent.member(name), || format!("must be {wanted}, not {}", other.describe()));
                    continue;
                }
            };
            values.push((feature.key.clone(), value));
        }
        values
    }

    /// A name as a key: characters that a key cannot have become `_`.
    fn key(&mut self, name: &str, path: &Path) -> Option<FeatureKey> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let mut text: String = name.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
        if text.starts_with(['.', ':', '-']) {
            text.insert(0, '_');
        }
        FeatureKey::parse(&text).inspect_err(|error| self.faults.push(path, || format!("'{}' {error}", Excerpt(&text)))).ok()
    }

    fn section<'j>(&mut self, pricing: &'j Json, name: &'static str) -> &'j [Member] {
        match pricing.get(name) {
            None | Some(Json::Null) => &[],
            Some(json) => self.members(json, &Path::Root.member(name)),
        }
    }

    fn members<'j>(&mut self, json: &'j Json, path: &Path) -> &'j [Member] {
        match json {
            Json::Object(members) => members,
            other => {
                self.faults.push(path, || format!("must be a mapping, not {}", other.describe()));
                &[]
            }
        }
    }

    /// Counts what is left out of an object at `path`, which stands for `place`.
    fn leave_out(&mut self, json: &Json, path: &Path, place: &str, known: &[&str]) {
        for (member, json) in self.members(json, path) {
            if !known.contains(&member.as_str()) && *json != Json::Null {
                *self.left_out.entry(format!("{place}{member}")).or_default() += 1;
            }
        }
    }

    fn notes(&self) -> Vec<String> {
        let left_out = self.left_out.iter().map(|(place, count)| match count {
            1 => format!("$.{place}: has no place in a catalog"),
            _ => format!("$.{place}: has no place in a catalog ({count} times)"),
        });
        left_out.chain(self.remarks.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use entitlements_model::catalog::{State, plan_changes};
    use entitlements_model::json::Limits;

    use super::*;
    use crate::yaml::{self, Infinity};

    fn read(text: &str) -> Result<Converted, Vec<String>> {
        assert!(is_pricing(text));
        let pricing = yaml::parse(text, Limits::CATALOG, Infinity::Unlimited).unwrap();
        convert(&pricing).map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    const SHOP: &str = "
saasName: Print shop
currency: EUR
features:
  preview: {description: Look before you print, valueType: BOOLEAN, defaultValue: true, type: DOMAIN}
  colour: {valueType: BOOLEAN, defaultValue: false, type: DOMAIN}
  help: {valueType: TEXT, defaultValue: mail, type: SUPPORT}
  pages: {valueType: BOOLEAN, defaultValue: true, type: DOMAIN}
usageLimits:
  pages: {valueType: NUMERIC, defaultValue: 100, unit: page/month, type: RENEWABLE, linkedFeatures: [preview]}
  printers: {valueType: NUMERIC, defaultValue: 1, unit: printer, type: NON_RENEWABLE}
  scans: {valueType: NUMERIC, defaultValue: 0, unit: scan, type: RENEWABLE}
plans:
  BASIC: {description: For a start, monthlyPrice: 1.0, features: null, usageLimits: null}
  PRO team:
    monthlyPrice: 9.0
    features: {colour: {value: true}, help: {value: phone}}
    usageLimits: {pages: {value: .inf}, printers: {value: 2.5}}
addOns:
  morePages:
    availableFor: [BASIC]
    price: 2
    features: null
    usageLimits: {printers: {value: 1}}
    usageLimitsExtensions: {pages: {value: 50}}
";

    #[test]
    fn what_has_a_meaning_here_is_converted() {
        let converted = read(SHOP).unwrap();
        let catalog = &converted.catalog;
        let at = |path: &[&str]| path.iter().fold(catalog.clone(), |json, name| json.get(name).unwrap().clone()).to_string();
        assert_eq!(at(&["features", "preview"]), r#"{"kind":"flag","description":"Look before you print"}"#);
        assert_eq!(at(&["features", "help"]), r#"{"kind":"config"}"#);
        assert_eq!(at(&["features", "pages_limit"]), r#"{"kind":"quota","unit":"page","period":"1 month","name":"pages"}"#);
        assert_eq!(at(&["features", "printers"]), r#"{"kind":"allocation","unit":"printer"}"#);
        assert_eq!(
            at(&["plans", "BASIC"]),
            r#"{"kind":"base","description":"For a start","features":{"colour":false,"help":"mail","pages":true,"preview":true,"pages_limit":100,"printers":1,"scans":0}}"#
        );
        let pro = at(&["plans", "PRO_team"]);
        assert!(pro.starts_with(r#"{"kind":"base","name":"PRO team","rank":10,"#), "{pro}");
        assert!(pro.ends_with(r#""colour":true,"help":"phone","pages":true,"preview":true,"pages_limit":"unlimited","printers":2.5,"scans":0}}"#), "{pro}");
        assert_eq!(at(&["plans", "morePages"]), r#"{"kind":"addon","features":{"printers":1,"pages_limit":50}}"#);
        assert!(plan_changes(&State::default(), catalog).is_ok());
    }

    #[test]
    fn what_has_none_is_named() {
        assert_eq!(
            read(SHOP).unwrap().notes,
            [
                "$.addOns.*.availableFor: has no place in a catalog",
                "$.addOns.*.price: has no place in a catalog",
                "$.currency: has no place in a catalog",
                "$.features.*.type: has no place in a catalog (4 times)",
                "$.plans.*.monthlyPrice: has no place in a catalog (2 times)",
                "$.saasName: has no place in a catalog",
                "$.usageLimits.*.linkedFeatures: has no place in a catalog",
                "$.addOns.morePages.usageLimits: comes on top of what the plan gives, not in its place",
                "$.usageLimits.pages: has the key pages_limit, since a feature has the same name",
                "$.usageLimits.scans: is renewable, but its unit names no time; a month is assumed",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_a_fault() {
        for (piece, other, fault) in [
            ("value: phone", "value: true", ""),
            (
                "colour: {value: true}",
                "colour: {value: maybe}",
                "$.plans['PRO team'].features.colour: must be true or false, not a string",
            ),
            ("value: .inf", "value: many", "$.plans['PRO team'].usageLimits.pages: must be a number or .inf, not a string"),
            (
                "colour: {value: true}",
                "color: {value: true}",
                "$.plans['PRO team'].features.color: is not defined in this file",
            ),
            (
                "type: NON_RENEWABLE",
                "type: SOMETIMES",
                "$.usageLimits.printers.type: must be RENEWABLE, NON_RENEWABLE, TIME_DRIVEN or RESPONSE_DRIVEN",
            ),
            ("type: NON_RENEWABLE", "type: TIME_DRIVEN", ""),
            ("valueType: TEXT", "valueType: DATE", "$.features.help.valueType: must be BOOLEAN, NUMERIC or TEXT"),
            (
                "  colour: {v",
                "  pa ges: {valueType: TEXT}\n  pa_ges: {valueType: TEXT}\n  colour: {v",
                "$.features.pa_ges: another name becomes the key 'pa_ges' too",
            ),
            ("pages: {value: 50}", "printers: {value: 50}", "$.addOns.morePages: 'printers' is in usageLimits and in"),
            ("  morePages:\n", "  PRO_team:\n", "$.plans: two plans or add-ons become 'PRO_team'"),
            ("addOns:\n", "addOns: 1\nx:\n", "$.addOns: must be a mapping, not a number"),
        ] {
            assert_eq!(SHOP.matches(piece).count(), 1, "{piece}");
            match read(&SHOP.replace(piece, other)) {
                Err(faults) => assert!(!fault.is_empty() && faults[0].starts_with(fault), "{faults:?}"),
                Ok(_) => assert_eq!(fault, "", "{other}"),
            }
        }
    }

    #[test]
    fn only_a_file_that_names_a_service_is_one() {
        assert!(!is_pricing("features:\n  saasName: {kind: flag}\n"));
        assert!(!is_pricing("plans: {}"));
    }
}
