//! One complaint about one place in one file, shown with the line it is about.

use std::fmt;

use crate::shown;

/// Characters shown of one line.
const WIDTH: usize = 480;

/// A complaint with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// File as the user named it.
    pub file: String,
    /// Line from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// Column from 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub message: String,
    /// The line's text.
    pub text: String,
}

impl Diagnostic {
    /// Makes a complaint about a place in a source text.
    pub fn at(file: &str, source: &str, (line, column): (usize, usize), message: impl Into<String>) -> Self {
        let text = line.checked_sub(1).and_then(|index| source.lines().nth(index)).unwrap_or_default().to_owned();
        Self { file: file.to_owned(), line, column, message: message.into(), text }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = shown::piece(&self.file);
        writeln!(out, "error: {}", shown::lines(&self.message))?;
        if self.line == 0 {
            return writeln!(out, "  --> {file}");
        }
        let number = self.line.to_string();
        let (text, mark) = self.excerpt();
        let gutter = " ".repeat(number.len());
        writeln!(out, "{gutter}--> {file}:{}:{}", self.line, self.column)?;
        writeln!(out, "{gutter} |")?;
        writeln!(out, "{number} | {text}")?;
        writeln!(out, "{gutter} | {}^", " ".repeat(mark))
    }
}

impl Diagnostic {
    /// What is shown of the line, and where in it the mark stands: a line from outside neither floods the terminal nor
    /// speaks to it.
    fn excerpt(&self) -> (String, usize) {
        let at = self.column.saturating_sub(1);
        let start = if self.text.chars().count() > WIDTH { at.saturating_sub(WIDTH / 2) } else { 0 };
        let plain = |c: char| if c == '\t' { ' ' } else { plain(c) };
        let mut shown: String = self.text.chars().skip(start).take(WIDTH).map(plain).collect();
        if start > 0 {
            shown.insert(0, '…');
        }
        if self.text.chars().count() > start + WIDTH {
            shown.push('…');
        }
        (shown, at - start + usize::from(start > 0))
    }
}

fn plain(c: char) -> char {
    if c == '\n' || shown::acts(c) { char::REPLACEMENT_CHARACTER } else { c }
}

/// All complaints about a set of files.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{diagnostic}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_shown_around_its_mistake() {
        let source = format!("{}\u{1b}[2J!{}", "a".repeat(5000), "b".repeat(5000));
        let shown = Diagnostic::at("x.yaml", &source, (1, 5005), "no\u{7}").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let mark = lines[4].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[3].chars().nth(mark), Some('!'), "{shown}");
        assert!(shown.len() < 1200 && !shown.chars().any(|c| c.is_control() && c != '\n'), "{shown}");
    }
}
