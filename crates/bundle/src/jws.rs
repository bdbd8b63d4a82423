//! JWS in compact serialisation (RFC 7515), signed with Ed25519 (RFC 8037, RFC 9864).
//!
//! Accepted is one form only. The protected header has exactly the members `alg`, `kid` and `typ`: whatever would let a
//! document bring its own key, its own rules or no signature (`jwk`, `jku`, `x5u`, `x5c`, `crit`, `b64`, `alg` none) is not
//! ignored but refused. Every part is canonical base64url, so no byte of a document can change and leave it valid.

use entitlements_model::fault::{Faults, Path};
use entitlements_model::json::{self, Json, Limits};

use crate::base64url;
use crate::digest::Kid;
use crate::key::{PrivateKey, PublicKey};
use crate::read::{self, Object};

/// The header's `typ` of a bundle.
pub const BUNDLE_TYPE: &str = "entitlements-bundle+jwt";

/// Of a licence.
pub const LICENCE_TYPE: &str = "entitlements-licence+jwt";

/// Of a machine's request for a licence.
pub const LICENCE_REQUEST_TYPE: &str = "entitlements-licence-request+jwt";

/// Of a machine's word that it has given up a licence.
pub const DEACTIVATION_TYPE: &str = "entitlements-deactivation+jwt";

/// Of a usage report.
pub const USAGE_REPORT_TYPE: &str = "entitlements-usage+jwt";

/// Of a site's word that it has given units back.
pub const DELEGATION_RETURN_TYPE: &str = "entitlements-delegation-return+jwt";

/// Bytes of an encoded header; the three members need less than half.
const HEADER_BYTES: usize = 512;

const HEADER_LIMITS: Limits = Limits { bytes: HEADER_BYTES, depth: 2, nodes: 16 };

/// Characters of a signature of 64 bytes.
const SIGNATURE_CHARACTERS: usize = 86;

/// Most bytes of a document whose payload has at most so many.
pub const fn most_bytes(payload: usize) -> usize {
    payload.div_ceil(3) * 4 + HEADER_BYTES + SIGNATURE_CHARACTERS + 2
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    #[error("the document has {0} bytes, more than {1} are not read")]
    TooLarge(usize, usize),
    #[error("the document is not three parts of base64url separated by dots")]
    Form,
    #[error("the header of the document is refused: {0}")]
    Header(String),
    #[error("the document is a {0:?}, not a {1:?}")]
    Type(String, &'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    kid: Kid,
    typ: String,
}

impl Header {
    fn decode(encoded: &str) -> Result<Self, JwsError> {
        if encoded.len() > HEADER_BYTES {
            let length = encoded.len();
            return Err(JwsError::Header(format!("it has {length} characters, more than {HEADER_BYTES} are not read")));
        }
        let text = base64url::decode(encoded).ok_or(JwsError::Form)?;
        let text = String::from_utf8(text).map_err(|_| JwsError::Header("it is not UTF-8".into()))?;
        Self::read(&text)
    }

    fn read(text: &str) -> Result<Self, JwsError> {
        let refused = |faults: Vec<_>| JwsError::Header(faults.first().map(ToString::to_string).unwrap_or_default());
        let json = json::parse(text, HEADER_LIMITS).map_err(refused)?;
        let mut faults = Faults::default();
        match Self::members(&json, &mut faults) {
            Some(header) if faults.is_empty() => Ok(header),
            _ => Err(refused(faults.into_vec())),
        }
    }

    fn members(json: &Json, faults: &mut Faults) -> Option<Self> {
        let object = Object::read(json, &Path::Root, &["alg", "kid", "typ"], faults)?;
        object.required("alg", faults, |json, path, faults| {
            let known = ["EdDSA", "Ed25519"].map(Json::string).contains(json);
            if !known {
                faults.push(path, || "must be \"EdDSA\" or \"Ed25519\"".into());
            }
            known.then_some(())
        })?;
        let kid = object.required("kid", faults, read::parsed)?;
        let typ = object.required("typ", faults, read::name)?;
        Some(Self { kid, typ })
    }
}

/// What a document says it is, for whoever reads more than one kind.
pub fn claimed_type(text: &str) -> Result<String, JwsError> {
    let (header, _) = text.trim_ascii().split_once('.').ok_or(JwsError::Form)?;
    Ok(Header::decode(header)?.typ)
}

/// A document of the right form. Nothing in it is known to be true.
#[derive(Clone, Debug)]
pub struct Jws<'t> {
    signing_input: &'t str,
    signature: [u8; 64],
    header: Header,
    payload: Vec<u8>,
}

impl<'t> Jws<'t> {
    /// White space around the document is no part of it: files end in a line feed.
    ///
    /// `most` is the greatest size of the payload in bytes; a longer text is refused before it costs memory.
    pub fn parse(text: &'t str, typ: &'static str, most: usize) -> Result<Self, JwsError> {
        let text = text.trim_ascii();
        let limit = most_bytes(most);
        if text.len() > limit {
            return Err(JwsError::TooLarge(text.len(), limit));
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(JwsError::Form)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Form)?;
        let signature = base64url::decode_array(signature).ok_or(JwsError::Form)?;
        let header = Header::decode(header)?;
        if header.typ != typ {
            return Err(JwsError::Type(header.typ, typ));
        }
        let payload = base64url::decode(payload).ok_or(JwsError::Form)?;
        Ok(Self { signing_input, signature, header, payload })
    }

    /// Which key the document says it is signed with; [`Jws::verify`] with that key finds out.
    pub fn kid(&self) -> Kid {
        self.header.kid
    }

    /// What the document says before anybody knows who wrote it: to be looked at, never to be acted on.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, if this key signed it and the header names this key.
    pub fn verify(self, key: &PublicKey) -> Option<Vec<u8>> {
        let signed = key.kid() == self.header.kid && key.verifies(self.signing_input.as_bytes(), &self.signature);
        signed.then_some(self.payload)
    }

    /// Signs a payload. The same key and payload always make the same document.
    pub fn sign(payload: &[u8], typ: &str, key: &PrivateKey) -> String {
        let header = Json::object([
            ("alg", Json::string("EdDSA")),
            ("kid", Json::string(key.public().kid().to_string())),
            ("typ", Json::string(typ)),
        ]);
        let mut text = base64url::encode(header.to_string().as_bytes());
        text.push('.');
        text.push_str(&base64url::encode(payload));
        let signature = base64url::encode(&key.sign(text.as_bytes()));
        text.push('.');
        text.push_str(&signature);
        text
    }
}
