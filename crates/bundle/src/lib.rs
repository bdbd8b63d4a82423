//! Signed documents: the same entitlements where no network reaches.
//!
//! A vendor signs what a customer bought as a bundle; the customer's database verifies it, keeps what it accepted and lets it
//! run out as the bundle says. This crate holds the document, the signature and the policy. Everything is a pure function over
//! values: no PostgreSQL, no I/O, no clock. The instant of a question is an argument.
//!
//! The way of a document, each step a type that only the step before it can make:
//! text → [`Jws`] (its form is right) → [`Authentic`] (a trusted key signed it for its issuer, and it reads as a bundle) →
//! [`Judgement`] (what it means for this database now). Licences, usage reports and returns go the same way, to
//! [`judge_licence`], [`judge_usage`] and [`judge_return`]. Nothing reads the content of a document before its signature, but for
//! [`Jws::unverified_payload`], which says so.

#![forbid(unsafe_code)]

mod account;
pub mod base64url;
mod bundle;
mod date;
mod delegation;
mod digest;
mod jws;
mod key;
#[cfg(feature = "keygen")]
mod keygen_file;
mod licence;
mod machine;
mod policy;
mod read;
mod refusal;
#[cfg(feature = "encryption")]
pub mod seal;
mod standing;
mod trust;
mod usage;

pub use account::{Account, Override, OverrideValue, Subscription};
pub use bundle::{BUNDLE_LIMITS, Bundle, IntroducedKey, Mode};
pub use date::NumericDate;
pub use delegation::{Delegation, DelegationReturn, RETURN_LIMITS, judge_return};
pub use digest::{Digest, Kid, MachineId};
pub use jws::{
    BUNDLE_TYPE, DEACTIVATION_TYPE, DELEGATION_RETURN_TYPE, Jws, JwsError, LICENCE_REQUEST_TYPE, LICENCE_TYPE,
    USAGE_REPORT_TYPE, claimed_type, most_bytes,
};
pub use key::{KeyError, PrivateKey, PublicKey};
#[cfg(feature = "keygen")]
pub use keygen_file::{KEYGEN_LIMITS, KeygenError, KeygenLicence, keygen_public_key, open_keygen_file};
pub use licence::{Binding, Granted, LICENCE_LIMITS, Licence, Order, Place, judge_licence};
pub use machine::{Deactivation, LicenceRequest, REQUEST_LIMITS, Received};
pub use policy::{Acceptance, Accepted, Judgement, judge};
pub use refusal::Refusal;
pub use standing::{Clock, Denial, LEEWAY, Phase, Standing, Terms};
pub use trust::{Authentic, Document, Purpose, TrustSet, TrustedKey, authenticate, authenticate_as};
pub use usage::{
    Follower, Neighbours, USAGE_LIMITS, UsageAcceptance, UsageJudgement, UsageReport, UsageRow, Window, judge_usage,
};
