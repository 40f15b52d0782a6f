//! Built-in collectors for Linux hosts, one file each.

mod access;
mod antivirus;
mod audit;
mod authorized_keys;
mod backup;
mod backup_size;
mod borg;
mod canary;
mod certificates;
mod disk;
mod disk_health;
mod drift;
mod edr;
mod encryption;
mod fim;
mod firewall;
#[cfg(test)]
mod fixture;
mod growth;
mod history;
mod inventory;
mod journal;
mod journal_gaps;
mod kernel;
mod listeners;
mod logging;
mod login_failures;
mod logins;
mod luks;
mod md;
mod mounts;
mod nft;
mod nft_match;
mod nixos;
mod own_health;
mod patching;
#[cfg(test)]
mod planned;
mod ports;
mod release;
mod repository;
mod restore;
mod scratch;
mod sessions;
mod sockets;
mod soundness;
mod ssh;
mod sysctl;
mod systemd;
mod time;
mod trust;
mod units;

use crate::domain::finding::{Observation, ProblemKind};

use super::run::Context;

/// Runs a collector by name.
pub async fn collect(name: &str, context: Context<'_>) -> Observation {
    match name {
        "access" => access::collect(context).await,
        "antivirus" => antivirus::collect(context).await,
        "audit" => audit::collect(context).await,
        "backup" => backup::collect(context).await,
        "certificates" => certificates::collect(context).await,
        "disk" => disk::collect(context),
        "disk_health" => disk_health::collect(context).await,
        "drift" => drift::collect(context),
        "encryption" => encryption::collect(context).await,
        "fim" => fim::collect(context).await,
        "firewall" => firewall::collect(context).await,
        "inventory" => inventory::collect(context),
        "journal" => journal_gaps::collect(context).await,
        "kernel" => kernel::collect(context).await,
        "logging" => logging::collect(context).await,
        "login_failures" => login_failures::collect(context).await,
        "logins" => logins::collect(context).await,
        "own_health" => own_health::collect(context),
        "patching" => patching::collect(context).await,
        "ports" => sockets::collect(context),
        "restore" => restore::collect(context).await,
        "sessions" => sessions::collect(context),
        "ssh" => ssh::collect(context).await,
        "sysctl" => sysctl::collect(context),
        "time" => time::collect(context).await,
        "units" => units::collect(context).await,
        _ => Observation::nothing(ProblemKind::Missing, format!("no collector is called `{name}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::domain::runbook::{COLLECTORS, FactSource};

    /// On a machine with nothing on it every collector answers, and no runbook makes a pass of that.
    #[test]
    fn every_collector_is_dispatched_and_knows_what_it_does_not_know() {
        let catalog = Catalog::load(None).unwrap();
        let mut left: Vec<&str> = COLLECTORS.to_vec();
        for runbook in catalog.runbooks.values() {
            let FactSource::Collector(name) = &runbook.detect.source else { continue };
            left.retain(|known| known != name);
            let finding = fixture::Tree::new().finding(runbook.id.as_str(), &serde_json::json!({}));
            let said = finding.observation.problems.iter().any(|problem| problem.say.contains("no collector"));
            assert!(!said, "{name} is not dispatched");
            assert_ne!(finding.verdict.word(), "pass", "{}: {:?}", runbook.id, finding.observation);
            assert_ne!(finding.verdict.word(), "warn", "{}: {:?}", runbook.id, finding.observation);
        }
        assert_eq!(left, Vec::<&str>::new(), "collectors without a runbook");
    }
}
