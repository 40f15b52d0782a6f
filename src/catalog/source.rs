//! The YAML form of runbooks and rules, with the place of every part kept for messages.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::domain::finding::{Class, Verdict};
use crate::domain::runbook::{Platform, Severity, UnitVerb};
use crate::domain::schema::FieldSource;
use crate::domain::tier::Tier;

use super::Diagnostic;

/// Longest file read.
pub(super) const FILE_CAP: usize = 256 * 1024;

/// Reads one YAML document; every error carries its place.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(file: &str, text: &str) -> Result<T, Diagnostic> {
    if text.len() > FILE_CAP {
        return Err(Diagnostic::at(file, text, (0, 0), format!("larger than {} KiB", FILE_CAP / 1024)));
    }
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map_or((0, 0), |at| (place(at.line()), place(at.column())));
        Diagnostic::at(file, text, place, strip_place(&error.to_string()))
    })
}

fn place(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(0)
}

/// The library ends its messages with the place, which the diagnostic shows in its own way.
fn strip_place(message: &str) -> String {
    let first = message.lines().next().unwrap_or(message);
    first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ").to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunbookSource {
    pub(super) id: Spanned<String>,
    pub(super) title: String,
    #[serde(default)]
    pub(super) why: String,
    pub(super) hipaa: Vec<Spanned<String>>,
    pub(super) severity: Severity,
    pub(super) target: Platform,
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Spanned<FieldSource>>,
    pub(super) detect: Spanned<DetectSource>,
    #[serde(default)]
    pub(super) applies: Vec<ExpectSource>,
    pub(super) expect: Spanned<Vec<ExpectSource>>,
    #[serde(default = "one")]
    pub(super) confirm: u32,
    #[serde(default)]
    pub(super) params: BTreeMap<String, Spanned<FieldSource>>,
    pub(super) remediate: Option<RemediateSource>,
    #[serde(default, rename = "verify")]
    pub(super) _verify: VerifySource,
    #[serde(default)]
    pub(super) rollback: Vec<Spanned<StepSource>>,
    #[serde(default)]
    pub(super) tests: Vec<ExampleSource>,
}

fn one() -> u32 {
    1
}

/// `verify: recheck` is the only way there is; the key is written so that a reader sees it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum VerifySource {
    #[default]
    Recheck,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DetectSource {
    pub(super) every: Spanned<String>,
    pub(super) timeout: Spanned<String>,
    pub(super) collector: Option<Spanned<String>>,
    pub(super) exec: Option<Vec<String>>,
    #[serde(default)]
    pub(super) baseline: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectSource {
    pub(super) that: Spanned<String>,
    pub(super) when: Option<Spanned<String>>,
    pub(super) reason: Spanned<String>,
    pub(super) say: Spanned<String>,
    #[serde(default)]
    pub(super) level: Level,
    #[serde(default)]
    pub(super) class: Class,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    #[default]
    Fail,
    Warn,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemediateSource {
    pub(super) disruptive: bool,
    #[serde(default)]
    pub(super) approval: bool,
    pub(super) tiers: Vec<Tier>,
    pub(super) settle: Option<Spanned<String>>,
    pub(super) within: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) prerequisites: Vec<PrerequisiteSource>,
    #[serde(default)]
    pub(super) snapshot: Vec<Spanned<SnapshotSource>>,
    pub(super) steps: Spanned<Vec<Spanned<StepSource>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrerequisiteSource {
    pub(super) that: Spanned<String>,
    pub(super) say: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotSource {
    pub(super) files: Option<Vec<Spanned<String>>>,
    pub(super) units: Option<Vec<Spanned<String>>>,
    pub(super) nft: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepSource {
    pub(super) exec: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) ok: Vec<i32>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, Spanned<String>>,
    pub(super) env_file: Option<Spanned<String>>,
    pub(super) unit: Option<BTreeMap<UnitVerb, Spanned<String>>>,
    pub(super) file: Option<FileStepSource>,
    pub(super) nft_load: Option<NftStepSource>,
    pub(super) restore: Option<Everything>,
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) unless: Option<Spanned<String>>,
    pub(super) for_each: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Everything {
    Snapshot,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileStepSource {
    pub(super) path: Spanned<String>,
    pub(super) content: Spanned<String>,
    pub(super) mode: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NftStepSource {
    pub(super) file: Spanned<String>,
    pub(super) revert_after: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExampleSource {
    pub(super) name: Spanned<String>,
    pub(super) facts: Value,
    #[serde(default)]
    pub(super) settings: Map<String, Value>,
    pub(super) verdict: Verdict,
    #[serde(default)]
    pub(super) reasons: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RulesSource {
    pub(super) rules: Vec<RuleSource>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleSource {
    pub(super) id: Spanned<String>,
    pub(super) priority: u32,
    pub(super) when: Spanned<String>,
    pub(super) run: Spanned<String>,
    #[serde(default)]
    pub(super) with: BTreeMap<String, Spanned<Value>>,
    pub(super) cooldown: Spanned<String>,
    pub(super) max_attempts: Spanned<u32>,
    #[serde(default)]
    pub(super) tests: Vec<RuleExampleSource>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleExampleSource {
    pub(super) name: String,
    pub(super) check: String,
    pub(super) reasons: Vec<String>,
    #[serde(default = "empty")]
    pub(super) facts: Value,
    pub(super) matches: bool,
}

fn empty() -> Value {
    Value::Object(Map::new())
}
