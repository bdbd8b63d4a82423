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
    #[error("the key {0} is trusted for documents of another kind: {1}")]
    OtherPurpose(Kid, Purpose),
    #[error("the signature is not one of the key {0} over this document")]
    BadSignature(Kid),
    #[error("the document is not valid")]
    Invalid(Vec<Fault>),
    #[error("the document is issued by '{}', but signed with a key of '{}'", Excerpt(claimed), Excerpt(signer))]
    OtherIssuer { claimed: String, signer: String },
    #[error("the document is for '{}', not for '{}'", Excerpt(audience), Excerpt(deployment))]
    OtherAudience { audience: String, deployment: String },
    #[error("the key {0} does not sign at this time")]
    KeyOutOfTime(Kid),
    #[error("the document has the sequence number {sequence}, older than {last}, which was accepted before")]
    Replayed { sequence: i64, last: i64 },
    #[error("the document has the sequence number {0} as the one accepted before, but another content")]
    SequenceReused(i64),
    #[error("the document {0} follows another than the one accepted before")]
    HistoryForked(i64),
    #[error("the document is issued at {0}, which is in the future")]
    IssuedInFuture(NumericDate),
    #[error("the document is not valid before {0}")]
    NotYetValid(NumericDate),
    #[error("the document expired at {0}")]
    Expired(NumericDate),
    #[error("the bundle introduces the key {0}, which is distrusted or trusted for something else")]
    KeyTaken(Kid),
    #[error("the licence '{}' is revoked", Excerpt(.0))]
    Revoked(String),
    #[error("the licence is for another machine")]
    OtherMachine,
    #[error("the clock is behind {0}, a time that was seen already")]
    ClockBehind(NumericDate),
    #[error("the entitlement ends at {0}, no licence can be issued that lasts until after its issue")]
    NothingLeft(NumericDate),
}

impl Refusal {
    /// One word for programs; it does not change.
    pub fn word(&self) -> &'static str {
        match self {
            Refusal::Malformed(JwsError::TooLarge(..)) => "too_large",
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
            Refusal::Revoked(_) => "revoked",
            Refusal::OtherMachine => "other_machine",
            Refusal::ClockBehind(_) => "clock_behind",
            Refusal::NothingLeft(_) => "nothing_left",
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
