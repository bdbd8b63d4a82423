//! What happens to a document between vendor and site: nothing that changes it, or who signed it, stays unnoticed.

use entitlements_bundle::{
    Authentic, BUNDLE_TYPE, Bundle, DEACTIVATION_TYPE, Jws, JwsError, Kid, LICENCE_REQUEST_TYPE, LICENCE_TYPE, PrivateKey,
    Purpose, Refusal, TrustSet, USAGE_REPORT_TYPE, authenticate, base64url, claimed_type,
};
use proptest::prelude::*;

use crate::vendor::{ISSUER, bundle, key, sign, sign_text, trust, trusted};

fn refused(text: &str) -> Refusal {
    authenticate(text, &trust()).unwrap_err()
}

fn word(text: &str) -> &'static str {
    refused(text).word()
}

/// Signed by the right key under a header of somebody's choice.
fn with_header(header: &str) -> String {
    let payload = bundle(1).to_json().to_string();
    let input = format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(payload.as_bytes()));
    let signature = base64url::encode(&key(1).sign(input.as_bytes()));
    format!("{input}.{signature}")
}

fn kid() -> Kid {
    key(1).public().kid()
}

/// A bundle with as few members as there may be.
fn small() -> Bundle {
    Bundle { catalog: None, accounts: Default::default(), heartbeat: None, ..bundle(1) }
}

#[test]
fn a_signed_bundle_arrives_as_it_was_sent() {
    let text = sign(&bundle(1));
    let authentic = authenticate(&text, &trust()).unwrap();
    assert_eq!(*authentic.bundle(), bundle(1));
    assert_eq!(authentic.signer().issuer, ISSUER);
    let again = authenticate(&format!("\n{text}\r\n"), &trust()).unwrap();
    assert_eq!(again.digest(), authentic.digest());
    assert_ne!(authenticate(&sign(&bundle(2)), &trust()).unwrap().digest(), authentic.digest());
}

