//! The layer a server gives: what it may say, how it lies under the appliance's own, and that no layer loosens another.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;
use super::place::{ConfigError, Origin, line_of, origins_of, with_hint};
use crate::domain::mode::Mode;

/// What the server's layer may say. Who an appliance is, where it keeps things and what it logs stays its own.
const FROM_SERVER: &[&str] = &["agent.heartbeat", "agent.jitter_percent", "heal", "runbooks", "site.timezone"];

/// What the server gave, if it says only what a server may.
pub(super) fn server_layer(text: &str) -> Result<Value, ConfigError> {
    let at = |offset: usize, message: String| ConfigError {
        place: Origin::Server(line_of(text, offset)).to_string(),
        message,
    };
    let table: toml::Table = toml::from_str::<Config>(text)
        .and_then(|_| toml::from_str(text))
        .map_err(|error| at(error.span().map_or(0, |span| span.start), with_hint(error.message())))?;
    let (keys, _) = origins_of(text, Origin::Server);
    let allowed = |key: &str| FROM_SERVER.iter().any(|may| key == *may || key.starts_with(&format!("{may}.")));
    if let Some((key, place)) = keys.iter().find(|(key, _)| !allowed(key)) {
        let message = format!("{key}: a server may say only {}", FROM_SERVER.join(", "));
        return Err(ConfigError { place: place.to_string(), message });
    }
    serde_json::to_value(&table).map_err(|error| at(0, error.to_string()))
}

/// Lays one tree over another; lists are replaced whole.
pub(super) fn merge(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                merge(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// Keeps every mode at least as strict as the server's layer has it, and says where that was written.
pub(super) fn keep_strict(config: &mut Config, server: &Value, text: &str) -> BTreeMap<String, Origin> {
    let mode = |value: Option<&Value>| value.and_then(|mode| serde_json::from_value(mode.clone()).ok());
    let mut held = Vec::new();
    if let Some(limit) = mode(server.pointer("/heal/mode"))
        && limit < config.heal.mode
    {
        config.heal.mode = limit;
        held.push("heal.mode".to_owned());
    }
    for (id, runbook) in &mut config.runbooks {
        let limit: Option<Mode> = mode(server.pointer(&format!("/runbooks/{id}/mode")));
        if let Some(limit) = limit
            && runbook.mode.is_none_or(|mode| limit < mode)
        {
            runbook.mode = Some(limit);
            held.push(format!("runbooks.{id}.mode"));
        }
    }
    let (mut written, _) = origins_of(text, Origin::Server);
    written.retain(|key, _| held.contains(key));
    written
}
