//! YAML 1.2 read as JSON.
//!
//! The core schema, with what JSON has no word for refused instead of guessed at: tags, `.inf`, `.nan`, octal and hexadecimal
//! numbers, keys that are no text, a key twice in a mapping, several documents. Numbers keep their digits. What aliases
//! multiply is counted before it is copied.

use std::collections::{HashMap, HashSet};

use entitlements_model::fault::{Excerpt, Fault};
use entitlements_model::json::{Json, Limits, Member};
use saphyr_parser::{Event, Parser, ScalarStyle};

/// What `.inf` stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Infinity {
    /// Nothing: JSON has no word for it.
    Refused,
    /// A metered value without a limit.
    Unlimited,
}

pub fn parse(text: &str, limits: Limits, infinity: Infinity) -> Result<Json, Fault> {
    if text.len() > limits.bytes {
        return Err(fault(1, format!("the document has {} bytes, more than {} are not read", text.len(), limits.bytes)));
    }
    let mut reader = Reader { limits, infinity, nodes: 0, open: Vec::new(), anchors: HashMap::new(), document: None };
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| fault(error.marker().line(), format!("not valid YAML: {}", error.info())))?;
        reader.event(event).map_err(|message| fault(span.start.line(), message))?;
    }
    reader.document.ok_or_else(|| fault(1, "the document is empty".into()))
}

fn fault(line: usize, fault: String) -> Fault {
    Fault { path: format!("line {line}"), fault }
}

struct Reader {
    limits: Limits,
    infinity: Infinity,
    nodes: usize,
    /// The containers around the present place.
    open: Vec<Open>,
    /// Complete nodes that an alias may repeat, with the number of values in them.
    anchors: HashMap<usize, (Json, usize)>,
    document: Option<Json>,
}

struct Open {
    anchor: usize,
    /// The number of values before this container.
    start: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Json>),
    Mapping { members: Vec<Member>, seen: HashSet<String>, key: Option<String> },
}

impl Reader {
    fn event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) if self.document.is_some() => Err("a second document".into()),
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                Err("tags are not read".into())
            }
            Event::Scalar(text, style, anchor, None) => {
                if text.contains('\0') {
                    return Err("the character U+0000 cannot be stored".into());
                }
                if let Some(Open { content: Content::Mapping { key: key @ None, seen, .. }, .. }) = self.open.last_mut() {
                    if !seen.insert(text.to_string()) {
                        return Err(format!("the key '{}' appears more than once", Excerpt(&text)));
                    }
                    *key = Some(text.into_owned());
                    return Ok(());
                }
                let json = match style {
                    ScalarStyle::Plain => plain(&text, self.infinity)?,
                    _ => Json::string(text),
                };
                self.count(1)?;
                self.complete(json, anchor, 1)
            }
            Event::SequenceStart(anchor, None) => self.start(anchor, Content::Sequence(Vec::new())),
            Event::MappingStart(anchor, None) => {
                self.start(anchor, Content::Mapping { members: Vec::new(), seen: HashSet::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let json = match open.content {
                    Content::Sequence(items) => Json::Array(items),
                    Content::Mapping { members, .. } => Json::Object(members),
                };
                self.complete(json, open.anchor, self.nodes - open.start)
            }
            Event::Alias(anchor) => {
                let Some((json, nodes)) = self.anchors.get(&anchor) else {
                    return Err("an alias of a node that contains it".into());
                };
                let (nodes, json) = (*nodes, json.clone());
                self.count(nodes)?;
                self.complete(json, 0, nodes)
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, anchor: usize, content: Content) -> Result<(), String> {
        self.no_key()?;
        if self.open.len() >= self.limits.depth {
            return Err(format!("nested more than {} levels deep", self.limits.depth));
        }
        self.open.push(Open { anchor, start: self.nodes, content });
        self.count(1)
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes += nodes;
        match self.nodes > self.limits.nodes {
            true => Err(format!("the document has more than {} values", self.limits.nodes)),
            false => Ok(()),
        }
    }

    /// Containers and aliases cannot be keys.
    fn no_key(&self) -> Result<(), String> {
        match self.open.last() {
            Some(Open { content: Content::Mapping { key: None, .. }, .. }) => Err("a key must be text".into()),
            _ => Ok(()),
        }
    }

    fn complete(&mut self, json: Json, anchor: usize, nodes: usize) -> Result<(), String> {
        self.no_key()?;
        if anchor > 0 {
            self.anchors.insert(anchor, (json.clone(), nodes));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            Some(Content::Sequence(items)) => items.push(json),
            Some(Content::Mapping { members, key, .. }) => members.extend(key.take().map(|key| (key.into(), json))),
            None => self.document = Some(json),
        }
        Ok(())
    }
}

/// A plain scalar by the core schema.
fn plain(text: &str, infinity: Infinity) -> Result<Json, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Json::Null),
        "true" | "True" | "TRUE" => return Ok(Json::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Json::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if infinity == Infinity::Unlimited && matches!(text, ".inf" | ".Inf" | ".INF") {
        return Ok(Json::string("unlimited"));
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("{text} is no JSON number; a metered value without a limit is \"unlimited\""));
    }
    let based = |prefix: &str, digit: fn(&char) -> bool| {
        text.strip_prefix(prefix).is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| digit(&c)))
    };
    if based("0o", |c| c.is_digit(8)) || based("0x", char::is_ascii_hexdigit) {
        return Err(format!("{text} is a number in another base; write it in decimal, or in quotes if it is text"));
    }
    Ok(decimal(text).map_or_else(|| Json::string(text), Json::number))
}

