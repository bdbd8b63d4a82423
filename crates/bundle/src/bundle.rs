//! The claims of a bundle, typed.
//!
//! A bundle states the whole desired state of its issuer for one database. It is read strictly: a key twice in an object, a
//! member nobody knows, a wrong type, a number that is no integer where one belongs are faults with their paths, and a bundle
//! with one fault is no bundle. What can be checked of the catalog without the catalog it will meet is checked here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use entitlements_model::fault::{Excerpt, Fault, Faults, Path};
use entitlements_model::json::{Json, Limits};
use entitlements_model::key::{AccountKey, FeatureKey, PlanKey};
use entitlements_model::kind::{Kind, PlanKind};

use crate::account::Account;
use crate::date::NumericDate;
use crate::digest::Digest;
use crate::jws::BUNDLE_TYPE;
use crate::key::PublicKey;
use crate::read::{self, Object};
use crate::trust::{Document, Purpose};

/// What a bundle may cost: some ten times 100,000 accounts with a subscription and two overrides each.
pub const BUNDLE_LIMITS: Limits = Limits { bytes: 256 << 20, depth: 64, nodes: 20_000_000 };

/// Most keys that one bundle introduces.
const MAX_KEYS: usize = 16;

/// Most licences that one bundle revokes.
const MAX_REVOKED: usize = 100_000;

const MEMBERS: [&str; 14] = [
    "iss",
    "aud",
    "iat",
    "nbf",
    "exp",
    "seq",
    "prev",
    "grace",
    "heartbeat",
    "mode",
    "catalog",
    "accounts",
    "keys",
    "revoked",
];

const CATALOG_MEMBERS: [&str; 4] = ["features", "plans", "prices", "revision"];

/// What happens to what a bundle granted once its time and its grace are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It ends.
    Enforce,
    /// It goes on, and is reported.
    Advise,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Advise => "advise",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "enforce" => Ok(Mode::Enforce),
            "advise" => Ok(Mode::Advise),
            _ => Err("is not one of: enforce, advise"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// `iss`
    pub issuer: String,
    /// `aud`: the name of the database that this is for.
    pub audience: String,
    /// `iat`
    pub issued_at: NumericDate,
    /// `nbf`; when it is left out, the bundle is valid from its issue.
    pub not_before: NumericDate,
    /// `exp`: when the grace begins.
    pub expires: NumericDate,
    /// `seq`: rises with every bundle of this issuer for this database, from 1.
    pub sequence: i64,
    /// `prev`: the digest of the bundle issued before this one.
    pub previous: Option<Digest>,
    /// `grace`: seconds after `expires`; 0 when it is left out.
    pub grace: i64,
    /// `heartbeat`: seconds from `issued_at` within which the next bundle is expected.
    pub heartbeat: Option<i64>,
    /// `mode`; `enforce` when it is left out.
    pub mode: Mode,
    pub catalog: Option<Json>,
    pub accounts: BTreeMap<AccountKey, Account>,
    pub keys: Vec<IntroducedKey>,
    /// `revoked`: the ids of this issuer's licences that hold no longer, whatever they say of their own end.
    pub revoked: BTreeSet<String>,
}

/// A further key of the same issuer, for bundles to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntroducedKey {
    pub key: PublicKey,
    /// `nbf`: signs from then on; at once when it is left out.
    pub not_before: Option<NumericDate>,
    /// `exp`: signs until then; without end when it is left out.
    pub not_after: Option<NumericDate>,
}

