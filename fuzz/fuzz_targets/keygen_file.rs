//! Licence files of Keygen: as they come, and with the fuzzer's text signed, so that what lies behind the signature is reached.

#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entitlements_bundle::{Clock, PrivateKey, open_keygen_file};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::from_seed(&[7; 32]));

fuzz_target!(|text: &str| {
    let open = |file: &str| {
        if let Ok(licence) = open_keygen_file(file, KEY.public(), Some("K")) {
            let _ = licence.in_time(Clock { now: licence.issued_at, highest: 0 });
        }
    };
    open(text);
    for (enc, alg) in [(STANDARD.encode(text), "base64"), (text.to_owned(), "aes-256-gcm")] {
        if enc.contains(['"', '\\']) || enc.contains(char::is_control) {
            continue;
        }
        let sig = STANDARD.encode(KEY.sign(format!("license/{enc}").as_bytes()));
        let envelope = STANDARD.encode(format!(r#"{{"enc":"{enc}","sig":"{sig}","alg":"{alg}+ed25519"}}"#));
        open(&format!("-----BEGIN LICENSE FILE-----\n{envelope}\n-----END LICENSE FILE-----\n"));
    }
});
