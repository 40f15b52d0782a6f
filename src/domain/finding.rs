//! Facts and what they mean: [`Observation`] → [`Finding`], and how findings combine into a posture.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::id::{CheckId, Target};

/// What a check says about a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The expectation holds.
    Pass,
    /// It holds, but not for long or not well.
    Warn,
    /// It does not hold.
    Fail,
    /// It could not be found out, with the reason. Never counts as compliant.
    Unknown,
    /// The check has nothing to look at on this target.
    NotApplicable,
}

impl Verdict {
    /// Every verdict, worst first.
    pub const ALL: [Self; 5] = [Self::Fail, Self::Unknown, Self::Warn, Self::Pass, Self::NotApplicable];

    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
            Self::NotApplicable => "not_applicable",
        }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Fail => 4,
            Self::Unknown => 3,
            Self::Warn => 2,
            Self::Pass => 1,
            Self::NotApplicable => 0,
        }
    }

    /// The worse of two: fail > unknown > warn > pass > `not_applicable`.
    ///
    /// `not_applicable` never hides a failing sibling.
    #[must_use]
    pub fn combine(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }
}

/// Why a fact is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The tool or file is not installed.
    Missing,
    /// The right to read it is missing.
    Denied,
    /// It did not answer in time.
    Timeout,
    /// It answered something that cannot be read.
    Garbage,
    /// Whatever it needs is down or not there (no service manager, no network, a full disk).
    Unavailable,
}

/// A fact that could not be learned, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Dotted path below `facts` that is absent because of this, for example `nft.chains`.
    pub fact: String,
    /// The kind of obstacle.
    pub kind: ProblemKind,
    /// What to tell a person.
    pub say: String,
}

/// The facts of one run of a collector: facts only, never a verdict.
///
/// A fact that could not be learned is absent from `facts` and has a [`Problem`]; a fact known to be "none" is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// A JSON object.
    pub facts: Value,
    /// What could not be learned.
    pub problems: Vec<Problem>,
}

impl Observation {
    /// An observation without facts, and why.
    pub fn nothing(kind: ProblemKind, say: impl Into<String>) -> Self {
        let problem = Problem { fact: String::new(), kind, say: say.into() };
        Self { facts: Value::Object(serde_json::Map::new()), problems: vec![problem] }
    }
}

/// Whether a failing expectation is drift from a state we knew, or something that was never set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The state changed away from what is expected; healing may bring it back.
    #[default]
    Drift,
    /// It was never configured: nothing to bring back, a person has to set it up.
    NeverConfigured,
}

/// One reason behind a verdict other than pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable word from the runbook; part of the signature.
    pub word: String,
    /// What this reason alone would make of the finding.
    pub verdict: Verdict,
    /// Drift, or never configured.
    pub class: Class,
    /// The sentence for a person.
    pub say: String,
}

/// The judged result of one observation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which check.
    pub check: CheckId,
    /// Of what.
    pub target: Target,
    /// When the facts were read.
    pub observed_at: Timestamp,
    /// The worst of the reasons, or pass.
    pub verdict: Verdict,
    /// All reasons, in the order of the runbook.
    pub reasons: Vec<Reason>,
    /// What was seen.
    pub observation: Observation,
}

impl Finding {
    /// A failing finding that healing may bring back.
    pub fn is_drift(&self) -> bool {
        self.verdict == Verdict::Fail && self.reasons.iter().any(Self::heals)
    }

    /// A failing finding with nothing but things that were never set up.
    pub fn is_never_configured(&self) -> bool {
        self.verdict == Verdict::Fail && !self.is_drift()
    }

    /// The words of the reasons that made it fail.
    pub fn failing_words(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().filter(|reason| reason.verdict == Verdict::Fail).map(|reason| reason.word.as_str())
    }

    fn heals(reason: &Reason) -> bool {
        reason.verdict == Verdict::Fail && reason.class == Class::Drift
    }
}

/// How many targets stand where; the only source of a score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Posture {
    /// Passing findings.
    pub pass: u32,
    /// Warnings.
    pub warn: u32,
    /// Failing findings.
    pub fail: u32,
    /// Unknown and stale findings.
    pub unknown: u32,
    /// Findings that do not apply.
    pub not_applicable: u32,
    /// Findings under an exception: shown beside the score, not part of it.
    pub excepted: u32,
}

impl Posture {
    /// Counts findings; an exception moves a finding out of the score but keeps it visible.
    pub fn count(findings: impl IntoIterator<Item = (Verdict, Excepted)>) -> Self {
        let mut posture = Self::default();
        for (verdict, excepted) in findings {
            let slot = match (excepted, verdict) {
                (Excepted::Yes, Verdict::Fail | Verdict::Warn | Verdict::Unknown) => &mut posture.excepted,
                (_, Verdict::Pass) => &mut posture.pass,
                (Excepted::No, Verdict::Warn) => &mut posture.warn,
                (Excepted::No, Verdict::Fail) => &mut posture.fail,
                (Excepted::No, Verdict::Unknown) => &mut posture.unknown,
                (_, Verdict::NotApplicable) => &mut posture.not_applicable,
            };
            *slot = slot.saturating_add(1);
        }
        posture
    }

