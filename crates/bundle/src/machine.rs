//! Machines that no network reaches: what they ask for, and what they say they have given up.
//!
//! A machine makes a key of its own and signs both documents with it. That key vouches for nothing but itself: a request proves
//! that one machine made it, not which customer's machine that is; whoever carries it to the vendor vouches for that. What the key
//! is good for comes later: the licence names it, and only its holder can say that the licence was given up.

use std::collections::BTreeSet;

use entitlements_model::fault::{Fault, Faults, Path};
use entitlements_model::json::{Json, Limits};
use entitlements_model::key::{AccountKey, FeatureKey};

use crate::date::NumericDate;
use crate::digest::{Digest, MachineId};
use crate::jws::{DEACTIVATION_TYPE, Jws, LICENCE_REQUEST_TYPE};
use crate::key::{PrivateKey, PublicKey};
use crate::licence::Binding;
use crate::read::{self, Object};
use crate::refusal::Refusal;

pub const REQUEST_LIMITS: Limits = Limits { bytes: 64 << 10, depth: 4, nodes: 2_000 };

const REQUEST_MEMBERS: [&str; 9] = ["aud", "iat", "nonce", "machine", "key", "account", "holder", "application", "features"];

const DEACTIVATION_MEMBERS: [&str; 5] = ["aud", "iat", "jti", "machine", "key"];

impl MachineId {
    /// From what tells a machine from all others, such as the content of `/etc/machine-id`. The issuer is mixed in, so that two
    /// vendors cannot find out that they have the same customer.
    pub fn derive(identity: &[u8], issuer: &str) -> Self {
        let mut message = b"entitlements-machine\0".to_vec();
        message.extend_from_slice(&(issuer.len() as u64).to_be_bytes());
        message.extend_from_slice(issuer.as_bytes());
        message.extend_from_slice(identity);
        Self::of(&message)
    }
}

/// What a machine asks its vendor for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LicenceRequest {
    /// `aud`: the issuer that is asked.
    pub vendor: String,
    /// `iat`, by the machine's own clock, which nobody has checked.
    pub made_at: NumericDate,
    /// `nonce`: never the same twice; the licence that answers repeats it.
    pub nonce: String,
    /// `machine`
    pub machine: MachineId,
    /// `key`
    pub key: PublicKey,
    /// `account`, as far as the machine knows.
    pub account: AccountKey,
    /// `holder`
    pub holder: Option<String>,
    /// `application`: the audience of the licence.
    pub application: Option<String>,
    /// `features` that are wanted; none named means whatever the account has.
    pub features: BTreeSet<FeatureKey>,
}

/// A machine gives up its licence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deactivation {
    /// `aud`: the issuer of the licence.
    pub vendor: String,
    /// `iat`, by the machine's own clock.
    pub made_at: NumericDate,
    /// `jti` of the licence.
    pub licence: String,
    pub machine: MachineId,
    pub key: PublicKey,
}

/// A document that its own machine signed, and its digest: the same document once more is told by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<D> {
    pub document: D,
    pub digest: Digest,
}

impl LicenceRequest {
    /// Reads a request made to this vendor. Its signature is the machine's own.
    pub fn open(text: &str, vendor: &str) -> Result<Received<Self>, Refusal> {
        let jws = Jws::parse(text, LICENCE_REQUEST_TYPE, REQUEST_LIMITS.bytes)?;
        let request = Self::parse(jws.unverified_payload()).map_err(Refusal::Invalid)?;
        let digest = own_signature(jws, &request.key)?;
        addressed(&request.vendor, vendor)?;
        Ok(Received { document: request, digest })
    }

    /// `None` when `key` is not the one that the request names.
    pub fn sign(&self, key: &PrivateKey) -> Option<String> {
        sign(&self.key, self.to_json(), LICENCE_REQUEST_TYPE, key)
    }

    /// What binds the licence that answers this to the machine that asked.
    pub fn binding(&self) -> Binding {
        Binding { machine: self.machine, key: Some(self.key.kid()), nonce: Some(self.nonce.clone()) }
    }

