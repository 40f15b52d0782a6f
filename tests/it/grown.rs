//! The server as it stands when it has grown up: PostgreSQL, Redis and a bucket with Object Lock, all over TLS where they
//! speak it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use rusoto_core::Region;
use rusoto_core::credential::StaticProvider;
use rusoto_s3::{CreateBucketRequest, S3, S3Client};
use serde_json::Value;

use malachor::blob::{self, Bucket, Key, Worm};
use malachor::crypto::note::Checkpoint;
use malachor::crypto::sha256_hex;
use malachor::fleet::{self, PostgresConnection};
use malachor::net::http::Http;
use malachor::net::tls;

use crate::peers::Peers;
use crate::place::Place;

const BUCKET: &str = "evidence";

/// The stores several servers share.
pub(crate) struct Grown {
    pub(crate) peers: Peers,
    secrets: Place,
}

impl Grown {
    /// Starts them; `None`, with the reason noted, where one cannot be had here.
    pub(crate) async fn start() -> Option<Self> {
        let peers = Peers::start_with(&["pg", "redis", "s3"], &[("MALACHOR_PEERS_DURABLE", "1")])?;
        let grown = Self { peers, secrets: Place::new("") };
        let var = |name| grown.peers.var(name).to_owned();
        let region = Region::Custom { name: var("S3_REGION"), endpoint: var("S3_ENDPOINT") };
        let keys = StaticProvider::new_minimal(var("S3_ACCESS_KEY"), var("S3_SECRET_KEY"));
        let owner = S3Client::new_with(blob::dispatcher(grown.http()), keys, region);
        let bucket = CreateBucketRequest {
            bucket: BUCKET.to_owned(),
            object_lock_enabled_for_bucket: Some(true),
            ..CreateBucketRequest::default()
        };
        owner.create_bucket(bucket).await.unwrap();
        Some(grown)
    }

    fn http(&self) -> Http {
        Http::new(tls::client(self.peers.roots(), None).unwrap())
    }

    /// The part of a server's configuration that names them.
    pub(crate) fn config(&self) -> String {
        let var = |name| self.peers.var(name).to_owned();
        let ca = self.peers.ca();
        let redis = var("REDIS_TLS_URL").replace(&format!(":{}@", var("REDIS_PASSWORD")), "@");
        format!(
            "{}[server.limiter]\nurl = {redis:?}\npassword = {{ file = {:?} }}\nca_file = {ca:?}\n\
             [server.worm]\nendpoint = {:?}\nbucket = \"{BUCKET}\"\naccess_key = {:?}\nsecret_key = {{ file = {:?} }}\n",
            postgres(&self.peers, &self.secrets),
            secret(&self.peers, &self.secrets, "REDIS_PASSWORD"),
            var("S3_ENDPOINT"),
            var("S3_WRITER_ACCESS_KEY"),
            secret(&self.peers, &self.secrets, "S3_WRITER_SECRET_KEY"),
        )
    }

    /// The same stores, looked at from beside the server.
    pub(crate) async fn kept(&self) -> Kept {
        let var = |name| self.peers.var(name).to_owned();
        let connection = PostgresConnection {
            url: var("DATABASE_URL"),
            password: None,
            roots: Some(self.peers.roots()),
            connections: 2,
        };
        let bucket = Bucket {
            endpoint: var("S3_ENDPOINT"),
            region: var("S3_REGION"),
            name: BUCKET.to_owned(),
            access_key: var("S3_ACCESS_KEY"),
            secret_key: var("S3_SECRET_KEY"),
            http: self.http(),
        };
        Kept {
            fleet: fleet::Fleet::open(fleet::Place::Postgres(connection)).await.unwrap(),
            worm: Worm::open(blob::Place::Bucket(bucket)).await.unwrap(),
        }
    }
}

/// The part of a configuration that names the database.
pub(crate) fn postgres(peers: &Peers, secrets: &Place) -> String {
    format!(
        "[server.store]\nurl = \"postgres://{}@localhost:{}/{}\"\npassword = {{ file = {:?} }}\nca_file = {:?}\n",
        peers.var("PGUSER"),
        peers.var("PGPORT"),
        peers.var("PGDATABASE"),
        secret(peers, secrets, "PGPASSWORD"),
        peers.ca(),
    )
}

