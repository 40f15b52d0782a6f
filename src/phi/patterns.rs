//! The rules themselves: a pattern that is cheap to look for, and a judge that says whether a hit is an identifier.
//!
//! Group `v` of a pattern is the value, group `k` the label where the judge needs it. Patterns are over bytes; a letter
//! beyond ASCII is `\x80-\xff`.

use std::sync::OnceLock;

use regex::bytes::Regex;

use super::fields::{self, field_kind, is_nothing};
use super::rules::{Hit, Judge, Trust, compile};
use super::{Kind, Span, names, valid};

/// One rule.
pub(super) struct Rule {
    pub(super) trust: Trust,
    pub(super) pattern: String,
    pub(super) judge: Judge,
    compiled: OnceLock<Regex>,
}

impl Rule {
    /// The pattern, compiled when first asked for.
    pub(super) fn regex(&self) -> &Regex {
        self.compiled.get_or_init(|| compile(&self.pattern))
    }
}

/// A day as people and programs write it, but not eight bare digits.
const DAY: &str = r"(?:(?:19|20)\d{2}[-/]\d{2}[-/]\d{2}|\d{1,2}[-/]\d{1,2}[-/](?:(?:19|20)\d{2}|\d{2})|\d{1,2}[ -](?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?,?[ -](?:19|20)\d{2}|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.? \d{1,2},? (?:19|20)\d{2})";

/// Words after which a street's name ends.
const STREET: &str = "(?:St|Street|Ave|Avenue|Rd|Road|Blvd|Boulevard|Dr|Drive|Ln|Lane|Ct|Court|Way|Pl|Place|Ter|Terrace|Cir|Circle|Pkwy|Parkway|Hwy|Highway|Trl|Trail|Sq|Square|Loop|Pike|Row|Run|Xing|Crossing|Plz|Plaza|Aly|Alley|ST|STREET|AVE|AVENUE|RD|ROAD|BLVD|DR|DRIVE|LN|LANE|CT|COURT|WAY|PL|TER|CIR|PKWY|HWY|TRL)";

/// The rules every line is held against.
pub(super) fn table() -> Vec<Rule> {
    let mut rules = numbers();
    rules.extend(labelled());
    rules.extend(people());
    rules
}

/// Shapes that are identifiers only in a line that holds a proof.
pub(super) fn company() -> Vec<Rule> {
    use Trust::Shape;
    vec![
        rule(Shape, format!(r"(?:^|[^\w/:.-])(?P<v>{DAY})\b"), |hit| hit.is(Kind::Date, !follows_time(hit.after()))),
        rule(Shape, format!(r"_(?P<v>{DAY}|(?:19|20)\d{{6}})\b"), |hit| hit.is(Kind::Date, true)),
        rule(Shape, r"\b(?P<v>\d{1,3}(?:\.\d{1,3}){3})\b", |hit| {
            hit.is(Kind::Ip, valid::public_ip(hit.text()) && hit.alone())
        }),
    ]
}

fn rule(trust: Trust, pattern: impl Into<String>, judge: Judge) -> Rule {
    Rule { trust, pattern: pattern.into(), judge, compiled: OnceLock::new() }
}

