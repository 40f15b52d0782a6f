//! An appliance that a test plays itself: its keys, its certificate, its log, without the program.

use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use malachor::crypto::dsse::{Envelope, IN_TOTO};
use malachor::crypto::keys::{PrivateKey, VerifierKey};
use malachor::crypto::{base64, dsse, jcs, sha256_hex};
use malachor::domain::entry::{EntryDraft, EntryKind, SealContext, Subject};
use malachor::domain::order::REPORT;
use malachor::net::tls::{certificates_of, key_of};
use malachor::phi::Scrubber;
use malachor::store::Store;
use malachor::store::log::{LogWriter, genesis_draft};
use malachor::wire::{CheckIn, Enrol, Keys, Proof, Token, proof_text};

use crate::caller::{Caller, Shown};

/// An appliance before and after enrolment.
pub(crate) struct Enrolled {
    pub(crate) site: String,
    pub(crate) name: String,
    origin: String,
    entry: PrivateKey,
    head: PrivateKey,
    pair: KeyPair,
    certificate: String,
}

impl Enrolled {
    /// One with keys of its own that no server knows.
    pub(crate) fn new(site: &str, name: &str) -> Self {
        Self {
            site: site.to_owned(),
            name: name.to_owned(),
            origin: format!("malachor.example/malachor/{site}/{name}"),
            entry: PrivateKey::generate().unwrap(),
            head: PrivateKey::generate().unwrap(),
            pair: KeyPair::generate().unwrap(),
            certificate: String::new(),
        }
    }

    /// A certificate request.
    pub(crate) fn request(&self) -> Vec<u8> {
        CertificateParams::new(Vec::new()).unwrap().serialize_request(&self.pair).unwrap().der().to_vec()
    }

    /// The body of an enrolment with a token's secret.
    pub(crate) fn body(&self, secret: &str) -> String {
        let (csr, writer) = (self.request(), self.writer());
        let text = proof_text(&self.origin, secret, &csr);
        let asked = Enrol {
            secret: secret.to_owned(),
            csr: base64(&csr),
            origin: self.origin.clone(),
            keys: Keys { entry: writer.entry_key().to_string(), head: writer.head_key().to_string(), recovery: None },
            proof: Proof {
                entry: base64(&self.entry.sign(text.as_bytes())),
                head: base64(&self.head.sign(text.as_bytes())),
            },
        };
        serde_json::to_string(&asked).unwrap()
    }

    /// Enrols with a token's text; gives the key that will cosign its heads.
    pub(crate) async fn enrol(&mut self, caller: &Caller, token: &str) -> String {
        let token = Token::read(token).unwrap();
        let said = caller.ask("POST", "/v1/enrol", &self.body(&token.secret)).await.unwrap();
        assert_eq!(said.status, 200, "{said:?}");
        self.certificate = said.json()["certificate"].as_str().unwrap().to_owned();
        said.json()["witness_key"].as_str().unwrap().to_owned()
    }

    /// What it shows when it connects.
    pub(crate) fn shown(&self) -> Shown {
        self.showing(&self.certificate)
    }

    /// Its certificate and its key, in PEM.
    pub(crate) fn pem(&self) -> (String, String) {
        (self.certificate.clone(), self.pair.serialize_pem())
    }

    /// Another certificate for its key.
    pub(crate) fn showing(&self, certificate: &str) -> Shown {
        (
            certificates_of("", certificate.as_bytes()).unwrap(),
            key_of("", self.pair.serialize_pem().as_bytes()).unwrap(),
        )
    }

    /// A signed report on an order.
    pub(crate) fn report(&self, order: &str, seq: u64) -> String {
        let report = json!({
            "version": 1, "order": order, "site": self.site, "appliance": self.name, "seq": seq,
            "state": "succeeded", "at": "2026-05-04T12:00:00Z", "say": "done",
        });
        let entry = VerifierKey::ed25519(format!("{}/entry", self.origin).parse().unwrap(), self.entry.public());
        let signed = dsse::sign(REPORT, &jcs::to_vec(&report).unwrap(), &self.entry, entry.id()).unwrap();
        json!({"envelope": String::from_utf8(signed).unwrap()}).to_string()
    }

