//! Signed documents: the same entitlements where no network reaches.
//!
//! A vendor signs what a customer bought as a bundle; the customer's database verifies it, keeps what it accepted and lets it
//! run out as the bundle says. This crate holds the document, the signature and the policy. Everything is a pure function over
//! values: no PostgreSQL, no I/O, no clock. The instant of a question is an argument.
//!
//! The way of a document, each step a type that only the step before it can make:
//! text → [`Jws`] (its form is right) → [`Authentic`] (a trusted key signed it for its issuer, and it reads as a bundle) →
//! [`Judgement`] (what it means for this database now). Nothing reads the content of a document before its signature, but for
//! [`Jws::unverified_payload`], which says so.

#![forbid(unsafe_code)]

mod account;
pub mod base64url;
mod bundle;
mod date;
mod digest;
mod jws;
mod key;
mod policy;
mod read;
mod refusal;
#[cfg(feature = "encryption")]
pub mod seal;
mod standing;
mod trust;

pub use account::{Account, Override, OverrideValue, Subscription};
pub use bundle::{BUNDLE_LIMITS, Bundle, IntroducedKey, Mode};
pub use date::NumericDate;
pub use digest::{Digest, Kid};
pub use jws::{BUNDLE_TYPE, Jws, JwsError};
pub use key::{KeyError, PrivateKey, PublicKey};
pub use policy::{Acceptance, Accepted, Judgement, judge};
pub use refusal::Refusal;
pub use standing::{Clock, Denial, LEEWAY, Phase, Standing, Terms};
pub use trust::{Authentic, Purpose, TrustSet, TrustedKey, authenticate};
