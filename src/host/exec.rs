//! Running programs: argv only, own process group, deadline, capped output, a neutral environment.

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::{Host, HostError, Programs};

/// Directories searched for programs, NixOS's first; the caller's PATH is not trusted.
const PATH: &str =
    "/run/wrappers/bin:/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the rest of a program's output is waited for once it has ended.
const REST: Duration = Duration::from_secs(2);
/// Output kept of one program unless the command asks for another cap.
const OUTPUT_CAP: usize = 1024 * 1024;

/// A program to run.
#[derive(Debug, Clone)]
pub struct Cmd {
    argv: Vec<String>,
    timeout: Duration,
    stdin: Option<Vec<u8>>,
    cap: usize,
    env: Vec<(String, String)>,
    dir: std::path::PathBuf,
}

impl Cmd {
    /// A program and its arguments; 30 s, 1 MiB of output, nothing on standard input.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            timeout: Duration::from_secs(30),
            stdin: None,
            cap: OUTPUT_CAP,
            env: Vec::new(),
            dir: "/".into(),
        }
    }

    /// Sets the working directory; `/` unless told otherwise.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Feeds bytes to standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Adds an environment variable to the neutral environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Sets how many bytes of each stream are kept.
    #[must_use]
    pub fn cap(mut self, bytes: usize) -> Self {
        self.cap = bytes;
        self
    }

    /// The command line as a person would read it.
    pub fn line(&self) -> String {
        self.argv.join(" ")
    }
}

/// What a program said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit status; 128 + signal where it was killed.
    pub status: i32,
    /// Standard output, at most the cap.
    pub stdout: String,
    /// Standard error, at most the cap.
    #[serde(default)]
    pub stderr: String,
    /// More was printed than kept.
    #[serde(default)]
    pub truncated: bool,
}

impl Output {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output read as JSON.
    pub fn json(&self, what: &str) -> Result<serde_json::Value, HostError> {
        serde_json::from_str(&self.stdout).map_err(|error| HostError::Garbage {
            what: what.to_owned(),
            why: if self.truncated { "more output than is read".to_owned() } else { format!("no JSON: {error}") },
        })
    }

    /// The first line of standard error, else of standard output, for a message.
    pub fn first_line(&self) -> &str {
        let line = |text| str::lines(text).map(str::trim).find(|line| !line.is_empty());
        line(&self.stderr).or_else(|| line(&self.stdout)).unwrap_or("no output")
    }
}

impl Host {
    /// Whether a program is installed; on a recorded machine, whether it has any answer.
    pub fn has(&self, program: &str) -> bool {
        match &self.programs {
            Programs::Live => find(program).is_ok_and(|path| path.is_file()),
            Programs::Recorded(answers) => answers.keys().any(|line| line.split(' ').next() == Some(program)),
        }
    }

    /// Runs a program to its end or its deadline; then its whole process group is killed.
    ///
    /// A non-zero status is an [`Output`], not an error.
    pub async fn run(&self, cmd: Cmd) -> Result<Output, HostError> {
        let line = cmd.line();
        match &self.programs {
            Programs::Live => run_live(cmd).await,
            Programs::Recorded(answers) => answers
                .get(&line)
                .cloned()
                .ok_or_else(|| HostError::Missing(cmd.argv.first().cloned().unwrap_or_default())),
        }
    }

