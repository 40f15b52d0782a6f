//! Text from elsewhere as a person may be shown it: what would move the cursor, ring, hide or reorder is written out.

/// A piece of one line: line ends are written out too, so that nothing in it can pass for a line of ours.
pub fn piece(text: &str) -> String {
    written_out(text, |c| c == '\n' || c == '\t' || acts(c))
}

/// Whole lines: their ends and tabs stay.
pub fn lines(text: &str) -> String {
    written_out(text, acts)
}

/// Whether a terminal would do something about a character other than show it; line ends and tabs apart.
pub fn acts(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_a_line = matches!(c, '\u{2028}' | '\u{2029}');
    (c.is_control() && c != '\n' && c != '\t') || reorders || ends_a_line
}

fn written_out(text: &str, acts: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_written_out_and_the_rest_stays() {
        assert_eq!(
            piece("a\u{1b}[2J\u{7}\r\n\tb\u{9b}\u{202e}c — é 漢"),
            "a\\u{1b}[2J\\u{7}\\r\\n\\tb\\u{9b}\\u{202e}c — é 漢"
        );
        assert_eq!(lines("a\n\tb\u{7f}\u{2028}"), "a\n\tb\\u{7f}\\u{2028}");
    }
}
