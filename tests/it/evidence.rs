//! The offline verifier against real logs: intact ones, and every way to tamper with one.

mod fixture;
mod mutations;
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use fixture::{Log, SIZE};
use malachor::crypto::{hex, sha256};
use malachor::evidence::report::{At, Reason};
use malachor::evidence::{Input, Options, Report, Trust, Verdict, export, read, verify};

/// What the auditor brings for the fixture's log.
fn trust(log: &Log) -> Trust {
    let mut trust = Trust::default();
    trust.add_key(&log.writer.entry_key().key.to_spki_pem()).unwrap();
    trust.add_key(&log.writer.head_key().to_string()).unwrap();
    trust
}

fn check(path: &Path, trust: &Trust) -> Report {
    verify(&Input::one(path), trust, Options::default())
}

fn reasons(report: &Report) -> Vec<&'static str> {
    report.bad_places().iter().map(|bad| bad.reason.as_str()).collect()
}

/// The files of a folder: length and digest of each.
fn snapshot(dir: &Path) -> BTreeMap<String, (usize, String)> {
    let read = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).unwrap();
        (path.file_name().unwrap().to_str().unwrap().into(), (bytes.len(), hex(&sha256(&bytes))))
    };
    fs::read_dir(dir).unwrap().map(|item| read(item.unwrap().path())).collect()
}

