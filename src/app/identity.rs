//! Who this appliance is: its keys, the name of its log, the pseudonym of its host.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::Site;
use crate::crypto::keys::{KeyName, PrivateKey, VerifierKey};
use crate::crypto::{hex, sha256_hex};
use crate::domain::entry::{EntryDraft, SealContext, Subject};
use crate::host::Host;
use crate::phi::Scrubber;
use crate::store::DATABASE;
use crate::store::log::{LogWriter, genesis_draft};

use super::AppError;

/// The keys and names of one appliance.
#[derive(Debug)]
pub struct Identity {
    origin: KeyName,
    entry: PrivateKey,
    head: PrivateKey,
    recovery: Option<VerifierKey>,
    site_key: [u8; 32],
    dir: PathBuf,
    subject: String,
    boot: String,
    binary_sha256: OnceLock<Option<String>>,
}

/// Files of a state directory's `keys` folder.
const ENTRY: &str = "entry.pem";
const HEAD: &str = "head.pem";
const SITE: &str = "site.key";
const RECOVERY: &str = "recovery.vkey";
/// There from the making of the keys until their log has begun.
const NO_LOG_YET: &str = "no-log-yet";
/// Where keys are made before they are the appliance's.
const UNFINISHED: &str = "keys.new";

/// The folder of a state directory that holds its keys.
pub fn keys_dir(state: &Path) -> PathBuf {
    state.join("keys")
}

/// Makes the keys of a new appliance; existing ones are never replaced.
///
/// With `recovery` the offline recovery key's private part is written there, to be kept away from the appliance, and
/// its public part enters the genesis.
pub fn init(state: &Path, site: &Site, recovery: Option<&Path>) -> Result<(), AppError> {
    super::prepare_dir(state)?;
    let finished = keys_dir(state);
    if finished.exists() {
        return Err(failed(&finished, "is there already; keys are never made anew"));
    }
    let log = state.join(DATABASE);
    if log.exists() {
        return Err(failed(&log, "is a log without its keys; restore the keys, they are never made anew"));
    }
    // All or nothing: what a crash leaves unfinished is no appliance yet and is made again.
    let dir = state.join(UNFINISHED);
    remove_unfinished(&dir).map_err(|error| failed(&dir, &error.to_string()))?;
    let origin: KeyName = site.origin().parse()?;
    if let Some(path) = recovery {
        let key = PrivateKey::generate()?;
        key.create(path)?;
        let vkey = VerifierKey::ed25519(format!("{origin}/recovery").parse()?, key.public());
        write_public(&dir, RECOVERY, &format!("{vkey}\n"))?;
    }
    for (file, suffix) in [(ENTRY, "/entry"), (HEAD, "")] {
        let key = PrivateKey::generate()?;
        key.create(&dir.join(file))?;
        let vkey = VerifierKey::ed25519(format!("{origin}{suffix}").parse()?, key.public());
        write_public(&dir, &file.replace(".pem", ".vkey"), &format!("{vkey}\n"))?;
        write_public(&dir, &file.replace(".pem", ".pub.pem"), &key.public().to_spki_pem())?;
    }
    let mut secret = [0_u8; 32];
    let rng = SystemRandom::new();
    rng.fill(&mut secret).map_err(|_| failed(&dir.join(SITE), "the system gave no randomness"))?;
    write_new(&dir.join(SITE), hex(&secret).as_bytes(), 0o600)?;
    write_new(&dir.join(NO_LOG_YET), b"", 0o600)?;
    let sync = |dir: &Path| std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    let publish = || sync(&dir).and_then(|()| std::fs::rename(&dir, &finished)).and_then(|()| sync(state));
    publish().map_err(|error| failed(&finished, &error.to_string()))
}

fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether [`init`] has been here.
pub fn exists(state: &Path) -> bool {
    keys_dir(state).join(SITE).exists()
}

