//! Findings, incidents, executions, approvals, exceptions and settings as rows.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::baseline::Baseline;
use crate::domain::exception::Exception;
use crate::domain::finding::{Finding, Verdict};
use crate::domain::id::{CheckId, RecordId, Target};
use crate::domain::incident::Incident;
use crate::domain::plan::Plan;

use super::{StoreError, Tx};

/// Failures older than this say nothing about flapping any more.
const FAILURES_KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);

/// A finding with its history.
#[derive(Debug, Clone)]
pub struct KnownFinding {
    /// The finding as last seen.
    pub finding: Finding,
    /// Since when its verdict is what it is.
    pub since: Timestamp,
    /// Failing runs in a row.
    pub fails_in_row: u32,
}

/// Where a check stands: its last finding, and how many executions about it began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    observed_at: Option<Timestamp>,
    healed: i64,
}

/// One run of a plan.
#[derive(Debug, Clone)]
pub struct Execution {
    /// Its id.
    pub id: RecordId,
    /// The plan that runs.
    pub plan: Plan,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// What became of it.
    pub outcome: Option<String>,
}

/// A question to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// Its id.
    pub id: RecordId,
    /// The incident.
    pub incident: RecordId,
    /// Hash of exactly the plan in question; the plan holds the hash of its facts.
    pub plan_sha256: String,
    /// pending, granted, rejected, used or expired.
    pub state: String,
    /// When it was asked.
    pub requested_at: Timestamp,
    /// When the question lapses.
    pub expires_at: Timestamp,
    /// Who answered.
    pub decided_by: Option<String>,
}

/// A named setting people change at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its value.
    pub value: String,
    /// Who set it.
    pub changed_by: String,
    /// When.
    pub changed_at: Timestamp,
}

