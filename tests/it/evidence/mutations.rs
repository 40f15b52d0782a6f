//! The mutation matrix: whoever changes anything is found, at the right place, for the right reason.

use std::fs;

use malachor::crypto::dsse::{self, Envelope, IN_TOTO};
use malachor::crypto::keys::PrivateKey;
use malachor::crypto::merkle::leaf_hash;
use malachor::evidence::report::{At, Reason};
use malachor::evidence::{Bad, Input, Report, Trust, export};

use super::fixture::{Log, SIZE, SMALL};
use super::{check, reasons, trust};

/// First, middle, last, and the edge of a tile.
const PLACES: [u64; 7] = [0, 1, 130, 255, 256, 257, SIZE - 1];

fn first(report: &Report) -> (At, Reason) {
    assert_eq!(report.exit_code(), 1, "{}", report.text());
    let Bad { at, reason, .. } = report.first_bad().unwrap();
    (*at, *reason)
}

/// Pseudo-random but the same in every run.
fn scattered(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i * 7919 + 13) * 104_729 % length)
}

fn flip(bytes: &[u8], at: usize, bit: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[at] ^= 1 << (bit % 8);
    out
}

#[test]
fn any_flipped_byte_of_an_entry_is_found_at_that_entry() {
    let (small, grown) = (Log::small(), Log::grown());
    // Scattered over the whole line, so that every member of the envelope is met.
    for place in [0, 3, 5] {
        flip_entry(&small, place, 40);
    }
    for place in PLACES {
        flip_entry(&grown, place, 2);
    }
}

/// Flips one bit of each of at most `count` bytes of an entry, one after the other.
fn flip_entry(log: &Log, place: u64, count: usize) {
    let (trust, conn) = (trust(log), log.unguarded());
    let line = log.lines().swap_remove(usize::try_from(place).unwrap());
    let put = |line: &[u8]| conn.execute("UPDATE entry SET line = ?2 WHERE seq = ?1", (place, line)).unwrap();
    let positions: Vec<_> =
        if count < line.len() { scattered(line.len(), count).collect() } else { (0..line.len()).collect() };
    for at in positions {
        put(&flip(&line, at, at));
        let report = check(log.dir.path(), &trust);
        let (found, reason) = first(&report);
        assert_eq!(found, At::Entry(place), "byte {at}: {}", report.text());
        let allowed = [Reason::Malformed, Reason::BadSignature, Reason::Unsigned, Reason::LeafMismatch];
        assert!(allowed.contains(&reason), "byte {at}: {}", reason.as_str());
    }
    put(&line);
    assert_eq!(check(log.dir.path(), &trust).exit_code(), 0);
}

