//! A private place for what a restore test brings back, and the end of what killed ones left there.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

use crate::host::{FileKind, FileLock, Host, HostError, Stat};

/// Below the directory of the settings; one test at a time works in it.
const NAME: &str = "malachor-restore";
/// Where tests once worked, beside it.
const OLD: &str = "malachor-restore-";
const LOCK: &str = "lock";

/// A new directory nobody else can look into: what comes back may be patients' files.
#[derive(Debug)]
pub(super) struct Scratch {
    dir: tempfile::TempDir,
    /// As the host names it.
    pub(super) path: String,
    /// What killed tests had left.
    pub(super) swept: usize,
    _lock: FileLock,
}

impl Scratch {
    /// Makes it below `parent`, which everybody may write to.
    pub(super) fn new(host: &Host, parent: &str) -> Result<Self, HostError> {
        let base = format!("{}/{NAME}", parent.trim_end_matches('/'));
        private(host, &base)?;
        let lock = FileLock::take(&host.path(&format!("{base}/{LOCK}")))?;
        let lock = lock.ok_or_else(|| refused(&base, "another restore test works there"))?;
        let swept = sweep(host, parent, &base)?;
        let dir = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(host.path(&base))
            .map_err(|error| HostError::from_io(&base, &error))?;
        let name = dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { path: format!("{base}/{name}"), dir, swept, _lock: lock })
    }

    /// Where it really lies.
    pub(super) fn real(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Deletes it with all that is in it; whether that could be done.
    pub(super) fn wipe(self) -> bool {
        self.dir.close().is_ok()
    }
}

fn refused(path: &str, why: &str) -> HostError {
    HostError::Io { what: path.to_owned(), why: why.to_owned() }
}

fn is_ours(stat: &Stat) -> bool {
    stat.kind == FileKind::Dir && stat.uid == rustix::process::geteuid().as_raw()
}

/// Makes a directory only we can look into; one that is there already must be just that, for somebody may have put
/// something else under its name.
fn private(host: &Host, path: &str) -> Result<(), HostError> {
    match std::fs::DirBuilder::new().mode(0o700).create(host.path(path)) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(HostError::from_io(path, &error)),
    }
    let stat = host.stat(path)?;
    if !is_ours(&stat) || stat.mode & 0o077 != 0 {
        return Err(refused(path, "is not a directory that only we can look into"));
    }
    Ok(())
}

fn sweep(host: &Host, parent: &str, base: &str) -> Result<usize, HostError> {
    let old =
        host.list(parent)?.into_iter().filter(|name| name.starts_with(OLD)).map(|name| format!("{parent}/{name}"));
    let ours = old.filter(|path| host.stat(path).is_ok_and(|stat| is_ours(&stat)));
    let left = host.list(base)?.into_iter().filter(|name| name != LOCK).map(|name| format!("{base}/{name}"));
    let mut swept = 0;
    for path in ours.chain(left) {
        std::fs::remove_dir_all(host.path(&path)).map_err(|error| HostError::from_io(&path, &error))?;
        swept += 1;
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Tree;
    use super::*;

    #[test]
    fn what_killed_tests_left_goes_before_the_next_one_begins() {
        let tree = Tree::new()
            .file("/var/tmp/malachor-restore-Ab3/srv/chart", "a patient")
            .file("/var/tmp/malachor-restore/x1/srv/chart", "another")
            .mode("/var/tmp/malachor-restore", 0o700)
            .file("/var/tmp/malachor-restore-notes", "a file of somebody")
            .file("/var/tmp/other/x", "not ours");
        let scratch = Scratch::new(&tree.host(), "/var/tmp").unwrap();
        assert_eq!(scratch.swept, 2);
        let there = |path: &str| tree.host().exists(path);
        assert!(!there("/var/tmp/malachor-restore-Ab3") && !there("/var/tmp/malachor-restore/x1"));
        assert!(there("/var/tmp/malachor-restore-notes") && there("/var/tmp/other/x"));
        assert_eq!(tree.host().stat(&scratch.path).unwrap().mode, 0o700);
        let second = Scratch::new(&tree.host(), "/var/tmp").unwrap_err();
        assert!(second.to_string().contains("another restore test"), "{second}");
        assert!(scratch.wipe());
        assert_eq!(tree.host().list("/var/tmp/malachor-restore").unwrap(), ["lock"]);
        assert!(Scratch::new(&tree.host(), "/var/tmp").is_ok());
    }

    #[test]
    fn a_place_somebody_else_prepared_is_refused() {
        for tree in [
            Tree::new().dir("/elsewhere").link("/var/tmp/malachor-restore", "../../elsewhere"),
            Tree::new().dir("/var/tmp/malachor-restore").mode("/var/tmp/malachor-restore", 0o755),
            Tree::new().file("/var/tmp/malachor-restore", ""),
        ] {
            assert!(Scratch::new(&tree.host(), "/var/tmp").unwrap_err().to_string().contains("only we can look"));
        }
        assert!(matches!(Scratch::new(&Tree::new().host(), "/gone"), Err(HostError::Missing(_))));
    }
}