#[test]
fn both_names_of_the_algorithm_are_read() {
    for algorithm in ["EdDSA", "Ed25519"] {
        let text = with_header(&format!(r#"{{"typ":"{BUNDLE_TYPE}","alg":"{algorithm}","kid":"{}"}}"#, kid()));
        assert_eq!(*authenticate(&text, &trust()).unwrap().bundle(), bundle(1));
    }
}

#[test]
fn a_change_of_any_bit_is_refused() {
    let text = sign(&small());
    let trust = trust();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(authenticate(&changed, &trust).is_err(), "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn a_change_of_any_bit_of_the_claims_is_refused_whatever_they_say_then() {
    let payload = small().to_json().to_string();
    let text = sign_text(&payload);
    let (header, signature) = (text.split('.').next().unwrap(), text.rsplit('.').next().unwrap());
    for at in 0..payload.len() {
        let mut bytes = payload.clone().into_bytes();
        bytes[at] ^= 1;
        let changed = format!("{header}.{}.{signature}", base64url::encode(&bytes));
        assert_eq!(word(&changed), "bad_signature", "byte {at}");
    }
}

#[test]
fn cut_off_anywhere_it_is_refused() {
    let text = sign(&small());
    for length in 0..text.len() {
        assert_eq!(word(&text[..length]), "malformed", "{length}");
    }
    for more in [".", "A", "AA", "=", ".AAAA", "\0", "\u{85}", "é"] {
        assert_eq!(word(&format!("{text}{more}")), "malformed", "{more:?}");
    }
}

#[test]
fn the_header_has_exactly_three_members() {
    let kid = kid();
    let jwk = key(1).public().to_jwk();
    for header in [
        format!(r#"{{"alg":"none","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"None","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"HS256","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"eddsa","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":["EdDSA"],"kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"EdDSA","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"vendor-1","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"JWT"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","alg":"none"}}"#),
        format!(r#"{{"alg":"none","alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","crit":["b64"],"b64":false}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","crit":[]}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","b64":true}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","jwk":{jwk}}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","jku":"https://evil.example"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","x5u":"https://evil.example"}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","x5c":[]}}"#),
        format!(r#"{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}","cty":"json"}}"#),
        format!(r#"[{{"alg":"EdDSA","kid":"{kid}","typ":"{BUNDLE_TYPE}"}}]"#),
        format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\",\"typ\":\"{BUNDLE_TYPE}\"}}{}", " ".repeat(400)),
        "{}".to_owned(),
        "null".to_owned(),
        String::new(),
        "[".repeat(300),
    ] {
        assert_eq!(word(&with_header(&header)), "malformed", "{header}");
    }
}

#[test]
fn the_other_serialisations_and_the_unsigned_form_are_refused() {
    let text = sign(&bundle(1));
    let parts: Vec<&str> = text.split('.').collect();
    let json = format!(r#"{{"protected":"{}","payload":"{}","signature":"{}"}}"#, parts[0], parts[1], parts[2]);
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let detached = format!("{}..{}", parts[0], parts[2]);
    for other in [json, unsigned, detached.replace("..", "."), "..".into(), String::new()] {
        assert_eq!(word(&other), "malformed", "{other}");
    }
    assert_eq!(word(&detached), "bad_signature");
}

#[test]
fn a_document_too_large_is_not_decoded() {
    let text = "A".repeat(2_000);
    let refused = Jws::parse(&text, BUNDLE_TYPE, 300).unwrap_err();
    assert_eq!(refused, JwsError::TooLarge(2_000, 1_000));
}

#[test]
fn only_a_trusted_key_signs_and_only_for_its_issuer_and_purpose() {
    let payload = bundle(1).to_json().to_string();
    let strangers = Jws::sign(payload.as_bytes(), BUNDLE_TYPE, &key(2));
    assert_eq!(refused(&strangers), Refusal::UnknownKey(key(2).public().kid()));
    assert_eq!(refused(&strangers.replace(&kid_text(&key(2)), &kid_text(&key(1)))).word(), "bad_signature");

    let with = |change: fn(&mut entitlements_bundle::TrustedKey)| -> TrustSet {
        let mut one = trusted(&key(1));
        change(&mut one);
        [one].into_iter().collect()
    };
    let word = |trust: &TrustSet| authenticate(&sign(&bundle(1)), trust).unwrap_err().word();
    assert_eq!(word(&with(|key| key.distrusted = true)), "distrusted_key");
    assert_eq!(word(&with(|key| key.purpose = Purpose::Licence)), "other_purpose");
    assert_eq!(word(&with(|key| key.issuer = "https://other.example".into())), "other_issuer");
    assert_eq!(word(&TrustSet::default()), "unknown_key");
}

/// The part of a header that names a key, as it stands in a document.
fn kid_text(key: &PrivateKey) -> String {
    let text = Jws::sign(b"", BUNDLE_TYPE, key);
    text.split('.').next().unwrap().to_owned()
}

#[test]
fn signed_nonsense_is_refused_with_its_place() {
    for (payload, fault) in [
        ("", "$: not valid JSON"),
        ("null", "$: must be an object"),
        (r#"{"iss":"a","iss":"b"}"#, "$.iss: the key appears more than once"),
        (&"[".repeat(100_000), "$: "),
        (&format!("{}{}", "[".repeat(100), "]".repeat(100)), "$[0]"),
    ] {
        let found = refused(&sign_text(payload));
        assert!(matches!(found, Refusal::Invalid(_)));
        assert!(found.faults()[0].to_string().starts_with(fault), "{}", found.faults()[0]);
    }
    let invalid = Jws::sign(b"{\"iss\":\"\xff\"}", BUNDLE_TYPE, &key(1));
    assert_eq!(refused(&invalid).faults()[0].to_string(), "$: not valid UTF-8");
}

#[test]
fn a_document_says_what_it_is() {
    let types = [BUNDLE_TYPE, LICENCE_TYPE, LICENCE_REQUEST_TYPE, DEACTIVATION_TYPE, USAGE_REPORT_TYPE];
    for typ in types {
        let text = Jws::sign(b"{}", typ, &key(1));
        assert_eq!(claimed_type(&text).unwrap(), typ);
        for other in types.into_iter().filter(|other| *other != typ) {
            assert_eq!(Jws::parse(&text, other, 100).unwrap_err(), JwsError::Type(typ.to_owned(), other));
        }
    }
    for text in ["", "e30", "e30.", "*.", &format!("{}.", "A".repeat(513))] {
        assert!(claimed_type(text).is_err(), "{text:?}");
    }
}

#[test]
fn looking_at_a_document_proves_nothing() {
    let text = Jws::sign(b"anything", BUNDLE_TYPE, &key(2));
    let jws = Jws::parse(&text, BUNDLE_TYPE, 100).unwrap();
    assert_eq!(jws.unverified_payload(), b"anything");
    assert_eq!(jws.kid(), key(2).public().kid());
    assert_eq!(jws.clone().verify(key(1).public()), None);
    assert_eq!(jws.verify(key(2).public()).unwrap(), b"anything");
}

#[test]
fn a_key_verifies_only_what_names_it() {
    let header = Jws::sign(b"x", BUNDLE_TYPE, &key(2)).split('.').next().unwrap().to_owned();
    let input = format!("{header}.{}", base64url::encode(b"x"));
    let text = format!("{input}.{}", base64url::encode(&key(1).sign(input.as_bytes())));
    let jws = Jws::parse(&text, BUNDLE_TYPE, 100).unwrap();
    assert_eq!((jws.clone().verify(key(1).public()), jws.verify(key(2).public())), (None, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_payload_comes_back_from_its_signature(payload in prop::collection::vec(any::<u8>(), 0..200), seed in 0u8..8) {
        let text = Jws::sign(&payload, BUNDLE_TYPE, &key(seed));
        let jws = Jws::parse(&text, BUNDLE_TYPE, 200).unwrap();
        prop_assert_eq!(jws.verify(key(seed).public()), Some(payload));
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        prop_assert!(authenticate(&text, &trust()).is_err());
    }

    #[test]
    fn arbitrary_claims_never_panic(payload in any::<String>()) {
        let read: Result<Authentic, Refusal> = authenticate(&sign_text(&payload), &trust());
        prop_assert!(read.is_err());
    }
}
