//! Files of age: whatever they are, opening one ends soon and gives text no longer than was asked for.

#![no_main]

use entitlements_bundle::seal;
use libfuzzer_sys::fuzz_target;

/// Of the files in the corpus; made for them, and good for nothing else.
const IDENTITY: &str = include_str!("../corpus/seal.identity");

fuzz_target!(|file: &[u8]| {
    if let Ok(text) = seal::open(file, IDENTITY, 100) {
        assert!(text.len() <= 100);
    }
    if let Ok(identities) = std::str::from_utf8(file) {
        let _ = seal::open(b"age-encryption.org/v1\n", identities, 100);
    }
});
