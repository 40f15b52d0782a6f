//! What the agent does most, timed on this machine: `cargo bench`.
//!
//! Absolute figures depend on the machine, so each row that can be is shown beside a primitive timed in the same run.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench times things, starts the program and prints a table"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use malachor::crypto::keys::{PrivateKey, VerifierKey};
use malachor::crypto::sha256_hex;
use malachor::domain::entry::{EntryDraft, EntryKind, SealContext, Subject};
use malachor::domain::expr::Expr;
use malachor::domain::rule::{Question, RULE_NAMES, Rule, RuleExample, Rules, check_of};
use malachor::evidence::{Input, Options, Trust, verify};
use malachor::phi::Scrubber;
use malachor::store::Store;
use malachor::store::log::{LogWriter, genesis_draft};
use serde_json::{Map, json};

const ORIGIN: &str = "bench.example/malachor/site/appliance";

fn main() {
    println!("{:<44} {:>14}  {:<34} goal", "what", "measured", "beside");
    l1_decision();
    log();
    start_and_rest();
}

fn row(what: &str, measured: &str, beside: &str, goal: &str) {
    println!("{what:<44} {measured:>14}  {beside:<34} {goal}");
}

/// Median time of one call over many.
fn time(mut call: impl FnMut()) -> Duration {
    let mut samples: Vec<Duration> = (0..200)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..50 {
                call();
            }
            start.elapsed() / 50
        })
        .collect();
    samples.sort();
    samples.swap_remove(samples.len() / 2)
}

fn rules(count: usize) -> Rules {
    let rule = |n: usize| {
        let when = format!("check == \"RB-C{}-001\" and \"word_{n}\" in reasons", n / 5);
        Rule {
            id: format!("L1-{n}").parse().expect("a rule id"),
            priority: 10,
            for_check: check_of(&when),
            when: Expr::compile(&when, RULE_NAMES).expect("a condition"),
            run: "RB-C0-001".parse().expect("a check id"),
            with: BTreeMap::new(),
            cooldown: Duration::from_mins(1),
            max_attempts: 3,
            tests: Vec::new(),
        }
    };
    Rules::new((0..count).map(rule).collect())
}

fn l1_decision() {
    for (count, goal) in [(10, "<= 5 us"), (510, "<= 20 us")] {
        let rules = rules(count);
        let example = RuleExample {
            name: String::new(),
            check: format!("RB-C{}-001", count / 5 - 1).parse().expect("a check id"),
            reasons: vec!["none_of_them".to_owned()],
            facts: json!({"units": [{"unit": "a.service", "active": false}], "age_hours": 30}),
            matches: false,
        };
        let spent = time(|| {
            black_box(rules.choose(black_box(&Question::example(&example))).is_some());
        });
        row(&format!("L1 decision, {count} rules, no match"), &format!("{:.2} us", micros(spent)), "", goal);
    }
}

fn micros(spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6
}

fn writer() -> LogWriter {
    let (entry, head) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
    LogWriter::new(ORIGIN.parse().expect("an origin"), entry, head).expect("a writer")
}

fn draft(n: u64) -> EntryDraft {
    EntryDraft {
        kind: EntryKind::Check,
        subject: Subject { name: "malachor:site/host/0011".to_owned(), sha256: sha256_hex(&n.to_be_bytes()) },
        controls: vec!["164.312(b)".to_owned()],
        outcome: Some("pass".to_owned()),
        reason: None,
        runbook: None,
        detail: Map::from_iter([("verdict".to_owned(), json!("pass")), ("n".to_owned(), json!(n))]),
    }
}

fn context() -> SealContext {
    SealContext {
        now: jiff::Timestamp::UNIX_EPOCH,
        boot: String::new(),
        mono_ms: 1,
        agent_version: "bench".to_owned(),
        agent_sha256: sha256_hex(b""),
    }
}

