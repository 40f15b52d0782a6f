//! What Malachor knows about itself, for the check of its own health.

use serde_json::{Value, json};

use crate::app::App;

/// Reading the whole database takes seconds on a large one.
const WHOLE_FILE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// Store, log, room and progress. What cannot be learned is left out, so that it is unknown.
pub(super) async fn facts(app: &App) -> Value {
    let now = app.clock.now();
    let mut facts = serde_json::Map::from_iter([
        ("version".to_owned(), json!(env!("CARGO_PKG_VERSION"))),
        ("binary_sha256".to_owned(), json!(app.identity.binary_sha256(&app.host))),
        ("last_progress_age_s".to_owned(), json!(now.as_second().saturating_sub(app.progress.at()))),
    ]);
    let head = app.identity.public().map(|(_, head, _)| head);
    let read = async {
        let words = app.store.integrity(now, WHOLE_FILE).await?;
        let (entries, waiting, log) = app
            .store
            .read(move |tx| {
                let log = head.ok().and_then(|key| tx.check_head(&key).err()).map(|error| error.to_string());
                Ok((tx.log_size()?, tx.outbox()?.0, log))
            })
            .await?;
        Ok::<_, crate::store::StoreError>((entries, waiting, words.or(log)))
    };
    match read.await {
        Ok((entries, waiting, damage)) => {
            facts.insert("entries".to_owned(), json!(entries));
            // Nothing is late while no server is configured to take it.
            facts.insert("outbox".to_owned(), json!({"depth": waiting, "oldest_age_h": null}));
            facts.insert("integrity".to_owned(), json!(damage.unwrap_or_else(|| "ok".to_owned())));
        }
        Err(error) => {
            facts.insert("integrity".to_owned(), json!(error.to_string()));
        }
    }
    let space = app.host.fs_usage(&app.state_dir().display().to_string()).ok();
    if let Some(free) = space.and_then(|space| (space.bytes_available * 100).checked_div(space.bytes_total)) {
        facts.insert("state_free_percent".to_owned(), json!(free));
    }
    Value::Object(facts)
}
