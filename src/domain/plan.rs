//! A plan is data: exactly what would be done, to what, by whom chosen, and why. What `--dry-run` prints is this value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::{CheckId, PatternSignature, RecordId, RuleId, Target};
use super::schema::HIDDEN;
use super::tier::Tier;

/// What chose it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An L1 rule.
    Rule(RuleId),
    /// A named person.
    Person(String),
}

/// One remediation of one incident, ready to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Form of this value; 1.
    pub version: u32,
    /// The incident it answers.
    pub incident: RecordId,
    /// What it acts on.
    pub target: Target,
    /// The runbook.
    pub runbook: CheckId,
    /// Its hash: a changed runbook is another plan.
    pub runbook_sha256: String,
    /// Who chose.
    pub tier: Tier,
    /// What chose.
    pub origin: Origin,
    /// Why, in a sentence.
    pub reason: String,
    /// Checked parameters, complete.
    pub params: Map<String, Value>,
    /// Interrupts people's work.
    pub disruptive: bool,
    /// Needs a person's yes.
    pub approval: bool,
    /// The steps as they would run.
    pub steps: Vec<PlannedStep>,
    /// The steps that would undo them.
    pub rollback: Vec<PlannedStep>,
    /// The drift it answers: a yes to one state of affairs is no yes to another.
    pub drift: PatternSignature,
}

/// A step with its arguments filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PlannedAction {
    /// A program and its arguments.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Statuses that count as success.
        ok: Vec<i32>,
        /// Environment variables by name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, PlannedValue>,
        /// A file with more of them, read when the step runs; its values never are in a plan.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        env_file: Option<String>,
    },
    /// A unit's state.
    Unit {
        /// What to do.
        verb: super::runbook::UnitVerb,
        /// The unit.
        unit: String,
    },
    /// A file's content.
    File {
        /// Absolute path.
        path: String,
        /// Content.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// A ruleset loaded in one transaction, that reverts by itself unless confirmed.
    NftLoad {
        /// Path of the ruleset.
        file: String,
        /// Seconds until it reverts.
        revert_after_s: u64,
    },
    /// The snapshot put back.
    Restore,
}

/// The value of an environment variable, as far as a plan tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedValue {
    /// The value itself.
    Plain(String),
    /// The secret setting of this name.
    Secret(String),
}

impl PlannedValue {
    fn shown(&self) -> &str {
        match self {
            Self::Plain(value) => value,
            Self::Secret(_) => HIDDEN,
        }
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// What it does.
    pub action: PlannedAction,
    /// Deadline in seconds.
    pub timeout_s: u64,
}

impl PlannedStep {
    /// The step in one line.
    pub fn line(&self) -> String {
        match &self.action {
            PlannedAction::Exec { argv, ok: _, env, env_file } => {
                let env = env.iter().map(|(name, value)| format!("{name}={} ", value.shown()));
                let file = env_file.as_ref().map(|path| format!(" (with the variables in {path})"));
                format!("{}{}{}", env.collect::<String>(), argv.join(" "), file.unwrap_or_default())
            }
            PlannedAction::Unit { verb, unit } => format!("systemctl {} {unit}", verb.word()),
            PlannedAction::File { path, content, mode } => {
                format!("write {path} ({} bytes, mode {mode:04o})", content.len())
            }
            PlannedAction::NftLoad { file, revert_after_s } => {
                format!("nft -f {file} (reverts by itself after {revert_after_s} s unless verified)")
            }
            PlannedAction::Restore => "put the snapshot back".to_owned(),
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It was already so.
    Kept,
    /// It was changed; the difference in words or as a diff.
    Repaired(String),
}
