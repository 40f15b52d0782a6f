//! Real PostgreSQL, Redis and S3 servers on free loopback ports, started for one test and ended with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::skip::skipped;

/// Servers of one test.
pub(crate) struct Peers {
    dir: TempDir,
    env: BTreeMap<String, String>,
    /// What they were started with, for a restart.
    switches: Vec<(String, String)>,
}

impl Peers {
    /// Starts `pg`, `redis`, `s3`; `None`, with the reason noted, where one cannot be had here.
    pub(crate) fn start(names: &[&str]) -> Option<Self> {
        Self::start_with(names, &[])
    }

    pub(crate) fn start_with(names: &[&str], env_given: &[(&str, &str)]) -> Option<Self> {
        installed(names)?;
        let dir = tempfile::Builder::new().prefix("malachor-peers-").tempdir().unwrap();
        let mut command = script();
        command.args(["start", "-d"]).arg(dir.path()).args(names).envs(env_given.iter().copied());
        let started = command.output().unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        let env = read_env(&dir.path().join("env"));
        let switches = env_given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Some(Self { dir, env, switches })
    }

    /// A variable the servers are reached by.
    pub(crate) fn var(&self, name: &str) -> &str {
        self.env.get(name).unwrap_or_else(|| panic!("{name} is not set; there are {:?}", self.env.keys()))
    }

    /// The test authority that signed every server's certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("tls/ca.pem")
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.ca()).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        roots
    }

    /// `kill`, `pause`, `resume` or `restart` one of them; ports and data stay.
    pub(crate) fn tell(&self, what: &str, name: &str) {
        let told = script()
            .args([what, "-d"])
            .arg(self.dir.path())
            .arg(name)
            .envs(self.switches.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        assert!(told.status.success(), "{what} {name}: {}", String::from_utf8_lossy(&told.stderr));
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        script().args(["clean", "-d"]).arg(self.dir.path()).output().ok();
    }
}

/// Installs what is missing; `None`, with the reason noted, where it cannot be had here.
fn installed(names: &[&str]) -> Option<()> {
    let installed = script().arg("install").args(names).output().unwrap();
    if installed.status.success() {
        return Some(());
    }
    let why = String::from_utf8_lossy(&installed.stderr).lines().last().unwrap_or("no reason").to_owned();
    skipped(&names.join(", "), &format!("cannot be installed here: {why}"));
    None
}

/// The program `schemathesis`; `None`, with the reason noted, where it cannot be had here.
pub(crate) fn schemathesis() -> Option<Command> {
    installed(&["schemathesis"])?;
    let path = script().args(["where", "schemathesis"]).output().unwrap().stdout;
    Some(Command::new(String::from_utf8(path).unwrap().trim()))
}

fn script() -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/services.sh"));
    command
}

/// `export NAME=value` lines, as bash would read them.
fn read_env(path: &Path) -> BTreeMap<String, String> {
    let shown = Command::new("bash").args(["-c", ". \"$1\" && env -0", "bash"]).arg(path).env_clear().output().unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}
