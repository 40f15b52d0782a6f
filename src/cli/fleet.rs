//! `appliance`, `publish`: who belongs to the fleet and what it gets, on the server itself. Each act is audited.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::catalog::{BYTES, read_dir};
use crate::config::text_of;
use crate::domain::bundle::{BundleKind, SITE_FILE};
use crate::domain::id::{ApplianceId, SiteId};
use crate::fleet::{bundles, sites};
use crate::server::enrolment;
use crate::server::publish::{Draft, publish};

use super::server::on_runtime;
use super::session::Session;
use super::tenants::{listed, open, said};
use super::{Exit, Failure};

/// Appliances.
#[derive(Debug, Subcommand)]
pub(super) enum Appliance {
    /// List appliances, and how each was when it was last seen
    List,
    /// End an appliance's right to speak: its certificates count nowhere from now on
    Revoke(Which),
    /// Let an appliance that came back with an older state act again, because somebody looked
    Release(Release),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// `site/appliance`
    #[arg(value_parser = name)]
    appliance: (SiteId, ApplianceId),
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Release {
    #[command(flatten)]
    which: Which,
    /// What was found, and why it may act again
    #[arg(long)]
    reason: String,
}

/// Content and configuration for appliances.
///
/// Each appliance fetches what is published for its site, else for the whole fleet; verifies who signed it; tries it
/// together with its own files; and goes on with it or says why not. Its own files go first, and the strictest mode wins.
#[derive(Debug, Subcommand)]
pub(super) enum Publish {
    /// Publish the runbooks and rules of a directory
    Content(What),
    /// Publish a configuration: heal, runbooks, site.timezone, agent.heartbeat
    Config(What),
    /// List what is in force
    List,
}

#[derive(Debug, Args)]
pub(super) struct What {
    /// The directory, or the file
    path: PathBuf,
    /// For this site only
    #[arg(long)]
    site: Option<SiteId>,
    /// Who does it [default: the user behind sudo]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

fn name(text: &str) -> Result<(SiteId, ApplianceId), String> {
    let (site, appliance) = text.split_once('/').ok_or("write it as site/appliance")?;
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    Ok((site.parse().map_err(|error| wrong(&error))?, appliance.parse().map_err(|error| wrong(&error))?))
}

impl Appliance {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            match self {
                Self::List => list(session).await?,
                Self::Revoke(which) => {
                    let (fleet, now, who) = open(session, which.by.as_deref()).await?;
                    let (site, id) = which.appliance;
                    enrolment::revoke(&fleet, (site.clone(), id.clone()), &who, now).await?;
                    done(session, format!("{site}/{id} is not listened to any more"));
                }
                Self::Release(Release { which, reason }) => {
                    let (fleet, now, who) = open(session, which.by.as_deref()).await?;
                    let (site, id) = which.appliance;
                    enrolment::release(&fleet, (site.clone(), id.clone()), (&who, &reason), now).await?;
                    done(session, format!("{site}/{id} gets orders again"));
                }
            }
            Ok(Exit::Ok)
        })
    }
}

async fn list(session: &Session<'_>) -> Result<(), Failure> {
    let (fleet, ..) = open(session, Some("list")).await?;
    let all = fleet.read(|sql| Box::pin(sites::appliances(sql, None))).await?;
    let rows = all.iter().map(|one| {
        let last = one.last.as_ref();
        let cells = vec![
            format!("{}/{}", one.site, one.id),
            one.state.word().to_owned(),
            last.map_or_else(|| "never".to_owned(), |last| last.at.to_string()),
            last.map(|last| last.version.clone()).unwrap_or_default(),
            last.map(|last| last.outbox_depth.to_string()).unwrap_or_default(),
        ];
        (json!({"schema": "malachor.appliance/1", "appliance": one}), cells)
    });
    listed(session, &["APPLIANCE", "STATE", "SEEN", "VERSION", "OUTBOX"], rows);
    Ok(())
}

fn done(session: &Session<'_>, line: String) {
    let json = json!({"schema": "malachor.done/1", "say": line});
    said(session, &json, line);
}

impl Publish {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        on_runtime(async {
            let (kind, what) = match self {
                Self::Content(what) => (BundleKind::Content, what),
                Self::Config(what) => (BundleKind::Config, what),
                Self::List => {
                    in_force(session).await?;
                    return Ok(Exit::Ok);
                }
            };
            let files = match kind {
                BundleKind::Content => content(&what.path)?,
                BundleKind::Config => {
                    let text = text_of(&what.path, BYTES).map_err(|why| Failure::usage(&why))?;
                    BTreeMap::from([(SITE_FILE.to_owned(), text)])
                }
            };
            let (fleet, now, by) = open(session, what.by.as_deref()).await?;
            let manifest = publish(&fleet, Draft { kind, site: what.site, files, by }, now).await?;
            let whom = manifest.site.as_ref().map_or("the whole fleet", |site| site.as_str());
            let line = format!("{} {} for {whom}: {} files", kind.word(), manifest.number, manifest.files.len());
            said(session, &json!({"schema": "malachor.bundle/1", "bundle": manifest}), line);
            Ok(Exit::Ok)
        })
    }
}

/// The files of a directory, named from there: where it lies on this machine is nobody's business.
fn content(dir: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let files = read_dir(dir)?;
    let short =
        |name: String| Path::new(&name).strip_prefix(dir).map_or(name.clone(), |short| short.display().to_string());
    Ok(files.into_iter().map(|(name, text)| (short(name), text)).collect())
}

async fn in_force(session: &Session<'_>) -> Result<(), Failure> {
    let (fleet, ..) = open(session, Some("list")).await?;
    let all = fleet.read(|sql| Box::pin(bundles::in_force(sql))).await?;
    let rows = all.iter().map(|(manifest, _)| {
        let site = manifest.site.as_ref().map_or("every", |site| site.as_str()).to_owned();
        let (number, files) = (manifest.number.to_string(), manifest.files.len().to_string());
        let (by, since) = (manifest.by.clone(), manifest.made_at.to_string());
        let json = json!({"schema": "malachor.bundle/1", "bundle": manifest});
        (json, vec![manifest.kind.word().to_owned(), number, site, files, by, since])
    });
    listed(session, &["KIND", "NUMBER", "SITE", "FILES", "BY", "SINCE"], rows);
    Ok(())
}
