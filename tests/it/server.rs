//! A server and an appliance, both the real program: enrolment, evidence with receipts, orders, and what is refused.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::{FILE, Place, stderr, stdout, with_file};
use crate::skip::skipped;

/// A server on a free port with everything embedded; it ends with this value.
struct Fleet {
    place: Place,
    port: u16,
    process: Child,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).ok();
    }
}

impl Fleet {
    fn start() -> Self {
        Self::start_with("")
    }

    /// A server that knows the runbooks of an appliance.
    fn start_for(appliance: &Place) -> Self {
        Self::start_with(&format!("[catalog]\ndir = {:?}\n", appliance.dir.path().join("catalog")))
    }

    fn start_with(more: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Place::new("");
        let state = place.dir.path().join("fleet");
        place.write(
            "malachor.toml",
            &format!(
                "role = \"server\"\n[site]\nid = \"operator\"\n[server]\nlisten = \"127.0.0.1:{port}\"\nnames = [\"localhost\"]\nstate_dir = {state:?}\n{more}"
            ),
        );
        let process = start(&place, &["server"]);
        let fleet = Self { place, port, process };
        until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        fleet
    }

    fn enrol(&self, appliance: &Place) {
        self.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
        let token = self.token(false);
        appliance.ok(&["enroll", token.trim()]);
    }

    fn token(&self, again: bool) -> String {
        let mut args = vec!["enroll-token", "--site", "clinic", "--appliance", "this-host", "--by", "ops"];
        if again {
            args.push("--again");
        }
        stdout(&self.place.run(&args)).trim().to_owned()
    }

    /// A person's token.
    fn person(&self, id: &str, role: &str) -> String {
        self.place.ok(&["user", "add", id, "--name", id, "--role", role, "--site", "*", "--by", "ops"]);
        let made = self.place.run(&["token", "add", "--user", id, "--name", "test", "--by", "ops"]);
        stdout(&made).trim().to_owned()
    }

    /// Asks the server with curl: status and body.
    fn ask(&self, method: &str, path: &str, token: &str, body: Option<&str>) -> (u16, Value) {
        let authority = self.place.dir.path().join("fleet/keys/ca.pem");
        let mut command = Command::new("curl");
        command.args(["-sS", "-X", method, "-w", "\n%{http_code}", "--cacert"]).arg(authority);
        command.args(["-H", "content-type: application/json", "-H", &format!("authorization: Bearer {token}")]);
        if let Some(body) = body {
            command.args(["-d", body]);
        }
        let output = command.arg(format!("https://localhost:{}{path}", self.port)).output().unwrap();
        let text = stdout(&output);
        let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{}", stderr(&output)));
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// What became of a request's only order.
    fn order(&self, token: &str, id: &str) -> (String, String) {
        let (status, all) = self.ask("GET", "/api/orders", token, None);
        assert_eq!(status, 200, "{all}");
        let request = all.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone();
        let order = &request["orders"][0];
        (order["state"].as_str().unwrap_or_default().to_owned(), order["say"].as_str().unwrap_or_default().to_owned())
    }
}

fn start(place: &Place, args: &[&str]) -> Child {
    let log = std::fs::File::options().append(true).create(true).open(place.dir.path().join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_malachor"))
        .args(args)
        .arg("--config")
        .arg(place.dir.path().join("malachor.toml"))
        .env("MALACHOR__TELEMETRY__METRICS", "127.0.0.1:0")
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(40), "{what}: not after 40 s");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn has_curl() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        skipped("server", "curl is not there");
    }
    there
}

/// Ends an agent when the test does, whatever becomes of it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

