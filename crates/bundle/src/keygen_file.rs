//! Licence files of Keygen, so that its users can move: read and checked, never written.
//!
//! A file is base64 of `{"enc", "sig", "alg"}` between armour lines. The signature is Ed25519 over `license/` and `enc`; `enc` is
//! base64 of a JSON:API document, or that document encrypted with AES-256-GCM under the SHA-256 of the licence key, as
//! ciphertext, nonce and tag. The format is another's: members that say nothing here are left unread, but what is read is read
//! as strictly as our own, and nothing is read before the signature.

use std::collections::BTreeSet;

use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes256Gcm, KeyInit};
use base64_simd::STANDARD;
use entitlements_model::fault::{Excerpt, Fault, Faults, Path};
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::time::{Time, from_rfc3339};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::date::NumericDate;
use crate::key::PublicKey;
use crate::read::{self, Object};
use crate::refusal::Refusal;
use crate::standing::{Clock, LEEWAY};

pub const KEYGEN_LIMITS: Limits = Limits { bytes: 1 << 20, depth: 32, nodes: 100_000 };

const ENVELOPE_LIMITS: Limits = Limits { bytes: 2 << 20, depth: 1, nodes: 4 };

const HEAD: &str = "-----BEGIN LICENSE FILE-----";
const FOOT: &str = "-----END LICENSE FILE-----";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeygenError {
    #[error("the text is no licence file of Keygen: {0}")]
    Malformed(&'static str),
    #[error("the licence file is of the algorithm '{}'; read are base64+ed25519 and aes-256-gcm+ed25519", Excerpt(.0))]
    OtherAlgorithm(String),
    #[error("the signature is not one of this public key over this licence file")]
    BadSignature,
    #[error("the licence file is encrypted: its licence key is needed")]
    LicenceKeyMissing,
    #[error("the licence file is not encrypted with this licence key")]
    WrongLicenceKey,
    #[error("the content of the licence file is not valid")]
    Invalid(Vec<Fault>),
}

impl KeygenError {
    /// One word for programs; it does not change.
    pub fn word(&self) -> &'static str {
        match self {
            KeygenError::Malformed(_) => "malformed",
            KeygenError::OtherAlgorithm(_) => "other_algorithm",
            KeygenError::BadSignature => "bad_signature",
            KeygenError::LicenceKeyMissing => "licence_key_missing",
            KeygenError::WrongLicenceKey => "wrong_licence_key",
            KeygenError::Invalid(_) => "invalid",
        }
    }

    /// What is wrong with the content, place by place; only [`KeygenError::Invalid`] has any.
    pub fn faults(&self) -> &[Fault] {
        match self {
            KeygenError::Invalid(faults) => faults,
            _ => &[],
        }
    }
}

/// What a licence file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeygenLicence {
    /// `data.id`
    pub id: String,
    /// `data.attributes.key`: the licence key, a secret of its customer.
    pub key: String,
    /// `data.attributes.name`
    pub name: Option<String>,
    /// `data.attributes.status` at the time of the file, such as `ACTIVE` or `SUSPENDED`.
    pub status: String,
    /// `data.attributes.expiry`: when the licence itself ends; `None` for never.
    pub licence_ends: Option<Time>,
    /// `data.attributes.metadata`
    pub metadata: Option<Json>,
    /// The codes of the entitlements that came with the file; `None` when it was made without anything included.
    pub entitlements: Option<BTreeSet<String>>,
    /// `meta.issued`
    pub issued_at: Time,
    /// `meta.expiry`: when the file is to be replaced by a new one; `None` for never.
    pub expires: Option<Time>,
    /// `meta.ttl`: seconds.
    pub ttl: Option<i64>,
}

/// The public key of a Keygen account, as its dashboard shows it: 64 hexadecimal digits.
pub fn keygen_public_key(hex: &str) -> Option<PublicKey> {
    let digits: Vec<u8> =
        hex.trim_ascii().chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    PublicKey::from_bytes(bytes.try_into().ok().filter(|_| digits.len() == 64)?)
}

