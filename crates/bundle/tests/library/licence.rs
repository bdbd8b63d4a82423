//! Licences: when they end, where they hold, and why they are refused.

use std::collections::BTreeSet;

use entitlements_bundle::{
    Binding, Clock, LICENCE_TYPE, Licence, MachineId, NumericDate, Order, Place, Purpose, Refusal, TrustSet, TrustedKey,
    authenticate, authenticate_as, judge_licence,
};
use entitlements_model::json::Json;
use entitlements_model::key::{AccountKey, FeatureKey};
use entitlements_model::time::{FOREVER, Time};
use proptest::prelude::*;

use crate::vendor::{DAY, ISSUED, ISSUER, bundle, date, key, sign, trust, trusted};

pub fn order() -> Order {
    let feature = |name: &str| FeatureKey::parse(name).unwrap();
    Order {
        id: "018c-7".into(),
        issuer: ISSUER.into(),
        account: AccountKey::parse("acme").unwrap(),
        audience: Some("editor".into()),
        holder: Some("ann@acme.example".into()),
        issued_at: date(ISSUED),
        lease: 7 * DAY,
        entitled_until: FOREVER,
        features: [(feature("sso"), Json::Bool(true)), (feature("seats"), Json::number("2.50"))].into(),
        seat: Some(feature("seats")),
        heartbeat: Some(DAY),
        machine: Some(binding()),
        reason: Some("trial".into()),
    }
}

fn machine() -> MachineId {
    MachineId::derive(b"4f1c", ISSUER)
}

pub fn binding() -> Binding {
    Binding { machine: machine(), key: Some(key(9).public().kid()), nonce: Some("n-1".into()) }
}

fn place() -> Place<'static> {
    Place { audience: Some("editor"), machine: Some(machine()), key: Some(key(9).public().kid()), nonce: Some("n-1") }
}

pub fn licences() -> TrustSet {
    [TrustedKey { purpose: Purpose::Licence, ..trusted(&key(1)) }].into_iter().collect()
}

fn at(seconds: i64) -> Time {
    date(seconds).time()
}

fn clock(seconds: i64) -> Clock {
    Clock { now: at(seconds), highest: at(0) }
}

fn licence() -> Licence {
    Licence::issue(order()).unwrap()
}

fn judged(licence: &Licence, place: Place, revoked: &[&str], clock: Clock) -> Result<bool, &'static str> {
    let authentic = authenticate_as(&licence.sign(&key(1)), &licences()).unwrap();
    let revoked: BTreeSet<String> = revoked.iter().map(ToString::to_string).collect();
    judge_licence(authentic, place, &revoked, clock).map(|granted| granted.renewal_due).map_err(|refusal| refusal.word())
}

#[test]
fn a_licence_arrives_as_it_was_issued() {
    let authentic = authenticate_as::<Licence>(&licence().sign(&key(1)), &licences()).unwrap();
    let granted = judge_licence(authentic, place(), &BTreeSet::new(), clock(ISSUED + 60)).unwrap();
    assert_eq!(granted.licence, licence());
    assert_eq!((granted.highest, granted.renewal_due), (at(ISSUED + 60), false));
    assert_eq!(granted.licence.features["seats"].to_string(), "2.50");
}

#[test]
fn it_ends_with_its_lease_or_with_the_entitlement_whatever_comes_first() {
    let end = |lease: i64, entitled_until: Time| Licence::issue(Order { lease, entitled_until, ..order() });
    assert_eq!(end(7 * DAY, FOREVER).unwrap().expires, date(ISSUED + 7 * DAY));
    assert_eq!(end(7 * DAY, at(ISSUED + 8 * DAY)).unwrap().expires, date(ISSUED + 7 * DAY));
    assert_eq!(end(7 * DAY, at(ISSUED + DAY)).unwrap().expires, date(ISSUED + DAY));
    assert_eq!(end(7 * DAY, at(ISSUED + DAY) + 999_999).unwrap().expires, date(ISSUED + DAY));
    for over in [at(ISSUED), at(ISSUED) + 999_999, at(ISSUED - 1), at(0), Time::MIN] {
        assert_eq!(end(7 * DAY, over).unwrap_err().word(), "nothing_left");
    }
    for lease in [0, -1, i64::MIN, i64::MAX] {
        assert_eq!(end(lease, FOREVER).unwrap_err().word(), "invalid", "{lease}");
    }
}

#[test]
fn it_holds_in_its_time_only() {
    let word = |clock| judged(&licence(), place(), &[], clock);
    assert_eq!(word(clock(ISSUED + 7 * DAY - 1)), Ok(true));
    assert_eq!(word(clock(ISSUED + 7 * DAY)), Err("expired"));
    assert_eq!(word(clock(ISSUED - 300)), Ok(false));
    assert_eq!(word(clock(ISSUED - 301)), Err("issued_in_future"));
    let later = Licence { not_before: date(ISSUED + DAY), ..licence() };
    assert_eq!(judged(&later, place(), &[], clock(ISSUED)), Err("not_yet_valid"));
    assert_eq!(word(clock(ISSUED + DAY - 1)), Ok(false));
    assert_eq!(word(clock(ISSUED + DAY)), Ok(true));
}

