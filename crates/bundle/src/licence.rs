//! Licences: what an application may do that cannot ask a database, signed and short-lived.
//!
//! The invariant: a licence ends at the earlier of its issue and its lease, and the end of the entitlement it was taken from.
//! So nothing outlives what was bought, and what was revoked ends with the lease even where no revocation list arrives.
//! A licence may be bound to an application (`aud`) and to a machine; who cannot show either is refused.

use std::collections::{BTreeMap, BTreeSet};

use entitlements_model::fault::{Excerpt, Fault, Faults, Path};
use entitlements_model::json::{Json, Limits};
use entitlements_model::key::{AccountKey, FeatureKey};
use entitlements_model::time::{FOREVER, Time};

use crate::date::NumericDate;
use crate::digest::{Kid, MachineId};
use crate::jws::{Jws, LICENCE_TYPE};
use crate::key::PrivateKey;
use crate::policy;
use crate::read::{self, Object};
use crate::refusal::Refusal;
use crate::standing::Clock;
use crate::trust::{Authentic, Document, Purpose};

pub const LICENCE_LIMITS: Limits = Limits { bytes: 1 << 20, depth: 32, nodes: 50_000 };

const MEMBERS: [&str; 14] = [
    "iss",
    "sub",
    "aud",
    "iat",
    "nbf",
    "exp",
    "jti",
    "holder",
    "features",
    "seat",
    "lease",
    "heartbeat",
    "machine",
    "reason",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Licence {
    /// `jti`: the issuer's name for it, which a revocation list may name.
    pub id: String,
    /// `iss`
    pub issuer: String,
    /// `sub`: the account whose entitlements these are.
    pub account: AccountKey,
    /// `aud`: the application this is for; any when it is left out.
    pub audience: Option<String>,
    /// `iat`
    pub issued_at: NumericDate,
    /// `nbf`; when it is left out, the licence holds from its issue.
    pub not_before: NumericDate,
    /// `exp`: the first second in which it does not hold.
    pub expires: NumericDate,
    /// `holder`: the person or thing it was given to.
    pub holder: Option<String>,
    /// `features`: each with its value, as a catalog document writes it; never null.
    pub features: BTreeMap<FeatureKey, Json>,
    /// `seat`: the allocation in which the holder has a place for as long as the licence holds.
    pub seat: Option<FeatureKey>,
    /// `lease`: seconds from `issued_at` after which it ends at the latest.
    pub lease: i64,
    /// `heartbeat`: seconds from `issued_at` within which the application is expected to renew it.
    pub heartbeat: Option<i64>,
    /// `machine`: the only machine on which it holds; any when it is left out.
    pub machine: Option<Binding>,
    /// `reason`: why it was issued, for people.
    pub reason: Option<String>,
}

/// The machine that a licence is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// `id`
    pub machine: MachineId,
    /// `key`: the key that signed the machine's request, and will sign its deactivation.
    pub key: Option<Kid>,
    /// `nonce` of the request that this licence answers.
    pub nonce: Option<String>,
}

/// What somebody wants a licence for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: String,
    pub issuer: String,
    pub account: AccountKey,
    pub audience: Option<String>,
    pub holder: Option<String>,
    pub issued_at: NumericDate,
    /// Seconds.
    pub lease: i64,
    /// The earliest end of the entitlements; FOREVER when they have none.
    pub entitled_until: Time,
    pub features: BTreeMap<FeatureKey, Json>,
    pub seat: Option<FeatureKey>,
    pub heartbeat: Option<i64>,
    pub machine: Option<Binding>,
    pub reason: Option<String>,
}

/// Where a licence is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// The application's name for itself.
    pub audience: Option<&'a str>,
    pub machine: Option<MachineId>,
    /// The key of this machine.
    pub key: Option<Kid>,
    /// The nonce of the request this machine made last.
    pub nonce: Option<&'a str>,
}

/// What a licence means where it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub licence: Licence,
    /// To be kept as the highest time seen.
    pub highest: Time,
    /// The application should have renewed it by now.
    pub renewal_due: bool,
}

