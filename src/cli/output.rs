//! The only place that prints: data on standard output, everything else on standard error.

use std::io::{IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use clap::ValueEnum;
use serde::Serialize;

use crate::domain::finding::Verdict;
use crate::shown;

use super::{Exit, Failure, Global};

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

/// Prints for people or for programs. What acts on a terminal is written out, whatever it was printed with.
#[derive(Debug)]
pub(super) struct Printer {
    json: bool,
    color: bool,
    quiet: bool,
    broken: OnceLock<std::io::Error>,
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

/// Where a colour starts and ends inside text, until it is printed: characters that Unicode keeps for such use. A colour
/// code in the text itself is then never taken for one of ours.
const TINTS: [(char, &str); 5] =
    [('\u{fdd0}', "32"), ('\u{fdd1}', "31"), ('\u{fdd2}', "33"), ('\u{fdd3}', "2"), ('\u{fdd4}', "1")];
const PLAIN: char = '\u{fdd5}';

impl Tint {
    const fn mark(self) -> char {
        match self {
            Self::Good => '\u{fdd0}',
            Self::Bad => '\u{fdd1}',
            Self::Doubt => '\u{fdd2}',
            Self::Faint => '\u{fdd3}',
            Self::Strong => '\u{fdd4}',
        }
    }
}

impl Printer {
    pub(super) fn new(global: &Global) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !set("NO_COLOR") && (forced || std::io::stdout().is_terminal()),
        };
        Self { json: global.json, color: color && !global.json, quiet: global.quiet, broken: OnceLock::new() }
    }

    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// One line of data, or several with line ends of ours.
    pub(super) fn line(&self, text: impl AsRef<str>) {
        self.raw(&format!("{}\n", text.as_ref()));
    }

    /// Lines of data.
    pub(super) fn raw(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(self.painted(text).as_bytes()).and_then(|()| out.flush());
        if let Err(error) = written {
            self.broken.set(error).ok();
        }
    }

    /// Why data did not reach standard output, where it did not. A reader that went away is no error.
    pub(super) fn trouble(&self) -> Option<Failure> {
        self.broken.get().and_then(lost)
    }

    /// One JSON value on one line.
    pub(super) fn json(&self, value: &impl Serialize) {
        self.as_json(serde_json::to_string(value));
    }

    /// One JSON value on many lines, for a person.
    pub(super) fn pretty(&self, value: &impl Serialize) {
        self.as_json(serde_json::to_string_pretty(value));
    }

    fn as_json(&self, text: serde_json::Result<String>) {
        match text {
            // These only stand inside strings, where JSON has a way of its own to write them out.
            Ok(text) => {
                let shown = |c: char| if shown::acts(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
                let safe = if text.contains(shown::acts) { text.chars().map(shown).collect() } else { text };
                self.line(safe);
            }
            Err(error) => self.note(format!("this cannot be written as JSON: {error}")),
        }
    }

    /// Something said beside the data.
    pub(super) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            writeln!(std::io::stderr().lock(), "{}", shown::lines(text.as_ref())).ok();
        }
    }

    /// Why a command failed.
    pub(super) fn failure(failure: &Failure) {
        let message = shown::lines(failure.message.trim_end());
        // Complaints about content are laid out already; other messages may hold text that only looks laid out.
        let message =
            if message.starts_with("error") { message } else { format!("error: {}", message.replace('\n', "\n  ")) };
        writeln!(std::io::stderr().lock(), "{message}").ok();
    }

    pub(super) fn tint(&self, tint: Tint, text: &str) -> String {
        if self.color { format!("{}{text}{PLAIN}", tint.mark()) } else { text.to_owned() }
    }

    /// The text with our colours in it and nothing else that acts.
    fn painted(&self, text: &str) -> String {
        let text = shown::lines(text);
        if !self.color {
            return text;
        }
        let paint = |text: String, (mark, code): &(char, &str)| text.replace(*mark, &format!("\u{1b}[{code}m"));
        TINTS.iter().fold(text, paint).replace(PLAIN, "\u{1b}[0m")
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

    /// Rows in aligned columns; the last column is not padded, and folded where the terminal ends.
    pub(super) fn table(&self, rows: &[Vec<String>]) {
        for line in laid_out(rows, columns()) {
            self.line(line);
        }
    }
}

/// Why output was lost, unless its reader had enough.
pub(super) fn lost(error: &std::io::Error) -> Option<Failure> {
    let say = || Failure::new(Exit::Unavailable, format!("standard output: {error}"));
    (error.kind() != std::io::ErrorKind::BrokenPipe).then(say)
}

/// The least a folded column needs to be read.
const NARROW: usize = 20;

fn laid_out(rows: &[Vec<String>], columns: usize) -> Vec<String> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| shown::piece(cell)).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(widest).collect();
    let indent: usize = widths.iter().take(count.saturating_sub(1)).map(|width| width + 2).sum();
    let mut lines = Vec::new();
    for row in &rows {
        let mut line = String::new();
        for (index, (cell, width_of_column)) in row.iter().zip(&widths).enumerate() {
            if index + 1 < row.len() {
                line.push_str(cell);
                line.push_str(&" ".repeat(width_of_column.saturating_sub(width(cell)) + 2));
            } else if index + 1 == count && columns >= indent + NARROW && width(cell) > columns - indent {
                line.push_str(&folded(cell, columns - indent, &" ".repeat(indent)));
            } else {
                line.push_str(cell);
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// How many characters a line of the terminal holds.
fn columns() -> usize {
    static COLUMNS: LazyLock<usize> = LazyLock::new(|| {
        let given = std::env::var_os("COLUMNS").and_then(|columns| columns.to_str()?.parse().ok());
        let size = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        given.or_else(size).filter(|columns| *columns > 0).unwrap_or(80)
    });
    *COLUMNS
}

/// Characters a terminal shows, colours apart.
fn width(text: &str) -> usize {
    text.chars().filter(|c| *c != PLAIN && !TINTS.iter().any(|(mark, _)| mark == c)).count()
}

/// Text folded to lines of at most `most` characters, fewer on a narrow terminal; all but the first are indented.
pub(super) fn fold(text: &str, most: usize, indent: &str) -> String {
    let room = columns().saturating_sub(indent.len()).max(NARROW);
    folded(text, most.min(room), indent)
}

fn folded(text: &str, columns: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line_length = lines.last().map_or(0, |line| width(line));
        if line_length > 0 && line_length + 1 + width(word) > columns {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn printer(color: bool) -> Printer {
        Printer { json: false, color, quiet: false, broken: OnceLock::new() }
    }

    #[test]
    fn our_colours_are_painted_and_those_of_others_written_out() {
        let out = printer(true);
        let line = out.tint(Tint::Bad, "a\u{1b}[32mb\u{7}");
        assert_eq!(out.painted(&line), "\u{1b}[31ma\\u{1b}[32mb\\u{7}\u{1b}[0m");
        assert_eq!(printer(false).painted("a\u{1b}c\td\n"), "a\\u{1b}c\td\n");
    }

    #[test]
    fn a_cell_stays_on_its_row_and_the_last_is_folded() {
        let cell = |text: &str| text.to_owned();
        let rows = [vec![cell("A"), cell("B")], vec![cell("x\ny"), cell("one two three four five six")]];
        assert_eq!(laid_out(&rows, 80), ["A     B", "x\\ny  one two three four five six"]);
        assert_eq!(laid_out(&rows, 27), ["A     B", "x\\ny  one two three four\n      five six"]);
        assert_eq!(laid_out(&rows, 10), laid_out(&rows, 80), "too narrow to fold into");
    }
}
