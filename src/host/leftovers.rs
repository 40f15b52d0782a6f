//! Programs that outlived the process that started them: found by a variable of their environment, and ended.
//!
//! A process id noted down may belong to somebody else by the time it is read again; a variable is inherited by
//! everything a program starts, whatever session or group it moves to, and by nobody else.

use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Host, HostError, Programs};

/// How long a killed program may take to be gone: one that waits for a disk ends when the disk answers.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

impl Host {
    /// Kills every program that has `name=value` in its environment, and waits until none is left; says how many.
    pub async fn end_leftovers(&self, name: &str, value: &str) -> Result<usize, HostError> {
        if matches!(self.programs, Programs::Recorded(_)) {
            return Ok(0);
        }
        let marker = format!("{name}={value}");
        let begun = tokio::time::Instant::now();
        let mut most = 0;
        loop {
            let left = marked(&marker)?;
            most = most.max(left.len());
            if left.is_empty() {
                return Ok(most);
            }
            if begun.elapsed() > PATIENCE {
                return Err(HostError::Io {
                    what: format!("{} programs that were started before", left.len()),
                    why: "cannot be ended; their work may still be going on".to_owned(),
                });
            }
            for pid in left {
                end(pid, &marker);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Processes with the marker that have not ended yet.
fn marked(marker: &str) -> Result<Vec<Pid>, HostError> {
    let entries = std::fs::read_dir("/proc").map_err(|error| HostError::from_io("/proc", &error))?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    Ok(pids.filter(|pid| is_marked(*pid, marker)).collect())
}

fn is_marked(pid: Pid, marker: &str) -> bool {
    // Gone, or somebody else's: not ours. A zombie has no environment any more.
    let environ = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
}

/// Kills a process if it is, under a handle that cannot come to mean another one, still marked.
fn end(pid: Pid, marker: &str) {
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && is_marked(pid, marker)
    {
        // Whether it worked shows at the next look.
        pidfd_send_signal(&handle, Signal::KILL).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "starts a program that is to be found")]
    fn a_program_and_what_it_started_are_found_wherever_they_went() {
        let value = format!("EXE-{}", std::process::id());
        let mut child = std::process::Command::new("setsid")
            .args(["sh", "-c", "sleep 60 & setsid sleep 61 & wait"])
            .env("MALACHOR_TEST", &value)
            .spawn()
            .unwrap();
        let marker = format!("MALACHOR_TEST={value}");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while marked(&marker).unwrap().len() < 3 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(Host::live().end_leftovers("MALACHOR_TEST", &value)).unwrap();
        assert!(ended >= 3, "{ended}");
        assert!(marked(&marker).unwrap().is_empty());
        assert_eq!(runtime.block_on(Host::live().end_leftovers("MALACHOR_TEST", &value)), Ok(0));
        child.wait().unwrap();
    }
}
