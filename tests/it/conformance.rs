//! The server keeps to its own `OpenAPI` document, whatever schemathesis makes up from it.

use std::path::Path;
use std::process::Stdio;

use crate::caller::{Caller, on_runtime};
use crate::enrolled::Enrolled;
use crate::grown::postgres;
use crate::peers::{Peers, schemathesis};
use crate::place::{Place, stdout};
use crate::serving::Fleet;

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,unsupported_method";

/// People whose tokens, and appliances whose certificates, are used in turn.
const EACH: usize = 8;

/// The server, people and appliances that call it, and an appliance that orders may go to.
struct Target {
    fleet: Fleet,
    tokens: Vec<String>,
    callers: Vec<String>,
    /// Requests that wait for a second person.
    waiting: Vec<String>,
}

impl Target {
    async fn prepare(fleet: Fleet, authority: &Path) -> Self {
        let tokens: Vec<String> = (0..EACH).map(|n| fleet.person(&format!("lee{n}"), "admin")).collect();
        let nobody = Caller::new(fleet.port, authority);
        let admin = nobody.with(&tokens[0]);
        for site in ["clinic", "spare", "asked"] {
            fleet.place.ok(&["site", "add", site, "--name", site, "--by", "ops"]);
        }
        let callers: Vec<String> = (0..EACH).map(|n| format!("clinic/front{n}")).collect();
        for named in ["spare/desk", "asked/desk"].into_iter().chain(callers.iter().map(String::as_str)) {
            let (site, name) = named.split_once('/').unwrap();
            let mut appliance = Enrolled::new(site, name);
            let path = format!("/api/sites/{site}/appliances/{name}/token");
            let token = admin.ask("POST", &path, "{}").await.unwrap().json();
            appliance.enrol(&nobody, token["token"].as_str().unwrap()).await;
            let (certificate, key) = appliance.pem();
            fleet.place.write(&format!("{named}.pem"), &certificate);
            fleet.place.write(&format!("{named}.key"), &key);
        }
        // Asked for by somebody without a token below, so that everybody may decide.
        let first = nobody.with(&fleet.person("first", "admin"));
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let body =
                r#"{"verb": {"do": "rotate_keys"}, "target": ["asked/desk"], "reason": "a test", "life_s": null}"#;
            let said = first.ask("POST", "/api/orders", body).await.unwrap();
            assert_eq!(said.status, 200, "{said:?}");
            waiting.push(said.json()["id"].as_str().unwrap().to_owned());
        }
        Self { fleet, tokens, callers, waiting }
    }

    /// Answers of a class of routes so far.
    async fn answers(&self, authority: &Path, class: &str, status: &str) -> u64 {
        let admin = Caller::new(self.fleet.port, authority).with(&self.tokens[0]);
        let metrics = admin.ask("GET", "/metrics", "").await.unwrap().text;
        let line = format!("malachor_server_requests_total{{class=\"{class}\",status=\"{status}\"}} ");
        metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }
}

#[test]
fn the_server_keeps_to_its_own_document() {
    let Some(mut program) = schemathesis() else { return };
    let secrets = Place::new("");
    // PostgreSQL is stricter about what a text may hold; without it the embedded store is asked.
    let peers = Peers::start(&["pg"]);
    let config = peers.as_ref().map_or_else(String::new, |peers| postgres(peers, &secrets));
    let fleet = Fleet::start_with(&config);
    let authority = fleet.place.dir.path().join("fleet/keys/ca.pem");
    let target = on_runtime(Target::prepare(fleet, &authority));
    let dir = target.fleet.place.dir.path();
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
    program
        .args(["run", &format!("https://localhost:{}/openapi.json", target.fleet.port), "--tls-verify"])
        .arg(&authority)
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing,stateful"])
        .args(["--max-examples", "8", "--seed", "20260504", "--request-timeout", "20", "--no-color"])
        .env("PYTHONPATH", &hooks)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "schemathesis_hooks")
        .env("MALACHOR_TOKENS", target.tokens.join(" "))
        .env("MALACHOR_CERTIFICATES", target.callers.join(" "))
        .env("MALACHOR_REQUESTS", target.waiting.join(" "))
        .env("MALACHOR_SPARE", "spare/desk")
        .current_dir(dir)
        .stdin(Stdio::null());
    let said = program.output().unwrap();
    println!("{}", stdout(&said));
    assert!(said.status.success(), "schemathesis found something: {}", String::from_utf8_lossy(&said.stderr));

    // What it does not make up: the one character that no text of PostgreSQL holds.
    on_runtime(async {
        let admin = Caller::new(target.fleet.port, &authority).with(&target.tokens[0]);
        let body = r#"{"id": "nul", "name": "a\u0000b", "tier": "essential"}"#;
        let said = admin.ask("POST", "/api/sites", body).await.unwrap();
        assert_eq!(said.status, 400, "{said:?}");
    });

    // It was not turned away at the door: every class of routes said yes, and no route met a limit only.
    on_runtime(async {
        for (class, least) in [("reading", 60), ("presence", 20), ("evidence", 3), ("orders", 10), ("enrolment", 2)] {
            let yes = target.answers(&authority, class, "2xx").await;
            assert!(yes >= least, "{class}: {yes} answers said yes");
        }
        for class in ["reading", "presence", "evidence", "orders", "enrolment", "none"] {
            assert_eq!(target.answers(&authority, class, "5xx").await, 0, "{class}");
        }
    });
}
