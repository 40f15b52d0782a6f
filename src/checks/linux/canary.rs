//! Lines nobody else can have written, sent on each way programs log, and looked for where logs end up.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::{Value, json};

use super::systemd;
use crate::host::{Cmd, Host, HostError};

const TAG: &str = "malachor-canary";
/// Where programs of systemd's own protocol log; the others go through `/dev/log`.
const NATIVE: &str = "/run/systemd/journal/socket";
/// Pauses between looks: ten seconds in all.
const PAUSES_MS: [u64; 7] = [100, 200, 400, 800, 1500, 3000, 4000];
const TAIL: u64 = 512 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// `{written, journal, native, syslog, waited_ms}`: whether the line could be written to syslog's socket and was found in
/// the journal and in the file of the syslog service (null where there is none), and whether one written to the journal's
/// own socket was found.
pub(super) async fn send(host: &Host, syslog_file: Option<&str>) -> Result<Value, HostError> {
    systemd::booted(host)?;
    let token = host.read("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    let native_token = format!("{token}-native");
    let written = write(host, &token).await?;
    let native_written = write_native(host, &native_token);
    let mut seen = Seen { syslog: syslog_file.map(|_| false), ..Seen::default() };
    let mut waited_ms = 0;
    if written || native_written {
        for pause in PAUSES_MS {
            let messages = messages(host).await?;
            seen.journal |= messages.contains(&token);
            seen.native |= messages.contains(&native_token);
            if let (Some(path), Some(false)) = (syslog_file, seen.syslog) {
                let tail = host.tail(path, TAIL)?;
                seen.syslog = Some(String::from_utf8_lossy(&tail).contains(&token));
            }
            if seen.all(written, native_written) || !host.is_live() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
            waited_ms += pause;
        }
    }
    Ok(json!({
        "written": written, "journal": seen.journal, "native": seen.native, "syslog": seen.syslog, "waited_ms": waited_ms,
    }))
}

#[derive(Debug, Default)]
struct Seen {
    journal: bool,
    native: bool,
    syslog: Option<bool>,
}

impl Seen {
    /// Nothing that was written is still to come.
    fn all(&self, written: bool, native_written: bool) -> bool {
        (!written || (self.journal && self.syslog != Some(false))) && (!native_written || self.native)
    }
}

async fn write(host: &Host, token: &str) -> Result<bool, HostError> {
    // logger goes through /dev/log as other programs do; systemd-cat is the way where it is not installed.
    let cmd = if host.has("logger") {
        Cmd::new(["logger", "-t", TAG, token])
    } else {
        Cmd::new(["systemd-cat", "-t", TAG]).stdin(format!("{token}\n"))
    };
    Ok(host.run(cmd.timeout(PATIENCE)).await?.success())
}

/// One datagram of `NAME=value` lines; a journal that takes none is not waited for.
fn write_native(host: &Host, token: &str) -> bool {
    let message = format!("MESSAGE={token}\nSYSLOG_IDENTIFIER={TAG}\nPRIORITY=6\n");
    let Ok(socket) = UnixDatagram::unbound() else { return false };
    socket.set_nonblocking(true).is_ok() && socket.send_to(message.as_bytes(), host.path(NATIVE)).is_ok()
}

/// What the newest canaries in the journal say.
async fn messages(host: &Host) -> Result<Vec<String>, HostError> {
    let tag = format!("SYSLOG_IDENTIFIER={TAG}");
    let cmd = Cmd::new(["journalctl", "-q", "--no-pager", "-o", "json", "-n", "20", &tag]);
    let what = cmd.line();
    let output = host.run_ok(cmd.timeout(PATIENCE)).await?;
    let mut messages = Vec::new();
    for line in output.stdout.lines() {
        let entry: Value = serde_json::from_str(line)
            .map_err(|error| HostError::Garbage { what: what.clone(), why: format!("no JSON: {error}") })?;
        messages.extend(entry.get("MESSAGE").and_then(Value::as_str).map(str::to_owned));
    }
    Ok(messages)
}
