//! Features as catalog documents define them.

use std::str::FromStr;

use crate::amount::{Allowance, Amount};
use crate::fault::Path;
use crate::json::Json;
use crate::key::FeatureKey;
use crate::kind::{Combine, Kind, UnknownWord};
use crate::period::Period;

use super::plan::{allowance_to_json, read_allowance};
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
    /// Units beyond the allowance that may be used, instead of a ceiling; only where overage is allowed.
    pub overdraft: Option<Amount>,
    /// Factors of the allowance whose crossing is reported, ascending and above 0.
    pub thresholds: Vec<Amount>,
    /// Quota: what is left of a window's allowance goes into the next ones; only where there are windows.
    pub rollover: Option<Rollover>,
    /// Quota: the other feature that what is taken counts for too.
    pub draws_on: Option<DrawsOn>,
    /// Quota and allocation: whether each usage is kept as a record of its own.
    pub ledger: bool,
    /// Allocation: how long a seat is held that does not say so itself; `None` until it is released.
    pub lease: Option<Period>,
    /// Allocation: the least time before a seat's place can go to somebody else.
    pub linger: Option<Period>,
    /// Rate: the most at once.
    pub burst: Option<Amount>,
    /// Rate: always there.
    pub store: Option<Store>,
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

/// Where a rate's state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// In a table, as durable as any row.
    Table,
    /// In shared memory.
    Shared,
}

impl Store {
    pub fn as_str(self) -> &'static str {
        match self {
            Store::Table => "table",
            Store::Shared => "shared",
        }
    }
}

impl FromStr for Store {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Store, UnknownWord> {
        match text {
            "table" => Ok(Store::Table),
            "shared" => Ok(Store::Shared),
            _ => Err(UnknownWord { known: "table, shared" }),
        }
    }
}

/// A feature that units are taken from as well. It is a quota that draws on none itself, so each chain ends after one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawsOn {
    pub feature: FeatureKey,
    /// What a unit takes there, above 0.
    pub cost: Amount,
}

/// What is left of an allowance at the end of its window can still be used later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollover {
    /// The most that a window hands on, above 0.
    pub max: Allowance,
    /// For how many windows, from 1 to [`MAX_ROLLOVER_WINDOWS`].
    pub windows: u32,
}

/// Most characters of a name, a unit and a description.
pub(super) const NAME_LENGTH: usize = 200;
pub(super) const DESCRIPTION_LENGTH: usize = 10_000;

/// Most bytes of a schema.
const SCHEMA_LENGTH: usize = 65_536;

const MAX_THRESHOLDS: usize = 20;

const MAX_ROLLOVER_WINDOWS: i64 = 120;

const DRAWS_ON_MEMBERS: [&str; 2] = ["feature", "cost"];

const ROLLOVER_MEMBERS: [&str; 2] = ["max", "windows"];

const MEMBERS: [&str; 20] = [
    "kind",
    "name",
    "description",
    "combine",
    "unit",
    "period",
    "anchor",
    "overage",
    "ceiling",
    "overdraft",
    "thresholds",
    "rollover",
    "draws_on",
    "ledger",
    "lease",
    "linger",
    "burst",
    "store",
    "schema",
    "archived",
];

