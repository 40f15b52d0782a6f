//! The server's signing keys: one with which it witnesses logs, and one for orders, with the next one beside it while a
//! rotation lasts. Both are announced, and each appliance gets orders by the newest it is known to hold.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::authority::CA;
use crate::crypto::dsse;
use crate::crypto::jcs;
use crate::crypto::keys::{KeyError, PrivateKey, SignatureType, VerifierKey};
use crate::domain::bundle::ORDER_KEYS;
use crate::host::FileLock;

const ORDER: &str = "order.pem";
const NEXT: &str = "order-next.pem";
const WITNESS: &str = "witness.pem";

/// What the server signs with.
#[derive(Debug)]
pub struct ServerKeys {
    /// Oldest first; one, or two while a rotation lasts.
    orders: Vec<(PrivateKey, VerifierKey)>,
    witness: PrivateKey,
    witness_public: VerifierKey,
}

impl ServerKeys {
    /// Reads the keys of a folder, or makes them on the first start, which is before the authority is there: appliances
    /// know the keys it came with, and others in their place would be trusted by nobody.
    pub fn open(dir: &Path, operator_domain: &str) -> Result<Self, KeyError> {
        if !dir.join(CA).exists() {
            for file in [WITNESS, ORDER] {
                make(&dir.join(file))?;
            }
        }
        Self::read(dir, operator_domain)
    }

    /// Reads the keys of a folder; a missing one is an error.
    pub fn read(dir: &Path, operator_domain: &str) -> Result<Self, KeyError> {
        let load = |file: &str| PrivateKey::load(&dir.join(file));
        let witness = load(WITNESS)?;
        let mut files = vec![ORDER];
        if dir.join(NEXT).exists() {
            files.push(NEXT);
        }
        let mut orders = Vec::new();
        for file in files {
            let key = load(file)?;
            let public = VerifierKey::ed25519(format!("{operator_domain}/malachor/orders").parse()?, key.public());
            orders.push((key, public));
        }
        let witness_name = format!("{operator_domain}/malachor/witness").parse()?;
        let witness_public = VerifierKey::cosigner(witness_name, witness.public());
        debug_assert_eq!(witness_public.kind, SignatureType::CosignatureV1);
        Ok(Self { orders, witness, witness_public })
    }

    /// The newest key for orders that an appliance holds, by the ids it told; the oldest where it told none of ours.
    pub fn order_for(&self, held: &[String]) -> (&PrivateKey, &VerifierKey) {
        let known = self.orders.iter().rev().find(|(_, public)| held.contains(&public.id().to_string()));
        #[expect(clippy::indexing_slicing, reason = "`open` never leaves the list empty")]
        let (key, public) = known.unwrap_or(&self.orders[0]);
        (key, public)
    }

    /// The public keys for orders (C2SP vkey), oldest first.
    pub fn order_keys(&self) -> Vec<String> {
        self.orders.iter().map(|(_, public)| public.to_string()).collect()
    }

    /// Their ids, oldest first.
    pub fn order_ids(&self) -> Vec<String> {
        self.orders.iter().map(|(_, public)| public.id().to_string()).collect()
    }

