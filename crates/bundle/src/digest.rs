//! SHA-256 values and the text they travel in: base64url, 43 characters.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::base64url;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a SHA-256 value in base64url")]
pub struct NotADigest;

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }
        }

        impl FromStr for $name {
            type Err = NotADigest;

            fn from_str(text: &str) -> Result<Self, NotADigest> {
                base64url::decode_array(text).map(Self).ok_or(NotADigest)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&base64url::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

digest!(
    /// What tells one bundle's content from another's: of the signed claims, byte for byte.
    Digest
);
digest!(
    /// The name of a key: its thumbprint by RFC 7638. Nobody can choose the name of somebody else's key.
    Kid
);
digest!(
    /// Which machine: the vendor does not learn what it was made from.
    MachineId
);