/// A file that only its owner reads.
fn secret(peers: &Peers, secrets: &Place, name: &str) -> String {
    let path = secrets.write(name, peers.var(name));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What a server keeps, looked at from beside it.
pub(crate) struct Kept {
    pub(crate) fleet: fleet::Fleet,
    pub(crate) worm: Worm,
}

impl Kept {
    /// The embedded stores of a place.
    pub(crate) async fn embedded(place: &Place) -> Self {
        let state = place.dir.path().join("fleet");
        Self {
            fleet: fleet::Fleet::open(fleet::Place::File(state.join("fleet.db"))).await.unwrap(),
            worm: Worm::open(blob::Place::Directory(state.join("worm"))).await.unwrap(),
        }
    }

    /// A log as it was taken in is the appliance's own, line by line: once in the store, once in WORM, under one head.
    pub(crate) async fn holds(&self, site: &'static str, name: &'static str, lines: &[String]) {
        let (rows, segments, head) = self.log(site, name).await;
        assert_eq!(rows, lines, "{site}/{name}: the store's lines are the log's");
        let mut next = 0;
        for (first, last, key, sha256, version) in &segments {
            assert_eq!(*first, next, "{site}/{name}: segments follow one another: {segments:?}");
            let object = self.worm.get(&Key::new(key.clone()).unwrap()).await.unwrap();
            let object = object.unwrap_or_else(|| panic!("{key} is not in WORM"));
            assert_eq!((&sha256_hex(&object.body), &object.version, object.extra), (sha256, version, 0), "{key}");
            let kept: Vec<&str> = std::str::from_utf8(&object.body).unwrap().lines().collect();
            let its = usize::try_from(*first).unwrap()..=usize::try_from(*last).unwrap();
            assert_eq!(kept, lines[its], "{key}");
            next = last + 1;
        }
        assert_eq!(usize::try_from(next).unwrap(), lines.len(), "{site}/{name}: all of it is in WORM: {segments:?}");
        let [(covered, quarantined)] = head.as_slice() else { panic!("{site}/{name}: one log, not {head:?}") };
        assert_eq!((usize::try_from(*covered).unwrap(), *quarantined), (lines.len(), 0), "{site}/{name}");
    }

    async fn log(
        &self,
        site: &'static str,
        name: &'static str,
    ) -> (Vec<String>, Vec<(i64, i64, String, String, String)>, Vec<(i64, i64)>) {
        let read = self.fleet.read(move |sql| {
            Box::pin(async move {
                let its = [site.into(), name.into()];
                let lines = "SELECT seq, line FROM entry WHERE site_id = $1 AND appliance_id = $2 ORDER BY seq";
                let mut all = Vec::new();
                for (place, row) in sql.rows(lines, &its).await?.iter().enumerate() {
                    assert_eq!(usize::try_from(row.int(0)?).unwrap(), place, "no place is left out");
                    all.push(String::from_utf8(row.bytes(1)?).unwrap());
                }
                let segments = "SELECT first, last, key, sha256, version FROM segment
                                WHERE site_id = $1 AND appliance_id = $2 ORDER BY first";
                let mut kept = Vec::new();
                for row in sql.rows(segments, &its).await? {
                    kept.push((row.int(0)?, row.int(1)?, row.text(2)?, row.text(3)?, row.text(4)?));
                }
                let log = "SELECT size, (SELECT count(*) FROM quarantine WHERE site_id = $1 AND appliance_id = $2)
                           FROM log WHERE site_id = $1 AND appliance_id = $2";
                let mut heads = Vec::new();
                for row in sql.rows(log, &its).await? {
                    heads.push((row.int(0)?, row.int(1)?));
                }
                Ok((all, kept, heads))
            })
        });
        read.await.unwrap()
    }
}

/// A receipt: entries held, under a head that the server's witness key signed as well.
pub(crate) fn receipt(said: &Value, witness: &str) -> u64 {
    let (size, note) = (said["size"].as_u64().unwrap(), said["note"].as_str().unwrap());
    let head = Checkpoint::open(note.as_bytes(), &[witness.parse().unwrap()]).unwrap().into_inner();
    assert_eq!(head.size, size, "{said}");
    size
}

/// What `/ready` says of each part.
pub(crate) fn parts(said: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(said["parts"].clone()).unwrap_or_default()
}
