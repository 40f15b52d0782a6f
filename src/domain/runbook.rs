//! A runbook, compiled: what to look at, what to expect, what to do about it, how to undo it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::expr::{Answer, Expr, Scope, Text};
use super::finding::{Class, Finding, Observation, Reason, Verdict};
use super::id::{CheckId, Target};
use super::schema::Schema;
use super::tier::Tier;

/// The built-in collectors a runbook may name in `detect.collector`.
pub const COLLECTORS: &[&str] = &[
    "access",
    "antivirus",
    "audit",
    "backup",
    "certificates",
    "disk",
    "disk_health",
    "drift",
    "encryption",
    "fim",
    "firewall",
    "inventory",
    "journal",
    "kernel",
    "logging",
    "login_failures",
    "logins",
    "own_health",
    "patching",
    "ports",
    "restore",
    "sessions",
    "ssh",
    "sysctl",
    "time",
    "units",
];

/// How bad a failing finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// To be put right within weeks.
    Medium,
    /// To be put right within days.
    High,
    /// To be put right now.
    Critical,
}

impl Severity {
    /// The printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// The kind of machine a runbook is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// The Linux host Malachor runs on.
    Host,
    /// A Windows server over `WinRM`.
    Windows,
}

impl Platform {
    /// The printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Windows => "windows",
        }
    }
}

/// One runbook: one YAML file, versioned by its hash.
#[derive(Debug)]
pub struct Runbook {
    /// Its id, which is its check's id.
    pub id: CheckId,
    /// One line: what holds when it passes.
    pub title: String,
    /// Why it matters, for a person.
    pub why: String,
    /// Citations of 45 CFR, as in the catalogue: `164.312(a)(1)`.
    pub hipaa: Vec<String>,
    /// How bad a failure is.
    pub severity: Severity,
    /// Where it runs.
    pub platform: Platform,
    /// SHA-256 of the file's bytes, hex.
    pub sha256: String,
    /// What a practice may tune.
    pub settings: Schema,
    /// How facts are read.
    pub detect: Detect,
    /// When the check applies at all.
    pub applies: Vec<Expectation>,
    /// What has to hold.
    pub expect: Vec<Expectation>,
    /// Failing runs in a row before it is drift; more than one for probes that race with restarts.
    pub confirm: u32,
    /// Parameters of the remediation.
    pub params: Schema,
    /// What to do about drift; `None` where only a person may act.
    pub remediate: Option<Remediate>,
    /// Recorded facts and the verdict they must give.
    pub tests: Vec<Example>,
}

/// How and how often facts are read.
#[derive(Debug)]
pub struct Detect {
    /// Interval.
    pub every: Duration,
    /// Deadline of one run.
    pub timeout: Duration,
    /// What reads them.
    pub source: FactSource,
    /// Facts a person may accept as right, to be compared with from then on; see [`super::baseline`].
    pub baseline: Vec<String>,
}

/// What reads the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactSource {
    /// A built-in collector by name.
    Collector(String),
    /// A program that prints one JSON object.
    Exec(Vec<String>),
}

/// One thing that has to hold.
#[derive(Debug)]
pub struct Expectation {
    /// The condition over `facts` and `settings`.
    pub that: Expr,
    /// Only looked at where this holds.
    pub when: Option<Expr>,
    /// Stable word for the signature.
    pub reason: String,
    /// Sentence for a person.
    pub say: Text,
    /// What a failure of this alone makes of the finding: fail or warn.
    pub level: Verdict,
    /// Drift, or never configured.
    pub class: Class,
}

/// What to do about drift.
#[derive(Debug)]
pub struct Remediate {
    /// Interrupts people's work: only inside a maintenance window.
    pub disruptive: bool,
    /// Needs a named person's yes.
    pub approval: bool,
    /// Who may choose it.
    pub tiers: Vec<Tier>,
    /// Pause before the first verification.
    pub settle: Duration,
    /// How long verification may take to pass.
    pub within: Duration,
    /// Must hold before the first step.
    pub prerequisites: Vec<Prerequisite>,
    /// What rollback needs.
    pub snapshot: Vec<Snapshot>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What undoes them; empty where undoing is not possible or not needed.
    pub rollback: Vec<Step>,
}

/// A condition over facts that must hold before acting.
#[derive(Debug)]
pub struct Prerequisite {
    /// The condition.
    pub that: Expr,
    /// What to tell a person if it does not hold.
    pub say: Text,
}

/// Something to keep before the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// Files: content and mode, or that they are not there.
    Files(Vec<Text>),
    /// Units: active and enabled state.
    Units(Vec<Text>),
    /// The nftables ruleset.
    Nft,
}

/// One idempotent step.
#[derive(Debug)]
pub struct Step {
    /// What it does.
    pub action: Action,
    /// Deadline.
    pub timeout: Duration,
    /// Nothing to do where this holds.
    pub unless: Option<Expr>,
    /// Runs once per item of this list, with `item` in scope.
    pub for_each: Option<Expr>,
}