impl Tx<'_> {
    /// The findings of all checks, in order of their ids.
    pub fn findings(&self) -> Result<Vec<KnownFinding>, StoreError> {
        self.many("SELECT body, since, fails_in_row FROM finding ORDER BY check_id, target", [], known_finding)
    }

    /// The last finding of a check.
    pub fn finding(&self, check: &CheckId, target: &Target) -> Result<Option<KnownFinding>, StoreError> {
        let sql = "SELECT body, since, fails_in_row FROM finding WHERE check_id = ?1 AND target = ?2";
        self.one(sql, params![check.as_str(), target.as_str()], known_finding)
    }

    /// Replaces the finding of a check and keeps its history: since when, how often in a row, each turn to fail.
    pub fn put_finding(&self, finding: &Finding) -> Result<KnownFinding, StoreError> {
        let before = self.finding(&finding.check, &finding.target)?;
        let same = before.as_ref().filter(|before| before.finding.verdict == finding.verdict);
        let since = same.map_or(finding.observed_at, |before| before.since);
        let fails_before = before.as_ref().map_or(0, |before| before.fails_in_row);
        let fails_in_row = match finding.verdict {
            Verdict::Fail => fails_before.saturating_add(1),
            // What cannot be seen neither adds to a row of failures nor ends it.
            Verdict::Unknown => fails_before,
            Verdict::Pass | Verdict::Warn | Verdict::NotApplicable => 0,
        };
        if finding.verdict == Verdict::Fail && fails_in_row == 1 {
            // Of this check only: one finding dated ahead by a wrong clock takes nobody else's history along.
            let kept = finding.observed_at.checked_sub(FAILURES_KEPT).unwrap_or(Timestamp::MIN);
            let old = "DELETE FROM failure WHERE check_id = ?1 AND target = ?2 AND at < ?3";
            self.run(old, params![finding.check.as_str(), finding.target.as_str(), kept.to_string()])?;
            let sql = "INSERT OR IGNORE INTO failure (check_id, target, at) VALUES (?1, ?2, ?3)";
            self.run(sql, params![finding.check.as_str(), finding.target.as_str(), finding.observed_at.to_string()])?;
        }
        let sql = "INSERT INTO finding (check_id, target, observed_at, since, fails_in_row, last_pass, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                   ON CONFLICT (check_id, target) DO UPDATE SET observed_at = excluded.observed_at, since = excluded.since,
                   fails_in_row = excluded.fails_in_row, last_pass = coalesce(excluded.last_pass, last_pass), body = excluded.body";
        let (check, target, at) = (finding.check.as_str(), finding.target.as_str(), finding.observed_at.to_string());
        let last_pass = (finding.verdict == Verdict::Pass).then(|| at.clone());
        self.run(sql, params![check, target, at, since.to_string(), fails_in_row, last_pass, json(finding)?])?;
        Ok(KnownFinding { finding: finding.clone(), since, fails_in_row })
    }

    /// Whether a check ever passed.
    pub fn ever_passed(&self, check: &CheckId, target: &Target) -> Result<bool, StoreError> {
        let sql = "SELECT last_pass IS NOT NULL FROM finding WHERE check_id = ?1 AND target = ?2";
        let passed =
            self.one(sql, params![check.as_str(), target.as_str()], |row| row.get(0).map_err(StoreError::from))?;
        Ok(passed.unwrap_or(false))
    }

    /// When a check turned from passing to failing.
    pub fn failures(&self, check: &CheckId, target: &Target) -> Result<Vec<Timestamp>, StoreError> {
        let sql = "SELECT at FROM failure WHERE check_id = ?1 AND target = ?2 ORDER BY at";
        self.many(sql, params![check.as_str(), target.as_str()], |row| time(row, 0))
    }

    /// The open incident of a check.
    pub fn open_incident(&self, check: &CheckId, target: &Target) -> Result<Option<Incident>, StoreError> {
        let sql = "SELECT body FROM incident WHERE check_id = ?1 AND target = ?2 AND state <> 'resolved'";
        self.one(sql, params![check.as_str(), target.as_str()], body)
    }

    /// An incident by its id.
    pub fn incident(&self, id: &RecordId) -> Result<Option<Incident>, StoreError> {
        self.one("SELECT body FROM incident WHERE id = ?1", params![id.as_str()], body)
    }

    /// Incidents, newest first; only open ones unless `all`.
    pub fn incidents(&self, all: bool) -> Result<Vec<Incident>, StoreError> {
        let sql = "SELECT body FROM incident WHERE ?1 OR state <> 'resolved' ORDER BY opened_at DESC, id LIMIT 1000";
        self.many(sql, params![all], body)
    }

    /// Writes an incident.
    pub fn put_incident(&self, incident: &Incident) -> Result<(), StoreError> {
        let sql = "INSERT INTO incident (id, check_id, target, state, opened_at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                   ON CONFLICT (id) DO UPDATE SET state = excluded.state, body = excluded.body";
        let (check, target) = (incident.check.as_str(), incident.target.as_str());
        let (state, opened) = (incident.state.word(), incident.opened_at.to_string());
        self.run(sql, params![incident.id.as_str(), check, target, state, opened, json(incident)?])
    }

    /// Begins an execution.
    pub fn begin_execution(&self, execution: &Execution) -> Result<(), StoreError> {
        let plan = &execution.plan;
        let sql = "INSERT INTO execution (id, incident_id, target, runbook, disruptive, plan, started_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let (id, incident, target) = (execution.id.as_str(), plan.incident.as_str(), plan.target.as_str());
        let started = execution.started_at.to_string();
        self.run(sql, params![id, incident, target, plan.runbook.as_str(), plan.disruptive, json(plan)?, started])
    }

    /// Ends an execution; ending one that is over is a defect and changes nothing.
    pub fn end_execution(&self, id: &RecordId, outcome: &str, now: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE execution SET ended_at = ?2, outcome = ?3 WHERE id = ?1 AND ended_at IS NULL";
        self.changed_one(sql, params![id.as_str(), now.to_string(), outcome], || {
            format!("execution {id} is not running")
        })
    }

    /// Executions that are not over.
    pub fn open_executions(&self) -> Result<Vec<Execution>, StoreError> {
        let sql = "SELECT id, plan, started_at, ended_at, outcome FROM execution WHERE ended_at IS NULL ORDER BY started_at, id";
        self.many(sql, [], execution)
    }

    /// The executions of an incident, oldest first.
    pub fn executions_of(&self, incident: &RecordId) -> Result<Vec<Execution>, StoreError> {
        let sql = "SELECT id, plan, started_at, ended_at, outcome FROM execution WHERE incident_id = ?1 ORDER BY started_at, id";
        self.many(sql, params![incident.as_str()], execution)
    }

    /// How many executions began from `since` to `now`. What a wrong clock dated ahead of now does not count.
    pub fn executions_between(&self, since: Timestamp, now: Timestamp) -> Result<u32, StoreError> {
        let sql = "SELECT count(*) FROM execution WHERE started_at BETWEEN ?1 AND ?2";
        let values = params![since.to_string(), now.to_string()];
        Ok(self.one(sql, values, |row| row.get(0).map_err(StoreError::from))?.unwrap_or(0))
    }

    /// Where a check stands; another mark later says that somebody looked or healed meanwhile.
    pub fn mark(&self, check: &CheckId, target: &Target) -> Result<Mark, StoreError> {
        let sql = "SELECT count(*) + count(execution.ended_at) FROM execution JOIN incident ON incident.id = execution.incident_id
                   WHERE incident.check_id = ?1 AND incident.target = ?2";
        let healed: Option<i64> =
            self.one(sql, params![check.as_str(), target.as_str()], |row| row.get(0).map_err(StoreError::from))?;
        let observed_at = self.finding(check, target)?.map(|known| known.finding.observed_at);
        Ok(Mark { observed_at, healed: healed.unwrap_or(0) })
    }

    /// Adds to an execution's journal.
    pub fn journal<E: Serialize>(&self, id: &RecordId, event: &E, now: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO journal (execution_id, n, at, event)
                   SELECT ?1, 1 + coalesce(max(n), 0), ?2, ?3 FROM journal WHERE execution_id = ?1";
        self.run(sql, params![id.as_str(), now.to_string(), json(event)?])
    }

    /// An execution's journal, in order.
    pub fn journal_of<E: DeserializeOwned>(&self, id: &RecordId) -> Result<Vec<(Timestamp, E)>, StoreError> {
        let sql = "SELECT event, at FROM journal WHERE execution_id = ?1 ORDER BY n";
        self.many(sql, params![id.as_str()], |row| Ok((time(row, 1)?, body(row)?)))
    }

    /// Writes a question to a person.
    pub fn put_approval(&self, approval: &Approval) -> Result<(), StoreError> {
        let sql = "INSERT INTO approval (id, incident_id, plan_sha256, state, requested_at, expires_at, decided_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                   ON CONFLICT (id) DO UPDATE SET state = excluded.state, decided_by = excluded.decided_by";
        let (id, incident, requested) =
            (approval.id.as_str(), approval.incident.as_str(), approval.requested_at.to_string());
        let expires = approval.expires_at.to_string();
        self.run(
            sql,
            params![id, incident, approval.plan_sha256, approval.state, requested, expires, approval.decided_by],
        )
    }

    /// Questions in these states (all where empty), newest first.
    pub fn approvals(&self, states: &'static [&'static str]) -> Result<Vec<Approval>, StoreError> {
        let sql = "SELECT id, incident_id, plan_sha256, state, requested_at, expires_at, decided_by FROM approval ORDER BY requested_at DESC, id LIMIT 1000";
        let mut approvals = self.many(sql, [], approval)?;
        approvals.retain(|approval| states.is_empty() || states.contains(&approval.state.as_str()));
        Ok(approvals)
    }

    /// Adds an exception.
    pub fn add_exception(&self, exception: &Exception) -> Result<(), StoreError> {
        let sql = "INSERT INTO exception (id, created_at, body) VALUES (?1, ?2, ?3)";
        self.run(sql, params![exception.id.as_str(), exception.created.to_string(), json(exception)?])
    }

    /// Ends an exception before its time.
    pub fn remove_exception(&self, id: &RecordId, who: &str, now: Timestamp) -> Result<(), StoreError> {
        let sql = "UPDATE exception SET removed_at = ?2, removed_by = ?3 WHERE id = ?1 AND removed_at IS NULL";
        self.changed_one(sql, params![id.as_str(), now.to_string(), who], || format!("there is no exception {id}"))
    }

    /// Exceptions that were not removed, expired ones included.
    pub fn exceptions(&self) -> Result<Vec<Exception>, StoreError> {
        self.many("SELECT body FROM exception WHERE removed_at IS NULL ORDER BY created_at, id", [], body)
    }

    /// What was accepted as right for a check; the newest version.
    pub fn baseline(&self, check: &CheckId, target: &Target) -> Result<Option<Baseline>, StoreError> {
        let sql = "SELECT body FROM baseline WHERE check_id = ?1 AND target = ?2 ORDER BY version DESC LIMIT 1";
        self.one(sql, params![check.as_str(), target.as_str()], body)
    }

    /// Accepts facts as right; a version is written once.
    pub fn add_baseline(&self, baseline: &Baseline) -> Result<(), StoreError> {
        let sql = "INSERT INTO baseline (check_id, target, version, accepted_at, body) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (check, target, at) = (baseline.check.as_str(), baseline.target.as_str(), baseline.accepted_at.to_string());
        self.run(sql, params![check, target, baseline.version, at, json(baseline)?])
    }

    /// A setting people change at run time.
    pub fn setting(&self, name: &str) -> Result<Option<Setting>, StoreError> {
        self.one("SELECT value, changed_by, changed_at FROM setting WHERE name = ?1", params![name], |row| {
            Ok(Setting { value: row.get(0)?, changed_by: row.get(1)?, changed_at: time(row, 2)? })
        })
    }

    /// Changes a setting.
    pub fn put_setting(&self, name: &str, value: &str, who: &str, now: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT OR REPLACE INTO setting (name, value, changed_by, changed_at) VALUES (?1, ?2, ?3, ?4)";
        self.run(sql, params![name, value, who, now.to_string()])
    }

    /// Entries not yet taken by the server, and when the oldest was queued.
    pub fn outbox(&self) -> Result<(u64, Option<Timestamp>), StoreError> {
        // Sent oldest first: what waits is one run of numbers, so its ends tell how many.
        let sql = "SELECT coalesce((SELECT max(seq) FROM outbox) - min(seq) + 1, 0), min(seq) FROM outbox WHERE sent_at IS NULL";
        let Some((waiting, Some(first))) =
            self.one(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?)))?
        else {
            return Ok((0, None));
        };
        let oldest = self.one("SELECT queued_at FROM outbox WHERE seq = ?1", params![first], |row| time(row, 0))?;
        Ok((u64::try_from(waiting).unwrap_or(0), oldest))
    }

    /// Entries in the log.
    pub fn log_size(&self) -> Result<u64, StoreError> {
        let count: Option<i64> =
            self.one("SELECT coalesce(max(seq) + 1, 0) FROM entry", [], |row| row.get(0).map_err(StoreError::from))?;
        Ok(count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), StoreError> {
        self.sql.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }

    fn changed_one(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        otherwise: impl FnOnce() -> String,
    ) -> Result<(), StoreError> {
        match self.sql.prepare_cached(sql)?.execute(values)? {
            1 => Ok(()),
            _ => Err(StoreError::NotThere(otherwise())),
        }
    }

    fn one<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.sql.prepare_cached(sql)?.query_row(values, |row| Ok(read(row))).optional()?.transpose()
    }

    fn many<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.sql.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

