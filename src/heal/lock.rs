//! One execution per target and runbook, across processes: a file lock that dies with its holder.

use std::fs::File;
use std::path::Path;

use crate::domain::id::{CheckId, Target};
use crate::host::HostError;

/// Held while an execution runs or is recovered.
#[derive(Debug)]
pub(super) struct ExecutionLock(#[expect(dead_code, reason = "closing the file releases the lock")] File);

impl ExecutionLock {
    /// Takes the lock, or `None` where another process or task holds it.
    pub(super) fn take(state_dir: &Path, target: &Target, runbook: &CheckId) -> Result<Option<Self>, HostError> {
        let path = state_dir.join("locks").join(format!("{target}.{runbook}.lock"));
        let what = path.display().to_string();
        let failed = |why: String| HostError::Io { what: what.clone(), why };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| failed(error.to_string()))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}
