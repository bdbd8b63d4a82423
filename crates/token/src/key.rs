//! Public keys as JSON Web Keys (RFC 7517): the ones that can be trusted, each for exactly one algorithm.

use entitlements_bundle::{Kid, PublicKey as Ed25519Key, base64url};
use entitlements_model::fault::{Fault, Faults, Path};
use entitlements_model::json::{self, Json, Limits};
use jsonwebtoken::{Algorithm as Jwa, DecodingKey, crypto};
use std::fmt;

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037, RFC 9864).
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
    Rs256,
}

impl Algorithm {
    pub fn as_str(self) -> &'static str {
        self.names()[0]
    }

    /// What a header may call it.
    pub(crate) fn names(self) -> &'static [&'static str] {
        match self {
            Self::EdDsa => &["EdDSA", "Ed25519"],
            Self::Es256 => &["ES256"],
            Self::Rs256 => &["RS256"],
        }
    }

    fn jwa(self) -> Jwa {
        match self {
            Self::EdDsa => Jwa::EdDSA,
            Self::Es256 => Jwa::ES256,
            Self::Rs256 => Jwa::RS256,
        }
    }
}

const LIMITS: Limits = Limits { bytes: 64 << 10, depth: 8, nodes: 1_000 };

/// Members of private and of symmetric keys (RFC 7518 §6).
const SECRETS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Bits of an RSA modulus: below, it can be broken; above, signatures are not checked.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// A key that signatures are checked with.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: Algorithm,
    kid: String,
    /// Name and base64url text of each member that the thumbprint covers (RFC 7638 §3.2), in its order.
    members: Vec<(&'static str, String)>,
    key: DecodingKey,
}

impl PublicKey {
    /// Reads a public JWK. Its `kid` is its own, or else the thumbprint (RFC 7638). Faults say what is wrong with it; a private key
    /// is one, so that it is not stored by mistake. Members that have no say here (such as `x5c`) are ignored.
    pub fn from_jwk(text: &str) -> Result<Self, Vec<Fault>> {
        let json = json::parse(text, LIMITS)?;
        let mut faults = Faults::default();
        match Self::read(&json, &mut faults) {
            Some(key) if faults.is_empty() => Ok(key),
            _ => Err(faults.into_vec()),
        }
    }

    /// None when a fault was noted.
    fn read(json: &Json, faults: &mut Faults) -> Option<Self> {
        let root = Path::Root;
        if !matches!(json, Json::Object(_)) {
            faults.push(&root, || "must be a JSON Web Key, an object".into());
            return None;
        }
        if let Some(secret) = SECRETS.iter().find(|name| json.get(name).is_some()) {
            faults.push(&root.member(secret), || "this is a secret part of a key; it must not leave its owner".into());
            return None;
        }
        let (algorithm, names): (_, &[&'static str]) = match (word(json, "kty"), word(json, "crv")) {
            (Some("OKP"), Some("Ed25519")) => (Algorithm::EdDsa, &["crv", "kty", "x"]),
            (Some("EC"), Some("P-256")) => (Algorithm::Es256, &["crv", "kty", "x", "y"]),
            (Some("RSA"), _) => (Algorithm::Rs256, &["e", "kty", "n"]),
            _ => {
                faults.push(&root, || "must be a key of kty OKP on Ed25519, EC on P-256, or RSA".into());
                return None;
            }
        };
        let mut members = Vec::new();
        for name in names {
            match word(json, name) {
                Some(text) => members.push((*name, text.to_owned())),
                None => faults.push(&root.member(name), || "must be a string".into()),
            }
        }
        uses(json, algorithm, faults);
        if !faults.is_empty() {
            return None;
        }
        let part = |name: &str| members.iter().find(|(member, _)| *member == name).map_or("", |(_, text)| text);
        let key = match algorithm {
            Algorithm::EdDsa => ed25519(part("x")),
            Algorithm::Es256 => p256(part("x"), part("y")),
            Algorithm::Rs256 => rsa(part("n"), part("e")),
        };
        let key = match key {
            Ok(key) => key,
            Err(fault) => {
                faults.push(&root, || fault.into());
                return None;
            }
        };
        let kid = kid(json, &members, faults)?;
        Some(Self { algorithm, kid, members, key })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key with the members that count, and no others.
    pub fn to_jwk(&self) -> Json {
        let own = self.members.iter().map(|(name, text)| (*name, Json::string(text)));
        Json::object(own.chain([
            ("kid", Json::string(&self.kid)),
            ("use", Json::string("sig")),
            ("alg", Json::string(self.algorithm.as_str())),
        ]))
    }

    /// Whether the signature, in base64url, is this key's under the message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        crypto::verify(signature, message, &self.key, self.algorithm.jwa()).unwrap_or(false)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {:?})", self.algorithm.as_str(), self.kid)
    }
}

fn word<'j>(json: &'j Json, name: &str) -> Option<&'j str> {
    match json.get(name) {
        Some(Json::String(text)) => Some(text),
        _ => None,
    }
}

