//! Evidence taken in, with a receipt for each batch, beside the least that must be done with the same entries.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use malachor::crypto::dsse::{Envelope, pae};
use malachor::crypto::sha256_hex;
use malachor::domain::entry::{EntryDraft, EntryKind, SealContext, Subject};
use malachor::phi::Scrubber;
use malachor::store::Store;
use malachor::store::log::{LogWriter, genesis_draft};
use malachor::wire::Receipt;
use serde_json::{Map, json};
use tokio::task::JoinSet;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::database::Databases;
use super::line::{Line, request};
use super::stage::{Appliance, Stage};
use super::{real, row};

/// Appliances that hand over at the same time, one batch each.
const APPLIANCES: usize = 8;
/// Batches of each.
const BATCHES: usize = 12;
/// Entries of a batch, as the agent makes them.
const BATCH: usize = 500;

/// Entries a second that the server verifies, stores, puts into WORM and acknowledges.
pub(crate) async fn taken(databases: &Databases) {
    let stage = Stage::set(databases, APPLIANCES).await;
    let mut logs = Vec::new();
    for appliance in &stage.appliances {
        logs.push(sealed(appliance, &stage.dir().join(format!("log-{}", appliance.id))).await);
    }
    let lines = stage.connect().await;
    let (cpu, database, start) = (stage.cpu(), databases.cpu(), Instant::now());
    let mut pushing = JoinSet::new();
    for (mut line, log) in lines.into_iter().zip(logs.clone()) {
        pushing.spawn(async move { hand_over(&mut line, &log).await });
    }
    pushing.join_all().await;
    let (spent, cpu, database) = (start.elapsed(), stage.cpu() - cpu, databases.cpu() - database);
    let entries = APPLIANCES * BATCHES * BATCH;
    let rate = real(entries) / spent.as_secs_f64();
    let beside = format!(
        "{:.1} core-seconds of the server, {:.1} of the database; {:.0} bytes an entry",
        cpu,
        database,
        real(logs.iter().flatten().map(Vec::len).sum()) / real(entries)
    );
    row(
        "evidence with receipts, durable, batches of 500",
        databases,
        &format!("{rate:.0} entries/s"),
        &beside,
        ">= 5000/s",
    );
    let appliances = stage.appliances.clone();
    // What is timed now has the machine to itself.
    drop(stage);
    let entries: Vec<(usize, &[u8])> = logs.iter().enumerate().flat_map(|(n, log)| lines_of(n, log)).collect();
    let verified = verify(&appliances, &entries);
    let (stored, how) = match databases {
        Databases::Sqlite => (insert(&entries), "one SQLite transaction"),
        Databases::Postgres(postgres) => (copy(&mut postgres.empty().await, &entries).await, "PostgreSQL COPY"),
    };
    let limit = verified + stored;
    let beside = format!(
        "the limit: Ed25519 by ring on all cores {:.2} s + {how} {:.2} s",
        verified.as_secs_f64(),
        stored.as_secs_f64()
    );
    let ratio = format!("{:.2} x", spent.as_secs_f64() / limit.as_secs_f64());
    row("the same, to its limit", databases, &ratio, &beside, "<= 2 x");
}

/// Batches of an appliance's log as its agent would hand them over.
async fn sealed(appliance: &Appliance, dir: &Path) -> Vec<Vec<u8>> {
    let (entry, head) = appliance.keys();
    let writer = LogWriter::new(appliance.origin.parse().expect("an origin"), entry, head).expect("a writer");
    let subject = Subject { name: format!("malachor:{}/host/0011", appliance.site), sha256: sha256_hex(b"") };
    let genesis = genesis_draft(subject.clone(), (writer.entry_key(), writer.head_key()), None);
    std::fs::create_dir(dir).expect("a directory");
    let store = Store::open(dir, Some(writer)).expect("a store");
    let scrubber = Scrubber::new([3; 32]);
    let mut drafts = vec![genesis];
    drafts.extend((1..BATCHES * BATCH).map(|n| draft(&subject, n)));
    let mut batches = Vec::with_capacity(BATCHES);
    for (n, some) in drafts.chunks(BATCH).enumerate() {
        let some: Vec<_> = some.iter().map(|draft| scrubber.scrub(draft.clone())).collect();
        store.write(move |tx| tx.append(&some, &context())).await.expect("entries");
        let (from, until) = ((n * BATCH) as u64, Timestamp::now() + SignedDuration::from_mins(1));
        let batch = store.read(move |tx| tx.outgoing(from, BATCH as u64, until)).await.expect("a batch");
        batches.push(batch.expect("entries that wait"));
    }
    batches
}

