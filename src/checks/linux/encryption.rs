//! Encryption at rest: from every mounted disk and every swap down to the hardware, some layer must encrypt.

use serde_json::{Value, json};

use super::luks;
use super::mounts::{self, Mount};
use crate::checks::run::{Context, Facts};
use crate::domain::finding::{Observation, ProblemKind};
use crate::host::{Cmd, Host, HostError};

/// Deepest stack of block devices followed.
const DEPTH: u32 = 16;

/// Facts: `volumes`, `unjudged`: zero, or why one of them could not be judged; `tools`; and those of [`luks`].
pub(super) async fn collect(context: Context<'_>) -> Observation {
    let mut facts = Facts::default();
    facts.set("tools", json!({"cryptsetup": context.host.has("cryptsetup")}));
    luks::collect(context, &mut facts).await;
    let found = mounts::read(context.host).and_then(|mounts| Ok((swaps(context.host)?, mounts)));
    let (swaps, mounts) = match found {
        Ok(found) => found,
        Err(error) => {
            facts.fail_all(&["volumes", "unjudged"], &error);
            return facts.into();
        }
    };
    let exempt = context.list("exempt");
    let (mut volumes, mut unjudged) = (Vec::new(), None);
    for mount in mounts.iter().filter(|mount| mount.on_disk() || mount.at == "/") {
        match mounted(context.host, mount).await {
            Ok(layer) => volumes.push(fact(&mount.at, &mount.kind, &layer, exempt.contains(&mount.at.as_str()))),
            Err(error) => unjudged = unjudged.or(Some(error)),
        }
    }
    for swap in swaps {
        match swapped(context.host, &mounts, &swap).await {
            Ok(layer) => volumes.push(fact("swap", "swap", &layer, exempt.contains(&"swap"))),
            Err(error) => unjudged = unjudged.or(Some(error)),
        }
    }
    match unjudged {
        None => facts.set("unjudged", 0),
        Some(error) => facts.fail("unjudged", &error),
    }
    if volumes.is_empty() {
        facts.problem("volumes", ProblemKind::Unavailable, "no disk of this computer is visible from here");
    } else {
        facts.set("volumes", volumes);
    }
    facts.into()
}

fn fact(at: &str, kind: &str, layer: &Layer, exempt: bool) -> Value {
    let (encrypted, by) = match layer {
        Layer::Encrypted(by) => (true, Some(by.as_str())),
        Layer::Plain => (false, None),
    };
    json!({"mount": at, "kind": kind, "encrypted": encrypted, "by": by, "exempt": exempt})
}

/// What protects the data of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layer {
    /// Every way down meets an encrypting layer; the first of them.
    Encrypted(String),
    /// At least one way down meets none.
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Files,
    /// Swap may use a random key that is forgotten at every start.
    Swap,
}

async fn mounted(host: &Host, mount: &Mount) -> Result<Layer, HostError> {
    match mount.kind.as_str() {
        "zfs" => zfs(host, &mount.source).await,
        "btrfs" => btrfs(host, mount),
        // Memory forgets; it is nowhere at rest.
        "tmpfs" | "ramfs" => Ok(Layer::Encrypted("memory".to_owned())),
        "overlay" | "nfs" | "nfs4" | "9p" | "virtiofs" => {
            Err(HostError::Missing(format!("the disk below {} at {}", mount.kind, mount.at)))
        }
        "bcachefs" => Err(HostError::Missing(format!("a way to tell whether bcachefs at {} is encrypted", mount.at))),
        _ => node(host, &format!("/sys/dev/block/{}", mount.device), Purpose::Files, 0),
    }
}

