//! WORM: objects that are written once, kept until a date, and read back as they were first written.
//!
//! A key names its content and is never used twice. Where a store lets somebody put another version over it, the oldest
//! one counts, and the others are reported.

mod fs;
mod s3;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

pub use s3::{Bucket, dispatcher};

/// Name of an object: words of letters, digits, `.`, `_` and `-`, with `/` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Reads a name; `None` where it is none. The grammar leaves nothing that any store reads in a way of its own.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.len() <= 200
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        };
        (text.len() <= 700 && text.split('/').all(word)).then_some(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

/// Why an object could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// No answer, or none that helps; the same again is safe.
    #[error("{store}: {why}")]
    Unreachable {
        /// The store.
        store: String,
        /// What is wrong.
        why: String,
    },
    /// Other bytes are kept under this key already.
    #[error("{store}: {key} holds other bytes already")]
    Differs {
        /// The store.
        store: String,
        /// The object.
        key: Key,
    },
    /// It was written, but the store does not keep it as it was asked to.
    #[error("{store}: {key}: {why}")]
    NotKept {
        /// The store.
        store: String,
        /// The object.
        key: Key,
        /// What is missing.
        why: String,
    },
    /// The store says no, and will say it again.
    #[error("{store}: {why}")]
    Refused {
        /// The store.
        store: String,
        /// Its words.
        why: String,
    },
}

impl BlobError {
    /// Whether the same again may work.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Differs { .. } | Self::NotKept { .. } | Self::Refused { .. } => false,
        }
    }
}

/// Where an object came to lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its version, in the store's own words.
    pub version: String,
    /// Until when nobody can delete it, as the store says after writing.
    pub until: Timestamp,
    /// Whether the same bytes lay there before.
    pub before: bool,
}

/// An object as it was first written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes.
    pub body: Bytes,
    /// Its version.
    pub version: String,
    /// Versions somebody put over it since; there should be none.
    pub extra: usize,
}

/// One thing that was tried on the store itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// What.
    pub what: &'static str,
    /// Whether the store stood it; `None` where it cannot be tried here.
    pub holds: Option<bool>,
    /// What it said.
    pub say: String,
}

/// Where objects go.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory: written once, read-only; whoever is root on this machine can still delete it.
    Directory(PathBuf),
    /// A bucket with Object Lock.
    Bucket(Bucket),
}

/// A handle to the store; clones share it.
#[derive(Debug, Clone)]
pub struct Worm(Arc<Backend>);

#[derive(Debug)]
enum Backend {
    Fs(fs::Directory),
    S3(Box<s3::Store>),
}

impl Worm {
    /// Opens the store: a wrong directory, bucket or credential, or a bucket without Object Lock, is found here and not
    /// at the first write.
    pub async fn open(place: Place) -> Result<Self, BlobError> {
        let backend = match place {
            Place::Directory(path) => Backend::Fs(fs::Directory::open(path)?),
            Place::Bucket(bucket) => Backend::S3(Box::new(s3::Store::open(bucket).await?)),
        };
        Ok(Self(Arc::new(backend)))
    }

    /// Writes an object once, to be kept until a date, and reads back that it is. The same bytes again are no error.
    pub async fn put(&self, key: &Key, body: Bytes, until: Timestamp) -> Result<Kept, BlobError> {
        match &*self.0 {
            Backend::Fs(directory) => directory.put(key, body, until).await,
            Backend::S3(s3) => s3.put(key, body, until).await,
        }
    }

    /// Reads an object as it was first written; `None` where there is none.
    pub async fn get(&self, key: &Key) -> Result<Option<Object>, BlobError> {
        match &*self.0 {
            Backend::Fs(directory) => directory.get(key).await,
            Backend::S3(s3) => s3.get(key).await,
        }
    }

    /// Asks the store for a sign of life: a directory whether it can be written to, a bucket whether it lets us in.
    pub async fn ping(&self) -> Result<(), BlobError> {
        match &*self.0 {
            Backend::Fs(directory) => directory.ping().await,
            Backend::S3(s3) => s3.ping().await,
        }
    }

    /// Tries on the store itself whether it keeps what it is told to keep. Leaves one small object there for a minute.
    pub async fn prove(&self, now: Timestamp) -> Result<Vec<Proof>, BlobError> {
        match &*self.0 {
            Backend::Fs(directory) => directory.prove(now).await,
            Backend::S3(s3) => s3.prove(now).await,
        }
    }

    /// Its kind, in a word.
    pub fn kind(&self) -> &'static str {
        match &*self.0 {
            Backend::Fs(_) => "directory",
            Backend::S3(_) => "s3",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        for good in ["a", "v1/north/front-desk/seg/000000000000-000000000009.intoto.jsonl"] {
            assert!(Key::new(good).is_some(), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", ".", "a/../b", "a/.hidden", "a b", "a+b", "ä", "a%2e", "a\\b"] {
            assert_eq!(Key::new(bad), None, "{bad}");
        }
    }
}