/// Identifiers known by their shape and their arithmetic.
fn numbers() -> Vec<Rule> {
    use Trust::Shape;
    vec![
        rule(Shape, r"\b(?P<v>\d{3}[- ]\d{2}[- ]\d{4})\b", |hit| {
            hit.is(Kind::Ssn, valid::ssn(hit.text()) && hit.alone() && !hit.of_a_thing())
        }),
        rule(Shape, r"(?:^|[^\w.+-])(?P<v>(?:\+?1[-. ]?)?(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4})\b", |hit| {
            hit.is(Kind::Phone, valid::phone(hit.text()) && hit.alone() && !hit.of_a_thing())
        }),
        rule(Shape, r"(?:^|[^\w.+-])(?P<v>\+[1-9]\d{10,14})\b", |hit| hit.is(Kind::Phone, hit.alone())),
        rule(Shape, r"\b(?P<v>[A-Za-z0-9._%+-]+(?:@|%40)[A-Za-z0-9](?:[A-Za-z0-9-]*\.)+[A-Za-z]{2,})\b", |hit| {
            hit.is(Kind::Email, !names::is_machine_domain(hit.text()))
        }),
        rule(Shape, r"\b(?P<v>\d(?:[ -]?\d){12,18})\b", |hit| {
            hit.is(Kind::Card, valid::card(hit.text()) && hit.alone())
        }),
        rule(
            Shape,
            r"\b(?P<v>[1-9][AC-HJKMNP-RT-Y][AC-HJKMNP-RT-Y0-9]\d-?[AC-HJKMNP-RT-Y][AC-HJKMNP-RT-Y0-9]\d-?[AC-HJKMNP-RT-Y]{2}\d{2})\b",
            |hit| hit.is(Kind::Plan, hit.alone()),
        ),
        rule(Shape, r"\b(?P<v>[A-HJ-NPR-Z0-9]{17})\b", |hit| {
            hit.is(Kind::Vehicle, valid::vin(hit.text()) && hit.alone())
        }),
        rule(Shape, r"\b(?P<v>(?:9\d|1[01]\d)[- ]?(?i:y/?o|yrs?[- ]old|years?[- ]old))\b", |hit| {
            hit.is(Kind::Age, true)
        }),
        rule(Shape, address(), |hit| hit.is(Kind::Address, true)),
        rule(
            Shape,
            r"\b(?P<v>(?i:p\.? ?o\.? box) \d{1,6}(?:,? [A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+){0,2},? (?:[A-Z]{2} )?\d{5}(?:-\d{4})?)?)\b",
            |hit| hit.is(Kind::Address, true),
        ),
        rule(Shape, r#"\b(?P<v>https?://[^\s"'<>\\]+)"#, |hit| hit.is(Kind::Url, names::is_personal_link(hit.text()))),
    ]
}

fn address() -> String {
    format!(
        r"\b(?P<v>\d{{1,6}}(?: [NSEW]\.?| (?:North|South|East|West))?(?: (?:[A-Z\xc3][A-Za-z\x80-\xff'.-]*|\d{{1,3}}(?i:st|nd|rd|th))){{1,4}} {STREET}\b\.?(?:,? (?:Apt|Unit|Ste|Suite|APT|UNIT|STE|#)\.? ?#?[A-Za-z0-9-]+)?(?:(?:, ?| )[A-Z][A-Za-z.'-]+(?: [A-Z][A-Za-z.'-]+){{0,3}}(?:, ?| )(?:[A-Z]{{2}}(?:, ?| ))?\d{{5}}(?:-\d{{4}})?)?)"
    )
}

/// Values that follow a label.
fn labelled() -> Vec<Rule> {
    use Trust::Label;
    const NUMBER: &str = r#"(?i:[ _-]?(?:id|no|num|number|nbr))?\.?[\s:=#("'/]{1,3}"#;
    let field = fields::pattern();
    let day = format!(r"(?:{DAY}|(?:19|20)\d{{6}})");
    vec![
        rule(
            Label,
            format!(
                r#"(?:^|[^A-Za-z0-9])(?P<k>{field})\\?["'\])]?\s?(?:=|:)\s?(?P<v>\\?"[^"\\]*|\\?'[^'\\]*|[^\s,;&|<>"'(){{}}\[\]\\]+)"#
            ),
            field_value,
        ),
        rule(Label, format!(r"<(?:[A-Za-z]+:)?(?P<k>{field})(?: [^<>]*)?>(?P<v>[^<]+)<"), field_value),
        rule(Label, r"Key \((?P<k>[^()]*)\)=\((?P<v>[^()]*)\)", |hit| {
            let kind = hit.label.split(',').find_map(|column| field_kind(column.trim()));
            kind.and_then(|kind| hit.is(kind, !is_nothing(hit.text())))
        }),
        rule(
            Label,
            r"(?i:\b(?:ssn|social|social security(?: number| no\.?)?|soc\.? sec\.?|itin)\b[\s:=#-]{1,3})(?P<v>\d{3}[-. ]?\d{2}[-. ]?\d{4})\b",
            |hit| hit.is(Kind::Ssn, true),
        ),
        rule(
            Label,
            format!(
                r"(?i:\b(?:dob|d\.o\.b\.?|birth ?date|date of birth|born|birthday|deceased|died)\b(?: on)?)[\s:=(]{{1,3}}(?P<v>{day})\b"
            ),
            |hit| hit.is(Kind::Date, true),
        ),
        rule(
            Label,
            format!(
                r"(?i:\b(?:mrn|med(?:ical)? ?rec(?:ord)?s?|patient|pt|charts?|csn|emr)){NUMBER}(?P<v>[A-Z]{{0,4}}-?\d{{4,12}}[A-Z]?)\b"
            ),
            |hit| hit.is(Kind::Mrn, hit.alone()),
        ),
        rule(
            Label,
            format!(
                r"(?i:\b(?:encounter|visit|accession|specimen|claim|prescription|referral|requisition)){NUMBER}(?P<v>[A-Z]{{0,4}}-?\d{{5,14}}[A-Z]?)\b"
            ),
            |hit| hit.is(Kind::Mrn, hit.alone()),
        ),
        rule(Label, r"(?i:\bpatient\b)[^;|]{1,60}? (?i:id)[ :=#]{1,2}(?P<v>[A-Z]{0,4}-?\d{5,12})\b", |hit| {
            hit.is(Kind::Mrn, hit.alone())
        }),
        rule(Label, format!(r"(?i:\b(?:acct|account|guarantor)){NUMBER}(?P<v>[A-Z]{{0,4}}-?\d{{5,17}})\b"), |hit| {
            hit.is(Kind::Account, hit.alone())
        }),
        rule(
            Label,
            format!(
                r"(?i:\b(?:member|subscriber|insurance|policy|medicaid|medicare|beneficiary|mbi|payer id|group)){NUMBER}(?P<v>[A-Z]{{0,4}}-?\d{{6,14}}[A-Z]{{0,2}})\b"
            ),
            |hit| hit.is(Kind::Plan, hit.alone()),
        ),
        rule(Label, r"(?i:\bdea)[^0-9a-z]{1,3}(?P<v>[A-Z][A-Z9]\d{7})\b", |hit| hit.is(Kind::License, true)),
        rule(Trust::Shape, r"\b(?P<v>[ABFGMPR][A-Z9]\d{7})\b", |hit| {
            hit.is(
                Kind::License,
                valid::dea(hit.text().get(2..).unwrap_or_default()) && names::has_word(hit.line, "dea"),
            )
        }),
        rule(
            Label,
            r"(?:(?i:\bdriver'?s?[ _-]?lic(?:ense|ence)?|\b(?:medical|nursing|state) lic(?:ense|ence)?)|\bDLN?)(?i:[ _-]?(?:no|num|number))?\.?[\s:=#]{1,3}(?P<v>[A-Z]{0,3}-?\d[\d-]{3,14})\b",
            |hit| hit.is(Kind::License, true),
        ),
        rule(Label, r"(?i:\brx ?# ?)(?P<v>\d{5,14})\b", |hit| hit.is(Kind::Mrn, true)),
        rule(Label, r"(?i:\bnpi)[\s:=#]{1,3}(?P<v>[12]\d{9})\b", |hit| hit.is(Kind::Npi, true)),
        rule(
            Label,
            r"(?i:\b(?:provider|prescriber|rendering|referring|attending|physician))[^0-9]{1,12}(?P<v>[12]\d{9})\b",
            |hit| hit.is(Kind::Npi, valid::npi(hit.text())),
        ),
        rule(
            Label,
            r"(?i:\b(?:phone|tel|telephone|fax(?:ed)?|mobile|cell|call(?:ed|back)?|sms|ani|voicemail|dial(?:ed|ing)?))[^0-9]{1,40}(?P<v>1?[2-9]\d{9})\b",
            |hit| hit.is(Kind::Phone, valid::phone(hit.text())),
        ),
        rule(
            Label,
            r"(?i:\b(?:license plate|plate|permit|vehicle))(?i:[ _-]?(?:no|number))?[\s:=#]{1,3}(?P<v>[A-Z]{2,4}-?\d{3,4}|\d[A-Z]{3}\d{3})\b",
            |hit| hit.is(Kind::Vehicle, true),
        ),
        rule(
            Label,
            r"(?i:\b(?:device|implant|pacemaker|defibrillator|pump|holter|cpap|glucometer|hearing aid))(?i:[ _-]?(?:sn|serial|no|number|id))?[\s:=#]{1,3}(?P<v>[A-Z]{0,4}-?\d{5,14})\b",
            |hit| hit.is(Kind::Device, hit.alone()),
        ),
        rule(Label, r"(?P<v>\(01\)\d{14}(?:\(\d{2}\)[A-Za-z0-9-]+)+)", |hit| hit.is(Kind::Device, true)),
    ]
}

/// Names, and the paths that carry them.
fn people() -> Vec<Rule> {
    use Trust::{Label, Shape};
    let name = names::pattern(1);
    let two = names::pattern(2);
    vec![
        rule(
            Label,
            format!(
                r#"(?i:\b(?:patient|pt|guarantor|insured|subscriber|beneficiary|decedent|enrollee|spouse|next of kin|cnam|mrs?\.|mrs?|ms\.|(?:patient|pt|first|last|full|given|family|caller|member|guarantor)[ _]?name))(?i:'s)?\\?["'\])]?[\s:=("'\\\[]{{1,4}}(?P<v>{name})"#
            ),
            |hit| hit.part(Kind::Name, names::after_label(hit.text(), 1)),
        ),
        rule(
            Label,
            format!(
                r#"(?i:\b(?:re:|superbill|lab[ _]reports?|lab[ _]results?|intake(?: form)?|consent|referral|prescription|refill|(?:discharge|visit) summary|progress note|invoice for|statement for|bill for|chart (?:for|of)|app(?:oin)?t(?:ment)? (?:for|with)|results? for|records? (?:of|for)|letter to|cannot mail|voicemail from|missed call from|caller|on behalf of))[\s:("'_-]{{1,3}}(?P<v>{two})"#
            ),
            |hit| hit.part(Kind::Name, names::after_label(hit.text(), 2)),
        ),
        rule(Shape, r"\b(?P<v>[A-Z][A-Za-z'-]+\^[A-Z][A-Za-z'-]+(?:\^[A-Za-z.]*)*)(?:[^\w]|$)", |hit| {
            hit.is(Kind::Name, true)
        }),
        rule(Shape, format!(r"[\\/_](?P<v>{two})"), |hit| {
            let file = names::in_patient_path(hit.before()) && hit.after().starts_with(['_', '/', '\\', '.', '-']);
            hit.part(Kind::Name, names::after_label(hit.text(), 2).filter(|_| file))
        }),
        rule(Shape, format!(r"(?:^|[^\w.-])(?P<v>{two})"), |hit| hit.part(Kind::Name, names::well_known(hit.text()))),
        rule(
            Label,
            r"(?:/home/|\b[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/)|/Users/)(?P<v>[A-Za-z0-9\x80-\xff][A-Za-z0-9\x80-\xff._-]*)",
            |hit| hit.is(Kind::User, !names::is_system_account(hit.text())),
        ),
    ]
}

/// The value of a labelled field, without its quotes, if a value of that kind can look so.
fn field_value(hit: &Hit) -> Option<Span> {
    let kind = field_kind(hit.label)?;
    let bare = hit.text().trim_start_matches(['\\', '"', '\'']);
    let start = hit.range.end - bare.len();
    let value = bare.trim_end();
    let assigned = hit.before().trim_end_matches(' ').ends_with(['=', '>']) || bare.len() < hit.text().len();
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let plausible = match kind {
        Kind::Name => names::may_be_a_name(value, assigned),
        Kind::Phone => digits >= 7,
        Kind::Account => digits >= 5,
        Kind::Address => true,
        Kind::Date
        | Kind::Age
        | Kind::Ssn
        | Kind::Mrn
        | Kind::Plan
        | Kind::Card
        | Kind::License
        | Kind::Vehicle
        | Kind::Device
        | Kind::Npi
        | Kind::Ip
        | Kind::User
        | Kind::Email
        | Kind::Url => digits > 0,
    };
    (plausible && !is_nothing(value)).then(|| Span { kind, range: start..start + value.len() })
}

fn follows_time(after: &str) -> bool {
    let mut after = after.trim_start_matches([' ', 'T', ',']).bytes();
    after.next().is_some_and(|b| b.is_ascii_digit()) && after.any(|b| b == b':')
}