/// Walks one block device down to its leaves.
fn node(host: &Host, sysfs: &str, purpose: Purpose, depth: u32) -> Result<Layer, HostError> {
    if depth > DEPTH {
        return Err(HostError::Garbage { what: sysfs.to_owned(), why: "block devices stacked without end".to_owned() });
    }
    if !host.path(sysfs).exists() {
        return Err(HostError::Missing(sysfs.to_owned()));
    }
    match host.read(&format!("{sysfs}/dm/uuid")) {
        Ok(uuid) => {
            if let Some(by) = cipher_layer(uuid.trim(), purpose) {
                return Ok(Layer::Encrypted(by));
            }
        }
        Err(HostError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    let below = match host.list(&format!("{sysfs}/slaves")) {
        Ok(below) => below,
        // A partition has no such directory: it is a leaf.
        Err(HostError::Missing(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    all(below.iter().map(|name| node(host, &format!("{sysfs}/slaves/{name}"), purpose, depth + 1)))
}

/// Encrypted only if there is a way down and every one is.
fn all(ways: impl Iterator<Item = Result<Layer, HostError>>) -> Result<Layer, HostError> {
    let mut found = Layer::Plain;
    for way in ways {
        found = way?;
        if found == Layer::Plain {
            break;
        }
    }
    Ok(found)
}

fn cipher_layer(uuid: &str, purpose: Purpose) -> Option<String> {
    let kind = uuid.strip_prefix("CRYPT-")?.split('-').next()?;
    (kind.starts_with("LUKS") || (kind == "PLAIN" && purpose == Purpose::Swap)).then(|| kind.to_owned())
}

async fn swapped(host: &Host, mounts: &[Mount], swap: &Swap) -> Result<Layer, HostError> {
    match swap {
        Swap::Device(name) => node(host, &format!("/sys/class/block/{name}"), Purpose::Swap, 0),
        Swap::File(path) => match holding(mounts, path) {
            Some(mount) => mounted(host, mount).await,
            None => Err(HostError::Missing(format!("the disk that holds {path}"))),
        },
    }
}

async fn zfs(host: &Host, dataset: &str) -> Result<Layer, HostError> {
    let cmd = Cmd::new(["zfs", "get", "-H", "-p", "-o", "value", "encryption", dataset]);
    let what = cmd.line();
    match host.run_ok(cmd).await?.stdout.trim() {
        "off" => Ok(Layer::Plain),
        "" | "-" => Err(HostError::Garbage { what, why: "no answer".to_owned() }),
        cipher => Ok(Layer::Encrypted(format!("ZFS {cipher}"))),
    }
}

/// btrfs has a device number of its own; its disks are listed by the kernel.
fn btrfs(host: &Host, mount: &Mount) -> Result<Layer, HostError> {
    const ALL: &str = "/sys/fs/btrfs";
    // /dev/mapper names are links to the kernel's own.
    let name = host.read_link(&mount.source).unwrap_or_else(|_| mount.source.clone());
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    for volume in host.list(ALL)? {
        let devices = format!("{ALL}/{volume}/devices");
        let Ok(members) = host.list(&devices) else { continue };
        if members.contains(&name) {
            return all(members.iter().map(|member| node(host, &format!("{devices}/{member}"), Purpose::Files, 0)));
        }
    }
    Err(HostError::Missing(format!("the disks of btrfs at {}", mount.at)))
}

#[derive(Debug, PartialEq, Eq)]
enum Swap {
    Device(String),
    File(String),
}

/// Active swap on disks; compressed memory is not one.
fn swaps(host: &Host) -> Result<Vec<Swap>, HostError> {
    let text = host.read("/proc/swaps")?;
    let swap = |line: &str| {
        let mut fields = line.split_whitespace();
        let (path, kind) = (fields.next()?, fields.next()?);
        let name = path.rsplit('/').next()?;
        match kind {
            "file" => Some(Swap::File(path.to_owned())),
            _ if name.starts_with("zram") => None,
            _ => Some(Swap::Device(name.to_owned())),
        }
    };
    Ok(text.lines().skip(1).filter_map(swap).collect())
}

/// The file system a path lies on.
fn holding<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let holds =
        |mount: &&Mount| mount.at == "/" || path.strip_prefix(&mount.at).is_some_and(|rest| rest.starts_with('/'));
    mounts.iter().filter(|mount| mount.on_disk()).filter(holds).max_by_key(|mount| mount.at.len())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixture::Tree;
    use super::*;

    pub(in super::super) const ID: &str = "RB-LNX-ENCRYPTION-001";
    const SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    impl Tree {
        /// Judged with sound headers, a copy of each kept.
        fn sound(self, more: &Value) -> (&'static str, Vec<String>) {
            let dump = super::super::luks::tests::dump("aes-xts-plain64", 64, "argon2id").to_string();
            let mut settings = json!({"header_backup_dir": "/escrow"});
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let old = "Cipher name:   \taes\nCipher mode:   \txts-plain64\nMK bits:       \t512\nKey Slot 0: ENABLED\n";
            self.answer("cryptsetup luksDump --dump-json-metadata /dev/sda2", &dump)
                .answer("cryptsetup luksDump /dev/sda2", old)
                .file("/escrow/abc", "header")
                .judge(ID, &settings)
        }
    }

    /// A device node in sysfs: its mapper's uuid, what lies below it.
    pub(in super::super) fn device(tree: Tree, number: &str, name: &str, uuid: Option<&str>, below: &[&str]) -> Tree {
        let at = format!("/sys/devices/virtual/block/{name}");
        let mut tree = tree
            .dir(&format!("{at}/slaves"))
            .link(&format!("/sys/dev/block/{number}"), &format!("../../devices/virtual/block/{name}"))
            .link(&format!("/sys/class/block/{name}"), &format!("../../devices/virtual/block/{name}"));
        if let Some(uuid) = uuid {
            tree = tree.file(&format!("{at}/dm/uuid"), &format!("{uuid}\n"));
        }
        below.iter().fold(tree, |tree, below| tree.link(&format!("{at}/slaves/{below}"), &format!("../../{below}")))
    }

    pub(in super::super) fn mounts(lines: &[(&str, &str, &str, &str)]) -> Tree {
        let line = |(number, at, kind, source): &(&str, &str, &str, &str)| {
            format!("1 2 {number} / {at} rw - {kind} {source} rw")
        };
        let text = lines.iter().map(line).collect::<Vec<String>>().join("\n");
        Tree::new().dir("/sys/class/block").file("/proc/self/mountinfo", &text).file("/proc/swaps", SWAPS)
    }

    const ROOT: (&str, &str, &str, &str) = ("253:1", "/", "ext4", "/dev/mapper/root");

    pub(in super::super) fn disk(tree: Tree) -> Tree {
        device(tree, "8:2", "sda2", None, &[])
    }

    #[test]
    fn lvm_over_luks_passes_and_boot_is_exempt() {
        let stack = || {
            let tree = disk(mounts(&[ROOT, ("8:1", "/boot", "ext4", "/dev/sda1")]));
            let tree = device(tree, "8:1", "sda1", None, &[]);
            let tree = device(tree, "253:0", "dm-0", Some("CRYPT-LUKS2-abc-crypt"), &["sda2"]);
            device(tree, "253:1", "dm-1", Some("LVM-xyz"), &["dm-0"])
        };
        assert_eq!(stack().sound(&json!({})), ("pass", vec![]));
        assert_eq!(stack().sound(&json!({"exempt": []})), ("fail", vec!["unencrypted_volume".into()]));
    }

    #[test]
    fn one_plain_leg_of_a_mirror_fails() {
        let tree = device(disk(mounts(&[("9:0", "/", "ext4", "/dev/md0")])), "8:3", "sdb", None, &[]);
        let tree = device(tree, "253:0", "dm-0", Some("CRYPT-LUKS2-abc-crypt"), &["sda2"]);
        let tree = device(tree, "9:0", "md0", None, &["dm-0", "sdb"]);
        assert_eq!(tree.sound(&json!({})), ("fail", vec!["unencrypted_volume".into()]));
    }

    #[test]
    fn swap_may_forget_its_key_but_files_may_not() {
        let plain = |root: &str| {
            let tree = device(disk(mounts(&[ROOT])), "253:1", "dm-1", Some(root), &["sda2"]);
            let tree = device(tree, "253:2", "dm-2", Some("CRYPT-PLAIN-swap"), &["sda2"]);
            tree.file("/proc/swaps", &format!("{SWAPS}/dev/dm-2 partition 1 0 -2\n/dev/zram0 partition 1 0 -2\n"))
        };
        assert_eq!(plain("CRYPT-LUKS1-abc-root").sound(&json!({})), ("warn", vec!["luks1".into()]));
        assert_eq!(plain("CRYPT-PLAIN-root").sound(&json!({})), ("fail", vec!["unencrypted_volume".into()]));
        let swap = plain("CRYPT-LUKS2-abc-root").file("/proc/swaps", &format!("{SWAPS}/dev/sda2 partition 1 0 -2\n"));
        assert_eq!(swap.sound(&json!({})), ("fail", vec!["unencrypted_swap".into()]));
        let file = plain("CRYPT-LUKS2-abc-root").file("/proc/swaps", &format!("{SWAPS}/swapfile file 1 0 -2\n"));
        assert_eq!(file.sound(&json!({})), ("pass", vec![]));
    }

    #[test]
    fn zfs_and_btrfs_are_asked_their_own_way() {
        let zfs = |answer: &str| {
            mounts(&[("0:40", "/", "zfs", "tank/root")]).answer("zfs get -H -p -o value encryption tank/root", answer)
        };
        assert_eq!(zfs("aes-256-gcm\n").sound(&json!({})).0, "pass");
        assert_eq!(zfs("off\n").sound(&json!({})).0, "fail");
        assert_eq!(zfs("").sound(&json!({})).0, "unknown");
        let btrfs = |second: &str| {
            let tree = disk(mounts(&[("0:41", "/", "btrfs", "/dev/mapper/root")])).link("/dev/mapper/root", "../dm-0");
            let tree = device(tree, "253:0", "dm-0", Some("CRYPT-LUKS2-abc-root"), &["sda2"]);
            tree.link("/sys/fs/btrfs/u-u-i-d/devices/dm-0", "../../../../devices/virtual/block/dm-0").link(
                &format!("/sys/fs/btrfs/u-u-i-d/devices/{second}"),
                &format!("../../../../devices/virtual/block/{second}"),
            )
        };
        assert_eq!(btrfs("sda2").sound(&json!({})).0, "fail");
    }

    #[test]
    fn nothing_to_look_at_is_never_a_pass() {
        assert_eq!(mounts(&[("0:5", "/", "overlay", "overlay")]).sound(&json!({})).0, "unknown");
        assert_eq!(mounts(&[ROOT]).sound(&json!({})).0, "unknown");
        assert_eq!(Tree::new().sound(&json!({})).0, "unknown");
        let data = device(
            disk(mounts(&[("0:5", "/", "overlay", "overlay"), ("253:0", "/srv", "ext4", "/dev/dm-0")])),
            "253:0",
            "dm-0",
            Some("CRYPT-LUKS2-abc-srv"),
            &["sda2"],
        );
        assert_eq!(data.sound(&json!({})), ("unknown", vec!["unjudged".into()]));
        let memory = device(
            disk(mounts(&[("0:5", "/", "tmpfs", "none"), ("8:2", "/nix", "ext4", "/dev/sda2")])),
            "8:3",
            "sdb",
            None,
            &[],
        );
        assert_eq!(memory.sound(&json!({})), ("fail", vec!["unencrypted_volume".into()]));
        let only_boot = device(mounts(&[("8:1", "/boot", "ext4", "/dev/sda1")]), "8:1", "sda1", None, &[]);
        assert_eq!(only_boot.sound(&json!({})), ("fail", vec!["nothing_judged".into()]));
    }
}
