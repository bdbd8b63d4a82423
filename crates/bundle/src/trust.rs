//! Who may sign what: the keys a database trusts, and the proof that one of them signed a document.
//!
//! A key is trusted for one issuer and one purpose. Its name is its thumbprint, so no issuer can take the place of another's
//! key, and a document cannot choose which key it is checked with beyond naming one that is trusted already.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use entitlements_model::fault::Fault;
use entitlements_model::json::Limits;
use entitlements_model::time::Time;

use crate::bundle::Bundle;
use crate::digest::{Digest, Kid};
use crate::jws::Jws;
use crate::key::PublicKey;
use crate::refusal::Refusal;

/// What documents a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Bundle,
    Licence,
    UsageReport,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Bundle => "bundle",
            Purpose::Licence => "licence",
            Purpose::UsageReport => "usage_report",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Purpose {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "bundle" => Ok(Purpose::Bundle),
            "licence" => Ok(Purpose::Licence),
            "usage_report" => Ok(Purpose::UsageReport),
            _ => Err("is not one of: bundle, licence, usage_report"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    pub key: PublicKey,
    pub issuer: String,
    pub purpose: Purpose,
    /// The key signs in `not_before <= t < not_after`.
    pub not_before: Time,
    pub not_after: Time,
    /// Withdrawn for good: it signs nothing any more, and no bundle can introduce it again.
    pub distrusted: bool,
}

/// Every key that was ever trusted, also those withdrawn.
#[derive(Clone, Debug, Default)]
pub struct TrustSet {
    keys: BTreeMap<Kid, TrustedKey>,
}

impl TrustSet {
    pub fn get(&self, kid: Kid) -> Option<&TrustedKey> {
        self.keys.get(&kid)
    }

    /// All of them, for documents that name no key.
    pub fn keys(&self) -> impl Iterator<Item = &TrustedKey> {
        self.keys.values()
    }
}

impl Extend<TrustedKey> for TrustSet {
    fn extend<I: IntoIterator<Item = TrustedKey>>(&mut self, keys: I) {
        self.keys.extend(keys.into_iter().map(|key| (key.key.kid(), key)));
    }
}

impl FromIterator<TrustedKey> for TrustSet {
    fn from_iter<I: IntoIterator<Item = TrustedKey>>(keys: I) -> Self {
        let mut set = Self::default();
        set.extend(keys);
        set
    }
}

/// What a trusted key may sign: where it is told from other documents, what it may cost, how it is read.
pub trait Document: Sized {
    /// The header's `typ`.
    const TYPE: &'static str;
    const LIMITS: Limits;
    /// What a key must be trusted for.
    const PURPOSE: Purpose;

    /// Reads a payload. Whoever calls this with one that no signature vouches for must not act on it.
    fn parse(payload: &[u8]) -> Result<Self, Vec<Fault>>;

    fn issuer(&self) -> &str;
}

/// A document that a trusted key signed for its own issuer. Only [`authenticate`] and [`authenticate_as`] make one.
#[derive(Clone, Debug)]
pub struct Authentic<D = Bundle> {
    document: D,
    digest: Digest,
    signer: TrustedKey,
}

impl<D> Authentic<D> {
    pub fn document(&self) -> &D {
        &self.document
    }

    pub fn into_document(self) -> D {
        self.document
    }

    /// Of the payload, byte for byte.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn signer(&self) -> &TrustedKey {
        &self.signer
    }

    /// Whether the signer's key signs at a time.
    pub(crate) fn signs_at(&self, time: Time) -> bool {
        self.signer.not_before <= time && time < self.signer.not_after
    }
}

impl Authentic<Bundle> {
    pub fn bundle(&self) -> &Bundle {
        &self.document
    }

    pub fn into_bundle(self) -> Bundle {
        self.document
    }
}

/// Finds out who signed a bundle, then reads it. The clock plays no part: that is [`judge`](crate::judge)'s.
pub fn authenticate(text: &str, trust: &TrustSet) -> Result<Authentic, Refusal> {
    authenticate_as(text, trust)
}

/// [`authenticate`] for any kind of document.
pub fn authenticate_as<D: Document>(text: &str, trust: &TrustSet) -> Result<Authentic<D>, Refusal> {
    let jws = Jws::parse(text, D::TYPE, D::LIMITS.bytes)?;
    let kid = jws.kid();
    let signer = trust.get(kid).ok_or(Refusal::UnknownKey(kid))?;
    if signer.distrusted {
        return Err(Refusal::DistrustedKey(kid));
    }
    if signer.purpose != D::PURPOSE {
        return Err(Refusal::OtherPurpose(kid, signer.purpose));
    }
    let payload = jws.verify(&signer.key).ok_or(Refusal::BadSignature(kid))?;
    let document = D::parse(&payload).map_err(Refusal::Invalid)?;
    if document.issuer() != signer.issuer {
        return Err(Refusal::OtherIssuer { claimed: document.issuer().to_owned(), signer: signer.issuer.clone() });
    }
    Ok(Authentic { document, digest: Digest::of(&payload), signer: signer.clone() })
}