/// A key that says what it is for must be for this.
fn uses(json: &Json, algorithm: Algorithm, faults: &mut Faults) {
    let root = Path::Root;
    if json.get("use").is_some_and(|json| *json != Json::string("sig")) {
        faults.push(&root.member("use"), || "must be \"sig\"".into());
    }
    if json.get("alg").is_some_and(|json| !algorithm.names().iter().any(|name| *json == Json::string(*name))) {
        faults.push(&root.member("alg"), || {
            format!("must be \"{}\", the algorithm of such a key", algorithm.names().join("\" or \""))
        });
    }
    let verifies = |json: &Json| matches!(json, Json::Array(operations) if operations.contains(&Json::string("verify")));
    if json.get("key_ops").is_some_and(|json| !verifies(json)) {
        faults.push(&root.member("key_ops"), || "does not allow the key to verify".into());
    }
}

fn kid(json: &Json, members: &[(&'static str, String)], faults: &mut Faults) -> Option<String> {
    match json.get("kid") {
        None => {
            let members = members.iter().map(|(name, text)| (*name, Json::string(text)));
            Some(Kid::of(Json::object(members).to_string().as_bytes()).to_string())
        }
        Some(Json::String(kid)) if (1..=255).contains(&kid.len()) && !kid.chars().any(char::is_control) => {
            Some(kid.to_string())
        }
        Some(_) => {
            faults.push(&Path::Root.member("kid"), || "must be 1 to 255 bytes of text without control characters".into());
            None
        }
    }
}

/// Refuses what is no point, not its canonical encoding, or of small order.
fn ed25519(x: &str) -> Result<DecodingKey, &'static str> {
    let point = base64url::decode_array(x).and_then(Ed25519Key::from_bytes);
    point.and_then(|_| DecodingKey::from_ed_components(x).ok()).ok_or("x is not a public key of Ed25519 in base64url")
}

fn p256(x: &str, y: &str) -> Result<DecodingKey, &'static str> {
    const FAULT: &str = "x and y are not a point of P-256 in base64url";
    if base64url::decode_array::<32>(x).is_none() || base64url::decode_array::<32>(y).is_none() {
        return Err(FAULT);
    }
    let key = DecodingKey::from_ec_components(x, y).map_err(|_| FAULT)?;
    // What is not a signature is refused after the key was made, and only by that: an error is one of the key.
    crypto::verify("", b"", &key, Jwa::ES256).map_err(|_| FAULT)?;
    Ok(key)
}