#[test]
fn an_intact_log_verifies_and_says_what_it_does_not_prove() {
    let log = Log::grown();
    let mut report = check(log.dir.path(), &trust(&log));
    assert_eq!((report.exit_code(), report.entries(), report.assurance()), (0, SIZE, "A1"), "{}", report.text());
    assert_eq!(report.verdict(), Verdict::Verified);
    assert_eq!(report.first_bad(), None);
    let text = report.text();
    for line in
        ["signatures (strict)       PASS     260 / 260", "not part of this input", "NOT PROVED", "RESULT   VERIFIED"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // Neither the number of threads nor the place of the directory shows in the report.
    let again = Log::grown();
    assert_ne!(again.dir.path(), log.dir.path());
    report = verify(&Input::one(again.dir.path()), &trust(&again), Options { jobs: 1.try_into().unwrap() });
    assert_eq!(report.json(), check(log.dir.path(), &trust(&log)).json());
}

#[test]
fn the_reports_keep_their_form() {
    let log = Log::grown();
    let named = |report: Report| report.text().replace(log.dir.path().file_name().unwrap().to_str().unwrap(), "state");
    insta::assert_snapshot!("verified_text", named(check(log.dir.path(), &trust(&log))));
    let json = check(log.dir.path(), &trust(&log)).json();
    insta::assert_snapshot!("verified_json", serde_json::to_string_pretty(&json).unwrap());
    log.tamper(
        "UPDATE entry SET line = CAST(replace(line, 'payload\":\"ey', 'payload\":\"fy') AS BLOB) WHERE seq = 17",
    );
    insta::assert_snapshot!("contradicted_text", named(check(log.dir.path(), &trust(&log))));
}

/// A key id is whatever somebody wrote into the file.
#[test]
fn no_foreign_text_can_pass_for_a_line_of_the_report() {
    let log = Log::small();
    let forged = r"x\u001b[2J\nRESULT   VERIFIED (exit 0)\n";
    log.tamper(&format!(
        "UPDATE entry SET line = CAST(replace(replace(line, 'payload\":\"ey', 'payload\":\"fy'), 'keyid\":\"', 'keyid\":\"{forged}') AS BLOB) WHERE seq = 2"
    ));
    let report = check(log.dir.path(), &trust(&log));
    let text = report.text();
    assert!(report.exit_code() == 1 && text.contains("VERIFIED (exit 0)"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("RESULT")).count(), 1, "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn committed_wal_content_is_seen_and_the_directory_is_left_as_it_was() {
    let log = Log::open_wal();
    let all = ["malachor.db", "malachor.db-shm", "malachor.db-wal"];
    assert!(snapshot(log.dir.path())["malachor.db-wal"].0 > 100_000);
    assert!(snapshot(log.dir.path()).keys().eq(all));
    // Beside the running agent, after it died, and from a backup without the shared-memory file. (Connections of one
    // process share their index, so beside the writer only the lasting files can be compared here.)
    let report = check(log.dir.path(), &trust(&log));
    assert_eq!((report.exit_code(), report.entries()), (0, SIZE), "{}", report.text());
    for names in [&all[..], &["malachor.db", "malachor.db-wal"]] {
        let copy = tempfile::tempdir().unwrap();
        for name in names {
            fs::copy(log.dir.path().join(name), copy.path().join(name)).unwrap();
        }
        let before = snapshot(copy.path());
        let report = check(copy.path(), &trust(&log));
        assert_eq!((report.exit_code(), report.entries()), (0, SIZE), "{}", report.text());
        assert_eq!(snapshot(copy.path()), before);
    }
}

#[test]
fn a_closed_database_is_read_without_leaving_files_behind() {
    let log = Log::grown();
    let before = snapshot(log.dir.path());
    assert_eq!(before.keys().collect::<Vec<_>>(), ["malachor.db"]);
    assert_eq!(check(&log.database(), &trust(&log)).exit_code(), 0);
    assert_eq!(snapshot(log.dir.path()), before);
}

#[test]
fn exported_files_verify_like_the_database_they_came_from() {
    let log = Log::grown();
    let out = tempfile::tempdir().unwrap();
    let exported = export(&Input::one(log.dir.path()), out.path(), 100).unwrap();
    assert_eq!((exported.entries, exported.segments, exported.checkpoints), (SIZE, 3, log.heads));
    let seg = snapshot(&out.path().join("seg"));
    assert_eq!(seg.keys().next().unwrap(), "000000000000-000000000099.intoto.jsonl");
    let report = check(out.path(), &trust(&log));
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    assert_eq!(report.json()["input"]["root"], check(log.dir.path(), &trust(&log)).json()["input"]["root"]);
    assert!(export(&Input::one(log.dir.path()), out.path(), 100).is_err(), "a folder in use is refused");

    // The same files named one by one: the newest checkpoint alone covers everything.
    let mut paths: Vec<_> = seg.keys().map(|name| out.path().join("seg").join(name)).collect();
    paths.push(out.path().join("checkpoint.txt"));
    let report = verify(&Input { paths }, &trust(&log), Options::default());
    assert_eq!(report.exit_code(), 0, "{}", report.text());
}

#[test]
fn the_pinned_entry_key_alone_is_enough_because_the_genesis_names_the_head_key() {
    let log = Log::grown();
    let mut only_entry = Trust::default();
    only_entry.add_key(&log.writer.entry_key().to_string()).unwrap();
    assert_eq!(check(log.dir.path(), &only_entry).exit_code(), 0);
    let mut only_head = Trust::default();
    only_head.add_key(&log.writer.head_key().to_string()).unwrap();
    let report = check(log.dir.path(), &only_head);
    assert_eq!((report.exit_code(), report.first_bad().unwrap().reason), (1, Reason::BadSignature));
    let mut both_pem = Trust::default();
    both_pem.add_key(&log.writer.entry_key().key.to_spki_pem()).unwrap();
    both_pem.add_key(&log.writer.head_key().key.to_spki_pem()).unwrap();
    assert_eq!(check(log.dir.path(), &both_pem).exit_code(), 0);
}

/// Whoever has only the head key cannot make a log of their own, whatever their genesis says about its keys.
#[test]
fn a_log_forged_with_the_head_key_alone_is_not_verified() {
    let log = Log::grown();
    let real = (log.writer.entry_key(), log.writer.head_key());
    let forged = Log::forged_with_the_head_key();
    let with = |keys: &[String]| {
        let mut trust = Trust::default();
        for key in keys {
            trust.add_key(key).unwrap();
        }
        check(forged.dir.path(), &trust).exit_code()
    };
    assert_eq!(with(&[real.0.to_string(), real.1.to_string()]), 1, "both by name");
    assert_eq!(with(&[real.1.to_string()]), 1, "the head key alone");
    assert_eq!(with(&[real.0.key.to_spki_pem(), real.1.key.to_spki_pem()]), 1, "both without a name");
}

#[test]
fn a_log_that_vouches_for_itself_is_never_verified() {
    let log = Log::grown();
    let report = check(log.dir.path(), &Trust::default());
    assert_eq!((report.exit_code(), report.assurance()), (3, "A0"), "{}", report.text());
    assert_eq!(report.shortfalls().collect::<Vec<_>>(), [Reason::KeyNotPinned]);
    log.tamper("UPDATE entry SET line = CAST(replace(line, 'sig\":\"', 'sig\":\"A') AS BLOB) WHERE seq = 3");
    assert_eq!(check(log.dir.path(), &Trust::default()).exit_code(), 1, "a contradiction beats a shortfall");
}

#[test]
fn nothing_to_check_is_never_a_pass() {
    let log = Log::empty();
    let report = check(log.dir.path(), &trust(&log));
    assert_eq!(report.exit_code(), 3);
    assert_eq!(report.shortfalls().collect::<Vec<_>>(), [Reason::NothingToCheck]);
    let out = tempfile::tempdir().unwrap();
    assert_eq!(check(out.path(), &trust(&log)).exit_code(), 4, "an empty folder");
    let segment = out.path().join("000000000000-000000000009.intoto.jsonl");
    fs::write(&segment, "").unwrap();
    let report = check(&segment, &trust(&log));
    assert_eq!((report.exit_code(), reasons(&report)), (1, vec!["MISSING"]), "a segment that lost its lines");
}

#[test]
fn what_cannot_be_read_is_unreadable() {
    let log = Log::grown();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("malachor.db", &b"not a database at all, but long enough to be read as one"[..]),
        ("notes.txt", b"hello"),
        ("odd.intoto.jsonl", b"{}\n"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let report = check(&path, &trust(&log));
        assert_eq!(report.exit_code(), 4, "{name}: {}", report.text());
        assert!(report.text().contains(name), "{}", report.text());
        assert!(!report.text().contains(dir.path().to_str().unwrap()), "no path outside the input is shown");
    }
    assert_eq!(check(&dir.path().join("absent"), &trust(&log)).exit_code(), 4);
    assert_eq!(verify(&Input { paths: vec![] }, &trust(&log), Options::default()).exit_code(), 4);
}

#[test]
fn a_checkpoint_held_outside_is_held_against_the_log() {
    let log = Log::grown();
    let other = Log::of_other_site();
    let with = |note: &[u8]| {
        let mut trust = trust(&log);
        trust.expect_checkpoint(note).unwrap();
        check(log.dir.path(), &trust)
    };
    assert_eq!(with(&log.head(100)).exit_code(), 0, "{}", with(&log.head(100)).text());
    let first_bad = |report: &Report| report.first_bad().map(|bad| (bad.at, bad.reason));
    assert_eq!(first_bad(&with(&other.head(100))).unwrap().0, At::Head(100));

    // The owner rewrote the log after handing out a head: both notes are shown.
    let rewritten = Log::rewritten();
    let mut held = trust(&rewritten);
    held.expect_checkpoint(&log.head(200)).unwrap();
    let report = check(rewritten.dir.path(), &held);
    assert_eq!((report.exit_code(), first_bad(&report)), (1, Some((At::Head(200), Reason::Fork))));
    assert_eq!(report.first_bad().unwrap().notes.len(), 2);
    assert!(report.text().matches("signed head:").count() == 2, "{}", report.text());

    // The owner cut off entries together with their heads.
    let cut = Log::grown();
    cut.tamper(
        "DELETE FROM head WHERE size > 200; DELETE FROM outbox WHERE seq >= 200; DELETE FROM entry WHERE seq >= 200",
    );
    cut.tamper("DELETE FROM node WHERE (idx + 1) << level > 200");
    assert_eq!(check(cut.dir.path(), &trust(&cut)).exit_code(), 0, "nobody can see this without a head from outside");
    let mut held = trust(&cut);
    held.expect_checkpoint(&log.head(260)).unwrap();
    let report = check(cut.dir.path(), &held);
    assert_eq!(first_bad(&report), Some((At::Head(260), Reason::ExpectedHeadMismatch)));
}

#[test]
fn entries_are_listed_and_shown_from_either_container() {
    let log = Log::grown();
    let out = tempfile::tempdir().unwrap();
    export(&Input::one(log.dir.path()), out.path(), 64).unwrap();
    for input in [Input::one(log.dir.path()), Input::one(out.path())] {
        let listed = read::list(&input, 100, 3).unwrap();
        assert_eq!(listed.iter().map(|row| row.seq).collect::<Vec<_>>(), [100, 101, 102]);
        assert_eq!((listed[0].kind.as_str(), listed[0].outcome.as_deref()), ("check", Some("pass")));
        let shown = read::show(&input, 101).unwrap();
        assert_eq!(shown["statement"]["predicate"]["seq"], 101);
        assert_eq!(shown["leaf"], listed[1].leaf.as_str());
        assert!(matches!(read::show(&input, SIZE), Err(read::ReadError::Absent(SIZE))));
    }
}
