//! What a server gives its appliances besides orders: content and configuration, as files a signed manifest names.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::SiteId;

/// Media type of a manifest.
pub const BUNDLE: &str = "application/vnd.malachor.bundle+json";
/// Media type of the list of keys that sign orders.
pub const ORDER_KEYS: &str = "application/vnd.malachor.order-keys+json";
/// The only file of a configuration.
pub const SITE_FILE: &str = "site.toml";
/// Files of one bundle; their names and hashes must fit a signed payload.
pub const MAX_FILES: usize = 200;
/// Bytes of all files of one bundle.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

/// What a bundle is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleKind {
    /// Runbooks and rules, over what is built in and under the appliance's own.
    Content,
    /// A layer of configuration, over the defaults and under the appliance's own file.
    Config,
}

impl BundleKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Content, Self::Config];

    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Config => "config",
        }
    }
}

impl std::str::FromStr for BundleKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == word);
        found.ok_or_else(|| format!("`{word}` is neither content nor config"))
    }
}

/// What was signed: which files, by hash, for whom, in which order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Form of this value; 1.
    pub version: u32,
    /// What it is.
    pub kind: BundleKind,
    /// The only site it is for; every site of the fleet where there is none.
    pub site: Option<SiteId>,
    /// Later ones have higher numbers; an appliance never goes back.
    pub number: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// Who made it.
    pub by: String,
    /// SHA-256 of each file in hexadecimal, by name.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads the payload of an envelope whose signature holds.
    pub fn read(payload: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if manifest.version != 1 {
            return Err(format!("its form is version {}, not 1", manifest.version));
        }
        Ok(manifest)
    }

    /// Whether it is what was asked for, for this site.
    pub fn is_for(&self, kind: BundleKind, site: &SiteId) -> Result<(), String> {
        if self.kind != kind {
            return Err(format!("it is {}, not {}", self.kind.word(), kind.word()));
        }
        match &self.site {
            Some(its) if its != site => Err(format!("it is for the site {its}, not for {site}")),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether these files, given by name and SHA-256, are exactly those it names.
    pub fn names(&self, files: &BTreeMap<String, String>) -> Result<(), String> {
        let all: BTreeSet<&String> = self.files.keys().chain(files.keys()).collect();
        match all.into_iter().find(|name| self.files.get(*name) != files.get(*name)) {
            Some(name) => Err(format!("the file {name} is not the one that was signed")),
            None => Ok(()),
        }
    }
}

/// Whether files may make a bundle.
pub fn sized(files: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = files.values().map(String::len).sum();
    if files.is_empty() {
        return Err("there is no file".to_owned());
    }
    if files.len() > MAX_FILES || bytes > MAX_BYTES {
        return Err(format!("{} files of {bytes} bytes; at most {MAX_FILES} of {MAX_BYTES} are sent", files.len()));
    }
    Ok(())
}

/// The keys that sign orders from now on, signed by one of those that did before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderKeys {
    /// Form of this value; 1.
    pub version: u32,
    /// The keys (C2SP vkey), oldest first.
    pub keys: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: 1,
            kind: BundleKind::Content,
            site: Some("north".parse().unwrap()),
            number: 7,
            made_at: "2026-05-04T12:00:00Z".parse().unwrap(),
            by: "operator:lee".into(),
            files: BTreeMap::from([("a.yaml".into(), "00".into())]),
        }
    }

    #[test]
    fn a_manifest_holds_for_its_kind_its_site_and_exactly_its_files() {
        let (manifest, north, south) = (manifest(), "north".parse().unwrap(), "south".parse().unwrap());
        assert_eq!(manifest.is_for(BundleKind::Content, &north), Ok(()));
        assert!(manifest.is_for(BundleKind::Config, &north).is_err());
        assert!(manifest.is_for(BundleKind::Content, &south).is_err());
        assert_eq!(Manifest { site: None, ..manifest.clone() }.is_for(BundleKind::Content, &south), Ok(()));
        let files = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, h)| ((*n).into(), (*h).into())).collect();
        assert_eq!(manifest.names(&files(&[("a.yaml", "00")])), Ok(()));
        for wrong in [&[][..], &[("a.yaml", "01")], &[("a.yaml", "00"), ("b.yaml", "00")], &[("b.yaml", "00")]] {
            assert!(manifest.names(&files(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_its_own_form_is_read() {
        let text = serde_json::to_string(&manifest()).unwrap();
        assert_eq!(Manifest::read(text.as_bytes()), Ok(manifest()));
        for (from, to) in [("\"version\":1", "\"version\":2"), ("\"number\":7", "\"number\":7,\"more\":1")] {
            assert!(Manifest::read(text.replace(from, to).as_bytes()).is_err());
        }
    }
}