#[test]
fn any_flipped_byte_of_exported_files_is_found() {
    let log = Log::grown();
    let out = tempfile::tempdir().unwrap();
    export(&Input::one(log.dir.path()), out.path(), 100).unwrap();
    let trust = trust(&log);
    for name in ["seg/000000000200-000000000259.intoto.jsonl", "checkpoints/000000000100.txt", "checkpoint.txt"] {
        let path = out.path().join(name);
        let bytes = fs::read(&path).unwrap();
        for at in scattered(bytes.len(), 3) {
            fs::write(&path, flip(&bytes, at, at / 8)).unwrap();
            assert_eq!(check(out.path(), &trust).exit_code(), 1, "{name} byte {at}");
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(check(out.path(), &trust).exit_code(), 0);
}

#[test]
fn any_flipped_byte_of_a_head_is_found_at_that_head() {
    let (small, grown) = (Log::small(), Log::grown());
    for (log, sizes, step) in [(&small, &[1, SMALL][..], 5), (&grown, &[100, 256, SIZE], 61)] {
        let (trust, conn) = (trust(log), log.unguarded());
        for size in sizes {
            let note = log.head(*size);
            for at in (0..note.len()).step_by(step) {
                conn.execute("UPDATE head SET note = ?2 WHERE size = ?1", (size, flip(&note, at, at / step))).unwrap();
                assert_eq!(first(&check(log.dir.path(), &trust)).0, At::Head(*size), "size {size} byte {at}");
            }
            conn.execute("UPDATE head SET note = ?2 WHERE size = ?1", (size, note)).unwrap();
        }
    }
}

#[test]
fn a_flipped_byte_of_a_key_never_verifies() {
    let log = Log::small();
    let (pem, vkey) = (log.writer.entry_key().key.to_spki_pem(), log.writer.entry_key().to_string());
    for text in [pem, vkey] {
        for at in 0..text.len() {
            let Ok(flipped) = String::from_utf8(flip(text.as_bytes(), at, at % 6)) else { continue };
            let mut trust = Trust::default();
            // Refused at load, or it verifies nothing; a byte of white space may change nothing at all.
            if trust.add_key(&flipped).is_ok() {
                let same = flipped.split_whitespace().eq(text.split_whitespace());
                assert_eq!(check(log.dir.path(), &trust).exit_code(), u8::from(!same), "byte {at}");
            }
        }
    }
}

#[test]
fn stored_hashes_are_never_trusted() {
    for (sql, at, reason) in [
        ("UPDATE entry SET leaf = zeroblob(32) WHERE seq = 130", 130, Reason::LeafMismatch),
        ("UPDATE node SET hash = zeroblob(32) WHERE level = 3 AND idx = 2", 23, Reason::NodeMismatch),
        ("DELETE FROM node WHERE level = 8", 255, Reason::NodeMismatch),
        ("INSERT INTO node VALUES (9, 0, zeroblob(32))", 259, Reason::NodeMismatch),
    ] {
        let log = Log::grown();
        log.tamper(sql);
        assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(at), reason), "{sql}");
    }
}

#[test]
fn rows_that_vanish_move_or_return_are_found_where_it_happened() {
    for at in [0, 1, 130, 255, 256, 257] {
        let log = Log::grown();
        log.tamper(&format!("DELETE FROM entry WHERE seq = {at}"));
        assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(at), Reason::Missing));

        let log = Log::grown();
        log.tamper(&format!(
            "UPDATE entry SET seq = -1 WHERE seq = {at}; UPDATE entry SET seq = {at} WHERE seq = {at} + 1;
             UPDATE entry SET seq = {at} + 1 WHERE seq = -1"
        ));
        assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(at), Reason::SeqMismatch));

        let log = Log::grown();
        log.tamper(&format!(
            "UPDATE entry SET seq = -seq - 1 WHERE seq > {at}; UPDATE entry SET seq = -seq WHERE seq < 0;
             INSERT INTO entry SELECT {at} + 1, line, leaf FROM entry WHERE seq = {at}"
        ));
        assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(at + 1), Reason::SeqMismatch));
    }
}

#[test]
fn lines_that_vanish_move_or_return_are_found_where_it_happened() {
    let log = Log::grown();
    let (trust, lines) = (trust(&log), log.lines());
    let out = tempfile::tempdir().unwrap();
    export(&Input::one(log.dir.path()), out.path(), 1000).unwrap();
    let segment = out.path().join("seg/000000000000-000000000259.intoto.jsonl");
    let judge = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = lines.clone();
        edit(&mut lines);
        fs::write(&segment, lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect::<Vec<_>>())
            .unwrap();
        let report = check(out.path(), &trust);
        let place = report.first_bad().unwrap().line;
        (first(&report), place)
    };
    for at in [1_usize, 130, 255, 256, 257] {
        let seq = at as u64;
        let here = |seq: u64| ((At::Entry(seq), Reason::SeqMismatch), Some(seq + 1));
        assert_eq!(judge(&|lines| drop(lines.remove(at))), here(seq), "deleted");
        assert_eq!(judge(&|lines| lines.swap(at, at + 1)), here(seq), "swapped");
        assert_eq!(judge(&|lines| lines.insert(at, lines[at - 1].clone())), here(seq), "doubled");
        let forged = judge(&|lines| lines.insert(at, b"{}".to_vec()));
        assert_eq!(forged, ((At::Entry(seq), Reason::Malformed), Some(seq + 1)), "inserted");
    }
    let cut = judge(&|lines| lines.truncate(250));
    assert_eq!(cut.0, (At::Entry(250), Reason::Missing));
    let endless = judge(&|lines| lines[7] = vec![b' '; 1 << 20]);
    assert_eq!(endless, ((At::Entry(7), Reason::Malformed), Some(8)), "a line too long to be an entry");
}

