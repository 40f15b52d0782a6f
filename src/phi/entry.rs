//! Where free text hides in an evidence entry.

use serde_json::{Map, Value};

use super::{Scrub, Scrubber};
use crate::domain::entry::{EntryDraft, EntryKind};

/// The member of a key statement's detail that holds public keys, which must stay as they are.
const KEYS: &str = "keys";

impl Scrub for EntryDraft {
    fn scrub(mut self, scrubber: &Scrubber) -> Self {
        self.reason = self.reason.map(|reason| scrubber.text(&reason));
        let states_keys = match self.kind {
            EntryKind::Genesis | EntryKind::Key => true,
            EntryKind::Check
            | EntryKind::Action
            | EntryKind::Heartbeat
            | EntryKind::Schedule
            | EntryKind::Prune
            | EntryKind::Gap => false,
        };
        let keys = if states_keys { self.detail.remove_entry(KEYS) } else { None };
        self.detail = members(self.detail, scrubber);
        self.detail.extend(keys);
        self
    }
}

fn members(map: Map<String, Value>, scrubber: &Scrubber) -> Map<String, Value> {
    map.into_iter().map(|(name, value)| (name, text_in(value, scrubber))).collect()
}

fn text_in(value: Value, scrubber: &Scrubber) -> Value {
    match value {
        Value::String(text) => Value::String(scrubber.text(&text)),
        Value::Array(items) => items.into_iter().map(|item| text_in(item, scrubber)).collect(),
        Value::Object(map) => Value::Object(members(map, scrubber)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}
