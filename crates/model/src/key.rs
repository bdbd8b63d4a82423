//! The names applications give to features, plans and accounts.
//!
//! A key that exists is valid: there is no other way to make one than `parse`. Keys order by bytes, as their columns do
//! (`COLLATE "C"`). They share their text, so a copy costs no allocation.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The greatest length of a feature or plan key, in bytes.
pub const NAME_BYTES: usize = 100;

/// The greatest length of an account key, in bytes.
pub const ACCOUNT_BYTES: usize = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("starts with {0:?}; a key starts with an ASCII letter, a digit or _")]
    Start(char),
    #[error("contains {0:?}; a key has only ASCII letters, digits and _ . : -")]
    Character(char),
    #[error("contains the control character {0:?}")]
    Control(char),
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                $check(text).map(|()| Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

key!(
    /// 1 to 100 bytes: ASCII letters, digits and `_ . : -`, starting with a letter, a digit or `_`.
    FeatureKey,
    check_name
);
key!(
    /// Same form as a feature key.
    PlanKey,
    check_name
);
key!(
    /// 1 to 255 bytes of UTF-8 without control characters; the application chooses it.
    AccountKey,
    check_account
);

fn check_name(text: &str) -> Result<(), KeyError> {
    check_length(text, NAME_BYTES)?;
    let inner = |character: char| character.is_ascii_alphanumeric() || "_.:-".contains(character);
    if let Some(character) = text.chars().find(|character| !inner(*character)) {
        return Err(KeyError::Character(character));
    }
    match text.chars().next() {
        Some(first @ ('.' | ':' | '-')) => Err(KeyError::Start(first)),
        _ => Ok(()),
    }
}

fn check_account(text: &str) -> Result<(), KeyError> {
    check_length(text, ACCOUNT_BYTES)?;
    match text.chars().find(|character| character.is_control()) {
        Some(character) => Err(KeyError::Control(character)),
        None => Ok(()),
    }
}

fn check_length(text: &str, most: usize) -> Result<(), KeyError> {
    match text.len() {
        0 => Err(KeyError::Empty),
        length if length > most => Err(KeyError::TooLong(most)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_narrow_alphabet() {
        for text in ["sso", "a", "9lives", "_x", "api.calls:v2-beta", "A_B", &"k".repeat(100)] {
            assert_eq!(FeatureKey::parse(text).unwrap().as_str(), text);
            assert_eq!(PlanKey::parse(text).unwrap().as_str(), text);
        }
        for (text, error) in [
            ("", KeyError::Empty),
            (&*"k".repeat(101), KeyError::TooLong(100)),
            (".x", KeyError::Start('.')),
            (":x", KeyError::Start(':')),
            ("-x", KeyError::Start('-')),
            ("a b", KeyError::Character(' ')),
            ("é", KeyError::Character('é')),
            ("a/b", KeyError::Character('/')),
            ("a\0", KeyError::Character('\0')),
        ] {
            assert_eq!(FeatureKey::parse(text), Err(error), "{text:?}");
            assert_eq!(PlanKey::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn accounts_may_be_any_text_without_control_characters() {
        for text in ["acme", "Müller & Söhne", "550e8400-e29b-41d4-a716-446655440000", " ", &"é".repeat(127)] {
            assert_eq!(AccountKey::parse(text).unwrap().as_str(), text);
        }
        for (text, error) in [
            ("", KeyError::Empty),
            (&*"é".repeat(128), KeyError::TooLong(255)),
            ("a\tb", KeyError::Control('\t')),
            ("a\u{7f}", KeyError::Control('\u{7f}')),
            ("a\u{85}", KeyError::Control('\u{85}')),
        ] {
            assert_eq!(AccountKey::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn keys_order_by_bytes() {
        let mut keys = ["b", "B", "a", "_", "1"].map(|text| FeatureKey::parse(text).unwrap());
        keys.sort();
        assert_eq!(keys.each_ref().map(FeatureKey::as_str), ["1", "B", "_", "a", "b"]);
    }

    #[test]
    fn a_megabyte_is_refused_by_its_length() {
        assert_eq!(AccountKey::parse(&"x".repeat(1 << 20)), Err(KeyError::TooLong(255)));
    }
}