#[test]
fn setting_the_clock_back_prolongs_nothing() {
    let back = |now: i64, highest: i64| judged(&licence(), place(), &[], Clock { now: at(now), highest: at(highest) });
    assert_eq!(back(ISSUED + DAY, ISSUED + 8 * DAY), Err("clock_behind"));
    assert_eq!(back(ISSUED + 7 * DAY - 60, ISSUED + 7 * DAY), Err("expired"));
    assert_eq!(back(ISSUED + 60, ISSUED + 300), Ok(false));
}

#[test]
fn it_holds_for_its_application_and_its_machine_only() {
    let refused = |place| judged(&licence(), place, &[], clock(ISSUED));
    assert_eq!(refused(place()), Ok(false));
    assert_eq!(refused(Place { nonce: None, ..place() }), Ok(false));
    assert_eq!(refused(Place { audience: None, ..place() }), Err("other_audience"));
    assert_eq!(refused(Place { audience: Some("viewer"), ..place() }), Err("other_audience"));
    let other = MachineId::derive(b"4f1d", ISSUER);
    assert_eq!(refused(Place { machine: Some(other), ..place() }), Err("other_machine"));
    assert_eq!(refused(Place { machine: None, ..place() }), Err("other_machine"));
    assert_eq!(refused(Place { key: Some(key(8).public().kid()), ..place() }), Err("other_machine"));
    assert_eq!(refused(Place { key: None, ..place() }), Err("other_machine"));
    assert_eq!(refused(Place { nonce: Some("n-2"), ..place() }), Err("other_machine"));
    let free = Licence { audience: None, machine: None, ..licence() };
    assert_eq!(judged(&free, Place::default(), &[], clock(ISSUED)), Ok(false));
    assert_eq!(judged(&free, place(), &[], clock(ISSUED)), Ok(false));
}

#[test]
fn a_revoked_licence_is_refused() {
    assert_eq!(judged(&licence(), place(), &["018c-7"], clock(ISSUED)), Err("revoked"));
    assert_eq!(judged(&licence(), place(), &["018c-70", "018c"], clock(ISSUED)), Ok(false));
}

#[test]
fn only_a_key_for_licences_signs_one_and_a_licence_is_no_bundle() {
    let text = licence().sign(&key(1));
    let word = |trust: &TrustSet, text: &str| authenticate_as::<Licence>(text, trust).unwrap_err().word();
    assert_eq!(word(&trust(), &text), "other_purpose");
    assert_eq!(word(&licences(), &licence().sign(&key(2))), "unknown_key");
    assert_eq!(word(&licences(), &sign(&bundle(1))), "malformed");
    assert_eq!(authenticate(&text, &licences()).unwrap_err().word(), "malformed");
    let issuer = "https://other.example".to_owned();
    let trust: TrustSet = [TrustedKey { issuer, purpose: Purpose::Licence, ..trusted(&key(1)) }].into_iter().collect();
    assert_eq!(word(&trust, &text), "other_issuer");
    let withdrawn = TrustedKey { distrusted: true, purpose: Purpose::Licence, ..trusted(&key(1)) };
    assert_eq!(word(&[withdrawn].into_iter().collect(), &text), "distrusted_key");
}

#[test]
fn a_key_signs_licences_in_its_time_only() {
    let not_after = at(ISSUED + DAY);
    let trust: TrustSet = [TrustedKey { purpose: Purpose::Licence, not_after, ..trusted(&key(1)) }].into_iter().collect();
    let judge = |now| {
        let authentic = authenticate_as(&licence().sign(&key(1)), &trust).unwrap();
        judge_licence(authentic, place(), &BTreeSet::new(), clock(now)).map_err(|refusal| refusal.word())
    };
    assert!(judge(ISSUED + DAY - 1).is_ok());
    assert_eq!(judge(ISSUED + DAY).unwrap_err(), "key_out_of_time");
}

#[test]
fn a_change_of_any_bit_is_refused() {
    let text = licence().sign(&key(1));
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let changed = String::from_utf8(bytes).unwrap();
        assert!(authenticate_as::<Licence>(&changed, &licences()).is_err(), "byte {at}");
    }
}

