//! What rollback needs, kept in the journal before the first step, and put back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::domain::planning::Keep;
use crate::host::{Cmd, Host, HostError};

use super::units::{UnitState, systemctl, unit_state};

/// The state before the first step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    files: Vec<KeptFile>,
    units: Vec<KeptUnit>,
    nft: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFile {
    path: String,
    /// `None` where there was no file.
    was: Option<KeptContent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptContent {
    base64: String,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptUnit {
    unit: String,
    active: bool,
    file_state: String,
}

impl Snapshot {
    /// Reads what is to be kept; if anything cannot be read, nothing may be changed.
    pub(super) async fn take(host: &Host, keeps: &[Keep]) -> Result<Self, HostError> {
        let mut snapshot = Self::default();
        for keep in keeps {
            match keep {
                Keep::File(path) => snapshot.files.push(keep_file(host, path)?),
                Keep::Unit(unit) => snapshot.units.push(keep_unit(host, unit).await?),
                Keep::Nft => snapshot.nft = Some(ruleset(host).await?),
            }
        }
        Ok(snapshot)
    }

    /// The ruleset as it was, ready to be loaded in one transaction.
    pub(super) fn ruleset(&self) -> Option<&str> {
        self.nft.as_deref()
    }

    /// Puts everything back; safe to do twice.
    pub(super) async fn restore(&self, host: &Host) -> Result<(), HostError> {
        if let Some(ruleset) = &self.nft {
            host.run_ok(Cmd::new(["nft", "-f", "-"]).stdin(ruleset.as_bytes())).await?;
        }
        for file in &self.files {
            file.restore(host)?;
        }
        for unit in &self.units {
            unit.restore(host).await?;
        }
        Ok(())
    }
}

async fn ruleset(host: &Host) -> Result<String, HostError> {
    let output = host.run_ok(Cmd::new(["nft", "-s", "list", "ruleset"]).cap(4 * 1024 * 1024)).await?;
    if output.truncated {
        return Err(HostError::Garbage { what: "nft list ruleset".to_owned(), why: "more than 4 MiB".to_owned() });
    }
    Ok(format!("flush ruleset\n{}", output.stdout))
}

fn keep_file(host: &Host, path: &str) -> Result<KeptFile, HostError> {
    let was = host.read_unfollowed(path)?.map(|(stat, bytes)| KeptContent {
        base64: STANDARD.encode(bytes),
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
    });
    Ok(KeptFile { path: path.to_owned(), was })
}

async fn keep_unit(host: &Host, unit: &str) -> Result<KeptUnit, HostError> {
    let UnitState { active, file_state, .. } = unit_state(host, unit).await?;
    Ok(KeptUnit { unit: unit.to_owned(), active, file_state })
}

impl KeptFile {
    fn restore(&self, host: &Host) -> Result<(), HostError> {
        match &self.was {
            None => host.remove(&self.path),
            Some(was) => {
                let content = STANDARD
                    .decode(&was.base64)
                    .map_err(|error| HostError::Garbage { what: self.path.clone(), why: error.to_string() })?;
                host.replace(&self.path, &content, was.mode, Some((was.uid, was.gid)))
            }
        }
    }
}

impl KeptUnit {
    async fn restore(&self, host: &Host) -> Result<(), HostError> {
        let now = unit_state(host, &self.unit).await?;
        if now.file_state != self.file_state {
            match self.file_state.as_str() {
                "enabled" => systemctl(host, "enable", &self.unit).await?,
                "disabled" => systemctl(host, "disable", &self.unit).await?,
                "masked" => systemctl(host, "mask", &self.unit).await?,
                _ => {}
            }
        }
        match (self.active, now.active) {
            (true, false) => systemctl(host, "start", &self.unit).await,
            (false, true) => systemctl(host, "stop", &self.unit).await,
            (true, true) | (false, false) => Ok(()),
        }
    }
}
