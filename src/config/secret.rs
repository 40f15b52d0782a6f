//! Secret settings: the configuration names where one is kept and never holds it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::bounded::private_text_of;

/// Bytes of a secret; a setting holds no more.
const MOST: u64 = 4096;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;
/// Where systemd puts the credentials of the agent, for commands that people start beside it.
const OF_THE_AGENT: &str = "/run/credentials/malachor.service";

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Source {
    /// A file only its owner can read.
    File(PathBuf),
    /// A credential that systemd hands over.
    Credential(String),
}

/// The names of the ways a secret can be kept; what they say may be shown.
pub const SOURCES: [&str; 2] = ["file", "credential"];

/// A setting that names where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(Source);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Whatever is written there instead may be the secret itself, and is not said.
        let written = Value::deserialize(from)?;
        Source::deserialize(&written).map(Self).map_err(|_| serde::de::Error::custom(not_here("it")))
    }
}

impl Secret {
    /// The secret; whatever is wrong is said without it.
    pub fn read(&self) -> Result<String, String> {
        kept(&self.0, &credentials())
    }
}

fn credentials() -> PathBuf {
    std::env::var_os("CREDENTIALS_DIRECTORY").map_or_else(|| PathBuf::from(OF_THE_AGENT), PathBuf::from)
}

fn not_here(name: &str) -> String {
    format!(
        "is a secret, which is not written here; write `{name} = {{ file = \"/path\" }}`, a file only its owner can read, or \
         `{name} = {{ credential = \"name\" }}`"
    )
}

/// The secret that a setting `name` names; whatever is wrong is said without what was written there.
pub fn secret(name: &str, written: &Value) -> Result<String, String> {
    read(name, written, &credentials())
}

fn read(name: &str, written: &Value, credentials: &Path) -> Result<String, String> {
    kept(&Source::deserialize(written).map_err(|_| not_here(name))?, credentials)
}

fn kept(source: &Source, credentials: &Path) -> Result<String, String> {
    let (path, refused) = match source {
        Source::File(path) if !path.is_absolute() => {
            return Err(format!("{}: write the whole path, from `/`", path.display()));
        }
        Source::File(path) => (path.clone(), GROUP | OTHERS),
        Source::Credential(name) if name.is_empty() || name.contains('/') || name.starts_with('.') => {
            return Err(format!("`{name}` is no name of a credential"));
        }
        // Where the agent is not root, systemd lets it in by an access list, whose mask shows as the group's rights.
        Source::Credential(name) => (credentials.join(name), OTHERS),
    };
    let text = private_text_of(&path, MOST, refused).map_err(|why| format!("{}: {why}", path.display()))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    if text.is_empty() { Err(format!("{}: is empty", path.display())) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_named_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("repository");
        let put = |text: &str, mode: u32| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let from = |written: Value| read("repository", &written, dir.path());
        put("s3:hunter2\n", 0o600);
        assert_eq!(from(json!({"file": file})), Ok("s3:hunter2".to_owned()));
        assert_eq!(from(json!({"credential": "repository"})), Ok("s3:hunter2".to_owned()));
        for mode in [0o640, 0o604] {
            put("s3:hunter2", mode);
            let why = from(json!({"file": file})).unwrap_err();
            assert!(why.contains("run `chmod 600") && !why.contains("hunter2"), "{why}");
            let handed_over = from(json!({"credential": "repository"}));
            assert_eq!(handed_over.is_ok(), mode == 0o640, "what an access list allows shows as the group's");
        }
        put("\n", 0o400);
        assert!(from(json!({"file": file})).unwrap_err().ends_with("is empty"));
        put(&"x".repeat(5000), 0o400);
        assert!(from(json!({"file": file})).unwrap_err().contains("larger than 4 KiB"));
        for written in [json!("s3:hunter2"), json!({"fiel": "hunter2"}), json!({"file": file, "credential": "hunter2"})]
        {
            let why = from(written).unwrap_err();
            assert!(why.contains("{ file = \"/path\" }") && !why.contains("hunter2"), "{why}");
        }
        for (written, says) in [
            (json!({"file": "secret.txt"}), "whole path"),
            (json!({"file": "/dev/zero"}), "not a regular file"),
            (json!({"credential": "../shadow"}), "no name of a credential"),
            (json!({"credential": "other"}), "cannot be read"),
        ] {
            let why = from(written).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
