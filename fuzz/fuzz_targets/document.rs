//! The form around a payload: no text is taken for a document of two types, and none is authentic that the key did not sign.

#![no_main]

use std::sync::LazyLock;

use entitlements_bundle::{
    BUNDLE_TYPE, Bundle, DEACTIVATION_TYPE, DELEGATION_RETURN_TYPE, DelegationReturn, Document, Jws, LICENCE_REQUEST_TYPE,
    LICENCE_TYPE, Licence, PrivateKey, TrustSet, TrustedKey, USAGE_REPORT_TYPE, UsageReport, authenticate_as, claimed_type,
};
use entitlements_model::time::{BEGINNING, FOREVER};
use libfuzzer_sys::fuzz_target;

const TYPES: [&str; 6] =
    [BUNDLE_TYPE, LICENCE_TYPE, LICENCE_REQUEST_TYPE, DEACTIVATION_TYPE, USAGE_REPORT_TYPE, DELEGATION_RETURN_TYPE];

/// The corpus holds documents that this key signed.
static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::from_seed(&[7; 32]));

fn trust<D: Document>() -> TrustSet {
    let key = KEY.public().clone();
    let issuer = "vendor".to_owned();
    let (purpose, not_before, not_after) = (D::PURPOSE, BEGINNING, FOREVER);
    [TrustedKey { key, issuer, purpose, not_before, not_after, distrusted: false }].into_iter().collect()
}

/// Ed25519 signatures by one key over one text are the same each time, so a changed document cannot have one that holds.
fn authentic<D: Document>(text: &str) {
    if authenticate_as::<D>(text, &trust::<D>()).is_ok() {
        let jws = Jws::parse(text, D::TYPE, D::LIMITS.bytes).expect("it was read before");
        let again = Jws::sign(jws.unverified_payload(), D::TYPE, &KEY);
        let signature = |text: &str| text.trim_ascii().rsplit('.').next().map(str::to_owned);
        let same_header = again.split('.').next() == text.trim_ascii().split('.').next();
        assert!(!same_header || signature(&again) == signature(text));
    }
}

fuzz_target!(|text: &str| {
    let read: Vec<&str> = TYPES.into_iter().filter(|typ| Jws::parse(text, typ, 1 << 16).is_ok()).collect();
    if let [typ] = read[..] {
        assert_eq!(claimed_type(text).as_deref(), Ok(typ));
    }
    assert!(read.len() <= 1);
    authentic::<Bundle>(text);
    authentic::<Licence>(text);
    authentic::<UsageReport>(text);
    authentic::<DelegationReturn>(text);
});
