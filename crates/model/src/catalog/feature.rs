//! Features as catalog documents define them.

use std::str::FromStr;

use crate::amount::Amount;
use crate::fault::Path;
use crate::json::Json;
use crate::kind::{Combine, Kind, UnknownWord};
use crate::period::Period;

use super::read::{self, Findings};

/// What can be entitled. Members that the kind does not have are `None` or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub kind: Kind,
    pub name: Option<String>,
    pub description: Option<String>,
    pub combine: Combine,
    /// What one unit is, for people. Quota, allocation, rate.
    pub unit: Option<String>,
    /// Quota: the length of a window, `None` when usage resets at renewal or never. Rate: the time
    /// the amount is for, always there.
    pub period: Option<Period>,
    /// Where a quota's windows start; `None` when usage never resets.
    pub anchor: Option<Anchor>,
    /// Quota and allocation: always there.
    pub overage: Option<Overage>,
    /// Factor of the allowance that usage may reach, at least 1; only where overage is allowed.
    pub ceiling: Option<Amount>,
    /// Factors of the allowance whose crossing is reported, ascending and above 0.
    pub thresholds: Vec<Amount>,
    /// Rate: the most at once.
    pub burst: Option<Amount>,
    /// Config: the JSON Schema its values satisfy.
    pub schema: Option<Json>,
    pub archived: bool,
}

/// Where a quota's windows start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    Calendar,
    Subscription,
    Renewal,
}

impl Anchor {
    pub fn as_str(self) -> &'static str {
        match self {
            Anchor::Calendar => "calendar",
            Anchor::Subscription => "subscription",
            Anchor::Renewal => "renewal",
        }
    }
}

impl FromStr for Anchor {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Anchor, UnknownWord> {
        match text {
            "calendar" => Ok(Anchor::Calendar),
            "subscription" => Ok(Anchor::Subscription),
            "renewal" => Ok(Anchor::Renewal),
            _ => Err(UnknownWord { known: "calendar, subscription, renewal" }),
        }
    }
}

/// What happens to a request beyond the allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overage {
    Reject,
    Cap,
    Allow,
}

impl Overage {
    pub fn as_str(self) -> &'static str {
        match self {
            Overage::Reject => "reject",
            Overage::Cap => "cap",
            Overage::Allow => "allow",
        }
    }
}

impl FromStr for Overage {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Overage, UnknownWord> {
        match text {
            "reject" => Ok(Overage::Reject),
            "cap" => Ok(Overage::Cap),
            "allow" => Ok(Overage::Allow),
            _ => Err(UnknownWord { known: "reject, cap, allow" }),
        }
    }
}

/// Most characters of a name, a unit and a description.
pub(super) const NAME_LENGTH: usize = 200;
pub(super) const DESCRIPTION_LENGTH: usize = 10_000;

/// Most bytes of a schema.
const SCHEMA_LENGTH: usize = 65_536;

const MAX_THRESHOLDS: usize = 20;

const MEMBERS: [&str; 13] = [
    "kind",
    "name",
    "description",
    "combine",
    "unit",
    "period",
    "anchor",
    "overage",
    "ceiling",
    "thresholds",
    "burst",
    "schema",
    "archived",
];

/// Whether features of a kind have a member.
fn has_member(kind: Kind, member: &str) -> bool {
    match member {
        "unit" => kind.is_metered(),
        "period" => matches!(kind, Kind::Quota | Kind::Rate),
        "anchor" => kind == Kind::Quota,
        "overage" | "ceiling" | "thresholds" => matches!(kind, Kind::Quota | Kind::Allocation),
        "burst" => kind == Kind::Rate,
        "schema" => kind == Kind::Config,
        _ => true,
    }
}

impl Feature {
    /// A feature of which nothing but the kind was said.
    pub fn new(kind: Kind) -> Feature {
        Feature {
            kind,
            name: None,
            description: None,
            combine: Combine::default_for(kind),
            unit: None,
            period: None,
            anchor: None,
            overage: has_member(kind, "overage").then_some(Overage::Reject),
            ceiling: None,
            thresholds: Vec::new(),
            burst: None,
            schema: None,
            archived: false,
        }
    }

    /// The feature as a catalog document defines it; members that are at their default are left out.
    pub fn to_json(&self) -> Json {
        Json::object(self.members())
    }

