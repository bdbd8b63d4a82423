//! Reading the members of a catalog document into typed values, one fault for each that is none.
//!
//! Every reader returns `None` exactly when it noted a fault, so that the rest of the document is
//! still read.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::amount::Amount;
use crate::fault::{Excerpt, Fault, Faults, Path};
use crate::json::{Json, Member};
use crate::suggest;

/// What was found while a document is checked: faults of the document itself, and conflicts with
/// the present catalog.
#[derive(Default)]
pub(super) struct Findings {
    faults: Faults,
    invalid: bool,
}

impl Findings {
    pub(super) fn fault(&mut self, path: &Path, fault: impl FnOnce() -> String) {
        self.invalid = true;
        self.faults.push(path, fault);
    }

    pub(super) fn conflict(&mut self, path: &Path, conflict: impl FnOnce() -> String) {
        self.faults.push(path, conflict);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether the document would be wrong for any catalog.
    pub(super) fn is_invalid(&self) -> bool {
        self.invalid
    }

    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.faults.into_vec()
    }
}

pub(super) fn object<'j>(json: &'j Json, path: &Path, findings: &mut Findings) -> Option<&'j [Member]> {
    match json {
        Json::Object(members) => Some(members),
        _ => wrong_type(json, "an object", path, findings),
    }
}

pub(super) fn boolean(json: &Json, path: &Path, findings: &mut Findings) -> Option<bool> {
    match json {
        Json::Bool(boolean) => Some(*boolean),
        _ => wrong_type(json, "true or false", path, findings),
    }
}

/// Text of at most `most` characters.
pub(super) fn text(json: &Json, most: usize, path: &Path, findings: &mut Findings) -> Option<String> {
    match json {
        Json::String(text) if text.chars().nth(most).is_some() => {
            findings.fault(path, || format!("longer than {most} characters"));
            None
        }
        Json::String(text) => Some(text.to_string()),
        _ => wrong_type(json, "a string", path, findings),
    }
}

/// Text of some narrower form: a word of a closed set, a key, a period.
pub(super) fn parsed<T>(json: &Json, path: &Path, findings: &mut Findings) -> Option<T>
where
    T: FromStr<Err: ToString>,
{
    match json {
        Json::String(text) => match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                findings.fault(path, || format!("'{}' {}", Excerpt(text), error.to_string()));
                None
            }
        },
        _ => wrong_type(json, "a string", path, findings),
    }
}

pub(super) fn integer(json: &Json, range: RangeInclusive<i64>, path: &Path, findings: &mut Findings) -> Option<i64> {
    match json {
        Json::Number(literal) => {
            let integer = json.as_integer().filter(|integer| range.contains(integer));
            if integer.is_none() {
                let (least, most) = range.into_inner();
                findings.fault(path, || format!("{} is not an integer from {least} to {most}", Excerpt(literal)));
            }
            integer
        }
        _ => wrong_type(json, "an integer", path, findings),
    }
}

pub(super) fn amount(json: &Json, path: &Path, findings: &mut Findings) -> Option<Amount> {
    match json {
        Json::Number(literal) => match literal.parse() {
            Ok(amount) => Some(amount),
            Err(error) => {
                findings.fault(path, || format!("{} {error}", Excerpt(literal)));
                None
            }
        },
        _ => wrong_type(json, "a number", path, findings),
    }
}

/// A member that may be null, which stands for its default.
pub(super) fn nullable<T>(json: &Json, read: impl FnOnce(&Json) -> Option<T>) -> Option<Option<T>> {
    match json {
        Json::Null => Some(None),
        json => read(json).map(Some),
    }
}

/// The key of a feature, plan, connector or price, named as `what` if it is none.
pub(super) fn key<K>(text: &str, what: &str, path: &Path, findings: &mut Findings) -> Option<K>
where
    K: FromStr<Err: ToString>,
{
    match text.parse() {
        Ok(key) => Some(key),
        Err(error) => {
            findings.fault(path, || format!("the key of {what} {}", error.to_string()));
            None
        }
    }
}

pub(super) fn wrong_type<T>(json: &Json, expected: &str, path: &Path, findings: &mut Findings) -> Option<T> {
    findings.fault(path, || format!("must be {expected}, not {}", json.describe()));
    None
}

/// Faults a member that the object does not have.
pub(super) fn unknown_member(member: &str, known: &[&str], path: &Path, findings: &mut Findings) {
    findings.fault(path, || format!("unknown member{}", nearest(member, known.iter().copied())));
}

/// The nearest known names, as the end of a message.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut hint = String::new();
    for (index, name) in suggest::nearest(unknown, known, 3).into_iter().enumerate() {
        hint.push_str(if index == 0 { "; nearest: " } else { ", " });
        let _ = write!(hint, "{name}");
    }
    hint
}
