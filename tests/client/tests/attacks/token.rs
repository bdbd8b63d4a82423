//! Session tokens as an identity provider makes them, and as a forger does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use rand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

/// A key pair, named by its thumbprint (RFC 7638).
pub struct Key {
    pub kid: String,
    secret: SigningKey,
}

impl Key {
    pub fn new() -> Self {
        let secret = SigningKey::from_bytes(&rand::rng().random());
        let x = URL_SAFE_NO_PAD.encode(secret.verifying_key().to_bytes());
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        Self { kid: URL_SAFE_NO_PAD.encode(Sha256::digest(members)), secret }
    }

    /// Another key under the same name.
    pub fn impostor(&self) -> Self {
        Self { kid: self.kid.clone(), ..Self::new() }
    }

    pub fn public(&self) -> [u8; 32] {
        self.secret.verifying_key().to_bytes()
    }

    pub fn jwk(&self) -> String {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": URL_SAFE_NO_PAD.encode(self.public())}).to_string()
    }
}

pub struct Token {
    pub header: Value,
    pub claims: Value,
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs() as i64
}

impl Token {
    /// A token that is right for the next minutes, once it is signed.
    pub fn of(account: &str) -> Self {
        Self {
            header: json!({"alg": "EdDSA", "typ": "JWT"}),
            claims: json!({
                "iss": "https://id.example", "aud": "app", "sub": account, "iat": now() - 1, "exp": now() + 600,
            }),
        }
    }

    pub fn header(mut self, member: &str, value: Value) -> Self {
        self.header[member] = value;
        self
    }

    pub fn claim(mut self, member: &str, value: Value) -> Self {
        self.claims[member] = value;
        self
    }

    fn input(&self) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}", part(&self.header), part(&self.claims))
    }

    /// Signed with Ed25519, and named after the key unless it has a name already.
    pub fn signed_by(mut self, key: &Key) -> String {
        if self.header.get("kid").is_none() {
            self.header["kid"] = json!(key.kid);
        }
        let input = self.input();
        let signature = key.secret.sign(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    /// With an HMAC over it.
    pub fn sealed_with(self, secret: &[u8]) -> String {
        let input = self.input();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
        mac.update(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    pub fn unsigned(self) -> String {
        format!("{}.", self.input())
    }
}
