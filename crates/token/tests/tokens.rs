//! Tokens as issuers and attackers make them, signed here by libraries of their own.

use ed25519_dalek::{Signer, SigningKey};
use entitlements_bundle::base64url::encode;
use entitlements_token::{AccountClaim, Algorithm, LEEWAY, MOST_BYTES, PublicKey, Refusal, Terms, Token};
use proptest::prelude::*;
use rsa::pkcs1v15;
use rsa::{BigUint, RsaPrivateKey};
use signature::SignatureEncoding;
use std::sync::LazyLock;

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "orders";

/// 2026-01-01 00:00:00 UTC, in seconds since 1970 and as the model has it.
const NOW_SECONDS: i64 = 1_767_225_600;
const NOW: i64 = (NOW_SECONDS - 946_684_800) * 1_000_000;

/// RFC 7515 §A.2.
const N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const D: &str = "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ";

/// Who can sign.
enum Issuer {
    Ed25519(SigningKey),
    P256(p256::ecdsa::SigningKey),
    Rsa(Box<pkcs1v15::SigningKey<rsa::sha2::Sha256>>),
}

static ED25519: LazyLock<Issuer> = LazyLock::new(|| Issuer::Ed25519(SigningKey::from_bytes(&[7; 32])));
static OTHER: LazyLock<Issuer> = LazyLock::new(|| Issuer::Ed25519(SigningKey::from_bytes(&[8; 32])));
static P256: LazyLock<Issuer> =
    LazyLock::new(|| Issuer::P256(p256::ecdsa::SigningKey::from_slice(&[7; 32]).expect("a number below the order")));
static RSA: LazyLock<Issuer> = LazyLock::new(|| {
    let number = |text| BigUint::from_bytes_be(&entitlements_bundle::base64url::decode(text).unwrap());
    let key = RsaPrivateKey::from_components(number(N), 65_537u32.into(), number(D), Vec::new()).unwrap();
    Issuer::Rsa(Box::new(pkcs1v15::SigningKey::new(key)))
});

impl Issuer {
    fn sign(&self, message: &str) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.sign(message.as_bytes()).to_bytes().to_vec(),
            Self::P256(key) => Signer::<p256::ecdsa::Signature>::sign(key, message.as_bytes()).to_vec(),
            Self::Rsa(key) => key.sign(message.as_bytes()).to_vec(),
        }
    }

    fn jwk(&self) -> String {
        match self {
            Self::Ed25519(key) => {
                format!(
                    r#"{{"kty": "OKP", "crv": "Ed25519", "kid": "key", "x": "{}"}}"#,
                    encode(key.verifying_key().as_bytes())
                )
            }
            Self::P256(key) => {
                let point = key.verifying_key().to_encoded_point(false);
                let (x, y) = (encode(point.x().unwrap()), encode(point.y().unwrap()));
                format!(r#"{{"kty": "EC", "crv": "P-256", "kid": "key", "x": "{x}", "y": "{y}"}}"#)
            }
            Self::Rsa(_) => format!(r#"{{"kty": "RSA", "kid": "key", "n": "{N}", "e": "AQAB"}}"#),
        }
    }

    fn public(&self) -> PublicKey {
        PublicKey::from_jwk(&self.jwk()).unwrap()
    }

    fn algorithm(&self) -> &'static str {
        self.public().algorithm().as_str()
    }

    /// A token of any header and payload.
    fn token(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
        let signature = encode(&self.sign(&input));
        format!("{input}.{signature}")
    }

    fn token_of(&self, payload: &str) -> String {
        self.token(&header(self.algorithm()), payload)
    }

    /// What comes of a token under the usual terms.
    fn reads(&self, token: &str) -> Result<String, Refusal> {
        self.reads_at(token, "sub", NOW)
    }

    fn reads_at(&self, token: &str, claim: &str, now: i64) -> Result<String, Refusal> {
        let (key, claim) = (self.public(), AccountClaim::parse(claim).unwrap());
        let terms = Terms { key: &key, issuer: ISSUER, audience: AUDIENCE, claim: &claim };
        Token::parse(token)?.account(terms, now)
    }
}

