//! From a runbook and checked parameters to a plan: every argument filled in, nothing left to decide.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::expr::{Answer, Scope, Text};
use super::finding::Finding;
use super::incident::Incident;
use super::plan::{Origin, Plan, PlannedAction, PlannedStep, PlannedValue};
use super::runbook::{Action, EnvValue, Remediate, Runbook, Snapshot, Step};
use super::tier::Tier;

/// Most items a `for_each` may run over.
const MAX_ITEMS: usize = 64;

/// Who chose what.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The tier.
    pub tier: Tier,
    /// The rule or person.
    pub origin: Origin,
    /// Why, in a sentence.
    pub reason: String,
    /// Parameters as given.
    pub params: Map<String, Value>,
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'a> {
    /// The incident.
    pub incident: &'a Incident,
    /// Its finding.
    pub finding: &'a Finding,
    /// Settings of the runbook, complete, with `***` for secrets: what is planned is seen.
    pub settings: &'a Map<String, Value>,
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The runbook has no remediation.
    #[error("{0} has no remediation: only a person can act on it")]
    NoRemediation(String),
    /// A parameter is not what the runbook declares.
    #[error("parameter {0}")]
    Params(String),
    /// An argument cannot be filled in.
    #[error("step {step} cannot be filled in: {why}")]
    Step {
        /// Step from 1.
        step: usize,
        /// Why.
        why: String,
    },
}

/// A snapshot request with its names filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// A file.
    File(String),
    /// A unit.
    Unit(String),
    /// The nftables ruleset.
    Nft,
}

/// Makes a plan.
pub fn make(runbook: &Runbook, basis: Basis<'_>, choice: Choice) -> Result<Plan, PlanError> {
    let Some(remediate) = &runbook.remediate else {
        return Err(PlanError::NoRemediation(runbook.id.to_string()));
    };
    let params = runbook.params.check(&choice.params).map_err(|error| PlanError::Params(error.to_string()))?;
    let scope = Filling { basis, params: &params };
    Ok(Plan {
        version: 1,
        incident: basis.incident.id.clone(),
        target: basis.incident.target.clone(),
        runbook: runbook.id.clone(),
        runbook_sha256: runbook.sha256.clone(),
        tier: choice.tier,
        origin: choice.origin,
        reason: choice.reason,
        disruptive: remediate.disruptive,
        approval: remediate.approval,
        steps: scope.steps(&remediate.steps)?,
        rollback: scope.steps(&remediate.rollback)?,
        drift: basis.incident.signature.clone(),
        params,
    })
}

/// The prerequisites that do not hold or cannot be told, in words.
pub fn unmet(remediate: &Remediate, basis: Basis<'_>, params: &Map<String, Value>) -> Vec<String> {
    let scope = Filling { basis, params }.scope(None);
    let says = |text: &Text| text.render(&scope).unwrap_or_else(|error| error.message);
    remediate
        .prerequisites
        .iter()
        .filter_map(|prerequisite| match prerequisite.that.eval(&scope) {
            Answer::True => None,
            Answer::False => Some(says(&prerequisite.say)),
            Answer::Unknown { missing, error } => {
                let why = error.unwrap_or_else(|| format!("fact `{}` is not known", missing.join("`, `")));
                Some(format!("{} ({why})", says(&prerequisite.say)))
            }
        })
        .collect()
}

/// What to keep before the first step.
pub fn keeps(remediate: &Remediate, basis: Basis<'_>, params: &Map<String, Value>) -> Result<Vec<Keep>, PlanError> {
    let scope = Filling { basis, params }.scope(None);
    let render = |text: &Text| text.render(&scope).map_err(|error| PlanError::Step { step: 0, why: error.message });
    let mut keeps = Vec::new();
    for snapshot in &remediate.snapshot {
        match snapshot {
            Snapshot::Nft => keeps.push(Keep::Nft),
            Snapshot::Files(paths) => {
                for path in paths {
                    keeps.push(Keep::File(render(path)?));
                }
            }
            Snapshot::Units(units) => {
                for unit in units {
                    keeps.push(Keep::Unit(render(unit)?));
                }
            }
        }
    }
    Ok(keeps)
}

#[derive(Clone, Copy)]
struct Filling<'a> {
    basis: Basis<'a>,
    params: &'a Map<String, Value>,
}

impl Filling<'_> {
    fn scope(&self, item: Option<&Value>) -> Scope {
        let mut names = vec![
            ("facts", self.basis.finding.observation.facts.clone()),
            ("settings", Value::Object(self.basis.settings.clone())),
            ("params", Value::Object(self.params.clone())),
        ];
        names.extend(item.map(|item| ("item", item.clone())));
        Scope::new(names)
    }

    fn steps(&self, steps: &[Step]) -> Result<Vec<PlannedStep>, PlanError> {
        let mut planned = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let failed = |why| PlanError::Step { step: index + 1, why };
            for item in self.items(step).map_err(failed)? {
                let scope = self.scope(item.as_ref());
                if Self::is_skipped(step, &scope).map_err(failed)? {
                    continue;
                }
                let action = fill(&step.action, &scope).map_err(failed)?;
                planned.push(PlannedStep { action, timeout_s: step.timeout.as_secs() });
            }
        }
        Ok(planned)
    }

    fn items(&self, step: &Step) -> Result<Vec<Option<Value>>, String> {
        let Some(list) = &step.for_each else { return Ok(vec![None]) };
        match list.eval_json(&self.scope(None)) {
            Ok(Value::Array(items)) if items.len() <= MAX_ITEMS => Ok(items.into_iter().map(Some).collect()),
            Ok(Value::Array(items)) => Err(format!("`for_each` has {} items; at most {MAX_ITEMS}", items.len())),
            Ok(_) => Err("`for_each` is not a list".to_owned()),
            Err(answer) => Err(format!("`for_each` has no value: {answer:?}")),
        }
    }

    fn is_skipped(step: &Step, scope: &Scope) -> Result<bool, String> {
        match step.unless.as_ref().map(|unless| unless.eval(scope)) {
            None | Some(Answer::False) => Ok(false),
            Some(Answer::True) => Ok(true),
            Some(Answer::Unknown { missing, error }) => {
                Err(error.unwrap_or_else(|| format!("`unless`: fact `{}` is not known", missing.join("`, `"))))
            }
        }
    }
}

