//! The server's part of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Period, Secret};

/// The server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What appliances call it: names and addresses that its certificate holds for. The first stands in enrolment tokens.
    pub names: Vec<String>,
    /// The port appliances reach it at, where it is not the one it listens on.
    pub public_port: Option<u16>,
    /// Keys, and whatever of the stores is embedded; mode 0700.
    pub state_dir: PathBuf,
    /// How long an enrolment token holds.
    pub token_life: Period,
    /// How long an appliance's certificate holds; it is renewed after two thirds.
    pub certificate_life: Period,
    /// Requests for orders a site takes in any five minutes, whoever asks.
    pub orders_per_site: u32,
    /// Connections at a time.
    pub connections: usize,
    /// How many of them one address may have that show no client certificate; 0 counts no addresses.
    pub connections_per_address: usize,
    /// Where the fleet is remembered.
    pub store: Store,
    /// What counts requests.
    pub limiter: Limiter,
    /// Where evidence is kept for years.
    pub worm: Worm,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 7443).into(),
            names: vec!["localhost".to_owned()],
            public_port: None,
            state_dir: PathBuf::from("/var/lib/malachor-server"),
            token_life: Period(Duration::from_hours(1)),
            certificate_life: Period(Duration::from_hours(24 * 90)),
            orders_per_site: 10,
            connections: 10_000,
            connections_per_address: 64,
            store: Store::default(),
            limiter: Limiter::default(),
            worm: Worm::default(),
        }
    }
}

/// Where the fleet is remembered: a SQLite file in the state directory, or PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `postgres://user@host:5432/name`, without a password; none for the embedded file.
    pub url: Option<String>,
    /// Where the password is kept.
    pub password: Option<Secret>,
    /// Roots of the server's certificate (PEM); without them no TLS is spoken, which only a server on this machine may ask for.
    pub ca_file: Option<PathBuf>,
    /// Connections at the most.
    pub connections: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self { url: None, password: None, ca_file: None, connections: 16 }
    }
}

/// What counts requests: this process, or Redis for several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limiter {
    /// `redis://host:6379/0` or `rediss://…`, without a password; none counts in this process.
    pub url: Option<String>,
    /// Where the password is kept.
    pub password: Option<Secret>,
    /// Roots of the server's certificate (PEM), for `rediss://`.
    pub ca_file: Option<PathBuf>,
}

/// Where evidence is kept: a directory below the state directory, or a bucket with Object Lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worm {
    /// `https://s3.example`; none for the directory.
    pub endpoint: Option<String>,
    /// Region for signatures.
    pub region: String,
    /// The bucket, made with Object Lock.
    pub bucket: String,
    /// Access key id.
    pub access_key: String,
    /// Where the secret access key is kept.
    pub secret_key: Option<Secret>,
    /// Roots of the store's certificate (PEM).
    pub ca_file: Option<PathBuf>,
    /// How long evidence cannot be deleted: six years and more for all (45 CFR 164.316(b)(2)(i)).
    pub keep: Period,
}

impl Default for Worm {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: "malachor".to_owned(),
            access_key: String::new(),
            secret_key: None,
            ca_file: None,
            keep: Period(Duration::from_hours(24 * 2192)),
        }
    }
}
