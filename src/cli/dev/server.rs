//! The server of `malachor dev`: everything embedded, on a free loopback port, with one site and one person.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::app::enrolled::{self, About, is_enrolled};
use crate::app::{App, Clock};
use crate::cli::Failure;
use crate::cli::tenants::{new_token, secret};
use crate::config::{Loaded, server::Server as Config};
use crate::domain::role::{Role, Sites};
use crate::fleet::people::{self, Person};
use crate::fleet::sites::{PlanTier, Site};
use crate::fleet::{FleetError, Kind};
use crate::server::enrolment;
use crate::server::state::audited;
use crate::server::{Listening, State};
use crate::wire;

/// Who acts here.
const WHO: &str = "operator:dev";

/// A server that runs.
pub(super) struct Server {
    state: Arc<State>,
    listening: Listening,
    dir: PathBuf,
}

/// Starts a server below a directory, with the site of the configuration and a person who may see it.
pub(super) async fn start(loaded: &Loaded, dir: &Path) -> Result<Server, Failure> {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        names: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        state_dir: dir.join("fleet"),
        ..Config::default()
    };
    let loaded = loaded.clone().with_flag("server", "dev", |all| all.server = config);
    let state = Arc::new(State::open(&loaded, Clock::system()).await?);
    let site = &loaded.config.site;
    let id = site.id.parse().map_err(|error| Failure::usage(&format!("site.id: {error}")))?;
    let site = Site { id, name: site.id.clone(), tier: PlanTier::Essential, created_at: state.clock.now() };
    there(enrolment::add_site(&state.fleet, &site, WHO).await)?;
    let dir = dir.to_owned();
    person(&state, &dir).await?;
    let listening = crate::server::start(Arc::clone(&state)).await?;
    Ok(Server { state, listening, dir })
}

/// What was there already is no failure.
fn there(result: Result<(), FleetError>) -> Result<(), FleetError> {
    match result {
        Err(error) if error.kind() == Kind::Conflict => Ok(()),
        result => result,
    }
}

/// The person `dev` with a token, which is kept beside the server's keys.
async fn person(state: &State, dir: &Path) -> Result<(), Failure> {
    let kept = token_file(dir);
    if kept.exists() {
        return Ok(());
    }
    let (text, now) = (secret()?, state.clock.now());
    let token = new_token(&text, ("dev", "malachor dev"), (now, 365));
    let made = state.fleet.write(move |sql| {
        let (token, who) = (token.clone(), WHO.to_owned());
        Box::pin(async move {
            let person = Person {
                id: "dev".to_owned(),
                name: "Whoever runs malachor dev".to_owned(),
                role: Role::Admin,
                sites: Sites::All,
                created_by: who.clone(),
                created_at: now,
                ended_at: None,
            };
            there(people::add_person(sql, &person).await)?;
            people::add_token(sql, &token).await?;
            audited(sql, ("", now), (&who, "token.add", &token.id), serde_json::json!({"user": "dev"})).await
        })
    });
    made.await?;
    let name = kept.display().to_string();
    let written = crate::host::Host::live().replace(&name, text.as_bytes(), 0o600, None);
    written.map_err(|error| Failure::unavailable(&format!("{name}: {error}")))
}

fn token_file(dir: &Path) -> PathBuf {
    dir.join("fleet/dev.token")
}

impl Server {
    fn url(&self) -> String {
        format!("https://{}", self.listening.address())
    }

    /// Enrols the appliance over the wire, as any other, or tells it at which port its server is this time.
    pub(super) async fn know(&self, app: &App) -> Result<(), Failure> {
        let (dir, url) = (app.state_dir(), self.url());
        let own = |why: String| Failure::unavailable(&why);
        if is_enrolled(dir) {
            let about = enrolled::about(dir).map_err(own)?;
            return enrolled::keep_about(dir, &About { url, ..about }).map_err(own);
        }
        let site = &app.config().site;
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(&error.to_string());
        let (id, appliance) =
            (site.id.parse().map_err(|error| wrong(&error))?, site.appliance.parse().map_err(|error| wrong(&error))?);
        let made = enrolment::token(&self.state, (id, appliance), false, WHO).await?;
        let token = wire::Token::read(&made.text).ok_or_else(|| own("the token cannot be read".to_owned()))?;
        let token = wire::Token { url, ..token };
        crate::uplink::enrol(dir, &app.identity, &token).await.map_err(|error| Failure::unavailable(&error))
    }

    /// How to ask it.
    pub(super) fn hint(&self) -> String {
        let authority = self.dir.join("fleet/keys/ca.pem");
        format!(
            "ask the server: curl --cacert {} -H \"authorization: Bearer $(cat {})\" {}/api/appliances",
            authority.display(),
            token_file(&self.dir).display(),
            self.url()
        )
    }

    pub(super) async fn stop(self) {
        self.listening.stop().await;
    }
}