impl Bundle {
    /// Reads the payload of a bundle. Whoever calls this with a payload that no signature vouches for must not act on it.
    pub fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        read::document(payload, BUNDLE_LIMITS, Self::read)
    }

    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        let object = Object::read(json, &root, &MEMBERS, faults)?;
        let issuer = object.required("iss", faults, read::name);
        let audience = object.required("aud", faults, read::name);
        let issued_at = object.required("iat", faults, read::date);
        let not_before = object.optional("nbf", faults, read::date);
        let expires = object.required("exp", faults, read::date);
        let sequence = object.required("seq", faults, read::sequence);
        let previous = object.optional("prev", faults, read::parsed);
        let grace = object.optional("grace", faults, read::seconds(0));
        let heartbeat = object.optional("heartbeat", faults, read::seconds(1));
        let mode = object.optional("mode", faults, read::parsed);
        let catalog = object.optional("catalog", faults, read_catalog);
        let kinds = kinds(object.get("catalog"));
        let accounts = object.required("accounts", faults, |json, path, faults| read_accounts(json, &kinds, path, faults));
        let keys = object.optional("keys", faults, read_keys);
        let revoked = object.optional("revoked", faults, read_revoked);
        let bundle = Self {
            issuer: issuer?,
            audience: audience?,
            issued_at: issued_at?,
            not_before: not_before?.unwrap_or(issued_at?),
            expires: expires?,
            sequence: sequence?,
            previous: previous?,
            grace: grace?.unwrap_or(0),
            heartbeat: heartbeat?,
            mode: mode?.unwrap_or(Mode::Enforce),
            catalog: catalog?,
            accounts: accounts?,
            keys: keys?.unwrap_or_default(),
            revoked: revoked?.unwrap_or_default(),
        };
        if bundle.expires <= bundle.issued_at.max(bundle.not_before) {
            faults.push(&root.member("exp"), || "is not after iat and nbf".into());
            return None;
        }
        Some(bundle)
    }

    /// The claims as a document, members in the order of the documentation.
    pub fn to_json(&self) -> Json {
        let date = |date: NumericDate| Json::number(date.seconds());
        let mut members = vec![
            ("iss", Json::string(&self.issuer)),
            ("aud", Json::string(&self.audience)),
            ("iat", date(self.issued_at)),
            ("nbf", date(self.not_before)),
            ("exp", date(self.expires)),
            ("seq", Json::number(self.sequence)),
        ];
        members.extend(self.previous.map(|previous| ("prev", Json::string(previous.to_string()))));
        members.push(("grace", Json::number(self.grace)));
        members.extend(self.heartbeat.map(|heartbeat| ("heartbeat", Json::number(heartbeat))));
        members.push(("mode", Json::string(self.mode.as_str())));
        members.extend(self.catalog.clone().map(|catalog| ("catalog", catalog)));
        let accounts = self.accounts.iter().map(|(key, account)| (key.as_str(), account.to_json()));
        members.push(("accounts", Json::object(accounts)));
        if !self.keys.is_empty() {
            members.push(("keys", Json::Array(self.keys.iter().map(IntroducedKey::to_json).collect())));
        }
        if !self.revoked.is_empty() {
            members.push(("revoked", Json::Array(self.revoked.iter().map(Json::string).collect())));
        }
        Json::object(members)
    }
}

impl Document for Bundle {
    const TYPE: &'static str = BUNDLE_TYPE;
    const LIMITS: Limits = BUNDLE_LIMITS;
    const PURPOSE: Purpose = Purpose::Bundle;

    fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        Bundle::parse(payload)
    }

    fn issuer(&self) -> &str {
        &self.issuer
    }
}

fn read_accounts(
    json: &Json,
    kinds: &HashMap<&str, Kind>,
    path: &Path,
    faults: &mut Faults,
) -> Option<BTreeMap<AccountKey, Account>> {
    let members = read::members(json, path, faults)?;
    let mut accounts = BTreeMap::new();
    for (name, json) in members {
        let path = path.member(name);
        let key = key::<AccountKey>(name, "an account", &path, faults);
        if let (Some(account), Some(key)) = (Account::read(json, kinds, &path, faults), key) {
            accounts.insert(key, account);
        }
    }
    check_delegations(&accounts, path, faults);
    (accounts.len() == members.len()).then_some(accounts)
}

/// No two delegations with the same id, whosever they are: the id is the issuer's name for one.
fn check_delegations(accounts: &BTreeMap<AccountKey, Account>, path: &Path, faults: &mut Faults) {
    let mut seen = HashMap::new();
    for (key, account) in accounts {
        for (index, delegation) in account.delegations.iter().enumerate() {
            if let Some(other) = seen.insert(delegation.id, key) {
                let path = path.member(key.as_str());
                let (path, other) = (path.member("delegations"), Excerpt(other.as_str()));
                faults.push(&path.item(index).member("id"), || format!("is one of account '{other}' too"));
            }
        }
    }
}

fn key<K: FromStr<Err: ToString>>(name: &str, what: &str, path: &Path, faults: &mut Faults) -> Option<K> {
    name.parse().map_err(|error: K::Err| faults.push(path, || format!("the key of {what} {}", error.to_string()))).ok()
}