fn header(algorithm: &str) -> String {
    format!(r#"{{"alg": "{algorithm}", "typ": "JWT", "kid": "key"}}"#)
}

/// Claims that are in order, with others instead of or beside them; an empty value leaves the claim out.
fn claims(changed: &[(&str, &str)]) -> String {
    let expires = (NOW_SECONDS + 300).to_string();
    let issuer = format!("\"{ISSUER}\"");
    let usual = [("iss", issuer.as_str()), ("aud", "\"orders\""), ("exp", &expires), ("sub", "\"acme\"")];
    let kept = usual.into_iter().filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    let members = kept.chain(changed.iter().copied().filter(|(_, value)| !value.is_empty()));
    let members: Vec<String> = members.map(|(name, value)| format!("\"{name}\": {value}")).collect();
    format!("{{{}}}", members.join(", "))
}

#[test]
fn each_algorithm_binds_the_account() {
    for issuer in [&*ED25519, &*P256, &*RSA] {
        let token = issuer.token_of(&claims(&[]));
        assert_eq!(issuer.reads(&token).as_deref(), Ok("acme"), "{}", issuer.algorithm());
        for other in [&*ED25519, &*P256, &*RSA] {
            if other.algorithm() != issuer.algorithm() {
                assert_eq!(other.reads(&token), Err(Refusal::Algorithm));
            }
        }
    }
    assert_eq!(ED25519.reads(&ED25519.token(&header("Ed25519"), &claims(&[]))).as_deref(), Ok("acme"));
}

#[test]
fn types_of_tokens_to_sign_in_with() {
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = format!(r#"{{"alg": "EdDSA", "typ": "{typ}", "kid": "key"}}"#);
        assert_eq!(ED25519.reads(&ED25519.token(&header, &claims(&[]))).as_deref(), Ok("acme"), "{typ}");
    }
    let without = ED25519.token(r#"{"alg": "EdDSA", "kid": "key", "nonce": "not looked at"}"#, &claims(&[]));
    assert_eq!(ED25519.reads(&without).as_deref(), Ok("acme"));
}

#[test]
fn the_account_stands_where_the_key_says() {
    let token =
        ED25519.token_of(&claims(&[("org", r#"{"id": 42, "keys": ["a", "b"]}"#), ("https://x.example/tenant", "\"t\"")]));
    for (claim, account) in [("sub", "acme"), ("/org/id", "42"), ("/org/keys/1", "b"), ("https://x.example/tenant", "t")] {
        assert_eq!(ED25519.reads_at(&token, claim, NOW).as_deref(), Ok(account), "{claim}");
    }
    for claim in ["org", "/org", "/org/keys", "/org/keys/2", "nothing", "/sub/x"] {
        assert_eq!(ED25519.reads_at(&token, claim, NOW), Err(Refusal::Claim), "{claim}");
    }
}

#[test]
fn an_algorithm_that_the_key_has_not_is_refused() {
    let claims = claims(&[]);
    for algorithm in ["none", "None", "NONE", "", "HS256", "RS256", "ES256", "PS256", "ES384", "eddsa", "EdDSA ", "Ed448"] {
        assert_eq!(ED25519.reads(&ED25519.token(&header(algorithm), &claims)), Err(Refusal::Algorithm), "{algorithm}");
    }
    for algorithm in ["none", "HS256", "PS256", "RS384", "RS512", "ES256"] {
        assert_eq!(RSA.reads(&RSA.token(&header(algorithm), &claims)), Err(Refusal::Algorithm), "{algorithm}");
    }
    let unsigned = format!("{}.{}.", encode(header("none").as_bytes()), encode(claims.as_bytes()));
    assert_eq!(ED25519.reads(&unsigned), Err(Refusal::Algorithm));
    let unsigned = format!("{}.{}.", encode(header("EdDSA").as_bytes()), encode(claims.as_bytes()));
    assert_eq!(ED25519.reads(&unsigned), Err(Refusal::BadSignature));
}

/// RFC 7519 §3.1 (signed with HS256) and §6.1 (not signed).
#[test]
fn the_examples_of_rfc_7519_are_refused() {
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let hs256 = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{claims}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    // Neither names a key.
    assert_eq!(RSA.reads(&hs256), Err(Refusal::Header));
    assert_eq!(RSA.reads(&format!("eyJhbGciOiJub25lIn0.{claims}.")), Err(Refusal::Header));
}

#[test]
fn headers_that_bring_rules_or_keys_are_refused() {
    for member in [
        &*format!(r#""jwk": {}"#, OTHER.jwk()),
        r#""jku": "https://evil.example/keys""#,
        r#""x5u": "https://evil.example/cert""#,
        r#""x5c": ["MIIB"]"#,
        r#""x5t": "AAAA""#,
        r#""crit": ["exp"]"#,
        r#""crit": []"#,
        r#""b64": false"#,
        r#""b64": true"#,
        r#""zip": "DEF""#,
        r#""enc": "A128GCM""#,
        r#""jwk": null"#,
        r#""typ": "logout+jwt""#,
        r#""typ": "entitlements-bundle+jwt""#,
        r#""typ": "JOSE""#,
        r#""typ": 7"#,
        r#""typ": null"#,
    ] {
        let header = format!(r#"{{"alg": "EdDSA", "kid": "key", {member}}}"#);
        assert_eq!(ED25519.reads(&ED25519.token(&header, &claims(&[]))), Err(Refusal::Header), "{member}");
        assert_eq!(ED25519.reads(&OTHER.token(&header, &claims(&[]))), Err(Refusal::Header), "{member}");
    }
    for header in
        [r#"{}"#, r#"{"alg": "EdDSA"}"#, r#"{"kid": "key"}"#, r#"{"alg": "EdDSA", "kid": 7}"#, r#"{"alg": 7, "kid": "key"}"#]
    {
        assert_eq!(ED25519.reads(&ED25519.token(header, &claims(&[]))), Err(Refusal::Header), "{header}");
    }
}

#[test]
fn another_key_is_not_this_one() {
    assert_eq!(ED25519.reads(&OTHER.token_of(&claims(&[]))), Err(Refusal::BadSignature));
    let named = r#"{"alg": "EdDSA", "kid": "other"}"#;
    assert_eq!(ED25519.reads(&ED25519.token(named, &claims(&[]))), Err(Refusal::UnknownKey));
    assert_eq!(Token::parse(&ED25519.token(named, "{}")).unwrap().kid(), "other");
}

#[test]
fn every_changed_bit_is_noticed() {
    let token = P256.token_of(&claims(&[]));
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(P256.reads(&changed).is_err(), "changed at {at}");
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let token = ED25519.token_of(&claims(&[]));
    let (header, signature) = (token.split_once('.').unwrap().0, token.rsplit_once('.').unwrap().1);
    let with_header = |header: &str| ED25519.token(header, &claims(&[]));
    let long = ED25519.token_of(&claims(&[("pad", &format!("\"{}\"", "x".repeat(MOST_BYTES)))]));
    for text in [
        "",
        ".",
        "..",
        "...",
        "acme",
        "a.b",
        header,
        &token.replace('.', ""),
        &format!("{token}."),
        &format!(".{token}"),
        &format!("{token}.{signature}"),
        &format!(" {token}"),
        &format!("{token} "),
        &format!("{token}\n"),
        &format!("Bearer {token}"),
        &format!("{token}="),
        &format!("{header}=.{}.{signature}", encode(claims(&[]).as_bytes())),
        &with_header(""),
        &with_header("7"),
        &with_header("[]"),
        &with_header("null"),
        &with_header(r#"{"alg": "EdDSA", "kid": "key""#),
        &with_header(r#"{"alg": "EdDSA", "kid": "key"} {}"#),
        &with_header(r#"{"alg": "EdDSA", "kid": "key", "kid": "key"}"#),
        &with_header(r#"{"alg": "none", "kid": "key", "alg": "EdDSA"}"#),
        &with_header("{\"alg\": \"EdDSA\", \"kid\": \"key\", \"x\": \"\\ud800\"}"),
        &format!("{}.{}.{signature}", encode(b"\xff{}"), encode(b"{}")),
        &long,
    ] {
        assert_eq!(ED25519.reads(text), Err(Refusal::Malformed), "{text}");
    }
    let duplicate =
        r#"{"iss": "https://issuer.example", "aud": "orders", "exp": 9999999999, "sub": "acme", "sub": "rival"}"#;
    for payload in ["", "7", "[]", "\"acme\"", "{", duplicate, "{\"sub\": \"acme\\u0000\"}"] {
        assert_eq!(ED25519.reads(&ED25519.token_of(payload)), Err(Refusal::Malformed), "{payload}");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(ED25519.reads(&ED25519.token_of(&deep)), Err(Refusal::Malformed));
}

#[test]
fn the_longest_token_is_read() {
    let length = |pad: usize| ED25519.token_of(&claims(&[("pad", &format!("\"{}\"", "x".repeat(pad)))])).len();
    let pad = (0..).map(|less| MOST_BYTES * 3 / 4 - less).find(|pad| length(*pad) <= MOST_BYTES).unwrap();
    let token = ED25519.token_of(&claims(&[("pad", &format!("\"{}\"", "x".repeat(pad)))]));
    assert!(token.len() > MOST_BYTES - 8);
    assert_eq!(ED25519.reads(&token).as_deref(), Ok("acme"));
}

#[test]
fn the_issuer_is_the_one_of_the_key() {
    for issuer in [
        "",
        "null",
        "7",
        "\"\"",
        "\"https://issuer.example/\"",
        "\"https://ISSUER.example\"",
        "[\"https://issuer.example\"]",
    ] {
        assert_eq!(ED25519.reads(&ED25519.token_of(&claims(&[("iss", issuer)]))), Err(Refusal::WrongIssuer), "{issuer}");
    }
}

#[test]
fn the_audience_is_among_those_meant() {
    for audience in ["\"orders\"", "[\"orders\"]", "[\"billing\", \"orders\"]", "[7, \"orders\"]"] {
        assert_eq!(ED25519.reads(&ED25519.token_of(&claims(&[("aud", audience)]))).as_deref(), Ok("acme"), "{audience}");
    }
    for audience in
        ["", "null", "7", "\"\"", "[]", "\"billing\"", "[\"billing\"]", "\"orders \"", "[[\"orders\"]]", "{\"orders\": 1}"]
    {
        assert_eq!(
            ED25519.reads(&ED25519.token_of(&claims(&[("aud", audience)]))),
            Err(Refusal::WrongAudience),
            "{audience}"
        );
    }
}

#[test]
fn times_count_to_the_second_and_with_leeway() {
    let leeway = LEEWAY / 1_000_000;
    let at = |name: &str, seconds: i64| ED25519.reads(&ED25519.token_of(&claims(&[(name, &seconds.to_string())])));
    assert_eq!(at("exp", NOW_SECONDS - leeway), Err(Refusal::Expired));
    assert_eq!(at("exp", NOW_SECONDS - leeway + 1).as_deref(), Ok("acme"));
    assert_eq!(at("exp", 0), Err(Refusal::Expired));
    assert_eq!(at("exp", i64::MIN), Err(Refusal::Expired));
    assert_eq!(at("exp", i64::MAX).as_deref(), Ok("acme"));
    for begins in ["nbf", "iat"] {
        assert_eq!(at(begins, NOW_SECONDS + leeway).as_deref(), Ok("acme"), "{begins}");
        assert_eq!(at(begins, NOW_SECONDS + leeway + 1), Err(Refusal::NotYetValid), "{begins}");
        assert_eq!(at(begins, i64::MAX), Err(Refusal::NotYetValid), "{begins}");
        assert_eq!(at(begins, 0).as_deref(), Ok("acme"), "{begins}");
    }
    let fraction = claims(&[("exp", &format!("{NOW_SECONDS}.5")), ("iat", &format!("{NOW_SECONDS}.25"))]);
    assert_eq!(ED25519.reads(&ED25519.token_of(&fraction)).as_deref(), Ok("acme"));
    assert!((0..=60).contains(&leeway));
}

#[test]
fn claims_of_the_wrong_type_are_refused() {
    for (name, value) in [
        ("exp", ""),
        ("exp", "null"),
        ("exp", "\"9999999999\""),
        ("exp", "true"),
        ("exp", "[9999999999]"),
        ("nbf", "\"0\""),
        ("nbf", "null"),
        ("iat", "\"0\""),
        ("iat", "{}"),
        ("sub", ""),
        ("sub", "\"\""),
        ("sub", "null"),
        ("sub", "true"),
        ("sub", "1.5"),
        ("sub", "[\"acme\"]"),
        ("sub", "{\"id\": \"acme\"}"),
    ] {
        assert_eq!(ED25519.reads(&ED25519.token_of(&claims(&[(name, value)]))), Err(Refusal::Claim), "{name} {value}");
    }
}

#[test]
fn every_refusal_has_a_word_of_its_own() {
    let words: std::collections::BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
    assert_eq!(words.len(), Refusal::ALL.len());
    assert_eq!(ED25519.public().algorithm(), Algorithm::EdDsa);
}

proptest! {
    #[test]
    fn no_text_does_harm(text in "\\PC{0,200}", parts in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,3}") {
        for text in [text, parts] {
            prop_assert!(ED25519.reads(&text).is_err());
        }
    }

    #[test]
    fn no_header_or_payload_does_harm(header in "\\PC{0,60}", payload in "\\PC{0,60}") {
        prop_assert!(ED25519.reads(&ED25519.token(&header, &payload)).is_err());
        prop_assert!(ED25519.reads(&ED25519.token_of(&payload)).is_err());
    }

    #[test]
    fn every_key_arrives_as_it_was_sent(account in "\\PC{1,40}") {
        let sub = entitlements_model::json::Json::string(&account).to_string();
        let token = ED25519.token_of(&claims(&[("sub", &sub)]));
        prop_assert_eq!(ED25519.reads(&token), Ok(account));
    }

    #[test]
    fn a_token_is_valid_from_nbf_to_exp(begins in -500i64..500, ends in -500i64..500, now in -500i64..500) {
        let token = ED25519.token_of(&claims(&[
            ("nbf", &(NOW_SECONDS + begins).to_string()),
            ("exp", &(NOW_SECONDS + ends).to_string()),
        ]));
        let leeway = LEEWAY / 1_000_000;
        let expected = if now >= ends + leeway {
            Err(Refusal::Expired)
        } else if now < begins - leeway {
            Err(Refusal::NotYetValid)
        } else {
            Ok("acme".to_owned())
        };
        prop_assert_eq!(ED25519.reads_at(&token, "sub", NOW + now * 1_000_000), expected);
    }
}