    /// The members that are not at their default, in the order of a document.
    pub(super) fn members(&self) -> Vec<(&'static str, Json)> {
        let text = |text: &Option<String>| text.as_ref().map(Json::string);
        let number = |amount: Option<Amount>| amount.map(Json::number);
        let combine = (self.combine != Combine::default_for(self.kind)).then(|| Json::string(self.combine.as_str()));
        let default_anchor = self.period.map(|_| Anchor::Calendar);
        let anchor = self.anchor.filter(|_| self.kind == Kind::Quota && self.anchor != default_anchor);
        let thresholds = self.thresholds.iter().map(Json::number).collect::<Vec<_>>();
        [
            ("kind", Some(Json::string(self.kind.as_str()))),
            ("name", text(&self.name)),
            ("description", text(&self.description)),
            ("combine", combine),
            ("unit", text(&self.unit)),
            ("period", self.period.map(|period| Json::string(period.to_string()))),
            ("anchor", anchor.map(|anchor| Json::string(anchor.as_str()))),
            (
                "overage",
                self.overage.filter(|overage| *overage != Overage::Reject).map(|overage| Json::string(overage.as_str())),
            ),
            ("ceiling", number(self.ceiling)),
            ("thresholds", (!thresholds.is_empty()).then_some(Json::Array(thresholds))),
            ("burst", number(self.burst)),
            ("schema", self.schema.clone()),
            ("archived", self.archived.then_some(Json::Bool(true))),
        ]
        .into_iter()
        .filter_map(|(member, value)| Some((member, value?)))
        .collect()
    }

    /// What a document makes of a feature: members it does not name stay as they are, null ones
    /// take their default. `None` when not even the kind could be read.
    pub(super) fn merge(present: Option<&Feature>, json: &Json, path: &Path, findings: &mut Findings) -> Option<Feature> {
        let members = read::object(json, path, findings)?;
        let kind = match (json.get("kind"), present) {
            (Some(kind), _) => read::parsed(kind, &path.member("kind"), findings)?,
            (None, Some(present)) => present.kind,
            (None, None) => {
                findings.fault(path, || "a new feature needs a kind".into());
                return None;
            }
        };
        let mut feature = match present {
            Some(present) if present.kind == kind => present.clone(),
            Some(present) => Feature {
                name: present.name.clone(),
                description: present.description.clone(),
                archived: present.archived,
                ..Feature::new(kind)
            },
            None => Feature::new(kind),
        };
        for (member, json) in members {
            feature.set_member(member, json, &path.member(member), findings);
        }
        feature.settle(json, path, findings);
        Some(feature)
    }

    fn set_member(&mut self, member: &str, json: &Json, path: &Path, findings: &mut Findings) {
        if !MEMBERS.contains(&member) {
            return read::unknown_member(member, &MEMBERS, path, findings);
        }
        if !has_member(self.kind, member) {
            if *json != Json::Null {
                findings.fault(path, || format!("a feature of kind {} has no {member}", self.kind));
            }
            return;
        }
        match member {
            "name" => set(&mut self.name, read::nullable(json, |json| read::text(json, NAME_LENGTH, path, findings))),
            "description" => {
                set(&mut self.description, read::nullable(json, |json| read::text(json, DESCRIPTION_LENGTH, path, findings)))
            }
            "combine" => {
                let combine = read::nullable(json, |json| self.read_combine(json, path, findings));
                set(&mut self.combine, combine.map(|combine| combine.unwrap_or(Combine::default_for(self.kind))));
            }
            "unit" => set(&mut self.unit, read::nullable(json, |json| read::text(json, NAME_LENGTH, path, findings))),
            "period" => set(&mut self.period, read::nullable(json, |json| read::parsed(json, path, findings))),
            "anchor" => set(&mut self.anchor, read::nullable(json, |json| read::parsed(json, path, findings))),
            "overage" => {
                let overage = read::nullable(json, |json| read::parsed(json, path, findings));
                set(&mut self.overage, overage.map(|overage| overage.or(Some(Overage::Reject))));
            }
            "ceiling" => set(&mut self.ceiling, read::nullable(json, |json| read_ceiling(json, path, findings))),
            "thresholds" => {
                let thresholds = read::nullable(json, |json| read_thresholds(json, path, findings));
                set(&mut self.thresholds, thresholds.map(Option::unwrap_or_default));
            }
            "burst" => set(&mut self.burst, read::nullable(json, |json| read_positive(json, path, findings))),
            "schema" => set(&mut self.schema, read::nullable(json, |json| read_schema(json, path, findings))),
            "archived" => {
                let archived = read::nullable(json, |json| read::boolean(json, path, findings));
                set(&mut self.archived, archived.map(Option::unwrap_or_default));
            }
            _ => {}
        }
    }

