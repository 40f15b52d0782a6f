//! An incident: one open drift, from first sight to resolved, escalated or suppressed.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::finding::{Class, Finding, Reason};
use super::id::{CheckId, PatternSignature, RecordId, Target};
use super::plan::Plan;
use super::runbook::Severity;

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// Seen; nothing decided.
    Open,
    /// A plan exists and may not run by itself (mode, exception, switch).
    Planned,
    /// The plan waits for a named person.
    WaitingApproval,
    /// The plan waits for a window, a cooldown or another execution.
    WaitingWindow,
    /// Steps are running.
    Healing,
    /// Steps are done, the check runs again.
    Verifying,
    /// The check passes.
    Resolved,
    /// A person has to act.
    Escalated,
    /// It comes and goes: healing stopped, a person has to act.
    Suppressed,
}

/// What can happen to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncidentEvent {
    /// A plan was made but may not run by itself.
    Plan,
    /// The plan needs a person's yes.
    AskApproval,
    /// The plan has to wait.
    Defer,
    /// The first step is about to run.
    Start,
    /// All steps ran.
    StepsDone,
    /// The check passes, by our doing or without it.
    Pass,
    /// It did not work, what was done is undone, another attempt may follow.
    Retry,
    /// A person has to act.
    Escalate,
    /// It comes and goes.
    Suppress,
}

/// An event that cannot happen in a state: a defect, never a normal outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to an incident that is {}", state.word())]
pub struct IllegalTransition {
    /// The state.
    pub state: IncidentState,
    /// The event.
    pub event: IncidentEvent,
}

impl IncidentState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Planned,
        Self::WaitingApproval,
        Self::WaitingWindow,
        Self::Healing,
        Self::Verifying,
        Self::Resolved,
        Self::Escalated,
        Self::Suppressed,
    ];

    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Planned => "planned",
            Self::WaitingApproval => "waiting_approval",
            Self::WaitingWindow => "waiting_window",
            Self::Healing => "healing",
            Self::Verifying => "verifying",
            Self::Resolved => "resolved",
            Self::Escalated => "escalated",
            Self::Suppressed => "suppressed",
        }
    }

    /// Whether it is over.
    pub fn is_closed(self) -> bool {
        self == Self::Resolved
    }

    /// Whether a plan is being carried out.
    pub fn is_acting(self) -> bool {
        matches!(self, Self::Healing | Self::Verifying)
    }

    /// Whether a plan may still be made or run without a person.
    pub fn may_heal(self) -> bool {
        matches!(self, Self::Open | Self::Planned | Self::WaitingApproval | Self::WaitingWindow)
    }

    /// The state after an event.
    pub fn after(self, event: IncidentEvent) -> Result<Self, IllegalTransition> {
        use IncidentEvent as E;
        let waiting = self.may_heal();
        let acting = self.is_acting();
        let next = match event {
            // What a person was asked about is decided anew when the circumstances change.
            E::Plan if waiting || self == Self::Escalated => Self::Planned,
            E::AskApproval if waiting || self == Self::Escalated => Self::WaitingApproval,
            E::Defer if waiting || self == Self::Escalated => Self::WaitingWindow,
            // The guards let a machine start nothing that flaps; a person may.
            E::Start if waiting || matches!(self, Self::Escalated | Self::Suppressed) => Self::Healing,
            E::StepsDone if self == Self::Healing => Self::Verifying,
            E::Pass if !self.is_closed() => Self::Resolved,
            E::Retry if acting => Self::Open,
            E::Escalate if waiting || acting || self == Self::Escalated => Self::Escalated,
            E::Suppress if waiting || matches!(self, Self::Escalated | Self::Suppressed) => Self::Suppressed,
            E::Plan
            | E::AskApproval
            | E::Defer
            | E::Start
            | E::StepsDone
            | E::Pass
            | E::Retry
            | E::Escalate
            | E::Suppress => {
                return Err(IllegalTransition { state: self, event });
            }
        };
        Ok(next)
    }
}

/// An open or closed drift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// Its id.
    pub id: RecordId,
    /// Which check failed.
    pub check: CheckId,
    /// Of what.
    pub target: Target,
    /// Fingerprint of the drift as last seen.
    pub signature: PatternSignature,
    /// How bad.
    pub severity: Severity,
    /// Where it stands.
    pub state: IncidentState,
    /// Drift, or never configured.
    pub class: Class,
    /// The failing reasons as last seen.
    pub reasons: Vec<Reason>,
    /// First seen.
    pub opened_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
    /// When it was resolved.
    pub resolved_at: Option<Timestamp>,
    /// Attempts of the current runbook hash.
    pub attempts: u32,
    /// Hash of the runbook the attempts were made with; a new hash starts anew.
    pub attempts_of: Option<String>,
    /// When the last attempt ended.
    pub last_attempt_at: Option<Timestamp>,
    /// An attempt ended with a person being asked: hands off until the check passes or the runbook changes.
    pub held: bool,
    /// The plan as last made.
    pub plan: Option<Plan>,
    /// Why it stands where it stands, in a sentence.
    pub note: String,
}

