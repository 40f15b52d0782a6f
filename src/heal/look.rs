//! Reading and judging the facts of a check, now; nothing is stored.

use serde_json::{Map, Value};

use crate::app::App;
use crate::checks::{self, Before, Context};
use crate::domain::baseline;
use crate::domain::finding::{Finding, Observation, ProblemKind};
use crate::domain::id::Target;
use crate::domain::runbook::{FactSource, Runbook};

use super::own;

/// Reads and judges the facts of a check now; nothing is stored. The finding is of the moment the look began.
pub async fn look(app: &App, runbook: &Runbook) -> Finding {
    let (settings, begun) = (app.settings(&runbook.id), app.clock.now());
    let observation = observe(app, runbook, settings).await;
    runbook.judge(&Target::host(), observation, settings, begun)
}

async fn observe(app: &App, runbook: &Runbook, settings: &Map<String, Value>) -> Observation {
    let own = if asks_about_itself(runbook) { own::facts(app).await } else { Value::Null };
    let (check, target) = (runbook.id.clone(), Target::host());
    let known = app.store.read(move |tx| Ok((tx.finding(&check, &target)?, tx.baseline(&check, &target)?)));
    let (last, accepted) = match known.await {
        Ok((last, accepted)) => (last.map(|known| known.finding), accepted),
        Err(error) => return Observation::nothing(ProblemKind::Unavailable, error.to_string()),
    };
    let before = last.as_ref().map(|finding| Before { at: finding.observed_at, facts: &finding.observation.facts });
    let context = Context { host: &app.host, settings, now: app.clock.now(), own: &own, before };
    let mut observation = checks::observe(runbook, context).await;
    baseline::compare(&mut observation, &runbook.detect.baseline, accepted.as_ref());
    observation
}

fn asks_about_itself(runbook: &Runbook) -> bool {
    matches!(&runbook.detect.source, FactSource::Collector(name) if name == "own_health")
}
