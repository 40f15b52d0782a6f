//! What the server gives besides orders: content, configuration, keys. Verified, tried, written down, then in force.

use serde_json::json;

use super::{Link, UplinkError, own};
use crate::app::App;
use crate::app::enrolled::{self, About};
use crate::crypto::dsse::Envelope;
use crate::crypto::keys::{SignatureType, VerifierKey};
use crate::domain::bundle::{BundleKind, ORDER_KEYS, OrderKeys};
use crate::heal::people;
use crate::wire::{Announced, BundleFiles};

/// What became of looking for a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pulled {
    /// It is in force already, or there is none.
    Same,
    /// It is in force from the next start of the pipeline on.
    Adopted(Announced),
    /// It does not hold.
    Refused(String),
}

/// What is in force of a kind; `None` where the server gave none, or where it cannot be verified any more.
pub(super) fn held(app: &App, kind: BundleKind) -> Option<Announced> {
    enrolled::bundle(app.state_dir(), kind).ok().flatten().map(|bundle| bundle.announced)
}

/// Fetches what is published, and puts it in force if it holds. Whatever is put in force or refused is evidence.
pub(super) async fn pull(app: &App, link: &Link, kind: BundleKind) -> Result<Pulled, UplinkError> {
    let patience = std::time::Duration::from_mins(1);
    let given: BundleFiles = match link.get(&format!("/v1/bundles/{}", kind.word()), patience).await {
        Err(UplinkError::Said { status: 404, .. }) => return Ok(Pulled::Same),
        given => given?,
    };
    let held = held(app, kind);
    let name = format!("{}_number", kind.word());
    let floor = app.store.read(move |tx| tx.setting(&name)).await?;
    let floor = floor.and_then(|setting| setting.value.parse::<u64>().ok()).unwrap_or(0);
    let tried = link.about.verify(kind, &given).and_then(|bundle| {
        let number = bundle.manifest.number;
        // What cannot be verified any more may come again, and nothing older: the number is kept apart from the file.
        let before = held.as_ref().map_or(0, |held| held.number).max(floor);
        if held.as_ref() == Some(&bundle.announced) {
            return Ok(None);
        }
        if number < before || (number == before && held.is_some()) {
            return Err(format!("it is number {number}; {before} is in force, and nothing goes back"));
        }
        app.objection(&bundle).map_or(Ok(Some(bundle)), Err)
    });
    let (what, detail, pulled) = match tried {
        Ok(None) => return Ok(Pulled::Same),
        Ok(Some(bundle)) => {
            let Announced { number, sha256 } = bundle.announced.clone();
            let detail = json!({"number": number, "sha256": sha256, "madeBy": bundle.manifest.by});
            (format!("{} of the server in force", kind.word()), detail, Pulled::Adopted(bundle.announced))
        }
        Err(why) => {
            tracing::warn!("the server's {} is refused: {why}", kind.word());
            (format!("{} of the server refused", kind.word()), json!({"why": why}), Pulled::Refused(why))
        }
    };
    let detail = detail.as_object().cloned().unwrap_or_default();
    people::from_server(app, &what, detail).await.map_err(|error| own("log", error))?;
    // Written down before it is in force: nothing is ever in force without a word in the log.
    if let Pulled::Adopted(announced) = &pulled {
        let (name, number, now) = (format!("{}_number", kind.word()), announced.number.to_string(), app.clock.now());
        app.store.write(move |tx| tx.put_setting(&name, &number, "server", now)).await?;
        enrolled::keep_bundle(app.state_dir(), kind, &given).map_err(UplinkError::Own)?;
    }
    Ok(pulled)
}

/// Takes over the keys that sign orders from now on, if one that did before says so.
pub(super) async fn take_keys(app: &App, link: &Link, announced: &str) -> Result<(), UplinkError> {
    let keys = announced_keys(&link.about, announced).map_err(UplinkError::Answer)?;
    let about = About { order_keys: keys.iter().map(ToString::to_string).collect(), ..link.about.clone() };
    let ids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
    tracing::info!(?ids, "the keys that sign orders changed");
    let detail = serde_json::Map::from_iter([("keys".to_owned(), json!(about.order_keys))]);
    people::from_server(app, "keys that sign orders changed", detail).await.map_err(|error| own("log", error))?;
    enrolled::keep_about(app.state_dir(), &about).map_err(UplinkError::Own)
}

fn announced_keys(about: &About, announced: &str) -> Result<Vec<VerifierKey>, String> {
    let envelope = Envelope::parse(announced.as_bytes()).map_err(|error| error.to_string())?;
    let known: Vec<_> = about.order_keys()?.iter().map(|key| key.key).collect();
    let payload = envelope.verify(&known).map_err(|error| format!("the new order keys: {error}"))?.into_inner();
    if payload.payload_type != ORDER_KEYS {
        return Err("the new order keys are something else".to_owned());
    }
    let list: OrderKeys = serde_json::from_slice(&payload.bytes).map_err(|error| error.to_string())?;
    let about = About { order_keys: list.keys, ..about.clone() };
    let keys = about.order_keys()?;
    if list.version != 1 || keys.is_empty() || keys.iter().any(|key| key.kind != SignatureType::Ed25519) {
        return Err("the new order keys are no list of Ed25519 keys".to_owned());
    }
    Ok(keys)
}
