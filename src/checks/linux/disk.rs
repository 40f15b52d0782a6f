//! Room to write: bytes and inodes of every file system on a disk, and of the root whatever it is.

use serde_json::{Value, json};

use super::growth::{self, Use};
use super::history::History;
use super::mounts::{self, Mount};
use crate::checks::run::{Context, Facts, HISTORY};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::FsUsage;

/// What may be cleaned, and where it lies.
const CLEANABLE: [(&str, &str); 3] =
    [("journal", "/var/log/journal"), ("packages", "/var/cache/apt/archives"), ("nix", "/nix/store")];

/// Facts: `filesystems` (with `days_to_full`: null where it does not grow, or is not known long enough, and `holds`: which
/// of journal, packages and nix lie on it), `tools`, and `history`: what was used in the last two weeks.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    match mounts::all(context.host) {
        Ok(all) => measure(context, all, &mut facts),
        Err(error) => facts.fail("filesystems", &error),
    }
    facts.set(
        "tools",
        json!({
            "journalctl": context.host.has("journalctl"), "apt_get": context.host.has("apt-get"),
            "nix": context.host.has("nix-collect-garbage"),
        }),
    );
    facts.into()
}

fn measure(context: Context<'_>, all: Vec<Mount>, facts: &mut Facts) {
    let held = held(context, &all);
    let found = mounts::once(all);
    let also = context.list("also");
    let counted = |mount: &&Mount| mount.at == "/" || mount.on_disk() || also.contains(&mount.at.as_str());
    let (mut filesystems, mut measured, mut history) = (Vec::new(), Vec::new(), History::of(context));
    for mount in found.iter().filter(counted) {
        match context.host.fs_usage(&mount.at) {
            Ok(usage) => {
                let (used, free) = (usage.bytes_total.saturating_sub(usage.bytes_available), usage.bytes_available);
                let now = Use { mount: mount.at.clone(), used, free };
                filesystems.push(fact(mount, usage, growth::days_to_full(context, &history, &now), &held));
                measured.push(now);
            }
            // One that cannot be measured leaves the list unknown: the full one may be it.
            Err(error) => return facts.fail("filesystems", &error),
        }
    }
    if filesystems.is_empty() {
        return facts.problem("filesystems", ProblemKind::Unavailable, "no file system on a disk is mounted here");
    }
    growth::remember(context, &mut history, &measured);
    facts.set("filesystems", filesystems);
    facts.set(HISTORY, history.fact());
}

/// For each of [`CLEANABLE`] that is there, the device it lies on.
fn held(context: Context<'_>, all: &[Mount]) -> Vec<(&'static str, String)> {
    let there = CLEANABLE.iter().filter(|(_, path)| context.host.exists(path));
    there.filter_map(|(name, path)| Some((*name, mounts::holding(all, path)?.device.clone()))).collect()
}

fn fact(mount: &Mount, usage: FsUsage, days_to_full: Option<u64>, held: &[(&str, String)]) -> Value {
    let holds = |wanted: &str| held.iter().any(|(name, device)| *name == wanted && *device == mount.device);
    json!({
        "holds": {"journal": holds("journal"), "packages": holds("packages"), "nix": holds("nix")},
        "mount": mount.at, "kind": mount.kind, "read_only": mount.read_only,
        "used_percent": used_percent(usage.bytes_total, usage.bytes_available),
        "inodes_percent": used_percent(usage.inodes_total, usage.inodes_free),
        "total_mb": usage.bytes_total / 1_000_000, "free_mb": usage.bytes_available / 1_000_000,
        "days_to_full": days_to_full,
    })
}

