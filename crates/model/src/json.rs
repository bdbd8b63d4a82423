//! JSON documents, read strictly and kept exactly.
//!
//! Promises: what [`parse`] accepts holds no key twice in an object, no character PostgreSQL cannot
//! store and no number beyond the range of `numeric`; numbers keep their literal and members their
//! order, so nothing is lost to a binary float or a hash map. Whatever the text, the outcome is a
//! value or faults with their paths: nesting, size and number of values are bounded before they
//! cost memory or stack.
//!
//! serde_json does the lexing. A first pass checks the whole text without recursion; each object
//! and array is then split into the raw text of its members, one level at a time, which is what
//! keeps literals and lets a repeated key be seen.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
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
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

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
    let mut reader = Reader { limits, nodes: 0, faults };
    match reader.read(raw, &Path::Root, 0) {
        Some(json) if reader.faults.is_empty() => Ok(json),
        _ => Err(reader.faults.into_vec()),
    }
}

struct Reader {
    limits: Limits,
    nodes: usize,
    faults: Faults,
}

impl Reader {
    /// `None` once a fault was noted for this value and reading on would be pointless.
    fn read(&mut self, raw: &RawValue, path: &Path, depth: usize) -> Option<Json> {
        let text = raw.get();
        self.nodes += 1;
        match text.as_bytes()[0] {
            b'n' => Some(Json::Null),
            b't' => Some(Json::Bool(true)),
            b'f' => Some(Json::Bool(false)),
            b'"' => match serde_json::from_str::<String>(text) {
                Ok(string) => self.storable(&string, path).then_some(Json::String(string)),
                Err(error) => self.broken(&error, path),
            },
            b'[' => {
                let items = self.split(text, path, depth)?;
                let mut values = Vec::with_capacity(items.len());
                for (index, (_, item)) in items.into_iter().enumerate() {
                    values.extend(self.read(item, &path.item(index), depth + 1));
                    if self.is_full() {
                        return None;
                    }
                }
                Some(Json::Array(values))
            }
            b'{' => {
                let members = self.split(text, path, depth)?;
                let repeats = repeats(&members);
                let mut values = Vec::with_capacity(members.len());
                for (place, (key, member)) in members.into_iter().enumerate() {
                    let path = path.member(&key);
                    if repeats.contains(&place) {
                        self.faults.push(&path, || "the key appears more than once".into());
                    } else if self.storable(&key, &path)
                        && let Some(value) = self.read(member, &path, depth + 1)
                    {
                        values.push((key, value));
                    }
                    if self.is_full() {
                        return None;
                    }
                }
                Some(Json::Object(values))
            }
            _ => {
                if !Decimal::read(text).is_some_and(|number| number.is_in_range()) {
                    self.faults.push(path, || "the number is out of range".into());
                    return None;
                }
                Some(Json::Number(text.to_owned()))
            }
        }
    }

    /// The raw text of a container's members; the keys of an array's items are empty.
    fn split<'t>(&mut self, text: &'t str, path: &Path, depth: usize) -> Option<Vec<(String, &'t RawValue)>> {
        if depth >= self.limits.depth {
            let limit = self.limits.depth;
            self.faults.push(path, || format!("nested more than {limit} levels deep"));
            return None;
        }
        let mut split = Split { room: self.limits.nodes.saturating_sub(self.nodes), members: Vec::new() };
        let outcome = serde_json::Deserializer::from_str(text).deserialize_any(&mut split);
        if split.members.len() > split.room {
            let limit = self.limits.nodes;
            self.nodes = limit + 1;
            self.faults.push(&Path::Root, || format!("the document has more than {limit} values"));
            return None;
        }
        match outcome {
            Ok(()) => Some(split.members),
            Err(error) => self.broken(&error, path),
        }
    }

    fn is_full(&self) -> bool {
        self.nodes > self.limits.nodes
    }

    /// A fault the first pass does not see: a lone surrogate in an escape.
    fn broken<T>(&mut self, error: &serde_json::Error, path: &Path) -> Option<T> {
        self.faults.push(path, || {
            let reason = error.to_string();
            // The position counts from the start of this value, not of the document.
            let end = reason.rfind(" at line ").unwrap_or(reason.len());
            format!("not valid JSON: {}", &reason[..end])
        });
        None
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

/// The places of members whose key another one has before.
fn repeats(members: &[(String, &RawValue)]) -> HashSet<usize> {
    // So few are compared sooner than hashed.
    const FEW: usize = 8;
    let mut seen = HashSet::with_capacity(if members.len() > FEW { members.len() } else { 0 });
    let mut is_repeat = |place: usize| {
        let key = &members[place].0;
        if members.len() > FEW { !seen.insert(key) } else { members[..place].iter().any(|(other, _)| other == key) }
    };
    (0..members.len()).filter(|place| is_repeat(*place)).collect()
}

/// Collects members up to one more than there is room for.
struct Split<'t> {
    room: usize,
    members: Vec<(String, &'t RawValue)>,
}

impl<'t> Visitor<'t> for &mut Split<'t> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            self.members.push((String::new(), item));
            if self.members.len() > self.room {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'t>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_entry()? {
            self.members.push(entry);
            if self.members.len() > self.room {
                break;
            }
        }
        Ok(())
    }
}

impl Json {
    /// The number a literal stands for, where it is one.
    pub fn number(literal: impl ToString) -> Json {
        Json::Number(literal.to_string())
    }

    pub fn string(text: impl Into<String>) -> Json {
        Json::String(text.into())
    }

    /// An object of these members, in this order.
    pub fn object<K: Into<String>>(members: impl IntoIterator<Item = (K, Json)>) -> Json {
        Json::Object(members.into_iter().map(|(k, v)| (k.into(), v)).collect())
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
            Json::String(string) => Value::String(string.clone()),
            Json::Array(items) => Value::Array(items.iter().map(Json::to_value).collect()),
            Json::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (key.clone(), value.to_value())).collect())
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
                    let sorted = |members: &'_ Vec<(String, Json)>| {
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
                    && members.iter().all(|(key, json)| values.get(key).is_some_and(|value| same_but_numbers(value, json)))
            }
            (value, json) => *value == json.to_value(),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in any_value()) {
            let read = parse(&value.to_string(), Limits::CATALOG).unwrap();
            prop_assert_eq!(read.to_string(), value.to_string());
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
