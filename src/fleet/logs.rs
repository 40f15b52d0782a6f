//! What the server holds of each appliance's log: entries, complete subtrees, the head it cosigned, where WORM has them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::sql::{Many, within};
use super::{FleetError, Sql, Value};
use crate::crypto::merkle::{Hash, Node};
use crate::domain::id::{ApplianceId, SiteId};
use crate::domain::role::Sites;

/// How far the server followed a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Entries it holds.
    pub size: u64,
    /// Their root.
    pub root: Hash,
    /// The leaf hash of the last one: the next one's `prev`.
    pub prev: Hash,
    /// The head with the appliance's signature and the server's cosignature.
    pub note: Vec<u8>,
    /// When.
    pub advanced_at: Timestamp,
}

/// One entry to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Its index.
    pub seq: u64,
    /// The signed line.
    pub line: Vec<u8>,
    /// Its leaf hash.
    pub leaf: Hash,
    /// Kind of entry.
    pub kind: String,
    /// Outcome, where its kind has one.
    pub outcome: Option<String>,
    /// Runbook, where it names one.
    pub runbook: Option<String>,
    /// When it was sealed, by the appliance's clock.
    pub claimed_at: Timestamp,
}

/// Where WORM has a run of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First entry.
    pub first: u64,
    /// Last entry.
    pub last: u64,
    /// The object's key.
    pub key: String,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its version in the object store.
    pub version: String,
    /// Until when it cannot be deleted.
    pub keep_until: Timestamp,
}

/// How far a log was followed; `None` before its first entry.
pub async fn followed(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<Option<Followed>, FleetError> {
    let select =
        "SELECT size, root, prev, note, advanced_at FROM log WHERE site_id = $1 AND appliance_id = $2 FOR UPDATE";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into()]).await?;
    row.map(|row| {
        Ok(Followed {
            size: row.count(0)?,
            root: row.hash(1)?,
            prev: row.hash(2)?,
            note: row.bytes(3)?,
            advanced_at: row.time(4)?,
        })
    })
    .transpose()
}

/// The leaf hashes of entries `first..=last`, in order.
pub async fn leaves(
    sql: &Sql,
    site: &SiteId,
    id: &ApplianceId,
    (first, last): (u64, u64),
) -> Result<Vec<Hash>, FleetError> {
    let select =
        "SELECT leaf FROM entry WHERE site_id = $1 AND appliance_id = $2 AND seq BETWEEN $3 AND $4 ORDER BY seq";
    let rows = sql.rows(select, &[site.as_str().into(), id.as_str().into(), first.into(), last.into()]).await?;
    rows.iter().map(|row| row.hash(0)).collect()
}

/// The hashes of some complete subtrees; an error where one is not there.
pub async fn nodes(sql: &Sql, site: &SiteId, id: &ApplianceId, wanted: &[(u8, u64)]) -> Result<Vec<Hash>, FleetError> {
    let mut hashes = Vec::with_capacity(wanted.len());
    for (level, index) in wanted {
        let (sql_text, params): (&str, Vec<Value>) = if *level == 0 {
            let select = "SELECT leaf FROM entry WHERE site_id = $1 AND appliance_id = $2 AND seq = $3";
            (select, vec![site.as_str().into(), id.as_str().into(), (*index).into()])
        } else {
            let select = "SELECT hash FROM node WHERE site_id = $1 AND appliance_id = $2 AND level = $3 AND idx = $4";
            (select, vec![site.as_str().into(), id.as_str().into(), u64::from(*level).into(), (*index).into()])
        };
        let row = sql.row(sql_text, &params).await?;
        let missing = || FleetError::Corrupt(format!("tree node {level}/{index} of {site}/{id} is not there"));
        hashes.push(row.ok_or_else(missing)?.hash(0)?);
    }
    Ok(hashes)
}

/// What one step forward adds.
#[derive(Debug)]
pub struct Advance {
    /// Entries the server held before: the step holds only from there.
    pub from: u64,
    /// The new entries.
    pub entries: Vec<NewEntry>,
    /// Subtrees they completed, above the leaves.
    pub nodes: Vec<Node>,
    /// Where WORM has them.
    pub segment: Segment,
    /// How far the log is followed now.
    pub now: Followed,
}

/// Follows a log one step: all of it or nothing, and only from where it stood. [`FleetError::Conflict`] where somebody
/// else was faster.
pub async fn advance(sql: &Sql, site: &SiteId, id: &ApplianceId, step: &Advance) -> Result<(), FleetError> {
    let (site_, id_) = (site.as_str(), id.as_str());
    let now = &step.now;
    let moved = if step.from == 0 {
        let insert = "INSERT INTO log (site_id, appliance_id, size, root, prev, note, advanced_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
                      ON CONFLICT (site_id, appliance_id) DO NOTHING";
        let params = [
            site_.into(),
            id_.into(),
            now.size.into(),
            (&now.root).into(),
            (&now.prev).into(),
            now.note.clone().into(),
            now.advanced_at.into(),
        ];
        sql.run(insert, &params).await?
    } else {
        let update = "UPDATE log SET size = $1, root = $2, prev = $3, note = $4, advanced_at = $5
                      WHERE site_id = $6 AND appliance_id = $7 AND size = $8";
        let params = [
            now.size.into(),
            (&now.root).into(),
            (&now.prev).into(),
            now.note.clone().into(),
            now.advanced_at.into(),
            site_.into(),
            id_.into(),
            step.from.into(),
        ];
        sql.run(update, &params).await?
    };
    if moved == 0 {
        return Err(FleetError::Conflict);
    }
    let entries = step.entries.iter().map(|entry| {
        vec![
            site_.into(),
            id_.into(),
            entry.seq.into(),
            entry.line.clone().into(),
            (&entry.leaf).into(),
            (&entry.kind).into(),
            entry.outcome.clone().into(),
            entry.runbook.clone().into(),
            entry.claimed_at.into(),
            now.advanced_at.into(),
        ]
    });
    sql.run_many(&ENTRIES, entries.collect()).await?;
    let nodes = step.nodes.iter().map(|node| {
        vec![site_.into(), id_.into(), u64::from(node.level).into(), node.index.into(), (&node.hash).into()]
    });
    sql.run_many(&NODES, nodes.collect()).await?;
    let segment = &step.segment;
    let insert =
        "INSERT INTO segment (site_id, appliance_id, first, last, key, sha256, version, keep_until, written_at)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let params = [
        site_.into(),
        id_.into(),
        segment.first.into(),
        segment.last.into(),
        (&segment.key).into(),
        (&segment.sha256).into(),
        (&segment.version).into(),
        segment.keep_until.into(),
        now.advanced_at.into(),
    ];
    sql.run(insert, &params).await.map(drop)
}