fn fill(action: &Action, scope: &Scope) -> Result<PlannedAction, String> {
    let text = |text: &Text| text.render(scope).map_err(|error| error.message);
    Ok(match action {
        Action::Exec { argv, ok, env, env_file } => PlannedAction::Exec {
            argv: argv.iter().map(text).collect::<Result<_, _>>()?,
            ok: ok.clone(),
            env: variables(env, scope)?,
            env_file: match env_file.as_ref().map(text).transpose()? {
                Some(path) if !path.is_empty() => Some(absolute(path)?),
                Some(_) | None => None,
            },
        },
        Action::Unit { verb, unit } => PlannedAction::Unit { verb: *verb, unit: unit_name(text(unit)?)? },
        Action::File { path, content, mode } => {
            PlannedAction::File { path: absolute(text(path)?)?, content: text(content)?, mode: *mode }
        }
        Action::NftLoad { file, revert_after } => {
            PlannedAction::NftLoad { file: absolute(text(file)?)?, revert_after_s: revert_after.as_secs() }
        }
        Action::Restore => PlannedAction::Restore,
    })
}

/// Variables that are set; one that renders to nothing is not.
fn variables(env: &BTreeMap<String, EnvValue>, scope: &Scope) -> Result<BTreeMap<String, PlannedValue>, String> {
    let mut planned = BTreeMap::new();
    for (name, value) in env {
        let value = match value {
            EnvValue::Secret(setting) => PlannedValue::Secret(setting.clone()),
            EnvValue::Plain(text) => PlannedValue::Plain(text.render(scope).map_err(|error| error.message)?),
        };
        if value != PlannedValue::Plain(String::new()) {
            planned.insert(name.clone(), value);
        }
    }
    Ok(planned)
}

fn absolute(path: String) -> Result<String, String> {
    let clean =
        path.starts_with('/') && !path.split('/').any(|part| part == ".." || part == ".") && !path.ends_with('/');
    if clean { Ok(path) } else { Err(format!("`{path}` is not a plain absolute path of a file")) }
}

fn unit_name(unit: String) -> Result<String, String> {
    let ok = !unit.is_empty()
        && unit.len() <= 255
        && !unit.starts_with('-')
        && unit.contains('.')
        && unit.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte));
    if ok { Ok(unit) } else { Err(format!("`{unit}` is not a unit name such as ssh.service")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_named_and_never_filled_in() {
        let text = |text| Text::compile(text, &["settings"]).unwrap();
        let plan = |file: &str| {
            let settings = serde_json::json!({"place": "***", "password_file": "/etc/a b", "none": null, "file": file});
            let env = BTreeMap::from([
                ("PLACE".to_owned(), EnvValue::Secret("place".to_owned())),
                ("FILE".to_owned(), EnvValue::Plain(text("{{ settings.password_file }}"))),
                ("NONE".to_owned(), EnvValue::Plain(text("{{ settings.none or '' }}"))),
            ]);
            let env_file = Some(text("{{ settings.file }}"));
            let action = Action::Exec { argv: vec![text("restic"), text("unlock")], ok: vec![0], env, env_file };
            fill(&action, &Scope::new([("settings", settings)])).map(|action| PlannedStep { action, timeout_s: 60 })
        };
        let step = plan("/etc/keys.env").unwrap();
        assert_eq!(step.line(), "FILE=/etc/a b PLACE=*** restic unlock (with the variables in /etc/keys.env)");
        let stored = serde_json::to_value(&step).unwrap();
        assert_eq!(
            stored["action"]["exec"]["env"],
            serde_json::json!({"FILE": {"plain": "/etc/a b"}, "PLACE": {"secret": "place"}})
        );
        assert_eq!(serde_json::from_value::<PlannedStep>(stored).unwrap(), step);
        let PlannedAction::Exec { env_file, .. } = plan("").unwrap().action else { panic!() };
        assert_eq!(env_file, None);
        assert!(plan("keys.env").is_err(), "a file is named whole");
    }

    #[test]
    fn a_step_without_variables_is_stored_as_before() {
        let old = serde_json::json!({"action": {"exec": {"argv": ["true"], "ok": [0]}}, "timeout_s": 60});
        let step: PlannedStep = serde_json::from_value(old.clone()).unwrap();
        assert_eq!(serde_json::to_value(&step).unwrap(), old);
    }

    #[test]
    fn paths_and_units_cannot_be_something_else() {
        for bad in ["etc/x", "/etc/../x", "/etc/", "", "/etc/./x"] {
            assert!(absolute(bad.to_owned()).is_err(), "{bad}");
        }
        for bad in ["", "--now", "ssh", "a b.service", "x;y.service", "$(x).service"] {
            assert!(unit_name(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(absolute("/etc/ssh/sshd_config.d/00-malachor.conf".to_owned()).is_ok());
        assert!(unit_name("getty@tty1.service".to_owned()).is_ok());
    }
}
