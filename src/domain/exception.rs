//! Waivers: a named owner accepts a named risk for a named scope until a named instant.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::finding::{Excepted, Finding};
use super::id::{CheckId, RecordId, Target};

/// Longest life of an exception.
pub const MAX_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);

/// What an exception covers; every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// One runbook.
    pub runbook: Option<CheckId>,
    /// One target.
    pub target: Option<Target>,
    /// One citation: `164.312(b)`.
    pub control: Option<String>,
}

/// What an exception does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Keeps the finding out of score and incidents; the raw verdict stays and is shown.
    Silence,
    /// Keeps healing away; the finding counts as it is.
    NoHeal,
    /// Both.
    Both,
}

/// A waiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Its id.
    pub id: RecordId,
    /// What it covers.
    pub scope: Scope,
    /// Why the risk is accepted.
    pub reason: String,
    /// What is done instead.
    pub compensating: Option<String>,
    /// Who carries the risk.
    pub owner: String,
    /// Who agreed; never the owner.
    pub approver: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// What it does.
    pub effect: Effect,
}

/// An exception that may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadException {
    /// The approver is the owner.
    #[error("`{0}` cannot approve an exception they own; name another person")]
    SelfApproved(String),
    /// It ends before it starts.
    #[error("it would have ended at {0}; choose a later `--expires`")]
    AlreadyOver(Timestamp),
    /// It lasts longer than a year.
    #[error("it would last longer than 365 days; choose an earlier `--expires` and renew it then")]
    TooLong,
    /// It covers nothing.
    #[error("an exception needs a scope: a runbook, a target or a control")]
    NoScope,
    /// It has no reason or no names.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The date cannot be read.
    #[error("`{0}` is not a date; write 2027-01-31 (through the end of that day, UTC) or 2027-01-31T17:00:00Z")]
    BadDate(String),
}

impl Exception {
    /// Refuses what no exception may be.
    pub fn check(self) -> Result<Self, BadException> {
        let empty = [("the reason", &self.reason), ("the owner", &self.owner), ("the approver", &self.approver)]
            .into_iter()
            .find(|(_, text)| text.trim().is_empty());
        if let Some((what, _)) = empty {
            return Err(BadException::Empty(what));
        }
        if self.owner.trim().eq_ignore_ascii_case(self.approver.trim()) {
            return Err(BadException::SelfApproved(self.approver));
        }
        if self.scope == Scope::default() {
            return Err(BadException::NoScope);
        }
        if self.expires <= self.created {
            return Err(BadException::AlreadyOver(self.expires));
        }
        if self.expires.duration_since(self.created) > MAX_LIFE {
            return Err(BadException::TooLong);
        }
        Ok(self)
    }

    /// Whether it is in force at an instant, whatever its effect.
    pub fn in_force(&self, now: Timestamp) -> bool {
        self.created <= now && now < self.expires
    }

    /// Whether its scope covers a finding of a runbook with these citations.
    pub fn covers(&self, finding: &Finding, citations: &[String]) -> bool {
        self.scope.runbook.as_ref().is_none_or(|runbook| *runbook == finding.check)
            && self.scope.target.as_ref().is_none_or(|target| *target == finding.target)
            && self.scope.control.as_ref().is_none_or(|control| citations.contains(control))
    }

    /// Whether it keeps a finding out of score and incidents.
    pub fn silences(&self) -> bool {
        matches!(self.effect, Effect::Silence | Effect::Both)
    }

    /// Whether it keeps healing away.
    pub fn forbids_healing(&self) -> bool {
        matches!(self.effect, Effect::NoHeal | Effect::Both)
    }

    /// Whole days left, for notices at 14, 3 and 0; negative once it is over.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        self.expires.duration_since(now).as_secs().div_euclid(24 * 3600)
    }
}

/// Whether an exception in force keeps this finding out of the score.
pub fn excepted(exceptions: &[Exception], finding: &Finding, citations: &[String], now: Timestamp) -> Excepted {
    let silent = |exception: &Exception| exception.silences() && exception.in_force(now);
    let covered = exceptions.iter().any(|exception| silent(exception) && exception.covers(finding, citations));
    if covered { Excepted::Yes } else { Excepted::No }
}

