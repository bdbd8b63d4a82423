//! Licence files of Keygen, made by `tests/keygen/make` with another implementation.

use entitlements_bundle::{Clock, KeygenError, KeygenLicence, NumericDate, PublicKey, keygen_public_key, open_keygen_file};
use entitlements_model::json::Json;
use entitlements_model::time::{Time, from_rfc3339};
use proptest::prelude::*;

use crate::vendor::key;

const KEY: &str = "2F9A41-0C77D3-5E18BB-V3";

fn public() -> PublicKey {
    keygen_public_key(include_str!("../keygen/public-key.hex")).unwrap()
}

fn open(text: &str, licence_key: Option<&str>) -> Result<KeygenLicence, KeygenError> {
    open_keygen_file(text, &public(), licence_key)
}

fn word(text: &str) -> &'static str {
    open(text, Some(KEY)).map_or_else(|error| error.word(), |_| "opened")
}

const PLAIN: &str = include_str!("../keygen/plain.lic");
const SEALED: &str = include_str!("../keygen/sealed.lic");

fn time(text: &str) -> Time {
    from_rfc3339(text).unwrap()
}

#[test]
fn a_plain_and_an_encrypted_file_say_the_same() {
    let licence = open(PLAIN, None).unwrap();
    assert_eq!(licence, open(SEALED, Some(KEY)).unwrap());
    assert_eq!(licence.id, "5d0a9b3e-7c3c-4d0e-9a57-1c6f0d2f8f11");
    assert_eq!((licence.key.as_str(), licence.status.as_str()), (KEY, "ACTIVE"));
    assert_eq!(licence.name.as_deref(), Some("Floor 3 – Prüfstand"));
    assert_eq!(licence.licence_ends, Some(time("2027-01-01T00:00:00Z")));
    let codes: Vec<_> = licence.entitlements.iter().flatten().collect();
    assert_eq!(codes, ["EXPORT_PDF", "SSO"]);
    assert_eq!(licence.metadata.unwrap().get("seats"), Some(&Json::number(25)));
    assert_eq!(licence.issued_at, time("2026-03-01T12:00:00.25Z"));
    assert_eq!((licence.expires, licence.ttl), (Some(time("2026-03-31T12:00:00.25Z")), Some(2_592_000)));
}

#[test]
fn a_file_may_have_no_end_and_no_entitlements() {
    let licence = open(include_str!("../keygen/endless.lic"), None).unwrap();
    assert_eq!((licence.expires, licence.ttl, licence.licence_ends), (None, None, None));
    assert_eq!((licence.entitlements, licence.metadata, licence.name), (None, None, None));
    assert_eq!(licence.status, "SUSPENDED");
}

#[test]
fn a_licence_key_opens_an_encrypted_file() {
    assert_eq!(open(SEALED, None).unwrap_err().word(), "licence_key_missing");
    assert_eq!(open(SEALED, Some("2F9A41-0C77D3-5E18BB-V4")).unwrap_err().word(), "wrong_licence_key");
    assert_eq!(open(SEALED, Some("")).unwrap_err().word(), "wrong_licence_key");
}

#[test]
fn another_signature_is_refused() {
    for text in [PLAIN, SEALED] {
        assert_eq!(open_keygen_file(text, key(1).public(), Some(KEY)).unwrap_err().word(), "bad_signature");
    }
    assert_eq!(word(include_str!("../keygen/machine-signature.lic")), "bad_signature");
}

#[test]
fn another_form_is_refused() {
    assert_eq!(word(include_str!("../keygen/rsa.lic")), "other_algorithm");
    assert_eq!(word(include_str!("../keygen/more-members.lic")), "malformed");
    assert_eq!(word(include_str!("../keygen/other-form.lic")), "malformed");
    assert_eq!(word(&PLAIN.replace("LICENSE FILE", "MACHINE FILE")), "malformed");
    assert_eq!(word(PLAIN.trim_end().strip_suffix("-----").unwrap()), "malformed");
    assert_eq!(word(&PLAIN.replace('\n', "\r\n")), "opened");
    assert_eq!(word(&PLAIN.replacen('\n', "\n\n", 3)), "opened");
    assert_eq!(word(&PLAIN.replacen("\neyJ", "\n*yJ", 1)), "malformed");
    for text in ["", "-----BEGIN LICENSE FILE----------END LICENSE FILE-----", "-----BEGIN LICENSE FILE-----"] {
        assert_eq!(word(text), "malformed", "{text:?}");
    }
    assert_eq!(word(&format!("-----BEGIN LICENSE FILE-----\n{}", "A".repeat(3 << 20))), "malformed");
}

#[test]
fn faults_are_named_with_their_place() {
    let faults =
        |text: &str| -> Vec<String> { open(text, None).unwrap_err().faults().iter().map(ToString::to_string).collect() };
    let machine = faults(include_str!("../keygen/machine.lic"));
    assert_eq!(machine[0], "$.data.type: must be \"licenses\"");
    assert_eq!(machine[1], "$.data.attributes.key: is missing");
    let meta = faults(include_str!("../keygen/no-meta.lic"));
    assert_eq!(meta[0], "$.meta.issued: 'yesterday' is not a time as RFC 3339 writes it");
    assert_eq!(meta[1], "$.meta.ttl: must be an integer, not a string");
}

#[test]
fn a_file_is_used_in_its_time_only() {
    let licence = open(PLAIN, None).unwrap();
    let word = |now: &str, highest: &str| {
        let clock = Clock { now: time(now), highest: time(highest) };
        licence.in_time(clock).map_err(|refusal| refusal.word())
    };
    let early = "2026-01-01T00:00:00Z";
    assert_eq!(word("2026-03-02T00:00:00Z", early), Ok(()));
    assert_eq!(word("2026-03-01T11:55:01Z", early), Ok(()));
    assert_eq!(word("2026-03-01T11:55:00Z", early), Err("issued_in_future"));
    assert_eq!(word("2026-03-31T12:00:00.249999Z", early), Ok(()));
    assert_eq!(word("2026-03-31T12:00:00.25Z", early), Err("expired"));
    assert_eq!(word("2026-03-02T00:00:00Z", "2026-04-01T00:00:00Z"), Err("clock_behind"));
    let endless = open(include_str!("../keygen/endless.lic"), None).unwrap();
    assert_eq!(endless.in_time(Clock { now: NumericDate::LAST.time(), highest: 0 }), Ok(()));
}

#[test]
fn a_public_key_is_64_hexadecimal_digits() {
    let hex = include_str!("../keygen/public-key.hex").trim();
    assert_eq!(keygen_public_key(&hex.to_uppercase()), Some(public()));
    for other in [&hex[1..], &hex[2..], &format!("{hex}0"), &format!("{hex}00"), "", &"0".repeat(64), &hex.replace('0', "g")]
    {
        assert_eq!(keygen_public_key(other), None, "{other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_change_of_any_character_never_changes_what_is_read(at in 0usize..4_000, bit in 0u8..7, sealed in any::<bool>()) {
        let text = if sealed { SEALED } else { PLAIN };
        let mut bytes = text.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let changed = String::from_utf8(bytes).unwrap();
        if let Ok(read) = open(&changed, Some(KEY)) {
            prop_assert_eq!(read, open(text, Some(KEY)).unwrap());
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>(), body in any::<String>()) {
        prop_assert!(open(&text, Some(&body)).is_err());
        let armoured = format!("-----BEGIN LICENSE FILE-----\n{body}\n-----END LICENSE FILE-----");
        prop_assert!(open(&armoured, None).is_err());
        keygen_public_key(&text);
    }
}
