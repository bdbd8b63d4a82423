//! A machine without a network: it asks, is answered, and gives up what it got.

use entitlements_bundle::{
    Binding, DEACTIVATION_TYPE, Deactivation, Digest, Jws, LICENCE_REQUEST_TYPE, Licence, LicenceRequest, MachineId, Order,
    PrivateKey,
};
use entitlements_model::json::Json;
use entitlements_model::key::{AccountKey, FeatureKey};
use proptest::prelude::*;

use crate::licence::{binding, order};
use crate::vendor::{ISSUED, ISSUER, date, key};

fn request() -> LicenceRequest {
    LicenceRequest {
        vendor: ISSUER.into(),
        made_at: date(ISSUED),
        nonce: "n-1".into(),
        machine: MachineId::derive(b"4f1c", ISSUER),
        key: key(9).public().clone(),
        account: AccountKey::parse("acme").unwrap(),
        holder: Some("press 4".into()),
        application: Some("editor".into()),
        features: [FeatureKey::parse("sso").unwrap()].into(),
    }
}

fn deactivation() -> Deactivation {
    Deactivation {
        vendor: ISSUER.into(),
        made_at: date(ISSUED + 60),
        licence: "018c-7".into(),
        machine: MachineId::derive(b"4f1c", ISSUER),
        key: key(9).public().clone(),
    }
}

fn word(text: &str) -> &'static str {
    LicenceRequest::open(text, ISSUER).map_or_else(|refusal| refusal.word(), |_| "opened")
}

#[test]
fn a_request_is_answered_by_a_licence_for_that_machine() {
    let text = request().sign(&key(9)).unwrap();
    let received = LicenceRequest::open(&text, ISSUER).unwrap();
    assert_eq!(received.document, request());
    assert_eq!(received.digest, Digest::of(request().to_json().to_string().as_bytes()));
    assert_eq!(request().binding(), binding());
    let licence = Licence::issue(Order { machine: Some(received.document.binding()), ..order() }).unwrap();
    assert_eq!(licence.machine, Some(binding()));
}

#[test]
fn a_request_is_signed_by_the_key_it_names() {
    assert_eq!(request().sign(&key(8)), None);
    let payload = request().to_json().to_string();
    assert_eq!(word(&Jws::sign(payload.as_bytes(), LICENCE_REQUEST_TYPE, &key(8))), "bad_signature");
    assert_eq!(word(&Jws::sign(payload.as_bytes(), DEACTIVATION_TYPE, &key(9))), "malformed");
    let text = request().sign(&key(9)).unwrap();
    assert_eq!(word(&text), "opened");
    assert_eq!(LicenceRequest::open(&text, "https://other.example").unwrap_err().word(), "other_audience");
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        assert_ne!(word(&String::from_utf8(bytes).unwrap()), "opened", "byte {at}");
    }
}

#[test]
fn faults_are_named_with_their_place() {
    let text = request().to_json().to_string();
    for (piece, other, fault) in [
        (r#""nonce":"n-1","#, "", "$.nonce: is missing"),
        (r#"["sso"]"#, r#"["sso","sso"]"#, "$.features[1]: the feature appears more than once"),
        (r#"["sso"]"#, r#"["s o"]"#, "$.features[0]: 's o' contains"),
        (r#""kty":"OKP""#, r#""kty":"OKP","d":"AAAA""#, "$.key.d: this is the private part of a key"),
        (r#""holder""#, r#""seat":1,"holder""#, "$.seat: unknown member; known are aud, iat"),
    ] {
        assert_eq!(text.matches(piece).count(), 1, "{piece} in {text}");
        let faults = LicenceRequest::parse(text.replace(piece, other).as_bytes()).unwrap_err();
        assert!(faults[0].to_string().starts_with(fault), "{} for {other}", faults[0]);
    }
    let claims = deactivation().to_json().to_string().replace("018c-7", "");
    assert_eq!(Deactivation::parse(claims.as_bytes()).unwrap_err()[0].to_string(), "$.jti: is empty");
}

#[test]
fn only_the_machine_that_has_a_licence_can_give_it_up() {
    let received = Deactivation::open(&deactivation().sign(&key(9)).unwrap(), ISSUER).unwrap();
    let of = |id: &str, binding: &Binding| received.document.is_of(id, binding).map_err(|refusal| refusal.word());
    assert_eq!(of("018c-7", &binding()), Ok(()));
    assert_eq!(of("018c-8", &binding()), Err("other_machine"));
    assert_eq!(of("018c-7", &Binding { machine: MachineId::derive(b"", ISSUER), ..binding() }), Err("other_machine"));
    assert_eq!(of("018c-7", &Binding { key: Some(key(8).public().kid()), ..binding() }), Err("other_machine"));
    assert_eq!(of("018c-7", &Binding { key: None, ..binding() }), Err("other_machine"));

    let payload = deactivation().to_json().to_string();
    let forged = Jws::sign(payload.as_bytes(), DEACTIVATION_TYPE, &key(8));
    assert_eq!(Deactivation::open(&forged, ISSUER).unwrap_err().word(), "bad_signature");
    assert_eq!(deactivation().sign(&key(8)), None);
    let elsewhere = Deactivation { vendor: "https://other.example".into(), ..deactivation() };
    assert_eq!(Deactivation::open(&elsewhere.sign(&key(9)).unwrap(), ISSUER).unwrap_err().word(), "other_audience");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(
        seed in any::<[u8; 32]>(),
        (nonce, account) in ("[^\\p{C}]{1,9}", "[^\\p{C}]{1,9}"),
        (holder, application) in (prop::option::of("[^\\p{C}]{1,9}"), prop::option::of("[^\\p{C}]{1,9}")),
        features in prop::collection::btree_set("[a-z]{1,5}", 0..4),
    ) {
        let key = PrivateKey::from_seed(&seed);
        let account = AccountKey::parse(&account).unwrap();
        let features = features.iter().map(|feature| FeatureKey::parse(feature).unwrap()).collect();
        let public = key.public().clone();
        let request = LicenceRequest { nonce, account, holder, application, features, key: public.clone(), ..request() };
        let text = request.sign(&key).unwrap();
        prop_assert_eq!(LicenceRequest::open(&text, ISSUER).unwrap().document, request);
        let deactivation = Deactivation { key: public, ..deactivation() };
        let text = deactivation.sign(&key).unwrap();
        prop_assert_eq!(Deactivation::open(&text, ISSUER).unwrap().document, deactivation);
    }

    #[test]
    fn arbitrary_claims_never_panic(payload in any::<String>()) {
        let signed = |typ| Jws::sign(payload.as_bytes(), typ, &key(9));
        prop_assert!(LicenceRequest::open(&signed(LICENCE_REQUEST_TYPE), ISSUER).is_err());
        prop_assert!(Deactivation::open(&signed(DEACTIVATION_TYPE), ISSUER).is_err());
        prop_assert!(LicenceRequest::parse(Json::string(payload).to_string().as_bytes()).is_err());
    }
}
