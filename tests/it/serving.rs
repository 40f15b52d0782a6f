//! A server as the tests run it: the real program on a free port, asked with curl.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::{Place, stderr, stdout};
use crate::skip::skipped;

/// A server on a free port with everything embedded; it ends with this value.
pub(crate) struct Fleet {
    /// Where its files are.
    pub(crate) place: Place,
    /// Where it listens.
    pub(crate) port: u16,
    process: Child,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).ok();
    }
}

impl Fleet {
    /// A server with nothing configured.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// A server that knows the runbooks of an appliance.
    pub(crate) fn start_for(appliance: &Place) -> Self {
        Self::start_with(&format!("[catalog]\ndir = {:?}\n", appliance.dir.path().join("catalog")))
    }

    /// A server with more of a configuration.
    pub(crate) fn start_with(more: &str) -> Self {
        Self::start_in(Place::new(""), more)
    }

    /// Another server with the same keys.
    pub(crate) fn start_beside(&self, more: &str) -> Self {
        let (place, here) = (Place::new(""), self.place.dir.path().join("fleet/keys"));
        let there = place.dir.path().join("fleet");
        for dir in [there.clone(), there.join("keys")] {
            std::fs::create_dir(&dir).unwrap();
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        for file in std::fs::read_dir(here).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), there.join("keys").join(file.file_name())).unwrap();
        }
        Self::start_in(place, more)
    }

    fn start_in(place: Place, more: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let state = place.dir.path().join("fleet");
        place.write(
            "malachor.toml",
            &format!(
                "role = \"server\"\n[site]\nid = \"operator\"\n[server]\nlisten = \"127.0.0.1:{port}\"\nnames = [\"localhost\"]\nstate_dir = {state:?}\n{more}"
            ),
        );
        let process = start(&place, &["server"]);
        let fleet = Self { place, port, process };
        fleet.listens();
        fleet
    }

    fn listens(&self) {
        until("the server listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Ends the server without warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).unwrap();
    }

    /// Tells the server to stop; says how long it took.
    pub(crate) fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.process.wait().unwrap().success());
        begun.elapsed()
    }

    /// Starts it again where it was.
    pub(crate) fn again(&mut self) {
        self.process = start(&self.place, &["server"]);
        self.listens();
    }

    /// Asks for an order without a second person, and waits until it is over: how it ended, and what the appliance said.
    pub(crate) fn ordered(&self, token: &str, verb: &str) -> (String, String) {
        let body = format!(r#"{{"verb": {verb}, "target": ["clinic/this-host"], "reason": "a test"}}"#);
        let (status, request) = self.ask("POST", "/api/orders", token, Some(&body));
        assert!((200..300).contains(&status), "{status} {request}");
        let id = request["id"].as_str().unwrap().to_owned();
        let over = ["succeeded", "failed", "refused", "expired"];
        until("the order is over", || over.contains(&self.order(token, &id).0.as_str()));
        self.order(token, &id)
    }

    /// The only appliance, as the server sees it.
    pub(crate) fn appliance(&self, token: &str) -> Value {
        let (status, all) = self.ask("GET", "/api/appliances", token, None);
        assert_eq!(status, 200, "{all}");
        all[0].clone()
    }

    /// Enrols an appliance of the site `clinic`, which it adds.
    pub(crate) fn enrol(&self, appliance: &Place) {
        self.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
        let token = self.token(false);
        appliance.ok(&["enroll", token.trim()]);
    }

    /// An enrolment token.
    pub(crate) fn token(&self, again: bool) -> String {
        let mut args = vec!["enroll-token", "--site", "clinic", "--appliance", "this-host", "--by", "ops"];
        if again {
            args.push("--again");
        }
        stdout(&self.place.run(&args)).trim().to_owned()
    }

    /// A person's token.
    pub(crate) fn person(&self, id: &str, role: &str) -> String {
        self.place.ok(&["user", "add", id, "--name", id, "--role", role, "--site", "*", "--by", "ops"]);
        let made = self.place.run(&["token", "add", "--user", id, "--name", "test", "--by", "ops"]);
        stdout(&made).trim().to_owned()
    }

    /// Asks the server with curl: status and body.
    pub(crate) fn ask(&self, method: &str, path: &str, token: &str, body: Option<&str>) -> (u16, Value) {
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
    pub(crate) fn order(&self, token: &str, id: &str) -> (String, String) {
        let (status, all) = self.ask("GET", "/api/orders", token, None);
        assert_eq!(status, 200, "{all}");
        let request = all.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone();
        let order = &request["orders"][0];
        (order["state"].as_str().unwrap_or_default().to_owned(), order["say"].as_str().unwrap_or_default().to_owned())
    }
}

/// Starts the program with its log in the place's `log`.
pub(crate) fn start(place: &Place, args: &[&str]) -> Child {
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

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(40), "{what}: not after 40 s");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Whether curl is there; says so where it is not.
pub(crate) fn has_curl() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        skipped("server", "curl is not there");
    }
    there
}

/// Ends an agent when the test does, whatever becomes of it.
pub(crate) struct Agent(pub(crate) Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}