/// Append one by one with fsync, fill to 100,000 in batches, verify.
fn log() {
    const ENTRIES: u64 = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::Builder::new().prefix("malachor-bench-").tempdir_in(".").expect("a directory");
    let writer = writer();
    let (entry, head) = (writer.entry_key().clone(), writer.head_key().clone());
    let store = Store::open(dir.path(), Some(writer)).expect("a store");
    let scrubber = Scrubber::new([3; 32]);
    let subject = Subject { name: "malachor:site/host/0011".to_owned(), sha256: sha256_hex(b"") };
    let genesis = genesis_draft(subject, (&entry, &head), None);
    let append = |drafts: Vec<EntryDraft>| {
        let drafts: Vec<_> = drafts.into_iter().map(|draft| scrubber.scrub(draft)).collect();
        runtime.block_on(store.write(move |tx| tx.append(&drafts, &context()))).expect("an append");
    };
    append(vec![genesis]);
    let fsync = fsync_time(dir.path());
    let start = Instant::now();
    for n in 1..=500 {
        append(vec![draft(n)]);
    }
    let each = start.elapsed() / 500;
    let beside = format!("one 4 KiB write + fsync {:.0} us", micros(fsync));
    row("entry append: scrub, sign, tree, fsync", &format!("{:.0}/s", 1.0 / each.as_secs_f64()), &beside, ">= 300/s");
    let mut next = 501;
    while next < ENTRIES {
        let last = (next + 500).min(ENTRIES);
        append((next..last).map(draft).collect());
        next = last;
    }
    verify_row(dir.path(), &entry, &head, ENTRIES);
}

fn fsync_time(dir: &std::path::Path) -> Duration {
    use std::io::Write;
    let mut file = std::fs::File::create(dir.join("fsync")).expect("a file");
    let start = Instant::now();
    for _ in 0..100 {
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("a write");
    }
    start.elapsed() / 100
}

fn verify_row(dir: &std::path::Path, entry: &VerifierKey, head: &VerifierKey, entries: u64) {
    let mut trust = Trust::default();
    for key in [entry, head] {
        trust.add_key(&key.to_string()).expect("a key");
    }
    let start = Instant::now();
    let report = verify(&Input::one(dir), &trust, Options::default());
    let spent = start.elapsed();
    assert_eq!((report.exit_code(), report.entries()), (0, entries));
    let key = PrivateKey::from_seed(&[1; 32]);
    let signature = key.sign(&[7; 1024]);
    let public = key.public();
    let single = time(|| public.verify(black_box(&[7; 1024]), black_box(&signature)).expect("valid"));
    let beside = format!("one strict Ed25519 verify {:.1} us", micros(single));
    row("evidence verify, 100,000 entries, 2 cores", &format!("{:.2} s", spent.as_secs_f64()), &beside, "");
}

/// Cold start to the first line, and memory of an idle agent.
fn start_and_rest() {
    let program = env!("CARGO_BIN_EXE_malachor");
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let run = |args: &[&str]| {
        let start = Instant::now();
        let status = Command::new(program)
            .args(args)
            .env("MALACHOR__AGENT__STATE_DIR", &state)
            .env("MALACHOR__SITE__ID", "clinic")
            .env("MALACHOR__TELEMETRY__METRICS", "127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("the program starts");
        assert!(status.success());
        start.elapsed()
    };
    run(&["keys", "init"]);
    let mut starts: Vec<Duration> = (0..20).map(|_| run(&["mode"])).collect();
    starts.sort();
    row(
        "cold start: open state, answer, exit",
        &format!("{:.1} ms", micros(starts.swap_remove(10)) / 1000.0),
        "",
        "<= 50 ms",
    );
    let mut agent = Command::new(program)
        .arg("agent")
        .env("MALACHOR__AGENT__STATE_DIR", &state)
        .env("MALACHOR__SITE__ID", "clinic")
        .env("MALACHOR__TELEMETRY__METRICS", "127.0.0.1:0")
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent starts");
    std::thread::sleep(Duration::from_secs(30));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).expect("its status");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("unknown").trim().to_owned();
    agent.kill().and_then(|()| agent.wait()).expect("the agent stops");
    row("resident memory of an idle agent", &rss, "after its first round of checks", "<= 15 MB");
}