#[test]
fn a_missing_segment_is_missing_and_nothing_else() {
    let log = Log::grown();
    let out = tempfile::tempdir().unwrap();
    export(&Input::one(log.dir.path()), out.path(), 50).unwrap();
    fs::remove_file(out.path().join("seg/000000000100-000000000149.intoto.jsonl")).unwrap();
    let report = check(out.path(), &trust(&log));
    assert_eq!(first(&report), (At::Entry(100), Reason::Missing));
    assert_eq!(reasons(&report), ["MISSING", "ROOT_MISMATCH"]);
}

#[test]
fn a_cut_tail_is_told_by_the_heads_and_an_uncovered_one_is_not_enough() {
    let log = Log::grown();
    log.tamper("DELETE FROM entry WHERE seq >= 250");
    let report = check(log.dir.path(), &trust(&log));
    assert_eq!(report.exit_code(), 1);
    assert!(reasons(&report).contains(&"TAIL_MISSING"), "{}", report.text());

    let log = Log::grown();
    log.tamper("DELETE FROM head WHERE size > 256");
    let report = check(log.dir.path(), &trust(&log));
    assert_eq!((report.exit_code(), report.shortfalls().collect::<Vec<_>>()), (3, vec![Reason::TailNotCovered]));
    log.tamper("DELETE FROM head");
    assert_eq!(check(log.dir.path(), &trust(&log)).exit_code(), 3, "no head at all");
}

#[test]
fn another_sites_log_is_never_this_ones() {
    let (log, other) = (Log::grown(), Log::of_other_site());
    let report = check(other.dir.path(), &trust(&log));
    assert_eq!(first(&report), (At::Entry(0), Reason::BadSignature));
    let mut both = trust(&log);
    both.add_key(&other.writer.entry_key().to_string()).unwrap();
    both.add_key(&other.writer.head_key().to_string()).unwrap();
    both.expect_origin("malachor.example/malachor/site-a/appliance-1").unwrap();
    assert_eq!(first(&check(other.dir.path(), &both)), (At::Entry(0), Reason::WrongOrigin));

    // One entry and one head of the other site inside this log, with both keys trusted.
    log.put_line(130, &other.lines()[130]);
    assert_eq!(first(&check(log.dir.path(), &both)), (At::Entry(130), Reason::WrongOrigin));
    let log = Log::grown();
    let swap = log.unguarded().execute("UPDATE head SET note = ?1 WHERE size = 100", [other.head(100)]).unwrap();
    assert_eq!((swap, first(&check(log.dir.path(), &both))), (1, (At::Head(100), Reason::WrongOrigin)));
}

#[test]
fn a_second_signer_or_a_rewrite_by_the_owner_is_found() {
    let log = Log::grown();
    let payload = Envelope::parse(&log.lines()[130]).unwrap().payload;
    let stranger = PrivateKey::from_seed(&[99; 32]);
    let forged = dsse::sign(IN_TOTO, &payload, &stranger, log.writer.entry_key().id()).unwrap();
    log.put_line(130, &forged);
    assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(130), Reason::BadSignature));

    // The owner re-signs entry 130 with another story and repairs the stored leaf: chain and heads still differ.
    let (log, other) = (Log::grown(), Log::rewritten());
    let line = &other.lines()[130];
    log.put_line(130, line);
    let fix = log.unguarded();
    fix.execute("UPDATE entry SET leaf = ?1 WHERE seq = 130", [leaf_hash(line)]).unwrap();
    assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(130), Reason::ChainBreak));

    // The whole tail rewritten and the heads after it kept: the first head behind the change says so.
    let mut query = fix.prepare("UPDATE entry SET line = ?2, leaf = ?3 WHERE seq = ?1").unwrap();
    for (seq, line) in other.lines().iter().enumerate().skip(50) {
        query.execute((seq, line, leaf_hash(line))).unwrap();
    }
    fix.execute("ATTACH ?1 AS other", [other.database().to_str().unwrap()]).unwrap();
    fix.execute_batch("DELETE FROM main.node; INSERT INTO main.node SELECT * FROM other.node").unwrap();
    let (at, reason) = first(&check(log.dir.path(), &trust(&log)));
    assert_eq!(reason, Reason::RootMismatch);
    assert!(matches!(at, At::Head(51..=56)), "{at:?}");

    // The head key may not sign entries, though the auditor trusts it.
    let log = Log::grown();
    let seed = malachor::crypto::sha256(b"site-a")[0] ^ 255;
    let by_head_key = dsse::sign(IN_TOTO, &payload, &PrivateKey::from_seed(&[seed; 32]), log.writer.head_key().id());
    log.put_line(130, &by_head_key.unwrap());
    assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(130), Reason::BadSignature));
}

