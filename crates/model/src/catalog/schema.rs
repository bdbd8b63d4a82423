//! JSON Schema of config features (draft 2020-12 unless the schema says otherwise).
//!
//! A schema stands for itself: a reference leads to a place within it, and nothing is ever
//! fetched. Patterns run on a matcher whose time is linear in the text.

use jsonschema::{PatternOptions, ValidationError, Validator};

use crate::json::Json;

/// Most bytes of a compiled pattern.
const PATTERN_SIZE: usize = 1 << 20;

/// Most characters of a message, which may quote the schema.
const MESSAGE_LENGTH: usize = 300;

/// A schema, ready to check values.
pub struct Schema(Validator);

impl Schema {
    /// The error says why this is no schema.
    pub fn compile(schema: &Json) -> Result<Schema, String> {
        jsonschema::options()
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