/// What a licence file signed by this key says. The clock plays no part: that is [`KeygenLicence::in_time`]'s.
pub fn open_keygen_file(text: &str, key: &PublicKey, licence_key: Option<&str>) -> Result<KeygenLicence, KeygenError> {
    let envelope = Envelope::read(text)?;
    let sealed = match envelope.alg.as_str() {
        "base64+ed25519" => false,
        "aes-256-gcm+ed25519" => true,
        _ => return Err(KeygenError::OtherAlgorithm(envelope.alg)),
    };
    if !key.verifies(format!("license/{}", envelope.enc).as_bytes(), &envelope.sig) {
        return Err(KeygenError::BadSignature);
    }
    let payload = match sealed {
        true => decrypt(&envelope.enc, licence_key.ok_or(KeygenError::LicenceKeyMissing)?)?,
        false => decode(&envelope.enc, "enc is not base64")?,
    };
    read::document(&payload, KEYGEN_LIMITS, KeygenLicence::read).map_err(KeygenError::Invalid)
}

struct Envelope {
    enc: String,
    sig: [u8; 64],
    alg: String,
}

impl Envelope {
    fn read(text: &str) -> Result<Self, KeygenError> {
        let text = text.trim_ascii();
        if text.len() > ENVELOPE_LIMITS.bytes {
            return Err(KeygenError::Malformed("it is too large"));
        }
        let body = text.strip_prefix(HEAD).and_then(|text| text.strip_suffix(FOOT));
        let body = body.ok_or(KeygenError::Malformed("it does not stand between the lines of a LICENSE FILE"))?;
        let body: String = body.split_ascii_whitespace().collect();
        let body = decode(&body, "what stands between its lines is not base64")?;
        let not_json = |_| KeygenError::Malformed("what stands between its lines is not JSON");
        let body =
            String::from_utf8(body).map_err(|_| KeygenError::Malformed("what stands between its lines is not UTF-8"))?;
        let json = json::parse(&body, ENVELOPE_LIMITS).map_err(not_json)?;
        match &json {
            Json::Object(members) if members.len() == 3 => {}
            _ => return Err(KeygenError::Malformed("it has not exactly the members enc, sig and alg")),
        }
        let member = |name: &str| match json.get(name) {
            Some(Json::String(text)) => Ok(text.to_string()),
            _ => Err(KeygenError::Malformed("it has not exactly the members enc, sig and alg")),
        };
        let sig = decode(&member("sig")?, "sig is not base64")?;
        let sig = sig.try_into().map_err(|_| KeygenError::Malformed("sig is not 64 bytes"))?;
        Ok(Self { enc: member("enc")?, sig, alg: member("alg")? })
    }
}

fn decode(text: &str, fault: &'static str) -> Result<Vec<u8>, KeygenError> {
    STANDARD.decode_to_vec(text).map_err(|_| KeygenError::Malformed(fault))
}

fn decrypt(enc: &str, licence_key: &str) -> Result<Vec<u8>, KeygenError> {
    const PARTS: &str = "enc is not ciphertext, nonce and tag in base64";
    let parts = enc.split('.').map(|part| decode(part, PARTS)).collect::<Result<Vec<_>, _>>()?;
    let [mut text, nonce, tag] = <[Vec<u8>; 3]>::try_from(parts).map_err(|_| KeygenError::Malformed(PARTS))?;
    let (nonce, tag): ([u8; 12], [u8; 16]) = match (nonce.try_into(), tag.try_into()) {
        (Ok(nonce), Ok(tag)) => (nonce, tag),
        _ => return Err(KeygenError::Malformed(PARTS)),
    };
    let key: Zeroizing<[u8; 32]> = Zeroizing::new(Sha256::digest(licence_key).into());
    let cipher = Aes256Gcm::new(key.as_ref().into());
    let opened = cipher.decrypt_in_place_detached(&nonce.into(), b"", &mut text, &tag.into());
    opened.map(|()| text).map_err(|_| KeygenError::WrongLicenceKey)
}