const ENTRIES: Many<'static> = Many {
    table: "entry",
    columns: &[
        ("site_id", "text"),
        ("appliance_id", "text"),
        ("seq", "int8"),
        ("line", "bytea"),
        ("leaf", "bytea"),
        ("kind", "text"),
        ("outcome", "text"),
        ("runbook", "text"),
        ("claimed_at", "int8"),
        ("received_at", "int8"),
    ],
};

const NODES: Many<'static> = Many {
    table: "node",
    columns: &[("site_id", "text"), ("appliance_id", "text"), ("level", "int8"), ("idx", "int8"), ("hash", "bytea")],
};

/// Keeps what failed verification, once; says whether it is new.
pub async fn quarantine(
    sql: &Sql,
    (site, id): (&SiteId, &ApplianceId),
    reason: &str,
    (sha256, body): (&str, &[u8]),
    now: Timestamp,
) -> Result<bool, FleetError> {
    let insert =
        "INSERT INTO quarantine (site_id, appliance_id, at, reason, sha256, body) VALUES ($1, $2, $3, $4, $5, $6)
                  ON CONFLICT (site_id, appliance_id, sha256, reason) DO NOTHING";
    let params = [site.as_str().into(), id.as_str().into(), now.into(), reason.into(), sha256.into(), body.into()];
    Ok(sql.run(insert, &params).await? > 0)
}

/// Rows and bytes that are kept of one appliance since some time.
pub async fn quarantined_since(
    sql: &Sql,
    (site, id): (&SiteId, &ApplianceId),
    since: Timestamp,
) -> Result<(u64, u64), FleetError> {
    let select = "SELECT count(*), coalesce(sum(length(body)), 0) FROM quarantine
                  WHERE site_id = $1 AND appliance_id = $2 AND at > $3";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into(), since.into()]).await?;
    row.map_or(Ok((0, 0)), |row| Ok((row.count(0)?, row.count(1)?)))
}

/// One row of the quarantine, without what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub site: SiteId,
    /// Whose it is.
    pub appliance: ApplianceId,
    /// When it came.
    pub at: Timestamp,
    /// Why it was not taken.
    pub reason: String,
    /// SHA-256 of what is kept, in hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

/// What is in quarantine, oldest first.
pub async fn quarantine_rows(sql: &Sql) -> Result<Vec<Quarantined>, FleetError> {
    let select = "SELECT id, site_id, appliance_id, at, reason, sha256, length(body) FROM quarantine ORDER BY id";
    let rows = sql.rows(select, &[]).await?;
    let read = |row: &super::Row| {
        Ok(Quarantined {
            id: row.count(0)?,
            site: row.parse(1)?,
            appliance: row.parse(2)?,
            at: row.time(3)?,
            reason: row.text(4)?,
            sha256: row.text(5)?,
            bytes: row.count(6)?,
        })
    };
    rows.iter().map(read).collect()
}

/// What one row keeps.
pub async fn quarantine_body(sql: &Sql, id: u64) -> Result<Vec<u8>, FleetError> {
    let row = sql.row("SELECT body FROM quarantine WHERE id = $1", &[id.into()]).await?;
    row.ok_or_else(|| FleetError::NotThere(format!("{id} is not in quarantine")))?.bytes(0)
}

/// How much of these sites is in quarantine.
pub async fn quarantined(sql: &Sql, sites: &Sites) -> Result<u64, FleetError> {
    let mut params = Vec::new();
    let theirs = within("site_id", sites, &mut params);
    let row = sql.row(&format!("SELECT count(*) FROM quarantine WHERE {theirs}"), &params).await?;
    row.map_or(Ok(0), |row| row.count(0))
}

/// Entries the server holds of a log; 0 before the first.
pub async fn size(sql: &Sql, site: &SiteId, id: &ApplianceId) -> Result<u64, FleetError> {
    let select = "SELECT size FROM log WHERE site_id = $1 AND appliance_id = $2";
    let row = sql.row(select, &[site.as_str().into(), id.as_str().into()]).await?;
    row.map_or(Ok(0), |row| row.count(0))
}

/// Entries the server holds of every log, by site and appliance.
pub async fn sizes(sql: &Sql) -> Result<BTreeMap<(SiteId, ApplianceId), u64>, FleetError> {
    let rows = sql.rows("SELECT site_id, appliance_id, size FROM log", &[]).await?;
    rows.iter().map(|row| Ok(((row.parse(0)?, row.parse(1)?), row.count(2)?))).collect()
}
