//! The claims of a bundle: what is read is written so that it reads the same.

#![no_main]

use entitlements_bundle::Bundle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(bundle) = Bundle::parse(payload) {
        assert_eq!(Bundle::parse(bundle.to_json().to_string().as_bytes()), Ok(bundle));
    }
});
