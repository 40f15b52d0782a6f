//! Names of fields that say what their value is, in JSON, logfmt, XML, query strings and SQL.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::Kind;

/// Field names by kind; between the words of one a text may have nothing, a space or one of `_ - .`.
const FIELDS: &[(Kind, &str)] = &[
    (
        Kind::Name,
        "patient name, patient, pt name, pt, first name, last name, middle name, full name, \
         given name, family name, surname, lname, fname, maiden name, guarantor name, guarantor, subscriber name, \
         insured name, member name, caller name, caller id name, cnam, mother name, spouse name, \
         next of kin, emergency contact, beneficiary name, patients name, name of patient",
    ),
    (Kind::Ssn, "ssn, social security number, social security no, social security, soc sec no, itin"),
    (
        Kind::Date,
        "dob, date of birth, birth date, birth day, patient birth date, patient dob, birth dt, \
         date of death, date of service, admit date, admission date, discharge date, appointment date",
    ),
    (
        Kind::Mrn,
        "mrn, medical record number, medical record no, med rec no, patient id, patient number, \
         patient no, pt id, pat id, chart number, chart no, chart id, encounter id, encounter number, \
         visit id, visit number, accession number, accession, specimen id, csn, empi, claim number, \
         claim id, rx number, prescription number, patient mrn, patient uuid",
    ),
    (Kind::Account, "account number, account no, acct, acct no, acct number, patient account, guarantor account"),
    (
        Kind::Plan,
        "member id, member number, member no, subscriber id, insurance id, insurance number, \
         policy number, policy no, medicaid id, medicare id, medicare number, mbi, hicn, \
         beneficiary id, group number",
    ),
    (
        Kind::License,
        "driver license, drivers license, driver license number, drivers license number, dl number, \
         dl no, dea, dea number",
    ),
    (
        Kind::Phone,
        "phone, phone number, mobile, mobile phone, home phone, work phone, cell, cell phone, fax, \
         fax number, telephone, callback",
    ),
    (
        Kind::Address,
        "street, street address, home address, mailing address, patient address, zip, zip code, \
         postal code",
    ),
    (Kind::Npi, "npi"),
    (Kind::Vehicle, "license plate, plate, vin"),
    (Kind::Device, "implant serial, pacemaker serial, udi"),
];

/// Values that tell nothing about anyone.
const NOTHING: &str = "- -- ? 0 n/a na nil no none null undefined unknown yes true false redacted string required missing invalid not empty nan";

/// The fields by name without spaces.
static KINDS: LazyLock<BTreeMap<String, Kind>> = LazyLock::new(|| {
    let names = FIELDS.iter().flat_map(|(kind, names)| names.split(", ").map(|name| (name.replace(' ', ""), *kind)));
    names.collect()
});

/// Longer than any field name with its joints.
const MAX_NAME: usize = 40;

/// What the value of a field of this name is.
pub(super) fn field_kind(name: &str) -> Option<Kind> {
    if name.len() > MAX_NAME {
        return None;
    }
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    KINDS.get(&name).copied()
}

/// Whether a value says that there is no value, or is masked already.
pub(super) fn is_nothing(value: &str) -> bool {
    let value = value.trim();
    NOTHING.split(' ').any(|nothing| nothing.eq_ignore_ascii_case(value))
        || value.bytes().all(|b| matches!(b, b'*' | b'x' | b'X' | b'#' | b'-' | b'.' | b'$' | b'%'))
}

/// A regular expression, not capturing, that matches every field name.
pub(super) fn pattern() -> String {
    let mut names: Vec<&str> = FIELDS.iter().flat_map(|(_, names)| names.split(", ")).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let names: Vec<String> = names.iter().map(|name| name.replace(' ', "[ _.-]?")).collect();
    format!("(?i:{})", names.join("|"))
}
