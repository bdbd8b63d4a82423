//! Ed25519 keys as JSON Web Keys (RFC 8037), named by their thumbprint (RFC 7638).
//!
//! A key has one name and one spelling: `kid`, where a JWK carries it, must be the thumbprint, and encodings of a point that
//! are not canonical or of small order are refused. A private key is never printed: only [`PrivateKey::to_jwk`] gives it away.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use entitlements_model::fault::{Fault, Faults, Path};
use entitlements_model::json::{self, Json, Limits};
use zeroize::{Zeroize, Zeroizing};

use crate::base64url;
use crate::digest::Kid;
use crate::read::{self, Object};

/// A file of up to 64 keys is small.
const KEY_LIMITS: Limits = Limits { bytes: 64 << 10, depth: 8, nodes: 2_000 };

const PUBLIC_MEMBERS: [&str; 8] = ["kty", "crv", "x", "kid", "use", "alg", "key_ops", "ext"];
const PRIVATE_MEMBERS: [&str; 9] = ["kty", "crv", "x", "d", "kid", "use", "alg", "key_ops", "ext"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the key is not a valid JSON Web Key for Ed25519")]
    Invalid(Vec<Fault>),
    #[error("no random bytes for a new key: {0}")]
    NoEntropy(String),
}

#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    kid: Kid,
}

impl PublicKey {
    /// `None` for bytes that are no point, not its canonical encoding, or a point of small order, under which many messages
    /// share a signature.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        if !is_canonical(&bytes) {
            return None;
        }
        let key = VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak())?;
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, base64url::encode(&bytes));
        Some(Self { key, kid: Kid::of(thumbprint.as_bytes()) })
    }

    pub fn kid(&self) -> Kid {
        self.kid
    }

    /// Reads a public JWK; one that carries the private part is refused.
    pub fn from_jwk(text: &str) -> Result<Self, KeyError> {
        let json = json::parse(text, KEY_LIMITS).map_err(KeyError::Invalid)?;
        Self::from_json(&json)
    }

    /// Reads a public JWK, or the public keys of a JWK set (RFC 7517 §5).
    pub fn set_from_jwk(text: &str) -> Result<Vec<Self>, KeyError> {
        let json = json::parse(text, KEY_LIMITS).map_err(KeyError::Invalid)?;
        let mut faults = Faults::default();
        let root = Path::Root;
        let keys = match json.get("keys") {
            None => Self::read(&json, &root, &mut faults).into_iter().collect(),
            Some(Json::Array(items)) => {
                Object::read(&json, &root, &["keys"], &mut faults);
                let path = root.member("keys");
                items.iter().enumerate().filter_map(|(at, item)| Self::read(item, &path.item(at), &mut faults)).collect()
            }
            Some(other) => read::wrong_type(other, "an array", &root.member("keys"), &mut faults).unwrap_or_default(),
        };
        if faults.is_empty() { Ok(keys) } else { Err(KeyError::Invalid(faults.into_vec())) }
    }

    pub fn from_json(json: &Json) -> Result<Self, KeyError> {
        let mut faults = Faults::default();
        match Self::read(json, &Path::Root, &mut faults) {
            Some(key) if faults.is_empty() => Ok(key),
            _ => Err(KeyError::Invalid(faults.into_vec())),
        }
    }

    /// `None` when a fault was noted.
    pub(crate) fn read(json: &Json, path: &Path, faults: &mut Faults) -> Option<Self> {
        if json.get("d").is_some() {
            faults.push(&path.member("d"), || "this is the private part of a key; it must not leave its owner".into());
            return None;
        }
        read_members(json, path, &PUBLIC_MEMBERS, "verify", faults)
    }

    pub fn to_jwk(&self) -> Json {
        Json::object([
            ("kty", Json::string("OKP")),
            ("crv", Json::string("Ed25519")),
            ("x", Json::string(base64url::encode(self.key.as_bytes()))),
            ("kid", Json::string(self.kid.to_string())),
            ("use", Json::string("sig")),
            ("alg", Json::string("EdDSA")),
        ])
    }

    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kid)
    }
}

