//! The contract of WORM, held by a directory and by a bucket whose lock is enforced.

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rusoto_core::Region;
use rusoto_core::request::DispatchSignedRequest;
use rusoto_s3::{CreateBucketRequest, DeleteObjectRequest, PutObjectRequest, S3, S3Client};

use malachor::blob::{BlobError, Bucket, Key, Place, Worm};
use malachor::net::http::Http;
use malachor::net::tls;

use crate::peers::Peers;

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn until() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24)
}

async fn contract(worm: Worm) {
    assert_eq!(worm.get(&key("v1/none")).await.unwrap(), None);
    let first = worm.put(&key("v1/a/one.txt"), bytes("first"), until()).await.unwrap();
    assert!(!first.before && first.until.as_second() >= until().as_second() - 5 && !first.version.is_empty());
    let object = worm.get(&key("v1/a/one.txt")).await.unwrap().unwrap();
    assert_eq!((object.body, object.version.clone(), object.extra), (bytes("first"), first.version.clone(), 0));
    let again = worm.put(&key("v1/a/one.txt"), bytes("first"), until()).await.unwrap();
    assert!(again.before && again.version == first.version, "the same again is no second version");
    let other = worm.put(&key("v1/a/one.txt"), bytes("other"), until()).await.unwrap_err();
    assert!(matches!(other, BlobError::Differs { .. }), "{other}");
    assert_eq!(worm.get(&key("v1/a/one.txt")).await.unwrap().unwrap().body, bytes("first"));

    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let worm = worm.clone();
        tasks.spawn(async move { worm.put(&key("v1/race"), Bytes::from(format!("writer {}", n % 2)), until()).await });
    }
    let results = tasks.join_all().await;
    let kept = worm.get(&key("v1/race")).await.unwrap().unwrap().body;
    assert!(results.iter().any(Result::is_ok));
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(BlobError::Differs { .. }))), "{results:?}");
    assert!(kept.starts_with(b"writer "));

    let large = Bytes::from(vec![7_u8; 3 * 1024 * 1024]);
    worm.put(&key("v1/large"), large.clone(), until()).await.unwrap();
    assert_eq!(worm.get(&key("v1/large")).await.unwrap().unwrap().body, large);
}

#[test]
fn a_directory_keeps_the_contract_and_says_what_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    on_runtime(async {
        let worm = Worm::open(Place::Directory(dir.path().join("worm"))).await.unwrap();
        contract(worm.clone()).await;
        let proofs = worm.prove(Timestamp::now()).await.unwrap();
        let held: Vec<_> = proofs.iter().map(|proof| proof.holds).collect();
        assert_eq!(held, [Some(true), Some(true), Some(false)], "it never claims to be a lock: {proofs:?}");
        let mode = std::fs::metadata(dir.path().join("worm/v1/large")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o400);
        assert!(
            std::fs::read_dir(dir.path().join("worm/.new")).unwrap().next().is_none(),
            "nothing is left half-written"
        );
        let wrong = Worm::open(Place::Directory("/proc/worm".into())).await.unwrap_err();
        assert!(wrong.to_string().contains("/proc/worm"), "{wrong}");
    });
}

struct Storage {
    peers: Peers,
    http: Http,
}

impl Storage {
    fn start() -> Option<Self> {
        let peers = Peers::start_with(&["s3"], &[("MALACHOR_PEERS_S3_TLS", "1")])?;
        let http = Http::new(tls::client(peers.roots(), None).unwrap());
        Some(Self { peers, http })
    }

    fn bucket(&self, name: &str) -> Bucket {
        Bucket {
            endpoint: self.peers.var("S3_ENDPOINT").to_owned(),
            region: self.peers.var("S3_REGION").to_owned(),
            name: name.to_owned(),
            access_key: self.peers.var("S3_WRITER_ACCESS_KEY").to_owned(),
            secret_key: self.peers.var("S3_WRITER_SECRET_KEY").to_owned(),
            http: self.http.clone(),
        }
    }

    /// The owner of everything, who makes buckets and tries to cheat.
    fn owner(&self) -> S3Client {
        let bucket = self.bucket("x");
        let region = Region::Custom { name: bucket.region, endpoint: bucket.endpoint };
        let var = |name| self.peers.var(name).to_owned();
        let keys = rusoto_core::credential::StaticProvider::new_minimal(var("S3_ACCESS_KEY"), var("S3_SECRET_KEY"));
        S3Client::new_with(malachor::blob::dispatcher(self.http.clone()), keys, region)
    }

