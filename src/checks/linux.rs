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
mod nft_baseline;
mod nft_condition;
mod nft_fields;
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
mod ssh_keys;
mod ssh_views;
mod sudoers;
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
        "inventory" => inventory::collect(context).await,
        "journal" => journal_gaps::collect(context).await,
        "kernel" => kernel::collect(context).await,
        "logging" => logging::collect(context).await,
        "login_failures" => login_failures::collect(context).await,
        "logins" => logins::collect(context).await,
        "own_health" => own_health::collect(context),
        "patching" => patching::collect(context).await,
        "ports" => sockets::collect(context).await,
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::catalog::Catalog;
    use crate::domain::runbook::{COLLECTORS, FactSource};

    /// What each runbook cites is what the catalogue names its checks under.
    #[test]
    fn citations_are_those_of_the_catalogue() {
        let controls: serde_json::Value =
            serde_json::from_str(include_str!("../catalog/data/hipaa-controls.json")).unwrap();
        let cited = |slugs: &[&str]| {
            let named = |control: &&serde_json::Value| {
                control["checks"].as_array().unwrap().iter().any(|slug| slugs.contains(&slug.as_str().unwrap()))
            };
            let citation = |control: &serde_json::Value| {
                control["citation"].as_str().unwrap().trim_start_matches("45 CFR ").to_owned()
            };
            controls["controls"].as_array().unwrap().iter().filter(named).map(citation).collect::<BTreeSet<String>>()
        };
        let catalog = Catalog::load(None).unwrap();
        for (id, slugs) in [
            ("RB-BACKUP-001", &["host.backup"][..]),
            ("RB-RESTORE-001", &["host.backup_restore_test"]),
            ("RB-LNX-PATCH-001", &["host.patching", "host.eol_release"]),
            ("RB-LNX-KERNEL-001", &["host.kernel_reboot"]),
            ("RB-LNX-LOGGING-001", &["host.logging"]),
            ("RB-LNX-LOGGING-002", &["host.logging"]),
            ("RB-LNX-AV-001", &["host.av_edr"]),
            ("RB-LNX-TIME-001", &["host.time_sync"]),
            ("RB-LNX-TIME-002", &["host.time_sync"]),
            ("RB-CERT-001", &["host.cert_expiry"]),
            ("RB-LNX-ENCRYPTION-001", &["host.encryption", "host.luks_escrow"]),
            ("RB-LNX-INVENTORY-001", &["inventory.assets"]),
            ("RB-LNX-AGENT-001", &["evidence.chain", "agent.offline_continuity"]),
            // The catalogue has no words of its own for these: they are risks being managed, as patches and services are.
            ("RB-DISK-001", &["host.patching"]),
            ("RB-DISK-002", &["host.patching"]),
            ("RB-DRIFT-001", &["host.patching"]),
            ("RB-SERVICE-001", &["win.services"]),
        ] {
            let runbook = &catalog.runbooks[&id.parse().unwrap()];
            let said: BTreeSet<String> = runbook.hipaa.iter().cloned().collect();
            assert_eq!(said, cited(slugs), "{id}");
        }
    }

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