/// Reads an end date. A bare date means through the end of that day in UTC; an unreadable date is no exception.
pub fn parse_expiry(text: &str) -> Result<Timestamp, BadException> {
    let bad = || BadException::BadDate(text.to_owned());
    if let Ok(instant) = text.parse::<Timestamp>() {
        return Ok(instant);
    }
    // A date parser also reads the date of a time without a zone, and would drop the time.
    if text.len() != "2027-01-31".len() {
        return Err(bad());
    }
    let date: jiff::civil::Date = text.parse().map_err(|_| bad())?;
    let next = date.tomorrow().map_err(|_| bad())?;
    Ok(next.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| bad())?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::finding::{Observation, Verdict};
    use proptest::prelude::*;
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn exception(expires: &str, effect: Effect) -> Exception {
        Exception {
            id: "EXC-0011223344556677".parse().unwrap(),
            scope: Scope { runbook: Some("RB-LNX-SSH-001".parse().unwrap()), ..Scope::default() },
            reason: "the imaging vendor needs a password login until its upgrade".into(),
            compensating: Some("only from the management network".into()),
            owner: "dr.lee".into(),
            approver: "m.ortiz".into(),
            created: at("2026-01-01T00:00:00Z"),
            expires: parse_expiry(expires).unwrap(),
            effect,
        }
    }

    fn finding(check: &str) -> Finding {
        Finding {
            check: check.parse().unwrap(),
            target: Target::host(),
            observed_at: at("2026-01-01T00:00:00Z"),
            verdict: Verdict::Fail,
            reasons: Vec::new(),
            observation: Observation { facts: json!({}), problems: Vec::new() },
        }
    }

    /// Known elsewhere as "a waiver with a past date still shows as waived": what it does has no say in whether it is over.
    #[test]
    fn an_expired_exception_is_over_whatever_its_effect() {
        for effect in [Effect::Silence, Effect::NoHeal, Effect::Both] {
            let exception = exception("2026-03-31", effect);
            assert!(exception.in_force(at("2026-03-31T23:59:59Z")), "{effect:?}: its last day counts");
            assert!(!exception.in_force(at("2026-04-01T00:00:00Z")), "{effect:?}: over at the instant");
            assert!(!exception.in_force(at("2025-12-31T23:59:59Z")), "{effect:?}: not before it was made");
        }
    }

    /// Known elsewhere as "a waiver whose date cannot be read waives for ever".
    #[test]
    fn an_unreadable_date_is_no_exception() {
        for bad in [
            "",
            "31/03/2026",
            "2026-02-30",
            "soon",
            "2026-3-1",
            "20260331T",
            "2026-03-31T17:00:00",
            "2026-03-31T17:00:00[America/New_York]",
            "never",
        ] {
            assert_eq!(parse_expiry(bad), Err(BadException::BadDate(bad.to_owned())), "{bad}");
        }
        assert_eq!(parse_expiry("2026-03-31T12:00:00-05:00"), Ok(at("2026-03-31T17:00:00Z")));
        let stored = serde_json::to_value(exception("2026-03-31", Effect::Both)).unwrap();
        let broken = {
            let mut stored = stored;
            stored["expires"] = json!("31/03/2026");
            stored
        };
        assert!(serde_json::from_value::<Exception>(broken).is_err());
    }

    #[test]
    fn what_may_not_be_is_refused_with_the_reason() {
        let ok = exception("2026-06-30", Effect::Both);
        assert!(ok.clone().check().is_ok());
        let refuse = |change: &dyn Fn(&mut Exception)| {
            let mut e = ok.clone();
            change(&mut e);
            e.check().unwrap_err()
        };
        assert_eq!(refuse(&|e| e.approver = "Dr.Lee ".into()), BadException::SelfApproved("Dr.Lee ".into()));
        assert_eq!(refuse(&|e| e.reason = " ".into()), BadException::Empty("the reason"));
        assert_eq!(refuse(&|e| e.scope = Scope::default()), BadException::NoScope);
        assert_eq!(refuse(&|e| e.expires = at("2027-01-01T00:00:01Z")), BadException::TooLong);
        assert_eq!(refuse(&|e| e.expires = e.created), BadException::AlreadyOver(at("2026-01-01T00:00:00Z")));
    }

    #[test]
    fn every_part_of_a_scope_must_match() {
        let mut exception = exception("2026-06-30", Effect::Both);
        let citations = vec!["164.312(d)".to_owned()];
        assert!(exception.covers(&finding("RB-LNX-SSH-001"), &citations));
        assert!(!exception.covers(&finding("RB-DISK-001"), &citations));
        exception.scope.control = Some("164.312(b)".into());
        assert!(!exception.covers(&finding("RB-LNX-SSH-001"), &citations));
    }

    proptest! {
        #[test]
        fn in_force_exactly_between_its_instants(now in 1_760_000_000i64..1_800_000_000) {
            let exception = exception("2026-03-31", Effect::Both);
            let now = Timestamp::from_second(now).unwrap();
            prop_assert_eq!(exception.in_force(now), now >= exception.created && now < exception.expires);
            prop_assert_eq!(exception.days_left(now) < 0, now > exception.expires);
        }

        #[test]
        fn days_are_whole_around_the_end(off in -90_000i64..90_000) {
            let exception = exception("2026-03-31", Effect::Both);
            let now = exception.expires + SignedDuration::from_secs(off);
            prop_assert_eq!(exception.days_left(now), (-off).div_euclid(86_400));
        }
    }
}
