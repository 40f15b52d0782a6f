//! A machine made of recorded files and answers, for the collectors' tests.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{Before, Context, linux};
use crate::catalog::Catalog;
use crate::domain::baseline::{self, Baseline};
use crate::domain::expr::{Answer, Scope};
use crate::domain::finding::{Finding, Observation};
use crate::domain::id::Target;
use crate::domain::runbook::{Action, FactSource, Prerequisite};
use crate::host::{Host, Output};

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::load(None).unwrap_or_else(|error| panic!("{error}")));

/// The instant all fixtures agree on.
pub(super) fn now() -> Timestamp {
    "2026-03-02T12:00:00Z".parse().unwrap()
}

/// Runs a future to its end.
pub(super) fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Files and answers in the making.
pub(super) struct Tree {
    dir: tempfile::TempDir,
    answers: BTreeMap<String, Output>,
    own: Value,
    before: Option<(u64, Value)>,
    accepted: Option<Baseline>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            answers: BTreeMap::new(),
            own: json!({}),
            before: None,
            accepted: None,
        }
    }

    pub(super) fn file(self, path: &str, content: &str) -> Self {
        let full = self.at(path);
        std::fs::write(full, content).unwrap();
        self
    }

    pub(super) fn bytes(self, path: &str, content: &[u8]) -> Self {
        std::fs::write(self.at(path), content).unwrap();
        self
    }

    pub(super) fn mode(self, path: &str, mode: u32) -> Self {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(self.at(path), permissions).unwrap();
        self
    }

    /// Sets when a file (or directory) was last changed, hours before [`now`].
    pub(super) fn aged(self, path: &str, hours: u64) -> Self {
        let then = std::time::SystemTime::from(now()) - std::time::Duration::from_hours(hours);
        std::fs::File::open(self.at(path)).unwrap().set_modified(then).unwrap();
        self
    }

    pub(super) fn dir(self, path: &str) -> Self {
        std::fs::create_dir_all(self.at(path)).unwrap();
        self
    }

    pub(super) fn link(self, path: &str, target: &str) -> Self {
        std::os::unix::fs::symlink(target, self.at(path)).unwrap();
        self
    }

    pub(super) fn at(&self, path: &str) -> std::path::PathBuf {
        let full = self.dir.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(full.parent().unwrap()).unwrap();
        full
    }

    pub(super) fn answer(self, line: &str, stdout: &str) -> Self {
        self.answer_with(line, 0, stdout, "")
    }

    pub(super) fn answer_with(mut self, line: &str, status: i32, stdout: &str, stderr: &str) -> Self {
        let output = Output { status, stdout: stdout.to_owned(), stderr: stderr.to_owned(), truncated: false };
        self.answers.insert(line.to_owned(), output);
        self
    }

    pub(super) fn own(mut self, own: Value) -> Self {
        self.own = own;
        self
    }

    /// What the same check found some hours before [`now`].
    pub(super) fn before(mut self, hours: u64, facts: Value) -> Self {
        self.before = Some((hours, facts));
        self
    }

    /// A person accepted these facts of a runbook's check.
    pub(super) fn baseline(mut self, runbook: &str, facts: &Value) -> Self {
        let id = runbook.parse().unwrap();
        let facts = baseline::acceptable(facts, &CATALOG.runbooks[&id].detect.baseline).unwrap();
        self.accepted = Some(Baseline {
            check: id,
            target: Target::host(),
            version: 1,
            facts,
            sha256: String::new(),
            accepted_by: "dana".to_owned(),
            accepted_at: now(),
            reason: "as installed".to_owned(),
        });
        self
    }

    /// Booted with systemd.
    pub(super) fn systemd(self) -> Self {
        self.dir("/run/systemd/system")
    }

    pub(super) fn unit(self, name: &str, load: &str, active: &str, sub: &str, enabled: &str) -> Self {
        let line = format!(
            "systemctl show --no-pager -p Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts -- {name}"
        );
        let result = if active == "failed" { "exit-code" } else { "success" };
        let answer = format!(
            "Id={name}\nLoadState={load}\nActiveState={active}\nSubState={sub}\nUnitFileState={enabled}\nResult={result}\nNRestarts=0\n"
        );
        self.answer(&line, &answer)
    }

    pub(super) fn host(&self) -> Host {
        Host::recorded(self.dir.path(), self.answers.clone())
    }

    /// Facts as the runbook's collector reads them here.
    pub(super) fn observe(&self, runbook: &str, settings: &Value) -> Observation {
        let before = self.before.as_ref().map(|(hours, facts)| Before {
            at: now() - jiff::SignedDuration::from_hours(i64::try_from(*hours).unwrap()),
            facts,
        });
        let mut observation = observe_on(&self.host(), runbook, settings, (&self.own, before));
        let names = &CATALOG.runbooks[&runbook.parse().unwrap()].detect.baseline;
        baseline::compare(&mut observation, names, self.accepted.as_ref());
        observation
    }

    /// The verdict and the words of its reasons.
    pub(super) fn judge(&self, runbook: &str, settings: &Value) -> (&'static str, Vec<String>) {
        words(&self.finding(runbook, settings))
    }

    /// The verdict with its sentences.
    pub(super) fn finding(&self, runbook: &str, settings: &Value) -> Finding {
        judged(runbook, settings, self.observe(runbook, settings))
    }
}

