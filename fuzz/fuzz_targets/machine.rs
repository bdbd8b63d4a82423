//! What machines write. The key in a document is the fuzzer's choice, so its signature is checked with any key there is.

#![no_main]

use std::sync::LazyLock;

use entitlements_bundle::{DEACTIVATION_TYPE, Deactivation, Jws, LICENCE_REQUEST_TYPE, LicenceRequest, PrivateKey};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::from_seed(&[9; 32]));

fuzz_target!(|payload: &[u8]| {
    if let Ok(request) = LicenceRequest::parse(payload) {
        assert_eq!(LicenceRequest::parse(request.to_json().to_string().as_bytes()).as_ref(), Ok(&request));
        let opened = LicenceRequest::open(&Jws::sign(payload, LICENCE_REQUEST_TYPE, &KEY), &request.vendor);
        assert_eq!(opened.is_ok(), request.key == *KEY.public());
    }
    if let Ok(deactivation) = Deactivation::parse(payload) {
        assert_eq!(Deactivation::parse(deactivation.to_json().to_string().as_bytes()).as_ref(), Ok(&deactivation));
        let opened = Deactivation::open(&Jws::sign(payload, DEACTIVATION_TYPE, &KEY), &deactivation.vendor);
        assert_eq!(opened.is_ok(), deactivation.key == *KEY.public());
    }
});
