//! JSON Schema (draft 2020-12) of config features.
//!
//! A schema stands for itself, and checking a value costs no more than its sizes allow: the schema
//! with every reference written out is bounded, and each part of it meets each part of a value at
//! most once. So a reference is a JSON Pointer into the schema and never leads back to itself,
//! nothing is ever fetched, what makes a checker look twice (`unevaluated…`, dynamic references) is
//! refused, and patterns run on a matcher whose time is linear in the text. Without these bounds two
//! dozen lines of schema take all memory there is.

use std::collections::{HashMap, HashSet};

use jsonschema::{Draft, PatternOptions, ValidationError, Validator};

use crate::fault::Excerpt;
use crate::json::Json;

/// Most patterns of a schema, and most bytes of one when compiled.
const MAX_PATTERNS: usize = 20;
const PATTERN_SIZE: usize = 256 << 10;

/// Most values of a schema with its references written out, and most references within one another.
const MAX_WEIGHT: usize = 10_000;
const MAX_CHAIN: usize = 32;

/// Most characters of a message, which may quote the schema.
const MESSAGE_LENGTH: usize = 300;

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// A schema, ready to check values.
pub struct Schema(Validator);

impl Schema {
    /// The error says why this is no schema, or none that can be used here.
    pub fn compile(schema: &Json) -> Result<Schema, String> {
        let mut scale = Scale { root: schema, targets: HashMap::new(), chain: 0, patterns: HashSet::new() };
        if scale.weigh(schema)? > MAX_WEIGHT {
            return Err(format!("with its references written out it has more than {MAX_WEIGHT} values"));
        }
        if scale.patterns.len() > MAX_PATTERNS {
            return Err(format!("it has more than {MAX_PATTERNS} patterns"));
        }
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE))
            .offline()
            .build(&schema.to_value())
            .map(Schema)
            .map_err(|error| shortened(&error.to_string()))
    }

    /// The error says in what the value does not fit, and where in it if not as a whole.
    pub fn check(&self, value: &Json) -> Result<(), String> {
        self.0.validate(&value.to_value()).map_err(|error| describe(&error))
    }
}

/// Without the value itself, which its author knows and which may be long.
fn describe(error: &ValidationError) -> String {
    let place = error.instance_path().to_string();
    let place = if place.is_empty() { place } else { format!(" at {place}") };
    shortened(&format!("{}{place}", error.masked_with("the value")))
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_LENGTH) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// Counts the values of a schema with its references written out.
struct Scale<'s> {
    root: &'s Json,
    /// The weight of what each reference leads to, `None` while it is being weighed.
    targets: HashMap<&'s str, Option<usize>>,
    /// References that are being followed.
    chain: usize,
    patterns: HashSet<&'s str>,
}

impl<'s> Scale<'s> {
    fn weigh(&mut self, json: &'s Json) -> Result<usize, String> {
        let mut weight = 1_usize;
        match json {
            Json::Array(items) => {
                for item in items {
                    weight = weight.saturating_add(self.weigh(item)?);
                }
            }
            Json::Object(members) => {
                for (key, member) in members {
                    weight = weight.saturating_add(self.weigh_member(key, member)?);
                }
            }
            _ => {}
        }
        Ok(weight)
    }

    fn weigh_member(&mut self, key: &'s str, member: &'s Json) -> Result<usize, String> {
        match (key, member) {
            ("$ref", Json::String(reference)) => self.weigh_target(reference),
            ("$schema", Json::String(dialect)) if dialect.trim_end_matches('#') != DIALECT => {
                Err(format!("its $schema is not {DIALECT}"))
            }
            ("$id" | "$dynamicRef" | "$recursiveRef", Json::String(_))
            | ("unevaluatedItems" | "unevaluatedProperties", _) => Err(format!("{key} is not supported")),
            ("pattern", Json::String(pattern)) => {
                self.patterns.insert(pattern);
                Ok(1)
            }
            ("patternProperties", Json::Object(members)) => {
                self.patterns.extend(members.iter().map(|(pattern, _)| pattern.as_str()));
                self.weigh(member)
            }
            _ => self.weigh(member),
        }
    }

    fn weigh_target(&mut self, reference: &'s str) -> Result<usize, String> {
        match self.targets.get(reference) {
            Some(Some(weight)) => return Ok(*weight),
            Some(None) => return Err(format!("the reference '{}' leads back to itself", Excerpt(reference))),
            None => {}
        }
        let Some(pointer) = reference.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
        else {
            return Err(format!("the reference '{}' does not lead to a place within the schema (#/…)", Excerpt(reference)));
        };
        let Some(target) = follow(self.root, pointer) else {
            return Err(format!("the reference '{}' leads to nothing", Excerpt(reference)));
        };
        if self.chain == MAX_CHAIN {
            return Err(format!("more than {MAX_CHAIN} references within one another"));
        }
        self.chain += 1;
        self.targets.insert(reference, None);
        let weight = self.weigh(target)?;
        self.targets.insert(reference, Some(weight));
        self.chain -= 1;
        Ok(weight)
    }
}

