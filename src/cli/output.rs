//! The only place that prints: data on standard output, everything else on standard error.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::domain::finding::Verdict;

use super::{Failure, Global};

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Prints for people or for programs.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    color: bool,
    quiet: bool,
}

/// A colour by its meaning; symbols and words carry the meaning too.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tint {
    Good,
    Bad,
    Doubt,
    Faint,
    Strong,
}

impl Printer {
    pub(super) fn new(global: &Global) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => std::io::stdout().is_terminal() && !no_color,
        };
        Self { json: global.json, color: color && !global.json, quiet: global.quiet }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// One line of data.
    pub(super) fn line(&self, text: impl AsRef<str>) {
        self.raw(&format!("{}\n", text.as_ref()));
    }

    /// Data as it is. A reader that went away is no error.
    pub(super) fn raw(&self, text: &str) {
        let Self { .. } = self;
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
    }

    /// One JSON value on one line.
    pub(super) fn json(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.line(text),
            Err(error) => self.note(format!("this cannot be written as JSON: {error}")),
        }
    }

    /// Something said beside the data.
    pub(super) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            writeln!(std::io::stderr().lock(), "{}", text.as_ref()).ok();
        }
    }

    /// Why a command failed.
    pub(super) fn failure(failure: &Failure) {
        let message = failure.message.trim_end();
        let prefix = if message.starts_with("error") { "" } else { "error: " };
        writeln!(std::io::stderr().lock(), "{prefix}{message}").ok();
    }

    pub(super) fn tint(&self, tint: Tint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match tint {
            Tint::Good => "32",
            Tint::Bad => "31",
            Tint::Doubt => "33",
            Tint::Faint => "2",
            Tint::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// A verdict as symbol and word, padded.
    pub(super) fn verdict(&self, verdict: Verdict) -> String {
        let (symbol, tint) = match verdict {
            Verdict::Pass => ("✔", Tint::Good),
            Verdict::Warn => ("!", Tint::Doubt),
            Verdict::Fail => ("✖", Tint::Bad),
            Verdict::Unknown => ("?", Tint::Doubt),
            Verdict::NotApplicable => ("–", Tint::Faint),
        };
        let word = match verdict {
            Verdict::NotApplicable => "n/a",
            Verdict::Pass | Verdict::Warn | Verdict::Fail | Verdict::Unknown => verdict.word(),
        };
        self.tint(tint, &format!("{symbol} {word:<7}"))
    }

    /// Rows in aligned columns; the last column is not padded.
    pub(super) fn table(&self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        for row in rows {
            let last = row.len().saturating_sub(1);
            let mut line = String::new();
            for (index, (cell, width_of_column)) in row.iter().zip(&widths).enumerate() {
                line.push_str(cell);
                if index < last {
                    line.push_str(&" ".repeat(width_of_column.saturating_sub(width(cell)) + 2));
                }
            }
            self.line(line.trim_end());
        }
    }
}

/// Characters a terminal shows, colour codes apart.
fn width(text: &str) -> usize {
    let mut shown = 0;
    let mut escaped = false;
    for c in text.chars() {
        match (escaped, c) {
            (false, '\u{1b}') => escaped = true,
            (true, 'm') => escaped = false,
            (true, _) => {}
            (false, _) => shown += 1,
        }
    }
    shown
}

/// Text folded to lines of at most `columns` characters, indented.
pub(super) fn fold(text: &str, columns: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line_length = lines.last().map_or(0, |line| line.chars().count());
        if line_length > 0 && line_length + 1 + word.chars().count() > columns {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{indent}"))
}
