//! WORM in a bucket with Object Lock, in COMPLIANCE mode: nobody, the owner of the bucket included, deletes before the date.
//!
//! `rusoto_s3` signs and reads; requests go out through our own client. A PUT is signed over its body, which its own
//! `put_object` does not do, and carries a checksum and `If-None-Match: *`, which it does not know. What the store says
//! afterwards is what counts: no version, no lock or other bytes are failures, whatever the status was.

mod dispatch;

use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use rusoto_core::credential::{AwsCredentials, StaticProvider};
use rusoto_core::request::{BufferedHttpResponse, DispatchSignedRequest};
use rusoto_core::signature::SignedRequest;
use rusoto_core::{Region, RusotoError};
use rusoto_s3::{
    DeleteObjectRequest, GetBucketVersioningRequest, GetObjectLockConfigurationRequest, GetObjectRequest,
    HeadObjectRequest, ListObjectVersionsRequest, ObjectLockRetention, PutObjectRetentionRequest, S3, S3Client,
};
use tokio::io::AsyncReadExt;

use super::{BlobError, Kept, Key, Object, Proof};
use crate::crypto::{base64, sha256};
use crate::net::http::Http;
use dispatch::Dispatch;

/// Tries of a request that got no answer, or one that asks to come again.
const TRIES: u32 = 4;
/// The longest object that is read back.
const LARGEST: u64 = 256 * 1024 * 1024;
/// How long one request may take.
/// How much earlier than wanted an object that was there before may be let go, in seconds: it may have waited a month for
/// its receipt.
const SLACK: i64 = 30 * 86_400;
const PATIENCE: Duration = Duration::from_secs(30);

/// A bucket and the right to it.
#[derive(Clone)]
pub struct Bucket {
    /// `https://s3.example` or `http://127.0.0.1:9000`, with a path where the server has one.
    pub endpoint: String,
    /// Region for signatures.
    pub region: String,
    /// The bucket, made with Object Lock.
    pub name: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// The client requests go out through.
    pub http: Http,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Bucket({}/{})", self.endpoint, self.name)
    }
}

/// its way out through our own client.
pub fn dispatcher(http: Http) -> impl DispatchSignedRequest + Send + Sync + 'static {
    Dispatch::new(http, PATIENCE)
}

/// The store in a bucket.
pub(super) struct Store {
    bucket: Bucket,
    region: Region,
    credentials: AwsCredentials,
    dispatch: Dispatch,
    client: S3Client,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bucket.fmt(out)
    }
}

/// One version of an object, with how it is kept.
struct Version {
    body: Bytes,
    mode: Option<String>,
    until: Option<Timestamp>,
}

