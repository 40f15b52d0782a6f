//! Backup repositories of restic and borg, asked directly: what a status file says is not evidence.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::borg;
use crate::checks::run::Context;
use crate::host::{Cmd, Host, HostError, Output, Secrets, env_file_variables};

const LIST_CAP: usize = 64 * 1024 * 1024;

/// A configured repository.
#[derive(Debug)]
pub(super) struct Repository<'a> {
    host: &'a Host,
    tool: Tool,
    location: &'a str,
    /// Whose snapshots count: somebody else's are no backup of this machine.
    machine: String,
    env: Vec<(String, String)>,
    /// What its programs may say and nobody may see.
    secrets: Secrets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Restic,
    Borg,
}

/// One snapshot (borg: archive).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) time: Timestamp,
    /// What it holds; `None` where the tool does not say.
    pub(super) paths: Option<Vec<String>>,
    pub(super) encrypted: bool,
    /// Snapshots of one series are of the same things: machine and paths (borg: the name without its digits).
    pub(super) series: String,
    /// How much it holds; `None` where the list does not say.
    pub(super) size: Option<Size>,
}

/// The snapshots that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The newest of each series, newest first.
    pub(super) snapshots: Vec<Snapshot>,
    /// How many of those looked at are dated in the future.
    pub(super) ahead: usize,
}

/// Snapshots of each series that are looked at.
const LOOKED_AT: &str = "10";
/// borg knows no series: so many archives of all machines together are looked at.
const ARCHIVES: &str = "100";
const NAME: &str = "/proc/sys/kernel/hostname";
/// How restic says that it found damage, and not that it could not look.
const DAMAGED: &[&str] = &["contains errors", "is damaged"];
/// A snapshot may be dated ahead of now by this much, as clocks are set.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(10);

/// How much a snapshot holds: bytes as restored, and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// One file in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Absolute.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) modified: Option<Timestamp>,
}

impl<'a> Repository<'a> {
    /// The repository of the settings; `None` where none is configured.
    pub(super) fn configured(context: Context<'a>) -> Result<Option<Self>, HostError> {
        let Some(location) = context.text("repository") else { return Ok(None) };
        let tool = if context.text("tool") == Some("borg") { Tool::Borg } else { Tool::Restic };
        let mut env = match context.text("env_file") {
            Some(path) => env_file_variables(&context.host.read(path)?),
            None => Vec::new(),
        };
        let values = env.iter().map(|(_, value)| value.clone()).chain([location.to_owned()]);
        let secrets = Secrets::new(values);
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        // The location may hold credentials and the password must not be seen: neither is an argument.
        match tool {
            Tool::Restic => set("RESTIC_REPOSITORY", location),
            Tool::Borg => {
                for (name, value) in
                    [("BORG_REPO", location), ("BORG_RELOCATED_REPO_ACCESS_IS_OK", "no"), ("TZ", "UTC")]
                {
                    set(name, value);
                }
            }
        }
        if let Some(file) = context.text("password_file") {
            context.host.stat(file)?;
            let real = context.host.path(file).display().to_string();
            match tool {
                Tool::Restic => set("RESTIC_PASSWORD_FILE", &real),
                Tool::Borg => set("BORG_PASSCOMMAND", &format!("cat {real}")),
            }
        }
        let machine = match context.text("machine") {
            Some(machine) => machine.to_owned(),
            None => context.host.read(NAME)?.trim().to_owned(),
        };
        Ok(Some(Self { host: context.host, tool, location, machine, env, secrets }))
    }

    /// What is known about it without opening it.
    pub(super) fn fact(&self) -> Result<Value, HostError> {
        let marker = match self.tool {
            Tool::Restic | Tool::Borg if !self.location.starts_with('/') => None,
            Tool::Restic | Tool::Borg => Some(format!("{}/config", self.location)),
        };
        let present = match marker {
            // A remote one shows only when it is asked.
            None => true,
            Some(path) => match self.host.stat(&path) {
                Ok(_) => true,
                Err(HostError::Missing(_)) => false,
                Err(error) => return Err(error),
            },
        };
        let tool = match self.tool {
            Tool::Restic => "restic",
            Tool::Borg => "borg",
        };
        Ok(json!({"tool": tool, "present": present, "remote": !self.location.starts_with('/')}))
    }

