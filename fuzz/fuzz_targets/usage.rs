//! The claims of what sites report: what is read is written so that it reads the same.

#![no_main]

use entitlements_bundle::{DelegationReturn, Document, UsageReport};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(report) = UsageReport::parse(payload) {
        assert_eq!(UsageReport::parse(report.to_json().to_string().as_bytes()), Ok(report));
    }
    if let Ok(given_back) = DelegationReturn::parse(payload) {
        assert_eq!(DelegationReturn::parse(given_back.to_json().to_string().as_bytes()), Ok(given_back));
    }
});
