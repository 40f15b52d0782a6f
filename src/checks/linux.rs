//! Built-in collectors for Linux hosts, one file each.

mod antivirus;
mod backup;
mod disk;
mod firewall;
#[cfg(test)]
mod fixture;
mod logging;
mod mounts;
mod nft;
mod nft_match;
mod ports;
mod repository;
mod restore;
mod ssh;
mod systemd;
mod units;

use crate::domain::finding::{Observation, ProblemKind};

use super::run::{Context, nothing};

/// Runs a collector by name.
pub async fn collect(name: &str, context: Context<'_>) -> Observation {
    match name {
        "antivirus" => antivirus::collect(context).await,
        "backup" => backup::collect(context).await,
        "disk" => disk::collect(context),
        "firewall" => firewall::collect(context).await,
        "logging" => logging::collect(context).await,
        "restore" => restore::collect(context).await,
        "ssh" => ssh::collect(context).await,
        "units" => units::collect(context).await,
        _ => nothing(ProblemKind::Missing, format!("no collector is called `{name}`")),
    }
}