/// The JSON literal of a decimal number; `None` for other text.
fn decimal(text: &str) -> Option<String> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_digits = exponent.map(|exponent| exponent.strip_prefix(['-', '+']).unwrap_or(exponent));
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    if exponent_digits.is_some_and(|exponent| exponent.is_empty() || !digits(exponent)) {
        return None;
    }
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let fraction = if fraction.is_empty() { String::new() } else { format!(".{fraction}") };
    let exponent = exponent.map_or(String::new(), |exponent| format!("e{exponent}"));
    Some(format!("{sign}{whole}{fraction}{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 10_000, depth: 8, nodes: 100 };

    fn read(text: &str) -> String {
        parse(text, LIMITS, Infinity::Refused).map_or_else(|fault| fault.to_string(), |json| json.to_string())
    }

    #[test]
    fn the_core_schema() {
        for (yaml, json) in [
            ("a: 1", r#"{"a":1}"#),
            ("[1, +2, -3, 0.10, .5, 5., 1e3, 1.5E-7, 007, -0]", "[1,2,-3,0.10,0.5,5,1e3,1.5e-7,7,-0]"),
            ("[true, False, null, ~, ]", "[true,false,null,null]"),
            (
                "[yes, on, No, 1_000, 1.2.3, -a, 1e, e5, '1', \"true\", 2023-01-02]",
                r#"["yes","on","No","1_000","1.2.3","-a","1e","e5","1","true","2023-01-02"]"#,
            ),
            ("12345678901234567890123: 0.1000000000000000055", r#"{"12345678901234567890123":0.1000000000000000055}"#),
            ("a:\n  - b: |\n      x\n  - {c: d}", r#"{"a":[{"b":"x\n"},{"c":"d"}]}"#),
            ("a: &x {n: [1]}\nb: *x", r#"{"a":{"n":[1]},"b":{"n":[1]}}"#),
            ("null: 1\n'': 2", r#"{"null":1,"":2}"#),
        ] {
            assert_eq!(read(yaml), json, "{yaml}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for (yaml, fault) in [
            ("", "line 1: the document is empty"),
            ("a: 1\na: 2", "line 2: the key 'a' appears more than once"),
            ("a: !!int 1", "line 1: tags are not read"),
            ("a: -.inf", "line 1: -.inf is no JSON number"),
            ("a: .nan", "line 1: .nan is no JSON number"),
            ("a: 0x1F", "line 1: 0x1F is a number in another base"),
            ("? [a]\n: 1", "line 1: a key must be text"),
            ("a: 1\n---\nb: 2", "line 2: a second document"),
            ("a: [1", "line "),
            ("a: *x", "line 1: not valid YAML"),
            ("&x [*x]", "line 1: an alias of a node that contains it"),
            ("a: \"\\0\"", "line 1: the character U+0000"),
            ("\"a\\0\": 1", "line 1: the character U+0000"),
            (&"[".repeat(9), "line 1: nested more than 8 levels deep"),
            (&"x".repeat(10_001), "line 1: the document has 10001 bytes"),
        ] {
            let found = read(yaml);
            assert!(found.starts_with(fault), "{yaml}: {found}");
        }
    }

    #[test]
    fn aliases_do_not_multiply_without_end() {
        let bomb = "a: &a [1,1,1,1]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]";
        assert_eq!(read(bomb), "line 3: the document has more than 100 values");
    }
}
