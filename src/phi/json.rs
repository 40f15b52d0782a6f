//! JSON: every string is text, and a member whose name says what it holds is taken at its word.

use serde_json::{Map, Value};

use super::fields::field_kind;
use super::{Kind, Scrub, Scrubber, fields};

impl Scrub for Value {
    /// Scrubs all strings and numbers; a number that is an identifier becomes a string; member names stay.
    fn scrub(self, scrubber: &Scrubber) -> Self {
        value(self, scrubber, Whose::Nobody)
    }
}

/// Whether the value stands inside an object about a person, where plain words such as `name` are identifiers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Nobody,
    Person,
}

fn value(given: Value, scrubber: &Scrubber, whose: Whose) -> Value {
    match given {
        Value::Null | Value::Bool(_) => given,
        Value::Number(ref number) => {
            let digits = number.to_string();
            let masked = scrubber.text(&digits);
            if masked == digits { given } else { Value::String(masked) }
        }
        Value::String(text) => Value::String(scrubber.text(&text)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| value(item, scrubber, whose)).collect()),
        Value::Object(members) => {
            let whose = if is_about_a_person(&members) { Whose::Person } else { whose };
            Value::Object(members.into_iter().map(|(name, item)| member(name, item, scrubber, whose)).collect())
        }
    }
}

fn member(name: String, item: Value, scrubber: &Scrubber, whose: Whose) -> (String, Value) {
    let inside = if whose == Whose::Person || is_person(&name) { Whose::Person } else { Whose::Nobody };
    let kind = field_kind(&name).or_else(|| if whose == Whose::Person { personal(&name) } else { None });
    let item = match (kind, item) {
        (Some(kind), Value::String(text)) => Value::String(labelled(scrubber, kind, text)),
        (Some(kind), Value::Number(number)) => Value::String(scrubber.tag(kind, &number.to_string())),
        (Some(kind), Value::Array(items)) => {
            Value::Array(items.into_iter().map(|item| member_item(scrubber, kind, item, inside)).collect())
        }
        (_, item) => value(item, scrubber, inside),
    };
    (name, item)
}

fn member_item(scrubber: &Scrubber, kind: Kind, item: Value, whose: Whose) -> Value {
    match item {
        Value::String(text) => Value::String(labelled(scrubber, kind, text)),
        Value::Number(number) => Value::String(scrubber.tag(kind, &number.to_string())),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => value(item, scrubber, whose),
    }
}

/// The whole text as one identifier, unless it says nothing or is a tag already.
fn labelled(scrubber: &Scrubber, kind: Kind, text: String) -> String {
    let is_tag = super::safe::tags(&text).contains(&(0..text.len()));
    if is_tag || fields::is_nothing(&text) { text } else { scrubber.tag(kind, &text) }
}

fn is_person(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["patient", "subscriber", "guarantor", "insured", "beneficiary", "demographics"].contains(&name.as_str())
}

/// A FHIR resource that describes one person.
fn is_about_a_person(members: &Map<String, Value>) -> bool {
    let resource = members.get("resourceType").and_then(Value::as_str).unwrap_or_default();
    ["Patient", "Person", "RelatedPerson", "Coverage"].contains(&resource)
}

fn personal(name: &str) -> Option<Kind> {
    match name.to_ascii_lowercase().as_str() {
        "name" | "first" | "last" | "given" | "family" | "text" | "display" => Some(Kind::Name),
        "id" | "identifier" | "number" => Some(Kind::Mrn),
        "address" | "street" | "line" | "city" | "zip" | "postalcode" => Some(Kind::Address),
        _ => None,
    }
}

/// Whether `text` is one JSON value.
pub(super) fn is_valid(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}
