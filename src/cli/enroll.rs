//! `malachor enroll`: this appliance comes to its server.

use clap::Args;
use serde_json::json;

use crate::app::{App, Clock, init_keys, keys_exist};
use crate::host::Host;
use crate::uplink;
use crate::wire::Token;

use super::keys::named;
use super::session::{Session, block_on};
use super::{Exit, Failure};

/// Enrol this appliance with the server that made the token.
///
/// The token holds once. The key of the client certificate is made here and never leaves; the server is believed only if
/// its authority is the one the token names. A running agent begins to speak with the server by itself.
#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// What `malachor enroll-token` printed on the server; `-` reads it from standard input, where no other user sees it
    token: String,
}

impl Enroll {
    pub(super) fn run(self, session: &Session<'_>) -> Result<Exit, Failure> {
        let text = if self.token == "-" { from_input()? } else { self.token };
        let token = Token::read(&text)
            .ok_or_else(|| Failure::new(Exit::Usage, "this is no enrolment token: one begins with `mle1.`"))?;
        let loaded = session.loaded()?;
        let site = &loaded.config.site;
        for (what, ours, its) in [
            ("site.id", site.id.as_str(), token.site.as_str()),
            ("site.appliance", site.appliance.as_str(), token.appliance.as_str()),
            ("site.operator_domain", site.operator_domain.as_str(), token.operator_domain.as_str()),
        ] {
            if ours != its {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("the token is for {what} = \"{its}\"; here it is \"{ours}\""),
                ));
            }
        }
        let state = loaded.config.agent.state_dir.clone();
        if !keys_exist(&state) {
            named(site)?;
            init_keys(&state, site, None)?;
        }
        block_on(async {
            let app = App::open(loaded, Host::live(), Clock::system())?;
            uplink::enrol(&state, &app.identity, &token).await.map_err(|error| Failure::unavailable(&error))?;
            if session.out.is_json() {
                session.out.json(&json!({"schema": "malachor.enrolled/1", "site": token.site, "appliance": token.appliance, "url": token.url}));
            } else {
                session.out.line(format!("{}/{} is enrolled with {}", token.site, token.appliance, token.url));
            }
            Ok(Exit::Ok)
        })
    }
}

/// The first line of standard input; longer ones are no token.
fn from_input() -> Result<String, Failure> {
    use std::io::{BufRead, Read};
    let mut line = String::new();
    let read = std::io::stdin().lock().take(16 * 1024).read_line(&mut line);
    read.map_err(|error| Failure::unavailable(&format!("standard input: {error}")))?;
    Ok(line)
}
