//! Applying one planned step: already so (`Kept`), or changed (`Repaired` with what changed).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::domain::id::RecordId;
use crate::domain::plan::{Applied, PlannedAction, PlannedStep, PlannedValue};
use crate::domain::runbook::UnitVerb;
use crate::host::{Cmd, FileKind, Host, HostError, Secrets, env_file_variables};

use super::snapshot::Snapshot;
use super::units::{UnitState, unit_state};

/// What a step may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tools<'a> {
    pub(super) host: &'a Host,
    pub(super) snapshot: &'a Snapshot,
    pub(super) execution: &'a RecordId,
    /// Private directory for files a step hands to others.
    pub(super) work: &'a Path,
    /// The runbook's settings with their secrets.
    pub(super) settings: &'a Map<String, Value>,
}

/// A step that did not do what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StepError {
    /// Something may be different now, so there is something to undo.
    pub(super) acted: bool,
    /// What went wrong.
    pub(super) why: String,
}

#[expect(clippy::needless_pass_by_value, reason = "they stand in map_err")]
impl StepError {
    fn before(error: HostError) -> Self {
        Self { acted: false, why: error.to_string() }
    }

    fn after(error: HostError) -> Self {
        Self { acted: true, why: error.to_string() }
    }
}

/// Applies a step within its deadline.
pub(super) async fn apply(tools: Tools<'_>, step: &PlannedStep) -> Result<Applied, StepError> {
    let deadline = Duration::from_secs(step.timeout_s);
    let work = async {
        match &step.action {
            PlannedAction::Exec { argv, ok, env, env_file } => {
                let given = given(tools, env, env_file.as_deref()).map_err(StepError::before)?;
                exec(tools, argv, ok, (given, deadline)).await
            }
            PlannedAction::Unit { verb, unit } => change_unit(tools.host, *verb, unit, deadline).await,
            // Another file takes the place of the old one at once, or nothing happens.
            PlannedAction::File { path, content, mode } => {
                write_file(tools.host, path, content, *mode).map_err(StepError::before)
            }
            PlannedAction::NftLoad { file, revert_after_s } => load_ruleset(tools, file, *revert_after_s).await,
            PlannedAction::Restore => {
                tools.snapshot.restore(tools.host).await.map_err(StepError::after)?;
                // A timer that ran already put back the same.
                disarm(tools.host, tools.work, tools.execution).await.ok();
                Ok(Applied::Repaired("the snapshot is back".to_owned()))
            }
        }
    };
    tokio::time::timeout(deadline + Duration::from_secs(5), work)
        .await
        .unwrap_or_else(|_| Err(StepError::after(HostError::Timeout { what: step.line(), seconds: step.timeout_s })))
}

/// What a file step would change, as a unified diff; `None` where nothing would.
pub fn file_diff(host: &Host, path: &str, content: &str) -> Option<String> {
    let old = host.read(path).unwrap_or_default();
    (old != content)
        .then(|| similar::TextDiff::from_lines(old.as_str(), content).unified_diff().header(path, path).to_string())
}

/// Variables for a program, and which of their values nobody may see.
struct Given {
    variables: Vec<(String, String)>,
    secrets: Secrets,
}

/// Reads the variables now: what is in the file and what is secret was never in the plan.
fn given(tools: Tools<'_>, env: &BTreeMap<String, PlannedValue>, env_file: Option<&str>) -> Result<Given, HostError> {
    let mut variables = match env_file {
        Some(path) => env_file_variables(&tools.host.read(path)?),
        None => Vec::new(),
    };
    let mut hidden: Vec<String> = variables.iter().map(|(_, value)| value.clone()).collect();
    for (name, value) in env {
        let value = match value {
            PlannedValue::Plain(value) => value.clone(),
            PlannedValue::Secret(setting) => match tools.settings.get(setting).and_then(Value::as_str) {
                Some(secret) => {
                    hidden.push(secret.to_owned());
                    secret.to_owned()
                }
                // It is not set, so neither is the variable.
                None => continue,
            },
        };
        variables.push((name.clone(), value));
    }
    Ok(Given { variables, secrets: Secrets::new(hidden) })
}

