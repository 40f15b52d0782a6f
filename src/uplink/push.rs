//! Check-ins, and handing over evidence until nothing waits.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::pull::held;
use super::{Link, UplinkError};
use crate::app::App;
use crate::crypto::note::Checkpoint;
use crate::domain::bundle::BundleKind;
use crate::heal::{self, people};
use crate::wire::{CheckIn, CheckedIn, LogState, Receipt};

/// Entries handed over at once.
const BATCH: u64 = 500;

/// How far the appliance's clock may be from the server's before it is said, in milliseconds.
const CLOCK_MS: u64 = 120_000;

/// Tells the server how this appliance is, and hears what the server holds of it.
///
/// `told` is the inventory the server heard last: it is told again only when it changed.
pub(super) async fn check_in(app: &App, link: &Link, told: &mut Option<Value>) -> Result<CheckedIn, UplinkError> {
    let posture = heal::posture(app).await.map_err(|error| super::own("posture", error))?;
    let posture = json!({"posture": posture, "score": posture.score()});
    let (log_size, (outbox, _), order_seq) =
        app.store.read(|tx| Ok((tx.log_size()?, tx.outbox()?, tx.last_order()?))).await?;
    let inventory = app.scrubber.scrub(inventory(app)).into_inner();
    let said = CheckIn {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: app.clock.now().to_string(),
        order_keys: link.order_keys.iter().map(|key| key.id().to_string()).collect(),
        order_seq,
        log_size,
        outbox,
        posture: Some(app.scrubber.scrub(posture).into_inner()),
        inventory: (told.as_ref() != Some(&inventory)).then(|| inventory.clone()),
    };
    let heard: CheckedIn = link.post("/v1/check-in", &said).await?;
    *told = Some(inventory);
    if heard.rolled_back {
        tracing::error!(
            log_size,
            server_holds = heard.log_size,
            order_seq,
            "the server knows more of this appliance than it does itself: it was restored from an older state; a person has to look"
        );
    }
    if heard.clock_offset_ms.unsigned_abs() > CLOCK_MS {
        tracing::warn!(offset_ms = heard.clock_offset_ms, "this appliance's clock and the server's differ");
    }
    Ok(heard)
}

/// What this appliance is made of. Neither names of hosts nor addresses leave.
fn inventory(app: &App) -> Value {
    let line = |path: &str| app.host.read(path).ok().map(|text| text.trim().to_owned());
    let release = line("/etc/os-release").unwrap_or_default();
    let os = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"'));
    let checks: serde_json::Map<String, Value> = app
        .checks()
        .map(|runbook| {
            (runbook.id.to_string(), json!({"sha256": runbook.sha256, "every_s": app.every(runbook).as_secs()}))
        })
        .collect();
    json!({
        "os": os, "kernel": line("/proc/sys/kernel/osrelease"), "arch": std::env::consts::ARCH,
        "mode": app.config().heal.mode.word(), "checks": checks,
        "content": held(app, BundleKind::Content), "config": held(app, BundleKind::Config),
    })
}

/// How far ahead of the server's clock an entry may claim to be; the server takes a little more.
const AHEAD: SignedDuration = SignedDuration::from_secs(90);

/// Hands over what waits, oldest first, and keeps the receipts; says how many entries the server holds then.
///
/// Where this clock is ahead of the server's, entries wait until the server's clock has come to them. A server that holds
/// less than it acknowledged was restored from an older state: it gets again what it lost, and the log says so.
pub(super) async fn push(app: &App, link: &Link, heard: &CheckedIn) -> Result<u64, UplinkError> {
    let now = app.clock.now();
    let theirs = now.checked_sub(SignedDuration::from_millis(heard.clock_offset_ms)).unwrap_or(now);
    let until = theirs.checked_add(AHEAD).unwrap_or(Timestamp::MAX);
    let acknowledged = app.store.read(|tx| tx.cosigned_size()).await?;
    let mut from = acknowledged;
    if heard.log_size < acknowledged {
        tracing::error!(holds = heard.log_size, acknowledged, "the server lost entries it had acknowledged");
        let detail = Map::from_iter([
            ("holds".to_owned(), json!(heard.log_size)),
            ("acknowledged".to_owned(), json!(acknowledged)),
        ]);
        let what = "the server lost entries it had acknowledged; they are handed over again";
        people::from_server(app, what, detail).await.map_err(|error| super::own("log", error))?;
        from = heard.log_size;
    }
    loop {
        let batch = app.store.read(move |tx| tx.outgoing(from, BATCH, until)).await?;
        let Some(batch) = batch else { return Ok(from) };
        let receipt: Receipt = match link.post_bytes("/v1/evidence", batch).await {
            Ok(receipt) => receipt,
            // An answer was lost, or this appliance forgot a receipt: the server says where it stands.
            Err(UplinkError::Said { status: 409, .. }) => {
                let state: LogState = link.get("/v1/log", std::time::Duration::from_secs(30)).await?;
                if state.size == from {
                    return Err(UplinkError::Answer("it refuses entries where it says it stands".to_owned()));
                }
                Receipt { size: state.size, note: state.note.unwrap_or_default() }
            }
            Err(error) => return Err(error),
        };
        let size = keep(app, link, &receipt).await?;
        if size <= from {
            return Err(UplinkError::Answer(format!("it holds {size} entries after it held {from}")));
        }
        from = size;
    }
}

/// Believes a receipt only if it is our own head, cosigned by the server's witness key.
async fn keep(app: &App, link: &Link, receipt: &Receipt) -> Result<u64, UplinkError> {
    let (_, head_key, _) = app.identity.public().map_err(|error| super::own("keys", error))?;
    let note = receipt.note.clone().into_bytes();
    for key in [&head_key, &link.witness_key] {
        let opened = Checkpoint::open(&note, std::slice::from_ref(key));
        let head = opened.map_err(|error| UplinkError::Answer(format!("receipt: {error}")))?.into_inner();
        if head.size != receipt.size || head.origin != *app.identity.origin() {
            return Err(UplinkError::Answer("the receipt is for another head".to_owned()));
        }
    }
    let (size, now) = (receipt.size, app.clock.now());
    app.store.write(move |tx| tx.taken(size, &note, now)).await?;
    Ok(size)
}
