//! Where claims say whose account it is.

use entitlements_model::json::{self, Json, Limits};
use std::fmt;

/// The place of the account's key among the claims: a member's name, or a JSON Pointer (RFC 6901) where it begins with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountClaim(Vec<String>);

/// Not a place of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoClaim;

impl fmt::Display for NoClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is neither a claim's name nor a JSON Pointer (RFC 6901)")
    }
}

impl AccountClaim {
    pub fn parse(text: &str) -> Result<Self, NoClaim> {
        match text.strip_prefix('/') {
            _ if text.is_empty() => Err(NoClaim),
            None => Ok(Self(vec![text.to_owned()])),
            Some(pointer) => pointer.split('/').map(unescaped).collect::<Option<_>>().map(Self).ok_or(NoClaim),
        }
    }

    /// The account's key: a string, or an integer in decimal digits. None for any other value, and where there is none.
    pub fn account(&self, claims: &Json) -> Option<String> {
        match self.0.iter().try_fold(claims, member)? {
            Json::String(key) if !key.is_empty() => Some(key.to_string()),
            number @ Json::Number(_) => number.as_integer().map(|key| key.to_string()),
            _ => None,
        }
    }
}

/// RFC 6901 §4: `~1` is `/` and `~0` is `~`; a `~` before anything else is an error.
fn unescaped(token: &str) -> Option<String> {
    let mut parts = token.split('~');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        text.push(character);
        text.push_str(rest);
    }
    Some(text)
}

fn member<'j>(json: &'j Json, name: &String) -> Option<&'j Json> {
    match json {
        Json::Object(_) => json.get(name),
        Json::Array(items) => {
            let index: usize = name.parse().ok()?;
            // Without leading zeros or sign, as the RFC has it.
            (index.to_string() == *name).then(|| items.get(index))?
        }
        _ => None,
    }
}

/// What claims may cost.
pub(crate) const CLAIMS: Limits = Limits { bytes: 64 << 10, depth: 16, nodes: 4_000 };

/// The account in claims that somebody else has verified, as a gateway hands them on. None where they are not valid JSON.
pub fn account_in(claims: &str, claim: &AccountClaim) -> Option<String> {
    claim.account(&json::parse(claims, CLAIMS).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(claims: &str, claim: &str) -> Option<String> {
        account_in(claims, &AccountClaim::parse(claim).unwrap())
    }

    /// RFC 6901 §5.
    #[test]
    fn the_pointers_of_rfc_6901() {
        let document = r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}"#;
        for (pointer, value) in [
            ("/foo/0", "bar"),
            ("/foo/1", "baz"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(account(document, pointer).as_deref(), Some(value), "{pointer}");
        }
        for nothing in ["/foo", "/foo/2", "/foo/00", "/foo/+1", "/foo/-", "/foo/0/x", "/nil", "/m~01n"] {
            assert_eq!(account(document, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn what_is_no_place_of_a_claim() {
        for text in ["", "/~", "/a~", "/~2", "/a/~x"] {
            assert_eq!(AccountClaim::parse(text), Err(NoClaim), "{text:?}");
        }
    }

    #[test]
    fn a_name_without_slash_in_front_is_a_member() {
        let claims = r#"{"https://example.com/tenant": "acme", "a~b": "x", "sub": "ada", "org": {"id": 42}}"#;
        assert_eq!(account(claims, "https://example.com/tenant").as_deref(), Some("acme"));
        assert_eq!(account(claims, "a~b").as_deref(), Some("x"));
        assert_eq!(account(claims, "sub").as_deref(), Some("ada"));
        assert_eq!(account(claims, "/org/id").as_deref(), Some("42"));
        assert_eq!(account(claims, "org"), None);
    }

    #[test]
    fn only_strings_and_integers_are_keys() {
        for (value, key) in [
            ("\"acme\"", Some("acme")),
            ("7", Some("7")),
            ("-7", Some("-7")),
            ("7.0", Some("7")),
            ("\"\"", None),
            ("7.5", None),
            ("1e30", None),
            ("true", None),
            ("null", None),
            ("[\"acme\"]", None),
            ("{}", None),
        ] {
            assert_eq!(account(&format!(r#"{{"sub": {value}}}"#), "sub").as_deref(), key, "{value}");
        }
    }

    #[test]
    fn claims_that_are_not_strict_json_name_nobody() {
        for claims in
            ["", "acme", "\"acme\"", "[]", r#"{"sub": "a", "sub": "b"}"#, r#"{"sub": "a"} x"#, r#"{"sub": "a\u0000"}"#]
        {
            assert_eq!(account(claims, "sub"), None, "{claims}");
        }
    }

    proptest! {
        #[test]
        fn every_name_can_be_pointed_at(name in "\\PC{1,12}", key in "[a-z]{1,8}") {
            let claims = Json::object([("outer", Json::object([(name.as_str(), Json::string(&key))]))]);
            let pointer = format!("/outer/{}", name.replace('~', "~0").replace('/', "~1"));
            prop_assert_eq!(AccountClaim::parse(&pointer).unwrap().account(&claims), Some(key));
        }

        #[test]
        fn no_text_does_harm(claims in "\\PC{0,60}", claim in "\\PC{0,20}") {
            if let Ok(claim) = AccountClaim::parse(&claim) {
                account_in(&claims, &claim);
            }
        }
    }
}