    fn read_combine(&self, json: &Json, path: &Path, findings: &mut Findings) -> Option<Combine> {
        let combine = read::parsed(json, path, findings)?;
        let allowed = Combine::allowed_for(self.kind);
        if allowed.contains(&combine) {
            return Some(combine);
        }
        findings.fault(path, || {
            let allowed: Vec<_> = allowed.iter().map(|combine| combine.as_str()).collect();
            format!("a feature of kind {} combines by {}, not {combine}", self.kind, allowed.join(", "))
        });
        None
    }

    /// Checks members against one another and fills in the anchor.
    fn settle(&mut self, json: &Json, path: &Path, findings: &mut Findings) {
        let named = |member| json.get(member).is_some_and(|json| *json != Json::Null);
        match (self.kind, self.period, self.anchor) {
            (Kind::Rate, None, _) if !named("period") => {
                findings.fault(path, || "a rate needs a period".into());
            }
            (Kind::Quota, Some(_), None) => self.anchor = Some(Anchor::Calendar),
            (Kind::Quota, Some(_), Some(Anchor::Renewal)) => {
                let place = if named("anchor") { "anchor" } else { "period" };
                findings.fault(&path.member(place), || "a quota that resets at renewal has no period".into());
            }
            (Kind::Quota, None, Some(Anchor::Calendar | Anchor::Subscription)) => {
                if !named("anchor") {
                    self.anchor = None;
                } else if !named("period") {
                    findings.fault(&path.member("anchor"), || "windows that start anew need a period".into());
                }
            }
            _ => {}
        }
        if self.ceiling.is_some() && self.overage != Some(Overage::Allow) {
            let place = if named("ceiling") { "ceiling" } else { "overage" };
            findings.fault(&path.member(place), || "a ceiling needs overage allow".into());
        }
    }
}

fn set<T>(member: &mut T, read: Option<T>) {
    if let Some(value) = read {
        *member = value;
    }
}

fn read_ceiling(json: &Json, path: &Path, findings: &mut Findings) -> Option<Amount> {
    let ceiling = read::amount(json, path, findings)?;
    if ceiling.nanos() < 1_000_000_000 {
        findings.fault(path, || format!("{ceiling} is below 1, the allowance itself"));
        return None;
    }
    Some(ceiling)
}

fn read_positive(json: &Json, path: &Path, findings: &mut Findings) -> Option<Amount> {
    let amount = read::amount(json, path, findings)?;
    if amount == Amount::ZERO {
        findings.fault(path, || "must be above 0".into());
        return None;
    }
    Some(amount)
}

fn read_thresholds(json: &Json, path: &Path, findings: &mut Findings) -> Option<Vec<Amount>> {
    let Json::Array(items) = json else {
        return read::wrong_type(json, "an array", path, findings);
    };
    if items.len() > MAX_THRESHOLDS {
        findings.fault(path, || format!("{} thresholds, more than {MAX_THRESHOLDS}", items.len()));
        return None;
    }
    let read: Vec<_> =
        items.iter().enumerate().map(|(index, item)| read_positive(item, &path.item(index), findings)).collect();
    let thresholds = read.into_iter().collect::<Option<Vec<_>>>()?;
    if let Some(index) = thresholds.windows(2).position(|pair| pair[0] >= pair[1]) {
        findings.fault(&path.item(index + 1), || "thresholds must ascend".into());
        return None;
    }
    Some(thresholds)
}

fn read_schema(json: &Json, path: &Path, findings: &mut Findings) -> Option<Json> {
    if !matches!(json, Json::Object(_) | Json::Bool(_)) {
        return read::wrong_type(json, "a JSON Schema: an object, true or false", path, findings);
    }
    if json.to_string().len() > SCHEMA_LENGTH {
        findings.fault(path, || format!("a schema of more than {SCHEMA_LENGTH} bytes"));
        return None;
    }
    Some(json.clone())
}
