//! What an idempotency key stands for: the call that was made under it first.

use sha2::{Digest, Sha256};

/// SHA-256 over the name of a function and its arguments, each as its length in bytes (8 bytes, most significant first) and its
/// UTF-8; an argument that was not given has the length -1. Lengths keep neighbours apart: no two calls have one encoding.
pub fn digest<'a>(function: &'a str, arguments: impl IntoIterator<Item = Option<&'a str>>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for text in std::iter::once(Some(function)).chain(arguments) {
        let length = text.map_or(-1, |text| text.len() as i64);
        hasher.update(length.to_be_bytes());
        hasher.update(text.unwrap_or_default());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_differ_have_other_digests() {
        let calls: [(&str, &[Option<&str>]); 7] = [
            ("consume", &[Some("calls"), Some("1"), None]),
            ("release", &[Some("calls"), Some("1"), None]),
            ("consume", &[Some("calls"), Some("1"), Some("")]),
            ("consume", &[Some("calls1"), Some(""), None]),
            ("consume", &[Some("calls"), Some("1")]),
            ("consume", &[Some("calls"), Some("2"), None]),
            ("consumecalls", &[Some("1"), None]),
        ];
        for (place, call) in calls.iter().enumerate() {
            for other in &calls[place + 1..] {
                assert_ne!(digest(call.0, call.1.iter().copied()), digest(other.0, other.1.iter().copied()));
            }
            assert_eq!(digest(call.0, call.1.iter().copied()), digest(call.0, call.1.iter().copied()));
        }
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let bytes = [&[0u8, 0, 0, 0, 0, 0, 0, 1][..], b"f", &[0xff; 8], &[0, 0, 0, 0, 0, 0, 0, 2], "é".as_bytes()].concat();
        let expected: [u8; 32] = Sha256::digest(bytes).into();
        assert_eq!(digest("f", [None, Some("é")]), expected);
    }
}