impl Licence {
    /// The licence that an order comes to, checked as whoever reads it will check it.
    pub fn issue(order: Order) -> Result<Self, Refusal> {
        let end = NumericDate::from_time(order.entitled_until);
        let lease_ends = order.issued_at.seconds().saturating_add(order.lease);
        let expires = NumericDate::from_seconds(lease_ends).unwrap_or(NumericDate::LAST).min(end);
        if order.entitled_until != FOREVER && end <= order.issued_at {
            return Err(Refusal::NothingLeft(end));
        }
        let licence = Self {
            id: order.id,
            issuer: order.issuer,
            account: order.account,
            audience: order.audience,
            issued_at: order.issued_at,
            not_before: order.issued_at,
            expires,
            holder: order.holder,
            features: order.features,
            seat: order.seat,
            lease: order.lease,
            heartbeat: order.heartbeat,
            machine: order.machine,
            reason: order.reason,
        };
        Self::parse(licence.to_json().to_string().as_bytes()).map_err(Refusal::Invalid)
    }

    pub fn sign(&self, key: &PrivateKey) -> String {
        Jws::sign(self.to_json().to_string().as_bytes(), LICENCE_TYPE, key)
    }

    /// Reads the payload of a licence. Whoever calls this with a payload that no signature vouches for must not act on it.
    pub fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        read::document(payload, LICENCE_LIMITS, Self::read)
    }

    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        let object = Object::read(json, &root, &MEMBERS, faults)?;
        let issuer = object.required("iss", faults, read::name);
        let account = object.required("sub", faults, read::parsed);
        let audience = object.optional("aud", faults, read::name);
        let issued_at = object.required("iat", faults, read::date);
        let not_before = object.optional("nbf", faults, read::date);
        let expires = object.required("exp", faults, read::date);
        let id = object.required("jti", faults, read::name);
        let holder = object.optional("holder", faults, read::name);
        let features = object.required("features", faults, read_features);
        let seat = object.optional("seat", faults, read::parsed);
        let lease = object.required("lease", faults, read::seconds(1));
        let heartbeat = object.optional("heartbeat", faults, read::seconds(1));
        let machine = object.optional("machine", faults, Binding::read);
        let reason = object.optional("reason", faults, read::name);
        let licence = Self {
            id: id?,
            issuer: issuer?,
            account: account?,
            audience: audience?,
            issued_at: issued_at?,
            not_before: not_before?.unwrap_or(issued_at?),
            expires: expires?,
            holder: holder?,
            features: features?,
            seat: seat?,
            lease: lease?,
            heartbeat: heartbeat?,
            machine: machine?,
            reason: reason?,
        };
        let exp = root.member("exp");
        if licence.expires <= licence.issued_at.max(licence.not_before) {
            faults.push(&exp, || "is not after iat and nbf".into());
            return None;
        }
        if licence.expires.seconds() > licence.issued_at.seconds() + licence.lease {
            faults.push(&exp, || "is after the end of the lease".into());
            return None;
        }
        Some(licence)
    }

    /// The claims as a document, members in the order of the documentation.
    pub fn to_json(&self) -> Json {
        let date = |date: NumericDate| Json::number(date.seconds());
        let text = |text: &Option<String>| text.as_ref().map(Json::string);
        let features = self.features.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let members = [
            ("iss", Some(Json::string(&self.issuer))),
            ("sub", Some(Json::string(self.account.as_str()))),
            ("aud", text(&self.audience)),
            ("iat", Some(date(self.issued_at))),
            ("nbf", Some(date(self.not_before))),
            ("exp", Some(date(self.expires))),
            ("jti", Some(Json::string(&self.id))),
            ("holder", text(&self.holder)),
            ("features", Some(Json::object(features))),
            ("seat", self.seat.as_ref().map(|seat| Json::string(seat.as_str()))),
            ("lease", Some(Json::number(self.lease))),
            ("heartbeat", self.heartbeat.map(Json::number)),
            ("machine", self.machine.as_ref().map(Binding::to_json)),
            ("reason", text(&self.reason)),
        ];
        Json::object(members.into_iter().filter_map(|(name, json)| Some((name, json?))))
    }
}

