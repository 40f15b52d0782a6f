//! Reading a directory of content: only what nobody else can change, and only so much of it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{text_of, trusted};

use super::{Diagnostic, Diagnostics};

/// Directories below one another.
const DEPTH: usize = 8;
/// Files and directories looked at.
const ENTRIES: usize = 2000;
/// Most bytes of one file of content; the longest of ours has a tenth of that.
pub const BYTES: u64 = 256 * 1024;

/// The YAML files below a directory, by path. Links to directories are not followed, so there is no going in circles.
pub fn read(dir: &Path) -> Result<BTreeMap<String, String>, Diagnostics> {
    let (mut files, mut open, mut seen) = (BTreeMap::new(), vec![(dir.to_owned(), 0)], 0);
    trusted(dir).map_err(|why| complaint(dir, &why))?;
    while let Some((dir, depth)) = open.pop() {
        if depth > DEPTH {
            return Err(complaint(&dir, &format!("directories are nested more than {DEPTH} deep")));
        }
        let entries = std::fs::read_dir(&dir).map_err(|error| complaint(&dir, &format!("cannot be read: {error}")))?;
        for entry in entries {
            let entry = entry.map_err(|error| complaint(&dir, &format!("cannot be read: {error}")))?;
            seen += 1;
            if seen > ENTRIES {
                return Err(complaint(&dir, &format!("there are more than {ENTRIES} files")));
            }
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.is_ok_and(|kind| kind.is_dir()) {
                open.push((path, depth + 1));
            } else if is_yaml(&path) && !path.is_dir() {
                files.insert(path.display().to_string(), text(&path)?);
            }
        }
    }
    Ok(files)
}

/// Whether a file is content, by its name.
pub fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn text(path: &Path) -> Result<String, Diagnostics> {
    trusted(path).map_err(|why| complaint(path, &why))?;
    text_of(path, BYTES).map_err(|why| complaint(path, &why))
}

fn complaint(path: &Path, why: &str) -> Diagnostics {
    let name = path.display().to_string();
    let why = why.strip_prefix(&format!("{name}: ")).unwrap_or(why);
    Diagnostics(vec![Diagnostic::at(&name, "", (0, 0), why.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn refused(prepare: impl FnOnce(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        read(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn what_has_no_end_ends() {
        let dir = tempfile::tempdir().unwrap();
        symlink(".", dir.path().join("a")).unwrap();
        symlink(".", dir.path().join("b.yaml")).unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        let deep = refused(|dir| std::fs::create_dir_all(dir.join(["d"; 12].join("/"))).unwrap());
        assert!(deep.contains("nested more than 8 deep"), "{deep}");
        let many = refused(|dir| (0..2001).for_each(|n| std::fs::write(dir.join(n.to_string()), "").unwrap()));
        assert!(many.contains("more than 2000 files"), "{many}");
        let huge = refused(|dir| std::fs::File::create(dir.join("x.yaml")).unwrap().set_len(3 << 30).unwrap());
        assert!(huge.contains("larger than 256 KiB"), "{huge}");
        let pipe = refused(|dir| {
            rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("x.yaml"), rustix::fs::Mode::RUSR).unwrap();
        });
        assert!(pipe.contains("is not a regular file"), "{pipe}");
    }

    #[test]
    fn what_others_can_change_is_not_content() {
        let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let dir = refused(open);
        assert!(dir.contains("others can change it"), "{dir}");
        let file = refused(|dir| {
            std::fs::write(dir.join("x.yaml"), "").unwrap();
            open(&dir.join("x.yaml"));
        });
        assert!(file.contains("x.yaml") && file.contains("others can change it"), "{file}");
    }
}
