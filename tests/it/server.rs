//! A server and an appliance, both the real program: enrolment, evidence with receipts, orders, and what is refused.

use serde_json::Value;

use crate::place::{FILE, stderr, stdout, with_file};
use crate::serving::{Agent, Fleet, has_curl, start, until};

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
    // Roles are no ladder: a token of another role does what both allow, and no site beyond its own.
    let tom = fleet.person("tom", "technician");
    assert_eq!(fleet.ask("GET", "/api/audit", &tom, None).0, 403);
    let made = ["token", "add", "--user", "tom", "--name", "test", "--by", "ops"];
    let reads = stdout(&fleet.place.run(&[&made[..], &["--role", "auditor"]].concat())).trim().to_owned();
    assert_eq!(fleet.ask("GET", "/api/orders", &reads, None).0, 200);
    for (method, path, body) in [("GET", "/api/audit", None), ("POST", "/api/orders", Some(body))] {
        let (status, said) = fleet.ask(method, path, &reads, body);
        assert_eq!(status, 403, "{method} {path}: {said}");
    }
    fleet.place.ok(&["site", "add", "other", "--name", "Oak Street", "--by", "ops"]);
    let here = stdout(&fleet.place.run(&[&made[..], &["--site", "clinic"]].concat())).trim().to_owned();
    let (_, seen) = fleet.ask("GET", "/api/sites", &here, None);
    assert_eq!((seen.as_array().unwrap().len(), &seen[0]["id"]), (1, &"clinic".into()), "{seen}");
    let nowhere = fleet.place.run(&[&made[..], &["--site", "nowhere"]].concat());
    assert!(stderr(&nowhere).contains("no site is called `nowhere`"), "{}", stderr(&nowhere));
    // Names have a form: they stand in keys and in the trail.
    let odd = fleet.place.run(&["user", "add", "a:b", "--name", "x", "--role", "viewer", "--site", "*", "--by", "ops"]);
    assert!(stderr(&odd).contains("`a:b` is not a person's id"), "{}", stderr(&odd));
    let blank = fleet.place.run(&["site", "add", "blank", "--name", " ", "--by", "ops"]);
    assert!(stderr(&blank).contains("needs a name"), "{}", stderr(&blank));
    // Ended people are nobody.
    fleet.place.ok(&["user", "end", "kim", "--by", "ops"]);
    assert_eq!(fleet.ask("GET", "/api/sites", &viewer, None).0, 401);
}

#[test]
fn a_request_waits_for_its_time_and_for_somebody_who_may_still_ask() {
    if !has_curl() {
        return;
    }
    let (appliance, fleet) = (with_file("observe", "good"), Fleet::start());
    fleet.enrol(&appliance);
    let (tom, ortiz) = (fleet.person("tom", "technician"), fleet.person("ortiz", "admin"));
    let ask = |life: u32| {
        let body = format!(
            r#"{{"verb": {{"do": "rotate_keys"}}, "target": ["clinic/*"], "reason": "a test", "life_s": {life}}}"#
        );
        let (status, said) = fleet.ask("POST", "/api/orders", &tom, Some(&body));
        assert_eq!((status, &said["state"]), (200, &"waiting".into()), "{said}");
        assert_eq!(said["target"], serde_json::json!(["clinic/this-host"]), "{said}");
        said["id"].as_str().unwrap().to_owned()
    };
    let yes = |id: &str| fleet.ask("POST", &format!("/api/orders/{id}/decision"), &ortiz, Some(r#"{"approve": true}"#));
    let (short, long) = (ask(1), ask(1800));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(yes(&short).0, 409, "its time is over");
    fleet.place.ok(&["user", "end", "tom", "--by", "ops"]);
    let (status, said) = yes(&long);
    assert_eq!(status, 409, "{said}");
    assert!(said["detail"].as_str().unwrap().contains("tom may not ask"), "{said}");
    until("it has expired", || {
        let (_, all) = fleet.ask("GET", "/api/orders", &ortiz, None);
        all.as_array().unwrap().iter().any(|one| one["id"] == short.as_str() && one["state"] == "expired")
    });

    // What was made to enrol an appliance again ends with it.
    let token = fleet.token(true);
    fleet.place.ok(&["appliance", "revoke", "clinic/this-host", "--by", "ops"]);
    let refused = appliance.run(&["enroll", &token]);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
}