impl Incident {
    /// A drift just seen.
    pub fn opened(
        id: RecordId,
        finding: &Finding,
        signature: PatternSignature,
        (severity, class): (Severity, Class),
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            check: finding.check.clone(),
            target: finding.target.clone(),
            signature,
            severity,
            state: IncidentState::Open,
            class,
            reasons: finding.reasons.clone(),
            opened_at: now,
            updated_at: now,
            resolved_at: None,
            attempts: 0,
            attempts_of: None,
            last_attempt_at: None,
            held: false,
            plan: None,
            note: "just seen".to_owned(),
        }
    }

    /// Moves it on; an illegal event changes nothing.
    pub fn apply(
        &mut self,
        event: IncidentEvent,
        note: impl Into<String>,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        self.state = self.state.after(event)?;
        self.note = note.into();
        self.updated_at = now;
        if self.state == IncidentState::Resolved {
            self.resolved_at = Some(now);
        }
        Ok(())
    }

    /// The runbook that was last planned for it, else its check's own.
    pub fn last_runbook(&self) -> &CheckId {
        self.plan.as_ref().map_or(&self.check, |plan| &plan.runbook)
    }

    /// Whether it may be decided about again: it waits, or a person was asked about drift that nobody has tried to heal
    /// with this version of [`Self::last_runbook`].
    pub fn may_be_decided(&self, runbook_sha256: &str) -> bool {
        let tried = self.held && self.attempts_of.as_deref() == Some(runbook_sha256);
        self.state.may_heal() || (self.state == IncidentState::Escalated && self.class == Class::Drift && !tried)
    }

    /// Attempts made with this runbook hash.
    pub fn attempts_with(&self, runbook_sha256: &str) -> u32 {
        if self.attempts_of.as_deref() == Some(runbook_sha256) { self.attempts } else { 0 }
    }
}

/// The pause after the nth attempt: the rule's cooldown, doubled each time, at most a day.
pub fn backoff(cooldown: Duration, attempts: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1).min(20));
    cooldown.saturating_mul(doubled).min(Duration::from_hours(24).max(cooldown))
}

/// Whether pass → fail changes within `within` of `now` come to `limit` or more.
pub fn is_flapping(failed_at: &[Timestamp], limit: u32, within: jiff::SignedDuration, now: Timestamp) -> bool {
    // What a wrong clock dated ahead of now says nothing about today.
    let recent = failed_at.iter().filter(|at| **at <= now && now.duration_since(**at) <= within).count();
    u32::try_from(recent).unwrap_or(u32::MAX) >= limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENTS: [IncidentEvent; 9] = [
        IncidentEvent::Plan,
        IncidentEvent::AskApproval,
        IncidentEvent::Defer,
        IncidentEvent::Start,
        IncidentEvent::StepsDone,
        IncidentEvent::Pass,
        IncidentEvent::Retry,
        IncidentEvent::Escalate,
        IncidentEvent::Suppress,
    ];

    #[test]
    fn the_whole_machine() {
        let mut table = Vec::new();
        for state in IncidentState::ALL {
            for event in EVENTS {
                if let Ok(next) = state.after(event) {
                    table.push(format!("{:<17} {:<12} {}", state.word(), format!("{event:?}"), next.word()));
                }
            }
        }
        insta::assert_snapshot!(table.join("\n"));
    }

    proptest! {
        /// From anywhere reachable a passing check closes it, and nothing moves a closed one.
        #[test]
        fn every_incident_can_end_and_an_ended_one_stays(steps in proptest::collection::vec(0usize..EVENTS.len(), 0..40)) {
            let mut state = IncidentState::Open;
            for step in steps {
                if let Ok(next) = state.after(EVENTS[step]) {
                    prop_assert!(!state.is_closed());
                    state = next;
                }
            }
            if !state.is_closed() {
                prop_assert_eq!(state.after(IncidentEvent::Pass), Ok(IncidentState::Resolved));
            }
        }

        #[test]
        fn healing_starts_only_from_a_place_where_it_may(event in 0usize..EVENTS.len()) {
            for state in IncidentState::ALL {
                if state.after(EVENTS[event]) == Ok(IncidentState::Healing) {
                    prop_assert!(state.may_heal() || matches!(state, IncidentState::Escalated | IncidentState::Suppressed));
                }
            }
        }

        #[test]
        fn backoff_grows_and_is_bounded(cooldown in 1u64..100_000, attempts in 0u32..100) {
            let cooldown = Duration::from_secs(cooldown);
            let pause = backoff(cooldown, attempts);
            prop_assert!(pause >= cooldown && pause <= Duration::from_hours(24).max(cooldown));
            prop_assert!(backoff(cooldown, attempts + 1) >= pause);
        }
    }

    #[test]
    fn three_failures_in_a_day_are_flapping() {
        let at = |hour: i64| Timestamp::from_second(1_767_225_600 + hour * 3600).unwrap();
        let day = jiff::SignedDuration::from_hours(24);
        assert!(is_flapping(&[at(0), at(5), at(20)], 3, day, at(21)));
        assert!(!is_flapping(&[at(0), at(5), at(20)], 3, day, at(25)));
        assert!(!is_flapping(&[at(5), at(20)], 3, day, at(21)));
    }
}