    /// Passing share in whole percent, or `None` where nothing was observed.
    ///
    /// A non-zero rest never rounds away: below full it is at most 99, above nothing it is at least 1.
    pub fn score(&self) -> Option<u8> {
        let total = u64::from(self.pass) + u64::from(self.warn) + u64::from(self.fail) + u64::from(self.unknown);
        if total == 0 {
            return None;
        }
        let pass = u64::from(self.pass);
        let rounded = (pass * 100 + total / 2) / total;
        let honest = match pass {
            0 => 0,
            all if all == total => 100,
            _ => rounded.clamp(1, 99),
        };
        u8::try_from(honest).ok()
    }
}

/// Whether an exception covers a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excepted {
    /// Covered, at this instant.
    Yes,
    /// Not covered.
    No,
}

/// The verdict at `now`: a finding older than three intervals of its check (at least ten minutes) is unknown.
pub fn fresh_verdict(verdict: Verdict, observed_at: Timestamp, every: jiff::SignedDuration, now: Timestamp) -> Verdict {
    let allowed = (every * 3).max(jiff::SignedDuration::from_mins(10));
    let age = now.duration_since(observed_at);
    // What was seen in the future was dated by a wrong clock: how old it is nobody knows.
    if age > allowed || age < -AHEAD { Verdict::Unknown } else { verdict }
}

/// A finding may be dated ahead of now by this much, as clocks are set.
const AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// Groups findings by control: the combined verdict of each citation.
pub fn by_control<'a>(findings: impl IntoIterator<Item = (&'a str, Verdict)>) -> BTreeMap<&'a str, Verdict> {
    let mut controls: BTreeMap<&str, Verdict> = BTreeMap::new();
    for (control, verdict) in findings {
        controls.entry(control).and_modify(|worst| *worst = worst.combine(verdict)).or_insert(verdict);
    }
    controls
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict() -> impl Strategy<Value = Verdict> {
        proptest::sample::select(Verdict::ALL.to_vec())
    }

    proptest! {
        #[test]
        fn combining_is_order_free_and_keeps_the_worst(mut verdicts in proptest::collection::vec(verdict(), 1..12)) {
            let fold = |list: &[Verdict]| list.iter().copied().fold(Verdict::NotApplicable, Verdict::combine);
            let forward = fold(&verdicts);
            verdicts.reverse();
            prop_assert_eq!(forward, fold(&verdicts));
            let worst = Verdict::ALL.into_iter().find(|candidate| verdicts.contains(candidate)).unwrap();
            prop_assert_eq!(forward, worst);
        }

        #[test]
        fn a_score_never_hides_a_failure(pass in 0u32..5000, warn in 0u32..5, fail in 0u32..5, unknown in 0u32..5) {
            let posture = Posture { pass, warn, fail, unknown, ..Posture::default() };
            match posture.score() {
                None => prop_assert_eq!(pass + warn + fail + unknown, 0),
                Some(100) => prop_assert_eq!(warn + fail + unknown, 0),
                Some(0) => prop_assert_eq!(pass, 0),
                Some(score) => prop_assert!((1..=99).contains(&score)),
            }
        }

        #[test]
        fn silence_is_never_a_pass(verdict in verdict(), age in 0i64..100_000, every in 1i64..5_000) {
            let then = Timestamp::from_second(1_700_000_000).unwrap();
            let now = then + jiff::SignedDuration::from_secs(age);
            let fresh = fresh_verdict(verdict, then, jiff::SignedDuration::from_secs(every), now);
            if age > every * 3 && age > 600 { prop_assert_eq!(fresh, Verdict::Unknown); } else { prop_assert_eq!(fresh, verdict); }
        }
    }

    #[test]
    fn nothing_observed_is_no_data() {
        assert_eq!(Posture::count([]).score(), None);
        assert_eq!(Posture::count([(Verdict::NotApplicable, Excepted::No)]).score(), None);
    }

    #[test]
    fn an_exception_leaves_the_score_but_is_counted() {
        let posture = Posture::count([(Verdict::Pass, Excepted::No), (Verdict::Fail, Excepted::Yes)]);
        assert_eq!((posture.score(), posture.excepted, posture.fail), (Some(100), 1, 0));
    }

    #[test]
    fn not_applicable_never_hides_a_failing_sibling() {
        let controls = by_control([("164.312(b)", Verdict::NotApplicable), ("164.312(b)", Verdict::Fail)]);
        assert_eq!(controls.get("164.312(b)"), Some(&Verdict::Fail));
    }
}
