//! The stores the configuration names, opened at start: what is set wrong is said then, by the name of the setting.

use std::path::Path;

use tokio_postgres::config::Host;

use super::state::{StartError, said};
use crate::app::prepare_dir;
use crate::blob::{self, Bucket, Worm};
use crate::config::Secret;
use crate::config::server::Server as Config;
use crate::fleet::{Fleet, PostgresConnection};
use crate::lock::{Asked, Limiter, RedisConnection};
use crate::net::http::Http;
use crate::net::tls;

fn secret(what: &str, named: Option<&Secret>) -> Result<Option<String>, StartError> {
    named.map(Secret::read).transpose().map_err(|error| said(what, &error))
}

fn roots(what: &str, file: Option<&Path>) -> Result<Option<rustls::RootCertStore>, StartError> {
    file.map(tls::roots).transpose().map_err(|error| said(what, &error))
}

/// Whether an address is on this machine, so that nothing of what is said there travels.
fn is_here(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let name = if host.starts_with('[') { host.split(']').next() } else { host.split(':').next() };
    is_this_machine(name.unwrap_or_default().trim_start_matches('['))
}

fn is_this_machine(name: &str) -> bool {
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The same for a database, which may name several hosts, in several ways.
fn is_database_here(url: &tokio_postgres::Config) -> bool {
    let here = |host: &Host| match host {
        Host::Tcp(name) => is_this_machine(name),
        Host::Unix(_) => true,
    };
    url.get_hosts().iter().all(here) && url.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

fn in_clear(key: &str) -> StartError {
    said(key, &"TLS is needed for a server on another machine: neither evidence nor passwords travel in clear")
}

/// Opens the store the configuration names.
pub async fn open_fleet(config: &Config) -> Result<Fleet, StartError> {
    let store = &config.store;
    // Sites may be added before the server ever ran.
    prepare_dir(&config.state_dir).map_err(|error| said("server.state_dir", &error))?;
    let place = match &store.url {
        None => crate::fleet::Place::File(config.state_dir.join("fleet.db")),
        Some(url) => {
            let roots = roots("server.store.ca_file", store.ca_file.as_deref())?;
            // Not shown: there may be a password in it.
            let no_url = |_| said("server.store.url", &"is no URL like postgres://user@host:5432/name");
            let parsed: tokio_postgres::Config = url.parse().map_err(no_url)?;
            if roots.is_none() && !is_database_here(&parsed) {
                return Err(in_clear("server.store.ca_file"));
            }
            crate::fleet::Place::Postgres(PostgresConnection {
                url: url.clone(),
                password: secret("server.store.password", store.password.as_ref())?,
                roots,
                connections: store.connections,
            })
        }
    };
    Fleet::open(place).await.map_err(|error| said("server.store", &error))
}

pub(super) async fn open_limiter(config: &Config) -> Result<Limiter, StartError> {
    let limiter = &config.limiter;
    let Some(url) = &limiter.url else { return Ok(Limiter::memory()) };
    if !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return Err(said("server.limiter.url", &"is no URL like redis://host:6379/0"));
    }
    if !url.starts_with("rediss://") && !is_here(url) {
        return Err(in_clear("server.limiter.url"));
    }
    let roots = roots("server.limiter.ca_file", limiter.ca_file.as_deref())?;
    if url.starts_with("rediss://") && roots.is_none() {
        return Err(said("server.limiter.ca_file", &"is needed for rediss: without roots no server is trusted"));
    }
    let password = secret("server.limiter.password", limiter.password.as_ref())?;
    let connection = RedisConnection { url: url.clone(), password, roots };
    match Limiter::asked(&connection).await {
        Ok(()) => {}
        Err(Asked::Password(why)) => return Err(said("server.limiter.password", &why)),
        Err(Asked::Tls(why)) => return Err(said("server.limiter.ca_file", &why)),
        Err(Asked::Other(why)) => return Err(said("server.limiter.url", &why)),
        Err(Asked::Away(why)) => {
            tracing::warn!("server.limiter: {why}; limits are counted in this process alone until it answers");
        }
    }
    Limiter::redis(connection).map_err(|error| StartError(error.to_string()))
}

/// Opens the evidence store the configuration names.
pub async fn open_worm(config: &Config) -> Result<Worm, StartError> {
    let worm = &config.worm;
    prepare_dir(&config.state_dir).map_err(|error| said("server.state_dir", &error))?;
    let place = match &worm.endpoint {
        None => blob::Place::Directory(config.state_dir.join("worm")),
        Some(endpoint) => {
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return Err(said("server.worm.endpoint", &"is no URL like https://s3.example"));
            }
            let roots =
                roots("server.worm.ca_file", worm.ca_file.as_deref())?.unwrap_or_else(rustls::RootCertStore::empty);
            if !endpoint.starts_with("https://") && !is_here(endpoint) {
                return Err(in_clear("server.worm.endpoint"));
            }
            if endpoint.starts_with("https://") && roots.is_empty() {
                return Err(said("server.worm.ca_file", &"is needed for https: without roots no store is trusted"));
            }
            let client = tls::client(roots, None).map_err(|error| said("server.worm", &error))?;
            let key = secret("server.worm.secret_key", worm.secret_key.as_ref())?;
            blob::Place::Bucket(Bucket {
                endpoint: endpoint.clone(),
                region: worm.region.clone(),
                name: worm.bucket.clone(),
                access_key: worm.access_key.clone(),
                secret_key: key.ok_or_else(|| said("server.worm.secret_key", &"is not set"))?,
                http: Http::new(client),
            })
        }
    };
    Worm::open(place).await.map_err(|error| said(worm_setting(&error.to_string()), &error))
}