    /// The newest snapshot of each series that is not dated ahead of `now`, newest first, and how many are.
    ///
    /// One made by a wrong clock would hide for years that no more are made.
    pub(super) async fn snapshots(&self, now: Timestamp) -> Result<Listed, HostError> {
        let args: &[&str] = match self.tool {
            Tool::Restic => &["snapshots", "--json", "--latest", LOOKED_AT, "--host", &self.machine],
            Tool::Borg => &["list", "--json", "--last", ARCHIVES, "--format", "{hostname}{command_line}"],
        };
        let answer = self.ask(args, Duration::from_secs(90)).await?.json(self.word())?;
        let read = match self.tool {
            Tool::Restic => answer.as_array().and_then(|list| list.iter().map(restic_snapshot).collect()),
            Tool::Borg => borg::archives(&answer, &self.machine),
        };
        let mut all: Vec<Snapshot> = read.ok_or_else(|| self.garbage("not a list of snapshots"))?;
        all.sort_by(|a, b| (b.time, &b.id).cmp(&(a.time, &a.id)));
        let (past, ahead): (Vec<Snapshot>, Vec<Snapshot>) =
            all.into_iter().partition(|snapshot| snapshot.time.duration_since(now) <= CLOCKS_DIFFER);
        if past.is_empty() && !ahead.is_empty() {
            return Err(self.garbage("every backup is dated in the future, so nobody knows how old they are"));
        }
        let mut seen = BTreeSet::new();
        let snapshots = past.into_iter().filter(|snapshot| seen.insert(snapshot.series.clone())).collect();
        Ok(Listed { snapshots, ahead: ahead.len() })
    }

    /// How much a snapshot holds, by walking it.
    pub(super) async fn size(&self, snapshot: &Snapshot, patience: Duration) -> Result<Size, HostError> {
        let archive = format!("::{}", snapshot.id);
        let args: &[&str] = match self.tool {
            Tool::Restic => &["stats", "--json", "--mode", "restore-size", &snapshot.id],
            Tool::Borg => &["info", "--json", &archive],
        };
        let answer = self.ask(args, patience).await?.json(self.word())?;
        let found = match self.tool {
            Tool::Restic => size(&answer, "total_size", "total_file_count"),
            Tool::Borg => answer.pointer("/archives/0/stats").and_then(|said| size(said, "original_size", "nfiles")),
        };
        found.ok_or_else(|| self.garbage("no size in the answer"))
    }

    /// Checks the repository itself, and reads `part` of `parts` of its data: whether it is sound.
    ///
    /// borg reads what it can in ten minutes and goes on there next time. It takes the repository's lock: without it a
    /// backup that is being made would look like damage.
    pub(super) async fn check(&self, part: i64, parts: i64, patience: Duration) -> Result<bool, HostError> {
        let share = format!("--read-data-subset={part}/{parts}");
        let runs: &[&[&str]] = match self.tool {
            Tool::Restic if parts == 0 => &[&["check"]],
            Tool::Restic => &[&["check", &share]],
            Tool::Borg if parts == 0 => &[&["check", "--archives-only", "--last", "1"]],
            Tool::Borg => &[
                &["check", "--repository-only", "--max-duration", "600"],
                &["check", "--archives-only", "--last", "1"],
            ],
        };
        for args in runs {
            let output = match self.tool {
                Tool::Restic => self.run(&[&["restic", "--no-lock", "--no-cache"], *args].concat(), patience).await?,
                Tool::Borg => self.run(&[&["borg", "--lock-wait", "60"], *args].concat(), patience).await?,
            };
            match (self.tool, output.status) {
                (Tool::Restic | Tool::Borg, 0) => {}
                // It opened the repository, and what it found is wrong with it.
                (Tool::Restic, 1) if DAMAGED.iter().any(|word| output.stderr.contains(word)) => return Ok(false),
                (Tool::Borg, 1) => return Ok(false),
                (Tool::Restic | Tool::Borg, _) => return Err(self.trouble(&output)),
            }
        }
        Ok(true)
    }

