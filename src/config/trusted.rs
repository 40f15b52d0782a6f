//! Whether a path may say what this program does: nobody but its user and root can change it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Complains about a file or directory that somebody else could change or replace, with the cure.
///
/// It must belong to root or to whoever runs this; neither it nor a directory above it may be written by others, nor,
/// where root runs this, by a group. A directory with the sticky bit, like `/tmp`, protects what is in it.
pub fn trusted(path: &Path) -> Result<(), String> {
    let absolute = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let real = std::fs::canonicalize(&absolute).map_err(|error| format!("{}: {error}", path.display()))?;
    let me = rustix::process::geteuid();
    let writers = if me.is_root() { GROUP_WRITE | OTHERS_WRITE } else { OTHERS_WRITE };
    let meta = std::fs::metadata(&real).map_err(|error| format!("{}: {error}", path.display()))?;
    if meta.uid() != 0 && meta.uid() != me.as_raw() {
        let (name, uid) = (path.display(), meta.uid());
        return Err(format!("{name}: belongs to user {uid}, who could change it; run `chown root {name}`"));
    }
    if meta.mode() & writers != 0 {
        let (name, mode) = (path.display(), meta.mode() & 0o7777);
        return Err(format!("{name}: others can change it (mode {mode:04o}); run `chmod go-w {name}`"));
    }
    // Both ways: the one that was written down, and the one its links lead to.
    for above in absolute.ancestors().skip(1).chain(real.ancestors().skip(1)) {
        let Ok(meta) = std::fs::metadata(above) else { continue };
        if meta.mode() & writers != 0 && meta.mode() & STICKY == 0 {
            let (name, above, mode) = (path.display(), above.display(), meta.mode() & 0o7777);
            return Err(format!(
                "{name}: others can replace it, for {above} has mode {mode:04o}; run `chmod go-w {above}`"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_can_change_or_replace_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        std::fs::create_dir(&below).unwrap();
        let file = below.join("x.toml");
        std::fs::write(&file, "").unwrap();
        let set = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&below, 0o755);
        set(&file, 0o644);
        assert_eq!(trusted(&file), Ok(()));
        set(&file, 0o646);
        assert!(trusted(&file).unwrap_err().contains("mode 0646"));
        set(&file, 0o644);
        set(&below, 0o777);
        assert!(trusted(&file).unwrap_err().contains("below has mode 0777"));
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(trusted(&link).is_err(), "where it leads counts");
        set(&below, 0o1777);
        assert_eq!(trusted(&file), Ok(()));
        assert!(trusted(&dir.path().join("gone")).is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
            assert!(trusted(&file).unwrap_err().contains("belongs to user 65534"));
        }
    }
}
