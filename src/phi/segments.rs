//! Messages of clinical systems, read by field: HL7 v2, X12 and DICOM dumps.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::rules::compile;
use super::{Kind, Span};

/// Where a segment begins.
pub(super) const BEGINNING: &str =
    r"\b(?:PID|NK1|GT1|IN1|MRG|PV1)\||\b(?:NM1|N3|N4|DMG|REF|CLM)\*|\(0010,[0-9A-Fa-f]{4}\)|\(0008,0050\)";

/// HL7 v2: segment, field number, kind.
const HL7: &[(&str, &[(usize, Kind)])] = &[
    (
        "PID",
        &[
            (2, Kind::Mrn),
            (3, Kind::Mrn),
            (4, Kind::Mrn),
            (5, Kind::Name),
            (6, Kind::Name),
            (7, Kind::Date),
            (9, Kind::Name),
            (11, Kind::Address),
            (13, Kind::Phone),
            (14, Kind::Phone),
            (18, Kind::Account),
            (19, Kind::Ssn),
            (20, Kind::License),
            (21, Kind::Mrn),
            (29, Kind::Date),
        ],
    ),
    ("NK1", &[(2, Kind::Name), (4, Kind::Address), (5, Kind::Phone), (6, Kind::Phone)]),
    (
        "GT1",
        &[
            (2, Kind::Account),
            (3, Kind::Name),
            (4, Kind::Name),
            (5, Kind::Address),
            (6, Kind::Phone),
            (7, Kind::Phone),
            (8, Kind::Date),
            (12, Kind::Ssn),
        ],
    ),
    ("IN1", &[(16, Kind::Name), (18, Kind::Date), (19, Kind::Address), (36, Kind::Plan), (49, Kind::Plan)]),
    ("MRG", &[(1, Kind::Mrn), (2, Kind::Mrn), (3, Kind::Account), (4, Kind::Mrn), (7, Kind::Name)]),
    ("PV1", &[(19, Kind::Mrn)]),
];

/// X12: segment, element number, kind.
const X12: &[(&str, &[(usize, Kind)])] = &[
    ("NM1", &[(3, Kind::Name), (4, Kind::Name), (5, Kind::Name), (9, Kind::Plan)]),
    ("N3", &[(1, Kind::Address), (2, Kind::Address)]),
    ("N4", &[(1, Kind::Address), (3, Kind::Address)]),
    ("DMG", &[(2, Kind::Date)]),
    ("REF", &[(2, Kind::Mrn)]),
    ("CLM", &[(1, Kind::Account)]),
];

/// REF qualifiers whose value belongs to a person.
const PERSONAL_REF: &[&str] = &["SY", "EJ", "1L", "1W", "23", "0F", "IG", "EA", "D9", "F8", "Y4"];

static HL7_HEAD: LazyLock<Regex> = LazyLock::new(|| compile(r"\b(?P<k>PID|NK1|GT1|IN1|MRG|PV1)\|"));
static HL7_END: LazyLock<Regex> = LazyLock::new(|| compile(r#"["<>]|\\[rn]|[ \t][A-Z][A-Z0-9]{2}\|"#));
static X12_SEGMENT: LazyLock<Regex> = LazyLock::new(|| compile(r#"\b(?P<k>NM1|N3|N4|DMG|REF|CLM)\*(?P<v>[^~"\\<>]*)"#));
static DICOM: LazyLock<Regex> =
    LazyLock::new(|| compile(r"\((?P<k>0010,[0-9A-Fa-f]{4}|0008,0050)\) +(?:[A-Z]{2} +)?[\[=](?P<v>[^\]\\]+)\]?"));

/// The identifiers in segments of `line`.
pub(super) fn find(line: &str) -> Vec<Span> {
    let mut found = Vec::new();
    for head in HL7_HEAD.captures_iter(line.as_bytes()) {
        let (Some(whole), Some(name)) = (head.get(0), head.name("k")) else { continue };
        let name = line.get(name.range()).unwrap_or_default();
        found.extend(fields(line, hl7_body(line, whole.end()), '|', table(HL7, name)));
    }
    for (name, value) in segments(line, &X12_SEGMENT) {
        if is_personal(name, line.get(value.clone()).unwrap_or_default()) {
            found.extend(fields(line, value, '*', table(X12, name)));
        }
    }
    found.extend(segments(line, &DICOM).filter_map(|(tag, range)| Some(Span { kind: dicom(tag)?, range })));
    found
}

fn segments<'a>(line: &'a str, regex: &'a Regex) -> impl Iterator<Item = (&'a str, Range<usize>)> {
    regex.captures_iter(line.as_bytes()).filter_map(move |captures| {
        let name = captures.name("k").and_then(|name| line.get(name.range()))?;
        Some((name, captures.name("v")?.range()))
    })
}

/// From the first field to where the segment or the text around it ends.
fn hl7_body(line: &str, start: usize) -> Range<usize> {
    let rest = line.get(start..).unwrap_or_default();
    let end = HL7_END.find(rest.as_bytes()).map_or(rest.len(), |end| end.start());
    start..start + end
}

fn table(tables: &'static [(&str, &[(usize, Kind)])], name: &str) -> &'static [(usize, Kind)] {
    tables.iter().find(|(segment, _)| *segment == name).map_or(&[], |(_, fields)| fields)
}

fn fields(line: &str, value: Range<usize>, separator: char, kinds: &[(usize, Kind)]) -> Vec<Span> {
    let mut found = Vec::new();
    let mut start = value.start;
    for (i, field) in line.get(value).unwrap_or_default().split(separator).enumerate() {
        let text = field.trim_end();
        let kind = kinds.iter().find(|(number, _)| *number == i + 1).map(|(_, kind)| *kind);
        if let Some(kind) = kind.filter(|_| !text.is_empty()) {
            found.push(Span { kind, range: start..start + text.len() });
        }
        start += field.len() + separator.len_utf8();
    }
    found
}

/// An NM1 of a person (entity type 1), a REF whose qualifier is personal; other segments always.
fn is_personal(name: &str, elements: &str) -> bool {
    let mut elements = elements.split('*');
    let (first, second) = (elements.next().unwrap_or_default(), elements.next().unwrap_or_default());
    match name {
        "NM1" => second == "1",
        "REF" => PERSONAL_REF.contains(&first),
        _ => true,
    }
}

fn dicom(tag: &str) -> Option<Kind> {
    match tag.to_ascii_lowercase().as_str() {
        "0010,0010" | "0010,1001" | "0010,1005" | "0010,1060" | "0010,2297" => Some(Kind::Name),
        "0010,0020" | "0010,1000" | "0010,1002" | "0008,0050" => Some(Kind::Mrn),
        "0010,0030" | "0010,0032" => Some(Kind::Date),
        "0010,1040" => Some(Kind::Address),
        "0010,2154" => Some(Kind::Phone),
        _ => None,
    }
}