/// What a step does. Arguments travel as separate values, never through a shell.
#[derive(Debug)]
pub enum Action {
    /// Runs a program.
    Exec {
        /// Program and arguments, each rendered on its own.
        argv: Vec<Text>,
        /// Exit statuses that count as success.
        ok: Vec<i32>,
        /// Environment variables by name.
        env: BTreeMap<String, EnvValue>,
        /// A file with `NAME=value` lines, read when the step runs; none where it renders to nothing.
        env_file: Option<Text>,
    },
    /// Changes the state of a systemd unit.
    Unit {
        /// What to do.
        verb: UnitVerb,
        /// The unit's name.
        unit: Text,
    },
    /// Makes a file have this content and mode.
    File {
        /// Absolute path.
        path: Text,
        /// Content.
        content: Text,
        /// Permission bits.
        mode: u32,
    },
    /// Loads an nftables ruleset in one transaction; the kernel's old ruleset returns by itself unless confirmed.
    NftLoad {
        /// Path of the ruleset file.
        file: Text,
        /// Seconds until the old ruleset returns by itself.
        revert_after: Duration,
    },
    /// Puts the snapshot back.
    Restore,
}

/// The value of an environment variable.
#[derive(Debug)]
pub enum EnvValue {
    /// A template; where it renders to nothing the variable is not set.
    Plain(Text),
    /// The secret setting of this name: looked up when the step runs, never in a plan.
    Secret(String),
}

/// What may be done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitVerb {
    /// Start it if it is not active.
    Start,
    /// Stop it if it is active.
    Stop,
    /// Restart it.
    Restart,
    /// Ask it to read its configuration again, else restart it.
    Reload,
    /// Start it at boot.
    Enable,
    /// Allow it to be started again.
    Unmask,
    /// Forget its failed state.
    ResetFailed,
}

impl UnitVerb {
    /// The verb as systemctl knows it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload-or-restart",
            Self::Enable => "enable",
            Self::Unmask => "unmask",
            Self::ResetFailed => "reset-failed",
        }
    }
}

/// A recorded example inside a runbook.
#[derive(Debug)]
pub struct Example {
    /// What it shows.
    pub name: String,
    /// The facts.
    pub facts: Value,
    /// Settings that differ from the defaults.
    pub settings: Map<String, Value>,
    /// The verdict they must give.
    pub verdict: Verdict,
    /// The words of all reasons, in order.
    pub reasons: Vec<String>,
}

impl Runbook {
    /// Judges an observation: pure, the same facts always give the same finding. Secret settings are `***` to it.
    pub fn judge(
        &self,
        target: &Target,
        observation: Observation,
        settings: &Map<String, Value>,
        now: jiff::Timestamp,
    ) -> Finding {
        let settings = Value::Object(self.settings.shown(settings));
        let scope = Scope::new([("facts", observation.facts.clone()), ("settings", settings)]);
        let (mut verdict, mut reasons) = (Verdict::Pass, Vec::new());
        if let Some(reason) = self.first_not_applying(&scope, &observation) {
            verdict = reason.verdict;
            reasons.push(reason);
        } else {
            for expectation in &self.expect {
                if let Some(reason) = expectation.judge(&scope, &observation) {
                    verdict = verdict.combine(reason.verdict);
                    reasons.push(reason);
                }
            }
        }
        Finding { check: self.id.clone(), target: target.clone(), observed_at: now, verdict, reasons, observation }
    }

    fn first_not_applying(&self, scope: &Scope, observation: &Observation) -> Option<Reason> {
        self.applies.iter().find_map(|expectation| expectation.judge(scope, observation))
    }
}

impl Expectation {
    fn judge(&self, scope: &Scope, observation: &Observation) -> Option<Reason> {
        if let Some(when) = &self.when {
            match when.eval(scope) {
                Answer::True => {}
                Answer::False => return None,
                unknown @ Answer::Unknown { .. } => return Some(self.unknown(&unknown, observation)),
            }
        }
        match self.that.eval(scope) {
            Answer::True => None,
            Answer::False => {
                let say = self.say.render(scope).unwrap_or_else(|error| format!("{} ({error})", self.reason));
                Some(Reason { word: self.reason.clone(), verdict: self.level, class: self.class, say })
            }
            unknown @ Answer::Unknown { .. } => Some(self.unknown(&unknown, observation)),
        }
    }

    fn unknown(&self, answer: &Answer, observation: &Observation) -> Reason {
        let why = match answer {
            Answer::Unknown { missing, error } => explain_missing(missing, error.as_deref(), observation),
            Answer::True | Answer::False => "cannot be told".to_owned(),
        };
        Reason { word: self.reason.clone(), verdict: Verdict::Unknown, class: Class::Drift, say: why }
    }
}

fn explain_missing(missing: &[String], error: Option<&str>, observation: &Observation) -> String {
    let covers = |problem: &str, fact: &str| {
        let starts = |long: &str, short: &str| {
            long == short || long.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'))
        };
        problem.is_empty() || starts(fact, problem) || starts(problem, fact)
    };
    for fact in missing {
        if let Some(problem) = observation.problems.iter().find(|problem| covers(&problem.fact, fact)) {
            return problem.say.clone();
        }
    }
    match (missing.first(), error) {
        (Some(fact), _) => format!("fact `{fact}` was not reported"),
        (None, Some(error)) => format!("the expectation could not be evaluated: {error}"),
        (None, None) => "the expectation has no answer".to_owned(),
    }
}
