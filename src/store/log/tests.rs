use super::*;
use crate::phi::Scrubber;

fn database() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(MIGRATION).unwrap();
    conn
}

fn writer() -> LogWriter {
    let origin = "malachor.example/malachor/site/appliance".parse().unwrap();
    LogWriter::new(origin, PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32])).unwrap()
}

fn subject() -> Subject {
    Subject { name: "malachor:site/host/h1".into(), sha256: "0".repeat(64) }
}

fn genesis(writer: &LogWriter) -> EntryDraft {
    genesis_draft(subject(), (writer.entry_key(), writer.head_key()), None)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn heartbeat() -> EntryDraft {
    EntryDraft { kind: EntryKind::Heartbeat, detail: Map::new(), ..without_outcome() }
}

fn without_outcome() -> EntryDraft {
    EntryDraft {
        kind: EntryKind::Check,
        subject: subject(),
        controls: vec!["164.312(b)".into()],
        outcome: None,
        reason: Some("as planned".into()),
        runbook: None,
        detail: Map::new(),
    }
}

fn context(second: i64) -> SealContext {
    SealContext {
        now: at(second),
        boot: "b".into(),
        mono_ms: 5,
        agent_version: "0.1.0".into(),
        agent_sha256: "1".repeat(64),
    }
}

fn append(conn: &mut Connection, writer: &LogWriter, drafts: Vec<EntryDraft>) -> Result<Appended, LogError> {
    append_at(conn, writer, drafts, 1)
}

fn append_at(
    conn: &mut Connection,
    writer: &LogWriter,
    drafts: Vec<EntryDraft>,
    second: i64,
) -> Result<Appended, LogError> {
    let drafts: Vec<_> = drafts.into_iter().map(|draft| Scrubber::new([7; 32]).scrub(draft)).collect();
    let tx = conn.transaction()?;
    let appended = writer.append(&tx, &drafts, &context(second))?;
    tx.commit()?;
    Ok(appended)
}

fn statement(conn: &Connection, seq: u64) -> Statement {
    Statement::parse(&Envelope::parse(&entry(conn, seq).unwrap().0).unwrap().payload).unwrap()
}

#[test]
fn the_tree_grows_call_by_call_and_the_head_covers_it() {
    let (mut conn, writer) = (database(), writer());
    assert_eq!(check_head(&conn, writer.head_key()).unwrap(), None);
    append(&mut conn, &writer, vec![genesis(&writer)]).unwrap();
    let mut size = 1_u64;
    for batch in [1_u64, 2, 3, 5, 8, 1, 1] {
        let drafts = (0..batch).map(|_| heartbeat()).collect();
        let appended = append(&mut conn, &writer, drafts).unwrap();
        assert_eq!((appended.first, appended.last), (size, size + batch - 1));
        size += batch;
        assert_eq!(check_head(&conn, writer.head_key()).unwrap(), Some(appended.head));
    }
    let count = |table: &str| -> u64 {
        conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    assert_eq!((count("entry"), count("outbox"), count("head")), (22, 22, 8));
    assert_eq!(count("node"), 22 - u64::from(22_u64.count_ones()));
}

#[test]
fn each_entry_names_its_place_and_its_signer() {
    let (mut conn, writer) = (database(), writer());
    append(&mut conn, &writer, vec![genesis(&writer), heartbeat()]).unwrap();
    let (line, leaf) = entry(&conn, 0).unwrap();
    let envelope = Envelope::parse(&line).unwrap();
    assert!(envelope.canonical);
    assert_eq!(envelope.signatures[0].keyid, writer.entry_key().id().to_string());
    assert!(envelope.verify(&[writer.entry_key().key]).is_ok());
    let (first, second) = (statement(&conn, 0), statement(&conn, 1));
    assert_eq!(first.prev, genesis_prev("malachor.example/malachor/site/appliance"));
    assert_eq!((first.listed_key("head").as_ref(), first.listed_key("recovery")), (Some(writer.head_key()), None));
    assert_eq!((second.seq, second.prev, second.kind), (1, leaf, EntryKind::Heartbeat));
    assert_eq!(second.text("claimedAt"), Some("2026-01-01T00:00:01Z"));
}

#[test]
fn a_statement_keeps_its_written_form() {
    let (mut conn, writer) = (database(), writer());
    append_at(&mut conn, &writer, vec![genesis(&writer)], 0).unwrap();
    let payload = Envelope::parse(&entry(&conn, 0).unwrap().0).unwrap().payload;
    insta::assert_snapshot!(String::from_utf8(payload).unwrap());
}

#[test]
fn a_clock_that_went_back_is_stated() {
    let (mut conn, writer) = (database(), writer());
    append_at(&mut conn, &writer, vec![genesis(&writer), heartbeat()], 100).unwrap();
    append_at(&mut conn, &writer, vec![heartbeat(), heartbeat()], 40).unwrap();
    let back = |seq| statement(&conn, seq).value.pointer("/predicate/detail/clockWentBackSeconds").cloned();
    assert_eq!((back(1), back(2), back(3)), (None, Some(60.into()), None));
}

#[test]
fn a_log_begins_with_one_genesis_for_the_keys_in_use() {
    let (mut conn, writer) = (database(), writer());
    assert!(matches!(append(&mut conn, &writer, vec![heartbeat()]), Err(LogError::Genesis(_))));
    let other = genesis_draft(subject(), (writer.head_key(), writer.head_key()), None);
    assert!(matches!(append(&mut conn, &writer, vec![other]), Err(LogError::Genesis(_))));
    append(&mut conn, &writer, vec![genesis(&writer)]).unwrap();
    assert!(matches!(append(&mut conn, &writer, vec![genesis(&writer)]), Err(LogError::Genesis(_))));
    assert!(append(&mut conn, &writer, vec![]).is_err());
}

#[test]
fn what_may_not_be_signed_leaves_no_trace() {
    let (mut conn, writer) = (database(), writer());
    append(&mut conn, &writer, vec![genesis(&writer)]).unwrap();
    let with = |name: &str, value: Value| EntryDraft { detail: Map::from_iter([(name.into(), value)]), ..heartbeat() };
    for bad in
        [with("load", json!(0.5)), with("größe", json!(1)), with("dump", "x".repeat(33_000).into()), without_outcome()]
    {
        assert!(append(&mut conn, &writer, vec![heartbeat(), bad]).is_err());
        assert_eq!(load_frontier(&conn).unwrap().size(), 1);
    }
    assert!(check_head(&conn, writer.head_key()).is_ok());
}

#[test]
fn the_database_itself_refuses_to_change_the_past() {
    let (mut conn, writer) = (database(), writer());
    append(&mut conn, &writer, (0..4).map(|i| if i == 0 { genesis(&writer) } else { heartbeat() }).collect()).unwrap();
    for sql in [
        "UPDATE entry SET line = x'00' WHERE seq = 1",
        "DELETE FROM entry WHERE seq = 3",
        "INSERT OR REPLACE INTO entry SELECT seq, line, leaf FROM entry WHERE seq = 2",
        "INSERT INTO entry SELECT 9, line, leaf FROM entry WHERE seq = 2",
        "UPDATE node SET hash = zeroblob(32)",
        "DELETE FROM node",
        "INSERT OR REPLACE INTO node SELECT level, idx, zeroblob(32) FROM node",
        "UPDATE head SET note = x'00'",
        "DELETE FROM head",
        "INSERT OR REPLACE INTO head SELECT size, x'00' FROM head",
        "INSERT INTO head VALUES (2, x'00')",
    ] {
        assert!(conn.execute(sql, []).is_err(), "{sql}");
    }
}

#[test]
fn a_damaged_log_is_neither_opened_nor_extended() {
    for (damage, word) in [
        ("UPDATE node SET hash = zeroblob(32) WHERE level = 2", "root of 5 entries"),
        ("DELETE FROM node WHERE level = 2", "tree node 2/0"),
        ("UPDATE entry SET leaf = zeroblob(32) WHERE seq = 4", "root of 5 entries"),
        ("DELETE FROM head WHERE size = 5; DELETE FROM head", "last head"),
        ("DELETE FROM entry WHERE seq = 4", "entries covered"),
        ("UPDATE head SET note = replace(note, 'site', 'sitf')", "stored head of 5"),
    ] {
        let (mut conn, writer) = (database(), writer());
        let drafts = (0..5).map(|i| if i == 0 { genesis(&writer) } else { heartbeat() }).collect();
        append(&mut conn, &writer, drafts).unwrap();
        for table in ["entry", "node", "head"] {
            let drop = format!("DROP TRIGGER {table}_no_update; DROP TRIGGER {table}_no_delete");
            conn.execute_batch(&drop).unwrap();
        }
        let as_blob = damage.replace("replace(note, 'site', 'sitf')", "CAST(replace(note, 'site', 'sitf') AS BLOB)");
        conn.execute_batch(&format!("PRAGMA foreign_keys = OFF; {as_blob}")).unwrap();
        let message = check_head(&conn, writer.head_key()).unwrap_err().to_string();
        assert!(message.contains(word), "{damage}: {message}");
        assert!(append(&mut conn, &writer, vec![heartbeat()]).is_err(), "{damage}");
    }
}
