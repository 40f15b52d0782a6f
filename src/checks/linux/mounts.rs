//! What is mounted where, from `/proc/self/mountinfo`.

use std::collections::BTreeMap;

use crate::host::{Host, HostError};

/// Kinds of file system that are full or read-only by nature.
const IMAGES: &[&str] = &["squashfs", "erofs", "iso9660", "udf", "cramfs", "romfs"];
/// Kinds that live on disks but have no `/dev` source of their own.
const VOLUMES: &[&str] = &["zfs", "btrfs", "bcachefs"];

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// `major:minor`.
    pub(super) device: String,
    /// Where it is mounted.
    pub(super) at: String,
    /// Kind of file system.
    pub(super) kind: String,
    /// What is mounted: a device path, a pool, a word.
    pub(super) source: String,
    /// The whole file system is read-only, not just this view of it.
    pub(super) read_only: bool,
}

impl Mount {
    /// Whether it keeps data on a disk of this machine.
    pub(super) fn on_disk(&self) -> bool {
        let block = self.source.starts_with("/dev/") || VOLUMES.contains(&self.kind.as_str());
        block && !IMAGES.contains(&self.kind.as_str())
    }
}

/// Every file system once, at its shortest mount point.
pub(super) fn read(host: &Host) -> Result<Vec<Mount>, HostError> {
    Ok(once(all(host)?))
}

/// Every mount, in the order they were made.
pub(super) fn all(host: &Host) -> Result<Vec<Mount>, HostError> {
    const PATH: &str = "/proc/self/mountinfo";
    let garbage = || HostError::Garbage { what: PATH.to_owned(), why: "a line is not a mount".to_owned() };
    host.read(PATH)?.lines().map(|line| parse(line).ok_or_else(garbage)).collect()
}

/// The mount a path lies in: the deepest, and of several at one place the last, which covers those before.
pub(super) fn holding<'a>(all: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let holds = |mount: &&Mount| {
        mount.at == "/" || path.strip_prefix(&mount.at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    all.iter().filter(holds).max_by_key(|mount| mount.at.len())
}

/// Each file system at its shortest mount point.
pub(super) fn once(all: Vec<Mount>) -> Vec<Mount> {
    let mut by_device: BTreeMap<String, Mount> = BTreeMap::new();
    for mount in all {
        let known = by_device.entry(mount.device.clone()).or_insert_with(|| mount.clone());
        if mount.at.len() < known.at.len() {
            *known = mount;
        }
    }
    let mut mounts: Vec<Mount> = by_device.into_values().collect();
    mounts.sort_by(|a, b| a.at.cmp(&b.at));
    mounts
}

/// `id parent major:minor root mount-point options [optional…] - kind source super-options`.
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (device, at) = (left.next()?, left.nth(1)?);
    let mut right = right.split(' ');
    let (kind, source, options) = (right.next()?, right.next()?, right.next().unwrap_or_default());
    Some(Mount {
        device: device.to_owned(),
        at: unescape(at),
        kind: kind.to_owned(),
        source: unescape(source),
        read_only: options.split(',').any(|option| option == "ro"),
    })
}

/// Undoes the kernel's `\040` for blanks.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(code) = code {
            plain.push(char::from(code));
            plain.push_str(part.get(3..).unwrap_or_default());
        } else {
            plain.push('\\');
            plain.push_str(part);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let mount =
            parse(r"36 35 98:0 /mnt1 /mnt/my\040disk rw,noatime master:1 - ext3 /dev/root rw,errors=continue").unwrap();
        assert_eq!((mount.at.as_str(), mount.kind.as_str(), mount.read_only), ("/mnt/my disk", "ext3", false));
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn a_path_lies_in_the_deepest_mount_and_the_last_at_one_place() {
        let mount = |number: &str, at: &str| parse(&format!("1 2 {number} / {at} rw - ext4 /dev/x rw")).unwrap();
        let all = [mount("8:1", "/"), mount("8:2", "/var"), mount("8:3", "/var/log"), mount("8:4", "/var/log")];
        let device = |path: &str| holding(&all, path).map(|mount| mount.device.as_str());
        assert_eq!(device("/var/log/journal"), Some("8:4"));
        assert_eq!((device("/var/log"), device("/var/logs"), device("/srv")), (Some("8:4"), Some("8:2"), Some("8:1")));
        assert_eq!(holding(&[], "/srv"), None);
    }

    #[test]
    fn images_and_memory_are_not_disks() {
        let on_disk = |kind: &str, source: &str| {
            parse(&format!("1 2 0:1 / /x rw - {kind} {source} rw")).is_some_and(|mount| mount.on_disk())
        };
        assert!(on_disk("ext4", "/dev/sda1") && on_disk("zfs", "tank/data"));
        assert!(!on_disk("tmpfs", "tmpfs") && !on_disk("squashfs", "/dev/loop3") && !on_disk("nfs4", "nas:/share"));
    }
}
