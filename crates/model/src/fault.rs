//! Faults of a document: what is wrong, and where.
//!
//! A document is checked to its end, so that its author sees every fault at once. What that may
//! cost is bounded: paths and messages are made only for the faults that are kept.

use std::fmt;

use crate::json::Json;

/// One thing wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a JSONPath: `$.plans.team.features['max-size']`.
    pub path: String,
    /// What, in words.
    pub fault: String,
}

impl Fault {
    pub fn to_json(&self) -> Json {
        Json::object([("path", Json::string(&self.path)), ("fault", Json::string(&self.fault))])
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.fault)
    }
}

/// The faults found so far: the first [`Faults::KEPT`] and the number of the others.
#[derive(Debug, Default)]
pub struct Faults {
    kept: Vec<Fault>,
    more: usize,
}

impl Faults {
    pub const KEPT: usize = 100;

    pub fn push(&mut self, path: &Path, fault: impl FnOnce() -> String) {
        if self.kept.len() < Faults::KEPT {
            self.kept.push(Fault { path: path.to_string(), fault: fault() });
        } else {
            self.more += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The faults in the order found; where some were not kept, a last one says how many.
    pub fn into_vec(self) -> Vec<Fault> {
        let mut faults = self.kept;
        if self.more > 0 {
            faults.push(Fault { path: Path::Root.to_string(), fault: format!("and {} more faults", self.more) });
        }
        faults
    }
}

/// A place in a document, as a chain to its root: nothing is allocated until it is printed.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    pub fn member<'a>(&'a self, key: &'a str) -> Path<'a> {
        Path::Member(self, key)
    }

    pub fn item(&self, index: usize) -> Path<'_> {
        Path::Item(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Path::Root => f.write_str("$"),
            Path::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Member(parent, key) if is_plain(key) => write!(f, "{parent}.{key}"),
            Path::Member(parent, key) => write!(f, "{parent}['{}']", Excerpt(key)),
        }
    }
}

fn is_plain(key: &str) -> bool {
    key.len() <= Excerpt::LENGTH
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Text out of a document for a message: one line, of bounded length, quotes escaped.
pub struct Excerpt<'a>(pub &'a str);

impl Excerpt<'_> {
    /// Characters shown.
    const LENGTH: usize = 100;
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(Excerpt::LENGTH) {
            match c {
                '\'' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        if chars.next().is_some() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_json_paths() {
        let plans = Path::Root.member("plans");
        let team = plans.member("team");
        let size = team.member("max-size");
        assert_eq!(Path::Root.to_string(), "$");
        assert_eq!(size.item(3).to_string(), "$.plans.team['max-size'][3]");
        for (key, path) in [
            ("_a1", "$._a1"),
            ("", "$['']"),
            ("1a", "$['1a']"),
            ("a.b", "$['a.b']"),
            ("é", "$['é']"),
            ("it's \\", r"$['it\'s \\']"),
            ("a\nb", r"$['a\u000ab']"),
        ] {
            assert_eq!(Path::Root.member(key).to_string(), path);
        }
        let long = "é".repeat(101);
        assert_eq!(Path::Root.member(&long).to_string(), format!("$['{}…']", "é".repeat(100)));
    }

    #[test]
    fn only_the_first_faults_are_made() {
        let mut faults = Faults::default();
        for number in 0..Faults::KEPT {
            faults.push(&Path::Root.item(number), || "wrong".into());
        }
        assert_eq!(faults.kept.len(), 100);
        for _ in 0..2 {
            faults.push(&Path::Root, || unreachable!("a message that nobody reads"));
        }
        let faults = faults.into_vec();
        assert_eq!(faults.len(), 101);
        assert_eq!(faults[99].to_string(), "$[99]: wrong");
        assert_eq!(faults[100].to_json().to_string(), r#"{"path":"$","fault":"and 2 more faults"}"#);
    }
}