#[test]
fn an_appliance_enrols_hands_its_evidence_over_and_heals_on_an_order() {
    if !has_curl() {
        return;
    }
    let appliance = with_file("heal", "good");
    let fleet = Fleet::start_for(&appliance);
    fleet.enrol(&appliance);
    let lee = fleet.person("lee", "admin");
    let agent = Agent(start(&appliance, &["agent"]));
    let seen = || {
        let (status, all) = fleet.ask("GET", "/api/appliances", &lee, None);
        assert_eq!(status, 200, "{all}");
        let one = all[0].clone();
        one["last_seen_at"].is_string() && one["posture"].is_object() && one["held"].as_u64() > Some(0)
    };
    until("the server has seen the appliance", seen);

    // Drift, and an order to heal it.
    appliance.write("facts.json", "{\"state\": \"bad\"}");
    let body = format!(
        r#"{{"verb": {{"do": "run_runbook", "check": "{FILE}", "params": {{}}}}, "target": ["clinic/this-host"], "reason": "a test"}}"#
    );
    let (status, request) = fleet.ask("POST", "/api/orders", &lee, Some(&body));
    assert!((200..300).contains(&status), "{status} {request}");
    let id = request["id"].as_str().unwrap().to_owned();
    if request["state"] == "waiting" {
        // A dangerous order: the first person is not the second.
        let decision = format!("/api/orders/{id}/decision");
        assert_eq!(fleet.ask("POST", &decision, &lee, Some(r#"{"approve": true}"#)).0, 403);
        let ortiz = fleet.person("ortiz", "admin");
        let (status, said) = fleet.ask("POST", &decision, &ortiz, Some(r#"{"approve": true}"#));
        assert_eq!(status, 200, "{said}");
    }
    until("the order is carried out", || fleet.order(&lee, &id).0 == "succeeded");
    let facts = std::fs::read_to_string(appliance.dir.path().join("facts.json")).unwrap();
    assert!(facts.contains("good"), "{facts}");
    drop(agent);

    // The order stands in the appliance's own log.
    let log = stdout(&appliance.run(&["evidence", "list"]));
    assert!(log.contains(&id.replace("REQ-", "")) || log.contains("order"), "{log}");
    appliance.ok(&["evidence", "verify"]);
}

#[test]
fn a_token_holds_once_for_one_appliance_and_one_server() {
    if !has_curl() {
        return;
    }
    let fleet = Fleet::start();
    fleet.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
    let token = fleet.token(false);
    let first = with_file("observe", "good");
    first.ok(&["enroll", &token]);
    // Once.
    let second = with_file("observe", "good");
    let refused = second.run(&["enroll", &token]);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(!second.dir.path().join("state/server/server.json").exists());
    // Not for another appliance.
    let other = with_file("observe", "good");
    other.configure("[site]\n", "[site]\nappliance = \"another\"\n");
    let refused = other.run(&["enroll", &token]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    // Not with a server whose authority is another.
    let impostor = Fleet::start();
    impostor.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
    let mut told: Value = decoded(&fleet.token(true));
    told["url"] = Value::String(format!("https://localhost:{}", impostor.port));
    let refused = second.run(&["enroll", &encoded(&told)]);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(!second.dir.path().join("state/server/server.json").exists());
}

fn decoded(token: &str) -> Value {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.strip_prefix("mle1.").unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn encoded(token: &Value) -> String {
    use base64::Engine;
    let bytes = serde_json::to_vec(token).unwrap();
    format!("mle1.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

#[test]
fn who_may_ask_is_decided_by_the_token_alone() {
    if !has_curl() {
        return;
    }
    let fleet = Fleet::start();
    fleet.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
    let viewer = fleet.person("kim", "viewer");
    let body = r#"{"verb": {"do": "run_checks", "checks": []}, "target": ["clinic/*"], "reason": "a test"}"#;
    for (method, path, body) in [
        ("GET", "/api/sites", None),
        ("GET", "/api/appliances", None),
        ("GET", "/api/orders", None),
        ("GET", "/api/audit", None),
        ("POST", "/api/orders", Some(body)),
        ("POST", "/api/sites", Some("{}")),
        ("POST", "/v1/check-in", Some("{}")),
        ("GET", "/v1/orders", None),
        ("POST", "/v1/evidence", Some("x")),
    ] {
        let (status, said) = fleet.ask(method, path, "nobody", body);
        assert_eq!(status, 401, "{method} {path}: {said}");
    }
    assert_eq!(fleet.ask("GET", "/api/sites", &viewer, None).0, 200);
    let (status, said) = fleet.ask("POST", "/api/orders", &viewer, Some(body));
    assert_eq!(status, 403, "{said}");
    // Ended people are nobody.
    fleet.place.ok(&["user", "end", "kim", "--by", "ops"]);
    assert_eq!(fleet.ask("GET", "/api/sites", &viewer, None).0, 401);
}
