//! The hash chain of audit entries.
//!
//! Promises: who alters, removes or inserts an entry without rewriting all that follow it, and the chain's head, is found out
//! by anybody who has a SHA-256. An entry's content can be removed on purpose (with its salt) and the chain still verifies,
//! for the chain covers the content's hash only; the salt makes a short content impossible to guess from its hash.
//!
//! ```text
//! content_hash = SHA-256( salt ‖ content as UTF-8 )
//! hash         = SHA-256( hash of the entry before, 32 zero bytes for the first
//!                       ‖ id ‖ chain_id ‖ seq ‖ at ‖ transaction_id
//!                       ‖ session_user_name ‖ role_name ‖ client_address ‖ action ‖ object ‖ object_id
//!                       ‖ content_hash )
//! ```
//!
//! A number is 8 bytes, two's complement, most significant first (PostgreSQL: `int8send`). `at` is such a number: microseconds
//! since 2000-01-01 00:00:00 UTC (`timestamptz_send`). A text is its length in bytes, 4 bytes, most significant first
//! (`int4send`), then its UTF-8; `client_address` is the text of the inet with its netmask, such as `10.0.0.7/32`, and where
//! it is NULL the length is -1 and nothing follows. Lengths keep neighbouring texts apart: no two entries have one encoding.

use crate::time::Time;
use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// What the first entry of a chain has for the hash of the entry before.
pub const START: Hash = [0; 32];

/// The columns of an entry that its hash covers.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub id: i64,
    pub chain_id: i64,
    pub seq: i64,
    pub at: Time,
    pub transaction_id: i64,
    pub session_user_name: &'a str,
    pub role_name: &'a str,
    /// The inet as text with its netmask.
    pub client_address: Option<&'a str>,
    pub action: &'a str,
    pub object: &'a str,
    pub object_id: &'a str,
    pub content_hash: &'a [u8],
}

pub fn content_hash(salt: &[u8], content: &str) -> Hash {
    Sha256::new().chain_update(salt).chain_update(content).finalize().into()
}

impl Entry<'_> {
    /// The entry's hash, where `before` is that of the entry before it.
    pub fn hash(&self, before: &[u8]) -> Hash {
        let mut hasher = Sha256::new_with_prefix(before);
        for number in [self.id, self.chain_id, self.seq, self.at, self.transaction_id] {
            hasher.update(number.to_be_bytes());
        }
        let texts = [
            Some(self.session_user_name),
            Some(self.role_name),
            self.client_address,
            Some(self.action),
            Some(self.object),
            Some(self.object_id),
        ];
        for text in texts {
            // PostgreSQL has no text of 2 GiB, so -1 stands for none.
            let length = text.map_or(-1, |text| text.len() as i32);
            hasher.update(length.to_be_bytes());
            hasher.update(text.unwrap_or_default());
        }
        hasher.update(self.content_hash);
        hasher.finalize().into()
    }
}
