//! JSON documents, read strictly and kept exactly.
//!
//! Promises: what [`parse`] accepts holds no key twice in an object, no character PostgreSQL cannot
//! store and no number beyond the range of `numeric`; numbers keep their literal and members their
//! order, so nothing is lost to a binary float or a hash map. Whatever the text, the outcome is a
//! value or faults with their paths: nesting, size and number of values are bounded before they
//! cost memory or stack.
//!
//! serde_json says whether a text is JSON, without recursion. A second pass goes over what is known
//! to be JSON: that keeps literals, lets a repeated key be seen, and has no error left to find but
//! what an escape stands for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use compact_str::{CompactString, ToCompactString};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::fault::{Fault, Faults, Path};

/// A JSON value. Equality is that of the meaning: `1` equals `1.0` and `1e0`, and the order of an
/// object's members does not matter.
#[derive(Clone, Debug)]
pub enum Json {
    Null,
    Bool(bool),
    /// The literal as written.
    Number(CompactString),
    String(CompactString),
    Array(Vec<Json>),
    Object(Vec<Member>),
}

/// A member of an object: its key and its value.
pub type Member = (CompactString, Json);

/// What a document may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Objects and arrays within one another; a scalar has depth 0.
    pub depth: usize,
    /// Values of any kind, containers included.
    pub nodes: usize,
}

impl Limits {
    /// The limits of a catalog document: enough for the greatest catalog allowed.
    pub const CATALOG: Limits = Limits { bytes: 16 << 20, depth: 64, nodes: 2_000_000 };
}

/// Most digits on either side of the decimal point: PostgreSQL's `numeric` keeps that many
/// fraction digits (and more before the point).
const MAX_EXPONENT: i64 = 16_383;

/// Reads one JSON document.
pub fn parse(text: &str, limits: Limits) -> Result<Json, Vec<Fault>> {
    let mut faults = Faults::default();
    if text.len() > limits.bytes {
        faults
            .push(&Path::Root, || format!("the document has {} bytes, more than {} are not read", text.len(), limits.bytes));
        return Err(faults.into_vec());
    }
    let raw = match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => raw,
        Err(error) => {
            faults.push(&Path::Root, || format!("not valid JSON: {error}"));
            return Err(faults.into_vec());
        }
    };
    let mut reader = Reader { text: raw.get(), at: 0, items: Vec::new(), members: Vec::new(), limits, nodes: 0, faults };
    match reader.value(&Path::Root, 0) {
        Some(json) if reader.faults.is_empty() => Ok(json),
        _ => Err(reader.faults.into_vec()),
    }
}

/// Goes over a text that is known to be JSON but for what its escapes stand for.
struct Reader<'t> {
    text: &'t str,
    /// The place of the next byte.
    at: usize,
    /// Of the containers that are open, what was read so far; null stands for what has a fault.
    items: Vec<Json>,
    members: Vec<Member>,
    limits: Limits,
    nodes: usize,
    faults: Faults,
}

impl<'t> Reader<'t> {
    /// Reads the value that begins here and goes behind it. `None` once a fault was noted for it.
    fn value(&mut self, path: &Path, depth: usize) -> Option<Json> {
        self.nodes += 1;
        if self.is_full() {
            let limit = self.limits.nodes;
            self.faults.push(&Path::Root, || format!("the document has more than {limit} values"));
            return None;
        }
        match self.next() {
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'"' => {
                let string = self.string(path)?;
                self.storable(&string, path).then(|| Json::String(string.into()))
            }
            b'[' | b'{' if depth >= self.limits.depth => {
                let limit = self.limits.depth;
                self.faults.push(path, || format!("nested more than {limit} levels deep"));
                self.skip_container();
                None
            }
            b'[' => self.array(path, depth),
            b'{' => self.object(path, depth),
            _ => self.number(path),
        }
    }

