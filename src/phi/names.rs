//! Names: their shape, the words that share it and are no names, and the company that makes a shape a name.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::fields::is_nothing;
use super::rules::compile;

/// One to four capitalised words, `Last, First`, `LAST^FIRST` or `First_Last`, with initials and particles.
pub(super) fn pattern(least: u8) -> String {
    const WORD: &str = r"[A-Z\xc3-\xc5][A-Za-z\x80-\xff'-]+";
    const PARTICLES: &str = "(?:(?:de|la|del|van|von|der|den|bin|al|da|dos|el) ){0,2}";
    format!(r"{WORD}(?:(?:, ?| |_|\^){PARTICLES}(?:{WORD}|[A-Z]\b\.?)){{{},3}}", least.saturating_sub(1))
}

static RUN: LazyLock<Regex> =
    LazyLock::new(|| compile(&format!(r"(?:^|[^A-Za-z0-9\x80-\xff@.])(?P<v>{})", pattern(2))));

/// Capitalised words of computers and clinics, sorted, in lower case.
static WORDS: LazyLock<Vec<&str>> = LazyLock::new(|| sorted(include_str!("words.txt")));

/// Given names that are rarely anything else, sorted, in lower case.
static GIVEN: LazyLock<Vec<&str>> = LazyLock::new(|| sorted(include_str!("given.txt")));

fn sorted(text: &'static str) -> Vec<&'static str> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.sort_unstable();
    words
}

fn is_in(list: &[&str], word: &str) -> bool {
    list.binary_search(&word.to_lowercase().as_str()).is_ok()
}