    /// The list of keys that sign orders, for appliances that hold others: signed by the oldest, which they know.
    pub fn announcement(&self) -> Result<String, String> {
        let payload = jcs::to_vec(&json!({"version": 1, "keys": self.order_keys()}));
        let payload = payload.map_err(|error| error.to_string())?;
        let (key, public) = self.order_for(&[]);
        let line = dsse::sign(ORDER_KEYS, &payload, key, public.id()).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Cosigns heads.
    pub fn witness(&self) -> (&PrivateKey, &VerifierKey) {
        (&self.witness, &self.witness_public)
    }
}

/// Makes a key where there is none; it is there whole or not at all.
fn make(path: &Path) -> Result<(), KeyError> {
    if path.exists() {
        return Ok(());
    }
    let new = path.with_extension("new");
    let failed = |source| KeyError::Io { path: path.display().to_string(), source };
    // What a start that was killed left is half a key.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    PrivateKey::generate()?.create(&new)?;
    std::fs::rename(&new, path).map_err(failed)
}

/// How long a start waits for another one that makes keys in the same folder.
const MAKING: Duration = Duration::from_secs(10);

/// Waits until nobody else makes keys in a folder; nobody does while this is held.
pub async fn lock(dir: &Path) -> Result<FileLock, String> {
    let path = dir.join("making.lock");
    let deadline = tokio::time::Instant::now() + MAKING;
    loop {
        match FileLock::take(&path) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if tokio::time::Instant::now() < deadline => tokio::time::sleep(MAKING / 200).await,
            Ok(None) => return Err(format!("{}: somebody else has held it for 10 s", path.display())),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Begins a rotation: the next key is made and announced, and used for whoever is known to hold it.
pub fn begin_rotation(dir: &Path) -> Result<(), String> {
    let next = dir.join(NEXT);
    if next.exists() {
        return Err("a rotation is under way; end it with `malachor server keys retire`".to_owned());
    }
    let made = PrivateKey::generate().and_then(|key| key.create(&next));
    made.map_err(|error| error.to_string())
}

/// Ends a rotation: the old key is gone, and what it signs from now on counts nowhere.
pub fn end_rotation(dir: &Path) -> Result<(), String> {
    let next = dir.join(NEXT);
    if !next.exists() {
        return Err("no rotation is under way; begin one with `malachor server keys rotate`".to_owned());
    }
    std::fs::rename(&next, dir.join(ORDER)).map_err(|error| format!("{}: {error}", next.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::dsse::Envelope;

    #[test]
    fn the_next_key_signs_for_those_who_hold_it_and_is_announced_by_the_one_before() {
        // Whatever the umask: keys lie in no folder that others may enter.
        let private = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(private).tempdir().unwrap();
        let open = || ServerKeys::open(dir.path(), "fleet.example").unwrap();
        let first = open();
        let old = first.order_for(&[]).1.clone();
        begin_rotation(dir.path()).unwrap();
        assert!(begin_rotation(dir.path()).is_err());
        let both = open();
        let ids = both.order_ids();
        assert_eq!(ids.len(), 2);
        assert_eq!(*both.order_for(&ids[..1]).1, old, "it has not seen the next");
        let next = both.order_for(&ids).1.clone();
        assert_ne!(next, old);
        let announced = Envelope::parse(both.announcement().unwrap().as_bytes()).unwrap();
        assert!(announced.verify(&[old.key]).is_ok());
        end_rotation(dir.path()).unwrap();
        assert!(end_rotation(dir.path()).is_err());
        let last = open();
        assert_eq!(last.order_keys(), [next.to_string()]);
        let announced = Envelope::parse(last.announcement().unwrap().as_bytes()).unwrap();
        assert!(announced.clone().verify(&[old.key]).is_err());
        assert!(announced.verify(&[next.key]).is_ok());
    }

    #[test]
    fn a_lost_key_is_not_made_anew_and_a_first_start_goes_on_where_it_was_killed() {
        let private = std::fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(private).tempdir().unwrap();
        let open = || ServerKeys::open(dir.path(), "fleet.example");
        assert!(ServerKeys::read(dir.path(), "fleet.example").is_err(), "reading makes nothing");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join("order.new"), "half").unwrap();
        let first = open().unwrap().order_keys();
        std::fs::remove_file(dir.path().join(WITNESS)).unwrap();
        assert_eq!(open().unwrap().order_keys(), first, "the authority is not there yet");
        std::fs::write(dir.path().join(CA), "").unwrap();
        for lost in [WITNESS, ORDER] {
            let (path, away) = (dir.path().join(lost), dir.path().join("away"));
            std::fs::rename(&path, &away).unwrap();
            let said = open().unwrap_err().to_string();
            assert!(said.contains(lost), "{said}");
            std::fs::rename(&away, &path).unwrap();
        }
    }
}