/// Whether the y coordinate is below the field's prime 2^255 - 19.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    bytes[31] & 0x7f != 0x7f || bytes[1..31].iter().any(|byte| *byte != 0xff) || bytes[0] < 0xed
}

fn read_members(json: &Json, path: &Path, known: &[&str], operation: &str, faults: &mut Faults) -> Option<PublicKey> {
    let object = Object::read(json, path, known, faults)?;
    let mut word = |name: &str, accepted: &[&str], required: bool| {
        let read = |json: &Json, path: &Path, faults: &mut Faults| match json {
            Json::String(text) if accepted.contains(&text.as_str()) => Some(()),
            _ => {
                faults.push(path, || format!("must be \"{}\"", accepted.join("\" or \"")));
                None
            }
        };
        match required {
            true => object.required(name, faults, read),
            false => object.optional(name, faults, read).map(|_| ()),
        }
    };
    let words = [
        word("kty", &["OKP"], true),
        word("crv", &["Ed25519"], true),
        word("use", &["sig"], false),
        word("alg", &["EdDSA", "Ed25519"], false),
    ];
    let operations = object.optional("key_ops", faults, |json, path, faults| {
        let allowed = read::items(json, path, faults)?.iter().any(|item| *item == Json::string(operation));
        if !allowed {
            faults.push(path, || format!("does not allow the key to {operation}"));
        }
        allowed.then_some(())
    });
    let key = object.required("x", faults, |json, path, faults| {
        let key = bytes_of(json).and_then(PublicKey::from_bytes);
        if key.is_none() {
            faults.push(path, || "is not a public key of Ed25519 in base64url".into());
        }
        key
    })?;
    object.optional("kid", faults, |json, path, faults| {
        let kid = read::parsed::<Kid>(json, path, faults)?;
        if kid != key.kid {
            faults.push(path, || format!("is not the key's thumbprint, which is {}", key.kid));
        }
        (kid == key.kid).then_some(())
    })?;
    (words.iter().all(Option::is_some) && operations.is_some()).then_some(key)
}

fn bytes_of(json: &Json) -> Option<[u8; 32]> {
    match json {
        Json::String(text) => base64url::decode_array(text),
        _ => None,
    }
}

/// Wiped from memory when dropped.
pub struct PrivateKey {
    key: SigningKey,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key from the operating system's random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| KeyError::NoEntropy(error.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(key.verifying_key().to_bytes());
        Self { key, public: public.expect("a clamped scalar times the base point has prime order") }
    }

    /// Reads a private JWK, whose public part must belong to it.
    pub fn from_jwk(text: &str) -> Result<Self, KeyError> {
        let json = json::parse(text, KEY_LIMITS).map_err(KeyError::Invalid)?;
        let mut faults = Faults::default();
        let key = Self::read(&json, &mut faults);
        wipe(json);
        match key {
            Some(key) if faults.is_empty() => Ok(key),
            _ => Err(KeyError::Invalid(faults.into_vec())),
        }
    }

    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        let public = read_members(json, &root, &PRIVATE_MEMBERS, "sign", faults)?;
        let Some(seed) = json.get("d").and_then(bytes_of).map(Zeroizing::new) else {
            faults.push(&root.member("d"), || "is missing or not a private key of Ed25519 in base64url".into());
            return None;
        };
        let key = Self::from_seed(&seed);
        if key.public != public {
            faults.push(&root.member("x"), || "is not the public part of this private key".into());
            return None;
        }
        Some(key)
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private JWK, for a file that only its owner can read.
    pub fn to_jwk(&self) -> Zeroizing<String> {
        let x = base64url::encode(self.public.key.as_bytes());
        let d = Zeroizing::new(base64url::encode(&self.key.to_bytes()));
        let kid = self.public.kid;
        Zeroizing::new(format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}","d":"{}"}}"#, *d))
    }

    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public.kid)
    }
}

/// Overwrites the texts of a document that held a secret.
fn wipe(json: Json) {
    match json {
        Json::String(mut text) => text.zeroize(),
        Json::Array(items) => items.into_iter().for_each(wipe),
        Json::Object(members) => members.into_iter().for_each(|(_, json)| wipe(json)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}
