//! The documents name what the code has.

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each NE code in the text between `start` and `end`.
fn codes(text: &str, start: &str, end: &str) -> BTreeSet<String> {
    let from = text.find(start).unwrap_or_else(|| panic!("{start} is there"));
    let until = from + text[from..].find(end).unwrap_or_else(|| panic!("{end} is there"));
    let part = &text[from..until];
    part.match_indices("NE")
        .filter_map(|(at, _)| part.get(at..at + 5))
        .filter(|code| code[2..].bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_table_of_errors_lists_exactly_what_is_raised() {
    let raised = codes(&read("src/error.rs"), "fn sqlstate", "fn hint");
    let listed = codes(&read("docs/errors.md"), "| SQLSTATE |", "`40001` is also raised");
    assert!(raised.len() > 5, "the codes were found: {raised:?}");
    assert_eq!(listed, raised);
}