/// The words of a run, each with its place.
fn words(run: &str) -> Vec<(Range<usize>, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    for (i, c) in run.char_indices().chain([(run.len(), ' ')]) {
        let inside = c.is_alphabetic() || matches!(c, '\'' | '-' | '.');
        match (start, inside) {
            (None, true) => start = Some(i),
            (Some(from), false) => {
                let word = run.get(from..i).unwrap_or_default().trim_end_matches(['\'', '-']);
                words.push((from..from + word.len(), word));
                start = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
    words
}

/// Whether a word may be part of a name: not a word of computers, and not written in camel case.
fn may_be_part(word: &str) -> bool {
    !is_in(&WORDS, word.trim_end_matches("'s").trim_end_matches(['.', '-'])) && !is_camel(word)
}

/// `LogonType`, but not `McKay`, `DeLuca`, `O'Brien` or `Smith-Jones`.
fn is_camel(word: &str) -> bool {
    const PREFIXES: [&str; 9] = ["Mc", "Mac", "De", "Di", "Du", "La", "Le", "Van", "Fitz"];
    let mut last = '-';
    let mut humps = word.char_indices().filter(|(_, c)| {
        let hump = c.is_uppercase() && last.is_lowercase();
        last = *c;
        hump
    });
    let Some((at, _)) = humps.next() else { return false };
    humps.next().is_some() || !word.get(..at).is_some_and(|head| PREFIXES.contains(&head))
}

fn is_particle(word: &str) -> bool {
    ["de", "la", "del", "van", "von", "der", "den", "bin", "al", "da", "dos", "el"].contains(&word)
}

fn is_shouted(word: &str) -> bool {
    word.chars().filter(|c| c.is_alphabetic()).count() > 1 && !word.chars().any(char::is_lowercase)
}

/// The part of a run after a label that is a name: its words up to the first that cannot be, at least `least`.
pub(super) fn after_label(run: &str, least: usize) -> Option<Range<usize>> {
    let words = words(run);
    let first_shouted = words.first().is_some_and(|(_, word)| is_shouted(word));
    let fits =
        |word: &str| may_be_part(word) && (word.len() < 3 || is_particle(word) || is_shouted(word) == first_shouted);
    let name: Vec<_> = words.iter().take_while(|(_, word)| fits(word)).collect();
    let whole = name.iter().filter(|(_, word)| word.chars().count() > 2 || !word.ends_with('.')).count();
    let (begin, end) = (name.first()?, name.last()?);
    (whole >= least && !is_nothing(begin.1)).then_some(begin.0.start..end.0.end)
}

/// The part of a run that holds a given name nobody would take for another word, with a second word.
pub(super) fn well_known(run: &str) -> Option<Range<usize>> {
    pieces(run)
        .into_iter()
        .find(|piece| {
            let words = words(run.get(piece.clone()).unwrap_or_default());
            let given = words.iter().take(2).any(|(_, word)| is_in(&GIVEN, word));
            given && !words.iter().all(|(_, word)| is_shouted(word))
        })
        .or_else(|| {
            let piece = pieces(run).into_iter().next()?;
            let text = run.get(piece.clone())?;
            let apart = text.contains([',', '^']) && words(text).iter().any(|(_, word)| is_in(&GIVEN, word));
            apart.then_some(piece)
        })
}

/// Where names stand in a line that is known to speak of a person.
pub(super) fn in_company(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for captures in RUN.captures_iter(line.as_bytes()) {
        let Some(run) = captures.name("v") else { continue };
        let start = line.floor_char_boundary(run.start());
        let Some(text) = line.get(start..line.ceil_char_boundary(run.end())) else { continue };
        for piece in pieces(text) {
            let shouted = text
                .get(piece.clone())
                .is_some_and(|name| !name.contains([',', '^']) && words(name).iter().any(|(_, word)| is_shouted(word)));
            if !shouted {
                found.push(start + piece.start..start + piece.end);
            }
        }
    }
    found
}

/// Splits a run at the words that cannot be part of a name; what is left counts from two words on.
fn pieces(run: &str) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut piece: Vec<(Range<usize>, &str)> = Vec::new();
    let end = (run.len()..run.len(), "");
    for (at, word) in words(run).into_iter().chain([end]) {
        if !word.is_empty() && may_be_part(word) {
            piece.push((at, word));
            continue;
        }
        let whole = piece.iter().filter(|(_, word)| word.chars().filter(|c| c.is_alphabetic()).count() > 1).count();
        if let (Some(first), Some(last)) = (piece.first(), piece.last())
            && whole >= 2
        {
            pieces.push(first.0.start..last.0.end);
        }
        piece.clear();
    }
    pieces
}

/// Whether the value of a name field may be one; assigned with `=` or quoted, it may be in lower case.
pub(super) fn may_be_a_name(value: &str, assigned: bool) -> bool {
    let Some(first) = value.chars().next() else { return false };
    let head = value.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '-').next().unwrap_or_default();
    let plausible = if assigned { first.is_alphanumeric() } else { first.is_uppercase() };
    plausible && may_be_part(head) && !value.contains("::")
}

/// Whether a path so far goes through a folder of patients' files.
pub(super) fn in_patient_path(before: &str) -> bool {
    const FOLDERS: [&str; 14] = [
        "patient",
        "chart",
        "record",
        "intake",
        "xray",
        "x-ray",
        "dicom",
        "scan",
        "superbill",
        "referral",
        "consent",
        "letter",
        "labs",
        "ehr",
    ];
    let path = before.rsplit([' ', '"', '\'', '=']).next().unwrap_or_default().to_ascii_lowercase();
    path.contains(['/', '\\']) && FOLDERS.iter().any(|folder| path.contains(folder))
}

/// Whether an address of the form `a@b` belongs to a machine, a unit or an algorithm.
pub(super) fn is_machine_domain(address: &str) -> bool {
    const ENDS: [&str; 18] = [
        ".service",
        ".socket",
        ".timer",
        ".mount",
        ".automount",
        ".target",
        ".slice",
        ".scope",
        ".path",
        ".device",
        ".swap",
        ".local",
        ".localdomain",
        ".lan",
        ".internal",
        ".arpa",
        "@openssh.com",
        "@libssh.org",
    ];
    let address = address.to_ascii_lowercase();
    ENDS.iter().any(|end| address.ends_with(end))
}

/// Whether a link opens one person's page: a portal's, with a secret in its path or query.
pub(super) fn is_personal_link(link: &str) -> bool {
    const PLACES: [&str; 12] = [
        "portal",
        "chart",
        "patient",
        "reset",
        "invite",
        "appointment",
        "telehealth",
        "visit",
        "intake",
        "statement",
        "mrn=",
        "dob=",
    ];
    let lower = link.to_ascii_lowercase();
    let secret = link.split(['/', '?', '&', '=', '#']).skip(3).any(|part| {
        part.len() >= 6
            && part.bytes().any(|b| b.is_ascii_digit())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    secret && PLACES.iter().any(|place| lower.contains(place))
}

/// Whether an account name belongs to the system, or to us, and to no person.
pub(super) fn is_system_account(name: &str) -> bool {
    const ACCOUNTS: [&str; 14] = [
        "public",
        "default",
        "administrator",
        "admin",
        "all",
        "user",
        "users",
        "root",
        "system",
        "malachor",
        "ubuntu",
        "debian",
        "nixos",
        "service",
    ];
    let name = name.to_ascii_lowercase();
    ACCOUNTS.contains(&name.as_str()) || name.starts_with("malachor-") || name.starts_with("default")
}

/// Whether `word` (in lower case) stands in `line` by itself.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric()).any(|other| other.eq_ignore_ascii_case(word))
}