    /// Reads the payload of a request.
    pub fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        read::document(payload, REQUEST_LIMITS, Self::read)
    }

    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        let object = Object::read(json, &root, &REQUEST_MEMBERS, faults)?;
        let vendor = object.required("aud", faults, read::name);
        let made_at = object.required("iat", faults, read::date);
        let nonce = object.required("nonce", faults, read::name);
        let machine = object.required("machine", faults, read::parsed);
        let key = object.required("key", faults, PublicKey::read);
        let account = object.required("account", faults, read::parsed);
        let holder = object.optional("holder", faults, read::name);
        let application = object.optional("application", faults, read::name);
        let features = object.optional("features", faults, |json, path, faults| {
            let items = read::items(json, path, faults)?;
            let mut features = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let path = path.item(index);
                if let Some(feature) = read::parsed(item, &path, faults)
                    && !features.insert(feature)
                {
                    faults.push(&path, || "the feature appears more than once".into());
                }
            }
            (features.len() == items.len()).then_some(features)
        });
        Some(Self {
            vendor: vendor?,
            made_at: made_at?,
            nonce: nonce?,
            machine: machine?,
            key: key?,
            account: account?,
            holder: holder?,
            application: application?,
            features: features?.unwrap_or_default(),
        })
    }

    pub fn to_json(&self) -> Json {
        let features = self.features.iter().map(|feature| Json::string(feature.as_str())).collect();
        let members = [
            ("aud", Some(Json::string(&self.vendor))),
            ("iat", Some(Json::number(self.made_at.seconds()))),
            ("nonce", Some(Json::string(&self.nonce))),
            ("machine", Some(Json::string(self.machine.to_string()))),
            ("key", Some(self.key.to_jwk())),
            ("account", Some(Json::string(self.account.as_str()))),
            ("holder", self.holder.as_ref().map(Json::string)),
            ("application", self.application.as_ref().map(Json::string)),
            ("features", (!self.features.is_empty()).then_some(Json::Array(features))),
        ];
        Json::object(members.into_iter().filter_map(|(name, json)| Some((name, json?))))
    }
}

impl Deactivation {
    /// Reads a deactivation of one of this vendor's licences. Whether it is of the machine that has the licence is the question
    /// of [`Deactivation::is_of`].
    pub fn open(text: &str, vendor: &str) -> Result<Received<Self>, Refusal> {
        let jws = Jws::parse(text, DEACTIVATION_TYPE, REQUEST_LIMITS.bytes)?;
        let deactivation = Self::parse(jws.unverified_payload()).map_err(Refusal::Invalid)?;
        let digest = own_signature(jws, &deactivation.key)?;
        addressed(&deactivation.vendor, vendor)?;
        Ok(Received { document: deactivation, digest })
    }

    /// `None` when `key` is not the one that the deactivation names.
    pub fn sign(&self, key: &PrivateKey) -> Option<String> {
        sign(&self.key, self.to_json(), DEACTIVATION_TYPE, key)
    }

    /// Refused unless it comes from the machine that the licence `id` is bound to, with the key that asked for it.
    pub fn is_of(&self, id: &str, binding: &Binding) -> Result<(), Refusal> {
        let same = self.licence == id && self.machine == binding.machine && binding.key == Some(self.key.kid());
        if same { Ok(()) } else { Err(Refusal::OtherMachine) }
    }

    /// Reads the payload of a deactivation.
    pub fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>> {
        read::document(payload, REQUEST_LIMITS, |json, faults| {
            let root = Path::Root;
            let object = Object::read(json, &root, &DEACTIVATION_MEMBERS, faults)?;
            let vendor = object.required("aud", faults, read::name);
            let made_at = object.required("iat", faults, read::date);
            let licence = object.required("jti", faults, read::name);
            let machine = object.required("machine", faults, read::parsed);
            let key = object.required("key", faults, PublicKey::read);
            Some(Self { vendor: vendor?, made_at: made_at?, licence: licence?, machine: machine?, key: key? })
        })
    }

    pub fn to_json(&self) -> Json {
        Json::object([
            ("aud", Json::string(&self.vendor)),
            ("iat", Json::number(self.made_at.seconds())),
            ("jti", Json::string(&self.licence)),
            ("machine", Json::string(self.machine.to_string())),
            ("key", self.key.to_jwk()),
        ])
    }
}

fn own_signature(jws: Jws, key: &PublicKey) -> Result<Digest, Refusal> {
    let kid = jws.kid();
    jws.verify(key).map(|payload| Digest::of(&payload)).ok_or(Refusal::BadSignature(kid))
}

fn addressed(audience: &str, vendor: &str) -> Result<(), Refusal> {
    match audience == vendor {
        true => Ok(()),
        false => Err(Refusal::OtherAudience { audience: audience.to_owned(), deployment: vendor.to_owned() }),
    }
}

fn sign(public: &PublicKey, claims: Json, typ: &str, key: &PrivateKey) -> Option<String> {
    (key.public() == public).then(|| Jws::sign(claims.to_string().as_bytes(), typ, key))
}
