//! A session token, from its text to the account it names.

use crate::claim::{AccountClaim, CLAIMS};
use crate::key::PublicKey;
use crate::refusal::Refusal;
use entitlements_bundle::base64url;
use entitlements_model::json::{self, Json, Limits};
use entitlements_model::time::Time;

/// Longest token that is read, in bytes.
pub const MOST_BYTES: usize = 16 << 10;

/// By how much the issuer's clock may differ, in microseconds.
pub const LEEWAY: Time = 30_000_000;

const HEADER: Limits = Limits { bytes: MOST_BYTES, depth: 8, nodes: 200 };

/// Members that bring a key along, change what is signed, or what it means (RFC 7515 §4.1, RFC 7797, RFC 7516). They are
/// refused, not ignored: a token that has one was made for somebody who acts on it.
const REFUSED_MEMBERS: [&str; 9] = ["jwk", "jku", "x5u", "x5c", "x5t", "crit", "b64", "zip", "enc"];

/// `typ` of tokens that say who somebody is (RFC 7519 §5.1, RFC 9068 §2.1). Others, such as logout tokens and the documents of
/// this extension, are not made to sign in with (RFC 8725 §3.11).
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// A token of the right form. Nothing in it is known to be true.
#[derive(Debug)]
pub struct Token<'t> {
    signing_input: &'t str,
    /// In canonical base64url.
    signature: &'t str,
    algorithm: String,
    kid: String,
    payload: Vec<u8>,
}

/// What a token has to be, all of it the key's and nothing the token's choice.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    pub key: &'a PublicKey,
    pub issuer: &'a str,
    pub audience: &'a str,
    pub claim: &'a AccountClaim,
}

impl<'t> Token<'t> {
    pub fn parse(text: &'t str) -> Result<Self, Refusal> {
        if text.len() > MOST_BYTES {
            return Err(Refusal::Malformed);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Refusal::Malformed)?;
        let decoded = |part: &str| base64url::decode(part).ok_or(Refusal::Malformed);
        let (header, payload) = (decoded(header)?, decoded(payload)?);
        decoded(signature)?;
        let header = String::from_utf8(header).map_err(|_| Refusal::Malformed)?;
        let header = json::parse(&header, HEADER).map_err(|_| Refusal::Malformed)?;
        if !matches!(header, Json::Object(_)) {
            return Err(Refusal::Malformed);
        }
        if REFUSED_MEMBERS.iter().any(|name| header.get(name).is_some()) {
            return Err(Refusal::Header);
        }
        let text = |name: &str| match header.get(name) {
            Some(Json::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let is_other_type = text("typ").is_none_or(|typ| !TYPES.contains(&typ.to_ascii_lowercase().as_str()));
        if header.get("typ").is_some() && is_other_type {
            return Err(Refusal::Header);
        }
        let (Some(algorithm), Some(kid)) = (text("alg"), text("kid")) else {
            return Err(Refusal::Header);
        };
        Ok(Self { signing_input, signature, algorithm, kid, payload })
    }

    /// Which key the token says it is signed with; [`Token::account`] with that key finds out.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key of the account that the token names, if it is what the terms ask for at `now`.
    pub fn account(&self, terms: Terms<'_>, now: Time) -> Result<String, Refusal> {
        if self.kid != terms.key.kid() {
            return Err(Refusal::UnknownKey);
        }
        if !terms.key.algorithm().names().contains(&self.algorithm.as_str()) {
            return Err(Refusal::Algorithm);
        }
        if !terms.key.verifies(self.signing_input.as_bytes(), self.signature) {
            return Err(Refusal::BadSignature);
        }
        let claims = std::str::from_utf8(&self.payload).map_err(|_| Refusal::Malformed)?;
        let claims = json::parse(claims, CLAIMS).map_err(|_| Refusal::Malformed)?;
        if !matches!(claims, Json::Object(_)) {
            return Err(Refusal::Malformed);
        }
        if claims.get("iss") != Some(&Json::string(terms.issuer)) {
            return Err(Refusal::WrongIssuer);
        }
        if !is_for(&claims, terms.audience) {
            return Err(Refusal::WrongAudience);
        }
        let expires_at = moment(&claims, "exp")?.ok_or(Refusal::Claim)?;
        if now >= expires_at.saturating_add(LEEWAY) {
            return Err(Refusal::Expired);
        }
        for begins in ["nbf", "iat"] {
            if moment(&claims, begins)?.is_some_and(|begins_at| begins_at > now.saturating_add(LEEWAY)) {
                return Err(Refusal::NotYetValid);
            }
        }
        terms.claim.account(&claims).ok_or(Refusal::Claim)
    }
}

/// RFC 7519 §4.1.3: a string, or an array of strings one of which is meant.
fn is_for(claims: &Json, audience: &str) -> bool {
    let audience = Json::string(audience);
    match claims.get("aud") {
        Some(Json::Array(several)) => several.contains(&audience),
        Some(one) => *one == audience,
        None => false,
    }
}

/// A NumericDate (RFC 7519 §2): seconds since 1970, perhaps with a fraction. None if there is none.
fn moment(claims: &Json, name: &str) -> Result<Option<Time>, Refusal> {
    const EPOCH_OF_TIME: f64 = 946_684_800.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(literal)) => {
            let seconds: f64 = literal.parse().map_err(|_| Refusal::Claim)?;
            // What lies beyond the ends of time becomes them.
            Ok(Some(((seconds - EPOCH_OF_TIME) * 1e6) as Time))
        }
        Some(_) => Err(Refusal::Claim),
    }
}