    /// A line of its log with other words in it, signed all the same.
    pub(crate) fn resealed(&self, line: &str, (from, to): (&str, &str)) -> String {
        let payload = String::from_utf8(Envelope::parse(line.as_bytes()).unwrap().payload).unwrap();
        assert!(payload.contains(from), "{payload}");
        let (payload, id) = (payload.replace(from, to), self.writer().entry_key().id());
        String::from_utf8(dsse::sign(IN_TOTO, payload.as_bytes(), &self.entry, id).unwrap()).unwrap()
    }

    /// A check-in of an appliance with a log of this size.
    pub(crate) fn check_in(log_size: u64) -> String {
        let said = CheckIn {
            version: "0".to_owned(),
            time: Timestamp::now().to_string(),
            order_keys: Vec::new(),
            order_seq: 0,
            log_size,
            outbox: 0,
            posture: None,
            inventory: None,
        };
        serde_json::to_string(&said).unwrap()
    }

    fn writer(&self) -> LogWriter {
        let copy = |key: &PrivateKey| PrivateKey::from_pkcs8_pem(&key.to_pkcs8_pem()).unwrap();
        LogWriter::new(self.origin.parse().unwrap(), copy(&self.entry), copy(&self.head)).unwrap()
    }

    /// Its log, with the first entry in it.
    pub(crate) async fn log(&self) -> Log {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Some(self.writer())).unwrap();
        let log = Log { store, scrubber: Scrubber::new([3; 32]), _dir: dir };
        let (entry, head) = (self.writer().entry_key().clone(), self.writer().head_key().clone());
        log.append(vec![genesis_draft(subject(0), (&entry, &head), None)]).await;
        log
    }
}

/// A log of signed entries that waits to be handed over.
pub(crate) struct Log {
    store: Store,
    scrubber: Scrubber,
    _dir: TempDir,
}

impl Log {
    async fn append(&self, drafts: Vec<EntryDraft>) {
        let drafts: Vec<_> = drafts.into_iter().map(|draft| self.scrubber.scrub(draft)).collect();
        self.store.write(move |tx| tx.append(&drafts, &context()).map(drop)).await.unwrap();
    }

    /// Seals some more entries under one head.
    pub(crate) async fn grow(&self, count: u64) {
        let size = self.size().await;
        self.append((size..size + count).map(draft).collect()).await;
    }

    /// Entries in it.
    pub(crate) async fn size(&self) -> u64 {
        self.store.read(|tx| tx.log_size()).await.unwrap()
    }

    /// The body that hands over what follows the first `from` entries, up to about `most`; `None` where nothing does.
    pub(crate) async fn batch(&self, from: u64, most: u64) -> Option<String> {
        let batch = self.store.read(move |tx| tx.outgoing(from, most, Timestamp::MAX)).await.unwrap();
        batch.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    /// All its lines.
    pub(crate) async fn lines(&self) -> Vec<String> {
        let Some(batch) = self.batch(0, u64::MAX / 2).await else { return Vec::new() };
        batch.split_once("\n\n").unwrap().0.lines().map(str::to_owned).collect()
    }
}

fn subject(n: u64) -> Subject {
    Subject { name: "malachor:site/host/0011".to_owned(), sha256: sha256_hex(&n.to_be_bytes()) }
}

fn draft(n: u64) -> EntryDraft {
    EntryDraft {
        kind: EntryKind::Check,
        subject: subject(n),
        controls: vec!["164.312(b)".to_owned()],
        outcome: Some("pass".to_owned()),
        reason: None,
        runbook: None,
        detail: Map::from_iter([("n".to_owned(), Value::from(n))]),
    }
}

fn context() -> SealContext {
    SealContext {
        now: Timestamp::from_second(Timestamp::now().as_second()).unwrap(),
        boot: String::new(),
        mono_ms: 1,
        agent_version: "test".to_owned(),
        agent_sha256: sha256_hex(b""),
    }
}
