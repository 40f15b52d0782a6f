//! The bound on what waits for the server: beyond it, changes of findings are no longer written one by one. A signed
//! record says when that began and, once there is room again, how many were left out.
//!
//! What is done to the host, and every incident that moves, is always written.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::app::enrolled::is_enrolled;
use crate::domain::entry::EntryKind;
use crate::store::{StoreError, Tx};

/// Name of the setting that holds an open gap: since when, and how many changes it left out.
const GAP: &str = "gap";

/// Whether a change of a finding may still be written; opens and closes the gap.
pub(super) fn room(app: &App, tx: &Tx<'_>, now: Timestamp) -> Result<bool, StoreError> {
    let bound = app.config().agent.outbox_entries;
    if !is_enrolled(app.state_dir()) {
        // Nobody takes anything: what is in the log is at its destination.
        return Ok(true);
    }
    let waiting = tx.outbox()?.0;
    let open = open(tx)?;
    match open {
        None if waiting < bound => Ok(true),
        None => {
            put(tx, &json!({"since": now.to_string(), "leftOut": 0}), now)?;
            let detail = Map::from_iter([("waiting".to_owned(), json!(waiting)), ("bound".to_owned(), json!(bound))]);
            write(app, tx, "too much waits for the server: changes of findings are not written from here on", detail)?;
            Ok(false)
        }
        // Half of the room first, so that it does not open and close with each entry.
        Some(_) if waiting > bound / 2 => Ok(false),
        Some(gap) => {
            let detail = Map::from_iter([
                ("since".to_owned(), gap.get("since").cloned().unwrap_or(Value::Null)),
                ("until".to_owned(), json!(now.to_string())),
                ("leftOut".to_owned(), json!(left_out(&gap))),
            ]);
            put(tx, &Value::Null, now)?;
            write(app, tx, "there is room again: changes of findings are written from here on", detail)?;
            Ok(true)
        }
    }
}

/// Counts a change that is not written.
pub(super) fn leave_out(tx: &Tx<'_>, now: Timestamp) -> Result<(), StoreError> {
    let Some(mut gap) = open(tx)? else { return Ok(()) };
    let count = left_out(&gap).saturating_add(1);
    if let Value::Object(gap) = &mut gap {
        gap.insert("leftOut".to_owned(), json!(count));
    }
    put(tx, &gap, now)
}

fn open(tx: &Tx<'_>) -> Result<Option<Value>, StoreError> {
    let kept = tx.setting(GAP)?.and_then(|setting| serde_json::from_str::<Value>(&setting.value).ok());
    Ok(kept.filter(Value::is_object))
}

fn left_out(gap: &Value) -> u64 {
    gap.get("leftOut").and_then(Value::as_u64).unwrap_or(0)
}

fn put(tx: &Tx<'_>, gap: &Value, now: Timestamp) -> Result<(), StoreError> {
    tx.put_setting(GAP, &gap.to_string(), "malachor", now)
}

fn write(app: &App, tx: &Tx<'_>, what: &str, detail: Map<String, Value>) -> Result<(), StoreError> {
    tracing::warn!("{what}");
    tx.append(&[app.plain(EntryKind::Gap, None, Some(what.to_owned()), detail)], &app.seal_context()).map(drop)
}