/// Judges a machine by a runbook of the embedded catalogue.
pub(super) fn finding(host: &Host, id: &str, settings: &Value) -> Finding {
    judged(id, settings, observe_on(host, id, settings, (&json!({}), None)))
}

/// What keeps healing from being tried on a machine: the prerequisites that do not hold, in words.
pub(super) fn refusals(id: &str, settings: &Value, tree: &Tree) -> Vec<String> {
    let remediate = CATALOG.runbooks[&id.parse().unwrap()].remediate.as_ref().unwrap();
    let scope = scope(id, settings, tree);
    let unmet = |rule: &&Prerequisite| rule.that.eval(&scope) != Answer::True;
    remediate.prerequisites.iter().filter(unmet).map(|rule| rule.say.render(&scope).unwrap()).collect()
}

/// What healing would write on a machine: the content of the runbook's first file step.
pub(super) fn written(id: &str, settings: &Value, tree: &Tree) -> String {
    let remediate = CATALOG.runbooks[&id.parse().unwrap()].remediate.as_ref().unwrap();
    let content = remediate.steps.iter().find_map(|step| match &step.action {
        Action::File { content, .. } => Some(content),
        Action::Exec { .. } | Action::Unit { .. } | Action::NftLoad { .. } | Action::Restore => None,
    });
    content.unwrap().render(&scope(id, settings, tree)).unwrap()
}

fn scope(id: &str, settings: &Value, tree: &Tree) -> Scope {
    let runbook = &CATALOG.runbooks[&id.parse().unwrap()];
    let complete = runbook.settings.check(settings.as_object().unwrap()).unwrap();
    let facts = tree.observe(id, settings).facts;
    Scope::new([("facts", facts), ("settings", Value::Object(complete)), ("params", json!({}))])
}

fn judged(id: &str, settings: &Value, observation: Observation) -> Finding {
    let runbook = &CATALOG.runbooks[&id.parse().unwrap()];
    let complete = runbook.settings.check(settings.as_object().unwrap()).unwrap();
    runbook.judge(&Target::host(), observation, &complete, now())
}

/// The verdict and the words of its reasons.
pub(super) fn words(finding: &Finding) -> (&'static str, Vec<String>) {
    (finding.verdict.word(), finding.reasons.iter().map(|reason| reason.word.clone()).collect())
}

fn observe_on(host: &Host, id: &str, settings: &Value, (own, before): (&Value, Option<Before<'_>>)) -> Observation {
    let runbook = &CATALOG.runbooks[&id.parse().unwrap()];
    let settings = runbook.settings.check(settings.as_object().unwrap()).unwrap();
    let FactSource::Collector(name) = &runbook.detect.source else { panic!("{id} has no collector") };
    on_runtime(linux::collect(name, Context { host, settings: &settings, now: now(), own, before }))
}