/// Checks the shape of a catalog document. Whether it can be applied depends on the catalog it meets.
fn read_catalog(json: &Json, path: &Path, faults: &mut Faults) -> Option<Json> {
    let object = Object::read(json, path, &CATALOG_MEMBERS, faults)?;
    let sections = [
        object.optional("features", faults, |json, path, faults| {
            read_definitions::<FeatureKey, Kind>(json, "a feature", path, faults)
        }),
        object.optional("plans", faults, |json, path, faults| {
            read_definitions::<PlanKey, PlanKind>(json, "a plan", path, faults)
        }),
        object.optional("prices", faults, |json, path, faults| read::members(json, path, faults).map(|_| ())),
    ];
    let revision = object.optional("revision", faults, |json, path, faults| read::integer(json, 0..=i64::MAX, path, faults));
    (sections.iter().all(Option::is_some) && revision.is_some()).then(|| json.clone())
}

/// Features or plans: keys of the right form, and kinds out of the known ones.
fn read_definitions<K, W>(json: &Json, what: &str, path: &Path, faults: &mut Faults) -> Option<()>
where
    K: FromStr<Err: ToString>,
    W: FromStr<Err: ToString>,
{
    let mut sound = true;
    for (name, definition) in read::members(json, path, faults)? {
        let path = path.member(name);
        sound &= key::<K>(name, what, &path, faults).is_some();
        sound &= read::members(definition, &path, faults).is_some();
        if let Some(kind) = definition.get("kind") {
            sound &= read::parsed::<W>(kind, &path.member("kind"), faults).is_some();
        }
    }
    sound.then_some(())
}

/// The kinds of the features that a catalog document defines.
fn kinds(catalog: Option<&Json>) -> HashMap<&str, Kind> {
    let Some(Json::Object(features)) = catalog.and_then(|catalog| catalog.get("features")) else {
        return HashMap::new();
    };
    let kind = |definition: &Json| match definition.get("kind") {
        Some(Json::String(word)) => word.parse().ok(),
        _ => None,
    };
    features.iter().filter_map(|(key, definition)| Some((key.as_str(), kind(definition)?))).collect()
}

fn read_keys(json: &Json, path: &Path, faults: &mut Faults) -> Option<Vec<IntroducedKey>> {
    let items = read::items(json, path, faults)?;
    if items.len() > MAX_KEYS {
        faults.push(path, || format!("more than {MAX_KEYS} keys"));
        return None;
    }
    let mut keys: Vec<IntroducedKey> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = path.item(index);
        let key = IntroducedKey::read(item, &path, faults)?;
        if keys.iter().any(|other| other.key == key.key) {
            faults.push(&path, || format!("the key {} appears more than once", key.key.kid()));
            return None;
        }
        keys.push(key);
    }
    Some(keys)
}

fn read_revoked(json: &Json, path: &Path, faults: &mut Faults) -> Option<BTreeSet<String>> {
    let items = read::items(json, path, faults)?;
    if items.len() > MAX_REVOKED {
        faults.push(path, || format!("more than {MAX_REVOKED} licences"));
        return None;
    }
    let mut revoked = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.item(index);
        if let Some(id) = read::name(item, &path, faults)
            && !revoked.insert(id)
        {
            faults.push(&path, || "the licence appears more than once".into());
        }
    }
    (revoked.len() == items.len()).then_some(revoked)
}

impl IntroducedKey {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["jwk", "nbf", "exp"], faults)?;
        let key = object.required("jwk", faults, PublicKey::read);
        let not_before = object.optional("nbf", faults, read::date);
        let not_after = object.optional("exp", faults, read::date);
        let key = Self { key: key?, not_before: not_before?, not_after: not_after? };
        if key.not_before.zip(key.not_after).is_some_and(|(start, end)| end <= start) {
            faults.push(&path.member("exp"), || "is not after nbf".into());
            return None;
        }
        Some(key)
    }

    fn to_json(&self) -> Json {
        let mut members = vec![("jwk", self.key.to_jwk())];
        members.extend(self.not_before.map(|date| ("nbf", Json::number(date.seconds()))));
        members.extend(self.not_after.map(|date| ("exp", Json::number(date.seconds()))));
        Json::object(members)
    }
}