    /// Runs a program that must succeed.
    pub async fn run_ok(&self, cmd: Cmd) -> Result<Output, HostError> {
        let what = cmd.line();
        let output = self.run(cmd).await?;
        if output.success() {
            return Ok(output);
        }
        let why = format!("exit {}: {}", output.status, output.first_line());
        Err(HostError::Io { what, why })
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
async fn run_live(cmd: Cmd) -> Result<Output, HostError> {
    let Some((program, args)) = cmd.argv.split_first() else {
        return Err(HostError::Missing("a program to run (argv is empty)".to_owned()));
    };
    let mut child = tokio::process::Command::new(find(program)?)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .env("HOME", "/root")
        .envs(cmd.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&cmd.dir)
        .stdin(if cmd.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| HostError::from_io(program, &error))?;
    let group = KillGroup(child.id());
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut pipe), Some(bytes)) = (stdin, cmd.stdin.as_deref()) {
            // A program that does not read its input still gives an answer.
            pipe.write_all(bytes).await.ok();
        }
    };
    let (mut out, mut err) = (Kept::new(cmd.cap), Kept::new(cmd.cap));
    let status = {
        let mut talk = std::pin::pin!(async { tokio::join!(feed, out.drain(stdout), err.drain(stderr)) });
        let mut said_all = false;
        let end = async {
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    // It closed its streams and goes on.
                    _ = &mut talk, if !said_all => said_all = true,
                }
            }
        };
        let Ok(status) = tokio::time::timeout(cmd.timeout, end).await else {
            drop(group);
            return Err(HostError::Timeout { what: program.clone(), seconds: cmd.timeout.as_secs() });
        };
        // Nothing it started outlives it; what left its group may hold the streams for ever, and is not waited for.
        drop(group);
        if !said_all {
            tokio::time::timeout(REST, talk).await.ok();
        }
        status.map_err(|error| HostError::from_io(program, &error))?
    };
    Ok(Output {
        status: exit_code(status),
        truncated: out.truncated || err.truncated,
        stdout: String::from_utf8_lossy(&out.bytes).into_owned(),
        stderr: String::from_utf8_lossy(&err.bytes).into_owned(),
    })
}

/// Kills everything the program started, when it is over or given up.
struct KillGroup(Option<u32>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        let pid = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // The group is usually gone already; that is what we want.
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

fn find(program: &str) -> Result<std::path::PathBuf, HostError> {
    if program.starts_with('/') {
        return Ok(program.into());
    }
    PATH.split(':')
        .map(|dir| std::path::Path::new(dir).join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| HostError::Missing(program.to_owned()))
}

/// What a program printed: read to the end, kept up to a cap, so that a gigabyte neither blocks nor fills memory.
struct Kept {
    bytes: Vec<u8>,
    truncated: bool,
    cap: usize,
}

impl Kept {
    fn new(cap: usize) -> Self {
        Self { bytes: Vec::new(), truncated: false, cap }
    }

    async fn drain(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0_u8; 16 * 1024];
        loop {
            match pipe.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    let room = self.cap.saturating_sub(self.bytes.len());
                    self.bytes.extend(chunk.iter().take(read.min(room)));
                    self.truncated |= read > room;
                }
            }
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_runtime<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_program_answers_with_its_status_and_streams() {
        let output =
            on_runtime(Host::live().run(Cmd::new(["sh", "-c", "cat; echo err >&2; exit 3"]).stdin("hello"))).unwrap();
        assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (3, "hello", "err\n"));
    }

    #[test]
    fn a_gigabyte_is_read_and_not_kept() {
        let cmd = Cmd::new(["head", "-c", "1G", "/dev/zero"]).cap(1000);
        let output = on_runtime(Host::live().run(cmd)).unwrap();
        assert_eq!((output.stdout.len(), output.truncated), (1000, true));
    }

    #[test]
    fn a_hanging_program_and_its_children_are_killed_at_the_deadline() {
        let mark = format!("31{}", std::process::id());
        let cmd = Cmd::new(["sh", "-c", &format!("sleep {mark} & sleep {mark}")]).timeout(Duration::from_millis(300));
        let error = on_runtime(Host::live().run(cmd)).unwrap_err();
        assert_eq!(error.kind(), crate::domain::finding::ProblemKind::Timeout);
        let left = on_runtime(Host::live().run(Cmd::new(["pgrep", "-f", &format!("^sleep {mark}$")]))).unwrap();
        assert_eq!(left.stdout, "", "children must not outlive their group");
    }

    /// A daemon it leaves behind holds its streams open: it has answered all the same.
    #[test]
    fn a_program_that_ended_is_not_waited_for_because_of_what_it_left_behind() {
        let mark = format!("27{}", std::process::id());
        let cmd = Cmd::new(["sh", "-c", &format!("echo done; setsid sleep {mark} & exit 0")]);
        let begun = tokio::time::Instant::now();
        let output = on_runtime(Host::live().run(cmd.timeout(Duration::from_secs(25)))).unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (0, "done\n"));
        assert!(begun.elapsed() < Duration::from_secs(20));
        on_runtime(Host::live().run(Cmd::new(["pkill", "-f", &format!("^sleep {mark}$")]))).unwrap();
    }

    #[test]
    fn a_missing_program_is_missing() {
        assert_eq!(
            on_runtime(Host::live().run(Cmd::new(["no-such-tool"]))),
            Err(HostError::Missing("no-such-tool".into()))
        );
    }
}