/// The setting that a store's refusal is about.
fn worm_setting(why: &str) -> &'static str {
    let about = [
        ("NoSuchBucket", "server.worm.bucket"),
        ("InvalidBucketName", "server.worm.bucket"),
        ("SignatureDoesNotMatch", "server.worm.secret_key"),
        ("InvalidAccessKeyId", "server.worm.access_key"),
    ];
    about.iter().find(|(code, _)| why.contains(code)).map_or("server.worm", |(_, setting)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_with_in_clear() {
        for here in ["redis://localhost:6379/0", "redis://:x@[::1]:6379/0", "http://127.0.0.1:8333"] {
            assert!(is_here(here), "{here}");
        }
        for there in ["redis://10.0.0.7:6379/0?host=localhost", "http://127.0.0.1.example/", "redis://localhost@x"] {
            assert!(!is_here(there), "{there}");
        }
        let database = |url: &str| is_database_here(&url.parse().unwrap());
        for here in [
            "postgres://m@localhost:5432/m",
            "postgres://m@127.0.0.1/m?sslmode=disable",
            "postgres://m@[::1]:5432/m",
            "postgres:///m?host=/run/postgresql",
            "host=localhost user=m",
        ] {
            assert!(database(here), "{here}");
        }
        for there in [
            "postgres://m@db.example/m",
            "postgres://m@localhost.example/m",
            "postgres://localhost@db.example/m",
            "postgres://m@db.example/m?host=/run",
            "postgres://m@localhost:5432,db.example:5432/m",
            "postgres://m@localhost/m?host=db.example",
            "postgres://m@localhost/m?hostaddr=10.0.0.7",
            "host=db.example user=m",
        ] {
            assert!(!database(there), "{there}");
        }
    }

    #[test]
    fn a_store_that_says_no_names_the_setting() {
        assert_eq!(worm_setting("http://s3/b: 404 NoSuchBucket"), "server.worm.bucket");
        assert_eq!(worm_setting("http://s3/b: 403 SignatureDoesNotMatch"), "server.worm.secret_key");
        assert_eq!(worm_setting("http://s3/b: 403 InvalidAccessKeyId"), "server.worm.access_key");
        assert_eq!(worm_setting("http://s3/b: no answer"), "server.worm");
    }
}