impl Identity {
    /// Reads the keys; says how to make them where there are none.
    pub fn open(state: &Path, site: &Site, host: &Host) -> Result<Self, AppError> {
        let dir = keys_dir(state);
        if !exists(state) {
            return Err(failed(&dir, "holds no keys; run `malachor keys init`"));
        }
        let origin: KeyName = site.origin().parse()?;
        let site_key = std::fs::read_to_string(dir.join(SITE))
            .ok()
            .and_then(|text| crate::crypto::unhex::<32>(text.trim()))
            .ok_or_else(|| failed(&dir.join(SITE), "is not 64 hexadecimal digits"))?;
        let recovery = match std::fs::read_to_string(dir.join(RECOVERY)) {
            Ok(text) => Some(text.trim().parse()?),
            Err(_) => None,
        };
        let made_for = std::fs::read_to_string(dir.join("head.vkey")).ok();
        let made_for = made_for.and_then(|text| text.trim().parse::<VerifierKey>().ok()).map(|vkey| vkey.name);
        if let Some(made_for) = made_for.filter(|name| *name != origin) {
            let why = format!(
                "holds the keys of {made_for}, but [site] now names {origin}; a log keeps its name for ever: put it back, or give \
                 a new appliance its own state_dir"
            );
            return Err(failed(&dir, &why));
        }
        let name = host.read("/proc/sys/kernel/hostname").unwrap_or_default();
        let subject = format!("malachor:{}/host/{}", site.id, pseudonym(&site_key, name.trim()));
        Ok(Self {
            origin,
            entry: PrivateKey::load(&dir.join(ENTRY))?,
            head: PrivateKey::load(&dir.join(HEAD))?,
            recovery,
            site_key,
            dir,
            subject,
            boot: host.read("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            binary_sha256: OnceLock::new(),
        })
    }

    /// Whether these keys may begin a log: once, after they were made. Later an empty log is a lost one.
    pub fn may_begin_log(&self) -> bool {
        self.dir.join(NO_LOG_YET).exists()
    }

    /// The log has begun.
    pub fn log_begun(&self) -> Result<(), AppError> {
        let path = self.dir.join(NO_LOG_YET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&path, &error.to_string())),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Name of this appliance's log.
    pub fn origin(&self) -> &KeyName {
        &self.origin
    }

    /// What statements about this host are about; the host's name does not leave.
    pub fn subject(&self) -> String {
        self.subject.clone()
    }

    /// A commitment to some bytes: SHA-256 over a key of this appliance and them.
    ///
    /// What was committed to can be proven later by showing both; from the digest alone nobody can try out guesses, as
    /// anybody could with a bare SHA-256 of something short.
    pub fn commit(&self, bytes: &[u8]) -> String {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.site_key), b"malachor/subject/v1");
        sha256_hex(&[b"malachor/subject/v1\n", key.as_ref(), bytes].concat())
    }

    /// SHA-256 of the running program, in hexadecimal; `None` where it cannot be read.
    ///
    /// Read when first asked for: a program that only shows something does not wait for it.
    pub fn binary_sha256(&self, host: &Host) -> Option<&str> {
        self.binary_sha256.get_or_init(|| host.digest("/proc/self/exe").ok().map(|(sha256, _)| sha256)).as_deref()
    }

    /// The public keys: for entries, for heads, and the offline recovery key.
    pub fn public(&self) -> Result<(VerifierKey, VerifierKey, Option<VerifierKey>), AppError> {
        let entry = VerifierKey::ed25519(format!("{}/entry", self.origin).parse()?, self.entry.public());
        let head = VerifierKey::ed25519(self.origin.clone(), self.head.public());
        Ok((entry, head, self.recovery.clone()))
    }

    /// Signs bytes with the entry key and with the head key: proof of possession at enrolment.
    pub fn sign_both(&self, bytes: &[u8]) -> ([u8; 64], [u8; 64]) {
        (self.entry.sign(bytes), self.head.sign(bytes))
    }

    /// Lends the entry key to whoever signs something of this appliance's that is no entry.
    pub fn sign_with_entry<T>(&self, sign: impl FnOnce(&PrivateKey) -> T) -> T {
        sign(&self.entry)
    }

    /// The one that seals statements.
    pub fn log_writer(&self) -> Result<LogWriter, AppError> {
        let copy = |key: &PrivateKey| PrivateKey::from_pkcs8_pem(&key.to_pkcs8_pem());
        LogWriter::new(self.origin.clone(), copy(&self.entry)?, copy(&self.head)?)
            .map_err(|error| AppError::Store(error.into()))
    }

    /// The first statement of the log.
    pub fn genesis(&self) -> Result<EntryDraft, AppError> {
        let (entry, head, recovery) = self.public()?;
        let subject = Subject { name: self.subject(), sha256: sha256_hex(entry.to_string().as_bytes()) };
        Ok(genesis_draft(subject, (&entry, &head), recovery.as_ref()))
    }

    /// Detectors whose tags are comparable within this site.
    pub fn scrubber(&self) -> Scrubber {
        Scrubber::new(derive(&self.site_key, b"malachor/phi/v1"))
    }

    /// What is added to every statement sealed now.
    pub fn seal_context(&self, host: &Host, now: Timestamp) -> SealContext {
        let uptime = host.read("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split('.').next().and_then(|whole| whole.parse::<u64>().ok()).unwrap_or(0);
        SealContext {
            now,
            boot: self.boot.clone(),
            mono_ms: seconds.saturating_mul(1000),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_sha256: self.binary_sha256(host).unwrap_or_default().to_owned(),
        }
    }
}

/// A name for a host that only this site can recompute.
fn pseudonym(site_key: &[u8; 32], name: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &derive(site_key, b"malachor/host/v1")), name.as_bytes());
    hex(tag.as_ref().get(..8).unwrap_or_default())
}

/// A key for one purpose.
fn derive(site_key: &[u8; 32], purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, site_key), purpose).as_ref());
    key
}

fn write_public(dir: &Path, name: &str, text: &str) -> Result<(), AppError> {
    write_new(&dir.join(name), text.as_bytes(), 0o644)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AppError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let io = |error: &std::io::Error| failed(path, &error.to_string());
    if let Some(dir) = path.parent() {
        super::prepare_dir(dir)?;
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| io(&error))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| io(&error))
}

fn failed(path: &Path, why: &str) -> AppError {
    AppError::State { path: path.to_owned(), why: why.to_owned() }
}