#[test]
fn faults_are_named_with_their_place() {
    let text = licence().to_json().to_string();
    for (piece, other, fault) in [
        (r#""sub":"acme","#, "", "$.sub: is missing"),
        (r#""sub":"acme""#, r#""sub":"""#, "$.sub: '' is empty"),
        (r#""jti":"018c-7","#, "", "$.jti: is missing"),
        (r#""aud":"editor""#, r#""aud":["editor"]"#, "$.aud: must be a string, not an array"),
        (r#""holder""#, r#""scope":"all","holder""#, "$.scope: unknown member; known are iss, sub"),
        (r#""sso":true"#, r#""sso":null"#, "$.features.sso: must be a value, not null"),
        (r#""sso":true"#, r#""s o":true"#, "$.features['s o']: 's o' contains ' '"),
        (r#""sso":true"#, r#""sso":true,"sso":false"#, "$.features.sso: the key appears more than once"),
        (r#""seat":"seats""#, r#""seat":1"#, "$.seat: must be a string, not a number"),
        (r#""lease":604800"#, r#""lease":0"#, "$.lease: 0 is not an integer from 1"),
        (r#""lease":604800,"#, "", "$.lease: is missing"),
        (r#""lease":604800"#, r#""lease":604799"#, "$.exp: is after the end of the lease"),
        (r#""nbf":1700000000"#, r#""nbf":1700604800"#, "$.exp: is not after iat and nbf"),
        (r#""nonce":"n-1""#, r#""nonce":"n-1","serial":1"#, "$.machine.serial: unknown member; known are id, key, nonce"),
        (r#"{"id":"#, r#"{"id":"x","id":"#, "$.machine.id: the key appears more than once"),
    ] {
        assert_eq!(text.matches(piece).count(), 1, "{piece} in {text}");
        let faults = Licence::parse(text.replace(piece, other).as_bytes()).unwrap_err();
        assert!(faults[0].to_string().starts_with(fault), "{} for {other}", faults[0]);
    }
}

#[test]
fn a_vendor_cannot_tell_which_machine_of_another_vendor_it_is() {
    assert_ne!(MachineId::derive(b"id", "a"), MachineId::derive(b"id", "b"));
    assert_ne!(MachineId::derive(b"bid", "a"), MachineId::derive(b"id", "ab"));
}

fn any_value() -> impl Strategy<Value = Json> {
    prop_oneof![
        any::<bool>().prop_map(Json::Bool),
        (0u32..1_000_000).prop_map(Json::number),
        Just(Json::string("unlimited")),
        "[^\\p{C}]{0,9}".prop_map(|text| Json::object([("level", Json::string(text))])),
    ]
}

prop_compose! {
    fn any_order()(
        (id, account, audience) in ("[^\\p{C}]{1,9}", "[^\\p{C}]{1,9}", prop::option::of("[^\\p{C}]{1,9}")),
        (holder, reason) in (prop::option::of("[^\\p{C}]{1,9}"), prop::option::of("[^\\p{C}]{1,9}")),
        (issued_at, lease, left) in (0i64..100_000_000_000, 1i64..=315_360_000, prop::option::of(1i64..400_000_000)),
        features in prop::collection::btree_map("[a-z][a-z0-9_.:-]{0,8}", any_value(), 0..5),
        seat in prop::option::of("[a-z]{1,5}"),
        heartbeat in prop::option::of(1i64..=315_360_000),
        machine in prop::option::of((any::<u64>(), prop::option::of(0u8..4), prop::option::of("[^\\p{C}]{1,9}"))),
    ) -> Order {
        Order {
            id,
            issuer: ISSUER.into(),
            account: AccountKey::parse(&account).unwrap(),
            audience,
            holder,
            issued_at: date(issued_at),
            lease,
            entitled_until: left.map_or(FOREVER, |left| at(issued_at + left)),
            features: features.into_iter().map(|(key, value)| (FeatureKey::parse(&key).unwrap(), value)).collect(),
            seat: seat.map(|seat| FeatureKey::parse(&seat).unwrap()),
            heartbeat,
            machine: machine.map(|(identity, seed, nonce)| Binding {
                machine: MachineId::derive(&identity.to_be_bytes(), ISSUER),
                key: seed.map(|seed| key(seed).public().kid()),
                nonce,
            }),
            reason,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_issued_is_read_back_and_never_outlives_lease_or_entitlement(order in any_order()) {
        let licence = Licence::issue(order.clone()).unwrap();
        prop_assert_eq!(Licence::parse(licence.to_json().to_string().as_bytes()), Ok(licence.clone()));
        let lease_ends = order.issued_at.seconds() + order.lease;
        prop_assert!(licence.expires.seconds() <= lease_ends && licence.expires.time() <= order.entitled_until);
        let ends_with = [date(lease_ends), NumericDate::from_time(order.entitled_until)];
        prop_assert!(ends_with.contains(&licence.expires));
    }

    #[test]
    fn whenever_it_is_accepted_it_is_before_its_end(now in ISSUED - DAY..ISSUED + 9 * DAY, seen in ISSUED - DAY..ISSUED + 9 * DAY) {
        let clock = Clock { now: at(now), highest: at(seen) };
        let accepted = judged(&licence(), place(), &[], clock).is_ok();
        let expected = now.max(seen) < ISSUED + 7 * DAY && now.max(seen) >= ISSUED - 300 && now >= seen - 300;
        prop_assert_eq!(accepted, expected);
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), payload in any::<String>()) {
        let forged = entitlements_bundle::Jws::sign(payload.as_bytes(), LICENCE_TYPE, &key(1));
        for text in [text, forged] {
            let refused: Result<_, Refusal> = authenticate_as::<Licence>(&text, &licences());
            prop_assert!(refused.is_err());
        }
    }
}
