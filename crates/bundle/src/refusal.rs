//! Why a document changes nothing.

use entitlements_model::fault::{Excerpt, Fault};

use crate::date::NumericDate;
use crate::digest::Kid;
use crate::jws::JwsError;
use crate::trust::Purpose;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Malformed(#[from] JwsError),
    #[error("the document names the key {0}, which is not trusted")]
    UnknownKey(Kid),
    #[error("the document is signed with the key {0}, which is distrusted")]
    DistrustedKey(Kid),
    #[error("the key {0} is trusted for a {1}, not for a bundle")]
    OtherPurpose(Kid, Purpose),
    #[error("the signature is not one of the key {0} over this document")]
    BadSignature(Kid),
    #[error("the bundle is not valid")]
    Invalid(Vec<Fault>),
    #[error("the bundle is issued by '{}', but signed with a key of '{}'", Excerpt(claimed), Excerpt(signer))]
    OtherIssuer { claimed: String, signer: String },
    #[error("the bundle is for the database '{}', this one is '{}'", Excerpt(audience), Excerpt(deployment))]
    OtherAudience { audience: String, deployment: String },
    #[error("the key {0} does not sign at this time")]
    KeyOutOfTime(Kid),
    #[error("the bundle has the sequence number {sequence}, older than {last}, which was accepted before")]
    Replayed { sequence: i64, last: i64 },
    #[error("the bundle has the sequence number {0} as the one accepted before, but another content")]
    SequenceReused(i64),
    #[error("the bundle {0} follows another bundle than the one accepted before")]
    HistoryForked(i64),
    #[error("the bundle is issued at {0}, which is in the future")]
    IssuedInFuture(NumericDate),
    #[error("the bundle is not valid before {0}")]
    NotYetValid(NumericDate),
    #[error("the bundle expired at {0}")]
    Expired(NumericDate),
    #[error("the bundle introduces the key {0}, which is distrusted or trusted for something else")]
    KeyTaken(Kid),
}

impl Refusal {
    /// One word for programs; it does not change.
    pub fn word(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::UnknownKey(_) => "unknown_key",
            Refusal::DistrustedKey(_) => "distrusted_key",
            Refusal::OtherPurpose(..) => "other_purpose",
            Refusal::BadSignature(_) => "bad_signature",
            Refusal::Invalid(_) => "invalid",
            Refusal::OtherIssuer { .. } => "other_issuer",
            Refusal::OtherAudience { .. } => "other_audience",
            Refusal::KeyOutOfTime(_) => "key_out_of_time",
            Refusal::Replayed { .. } => "replayed",
            Refusal::SequenceReused(_) => "sequence_reused",
            Refusal::HistoryForked(_) => "history_forked",
            Refusal::IssuedInFuture(_) => "issued_in_future",
            Refusal::NotYetValid(_) => "not_yet_valid",
            Refusal::Expired(_) => "expired",
            Refusal::KeyTaken(_) => "key_taken",
        }
    }

    /// Two documents of one issuer contradict each other: a copied key, or a vendor's database restored from a backup.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Refusal::SequenceReused(_) | Refusal::HistoryForked(_))
    }

    /// What is wrong with the content, place by place; only [`Refusal::Invalid`] has any.
    pub fn faults(&self) -> &[Fault] {
        match self {
            Refusal::Invalid(faults) => faults,
            _ => &[],
        }
    }
}