/// What a JSON Pointer (RFC 6901) leads to.
fn follow<'s>(root: &'s Json, pointer: &str) -> Option<&'s Json> {
    pointer.split('/').skip(1).try_fold(root, |json, step| {
        let step = step.replace("~1", "/").replace("~0", "~");
        match json {
            Json::Array(items) => items.get(step.parse::<usize>().ok()?),
            json => json.get(&step),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Limits, parse};

    fn json(text: &str) -> Json {
        parse(text, Limits::CATALOG).unwrap()
    }

    fn compile(text: &str) -> Result<Schema, String> {
        Schema::compile(&json(text))
    }

    #[test]
    fn checks_values() {
        let schema = compile(
            r##"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
                 "properties": {"days": {"$ref": "#/$defs/day~1s"}, "note": {"pattern": "^[a-z]*$"}},
                 "$defs": {"day/s": {"type": "integer", "maximum": 30}}}"##,
        )
        .unwrap();
        for value in [r#"{}"#, r#"{"days": 30, "note": "abc"}"#, r#"{"days": 3.0}"#] {
            assert_eq!(schema.check(&json(value)), Ok(()), "{value}");
        }
        for (value, reason) in [
            ("[]", "the value is not of type \"object\""),
            (r#"{"days": 31}"#, "the value is greater than the maximum of 30 at /days"),
            (r#"{"note": "1"}"#, "the value does not match \"^[a-z]*$\" at /note"),
        ] {
            assert_eq!(schema.check(&json(value)), Err(reason.into()), "{value}");
        }
    }

    #[test]
    fn refuses_what_reaches_out_or_loops() {
        let outside =
            |reference: &str| format!("the reference '{reference}' does not lead to a place within the schema (#/…)");
        for (schema, reason) in [
            (r##"{"$ref": "http://example.com/s.json"}"##, outside("http://example.com/s.json")),
            (r##"{"items": [{"$ref": "file:///etc/hosts"}]}"##, outside("file:///etc/hosts")),
            (r##"{"$ref": "#name", "$defs": {"x": {"$anchor": "name"}}}"##, outside("#name")),
            (r##"{"$ref": "#/$defs/x"}"##, "the reference '#/$defs/x' leads to nothing".into()),
            (r##"{"$ref": "#/%24defs/x", "$defs": {"x": true}}"##, "the reference '#/%24defs/x' leads to nothing".into()),
            (r##"{"$ref": "#"}"##, "the reference '#' leads back to itself".into()),
            (
                r##"{"$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}}"##,
                "the reference '#/$defs/b' leads back to itself".into(),
            ),
            (r##"{"$dynamicRef": "#"}"##, "$dynamicRef is not supported".into()),
            (r##"{"$id": "http://example.com/"}"##, "$id is not supported".into()),
            (r##"{"unevaluatedItems": false}"##, "unevaluatedItems is not supported".into()),
            (
                r##"{"$schema": "http://json-schema.org/draft-07/schema#"}"##,
                "its $schema is not https://json-schema.org/draft/2020-12/schema".into(),
            ),
        ] {
            assert_eq!(compile(schema).err(), Some(reason), "{schema}");
        }
    }

    /// Each definition refers to the next one `times` over.
    fn ladder(steps: usize, times: usize) -> Json {
        let rung = |step: usize| {
            let next = Json::object([("$ref", Json::string(format!("#/$defs/d{}", step + 1)))]);
            (format!("d{step}"), Json::object([("anyOf", Json::Array(vec![next; times]))]))
        };
        let mut definitions: Vec<_> = (0..steps).map(rung).collect();
        definitions.push((format!("d{steps}"), json(r#"{"type": "integer"}"#)));
        Json::object([("$ref", Json::string("#/$defs/d0")), ("$defs", Json::object(definitions))])
    }

    #[test]
    fn a_short_schema_cannot_unfold_into_a_huge_one() {
        let reason = "with its references written out it has more than 10000 values";
        assert_eq!(Schema::compile(&ladder(24, 2)).err().as_deref(), Some(reason));
        assert_eq!(Schema::compile(&ladder(30, 1_000)).err().as_deref(), Some(reason));
        let reason = "more than 32 references within one another";
        assert_eq!(Schema::compile(&ladder(2_000, 1)).err().as_deref(), Some(reason));
        assert!(Schema::compile(&ladder(8, 2)).unwrap().check(&Json::string("x")).is_err());
    }

    #[test]
    fn patterns_are_few_and_small() {
        let patterns = |count: usize| {
            let properties = (0..count).map(|number| (format!("^p{number}$"), Json::Bool(true)));
            Json::object([("patternProperties", Json::object(properties)), ("pattern", Json::string("x"))])
        };
        assert!(Schema::compile(&patterns(19)).is_ok());
        assert_eq!(Schema::compile(&patterns(20)).err().as_deref(), Some("it has more than 20 patterns"));
        assert!(compile(r#"{"pattern": "^[\\w.-]+@[\\w-]+\\.\\w+$"}"#).is_ok());
        for pattern in ["(?=a)b", r"(a)\\1", "(a{1000}){1000}"] {
            assert!(compile(&format!(r#"{{"pattern": "{pattern}"}}"#)).is_err(), "{pattern}");
        }
    }
}