/// Used share, rounded up so that full is never shown as less; 0 where there is nothing to use up.
fn used_percent(total: u64, free: u64) -> u64 {
    let used = u128::from(total.saturating_sub(free)) * 100;
    u64::try_from(used.div_ceil(u128::from(total.max(1)))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Tree, finding, words};
    use super::super::planned;
    use super::*;
    use crate::host::Host;

    const MOUNTS: &str = "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:5 / /run rw - tmpfs tmpfs rw\n\
                          29 27 254:0 /srv /srv ro - ext4 /dev/vda rw\n";

    #[test]
    fn a_disk_is_counted_once_and_memory_is_not() {
        let tree = Tree::new().dir("/run").file("/proc/self/mountinfo", MOUNTS);
        let facts = tree.observe("RB-DISK-001", &json!({})).facts;
        let mounts: Vec<&str> =
            facts["filesystems"].as_array().unwrap().iter().map(|item| item["mount"].as_str().unwrap()).collect();
        assert_eq!(mounts, ["/"]);
        let also = tree.observe("RB-DISK-001", &json!({"also": ["/run"]})).facts;
        assert_eq!(also["filesystems"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn growth_is_remembered_and_seen() {
        let tree = Tree::new().file("/proc/self/mountinfo", "27 1 254:0 / / rw - ext4 /dev/vda rw\n");
        let settings = json!({"warn_percent": 100, "fail_percent": 100});
        let first = tree.observe("RB-DISK-001", &settings).facts;
        assert_eq!(
            (first["history"].as_array().unwrap().len(), &first["filesystems"][0]["days_to_full"]),
            (1, &Value::Null)
        );
        let used = first["history"][0]["value"]["/"].as_u64().unwrap();
        let ago = |hours, used: u64| {
            let at = super::super::fixture::now() - jiff::SignedDuration::from_hours(hours);
            json!({"at": at.to_string(), "value": {"/": used}})
        };
        // From nothing to what is used now within three days: what is left is soon gone, or the disk is nearly empty.
        let history = json!([ago(72, 0), ago(48, used / 3), ago(24, used / 3 * 2), ago(5, used)]);
        let fast = tree.before(5, json!({"history": history}));
        let facts = fast.observe("RB-DISK-001", &settings).facts;
        assert!(facts["filesystems"][0]["days_to_full"].is_u64(), "{facts}");
        assert_eq!(facts["history"].as_array().unwrap().len(), 4, "six hours apart");
        let patient = json!({"warn_percent": 100, "fail_percent": 100, "days_to_full_warn": 3650});
        assert!(fast.judge("RB-DISK-001", &patient).1.contains(&"full_soon".to_owned()));
    }

    /// Each place is cleaned only where it makes room, and the system log only of what is older than it has to be kept.
    #[test]
    fn only_the_full_file_system_is_cleaned_and_the_log_keeps_its_days() {
        let tree = Tree::new()
            .dir("/var/log/journal")
            .dir("/var/cache/apt/archives")
            .dir("/srv")
            .file("/proc/self/mountinfo", "27 1 8:1 / / rw - ext4 /dev/a rw\n28 27 8:2 / /srv rw - ext4 /dev/b rw\n29 27 8:3 / /var rw - ext4 /dev/c rw\n");
        let holds = |mount: &str| {
            let facts = tree.observe("RB-DISK-001", &json!({})).facts;
            let all = facts["filesystems"].as_array().unwrap().clone();
            all.iter().find(|fs| fs["mount"] == mount).unwrap()["holds"].clone()
        };
        assert_eq!(holds("/var"), json!({"journal": true, "packages": true, "nix": false}));
        assert_eq!(holds("/"), json!({"journal": false, "packages": false, "nix": false}));

        let plan = |full: &str, settings: &Value| {
            let fs = |mount: &str| {
                let holds = json!({"journal": mount == "/var", "packages": mount == "/", "nix": mount == "/nix"});
                let used = if mount == full { 97 } else { 30 };
                json!({"mount": mount, "read_only": false, "used_percent": used, "inodes_percent": 3, "days_to_full": null, "holds": holds})
            };
            let tools = json!({"journalctl": true, "apt_get": true, "nix": true});
            let facts = json!({"filesystems": [fs("/"), fs("/srv"), fs("/var"), fs("/nix")], "tools": tools});
            planned::plan_for("RB-DISK-001", settings, facts)
        };
        assert_eq!(planned::lines(plan("/var", &json!({}))), ["journalctl --vacuum-time=30d"]);
        let longer = json!({"keep_log_days": 400});
        assert_eq!(planned::lines(plan("/var", &longer)), ["journalctl --vacuum-time=400d"]);
        assert_eq!(planned::lines(plan("/", &json!({}))), ["apt-get clean"]);
        assert_eq!(planned::lines(plan("/nix", &json!({}))), ["nix-collect-garbage"]);
        assert!(plan("/srv", &json!({})).unwrap_err()[0].contains("a person"), "nothing there is ours to drop");
    }

    #[test]
    fn the_log_is_kept_as_long_as_the_logging_check_wants_it() {
        let catalog = crate::catalog::Catalog::load(None).unwrap();
        let default = |id: &str, name: &str| {
            let schema = &catalog.runbooks[&id.parse().unwrap()].settings;
            schema.check(&serde_json::Map::new()).unwrap()[name].clone()
        };
        assert_eq!(default("RB-DISK-001", "keep_log_days"), default("RB-LNX-LOGGING-001", "retention_days"));
    }

    #[test]
    fn what_cannot_be_measured_is_unknown() {
        let lost = Tree::new().file("/proc/self/mountinfo", "1 2 8:1 / /data rw - ext4 /dev/sda1 rw\n");
        assert_eq!(lost.judge("RB-DISK-001", &json!({})).0, "unknown");
        let none = Tree::new().file("/proc/self/mountinfo", "1 2 0:5 / /run rw - tmpfs tmpfs rw\n");
        assert_eq!(none.judge("RB-DISK-001", &json!({})).0, "unknown");
        assert_eq!(Tree::new().judge("RB-DISK-001", &json!({})).0, "unknown");
        let garbage = Tree::new().file("/proc/self/mountinfo", "what\n");
        assert_eq!(garbage.judge("RB-DISK-001", &json!({})).0, "unknown");
    }

    #[test]
    fn percentages_round_towards_full() {
        assert_eq!(used_percent(1000, 1), 100);
        assert_eq!(used_percent(1000, 1000), 0);
        assert_eq!(used_percent(0, 0), 0);
        assert_eq!(used_percent(u64::MAX, 0), 100);
    }

    #[test]
    fn this_machine_has_a_root() {
        let settings = json!({"warn_percent": 100, "fail_percent": 100});
        let (verdict, _) = words(&finding(&Host::live(), "RB-DISK-001", &settings));
        assert!(matches!(verdict, "pass" | "warn" | "fail"), "{verdict}");
    }
}
