//! A booted lab as a value: made by `lab.sh up`, powered off and removed when dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ring::digest;

use crate::skip::skipped;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab.sh");

/// What `lab.sh` exits with where no lab can be had.
const IMPOSSIBLE: i32 = 77;

/// Where the binary stands in a lab.
const BINARY: &str = "/usr/local/bin/malachor";

/// Parts of the tree that a host changes by itself.
const VOLATILE: &[&str] = &["/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/lib/systemd"];

/// A running host of its own: file system, processes and network.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: PathBuf,
    root: PathBuf,
}

impl Lab {
    /// Boots a fresh lab, in about a second once the root is prepared.
    ///
    /// `None`, with the reason printed, where this machine cannot have one; a failure if `MALACHOR_REQUIRE_LAB=1`.
    pub(crate) fn boot(name: &str) -> Option<Self> {
        script(&["sweep"]);
        let dir = cache().join("run").join(format!("{name}-{}", std::process::id()));
        let up = Command::new(SCRIPT)
            .args(["up", &dir.to_string_lossy()])
            .env("MALACHOR_LAB_OWNER", std::process::id().to_string())
            .output()
            .expect("lab.sh starts");
        let said = String::from_utf8_lossy(&up.stderr).trim().to_owned();
        match up.status.code() {
            Some(0) => {}
            Some(IMPOSSIBLE) if std::env::var("MALACHOR_REQUIRE_LAB").as_deref() != Ok("1") => {
                skipped(&format!("lab {name}"), &said);
                return None;
            }
            Some(_) | None => panic!("{said}"),
        }
        let leader = String::from_utf8_lossy(&up.stdout).trim().to_owned();
        Some(Self { dir, root: Path::new("/proc").join(leader).join("root") })
    }

    /// Runs a command inside, as root, with a small clean environment, and waits for it.
    pub(crate) fn run(&self, argv: &[&str]) -> Output {
        self.command(argv).output().expect("lab.sh starts")
    }

    /// A command inside that has not been started: to feed it input or to leave it running.
    pub(crate) fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        command.arg("exec").arg(&self.dir).arg("--").args(argv).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn ok(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{argv:?} failed with {}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, path: &str, text: &str, mode: u32) {
        let mut given = tempfile::tempfile().expect("a temporary file can be made");
        given.write_all(text.as_bytes()).and_then(|()| given.rewind()).expect("it can be written");
        self.install(given, path, mode);
    }

    /// Reads a file.
    pub(crate) fn read(&self, path: &str) -> String {
        self.ok(&["cat", path])
    }

    /// Copies the built program in, with a configuration that names the appliance; returns its path there.
    pub(crate) fn install_binary(&self) -> &'static str {
        self.install(File::open(env!("CARGO_BIN_EXE_malachor")).expect("the binary is built"), BINARY, 0o755);
        self.write("/etc/malachor/config.toml", "[site]\nid = \"clinic\"\n", 0o644);
        BINARY
    }

    /// Goes through the lab's own root, never through its files from outside: a link in it could lead out.
    fn install(&self, from: File, to: &str, mode: u32) {
        let done = self.command(&["install", "-D", "-m", &format!("{mode:o}"), "/dev/stdin", to]).stdin(from).output();
        let done = done.expect("lab.sh starts");
        assert!(done.status.success(), "{to}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// The state of the host: mode, owner and digest of every file, and the state of every service, socket and timer.
    ///
    /// Left out is what a host changes by itself: `/proc`, `/run`, temporary files, logs.
    pub(crate) fn snapshot(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        walk(&self.root, Path::new("/"), &mut state);
        let units = self.ok(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "--full"]);
        for unit in units.lines() {
            let mut words = unit.split_whitespace();
            let Some(name) = words.next() else { continue };
            if [".service", ".socket", ".timer"].iter().any(|kind| name.ends_with(kind)) && !name.starts_with("run-") {
                state.insert(format!("unit {name}"), words.take(3).collect::<Vec<_>>().join(" "));
            }
        }
        state.insert("nftables".into(), self.ok(&["nft", "--stateless", "list", "ruleset"]));
        state
    }

    /// What differs between two snapshots.
    pub(crate) fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
        let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        all.into_iter().filter(|what| before.get(*what) != after.get(*what)).cloned().collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        script(&["down", &self.dir.to_string_lossy()]);
    }
}

fn script(args: &[&str]) {
    let done = Command::new(SCRIPT).args(args).output().expect("lab.sh starts");
    if !done.status.success() {
        eprintln!("lab.sh {args:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
}

fn cache() -> PathBuf {
    std::env::var_os("MALACHOR_LAB_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/malachor-lab"),
        PathBuf::from,
    )
}

fn walk(root: &Path, folder: &Path, state: &mut BTreeMap<String, String>) {
    let outside = root.join(folder.strip_prefix("/").unwrap_or(folder));
    for entry in fs::read_dir(&outside).into_iter().flatten().flatten() {
        let path = folder.join(entry.file_name());
        let Ok(about) = entry.metadata() else { continue };
        if VOLATILE.iter().any(|volatile| path == Path::new(volatile)) {
            continue;
        }
        let content = if about.is_dir() {
            walk(root, &path, state);
            "folder".to_owned()
        } else if about.is_symlink() {
            fs::read_link(entry.path()).map(|to| to.display().to_string()).unwrap_or_default()
        } else if about.is_file() {
            fs::read(entry.path()).map(|bytes| fingerprint(&bytes)).unwrap_or_default()
        } else {
            "special".to_owned()
        };
        state.insert(path.display().to_string(), format!("{} {content}", ownership(&about)));
    }
}

fn ownership(about: &fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    format!("{:o} {}:{}", about.mode(), about.uid(), about.gid())
}

fn fingerprint(bytes: &[u8]) -> String {
    format!("{:?}", digest::digest(&digest::SHA256, bytes))
}
