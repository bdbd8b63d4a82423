//! The claims of a licence: what is read is written so that it reads the same, and ends with its lease.

#![no_main]

use entitlements_bundle::Licence;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(licence) = Licence::parse(payload) {
        assert!(licence.expires.seconds() <= licence.issued_at.seconds() + licence.lease);
        assert_eq!(Licence::parse(licence.to_json().to_string().as_bytes()), Ok(licence));
    }
});
