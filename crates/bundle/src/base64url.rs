//! base64url as RFC 7515 §2 has it: no padding, no white space, and one text for each sequence of bytes.
//!
//! The last rule is why a document cannot be changed in any byte and stay the same document: bits behind the last whole byte
//! must be zero.

use base64_simd::URL_SAFE_NO_PAD;

pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode_to_string(bytes)
}

/// `None` for any text that [`encode`] does not make.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode_to_vec(text).ok()
}

/// Like [`decode`], and `None` for another number of bytes.
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_canonical_text_is_read() {
        assert_eq!(decode("-_8").unwrap(), [0xfb, 0xff]);
        for other in ["-_9", "+/8", "-_8=", "-_8 ", "-_8\n", " -_8", "-", "-_8A-", "-_é", "-\0_"] {
            assert_eq!(decode(other), None, "{other:?}");
        }
        assert_eq!(decode_array::<2>("-_8"), Some([0xfb, 0xff]));
        assert_eq!(decode_array::<3>("-_8"), None);
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn every_text_that_is_read_is_the_one_that_is_written(text in "[A-Za-z0-9_=+/-]{0,20}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
