//! WORM in a directory: each object appears whole under its name or not at all, is never written over, and is read-only.
//!
//! Until when it is to be kept stands in its modification time. Nothing here can stop root from deleting files; for that
//! there are buckets.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use jiff::Timestamp;

use super::{BlobError, Kept, Key, Object, Proof};
use crate::crypto::sha256_hex;

/// A directory of objects.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn open(root: PathBuf) -> Result<Self, BlobError> {
        let directory = Self { root };
        let made = private_dir(&directory.root).and_then(|()| private_dir(&directory.root.join(".new")));
        made.map_err(|error| directory.unreachable(&error))?;
        Ok(directory)
    }

    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn unreachable(&self, why: &impl ToString) -> BlobError {
        BlobError::Unreachable { store: self.name(), why: why.to_string() }
    }

    pub(super) async fn put(&self, key: &Key, body: Bytes, until: Timestamp) -> Result<Kept, BlobError> {
        let (this, key) = (self.clone(), key.clone());
        self.blocking(move || this.put_now(&key, &body, until)).await
    }

    pub(super) async fn get(&self, key: &Key) -> Result<Option<Object>, BlobError> {
        let (this, key) = (self.clone(), key.clone());
        self.blocking(move || this.get_now(&key)).await
    }

    pub(super) async fn prove(&self, now: Timestamp) -> Result<Vec<Proof>, BlobError> {
        let this = self.clone();
        self.blocking(move || this.prove_now(now)).await
    }

    pub(super) async fn ping(&self) -> Result<(), BlobError> {
        let this = self.clone();
        self.blocking(move || this.ping_now()).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        tokio::task::spawn_blocking(work).await.map_err(|error| self.unreachable(&error))?
    }

    fn put_now(&self, key: &Key, body: &[u8], until: Timestamp) -> Result<Kept, BlobError> {
        let path = self.root.join(key.as_str());
        let version = sha256_hex(body);
        let write = || {
            if let Some(dir) = path.parent() {
                private_dir(dir)?;
            }
            let mut new = tempfile::NamedTempFile::new_in(self.root.join(".new"))?;
            new.write_all(body)?;
            new.as_file().set_permissions(std::fs::Permissions::from_mode(0o400))?;
            new.as_file().set_modified(SystemTime::from(until))?;
            new.as_file().sync_all()?;
            // A link, unlike a rename, never takes another file's place.
            let before = match std::fs::hard_link(new.path(), &path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => true,
                linked => linked.map(|()| false)?,
            };
            sync_dirs(&path, &self.root)?;
            Ok::<_, std::io::Error>(before)
        };
        let before = write().map_err(|error| self.unreachable(&error))?;
        let kept = std::fs::read(&path).map_err(|error| self.unreachable(&error))?;
        if kept != body {
            return Err(BlobError::Differs { store: self.name(), key: key.clone() });
        }
        let until = self.until(&path)?;
        Ok(Kept { version, until, before })
    }

    /// Writes a file and takes it away again, where every object begins.
    fn ping_now(&self) -> Result<(), BlobError> {
        let write = || {
            let mut new = tempfile::NamedTempFile::new_in(self.root.join(".new"))?;
            new.write_all(b"a sign of life")?;
            new.as_file().sync_all()?;
            new.close()
        };
        write().map_err(|error| self.unreachable(&error))
    }

    fn until(&self, path: &Path) -> Result<Timestamp, BlobError> {
        let modified = std::fs::metadata(path).and_then(|meta| meta.modified());
        let time = modified.map_err(|error| self.unreachable(&error))?;
        Timestamp::try_from(time).map_err(|error| self.unreachable(&error))
    }

    fn get_now(&self, key: &Key) -> Result<Option<Object>, BlobError> {
        match std::fs::read(self.root.join(key.as_str())) {
            Ok(body) => Ok(Some(Object { version: sha256_hex(&body), body: body.into(), extra: 0 })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn prove_now(&self, now: Timestamp) -> Result<Vec<Proof>, BlobError> {
        let name = format!("proof/{}", now.as_nanosecond());
        let key = Key::new(name).ok_or_else(|| self.unreachable(&"no name for a proof"))?;
        let until = now.checked_add(jiff::SignedDuration::from_mins(1)).unwrap_or(now);
        self.put_now(&key, b"a proof", until)?;
        let again = self.put_now(&key, b"another", until);
        let path = self.root.join(key.as_str());
        let mode = std::fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o777);
        let removed = std::fs::remove_file(&path);
        Ok(vec![
            Proof {
                what: "nothing is written over",
                holds: Some(matches!(again, Err(BlobError::Differs { .. }))),
                say: "other bytes under the same name".to_owned(),
            },
            Proof {
                what: "files are read-only",
                holds: Some(mode.as_ref().is_ok_and(|mode| *mode == 0o400)),
                say: mode.map_or_else(|error| error.to_string(), |mode| format!("mode {mode:04o}")),
            },
            Proof {
                what: "nobody can delete before the date",
                holds: Some(removed.is_err()),
                say: "a directory cannot refuse whoever owns it; use a bucket with Object Lock".to_owned(),
            },
        ])
    }
}

fn private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Every directory from the file up to the root is on disk.
fn sync_dirs(path: &Path, root: &Path) -> std::io::Result<()> {
    let mut dir = path.parent();
    while let Some(here) = dir {
        std::fs::File::open(here)?.sync_all()?;
        if here == root {
            break;
        }
        dir = here.parent();
    }
    Ok(())
}