impl KeygenLicence {
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        let document = Object::any(json, &root, faults)?;
        let data = document.required("data", faults, |json, path, faults| {
            let data = Object::any(json, path, faults)?;
            let typ = data.required("type", faults, |json, path, faults| {
                let licence = *json == Json::string("licenses");
                if !licence {
                    faults.push(path, || "must be \"licenses\"".into());
                }
                licence.then_some(())
            });
            let id = data.required("id", faults, read::name);
            let attributes = data.required("attributes", faults, Attributes::read);
            typ.and(Some((id?, attributes?)))
        });
        let meta = document.required("meta", faults, |json, path, faults| {
            let meta = Object::any(json, path, faults)?;
            let issued_at = meta.required("issued", faults, moment);
            let expires = meta.optional("expiry", faults, moment);
            let ttl = meta.optional("ttl", faults, |json, path, faults| read::integer(json, 0..=i64::MAX, path, faults));
            Some((issued_at?, expires?, ttl?))
        });
        let entitlements = document.optional("included", faults, read_included);
        let ((id, attributes), (issued_at, expires, ttl)) = (data?, meta?);
        let Attributes { key, name, status, licence_ends, metadata } = attributes;
        let entitlements = entitlements?;
        Some(Self { id, key, name, status, licence_ends, metadata, entitlements, issued_at, expires, ttl })
    }

    /// Refused before the file was made and after it has expired. Whether the licence itself has ended, or is suspended, is said by
    /// `licence_ends` and `status`.
    pub fn in_time(&self, clock: Clock) -> Result<(), Refusal> {
        let time = clock.time();
        if clock.is_behind() {
            return Err(Refusal::ClockBehind(NumericDate::from_time(clock.highest)));
        }
        if self.issued_at > time.saturating_add(LEEWAY) {
            return Err(Refusal::IssuedInFuture(NumericDate::from_time(self.issued_at)));
        }
        match self.expires {
            Some(expires) if expires <= time => Err(Refusal::Expired(NumericDate::from_time(expires))),
            _ => Ok(()),
        }
    }
}

struct Attributes {
    key: String,
    name: Option<String>,
    status: String,
    licence_ends: Option<Time>,
    metadata: Option<Json>,
}

impl Attributes {
    fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        let object = Object::any(json, path, faults)?;
        let key = object.required("key", faults, |json, path, faults| read::bounded_text(json, 100_000, path, faults));
        let name = object.optional("name", faults, read::name);
        let status = object.required("status", faults, read::name);
        let licence_ends = object.optional("expiry", faults, moment);
        let metadata = object
            .optional("metadata", faults, |json, path, faults| read::members(json, path, faults).map(|_| json.clone()));
        Some(Self { key: key?, name: name?, status: status?, licence_ends: licence_ends?, metadata: metadata? })
    }
}

/// The codes of the entitlements among what was included.
fn read_included(json: &Json, path: &Path, faults: &mut Faults) -> Option<BTreeSet<String>> {
    let mut codes = BTreeSet::new();
    for (index, item) in read::items(json, path, faults)?.iter().enumerate() {
        let path = path.item(index);
        if item.get("type") != Some(&Json::string("entitlements")) {
            continue;
        }
        let object = Object::any(item, &path, faults)?;
        codes.insert(object.required("attributes", faults, |json, path, faults| {
            Object::any(json, path, faults)?.required("code", faults, read::name)
        })?);
    }
    Some(codes)
}

fn moment(json: &Json, path: &Path, faults: &mut Faults) -> Option<Time> {
    let Json::String(text) = json else {
        return read::wrong_type(json, "a time", path, faults);
    };
    let time = from_rfc3339(text);
    if time.is_none() {
        faults.push(path, || format!("'{}' is not a time as RFC 3339 writes it", Excerpt(text)));
    }
    time
}
