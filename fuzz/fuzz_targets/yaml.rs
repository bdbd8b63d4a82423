//! Catalogs written by people: what is read is JSON within its limits, and a pricing file becomes a document or faults.

#![no_main]

#[path = "../../crates/bundle/src/bin/entitlements-bundle/pricing.rs"]
mod pricing;
#[path = "../../crates/bundle/src/bin/entitlements-bundle/yaml.rs"]
mod yaml;

use entitlements_model::json::{self, Json, Limits};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bytes: 1 << 16, depth: 32, nodes: 2_000 };

/// A document is JSON: no key twice, nothing that cannot be stored. Only numbers may be out of range, which whoever reads it says.
fn assert_json(document: &Json) {
    let wide = Limits { bytes: 1 << 26, depth: 40, nodes: 1_000_000 };
    match json::parse(&document.to_string(), wide) {
        Ok(read) => assert_eq!(read, *document),
        Err(faults) => assert!(faults.iter().all(|fault| fault.fault == "the number is out of range"), "{faults:?}"),
    }
}

fuzz_target!(|text: &str| {
    let infinity = match pricing::is_pricing(text) {
        true => yaml::Infinity::Unlimited,
        false => yaml::Infinity::Refused,
    };
    if let Ok(document) = yaml::parse(text, LIMITS, infinity) {
        assert_json(&document);
        if pricing::is_pricing(text)
            && let Ok(converted) = pricing::convert(&document)
        {
            assert_json(&converted.catalog);
            assert!(converted.notes.iter().all(|note| note.starts_with("$.")));
        }
    }
});
