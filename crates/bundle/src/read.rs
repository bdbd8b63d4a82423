//! Reading the members of a document into typed values, one fault for each that is none.
//!
//! Every reader returns `None` exactly when it noted a fault, so that the rest of the document is still read.

use std::ops::RangeInclusive;
use std::str::FromStr;

use entitlements_model::amount::Amount;
use entitlements_model::fault::{Excerpt, Fault, Faults, Path};
use entitlements_model::json::{self, Json, Limits, Member};

use crate::date::NumericDate;

/// Sequence numbers that every JSON library reads exactly.
const MAX_SEQUENCE: i64 = (1 << 53) - 1;

/// Ten years.
const MAX_SECONDS: i64 = 315_360_000;

/// Reads a payload as a document of one form: a document with one fault is none.
pub(crate) fn document<T>(
    payload: &[u8],
    limits: Limits,
    read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
) -> Result<T, Vec<Fault>> {
    let mut faults = Faults::default();
    let Ok(text) = std::str::from_utf8(payload) else {
        faults.push(&Path::Root, || "not valid UTF-8".into());
        return Err(faults.into_vec());
    };
    let json = json::parse(text, limits)?;
    match read(&json, &mut faults) {
        Some(document) if faults.is_empty() => Ok(document),
        _ => Err(faults.into_vec()),
    }
}

/// An object and where it stands.
pub(crate) struct Object<'j, 'p> {
    members: &'j [Member],
    path: &'p Path<'p>,
}

impl<'j, 'p> Object<'j, 'p> {
    /// An object whose members are all known.
    pub(crate) fn read(json: &'j Json, path: &'p Path<'p>, known: &[&str], faults: &mut Faults) -> Option<Self> {
        let members = members(json, path, faults)?;
        for (member, _) in members {
            if !known.contains(&member.as_str()) {
                faults.push(&path.member(member), || format!("unknown member; known are {}", known.join(", ")));
            }
        }
        Some(Self { members, path })
    }

    /// An object of somebody else's form, which may have members that nobody here knows.
    #[cfg(feature = "keygen")]
    pub(crate) fn any(json: &'j Json, path: &'p Path<'p>, faults: &mut Faults) -> Option<Self> {
        Some(Self { members: members(json, path, faults)?, path })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'j Json> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, json)| json)
    }

    pub(crate) fn required<T>(
        &self,
        name: &str,
        faults: &mut Faults,
        read: impl FnOnce(&'j Json, &Path, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        let path = self.path.member(name);
        match self.get(name) {
            Some(json) => read(json, &path, faults),
            None => {
                faults.push(&path, || "is missing".into());
                None
            }
        }
    }

    /// A member that may be left out or null; `Some(None)` then.
    pub(crate) fn optional<T>(
        &self,
        name: &str,
        faults: &mut Faults,
        read: impl FnOnce(&'j Json, &Path, &mut Faults) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.get(name) {
            None | Some(Json::Null) => Some(None),
            Some(json) => read(json, &self.path.member(name), faults).map(Some),
        }
    }
}

pub(crate) fn members<'j>(json: &'j Json, path: &Path, faults: &mut Faults) -> Option<&'j [Member]> {
    match json {
        Json::Object(members) => Some(members),
        _ => wrong_type(json, "an object", path, faults),
    }
}

pub(crate) fn items<'j>(json: &'j Json, path: &Path, faults: &mut Faults) -> Option<&'j [Json]> {
    match json {
        Json::Array(items) => Some(items),
        _ => wrong_type(json, "an array", path, faults),
    }
}

/// A name that somebody outside chose: 1 to 255 bytes without control characters.
pub(crate) fn name(json: &Json, path: &Path, faults: &mut Faults) -> Option<String> {
    bounded_text(json, 255, path, faults).filter(|text| {
        let control = text.chars().any(char::is_control);
        if control {
            faults.push(path, || "contains a control character".into());
        }
        !control
    })
}

/// Text of 1 to `most` bytes.
pub(crate) fn bounded_text(json: &Json, most: usize, path: &Path, faults: &mut Faults) -> Option<String> {
    match json {
        Json::String(text) if text.is_empty() => {
            faults.push(path, || "is empty".into());
            None
        }
        Json::String(text) if text.len() > most => {
            faults.push(path, || format!("is longer than {most} bytes"));
            None
        }
        Json::String(text) => Some(text.to_string()),
        _ => wrong_type(json, "a string", path, faults),
    }
}

/// Text of some narrower form: a word of a closed set, a key, a digest.
pub(crate) fn parsed<T>(json: &Json, path: &Path, faults: &mut Faults) -> Option<T>
where
    T: FromStr<Err: ToString>,
{
    match json {
        Json::String(text) => match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                faults.push(path, || format!("'{}' {}", Excerpt(text), error.to_string()));
                None
            }
        },
        _ => wrong_type(json, "a string", path, faults),
    }
}

/// A number written as an integer: digits only, so that every reader of the document sees the same.
pub(crate) fn integer(json: &Json, range: RangeInclusive<i64>, path: &Path, faults: &mut Faults) -> Option<i64> {
    match json {
        Json::Number(literal) => {
            let integer = literal.parse().ok().filter(|integer| range.contains(integer));
            if integer.is_none() {
                let (least, most) = range.into_inner();
                faults.push(path, || format!("{} is not an integer from {least} to {most}", Excerpt(literal)));
            }
            integer
        }
        _ => wrong_type(json, "an integer", path, faults),
    }
}

pub(crate) fn date(json: &Json, path: &Path, faults: &mut Faults) -> Option<NumericDate> {
    integer(json, 0..=NumericDate::LAST.seconds(), path, faults).and_then(NumericDate::from_seconds)
}

pub(crate) fn amount(json: &Json, path: &Path, faults: &mut Faults) -> Option<Amount> {
    let Json::Number(literal) = json else {
        return wrong_type(json, "a number", path, faults);
    };
    match literal.parse() {
        Ok(amount) => Some(amount),
        Err(error) => {
            faults.push(path, || format!("{} {error}", Excerpt(literal)));
            None
        }
    }
}

/// The number of a document in its issuer's series.
pub(crate) fn sequence(json: &Json, path: &Path, faults: &mut Faults) -> Option<i64> {
    integer(json, 1..=MAX_SEQUENCE, path, faults)
}

/// A duration of at least so many seconds.
pub(crate) fn seconds(least: i64) -> impl FnOnce(&Json, &Path, &mut Faults) -> Option<i64> {
    move |json, path, faults| integer(json, least..=MAX_SECONDS, path, faults)
}

pub(crate) fn wrong_type<T>(json: &Json, expected: &str, path: &Path, faults: &mut Faults) -> Option<T> {
    faults.push(path, || format!("must be {expected}, not {}", json.describe()));
    None
}