    fn array(&mut self, path: &Path, depth: usize) -> Option<Json> {
        let first = self.items.len();
        while !self.is_at_end(b']') {
            let item = self.value(&path.item(self.items.len() - first), depth + 1);
            if self.is_full() {
                return None;
            }
            self.items.push(item.unwrap_or(Json::Null));
        }
        Some(Json::Array(self.items.drain(first..).collect()))
    }

    fn object(&mut self, path: &Path, depth: usize) -> Option<Json> {
        let (start, first) = (self.at, self.members.len());
        let mut keys = HashSet::new();
        while !self.is_at_end(b'}') {
            let Some(key) = self.string(path) else {
                self.at = start;
                self.skip_container();
                self.members.truncate(first);
                return None;
            };
            self.space();
            self.at += ":".len();
            self.space();
            let (key, path) = (CompactString::from(&*key), path.member(&key));
            if is_repeated(&key, &self.members[first..], &mut keys) {
                self.faults.push(&path, || "the key appears more than once".into());
            }
            self.storable(&key, &path);
            let value = self.value(&path, depth + 1);
            if self.is_full() {
                return None;
            }
            self.members.push((key, value.unwrap_or(Json::Null)));
        }
        Some(Json::Object(self.members.drain(first..).collect()))
    }

    fn number(&mut self, path: &Path) -> Option<Json> {
        let start = self.at;
        while self.text.as_bytes().get(self.at).is_some_and(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
        {
            self.at += 1;
        }
        let literal = &self.text[start..self.at];
        if !Decimal::read(literal).is_some_and(|number| number.is_in_range()) {
            self.faults.push(path, || "the number is out of range".into());
            return None;
        }
        Some(Json::Number(literal.into()))
    }

    fn word(&mut self, word: &str, value: Json) -> Option<Json> {
        self.at += word.len();
        Some(value)
    }

    /// What a string stands for. An escape can still be wrong: that of a lone surrogate.
    fn string(&mut self, path: &Path) -> Option<Cow<'t, str>> {
        let literal = self.string_literal();
        if !literal.contains('\\') {
            return Some(Cow::Borrowed(&literal[1..literal.len() - 1]));
        }
        match serde_json::from_str(literal) {
            Ok(string) => Some(Cow::Owned(string)),
            Err(error) => {
                let reason = error.to_string();
                // The position counts from the start of this string, not of the document.
                let end = reason.rfind(" at line ").unwrap_or(reason.len());
                self.faults.push(path, || format!("not valid JSON: {}", &reason[..end]));
                None
            }
        }
    }

