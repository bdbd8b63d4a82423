//! Text out of a document on a terminal: it cannot move the cursor, change colours or turn the direction of writing.

use std::fmt;

pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| if is_active(c) { write!(f, "\\u{{{:x}}}", u32::from(c)) } else { write!(f, "{c}") })
    }
}

/// Control characters, and format characters that are not seen themselves.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_spelt_out() {
        assert_eq!(Plain("Müller & Söhne 株式").to_string(), "Müller & Söhne 株式");
        assert_eq!(Plain("a\u{1b}[31mb\n\u{9b}").to_string(), "a\\u{1b}[31mb\\u{a}\\u{9b}");
        assert_eq!(Plain("a\u{202e}b\u{2066}\u{feff}").to_string(), "a\\u{202e}b\\u{2066}\\u{feff}");
    }
}