impl Document for Licence {
    const TYPE: &'static str = LICENCE_TYPE;
    const LIMITS: Limits = LICENCE_LIMITS;
    const PURPOSE: Purpose = Purpose::Licence;

    fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        Licence::parse(payload)
    }

    fn issuer(&self) -> &str {
        &self.issuer
    }
}

fn read_features(json: &Json, path: &Path, faults: &mut Faults) -> Option<BTreeMap<FeatureKey, Json>> {
    let members = read::members(json, path, faults)?;
    let mut features = BTreeMap::new();
    for (name, value) in members {
        let path = path.member(name);
        match FeatureKey::parse(name) {
            _ if *value == Json::Null => {
                read::wrong_type::<()>(value, "a value", &path, faults);
            }
            Ok(key) => {
                features.insert(key, value.clone());
            }
            Err(error) => faults.push(&path, || format!("'{}' {error}", Excerpt(name))),
        }
    }
    (features.len() == members.len()).then_some(features)
}

impl Binding {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, path, &["id", "key", "nonce"], faults)?;
        let machine = object.required("id", faults, read::parsed);
        let key = object.optional("key", faults, read::parsed);
        let nonce = object.optional("nonce", faults, read::name);
        Some(Self { machine: machine?, key: key?, nonce: nonce? })
    }

    fn to_json(&self) -> Json {
        let members = [
            ("id", Some(Json::string(self.machine.to_string()))),
            ("key", self.key.map(|key| Json::string(key.to_string()))),
            ("nonce", self.nonce.as_ref().map(Json::string)),
        ];
        Json::object(members.into_iter().filter_map(|(name, json)| Some((name, json?))))
    }

    /// What the binding names, the place must show; an older request's nonce is another machine's as far as anybody can tell.
    fn holds_at(&self, place: Place) -> bool {
        place.machine == Some(self.machine)
            && self.key.is_none_or(|key| place.key == Some(key))
            && self.nonce.as_deref().is_none_or(|nonce| place.nonce.is_none_or(|expected| expected == nonce))
    }
}

/// What an authentic licence means at a place and time. `revoked` is the list that came with the issuer's last bundle.
///
/// Whoever sets the clock back gains nothing: time is the later of the clock and the highest time seen, and a clock more than
/// [`LEEWAY`](crate::LEEWAY) behind what was seen is refused.
pub fn judge_licence(
    authentic: Authentic<Licence>,
    place: Place,
    revoked: &BTreeSet<String>,
    clock: Clock,
) -> Result<Granted, Refusal> {
    let licence = authentic.document();
    if let Some(audience) = &licence.audience
        && place.audience != Some(audience)
    {
        let shown = place.audience.unwrap_or("an application without a name");
        return Err(Refusal::OtherAudience { audience: audience.clone(), deployment: shown.to_owned() });
    }
    if licence.machine.as_ref().is_some_and(|binding| !binding.holds_at(place)) {
        return Err(Refusal::OtherMachine);
    }
    if revoked.contains(&licence.id) {
        return Err(Refusal::Revoked(licence.id.clone()));
    }
    if clock.is_behind() {
        return Err(Refusal::ClockBehind(NumericDate::from_time(clock.highest)));
    }
    let time = clock.time();
    policy::in_time(&authentic, licence.issued_at, licence.not_before, Some(licence.expires), time)?;
    let issued_at = licence.issued_at.seconds();
    let due = licence.heartbeat.and_then(|heartbeat| NumericDate::from_seconds(issued_at + heartbeat));
    let renewal_due = due.is_some_and(|due| due.time() <= time);
    let highest = time.max(licence.issued_at.time());
    Ok(Granted { licence: authentic.into_document(), highest, renewal_due })
}