    async fn make(&self, name: &str, locked: bool) {
        let request = CreateBucketRequest {
            bucket: name.to_owned(),
            object_lock_enabled_for_bucket: Some(locked),
            ..CreateBucketRequest::default()
        };
        self.owner().create_bucket(request).await.unwrap();
    }
}

#[test]
fn a_bucket_with_object_lock_keeps_the_contract() {
    let Some(storage) = Storage::start() else { return };
    on_runtime(async {
        storage.make("evidence", true).await;
        storage.make("plain", false).await;
        let refused = Worm::open(Place::Bucket(storage.bucket("plain"))).await.unwrap_err();
        assert!(!refused.is_transient(), "{refused}");
        let missing = Worm::open(Place::Bucket(storage.bucket("nowhere"))).await.unwrap_err();
        assert!(missing.to_string().contains("nowhere"), "{missing}");
        let stranger = Bucket { secret_key: "wrong".into(), ..storage.bucket("evidence") };
        assert!(!Worm::open(Place::Bucket(stranger)).await.unwrap_err().is_transient());

        let worm = Worm::open(Place::Bucket(storage.bucket("evidence"))).await.unwrap();
        contract(worm.clone()).await;
        let proofs = worm.prove(Timestamp::now()).await.unwrap();
        assert!(proofs.iter().all(|proof| proof.holds == Some(true)), "{proofs:?}");

        // The owner puts another version over it, and a delete marker over that: the first one counts.
        let over = PutObjectRequest {
            bucket: "evidence".into(),
            key: "v1/a/one.txt".into(),
            body: Some(b"forged".to_vec().into()),
            ..PutObjectRequest::default()
        };
        malachor_put(&storage, over).await;
        let hide = DeleteObjectRequest {
            bucket: "evidence".into(),
            key: "v1/a/one.txt".into(),
            ..DeleteObjectRequest::default()
        };
        storage.owner().delete_object(hide).await.unwrap();
        let object = worm.get(&key("v1/a/one.txt")).await.unwrap().unwrap();
        assert_eq!((object.body, object.extra), (bytes("first"), 2), "what was put over it is reported");

        storage.peers.tell("kill", "s3");
        let name = key("v1/later");
        let away = worm.put(&name, bytes("later"), until());
        let away = tokio::time::timeout(Duration::from_secs(20), away).await.unwrap().unwrap_err();
        assert!(away.is_transient(), "{away}");
        storage.peers.tell("restart", "s3");
        worm.put(&key("v1/later"), bytes("later"), until()).await.unwrap();
        assert_eq!(worm.get(&key("v1/a/one.txt")).await.unwrap().unwrap().body, bytes("first"), "nothing was lost");
    });
}

/// Through a signed buffer: a stream is what our dispatcher refuses to send.
async fn malachor_put(storage: &Storage, put: PutObjectRequest) {
    let (bucket_name, name) = (put.bucket.clone(), put.key.clone());
    let refused = storage.owner().put_object(put).await.unwrap_err();
    assert!(refused.to_string().contains("not signed is not sent"), "{refused}");
    let bucket = storage.bucket("evidence");
    let region = Region::Custom { name: bucket.region, endpoint: bucket.endpoint };
    let mut request =
        rusoto_core::signature::SignedRequest::new("PUT", "s3", &region, &format!("/{bucket_name}/{name}"));
    request.set_payload(Some(b"forged".to_vec()));
    let var = |name| storage.peers.var(name).to_owned();
    request.sign(&rusoto_core::credential::AwsCredentials::new(var("S3_ACCESS_KEY"), var("S3_SECRET_KEY"), None, None));
    let answer = malachor::blob::dispatcher(storage.http.clone()).dispatch(request, None).await.unwrap();
    assert_eq!(answer.status.as_u16(), 200);

    // A body changed after it was signed is refused by the store.
    let mut tampered = rusoto_core::signature::SignedRequest::new("PUT", "s3", &region, "/evidence/v1/tampered");
    let checksum = malachor::crypto::base64(&malachor::crypto::sha256(b"signed"));
    tampered.add_header("x-amz-checksum-sha256", &checksum);
    tampered.set_payload(Some(b"signed".to_vec()));
    tampered.sign(&rusoto_core::credential::AwsCredentials::new(
        var("S3_ACCESS_KEY"),
        var("S3_SECRET_KEY"),
        None,
        None,
    ));
    tampered.set_payload(Some(b"change".to_vec()));
    let answer = malachor::blob::dispatcher(storage.http.clone()).dispatch(tampered, None).await.unwrap();
    assert!(answer.status.as_u16() >= 400, "{}", answer.status);
}
