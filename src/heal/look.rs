//! Reading and judging the facts of a check, now; nothing is stored.

use crate::app::App;
use crate::checks::{self, Context};
use crate::domain::finding::Finding;
use crate::domain::id::Target;
use crate::domain::runbook::Runbook;

use super::own;

/// Reads and judges the facts of a check now; nothing is stored.
pub async fn look(app: &App, runbook: &Runbook) -> Finding {
    let own = own::facts(app).await;
    let settings = app.settings(&runbook.id);
    let context = Context { host: &app.host, settings, now: app.clock.now(), own: &own };
    let observation = checks::observe(runbook, context).await;
    runbook.judge(&Target::host(), observation, settings, app.clock.now())
}
