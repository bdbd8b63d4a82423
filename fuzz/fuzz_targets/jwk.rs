//! Keys: what is read has one name and one spelling.

#![no_main]

use entitlements_bundle::{PrivateKey, PublicKey, keygen_public_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = PublicKey::from_jwk(text) {
        assert_eq!(PublicKey::from_jwk(&key.to_jwk().to_string()), Ok(key));
    }
    for key in PublicKey::set_from_jwk(text).unwrap_or_default() {
        assert_eq!(PublicKey::from_json(&key.to_jwk()), Ok(key));
    }
    if let Ok(key) = PrivateKey::from_jwk(text) {
        let again = PrivateKey::from_jwk(&key.to_jwk()).expect("it was written from a key");
        assert_eq!(again.public(), key.public());
    }
    keygen_public_key(text);
});
