//! A vendor, its key and its bundles.

use std::str::FromStr;

use entitlements_bundle::{
    Account, BUNDLE_TYPE, Bundle, Jws, Mode, NumericDate, Override, OverrideValue, PrivateKey, Purpose, Subscription,
    TrustSet, TrustedKey,
};
use entitlements_model::json::{self, Json};
use entitlements_model::key::{AccountKey, FeatureKey, PlanKey};
use entitlements_model::time::{BEGINNING, FOREVER};

pub const DEPLOYMENT: &str = "site-7";
pub const ISSUER: &str = "https://vendor.example";

/// 2023-11-14 22:13:20 UTC, when bundles here are issued.
pub const ISSUED: i64 = 1_700_000_000;

pub const DAY: i64 = 86_400;

pub fn date(seconds: i64) -> NumericDate {
    NumericDate::from_seconds(seconds).unwrap()
}

pub fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

pub fn trusted(key: &PrivateKey) -> TrustedKey {
    TrustedKey {
        key: key.public().clone(),
        issuer: ISSUER.into(),
        purpose: Purpose::Bundle,
        not_before: BEGINNING,
        not_after: FOREVER,
        distrusted: false,
    }
}

/// Trusts `key(1)`.
pub fn trust() -> TrustSet {
    [trusted(&key(1))].into_iter().collect()
}

/// The bundle number `sequence`, a month long, with two weeks of grace and an expected bundle a week.
pub fn bundle(sequence: i64) -> Bundle {
    let catalog = r#"{"features": {"sso": {"kind": "flag"}, "seats": {"kind": "allocation"}},
        "plans": {"team": {"kind": "base", "features": {"seats": {"amount": 1, "per_unit": true}}}}}"#;
    let account = Account {
        subscriptions: vec![Subscription {
            reference: "so-17".into(),
            plan: PlanKey::parse("team").unwrap(),
            quantity: 25,
            starts_at: date(ISSUED),
            ends_at: Some(date(ISSUED + 365 * DAY)),
        }],
        overrides: vec![
            Override {
                feature: FeatureKey::parse("sso").unwrap(),
                value: OverrideValue::Set(Json::Bool(true)),
                reason: "pilot".into(),
                expires_at: Some(date(ISSUED + 30 * DAY)),
            },
            Override {
                feature: FeatureKey::parse("seats").unwrap(),
                value: OverrideValue::Add("2.5".parse().unwrap()),
                reason: "goodwill".into(),
                expires_at: None,
            },
        ],
        delegations: Vec::new(),
    };
    Bundle {
        issuer: ISSUER.into(),
        audience: DEPLOYMENT.into(),
        issued_at: date(ISSUED),
        not_before: date(ISSUED),
        expires: date(ISSUED + 30 * DAY),
        sequence,
        previous: None,
        grace: 14 * DAY,
        heartbeat: Some(7 * DAY),
        mode: Mode::Enforce,
        catalog: Some(json::parse(catalog, json::Limits::CATALOG).unwrap()),
        accounts: [(AccountKey::from_str("acme").unwrap(), account)].into(),
        keys: Vec::new(),
        revoked: Default::default(),
    }
}

pub fn sign(bundle: &Bundle) -> String {
    sign_text(&bundle.to_json().to_string())
}

pub fn sign_text(payload: &str) -> String {
    Jws::sign(payload.as_bytes(), BUNDLE_TYPE, &key(1))
}
