//! The nearest known names for one that is unknown, to put into a hint.
//!
//! The cost is bounded: no valid key is longer than [`NAME_BYTES`], so only that much of an unknown name is compared.

use crate::key::NAME_BYTES;

/// At most `max` of the known names, nearest first, equal ones in byte order. Names too different to be meant are left out.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>, max: usize) -> Vec<&'a str> {
    let unknown = comparable(unknown);
    let mut near: Vec<(f64, &str)> =
        known.map(|name| (likeness(&unknown, name), name)).filter(|(likeness, _)| *likeness >= LEAST_LIKENESS).collect();
    near.sort_by(|(one, a), (two, b)| two.total_cmp(one).then_with(|| a.cmp(b)));
    near.dedup_by(|a, b| a.1 == b.1);
    near.truncate(max);
    near.into_iter().map(|(_, name)| name).collect()
}

/// Below this, two names share little more than their length: half of the longer one must agree.
const LEAST_LIKENESS: f64 = 0.5;

/// From 0 to 1. A name typed in full as a part of a known one (`minutes` for `actions_minutes`) is near too.
fn likeness(unknown: &str, name: &str) -> f64 {
    let known = comparable(name);
    let edits = strsim::normalized_damerau_levenshtein(unknown, &known);
    let is_part = unknown.len() >= 3 && known.contains(unknown);
    if is_part { edits.max(LEAST_LIKENESS) } else { edits }
}

fn comparable(name: &str) -> String {
    name.chars().take(NAME_BYTES).flat_map(char::to_lowercase).map(|c| if c == '-' { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] = ["sso", "support", "actions_minutes", "seats", "seat_groups", "storage"];

    fn hints(unknown: &str) -> Vec<&'static str> {
        nearest(unknown, KNOWN.into_iter(), 3)
    }

    #[test]
    fn typing_errors_find_their_name() {
        assert_eq!(hints("seat")[0], "seats");
        assert_eq!(hints("suport")[0], "support");
        assert_eq!(hints("action-minutes")[0], "actions_minutes");
        assert_eq!(hints("SSO")[0], "sso");
        assert_eq!(hints("minutes"), ["actions_minutes"]);
    }

    #[test]
    fn nothing_alike_suggests_nothing() {
        assert!(hints("zzzzzzzz").is_empty());
        assert!(hints("").is_empty());
        assert!(nearest("sso", std::iter::empty(), 3).is_empty());
    }

    #[test]
    fn no_more_than_asked_and_each_once() {
        assert_eq!(nearest("seats", ["seats", "seats", "seat", "seatz"].into_iter(), 2), ["seats", "seat"]);
        assert!(nearest("seats", KNOWN.into_iter(), 0).is_empty());
    }

    #[test]
    fn a_megabyte_costs_no_more_than_a_key() {
        let known: Vec<String> = (0..10_000).map(|number| format!("feature_{number}")).collect();
        let long = "feature_".repeat(1 << 17);
        assert!(nearest(&long, known.iter().map(String::as_str), 3).len() <= 3);
        assert_eq!(comparable(&long).len(), NAME_BYTES);
    }
}
