//! Accounts as callers name them: text, uuid or bigint.

use std::hash::{Hash, Hasher};

/// An account as a caller names it.
#[derive(Clone, Copy)]
pub enum AccountName<'a> {
    Text(&'a [u8]),
    /// Its bytes as a number, which is at hand as a whole: loads of words from bytes that were just copied singly would stall.
    Uuid(u128),
    Bigint(i64),
}

impl AccountName<'_> {
    pub fn uuid(bytes: [u8; 16]) -> Self {
        Self::Uuid(u128::from_ne_bytes(bytes))
    }

    /// The account's key: the canonical text of the value.
    pub fn to_key(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.to_vec(),
            Self::Bigint(number) => number.to_string().into_bytes(),
            Self::Uuid(number) => {
                let mut key = Vec::with_capacity(36);
                for (place, byte) in number.to_ne_bytes().into_iter().enumerate() {
                    if matches!(place, 4 | 6 | 8 | 10) {
                        key.push(b'-');
                    }
                    for digit in [byte >> 4, byte & 0xF] {
                        key.push(b"0123456789abcdef"[usize::from(digit)]);
                    }
                }
                key
            }
        }
    }
}

/// A name in a form that is compared in a few instructions; for names of at most 40 bytes, which a uuid's text fits.
#[derive(Clone, Copy, Eq)]
pub struct ShortName {
    pub words: [u64; 5],
    /// Type and length.
    pub form: u32,
}

impl PartialEq for ShortName {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let differ = std::array::from_fn::<u64, 5, _>(|place| self.words[place] ^ other.words[place]);
        // Not as arrays, which would be a call of memcmp.
        differ.into_iter().fold(u64::from(self.form ^ other.form), |all, word| all | word) == 0
    }
}

impl ShortName {
    #[inline(always)]
    pub fn of(name: AccountName<'_>) -> Option<Self> {
        match name {
            AccountName::Text(text) => Some(Self { words: words(text)?, form: text.len() as u32 }),
            AccountName::Uuid(number) => {
                Some(Self { words: [number as u64, (number >> 64) as u64, 0, 0, 0], form: 1 << 16 })
            }
            AccountName::Bigint(number) => Some(Self { words: [number as u64, 0, 0, 0, 0], form: 2 << 16 }),
        }
    }
}

#[inline(always)]
fn word(bytes: &[u8], from: usize) -> u64 {
    u64::from_ne_bytes(bytes[from..from + 8].try_into().expect("eight bytes"))
}

/// Words that differ for different texts of one length: together they hold every byte, some of them twice. Loaded straight
/// from the text, since bytes that were just copied elsewhere would stall the loads.
#[inline(always)]
fn words(text: &[u8]) -> Option<[u64; 5]> {
    let half = |from: usize| u64::from(u32::from_ne_bytes(text[from..from + 4].try_into().expect("four bytes")));
    let length = text.len();
    match length {
        0 => Some([0; 5]),
        1..=3 => {
            let byte = |at: usize| u64::from(text[at]);
            Some([byte(0) | byte(length / 2) << 8 | byte(length - 1) << 16, 0, 0, 0, 0])
        }
        4..=7 => Some([half(0) | half(length - 4) << 32, 0, 0, 0, 0]),
        8..=16 => Some([word(text, 0), word(text, length - 8), 0, 0, 0]),
        17..=24 => Some([word(text, 0), word(text, 8), word(text, length - 8), 0, 0]),
        25..=40 => Some([word(text, 0), word(text, 8), word(text, 16), word(text, length - 16), word(text, length - 8)]),
        _ => None,
    }
}

impl Hash for ShortName {
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, second, rest @ ..] = self.words;
        state.write_u64(first);
        state.write_u64(second);
        // Numbers, uuids and most keys end here, which is worth some nanoseconds.
        if rest != [0; 3] {
            rest.into_iter().for_each(|word| state.write_u64(word));
        }
        state.write_u32(self.form);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_length_that_differ_in_one_byte_have_different_words() {
        for length in 0..=40 {
            let text = vec![b'x'; length];
            for place in 0..length {
                let mut other = text.clone();
                other[place] = b'y';
                assert_ne!(words(&text), words(&other), "length {length}, byte {place}");
            }
        }
        assert_eq!(words(&[b'x'; 41]), None);
    }

    #[test]
    fn a_uuid_has_its_canonical_text_as_key() {
        let bytes = std::array::from_fn(|place| (place * 17) as u8);
        assert_eq!(AccountName::uuid(bytes).to_key(), b"00112233-4455-6677-8899-aabbccddeeff");
    }
}