fn known_finding(row: &Row<'_>) -> Result<KnownFinding, StoreError> {
    Ok(KnownFinding { finding: body(row)?, since: time(row, 1)?, fails_in_row: row.get(2)? })
}

fn execution(row: &Row<'_>) -> Result<Execution, StoreError> {
    let ended: Option<String> = row.get(3)?;
    Ok(Execution {
        id: id(row, 0)?,
        plan: parse(&row.get::<_, String>(1)?)?,
        started_at: time(row, 2)?,
        ended_at: ended
            .map(|text| text.parse().map_err(|_| StoreError::Corrupt(format!("time `{text}`"))))
            .transpose()?,
        outcome: row.get(4)?,
    })
}

fn approval(row: &Row<'_>) -> Result<Approval, StoreError> {
    Ok(Approval {
        id: id(row, 0)?,
        incident: id(row, 1)?,
        plan_sha256: row.get(2)?,
        state: row.get(3)?,
        requested_at: time(row, 4)?,
        expires_at: time(row, 5)?,
        decided_by: row.get(6)?,
    })
}

fn id(row: &Row<'_>, column: usize) -> Result<RecordId, StoreError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| StoreError::Corrupt(format!("id `{text}`")))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, StoreError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| StoreError::Corrupt(format!("time `{text}`")))
}

fn body<T: DeserializeOwned>(row: &Row<'_>) -> Result<T, StoreError> {
    parse(&row.get::<_, String>(0)?)
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}
