//! A lock on a file: held by one process at a time, released when its holder ends, however it ends.

use std::fs::File;
use std::path::Path;

use super::HostError;

/// Holds the lock until dropped.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock, or `None` where somebody else holds it. The file and its directory are made where missing.
    pub fn take(path: &Path) -> Result<Option<Self>, HostError> {
        let what = path.display().to_string();
        let failed = |error: &std::io::Error| HostError::from_io(&what, error);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
        }
        let file =
            File::options().create(true).truncate(false).write(true).open(path).map_err(|error| failed(&error))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(&error.into())),
        }
    }
}