#[test]
fn two_heads_of_one_size_are_a_fork_and_both_are_shown() {
    let (log, other) = (Log::grown(), Log::rewritten());
    let out = tempfile::tempdir().unwrap();
    export(&Input::one(log.dir.path()), out.path(), 1000).unwrap();
    fs::create_dir_all(out.path().join("customer/checkpoints")).unwrap();
    fs::write(out.path().join("customer/checkpoints/000000000200.txt"), other.head(200)).unwrap();
    let report = check(out.path(), &trust(&log));
    let fork = report.bad_places().iter().find(|bad| bad.reason == Reason::Fork).unwrap();
    assert_eq!((report.exit_code(), fork.at, fork.notes.len()), (1, At::Head(200), 2));
}

#[test]
fn a_stripped_signature_or_a_word_like_legacy_relaxes_nothing() {
    let log = Log::grown();
    let line = String::from_utf8(log.lines()[130].clone()).unwrap();
    let start = line.find(r#"[{"keyid""#).unwrap();
    log.put_line(130, format!("{}[]}}", &line[..start]).as_bytes());
    assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(130), Reason::Unsigned));
    log.put_line(130, line.replacen('{', r#"{"ots_status":"legacy","#, 1).as_bytes());
    assert_eq!(first(&check(log.dir.path(), &trust(&log))), (At::Entry(130), Reason::Malformed));
}

#[test]
fn a_thousand_bad_entries_are_listed_and_the_rest_counted() {
    let log = Log::grown();
    log.tamper("UPDATE entry SET line = x'7b7d'");
    let report = check(log.dir.path(), &trust(&log));
    assert_eq!(report.exit_code(), 1);
    let json = report.json();
    assert!(json["badTotal"].as_u64().unwrap() > SIZE, "{}", json["badTotal"]);
    assert!(json["bad"].as_array().unwrap().len() <= 1000);
}

#[test]
fn signed_bytes_that_are_not_canonical_are_a_lint_only() {
    let log = Log::grown();
    let entry_seed = malachor::crypto::sha256(b"site-a")[0];
    let line = log.lines().pop().unwrap();
    let payload = String::from_utf8(Envelope::parse(&line).unwrap().payload).unwrap().replacen(':', ": ", 1);
    let key = PrivateKey::from_seed(&[entry_seed; 32]);
    let line = dsse::sign(IN_TOTO, payload.as_bytes(), &key, log.writer.entry_key().id()).unwrap();
    log.put_line(SIZE - 1, &line);
    let fix = log.unguarded();
    fix.execute("UPDATE entry SET leaf = ?1 WHERE seq = 259", [leaf_hash(&line)]).unwrap();
    fix.execute_batch(
        "DELETE FROM head WHERE size > 257; DELETE FROM node WHERE level > 0 AND (idx + 1) << level = 260",
    )
    .unwrap();
    let report = check(log.dir.path(), &trust(&log));
    assert!(report.text().contains("NON_CANONICAL"), "{}", report.text());
    assert!(!reasons(&report).contains(&"BAD_SIGNATURE"));
}
