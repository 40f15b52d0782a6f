//! Built-in collectors for Linux hosts, one file each.

mod antivirus;
mod backup;
mod certificates;
mod disk;
mod drift;
mod firewall;
#[cfg(test)]
mod fixture;
mod kernel;
mod logging;
mod mounts;
mod nft;
mod nft_match;
mod nixos;
mod patching;
mod ports;
mod release;
mod repository;
mod restore;
mod ssh;
mod systemd;
mod time;
mod units;

use crate::domain::finding::{Observation, ProblemKind};

use super::run::{Context, nothing};

/// Runs a collector by name.
pub async fn collect(name: &str, context: Context<'_>) -> Observation {
    match name {
        "antivirus" => antivirus::collect(context).await,
        "backup" => backup::collect(context).await,
        "certificates" => certificates::collect(context),
        "disk" => disk::collect(context),
        "drift" => drift::collect(context),
        "firewall" => firewall::collect(context).await,
        "kernel" => kernel::collect(context),
        "logging" => logging::collect(context).await,
        "patching" => patching::collect(context).await,
        "restore" => restore::collect(context).await,
        "ssh" => ssh::collect(context).await,
        "time" => time::collect(context).await,
        "units" => units::collect(context).await,
        _ => nothing(ProblemKind::Missing, format!("no collector is called `{name}`")),
    }
}