/// Stands in the environment of every program a step starts, with the execution's id: by it they are found again.
pub(super) const MARK: &str = "MALACHOR_EXECUTION";

async fn exec(
    tools: Tools<'_>,
    argv: &[String],
    ok: &[i32],
    (given, deadline): (Given, Duration),
) -> Result<Applied, StepError> {
    let cmd = Cmd::new(argv.iter().cloned()).timeout(deadline);
    let what = cmd.line();
    let cmd = given.variables.into_iter().fold(cmd, |cmd, (name, value)| cmd.env(&name, value));
    let cmd = cmd.env(MARK, tools.execution.as_str());
    let output = tools.host.run(cmd).await.map_err(|error| match error {
        HostError::Missing(_) | HostError::Denied(_) => StepError::before(error),
        HostError::Timeout { .. } | HostError::Garbage { .. } | HostError::Io { .. } => StepError::after(error),
    })?;
    let said = format!("exit {}: {}", output.status, given.secrets.hide(output.first_line()));
    if ok.contains(&output.status) {
        Ok(Applied::Repaired(said))
    } else {
        Err(StepError::after(HostError::Io { what, why: said }))
    }
}

async fn change_unit(host: &Host, verb: UnitVerb, unit: &str, deadline: Duration) -> Result<Applied, StepError> {
    let before = unit_state(host, unit).await.map_err(StepError::before)?;
    if !before.loaded {
        return Err(StepError::before(HostError::Missing(format!("unit {unit}"))));
    }
    let already = match verb {
        UnitVerb::Start => before.active,
        UnitVerb::Stop => !before.active,
        UnitVerb::Enable => before.file_state == "enabled",
        UnitVerb::Unmask => !before.file_state.starts_with("masked"),
        UnitVerb::ResetFailed => !before.failed,
        UnitVerb::Restart | UnitVerb::Reload => false,
    };
    if already {
        return Ok(Applied::Kept);
    }
    host.run_ok(Cmd::new(["systemctl", verb.word(), unit]).timeout(deadline)).await.map_err(StepError::after)?;
    let after = unit_state(host, unit).await.map_err(StepError::after)?;
    let word = |state: &UnitState| if state.active { "active" } else { "inactive" };
    Ok(Applied::Repaired(format!("{unit}: {} → {} ({})", word(&before), word(&after), verb.word())))
}

fn write_file(host: &Host, path: &str, content: &str, mode: u32) -> Result<Applied, HostError> {
    let diff = match host.stat(path) {
        Ok(stat) if stat.kind != FileKind::File => {
            return Err(HostError::Garbage { what: path.to_owned(), why: "is not a regular file".to_owned() });
        }
        Ok(stat) => match file_diff(host, path, content) {
            None if stat.mode == mode => return Ok(Applied::Kept),
            None => format!("{path}: mode {:04o} → {mode:04o}", stat.mode),
            Some(diff) => diff,
        },
        Err(HostError::Missing(_)) => file_diff(host, path, content).unwrap_or_else(|| format!("{path}: new, empty")),
        Err(error) => return Err(error),
    };
    host.replace(path, content.as_bytes(), mode, None)?;
    Ok(Applied::Repaired(diff))
}

/// Loads a ruleset in one transaction, with a timer that puts the old one back even if we are killed or locked out.
async fn load_ruleset(tools: Tools<'_>, file: &str, revert_after_s: u64) -> Result<Applied, StepError> {
    let host = tools.host;
    arm(tools, file, revert_after_s).await.map_err(StepError::before)?;
    if let Err(error) = host.run_ok(Cmd::new(["nft", "-f", file])).await {
        // nft changes everything or nothing; what may still come is the timer.
        let acted = disarm(host, tools.work, tools.execution).await.is_err();
        return Err(StepError { acted, why: error.to_string() });
    }
    Ok(Applied::Repaired(format!("ruleset of {file} loaded; reverts in {revert_after_s} s unless verified")))
}