fn draft(subject: &Subject, n: usize) -> EntryDraft {
    EntryDraft {
        kind: EntryKind::Check,
        subject: subject.clone(),
        controls: vec!["164.312(b)".to_owned(), "164.308(a)(5)(ii)(B)".to_owned()],
        outcome: Some("pass".to_owned()),
        reason: None,
        runbook: None,
        detail: Map::from_iter([
            ("verdict".to_owned(), json!("pass")),
            ("facts".to_owned(), json!({"units": ["auditd.service", "rsyslog.service"], "active": true, "run": n})),
        ]),
    }
}

fn context() -> SealContext {
    SealContext {
        now: Timestamp::now(),
        boot: "0d1f1c5e-4ac1-4f4f-9f5c-5f0f0d6c0a01".to_owned(),
        mono_ms: 1,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_sha256: sha256_hex(b""),
    }
}

async fn hand_over(line: &mut Line, log: &[Vec<u8>]) {
    for (n, batch) in log.iter().enumerate() {
        let answer = line.ask(&request("POST", "/v1/evidence", None, batch)).await.expect("a receipt");
        let receipt: Receipt = serde_json::from_slice(&answer).expect("a receipt");
        assert_eq!(receipt.size, ((n + 1) * BATCH) as u64);
    }
}

/// The lines of a log, with whose they are.
fn lines_of(whose: usize, log: &[Vec<u8>]) -> impl Iterator<Item = (usize, &[u8])> {
    log.iter().flat_map(move |batch| {
        let end = batch.windows(2).position(|two| two == b"\n\n").expect("an empty line");
        batch[..end].split(|byte| *byte == b'\n').map(move |line| (whose, line))
    })
}

/// How long all cores verify the signatures, and nothing else.
fn verify(appliances: &[Appliance], entries: &[(usize, &[u8])]) -> Duration {
    use ring::signature::{ED25519, UnparsedPublicKey};
    let keys: Vec<[u8; 32]> = appliances.iter().map(|one| *one.keys().0.public().as_bytes()).collect();
    let signed: Vec<([u8; 32], Vec<u8>, [u8; 64])> = entries
        .iter()
        .map(|(whose, line)| {
            let envelope = Envelope::parse(line).expect("an envelope");
            (keys[*whose], pae(&envelope.payload_type, &envelope.payload), envelope.signatures[0].sig)
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for some in signed.chunks(signed.len().div_ceil(cores)) {
            scope.spawn(move || {
                for (key, message, signature) in some {
                    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).expect("a signature that holds");
                }
            });
        }
    });
    start.elapsed()
}

/// How long SQLite takes to keep the lines in one transaction.
fn insert(entries: &[(usize, &[u8])]) -> Duration {
    let dir = tempfile::Builder::new().prefix("malachor-bench-").tempdir_in(".").expect("a directory");
    let mut connection = rusqlite::Connection::open(dir.path().join("lines.db")).expect("a database");
    let make =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE lines (id INTEGER PRIMARY KEY, line BLOB)";
    connection.execute_batch(make).expect("a table");
    let start = Instant::now();
    let tx = connection.transaction().expect("a transaction");
    {
        let mut insert = tx.prepare("INSERT INTO lines (line) VALUES (?1)").expect("a statement");
        for (_, line) in entries {
            insert.execute([line]).expect("a row");
        }
    }
    tx.commit().expect("a commit");
    start.elapsed()
}

/// How long PostgreSQL takes to copy the lines in.
async fn copy(client: &mut tokio_postgres::Client, entries: &[(usize, &[u8])]) -> Duration {
    client.batch_execute("CREATE TABLE lines (line BYTEA NOT NULL)").await.expect("a table");
    let start = Instant::now();
    let sink = client.copy_in::<_, Bytes>("COPY lines (line) FROM STDIN BINARY").await.expect("a copy");
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &[Type::BYTEA]));
    for (_, line) in entries {
        writer.as_mut().write(&[line]).await.expect("a row");
    }
    writer.finish().await.expect("rows on disk");
    start.elapsed()
}