/// Whether features of a kind have a member.
fn has_member(kind: Kind, member: &str) -> bool {
    match member {
        "unit" => kind.is_metered(),
        "period" => matches!(kind, Kind::Quota | Kind::Rate),
        "anchor" | "rollover" | "draws_on" => kind == Kind::Quota,
        "overage" | "ceiling" | "overdraft" | "thresholds" | "ledger" => matches!(kind, Kind::Quota | Kind::Allocation),
        "lease" | "linger" => kind == Kind::Allocation,
        "burst" | "store" => kind == Kind::Rate,
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
            overdraft: None,
            thresholds: Vec::new(),
            rollover: None,
            draws_on: None,
            ledger: false,
            lease: None,
            linger: None,
            burst: None,
            store: has_member(kind, "store").then_some(Store::Table),
            schema: None,
            archived: false,
        }
    }

    /// The feature that this one draws on.
    pub(super) fn pool(&self) -> Option<&FeatureKey> {
        self.draws_on.as_ref().map(|draws_on| &draws_on.feature)
    }

    /// Whether other features can draw on this one.
    pub(super) fn is_pool(&self) -> bool {
        self.kind == Kind::Quota && self.draws_on.is_none()
    }

    /// The feature as a catalog document defines it; members that are at their default are left out.
    pub fn to_json(&self) -> Json {
        Json::object(self.members())
    }

    /// The members that are not at their default, in the order of a document.
    pub(super) fn members(&self) -> Vec<(&'static str, Json)> {
        let text = |text: &Option<String>| text.as_ref().map(Json::string);
        let number = |amount: Option<Amount>| amount.map(Json::number);
        let period = |period: Option<Period>| period.map(|period| Json::string(period.to_string()));
        let combine = (self.combine != Combine::default_for(self.kind)).then(|| Json::string(self.combine.as_str()));
        let default_anchor = self.period.map(|_| Anchor::Calendar);
        let anchor = self.anchor.filter(|_| self.kind == Kind::Quota && self.anchor != default_anchor);
        let overage = self.overage.filter(|overage| *overage != Overage::Reject);
        let store = self.store.filter(|store| *store != Store::Table);
        let thresholds = self.thresholds.iter().map(Json::number).collect::<Vec<_>>();
        [
            ("kind", Some(Json::string(self.kind.as_str()))),
            ("name", text(&self.name)),
            ("description", text(&self.description)),
            ("combine", combine),
            ("unit", text(&self.unit)),
            ("period", period(self.period)),
            ("anchor", anchor.map(|anchor| Json::string(anchor.as_str()))),
            ("overage", overage.map(|overage| Json::string(overage.as_str()))),
            ("ceiling", number(self.ceiling)),
            ("overdraft", number(self.overdraft)),
            ("thresholds", (!thresholds.is_empty()).then_some(Json::Array(thresholds))),
            ("rollover", self.rollover.map(Rollover::to_json)),
            ("draws_on", self.draws_on.as_ref().map(DrawsOn::to_json)),
            ("ledger", self.ledger.then_some(Json::Bool(true))),
            ("lease", period(self.lease)),
            ("linger", period(self.linger)),
            ("burst", number(self.burst)),
            ("store", store.map(|store| Json::string(store.as_str()))),
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
            "overdraft" => set(&mut self.overdraft, read::nullable(json, |json| read_positive(json, path, findings))),
            "thresholds" => {
                let thresholds = read::nullable(json, |json| read_thresholds(json, path, findings));
                set(&mut self.thresholds, thresholds.map(Option::unwrap_or_default));
            }
            "rollover" => set(&mut self.rollover, read::nullable(json, |json| Rollover::read(json, path, findings))),
            "draws_on" => set(&mut self.draws_on, read::nullable(json, |json| DrawsOn::read(json, path, findings))),
            "ledger" => {
                let ledger = read::nullable(json, |json| read::boolean(json, path, findings));
                set(&mut self.ledger, ledger.map(Option::unwrap_or_default));
            }
            "lease" => set(&mut self.lease, read::nullable(json, |json| read::parsed(json, path, findings))),
            "linger" => set(&mut self.linger, read::nullable(json, |json| read::parsed(json, path, findings))),
            "burst" => set(&mut self.burst, read::nullable(json, |json| read_positive(json, path, findings))),
            "store" => {
                let store = read::nullable(json, |json| read::parsed(json, path, findings));
                set(&mut self.store, store.map(|store| store.or(Some(Store::Table))));
            }
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
        for (member, limit) in [("ceiling", self.ceiling), ("overdraft", self.overdraft)] {
            if limit.is_some() && self.overage != Some(Overage::Allow) {
                let place = if named(member) { member } else { "overage" };
                let article = if member == "ceiling" { "a" } else { "an" };
                findings.fault(&path.member(place), || format!("{article} {member} needs overage allow"));
            }
        }
        if self.ceiling.is_some() && self.overdraft.is_some() {
            let place = if named("overdraft") { "overdraft" } else { "ceiling" };
            findings.fault(&path.member(place), || "a feature has a ceiling or an overdraft, not both".into());
        }
        if self.rollover.is_some() && self.anchor.is_none() && !named("period") && !named("anchor") {
            let place = match json.get("period") {
                _ if named("rollover") => "rollover",
                Some(_) => "period",
                None => "anchor",
            };
            findings.fault(&path.member(place), || "a rollover needs windows: a period or an anchor".into());
        }
    }
}

impl DrawsOn {
    fn to_json(&self) -> Json {
        let mut members = vec![("feature", Json::string(self.feature.as_str()))];
        if self.cost != Amount::ONE {
            members.push(("cost", Json::number(self.cost)));
        }
        Json::object(members)
    }

    fn read(json: &Json, path: &Path, findings: &mut Findings) -> Option<DrawsOn> {
        for (member, _) in read::object(json, path, findings)? {
            if !DRAWS_ON_MEMBERS.contains(&member.as_str()) {
                read::unknown_member(member, &DRAWS_ON_MEMBERS, &path.member(member), findings);
            }
        }
        let feature = match json.get("feature") {
            Some(json) => read::parsed(json, &path.member("feature"), findings),
            None => {
                findings.fault(path, || "the feature to draw on is missing".into());
                None
            }
        };
        let cost = match json.get("cost") {
            None | Some(Json::Null) => Some(Amount::ONE),
            Some(json) => read_positive(json, &path.member("cost"), findings),
        };
        Some(DrawsOn { feature: feature?, cost: cost? })
    }
}

impl Rollover {
    fn to_json(self) -> Json {
        let mut members = vec![("max", allowance_to_json(self.max))];
        if self.windows != 1 {
            members.push(("windows", Json::number(self.windows)));
        }
        Json::object(members)
    }

    fn read(json: &Json, path: &Path, findings: &mut Findings) -> Option<Rollover> {
        for (member, _) in read::object(json, path, findings)? {
            if !ROLLOVER_MEMBERS.contains(&member.as_str()) {
                read::unknown_member(member, &ROLLOVER_MEMBERS, &path.member(member), findings);
            }
        }
        let max = match json.get("max") {
            Some(json) => read_rollover_max(json, &path.member("max"), findings),
            None => {
                findings.fault(path, || "a max is missing".into());
                None
            }
        };
        let windows = match json.get("windows") {
            None | Some(Json::Null) => Some(1),
            Some(json) => read::integer(json, 1..=MAX_ROLLOVER_WINDOWS, &path.member("windows"), findings),
        };
        Some(Rollover { max: max?, windows: windows? as u32 })
    }
}

fn read_rollover_max(json: &Json, path: &Path, findings: &mut Findings) -> Option<Allowance> {
    let max = read_allowance(json, path, findings)?;
    if max.is_zero() {
        findings.fault(path, || "must be above 0".into());
        return None;
    }
    Some(max)
}

fn set<T>(member: &mut T, read: Option<T>) {
    if let Some(value) = read {
        *member = value;
    }
}

fn read_ceiling(json: &Json, path: &Path, findings: &mut Findings) -> Option<Amount> {
    let ceiling = read::amount(json, path, findings)?;
    if ceiling < Amount::ONE {
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
