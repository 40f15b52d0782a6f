//! Private keys on disk: made once, never overwritten, readable by their owner only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::{KeyError, PrivateKey};

/// A PKCS#8 file of one Ed25519 key is 119 bytes; anything far larger is something else.
const MAX_FILE: u64 = 4096;
const OTHERS: u32 = 0o077;

impl PrivateKey {
    /// Reads a private key file, refusing one that group or world may read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source| failed(path, source);
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(KeyError::Exposed { path: path.display().to_string(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
        Self::from_pkcs8_pem(&text)
    }

    /// Writes the key to a new file (mode 0600, in a folder of mode 0700 made when missing) and waits for the disk.
    ///
    /// An existing file is never replaced.
    pub fn create(&self, path: &Path) -> Result<(), KeyError> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        private_folder(folder)?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(self.to_pkcs8_pem().as_bytes())?;
            file.sync_all()?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| failed(path, source))
    }
}

fn private_folder(folder: &Path) -> Result<(), KeyError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| failed(folder, source))?;
    let mode = folder.metadata().map_err(|source| failed(folder, source))?.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyError::OpenFolder { path: folder.display().to_string(), mode });
    }
    Ok(())
}

fn failed(path: &Path, source: io::Error) -> KeyError {
    KeyError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_file_is_private_and_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/entry.pem");
        let key = PrivateKey::from_seed(&[7; 32]);
        key.create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(PrivateKey::load(&path).unwrap().public(), key.public());
        assert!(matches!(key.create(&path), Err(KeyError::Io { .. })));
    }

    #[test]
    fn an_exposed_file_or_folder_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/entry.pem");
        PrivateKey::from_seed(&[7; 32]).create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let message = PrivateKey::load(&path).unwrap_err().to_string();
        assert!(message.contains("mode 0640") && message.contains("chmod 600"), "{message}");
        fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let message = PrivateKey::from_seed(&[8; 32]).create(&path.with_file_name("b.pem")).unwrap_err().to_string();
        assert!(message.contains("mode 0755") && message.contains("chmod 700"), "{message}");
    }
}
