//! One complaint about one place in one file, shown with the line it is about.

use std::fmt;

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
        writeln!(out, "error: {}", self.message)?;
        if self.line == 0 {
            return writeln!(out, "  --> {}", self.file);
        }
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(out, "{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(out, "{gutter} |")?;
        writeln!(out, "{number} | {}", self.text)?;
        writeln!(out, "{gutter} | {}^", " ".repeat(self.column.saturating_sub(1)))
    }
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