    /// Regular files in a snapshot; of a very large one only the first part.
    pub(super) async fn files(&self, snapshot: &Snapshot) -> Result<Vec<Entry>, HostError> {
        let archive = format!("::{}", snapshot.id);
        let args: &[&str] = match self.tool {
            Tool::Restic => &["ls", "--json", &snapshot.id],
            Tool::Borg => &["list", "--json-lines", &archive],
        };
        let output = self.ask(args, Duration::from_mins(10)).await?;
        let mut files = Vec::new();
        for line in output.stdout.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(node) => files.extend(self.entry(&node)),
                Err(_) if output.truncated => break,
                Err(_) => return Err(self.garbage("a line of the file list is no JSON")),
            }
        }
        Ok(files)
    }

    /// Restores some files below a directory of ours; the status is the tool's answer.
    pub(super) async fn restore(&self, snapshot: &Snapshot, files: &[Entry], into: &Path) -> Result<Output, HostError> {
        let target = into.display().to_string();
        let mut argv: Vec<String> = match self.tool {
            Tool::Restic => ["restic", "--no-lock", "--no-cache", "restore", &snapshot.id, "--target", &target]
                .map(Into::into)
                .into(),
            Tool::Borg => ["borg", "--bypass-lock", "extract", &format!("::{}", snapshot.id)].map(Into::into).into(),
        };
        for file in files {
            match self.tool {
                Tool::Restic => argv.extend(["--include".to_owned(), escape(&file.path)]),
                Tool::Borg => argv.push(format!("pp:{}", file.path.trim_start_matches('/'))),
            }
        }
        self.host.run(self.with_env(Cmd::new(argv)).dir(into).timeout(Duration::from_mins(25))).await
    }

    fn entry(&self, node: &Value) -> Option<Entry> {
        let text = |key: &str| node.get(key).and_then(Value::as_str);
        let (regular, time) = match self.tool {
            Tool::Restic => ("file", text("mtime")?.parse().ok()),
            Tool::Borg => ("-", borg::utc(text("mtime")?)),
        };
        let path = text("path")?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        (text("type") == Some(regular)).then_some(Entry { path, size: node.get("size")?.as_u64()?, modified: time })
    }

    /// Asks without a lock: reading must not stand in the way of a backup.
    async fn ask(&self, args: &[&str], patience: Duration) -> Result<Output, HostError> {
        let how: &[&str] = match self.tool {
            Tool::Restic => &["restic", "--no-lock", "--no-cache"],
            Tool::Borg => &["borg", "--bypass-lock"],
        };
        let output = self.run(&[how, args].concat(), patience).await?;
        if output.success() { Ok(output) } else { Err(self.trouble(&output)) }
    }

    async fn run(&self, argv: &[&str], patience: Duration) -> Result<Output, HostError> {
        let cmd = self.with_env(Cmd::new(argv.iter().copied())).cap(LIST_CAP).timeout(patience);
        self.host.run(cmd).await
    }

    /// Why the tool ended as it did, without what nobody may see.
    fn trouble(&self, output: &Output) -> HostError {
        let why = format!("exit {}: {}", output.status, output.first_line()).replace(self.location, "the repository");
        HostError::Io { what: self.word().to_owned(), why: self.secrets.hide(&why) }
    }

    fn with_env(&self, cmd: Cmd) -> Cmd {
        self.env.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value.clone()))
    }

    fn word(&self) -> &'static str {
        match self.tool {
            Tool::Restic => "restic",
            Tool::Borg => "borg",
        }
    }

    fn garbage(&self, why: &str) -> HostError {
        HostError::Garbage { what: self.word().to_owned(), why: why.to_owned() }
    }
}

fn size(value: &Value, bytes: &str, files: &str) -> Option<Size> {
    let number = |key: &str| value.get(key).and_then(Value::as_u64);
    Some(Size { bytes: number(bytes)?, files: number(files)? })
}

fn restic_snapshot(value: &Value) -> Option<Snapshot> {
    let paths: Option<Vec<String>> =
        value.get("paths")?.as_array()?.iter().map(|path| path.as_str().map(str::to_owned)).collect();
    let mut named = paths.clone().unwrap_or_default();
    named.sort();
    let machine = value.get("hostname").and_then(Value::as_str).unwrap_or_default();
    Some(Snapshot {
        series: cut(&format!("{machine}: {}", named.join(", "))),
        // Since restic 0.17.
        size: value.get("summary").and_then(|said| size(said, "total_bytes_processed", "total_files_processed")),
        id: value.get("id")?.as_str()?.to_owned(),
        time: value.get("time")?.as_str()?.parse().ok()?,
        paths,
        // restic knows no unencrypted repository.
        encrypted: true,
    })
}

/// A name is no place to keep a book.
pub(super) fn cut(name: &str) -> String {
    name.chars().take(300).collect()
}

/// A path as restic's patterns take it literally.
fn escape(path: &str) -> String {
    path.chars().fold(String::new(), |mut text, character| {
        if matches!(character, '\\' | '*' | '?' | '[' | ']') {
            text.push('\\');
        }
        text.push(character);
        text
    })
}