impl Store {
    pub(super) async fn open(bucket: Bucket) -> Result<Self, BlobError> {
        let region = Region::Custom { name: bucket.region.clone(), endpoint: bucket.endpoint.clone() };
        let dispatch = Dispatch::new(bucket.http.clone(), PATIENCE);
        let provider = StaticProvider::new_minimal(bucket.access_key.clone(), bucket.secret_key.clone());
        let credentials = AwsCredentials::new(bucket.access_key.clone(), bucket.secret_key.clone(), None, None);
        let client = S3Client::new_with(dispatch.clone(), provider, region.clone());
        let store = Self { bucket, region, credentials, dispatch, client };
        store.has_lock().await?;
        Ok(store)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.bucket.endpoint, self.bucket.name)
    }

    fn refused(&self, why: impl Into<String>) -> BlobError {
        BlobError::Refused { store: self.name(), why: why.into() }
    }

    fn unreachable(&self, why: impl Into<String>) -> BlobError {
        BlobError::Unreachable { store: self.name(), why: why.into() }
    }

    /// Whether the bucket has Object Lock; who is not let in hears so instead.
    pub(super) async fn ping(&self) -> Result<(), BlobError> {
        let ask = GetObjectLockConfigurationRequest {
            bucket: self.bucket.name.clone(),
            ..GetObjectLockConfigurationRequest::default()
        };
        let none = || self.refused("the bucket has no Object Lock; it can only be given one when it is made");
        let lock = self.client.get_object_lock_configuration(ask).await.map_err(|error| self.said(error));
        let lock = lock.map_err(|error| {
            let missing = error.to_string().contains("ObjectLockConfigurationNotFound");
            if missing { none() } else { error }
        })?;
        let enabled = lock.object_lock_configuration.and_then(|lock| lock.object_lock_enabled);
        if enabled.as_deref() == Some("Enabled") { Ok(()) } else { Err(none()) }
    }

    async fn has_lock(&self) -> Result<(), BlobError> {
        self.retried(|| self.ping()).await?;
        let ask = || {
            self.client.get_bucket_versioning(GetBucketVersioningRequest {
                bucket: self.bucket.name.clone(),
                ..GetBucketVersioningRequest::default()
            })
        };
        // Who may write need not be allowed to ask; that each write gets a version is checked every time.
        match ask().await {
            Ok(versioning) if versioning.status.as_deref() == Some("Suspended") => {
                Err(self.refused("versioning of the bucket is suspended, so nothing in it is locked"))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn put(&self, key: &Key, body: Bytes, until: Timestamp) -> Result<Kept, BlobError> {
        self.retried(|| self.put_once(key, body.clone(), until)).await
    }

    async fn put_once(&self, key: &Key, body: Bytes, until: Timestamp) -> Result<Kept, BlobError> {
        // Not every store knows `If-None-Match`; asking first keeps a second try from making a second version there.
        if let Some(kept) = self.there(key, &body, until).await? {
            return Ok(kept);
        }
        let answer = self.send(self.signed_put(key, &body, until)).await?;
        match answer.status.as_u16() {
            200 => {}
            409 | 412 => {
                let lost = || self.unreachable(format!("{key}: it is said to be there, and is not"));
                return self.there(key, &body, until).await?.ok_or_else(lost);
            }
            _ => return Err(self.answered(&answer)),
        }
        let not_kept = |why: &str| BlobError::NotKept { store: self.name(), key: key.clone(), why: why.to_owned() };
        let version = answer.headers.get("x-amz-version-id").filter(|id| !id.is_empty() && *id != "null");
        let version = version.ok_or_else(|| not_kept("it got no version, so nothing keeps it"))?;
        let read = self.version(key, version).await?.ok_or_else(|| not_kept("it is not there after it was written"))?;
        if read.body != body {
            return Err(not_kept("other bytes are read back than were written"));
        }
        if read.mode.as_deref() != Some("COMPLIANCE") {
            return Err(not_kept("it is not locked in COMPLIANCE mode"));
        }
        match read.until {
            Some(kept) if kept.as_second() >= until.as_second() => {
                Ok(Kept { version: version.clone(), until: kept, before: false })
            }
            Some(kept) => Err(not_kept(&format!("it is kept until {kept} only, not until {until}"))),
            None => Err(not_kept("it is kept until no date")),
        }
    }

    /// A PUT whose signature covers the body, the lock, the checksum and the condition.
    fn signed_put(&self, key: &Key, body: &Bytes, until: Timestamp) -> SignedRequest {
        let mut put = SignedRequest::new("PUT", "s3", &self.region, &format!("/{}/{key}", self.bucket.name));
        put.add_header("content-type", "application/octet-stream");
        put.add_header("if-none-match", "*");
        put.add_header("x-amz-checksum-sha256", &base64(&sha256(body)));
        put.add_header("x-amz-object-lock-mode", "COMPLIANCE");
        put.add_header("x-amz-object-lock-retain-until-date", &whole_seconds(until));
        put.set_payload(Some(body.clone()));
        put.sign(&self.credentials);
        put
    }

    async fn send(&self, request: SignedRequest) -> Result<BufferedHttpResponse, BlobError> {
        let mut answer = self
            .dispatch
            .dispatch(request, Some(PATIENCE))
            .await
            .map_err(|error| self.unreachable(error.to_string()))?;
        answer.buffer().await.map_err(|error| self.unreachable(error.to_string()))
    }

    /// What is kept under a key already, by a lock as good as a new one would have, if it is the same; [`BlobError::Differs`] if it is not.
    async fn there(&self, key: &Key, body: &Bytes, wanted: Timestamp) -> Result<Option<Kept>, BlobError> {
        let head = HeadObjectRequest {
            bucket: self.bucket.name.clone(),
            key: key.to_string(),
            ..HeadObjectRequest::default()
        };
        match self.client.head_object(head).await {
            Ok(_) => {}
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => return Ok(None),
            Err(RusotoError::Service(_)) => return Ok(None),
            Err(error) => return Err(self.said(error)),
        }
        let Some((version, _)) = self.oldest(key).await? else { return Ok(None) };
        let Some(read) = self.version(key, &version).await? else { return Ok(None) };
        match read.until {
            _ if read.body != *body => Err(BlobError::Differs { store: self.name(), key: key.clone() }),
            Some(until)
                if read.mode.as_deref() == Some("COMPLIANCE") && until.as_second() >= wanted.as_second() - SLACK =>
            {
                Ok(Some(Kept { version, until, before: true }))
            }
            Some(until) => Err(BlobError::NotKept {
                store: self.name(),
                key: key.clone(),
                why: format!(
                    "it lay there before, kept in {} mode until {until}, not in COMPLIANCE mode until {wanted}",
                    read.mode.as_deref().unwrap_or("no")
                ),
            }),
            None => Err(BlobError::NotKept {
                store: self.name(),
                key: key.clone(),
                why: "it lay there before, and nothing keeps it".to_owned(),
            }),
        }
    }

    pub(super) async fn get(&self, key: &Key) -> Result<Option<Object>, BlobError> {
        self.retried(|| async {
            let Some((version, extra)) = self.oldest(key).await? else { return Ok(None) };
            Ok(self.version(key, &version).await?.map(|read| Object { body: read.body, version, extra }))
        })
        .await
    }

    /// The first version of an object, and how many there are beside it, delete markers included.
    async fn oldest(&self, key: &Key) -> Result<Option<(String, usize)>, BlobError> {
        let (mut oldest, mut count) = (None, 0_usize);
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let list = ListObjectVersionsRequest {
                bucket: self.bucket.name.clone(),
                prefix: Some(key.to_string()),
                key_marker: key_marker.take(),
                version_id_marker: version_marker.take(),
                ..ListObjectVersionsRequest::default()
            };
            let page = self.client.list_object_versions(list).await.map_err(|error| self.said(error))?;
            let ours = |name: &Option<String>| name.as_deref() == Some(key.as_str());
            // Newest first, so the last one seen is the first one written.
            for version in page.versions.unwrap_or_default().into_iter().filter(|version| ours(&version.key)) {
                count += 1;
                oldest = version.version_id.or(oldest);
            }
            count += page.delete_markers.unwrap_or_default().iter().filter(|marker| ours(&marker.key)).count();
            key_marker = page.next_key_marker.filter(|marker| marker == key.as_str());
            version_marker = page.next_version_id_marker;
            if page.is_truncated != Some(true) || key_marker.is_none() {
                return Ok(oldest.map(|version| (version, count.saturating_sub(1))));
            }
        }
    }

    async fn version(&self, key: &Key, version: &str) -> Result<Option<Version>, BlobError> {
        let get = GetObjectRequest {
            bucket: self.bucket.name.clone(),
            key: key.to_string(),
            version_id: Some(version.to_owned()),
            ..GetObjectRequest::default()
        };
        let object = match self.client.get_object(get).await {
            Ok(object) => object,
            Err(RusotoError::Service(rusoto_s3::GetObjectError::NoSuchKey(_))) => return Ok(None),
            Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => return Ok(None),
            Err(error) => return Err(self.said(error)),
        };
        let mut body = Vec::new();
        if let Some(stream) = object.body {
            let read = stream.into_async_read().take(LARGEST + 1).read_to_end(&mut body).await;
            read.map_err(|error| self.unreachable(error.to_string()))?;
        }
        let until = object.object_lock_retain_until_date.and_then(|date| date.parse().ok());
        Ok(Some(Version { body: body.into(), mode: object.object_lock_mode, until }))
    }

    pub(super) async fn prove(&self, now: Timestamp) -> Result<Vec<Proof>, BlobError> {
        let key =
            Key::new(format!("proof/{}", now.as_nanosecond())).ok_or_else(|| self.refused("no name for a proof"))?;
        let until = now.checked_add(SignedDuration::from_mins(1)).unwrap_or(now);
        let kept = self.put(&key, Bytes::from_static(b"a proof"), until).await?;
        let delete = DeleteObjectRequest {
            bucket: self.bucket.name.clone(),
            key: key.to_string(),
            version_id: Some(kept.version.clone()),
            ..DeleteObjectRequest::default()
        };
        let deleted = self.client.delete_object(delete.clone()).await.map(drop).map_err(|error| self.said(error));
        let bypass = DeleteObjectRequest { bypass_governance_retention: Some(true), ..delete };
        let bypassed = self.client.delete_object(bypass).await.map(drop).map_err(|error| self.said(error));
        let shorter = PutObjectRetentionRequest {
            bucket: self.bucket.name.clone(),
            key: key.to_string(),
            version_id: Some(kept.version.clone()),
            retention: Some(ObjectLockRetention {
                mode: Some("COMPLIANCE".to_owned()),
                retain_until_date: Some(whole_seconds(now.checked_add(SignedDuration::from_secs(1)).unwrap_or(now))),
            }),
            ..PutObjectRetentionRequest::default()
        };
        let shortened = self.client.put_object_retention(shorter).await.map(drop).map_err(|error| self.said(error));
        let still = self.version(&key, &kept.version).await?;
        let there = still.is_some_and(|read| {
            read.body.as_ref() == b"a proof" && read.until.is_some_and(|at| at.as_second() >= until.as_second())
        });
        let answer = |what, tried: Result<(), BlobError>| match tried {
            Ok(()) => Proof { what, holds: Some(false), say: "it was allowed".to_owned() },
            Err(error @ BlobError::Unreachable { .. }) => Proof { what, holds: None, say: error.to_string() },
            Err(error) => Proof { what, holds: Some(true), say: error.to_string() },
        };
        Ok(vec![
            answer("a locked version is not deleted", deleted),
            answer("not by bypassing governance either", bypassed),
            answer("its date is not brought forward", shortened),
            Proof {
                what: "it is still there, as it was written",
                holds: Some(there),
                say: format!("version {}, kept until {}", kept.version, kept.until),
            },
        ])
    }

    /// Tries again what may work the next time, with growing pauses.
    async fn retried<T, F: Future<Output = Result<T, BlobError>>>(&self, work: impl Fn() -> F) -> Result<T, BlobError> {
        let mut tries = 1;
        loop {
            match work().await {
                Err(error) if error.is_transient() && tries < TRIES => {
                    tracing::debug!(tries, "{error}");
                    tokio::time::sleep(pause(tries)).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    fn said<E: std::error::Error + 'static>(&self, error: RusotoError<E>) -> BlobError {
        match error {
            RusotoError::Unknown(answer) => self.answered(&answer),
            RusotoError::HttpDispatch(error) => self.unreachable(error.to_string()),
            RusotoError::Service(error) => self.refused(error.to_string()),
            RusotoError::Credentials(error) => self.refused(error.to_string()),
            RusotoError::Validation(why) | RusotoError::ParseError(why) => self.unreachable(why),
            RusotoError::Blocking => self.unreachable("blocked"),
        }
    }

    fn answered(&self, answer: &BufferedHttpResponse) -> BlobError {
        let status = answer.status.as_u16();
        let code = code_of(&answer.body).unwrap_or_else(|| "no code".to_owned());
        let why = format!("{status} {code}");
        if status >= 500 || status == 429 || code == "SlowDown" || code == "RequestTimeout" {
            self.unreachable(why)
        } else {
            self.refused(why)
        }
    }
}

/// A date as every store reads it: whole seconds, UTC, `Z`.
fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// `<Code>` of an error document.
fn code_of(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body.get(..body.len().min(4096))?).into_owned();
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    code.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| code.to_owned())
}

/// 50 ms, doubled each time, with a random part so that not everybody comes back at once.
fn pause(tries: u32) -> Duration {
    let mut random = [0_u8; 2];
    let jitter = SystemRandom::new().fill(&mut random).map_or(0, |()| u64::from(u16::from_le_bytes(random)) % 50);
    Duration::from_millis((50 << tries.min(6)) + jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls;

    fn store() -> Store {
        let bucket = Bucket {
            endpoint: "https://s3.example".into(),
            region: "us-east-1".into(),
            name: "evidence".into(),
            access_key: "AK".into(),
            secret_key: "SK".into(),
            http: Http::new(tls::client(rustls::RootCertStore::empty(), None).unwrap()),
        };
        let region = Region::Custom { name: bucket.region.clone(), endpoint: bucket.endpoint.clone() };
        let dispatch = Dispatch::new(bucket.http.clone(), PATIENCE);
        let provider = StaticProvider::new_minimal("AK".into(), "SK".into());
        let client = S3Client::new_with(dispatch.clone(), provider, region.clone());
        Store { bucket, region, credentials: AwsCredentials::new("AK", "SK", None, None), dispatch, client }
    }

    /// No test server insists on these; Amazon does.
    #[test]
    fn a_put_carries_and_signs_body_lock_checksum_and_condition() {
        let until = "2032-01-02T03:04:05.678Z".parse().unwrap();
        let put = store().signed_put(&Key::new("v1/a").unwrap(), &Bytes::from_static(b"body"), until);
        let header = |name: &str| {
            let values = put.headers().get(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(values.len(), 1, "{name}");
            String::from_utf8(values[0].clone()).unwrap()
        };
        assert_eq!(header("x-amz-content-sha256"), crate::crypto::sha256_hex(b"body"));
        assert_eq!(header("x-amz-checksum-sha256"), base64(&sha256(b"body")));
        assert_eq!(header("x-amz-object-lock-mode"), "COMPLIANCE");
        assert_eq!(header("x-amz-object-lock-retain-until-date"), "2032-01-02T03:04:05Z");
        assert_eq!(header("if-none-match"), "*");
        let signed = header("authorization");
        for name in ["if-none-match", "x-amz-checksum-sha256", "x-amz-content-sha256", "x-amz-object-lock-mode"] {
            assert!(signed.contains(name), "{name} is not signed: {signed}");
        }
    }

    #[test]
    fn errors_are_read_from_their_documents() {
        let code = |body: &str| code_of(body.as_bytes());
        assert_eq!(code("<Error><Code>AccessDenied</Code></Error>").as_deref(), Some("AccessDenied"));
        assert_eq!(code("<Error><Code>\u{1b}[31m</Code></Error>"), None);
        assert_eq!(code(""), None);
    }
}