    /// Goes behind a string; with its quotes.
    fn string_literal(&mut self) -> &'t str {
        let start = self.at;
        self.at += 1;
        loop {
            match self.next() {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        &self.text[start..self.at]
    }

    /// Goes behind an object or an array, however deep it is.
    fn skip_container(&mut self) {
        let mut open = 0;
        loop {
            match self.next() {
                b'"' => {
                    self.string_literal();
                    continue;
                }
                b'[' | b'{' => open += 1,
                b']' | b'}' => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                break;
            }
        }
    }

    /// Goes from a container's start or a member of it to the next one, or behind its end.
    fn is_at_end(&mut self, end: u8) -> bool {
        self.space();
        if matches!(self.next(), b'[' | b'{' | b',') {
            self.at += 1;
            self.space();
        }
        let is_at_end = self.next() == end;
        self.at += usize::from(is_at_end);
        is_at_end
    }

    fn space(&mut self) {
        while matches!(self.next(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn next(&self) -> u8 {
        self.text.as_bytes()[self.at]
    }

    fn is_full(&self) -> bool {
        self.nodes > self.limits.nodes
    }

    /// PostgreSQL's text holds every character but U+0000.
    fn storable(&mut self, string: &str, path: &Path) -> bool {
        let storable = !string.contains('\0');
        if !storable {
            self.faults.push(path, || "the character U+0000 cannot be stored".into());
        }
        storable
    }
}

/// Whether one of the members has the key. Once there are more than a few, `keys` has those of all.
fn is_repeated(key: &CompactString, members: &[Member], keys: &mut HashSet<CompactString>) -> bool {
    // So many are compared sooner than hashed.
    const FEW: usize = 8;
    if members.len() < FEW {
        return members.iter().any(|(other, _)| other == key);
    }
    if keys.is_empty() {
        keys.extend(members.iter().map(|(other, _)| other.clone()));
    }
    !keys.insert(key.clone())
}

impl Json {
    /// The number a literal stands for, where it is one.
    pub fn number(literal: impl fmt::Display) -> Json {
        Json::Number(literal.to_compact_string())
    }

    pub fn string(text: impl AsRef<str>) -> Json {
        Json::String(text.as_ref().into())
    }

    /// An object of these members, in this order.
    pub fn object<K: AsRef<str>>(members: impl IntoIterator<Item = (K, Json)>) -> Json {
        Json::Object(members.into_iter().map(|(k, v)| (k.as_ref().into(), v)).collect())
    }

    /// A member of an object; `None` when it has none of that name or this is no object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The value as an integer, however it is written (`3`, `3.0`, `3e0`).
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Json::Number(literal) => Decimal::read(literal)?.as_integer(),
            _ => None,
        }
    }

    /// What the value is, for a message.
    pub fn describe(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        }
    }

    /// The value for a library that knows numbers as 64-bit integers and floats only; a number
    /// beyond them becomes the nearest float.
    pub fn to_value(&self) -> Value {
        match self {
            Json::Null => Value::Null,
            Json::Bool(bool) => Value::Bool(*bool),
            Json::Number(literal) => {
                let whole = self.as_integer().map(Value::from);
                whole.unwrap_or_else(|| {
                    let float = literal.parse::<f64>().unwrap_or(0.0);
                    Value::from(float.clamp(f64::MIN, f64::MAX))
                })
            }
            Json::String(string) => Value::from(string.as_str()),
            Json::Array(items) => Value::Array(items.iter().map(Json::to_value).collect()),
            Json::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.to_string(), value.to_value())).collect())
            }
        }
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Null, Json::Null) => true,
            (Json::Bool(a), Json::Bool(b)) => a == b,
            (Json::Number(a), Json::Number(b)) => {
                a == b || Decimal::read(a).zip(Decimal::read(b)).is_some_and(|(a, b)| a == b)
            }
            (Json::String(a), Json::String(b)) => a == b,
            (Json::Array(a), Json::Array(b)) => a == b,
            (Json::Object(a), Json::Object(b)) => {
                a.len() == b.len() && {
                    let sorted = |members: &'_ Vec<Member>| {
                        let mut order: Vec<usize> = (0..members.len()).collect();
                        order.sort_by(|&i, &j| members[i].0.cmp(&members[j].0));
                        order
                    };
                    let pairs = sorted(a).into_iter().zip(sorted(b));
                    pairs.into_iter().all(|(i, j)| a[i] == b[j])
                }
            }
            _ => false,
        }
    }
}

impl Eq for Json {}

