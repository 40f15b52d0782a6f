//! The only place that prints: data on standard output, everything else on standard error.

use std::hash::{BuildHasher, RandomState};
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

/// What stands inside text, until it is printed, before the letter of a colour that starts or ends there. It is another one
/// in every process, so that nothing from elsewhere is taken for one of ours.
static MARK: LazyLock<String> = LazyLock::new(|| format!("\u{fdd0}{:016x}", RandomState::new().hash_one(())));

/// The letter of the end of a colour.
const PLAIN: char = '0';

impl Tint {
    const fn letter(self) -> char {
        match self {
            Self::Good => 'g',
            Self::Bad => 'b',
            Self::Doubt => 'd',
            Self::Faint => 'f',
            Self::Strong => 's',
        }
    }
}

/// The terminal's number of a colour.
const fn code(letter: char) -> &'static str {
    match letter {
        'g' => "32",
        'b' => "31",
        'd' => "33",
        'f' => "2",
        's' => "1",
        _ => "0",
    }
}

/// Text cut at our marks: what stands before the first, then each letter with what follows it.
fn cut(text: &str) -> (&str, impl Iterator<Item = (char, &str)>) {
    let mut parts = text.split(MARK.as_str());
    let after =
        |part: &'_ str| -> Option<(char, usize)> { part.chars().next().map(|letter| (letter, letter.len_utf8())) };
    let first = parts.next().unwrap_or_default();
    (first, parts.filter_map(move |part| after(part).and_then(|(letter, length)| Some((letter, part.get(length..)?)))))
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
        let mark = MARK.as_str();
        if self.color { format!("{mark}{}{text}{mark}{PLAIN}", tint.letter()) } else { text.to_owned() }
    }

    /// The text with our colours in it and nothing else that acts.
    fn painted(&self, text: &str) -> String {
        if !self.color {
            return shown::lines(text);
        }
        let (first, parts) = cut(text);
        parts.fold(shown::lines(first), |painted, (letter, part)| {
            format!("{painted}\u{1b}[{}m{}", code(letter), shown::lines(part))
        })
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

    /// Rows in aligned columns, which are folded until they fit between the terminal's sides.
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

/// The least a folded text needs to be read.
const NARROW: usize = 20;

/// Lines of a table; where the columns cannot stand side by side, the last one stands below each row.
fn laid_out(rows: &[Vec<String>], columns: usize) -> Vec<String> {
    let mut rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| shown::piece(cell)).collect()).collect();
    let mut below = vec![None; rows.len()];
    let mut widths = widths(&rows, columns);
    let count = widths.len();
    if count > 2 && widths.iter().sum::<usize>() + GAP * (count - 1) > columns {
        below = rows.iter_mut().map(|row| if row.len() == count { row.pop() } else { None }).collect();
        widths = self::widths(&rows, columns);
    }
    let mut lines = Vec::new();
    for (row, below) in rows.iter().zip(below) {
        let cells: Vec<Vec<String>> = row.iter().zip(&widths).map(|(cell, most)| within(cell, *most)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        lines.extend((0..height).map(|number| side_by_side(&cells, number, &widths)));
        let room = columns.saturating_sub(INDENT.len()).max(NARROW);
        let below = below.filter(|text| !text.is_empty()).map_or_else(Vec::new, |text| folded(&text, room));
        lines.extend(below.iter().map(|line| format!("{INDENT}{line}")));
    }
    lines
}

/// One line of a row whose cells have several.
fn side_by_side(cells: &[Vec<String>], number: usize, widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, most) in cells.iter().zip(widths) {
        let text = cell.get(number).map_or("", String::as_str);
        line.push_str(text);
        line.push_str(&" ".repeat(most.saturating_sub(width(text)) + GAP));
    }
    line.trim_end().to_owned()
}

/// Before what stands below a row.
const INDENT: &str = "    ";
/// Between two columns.
const GAP: usize = 2;

/// How wide each column is: as its cells need; of what does not fit, the widest give way, but no word is cut.
fn widths(rows: &[Vec<String>], columns: usize) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let most = |column: usize, of: fn(&str) -> usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| of(cell)).max().unwrap_or(0)
    };
    let longest_word = |cell: &str| cell.split_whitespace().map(width).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..count).map(|column| most(column, width)).collect();
    let least: Vec<usize> = (0..count).map(|column| most(column, longest_word)).collect();
    let room = columns.saturating_sub(GAP * count.saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let may = widths.iter_mut().zip(&least).filter(|(width, least)| **width > **least);
        let Some((widest, _)) = may.max_by_key(|(width, _)| **width) else { break };
        *widest -= 1;
    }
    widths
}

/// A cell as it is, or folded where it is too wide.
fn within(cell: &str, most: usize) -> Vec<String> {
    if width(cell) > most { folded(cell, most) } else { vec![cell.to_owned()] }
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
    let (first, parts) = cut(text);
    parts.fold(first.chars().count(), |sum, (_, part)| sum + part.chars().count())
}

/// Text folded to lines of at most `most` characters, fewer on a narrow terminal; all but the first are indented.
pub(super) fn fold(text: &str, most: usize, indent: &str) -> String {
    let room = columns().saturating_sub(indent.len()).max(NARROW);
    folded(text, most.min(room)).join(&format!("\n{indent}"))
}

fn folded(text: &str, columns: usize) -> Vec<String> {
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
    lines
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
        let guessed: String = ('\u{fdd0}'..='\u{fdef}').collect::<String>() + "\u{fdd0}0123456789abcdefb";
        assert_eq!(out.painted(&guessed), guessed, "only this process knows its marks");
    }

    #[test]
    fn a_cell_stays_on_its_row_and_the_widest_are_folded() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["A", "B", "C"]), row(["x\ny", "one two three four", "five six seven"])];
        assert_eq!(laid_out(&rows, 80), ["A     B                   C", "x\\ny  one two three four  five six seven"]);
        let narrow = ["A     B           C", "x\\ny  one two     five six", "      three four  seven"];
        assert_eq!(laid_out(&rows, 27), narrow);
        let below = ["A     B", "    C", "x\\ny  one", "      two", "      three", "      four", "    five six seven"];
        assert_eq!(laid_out(&rows, 12), below, "no word is cut");
    }
}