/// Starts the timer, with the ruleset it would load.
async fn arm(tools: Tools<'_>, file: &str, revert_after_s: u64) -> Result<(), HostError> {
    let host = tools.host;
    let Some(old) = tools.snapshot.ruleset() else {
        return Err(HostError::Missing("the snapshot of the old ruleset (the runbook keeps none)".to_owned()));
    };
    host.run_ok(Cmd::new(["nft", "--check", "-f", file])).await?;
    let keep = tools.work.join(format!("{}.nft", tools.execution));
    let kept = keep.display().to_string();
    write_private(&keep, old).map_err(|error| HostError::Io { what: kept.clone(), why: error.to_string() })?;
    if let Err(error) = host.run_ok(Cmd::new(["nft", "--check", "-f", &kept])).await {
        std::fs::remove_file(&keep).ok();
        // Rules of iptables-nft are listed in a form nft itself does not read: there would be no way back.
        let what = "the running ruleset cannot be put back from its own listing, so nothing is loaded".to_owned();
        return Err(HostError::Io { what, why: error.to_string() });
    }
    let unit = format!("--unit={}", dead_man(tools.execution));
    let after = format!("--on-active={revert_after_s}s");
    host.run_ok(Cmd::new(["systemd-run", "--quiet", "--collect", &unit, &after, "nft", "-f", &kept])).await.map(drop)
}

/// Stops the timer that would put the old ruleset back, and drops the copy it would load.
///
/// An error says that it could not be stopped, or was not there to be stopped any more: it may have run.
pub(super) async fn disarm(host: &Host, work: &Path, execution: &RecordId) -> Result<(), HostError> {
    let kept = work.join(format!("{execution}.nft"));
    if !kept.exists() {
        return Ok(());
    }
    let timer = format!("{}.timer", dead_man(execution));
    let stopped = host.run_ok(Cmd::new(["systemctl", "stop", &timer])).await;
    // The timer holds its own copy of the name only: where it has fired already, the file is of no use any more.
    let removed = std::fs::remove_file(&kept).map_err(|error| HostError::from_io(&kept.display().to_string(), &error));
    stopped.map(drop).and(removed)
}

fn dead_man(execution: &RecordId) -> String {
    format!("malachor-revert-{}", execution.as_str().to_ascii_lowercase())
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        host: &Host,
        script: &str,
        env: &[(&str, PlannedValue)],
        env_file: Option<&str>,
    ) -> Result<Applied, StepError> {
        let settings = serde_json::json!({"location": "rest:https://me:hunter2@host/", "unset": null});
        let dir = tempfile::tempdir().unwrap();
        let tools = Tools {
            host,
            snapshot: &Snapshot::default(),
            execution: &RecordId::new(crate::domain::id::RecordKind::Execution, [0; 8]),
            work: dir.path(),
            settings: settings.as_object().unwrap(),
        };
        let action = PlannedAction::Exec {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ok: vec![0],
            env: env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            env_file: env_file.map(str::to_owned),
        };
        let step = PlannedStep { action, timeout_s: 20 };
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(apply(tools, &step))
    }

    #[test]
    fn variables_reach_the_program_and_secret_ones_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env").display().to_string();
        std::fs::write(&file, "# keys\nKEY=s3cret-key\nBOTH=\"from file\"\n").unwrap();
        let env = [
            ("LOCATION", PlannedValue::Secret("location".into())),
            ("UNSET", PlannedValue::Secret("unset".into())),
            ("BOTH", PlannedValue::Plain("from plan".into())),
        ];
        let test = "test \"$LOCATION|$KEY|$BOTH|${UNSET-not set}\" = 'rest:https://me:hunter2@host/|s3cret-key|from plan|not set'";
        assert_eq!(run(&Host::live(), test, &env, Some(&file)), Ok(Applied::Repaired("exit 0: no output".into())));
        let said = run(&Host::live(), "echo at $LOCATION with $KEY, $BOTH", &env, Some(&file)).unwrap();
        assert_eq!(said, Applied::Repaired("exit 0: at *** with ***, from plan".into()));
        let failed = run(&Host::live(), "echo no hunter2 >&2; exit 9", &env, Some(&file)).unwrap_err();
        assert!(failed.acted && failed.why.ends_with("exit 9: no ***"), "{failed:?}");
        let gone = run(&Host::live(), "true", &env, Some("/no/such/file"));
        assert_eq!(
            gone,
            Err(StepError::before(HostError::Missing("/no/such/file".into()))),
            "it does not run without them"
        );
    }
}
