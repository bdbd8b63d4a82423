//! Hashes of audit entries against vectors that Python's hashlib and struct made from the encoding as it is documented.

use entitlements_model::audit::{Entry, START, content_hash};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const SALT: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const CONTENT: &str = r#"{"old":null,"new":{"name":"Zoë"},"reason":"signed up"}"#;

fn entry(content_hash: &[u8]) -> Entry<'_> {
    Entry {
        id: 1,
        chain_id: 42,
        seq: 1,
        at: 813_594_608_123_456,
        transaction_id: 771,
        session_user_name: "app",
        role_name: "opérateur",
        client_address: Some("10.0.0.7/32"),
        action: "create",
        object: "account",
        object_id: "42",
        content_hash,
    }
}

#[test]
fn hashes_are_those_of_another_implementation() {
    let content = content_hash(&SALT, CONTENT);
    assert_eq!(hex(&content), "8cf4b99a244960e570d94e066f922c5f0514dd31ceba9e9b1d41c95b59644287");
    let first = entry(&content).hash(&START);
    assert_eq!(hex(&first), "be6207f210887d0be99bc14be68f7d1d690a5882a8024b7f9799226489aef484");
    let second = Entry { id: 9, seq: 2, at: -1, client_address: None, action: "update", ..entry(&content) }.hash(&first);
    assert_eq!(hex(&second), "04862b510154608008f512c7b467db73d74402436a51bb94a7691374eb8a2433");
}

#[test]
fn every_part_matters() {
    let (content, other) = (content_hash(&SALT, CONTENT), content_hash(&SALT, "{}"));
    let original = entry(&content).hash(&START);
    let altered = [
        Entry { id: 2, ..entry(&content) },
        Entry { chain_id: 43, ..entry(&content) },
        Entry { seq: 2, ..entry(&content) },
        Entry { at: 813_594_608_123_457, ..entry(&content) },
        Entry { transaction_id: 772, ..entry(&content) },
        Entry { session_user_name: "apq", ..entry(&content) },
        Entry { role_name: "operateur", ..entry(&content) },
        Entry { client_address: None, ..entry(&content) },
        Entry { client_address: Some(""), ..entry(&content) },
        Entry { action: "erase", ..entry(&content) },
        Entry { object: "block", ..entry(&content) },
        Entry { object_id: "", ..entry(&content) },
        Entry { content_hash: &other, ..entry(&content) },
    ];
    let mut hashes: Vec<_> = altered.iter().map(|entry| entry.hash(&START)).collect();
    hashes.extend([original, entry(&content).hash(&original)]);
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count);
}

#[test]
fn neighbouring_texts_stay_apart() {
    let content = content_hash(&SALT, CONTENT);
    let one = Entry { action: "set", object: "override", ..entry(&content) };
    let other = Entry { action: "seto", object: "verride", ..entry(&content) };
    assert_ne!(one.hash(&START), other.hash(&START));
}

#[test]
fn the_salt_hides_the_content() {
    assert_ne!(content_hash(&SALT, CONTENT), content_hash(&[7; 16], CONTENT));
    assert_ne!(content_hash(&SALT, CONTENT), content_hash(&[], CONTENT));
}
