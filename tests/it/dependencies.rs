//! One of each: cryptography, TLS, HTTP and the runtime come in one version, whatever a dependency would like to bring.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

const LOCK: &str = include_str!("../../Cargo.lock");

/// What would be a second stack of cryptography or TLS.
const FOREIGN: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "tokio-native-tls",
    "aws-lc-rs",
    "aws-lc-sys",
    "aws-lc-fips-sys",
    "boring",
    "boring-sys",
    "mbedtls",
    "rustls-openssl",
    "webpki",
    "sct",
    "hyper-rustls",
];

/// There may be one version of each, and it must be there, or this list is out of date.
const ONE: &[&str] =
    &["ring", "rustls", "rustls-webpki", "rustls-pki-types", "tokio-rustls", "tokio", "ed25519-dalek", "rusqlite"];

/// Who may bring the older hyper and what goes with it: types of signed S3 requests; its client never runs, for its
/// connector is ours and refuses.
const OLD_HTTP: &[&str] =
    &["rusoto_core", "rusoto_credential", "rusoto_s3", "rusoto_signature", "hyper-tls", "hyper", "h2", "http-body"];

/// Name → version → who depends on it.
fn locked() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let lock: Table = LOCK.parse().expect("Cargo.lock is TOML");
    let packages = lock["package"].as_array().expect("packages").clone();
    let text = |package: &Value, key: &str| package[key].as_str().expect(key).to_owned();
    let mut found: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for package in &packages {
        found.entry(text(package, "name")).or_default().entry(text(package, "version")).or_default();
    }
    for package in &packages {
        let wanted = package.get("dependencies").and_then(Value::as_array).cloned().unwrap_or_default();
        for dependency in wanted {
            let mut words = dependency.as_str().expect("a dependency").split(' ');
            let versions = found.get_mut(words.next().expect("a name")).expect("it is locked");
            // Where there is one version only, it is left out.
            let version = words.next().map_or_else(|| versions.keys().next().expect("one").clone(), str::to_owned);
            versions.get_mut(&version).expect("it is locked").insert(text(package, "name"));
        }
    }
    found
}

#[test]
fn there_is_one_stack_of_cryptography_and_tls() {
    let locked = locked();
    for name in FOREIGN {
        assert!(!locked.contains_key(*name), "{name} came in through {:?}", locked[*name]);
    }
    for name in ONE {
        let versions = locked.get(*name).unwrap_or_else(|| panic!("{name} is not there any more"));
        assert_eq!(versions.len(), 1, "{name}: {versions:?}");
    }
}

#[test]
fn there_is_one_http_and_the_old_one_belongs_to_the_s3_types_alone() {
    let locked = locked();
    for (name, ours) in [("hyper", "1."), ("http", "1."), ("http-body", "1.")] {
        let versions = &locked[name];
        let current: Vec<_> = versions.keys().filter(|version| version.starts_with(ours)).collect();
        assert_eq!(current.len(), 1, "{name}: {versions:?}");
        for (version, users) in versions.iter().filter(|(version, _)| !version.starts_with(ours)) {
            // The program itself names `http` 0.2 to make the answers that rusoto takes.
            let others: Vec<_> = users
                .iter()
                .filter(|user| !OLD_HTTP.contains(&user.as_str()) && (name, user.as_str()) != ("http", "malachor"))
                .collect();
            assert!(others.is_empty(), "{name} {version} is used by {others:?}");
        }
    }
    // The connector that refuses is the one in this repository.
    assert_eq!(locked["hyper-tls"].keys().collect::<Vec<_>>(), ["0.5.99"]);
}
