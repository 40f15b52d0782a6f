//! Publishing content and configuration: checked, numbered, kept; signed for each appliance by a key it holds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::state::audited;
use crate::catalog::Catalog;
use crate::config::Loaded;
use crate::crypto::{jcs, sha256_hex};
use crate::domain::bundle::{BundleKind, Manifest, SITE_FILE, sized};
use crate::domain::id::SiteId;
use crate::fleet::bundles::{self, Published};
use crate::fleet::{Fleet, FleetError, sites};

/// What somebody publishes.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What it is.
    pub kind: BundleKind,
    /// For one site, or for all of the fleet.
    pub site: Option<SiteId>,
    /// The files, by name.
    pub files: BTreeMap<String, String>,
    /// Who publishes: `operator:NAME`.
    pub by: String,
}

/// What is wrong with a draft, before anybody gets it; an appliance tries it once more together with its own files.
pub fn check(draft: &Draft) -> Result<(), String> {
    sized(&draft.files)?;
    match draft.kind {
        BundleKind::Content => Catalog::layered(draft.files.clone(), None).map(drop).map_err(|error| error.to_string()),
        BundleKind::Config => {
            let text = draft.files.get(SITE_FILE).filter(|_| draft.files.len() == 1);
            let text = text.ok_or_else(|| format!("a configuration is one file, {SITE_FILE}"))?;
            Loaded::defaults().over(text).map(drop).map_err(|error| error.to_string())
        }
    }
}

/// Keeps a draft under the next number, in force from now on.
pub async fn publish(fleet: &Fleet, draft: Draft, now: Timestamp) -> Result<Manifest, FleetError> {
    check(&draft).map_err(FleetError::Refused)?;
    fleet
        .write(move |sql| {
            let draft = draft.clone();
            Box::pin(async move {
                if let Some(site) = &draft.site {
                    sites::site(sql, site).await?;
                }
                let manifest = Manifest {
                    version: 1,
                    kind: draft.kind,
                    site: draft.site,
                    number: bundles::next_number(sql, draft.kind).await?,
                    made_at: now,
                    by: draft.by.clone(),
                    files: draft.files.iter().map(|(name, text)| (name.clone(), sha256_hex(text.as_bytes()))).collect(),
                };
                let wrong = |error: &dyn std::fmt::Display| FleetError::Refused(format!("manifest: {error}"));
                let value = serde_json::to_value(&manifest).map_err(|error| wrong(&error))?;
                let bytes = jcs::to_vec(&value).map_err(|error| wrong(&error))?;
                let detail = json!({"number": manifest.number, "sha256": sha256_hex(&bytes), "files": manifest.files});
                let site = manifest.site.as_ref().map_or("", |site| site.as_str()).to_owned();
                let object = format!("{} {}", manifest.kind.word(), manifest.number);
                bundles::publish(sql, &Published { manifest: manifest.clone(), bytes, files: draft.files }).await?;
                audited(sql, (&site, now), (&draft.by, "bundle.publish", &object), detail).await?;
                Ok(manifest)
            })
        })
        .await
}
