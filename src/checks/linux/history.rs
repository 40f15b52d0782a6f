//! What a check remembers of its earlier runs: samples in the fact `history`, carried from one run to the next.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::checks::run::{Context, HISTORY};

/// One earlier measurement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) value: Value,
}

/// Samples, oldest first. As a fact: `[{at, value}]`, `at` in RFC 3339.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History(pub(super) Vec<Sample>);

impl History {
    /// What the last run left. One that cannot be read, or lies ahead of our clock, is forgotten.
    pub(super) fn of(context: Context<'_>) -> Self {
        let list = context.before.and_then(|before| before.facts.get(HISTORY)).and_then(Value::as_array);
        let sample = |entry: &Value| {
            let at: Timestamp = entry.get("at")?.as_str()?.parse().ok()?;
            (at <= context.now).then(|| Some(Sample { at, value: entry.get("value")?.clone() }))?
        };
        let mut samples: Vec<Sample> = list.into_iter().flatten().filter_map(sample).collect();
        samples.sort_by_key(|sample| sample.at);
        Self(samples)
    }

    /// Adds a sample unless the newest is younger than `apart`; beyond `most` the oldest go.
    pub(super) fn add(&mut self, at: Timestamp, value: Value, apart: SignedDuration, most: usize) {
        if self.0.last().is_none_or(|newest| at.duration_since(newest.at) >= apart) {
            self.0.push(Sample { at, value });
        }
        self.0.drain(..self.0.len().saturating_sub(most));
    }

    /// The newest sample of one kind, where a check remembers several: `{kind, …}`.
    pub(super) fn latest(&self, kind: &str) -> Option<&Sample> {
        self.0.iter().rfind(|sample| is(sample, kind))
    }

    /// Puts a sample in the place of all others of its kind.
    pub(super) fn replace(&mut self, kind: &str, at: Timestamp, mut value: Value) {
        self.0.retain(|sample| !is(sample, kind));
        if let Some(value) = value.as_object_mut() {
            value.insert("kind".to_owned(), json!(kind));
        }
        self.0.push(Sample { at, value });
    }

    /// All of it as a fact.
    pub(super) fn fact(&self) -> Value {
        self.0.iter().map(|sample| json!({"at": sample.at.to_string(), "value": sample.value})).collect()
    }
}

fn is(sample: &Sample, kind: &str) -> bool {
    sample.value.get("kind").and_then(Value::as_str) == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, now};
    use super::*;
    use crate::checks::run::Before;

    fn carried(history: &Value) -> History {
        let (tree, facts) = (Tree::new(), json!({"history": history}));
        let context = Context {
            host: &tree.host(),
            settings: &serde_json::Map::new(),
            now: now(),
            own: &Value::Null,
            before: Some(Before { at: now(), facts: &facts }),
        };
        History::of(context)
    }

    #[test]
    fn samples_keep_their_distance_and_their_number() {
        let mut history = History::default();
        for minute in 0..100 {
            let at = now() - SignedDuration::from_mins(100 - minute);
            history.add(at, json!(minute), SignedDuration::from_mins(10), 5);
        }
        let kept: Vec<&Value> = history.0.iter().map(|sample| &sample.value).collect();
        assert_eq!(kept, [&json!(50), &json!(60), &json!(70), &json!(80), &json!(90)]);
        assert_eq!(carried(&history.fact()), history);
    }

    #[test]
    fn garbage_and_the_future_are_forgotten() {
        let good = json!({"at": "2026-03-02T11:00:00Z", "value": 1});
        let future = json!({"at": "2026-03-02T13:00:00Z", "value": 2});
        let history = carried(&json!([3, {"at": "soon", "value": 1}, {"at": "2026-03-02T10:00:00Z"}, future, good]));
        assert_eq!(history.0.len(), 1);
        assert_eq!(carried(&json!("x")), History::default());
    }
}
