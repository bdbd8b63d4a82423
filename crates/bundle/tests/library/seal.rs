//! Encryption on the way: who can read, and what damage does.

use entitlements_bundle::seal::{SealError, generate_identity, open, seal};
use proptest::prelude::*;

const MOST: usize = 10_000;

#[test]
fn every_recipient_and_nobody_else_reads() {
    let (one, two, three) = (generate_identity(), generate_identity(), generate_identity());
    let sealed = seal("a document", &[&one.1, &two.1]).unwrap();
    assert!(sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n") && !sealed.contains("a document"));
    for identity in [&one.0, &two.0] {
        assert_eq!(open(sealed.as_bytes(), identity, MOST).unwrap(), "a document");
    }
    assert_eq!(open(sealed.as_bytes(), &three.0, MOST), Err(SealError::OtherRecipient));
    let file = format!("# created today\n{}\n\n{}\n", *three.0, *one.0);
    assert_eq!(open(sealed.as_bytes(), &file, MOST).unwrap(), "a document");
}

#[test]
fn what_is_no_key_is_refused_and_not_repeated() {
    let (identity, recipient) = generate_identity();
    assert_eq!(seal("x", &["age1nobody"]), Err(SealError::Recipient("age1nobody".into())));
    assert_eq!(seal("x", &[] as &[&str]), Err(SealError::Recipients(0)));
    let sealed = seal("x", &[recipient]).unwrap();
    for file in ["", "# nothing\n", &identity[..40], &identity.replace('1', "2")] {
        let error = open(sealed.as_bytes(), file, MOST).unwrap_err();
        assert_eq!(error, SealError::Identity);
    }
}

#[test]
fn the_most_recipients_can_all_read() {
    let (identity, recipient) = generate_identity();
    let mut recipients: Vec<String> = (0..63).map(|_| generate_identity().1).collect();
    recipients.push(recipient.clone());
    assert_eq!(open(seal("x", &recipients).unwrap().as_bytes(), &identity, MOST).unwrap(), "x");
    recipients.push(recipient);
    assert_eq!(seal("x", &recipients), Err(SealError::Recipients(65)));
}

#[test]
fn documents_have_a_greatest_size() {
    let (identity, recipient) = generate_identity();
    let sealed = seal(&"x".repeat(200_000), &[recipient]).unwrap();
    assert_eq!(open(sealed.as_bytes(), &identity, 199_999), Err(SealError::TooLarge(199_999)));
    assert_eq!(open(sealed.as_bytes(), &identity, 200_000).unwrap().len(), 200_000);
}

#[test]
fn a_header_without_an_end_is_refused() {
    let (identity, _) = generate_identity();
    let stanza = "-> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\nEmECAEcKN+n/Vs9SbWiV+Hu0r+E8R77DdWYyd83nw7U\n";
    let endless = format!("age-encryption.org/v1\n{}", stanza.repeat(100_000));
    let Err(SealError::Damaged(reason)) = open(endless.as_bytes(), &identity, MOST) else { panic!() };
    assert!(reason.contains("header has more than 8192 bytes"), "{reason}");
}

#[test]
fn damage_is_noticed() {
    let (identity, recipient) = generate_identity();
    let sealed = seal("a document", &[recipient]).unwrap().into_bytes();
    let text = sealed.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for at in text..sealed.len() - "-----END AGE ENCRYPTED FILE-----\n".len() - 4 {
        let mut damaged = sealed.clone();
        damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
        assert!(open(&damaged, &identity, MOST).is_err(), "byte {at}");
    }
    for length in 0..sealed.len() - 1 {
        assert!(open(&sealed[..length], &identity, MOST).is_err(), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn round_trip(document in "\\PC{0,300}") {
        let (identity, recipient) = generate_identity();
        let sealed = seal(&document, &[recipient]).unwrap();
        prop_assert_eq!(open(sealed.as_bytes(), &identity, MOST), Ok(document));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), head in any::<bool>()) {
        let (identity, _) = generate_identity();
        let start = if head { b"age-encryption.org/v1\n".as_slice() } else { b"" };
        prop_assert!(open(&[start, &bytes].concat(), &identity, MOST).is_err());
    }
}