/// Compact JSON text; members and number literals as they are kept.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(bool) => write!(f, "{bool}"),
            Json::Number(literal) => f.write_str(literal),
            Json::String(string) => write_string(f, string),
            Json::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Json::Object(members) => {
                f.write_str("{")?;
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    write_string(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_string(f: &mut fmt::Formatter, string: &str) -> fmt::Result {
    write!(f, "{}", Value::from(string))
}

/// A number literal taken apart: ±0.`digits` × 10^`exponent`, without zeros at either end of the
/// digits, so that equal numbers are equal here.
#[derive(PartialEq)]
struct Decimal<'a> {
    negative: bool,
    digits: Cow<'a, str>,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// `None` when the text is no JSON number or its exponent is beyond any use.
    fn read(literal: &'a str) -> Option<Decimal<'a>> {
        let (negative, unsigned) = match literal.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, literal),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, digits) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Cow::Owned([whole, fraction].concat())),
            None => (mantissa, Cow::Borrowed(mantissa)),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let significant = digits.trim_start_matches('0');
        let leading = digits.len() - significant.len();
        let end = leading + significant.trim_end_matches('0').len();
        if leading == digits.len() {
            return Some(Decimal { negative: false, digits: Cow::Borrowed(""), exponent: 0 });
        }
        let digits = match digits {
            Cow::Borrowed(digits) => Cow::Borrowed(&digits[leading..end]),
            Cow::Owned(digits) => Cow::Owned(digits[leading..end].to_owned()),
        };
        Some(Decimal { negative, digits, exponent: i64::from(exponent) + whole.len() as i64 - leading as i64 })
    }

    /// Whether the number and each of its digits lie within what `numeric` keeps.
    fn is_in_range(&self) -> bool {
        let last_digit = self.exponent - self.digits.len() as i64;
        self.exponent <= MAX_EXPONENT && last_digit >= -MAX_EXPONENT
    }

    fn as_integer(&self) -> Option<i64> {
        let zeros = usize::try_from(self.exponent - self.digits.len() as i64).ok()?;
        if self.digits.is_empty() {
            return Some(0);
        }
        if self.exponent > 19 {
            return None;
        }
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}{}", self.digits, "0".repeat(zeros)).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { bytes: 1_000, depth: 4, nodes: 10 };

    fn faults(text: &str, limits: Limits) -> Vec<(String, String)> {
        let faults = parse(text, limits).unwrap_err();
        faults.into_iter().map(|fault| (fault.path, fault.fault)).collect()
    }

    fn one_fault(text: &str, limits: Limits) -> (String, String) {
        let mut faults = faults(text, limits);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    fn read(text: &str) -> Json {
        parse(text, Limits::CATALOG).unwrap()
    }

    #[test]
    fn literals_and_the_order_of_members_are_kept() {
        let text = r#"{"b":1.50,"a":[1e3,-0,12345678901234567890.123456789],"":{"x":null,"y":true,"z":"é\n\u0001"}}"#;
        assert_eq!(read(text).to_string(), text);
        assert_eq!(read(" [ 1 , { } ] \n").to_string(), "[1,{}]");
    }

    #[test]
    fn repeated_keys_are_found_wherever_they_are() {
        let text = r#"{"a": 1, "b": [{"c": {}, "c": 1, "\u0063": 2}], "a": 3}"#;
        let repeated = "the key appears more than once".to_string();
        assert_eq!(
            faults(text, Limits::CATALOG),
            [("$.b[0].c".into(), repeated.clone()), ("$.b[0].c".into(), repeated.clone()), ("$.a".into(), repeated)]
        );
    }

    #[test]
    fn a_repeated_key_is_found_among_many() {
        let members = |keys: &[usize]| keys.iter().map(|key| format!("\"k{key}\": {{}}")).collect::<Vec<_>>().join(", ");
        let distinct: Vec<usize> = (0..100).collect();
        assert!(parse(&format!("{{{}}}", members(&distinct)), Limits::CATALOG).is_ok());
        for (first, again) in [(0, 7), (0, 8), (7, 8), (7, 9), (8, 9), (3, 99), (98, 99)] {
            let mut keys = distinct.clone();
            keys[again] = first;
            let fault = one_fault(&format!("{{{}}}", members(&keys)), Limits::CATALOG);
            assert_eq!(fault, (format!("$.k{first}"), "the key appears more than once".into()));
        }
    }

    #[test]
    fn reading_goes_on_behind_a_fault() {
        let text = r#"{"deep": [[[["]}", {"x": [{}]}]]], 1e99999], "bad": {"a": {"b": 1, "\ud800": {"]": 2}}, "a": 1}, "n": [0, 1e99999]}"#;
        let faults = faults(text, Limits { bytes: 1_000, depth: 3, nodes: 100 });
        let paths: Vec<&str> = faults.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["$.deep[0][0]", "$.deep[1]", "$.bad.a", "$.bad.a", "$.n[1]"]);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for (text, reason) in [
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{", "EOF while parsing an object at line 1 column 1"),
            ("[1] 2", "trailing characters at line 1 column 5"),
            ("[01]", "invalid number at line 1 column 3"),
            ("NaN", "expected value at line 1 column 1"),
            ("{\"a\" 1}", "expected `:` at line 1 column 6"),
        ] {
            assert_eq!(one_fault(text, Limits::CATALOG), ("$".into(), format!("not valid JSON: {reason}")), "{text}");
        }
    }

    #[test]
    fn a_lone_surrogate_is_no_character() {
        for text in [r#"{"a": "\ud800"}"#, r#"{"a": {"\udc00": 1}}"#] {
            let (path, fault) = one_fault(text, Limits::CATALOG);
            assert_eq!(path, "$.a");
            assert!(fault.starts_with("not valid JSON: "), "{fault}");
            assert!(!fault.contains(" at line "), "{fault}");
        }
    }

    #[test]
    fn what_postgresql_cannot_hold_is_refused() {
        let nul = "the character U+0000 cannot be stored".to_string();
        assert_eq!(one_fault(r#"["\u0000"]"#, Limits::CATALOG), ("$[0]".into(), nul.clone()));
        assert_eq!(one_fault(r#"{"a\u0000": 1}"#, Limits::CATALOG), (r"$['a\u0000']".into(), nul));
        let range = "the number is out of range".to_string();
        for text in ["1e16383", "1e999999999999", "1e-16384", "1e-99999999999", "-1.5e16383"] {
            assert_eq!(one_fault(text, Limits::CATALOG), ("$".into(), range.clone()), "{text}");
        }
        for text in ["1e16382", "1e-16383", "0e16000", "0.0e-16000"] {
            assert!(parse(text, Limits::CATALOG).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_cost_of_a_document_is_bounded() {
        assert_eq!(
            one_fault("[[[[1]]]]", Limits { depth: 3, ..LIMITS }),
            ("$[0][0][0]".into(), "nested more than 3 levels deep".into())
        );
        assert!(parse("[[[[1]]]]", LIMITS).is_ok());
        let too_many = ("$".to_string(), "the document has more than 10 values".to_string());
        assert!(parse("[1,2,3,4,5,6,7,8,9]", LIMITS).is_ok());
        assert_eq!(one_fault("[1,2,3,4,5,6,7,8,9,10]", LIMITS), too_many);
        assert_eq!(one_fault("[[1,2,3,4],[5,6,7,8],9]", LIMITS), too_many);
        let text = format!("\"{}\"", "x".repeat(999));
        assert_eq!(
            one_fault(&text, LIMITS),
            ("$".into(), "the document has 1001 bytes, more than 1000 are not read".into())
        );
    }

    #[test]
    fn ten_thousand_nested_arrays_are_a_fault() {
        for depth in [65, 10_000, 100_000] {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            let path = format!("${}", "[0]".repeat(64));
            assert_eq!(one_fault(&text, Limits::CATALOG), (path, "nested more than 64 levels deep".into()));
        }
        let unclosed = "[".repeat(10_000);
        assert!(one_fault(&unclosed, Limits::CATALOG).1.starts_with("not valid JSON: EOF"));
    }

    #[test]
    fn a_key_of_a_megabyte_is_read_and_named_in_short() {
        let key = "k".repeat(1 << 20);
        assert_eq!(read(&format!("{{\"{key}\": 1}}")).get(&key), Some(&Json::number(1)));
        let (path, _) = one_fault(&format!("{{\"{key}\": 1, \"{key}\": 2}}"), Limits::CATALOG);
        assert_eq!(path, format!("$['{}…']", &key[..100]));
    }

    #[test]
    fn documents_beyond_sixteen_megabytes_are_not_read() {
        let text = format!("\"{}\"", "x".repeat(16 << 20));
        assert!(one_fault(&text, Limits::CATALOG).1.ends_with("more than 16777216 are not read"));
        let values = format!("[{}1]", "1,".repeat(2_000_000));
        assert_eq!(one_fault(&values, Limits::CATALOG).1, "the document has more than 2000000 values");
    }

    #[test]
    fn equality_is_of_the_meaning() {
        for (one, two) in [
            ("1", "1.0"),
            ("1", "1e0"),
            ("100", "1E+2"),
            ("0.1", "1e-1"),
            ("0", "-0.0e5"),
            ("-1.50", "-15e-1"),
            (r#"{"a": 1, "b": {"c": [1.0], "d": null}}"#, r#"{"b": {"d": null, "c": [1]}, "a": 1.00}"#),
        ] {
            assert_eq!(read(one), read(two));
        }
        for (one, two) in [
            ("1", "-1"),
            ("1", "10"),
            ("0.1", "0.01"),
            ("12345678901234567890", "12345678901234567891"),
            ("1", "\"1\""),
            ("null", "false"),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            (r#"{"a": 1}"#, r#"{"b": 1}"#),
            (r#"{"a": 1}"#, r#"{"a": 1, "b": 1}"#),
        ] {
            assert_ne!(read(one), read(two));
        }
    }

    #[test]
    fn integers_however_they_are_written() {
        for (text, integer) in [
            ("0", Some(0)),
            ("-0.0", Some(0)),
            ("3.00", Some(3)),
            ("30e-1", Some(3)),
            ("-1.2e1", Some(-12)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("1e19", None),
            ("1e16000", None),
            ("0.5", None),
            ("1e-1", None),
            ("\"1\"", None),
        ] {
            assert_eq!(read(text).as_integer(), integer, "{text}");
        }
    }

    #[test]
    fn values_for_other_libraries() {
        let text = r#"{"b":[1,-2.5,1e3,null,true],"a":"x"}"#;
        let value = read(text).to_value();
        assert_eq!(value.to_string(), r#"{"b":[1,-2.5,1000,null,true],"a":"x"}"#);
        assert_eq!(read("1e400").to_value(), Value::from(f64::MAX));
        assert_eq!(read("-1e400").to_value(), Value::from(f64::MIN));
    }

    /// Any document, with numbers that serde_json keeps as they are.
    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[^\0]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec(("[^\0]{0,4}", inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn same_but_numbers(value: &Value, json: &Json) -> bool {
        match (value, json) {
            (Value::Number(_), Json::Number(_)) => true,
            (Value::Array(values), Json::Array(items)) => {
                values.len() == items.len() && values.iter().zip(items).all(|(value, item)| same_but_numbers(value, item))
            }
            (Value::Object(values), Json::Object(members)) => {
                values.len() == members.len()
                    && members
                        .iter()
                        .all(|(key, json)| values.get(key.as_str()).is_some_and(|value| same_but_numbers(value, json)))
            }
            (value, json) => *value == json.to_value(),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in any_value()) {
            let read = parse(&value.to_string(), Limits::CATALOG).unwrap();
            prop_assert_eq!(read.to_string(), value.to_string());
            let spaced = serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n\t ");
            prop_assert_eq!(parse(&spaced, Limits::CATALOG).unwrap().to_string(), value.to_string());
            prop_assert_eq!(read.to_value(), value);
        }

        #[test]
        fn accepts_only_what_serde_json_accepts(text in r#"[\[\]{}:,"\\0-9eE+.untrfalsd -]{0,30}"#) {
            let accepted = parse(&text, Limits::CATALOG);
            if let Ok(json) = accepted {
                let known = serde_json::from_str::<Value>(&text);
                prop_assert!(known.is_ok_and(|known| same_but_numbers(&known, &json)));
                prop_assert_eq!(parse(&json.to_string(), Limits::CATALOG), Ok(json));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = parse(&text, LIMITS);
        }

        #[test]
        fn numbers_are_equal_when_their_amounts_are(one in 0u32..2_000, two in 0u32..2_000, shift in -4i32..=4, other in -4i32..=4) {
            let exact = |number: u32, exponent: i32| u64::from(number) * 10u64.pow((exponent + 4) as u32);
            let (a, b) = (read(&format!("{one}e{shift}")), read(&format!("{two}E{other}")));
            prop_assert_eq!(a == b, exact(one, shift) == exact(two, other));
        }
    }
}