fn rsa(n: &str, e: &str) -> Result<DecodingKey, &'static str> {
    let number = |text: &str| {
        // RFC 7518 §2, Base64urlUInt: the fewest octets.
        base64url::decode(text).filter(|bytes| bytes.first().is_some_and(|byte| *byte != 0))
    };
    let bits = |bytes: &[u8]| bytes.len() * 8 - bytes[0].leading_zeros() as usize;
    let is_odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
    let (Some(modulus), Some(exponent)) = (number(n), number(e)) else {
        return Err("n and e are not numbers in base64url without leading zeros");
    };
    if !RSA_BITS.contains(&bits(&modulus)) {
        return Err("n has not 2048 to 4096 bits");
    }
    if !is_odd(&modulus) || !is_odd(&exponent) || exponent == [1] || bits(&exponent) > 32 {
        return Err("n and e are not those of a key of RSA");
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7515 §A.2.
    const RSA: &str = r#"{"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}"#;
    const RSA_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

    /// RFC 7515 §A.3.
    const EC: &str = r#"{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const EC_SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    /// RFC 8037 §A.2 and §A.4.
    const ED: &str = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const ED_SIGNATURE: &str = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    /// The payload of RFC 7515 §A.2 and §A.3.
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn vectors() -> [(&'static str, Algorithm, String, &'static str); 3] {
        [
            (RSA, Algorithm::Rs256, format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}"), RSA_SIGNATURE),
            (EC, Algorithm::Es256, format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}"), EC_SIGNATURE),
            (ED, Algorithm::EdDsa, "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".into(), ED_SIGNATURE),
        ]
    }

    #[test]
    fn the_signatures_of_the_standards() {
        for (jwk, algorithm, message, signature) in vectors() {
            let key = PublicKey::from_jwk(jwk).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert!(key.verifies(message.as_bytes(), signature), "{algorithm:?}");
            assert!(!key.verifies(format!("{message}A").as_bytes(), signature), "{algorithm:?}");
            for (_, _, other_message, other_signature) in vectors() {
                let same = other_signature == signature;
                assert_eq!(key.verifies(message.as_bytes(), other_signature), same, "{algorithm:?}");
                assert_eq!(key.verifies(other_message.as_bytes(), signature), same, "{algorithm:?}");
            }
        }
    }

    #[test]
    fn signatures_that_are_none() {
        for (jwk, algorithm, message, signature) in vectors() {
            let key = PublicKey::from_jwk(jwk).unwrap();
            let zeros = base64url::encode(&vec![0; base64url::decode(signature).unwrap().len()]);
            for wrong in ["", "AA", &signature[..signature.len() - 4], &format!("{signature}AAAA"), &zeros, "%"] {
                assert!(!key.verifies(message.as_bytes(), wrong), "{algorithm:?} {wrong}");
            }
        }
    }

    /// RFC 7638 §3.1 and RFC 8037 §A.3.
    #[test]
    fn the_thumbprints_of_the_standards() {
        let rsa = r#"{"kty": "RSA", "e": "AQAB", "alg": "RS256", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#;
        assert_eq!(PublicKey::from_jwk(rsa).unwrap().kid(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(PublicKey::from_jwk(ED).unwrap().kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn what_is_stored_reads_as_the_same_key() {
        for (jwk, _, message, signature) in vectors() {
            let named = jwk.replace('{', r#"{"kid": "mine", "x5c": ["no say here"], "#);
            for text in [jwk, &named] {
                let key = PublicKey::from_jwk(text).unwrap();
                let stored = key.to_jwk().to_string();
                let read = PublicKey::from_jwk(&stored).unwrap();
                assert!(!stored.contains("x5c"));
                assert_eq!((read.kid(), read.algorithm()), (key.kid(), key.algorithm()));
                assert!(read.verifies(message.as_bytes(), signature));
            }
        }
    }

    fn fault(jwk: &str) -> String {
        PublicKey::from_jwk(jwk).map(|key| key.kid().to_owned()).unwrap_err()[0].to_string()
    }

    #[test]
    fn secret_parts_are_refused() {
        for (jwk, name) in [(ED, "d"), (EC, "d"), (RSA, "d"), (RSA, "p"), (RSA, "oth"), (ED, "k")] {
            let private = jwk.replace('{', &format!(r#"{{"{name}": "AAAA", "#));
            assert_eq!(fault(&private), format!("$.{name}: this is a secret part of a key; it must not leave its owner"));
        }
        assert!(fault(r#"{"kty": "oct", "k": "AAAA"}"#).starts_with("$.k"));
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        for (jwk, what) in [
            ("", "$: not valid JSON"),
            ("[]", "$: must be a JSON Web Key"),
            ("{}", "$: must be a key of kty"),
            (r#"{"kty": "oct"}"#, "$: must be a key of kty"),
            (
                r#"{"kty": "OKP", "crv": "X25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
                "$: must be a key of kty",
            ),
            (r#"{"kty": "EC", "crv": "P-384", "x": "", "y": ""}"#, "$: must be a key of kty"),
            (&ED.replace("\"x\"", "\"z\""), "$.x: must be a string"),
            (&ED.replace("11qY", "11qY="), "$: x is not"),
            // Neutral element, and an encoding of it beyond the prime.
            (
                &ED.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
                "$: x is not",
            ),
            (
                &ED.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "7v_______________________________________38"),
                "$: x is not",
            ),
            (&ED.replace("Ro\"", "\""), "$: x is not"),
            // Not on the curve.
            (&EC.replace("f83O", "f83P"), "$: x and y"),
            (&EC.replace("f83O", "AAAAf83O"), "$: x and y"),
            (&EC.replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", ""), "$: x and y"),
            (&RSA.replace("ofgW", "AAAAofgW"), "$: n and e are not numbers"),
            (&RSA.replace("ofgW", "ofg="), "$: n and e are not numbers"),
            (&RSA.replace("ofgWCuLjybRl", "zo0t"), "$: n has not"),
            (&RSA.replace("ofgW", &"ofgW".repeat(100)), "$: n has not"),
            (&RSA.replace("uXpoQ", "uXpog"), "$: n and e are not those"),
            (&RSA.replace("AQAB", "AQ"), "$: n and e are not those"),
            (&RSA.replace("AQAB", "AQAC"), "$: n and e are not those"),
            (&RSA.replace("AQAB", "AQAAAAAB"), "$: n and e are not those"),
            (&RSA.replace("AQAB", ""), "$: n and e are not numbers"),
            (&ED.replace('{', r#"{"use": "enc", "#), "$.use"),
            (&ED.replace('{', r#"{"alg": "ES256", "#), "$.alg"),
            (&RSA.replace('{', r#"{"alg": "HS256", "#), "$.alg"),
            (&RSA.replace('{', r#"{"alg": "PS256", "#), "$.alg"),
            (&ED.replace('{', r#"{"key_ops": ["sign"], "#), "$.key_ops"),
            (&ED.replace('{', r#"{"key_ops": "verify", "#), "$.key_ops"),
            (&ED.replace('{', r#"{"kid": "", "#), "$.kid"),
            (&ED.replace('{', r#"{"kid": 7, "#), "$.kid"),
            (&ED.replace('{', r#"{"kid": "a\nb", "#), "$.kid"),
            (&ED.replace('{', r#"{"kty": "OKP", "#), "$.kty: the key appears more than once"),
        ] {
            let fault = fault(jwk);
            assert!(fault.starts_with(what), "{jwk}: {fault}");
        }
    }

    #[test]
    fn keys_that_say_what_they_are_for_are_read() {
        for jwk in [
            ED.replace('{', r#"{"use": "sig", "alg": "Ed25519", "key_ops": ["sign", "verify"], "#),
            EC.replace('{', r#"{"alg": "ES256", "kid": "é", "#),
            RSA.replace('{', r#"{"alg": "RS256", "ext": true, "#),
        ] {
            PublicKey::from_jwk(&jwk).unwrap_or_else(|faults| panic!("{jwk}: {faults:?}"));
        }
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in "\\PC{0,80}", part in "[A-Za-z0-9_-]{0,60}") {
            let _ = PublicKey::from_jwk(&text);
            for (jwk, name) in [(ED, "x"), (EC, "y"), (RSA, "n"), (RSA, "e")] {
                let json = json::parse(jwk, LIMITS).unwrap();
                let Json::Object(members) = json else { unreachable!() };
                let changed = members.into_iter().map(|(key, value)| {
                    let value = if key == name { Json::string(&part) } else { value };
                    (key, value)
                });
                if let Ok(key) = PublicKey::from_jwk(&Json::object(changed).to_string()) {
                    prop_assert!(!key.verifies(b"message", ED_SIGNATURE));
                }
            }
        }
    }
}
