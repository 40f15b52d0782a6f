//! What enrolment left in the state directory, and what the server gave since: verified whenever it is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::crypto::dsse::Envelope;
use crate::crypto::keys::VerifierKey;
use crate::crypto::sha256_hex;
use crate::domain::bundle::{BUNDLE, BundleKind, Manifest, SITE_FILE, sized};
use crate::domain::id::{ApplianceId, SiteId};
use crate::host::Host;
use crate::wire::{Announced, BundleFiles};

const ABOUT: &str = "server.json";

/// What is known of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Its address.
    pub url: String,
    /// The site it knows this appliance by.
    pub site: SiteId,
    /// The name it knows this appliance by.
    pub appliance: ApplianceId,
    /// Keys that sign orders and bundles (C2SP vkey).
    pub order_keys: Vec<String>,
    /// The key that cosigns heads (C2SP vkey).
    pub witness_key: String,
}

/// A bundle whose signature, addressee and files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its manifest.
    pub manifest: Manifest,
    /// Which it is.
    pub announced: Announced,
    /// Its files.
    pub files: BTreeMap<String, String>,
}

/// The folder of a state directory with what enrolment left.
pub fn folder(state: &Path) -> PathBuf {
    state.join("server")
}

/// Whether this appliance has a server.
pub fn is_enrolled(state: &Path) -> bool {
    folder(state).join(ABOUT).exists()
}

/// What is known of the server; an error where it cannot be read.
pub fn about(state: &Path) -> Result<About, String> {
    let path = folder(state).join(ABOUT);
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read(&path).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

/// Keeps what is known of the server. From then on this appliance has one.
pub fn keep_about(state: &Path, about: &About) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(about).map_err(|error| error.to_string())?;
    keep(state, ABOUT, &text)
}

/// Writes a file of the folder, whole or not at all, for nobody else to read.
pub fn keep(state: &Path, name: &str, bytes: &[u8]) -> Result<(), String> {
    let dir = folder(state);
    super::prepare_dir(&dir).map_err(|error| error.to_string())?;
    let path = dir.join(name).display().to_string();
    Host::live().replace(&path, bytes, 0o600, None).map_err(|error| format!("{path}: {error}"))
}

impl About {
    /// The keys that sign orders and bundles.
    pub fn order_keys(&self) -> Result<Vec<VerifierKey>, String> {
        self.order_keys.iter().map(|key| key.parse().map_err(|error| format!("order key: {error}"))).collect()
    }

    /// Verifies a bundle: one of the order keys signed its manifest, it is for this site, and the files are those signed.
    pub fn verify(&self, kind: BundleKind, given: &BundleFiles) -> Result<Bundle, String> {
        let envelope = Envelope::parse(given.envelope.as_bytes()).map_err(|error| error.to_string())?;
        let keys: Vec<_> = self.order_keys()?.iter().map(|key| key.key).collect();
        let payload = envelope.verify(&keys).map_err(|error| error.to_string())?.into_inner();
        if payload.payload_type != BUNDLE {
            return Err(format!("it is {}, no bundle", payload.payload_type));
        }
        let manifest = Manifest::read(&payload.bytes)?;
        manifest.is_for(kind, &self.site)?;
        sized(&given.files)?;
        let hashes = given.files.iter().map(|(name, text)| (name.clone(), sha256_hex(text.as_bytes()))).collect();
        manifest.names(&hashes)?;
        let announced = Announced { number: manifest.number, sha256: sha256_hex(&payload.bytes) };
        Ok(Bundle { manifest, announced, files: given.files.clone() })
    }
}

/// What the server gave of a kind, verified anew; `None` where it gave none.
pub fn bundle(state: &Path, kind: BundleKind) -> Result<Option<Bundle>, String> {
    let path = folder(state).join(file(kind));
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => return Err(wrong(&error)),
    };
    let given: BundleFiles = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    about(state)?.verify(kind, &given).map(Some).map_err(|error| wrong(&error))
}

/// Keeps a bundle that was verified and tried; it is in force from the next start on.
pub fn keep_bundle(state: &Path, kind: BundleKind, given: &BundleFiles) -> Result<(), String> {
    keep(state, &file(kind), &serde_json::to_vec(given).map_err(|error| error.to_string())?)
}

/// Takes the content of another state directory over, for work on a copy of it.
pub fn copy_content(from: &Path, to: &Path) -> Result<(), String> {
    for name in [ABOUT, &file(BundleKind::Content)] {
        if let Ok(bytes) = std::fs::read(folder(from).join(name)) {
            keep(to, name, &bytes)?;
        }
    }
    Ok(())
}

fn file(kind: BundleKind) -> String {
    format!("{}.json", kind.word())
}

/// The configuration the server gave.
pub fn config(state: &Path) -> Result<Option<String>, String> {
    Ok(bundle(state, BundleKind::Config)?.and_then(|mut bundle| bundle.files.remove(SITE_FILE)))
}
