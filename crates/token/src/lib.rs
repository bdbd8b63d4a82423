//! Session tokens: JSON Web Tokens (RFC 7519) that say for which account a transaction acts.
//!
//! What is accepted is one narrow form: a JWS in compact serialisation (RFC 7515), signed with Ed25519, ECDSA on P-256 or RSA
//! with SHA-256, by a key that the caller trusts beforehand. **The key decides** the algorithm, the issuer, the audience and where
//! the account stands; the token chooses nothing but the name of the key it is checked with. Nothing of the payload is looked at
//! before the signature is found right.
//!
//! Signatures are checked by the crate `jsonwebtoken`. Its way through a whole token is not used: it takes the clock from the
//! operating system and does not see members that stand twice.
//!
//! Everything is a function over values: no PostgreSQL, no I/O, no clock.

#![forbid(unsafe_code)]

mod claim;
mod key;
mod refusal;
mod token;

pub use claim::{AccountClaim, NoClaim, account_in};
pub use key::{Algorithm, PublicKey};
pub use refusal::Refusal;
pub use token::{LEEWAY, MOST_BYTES, Terms, Token};
