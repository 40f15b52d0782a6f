//! Room to write: bytes and inodes of every file system on a disk, and of the root whatever it is.

use serde_json::{Value, json};

use super::mounts::{self, Mount};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::FsUsage;

/// Facts: `filesystems`, `tools`.
pub(super) fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    match mounts::read(context.host) {
        Ok(found) => measure(context, &found, &mut facts),
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

fn measure(context: Context<'_>, found: &[Mount], facts: &mut Facts) {
    let also = context.list("also");
    let counted = |mount: &&Mount| mount.at == "/" || mount.on_disk() || also.contains(&mount.at.as_str());
    let mut filesystems = Vec::new();
    for mount in found.iter().filter(counted) {
        match context.host.fs_usage(&mount.at) {
            Ok(usage) => filesystems.push(fact(mount, usage)),
            // One that cannot be measured leaves the list unknown: the full one may be it.
            Err(error) => return facts.fail("filesystems", &error),
        }
    }
    if filesystems.is_empty() {
        return facts.problem("filesystems", ProblemKind::Unavailable, "no file system on a disk is mounted here");
    }
    facts.set("filesystems", filesystems);
}

fn fact(mount: &Mount, usage: FsUsage) -> Value {
    json!({
        "mount": mount.at, "kind": mount.kind, "read_only": mount.read_only,
        "used_percent": used_percent(usage.bytes_total, usage.bytes_available),
        "inodes_percent": used_percent(usage.inodes_total, usage.inodes_free),
        "total_mb": usage.bytes_total / 1_000_000, "free_mb": usage.bytes_available / 1_000_000,
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
