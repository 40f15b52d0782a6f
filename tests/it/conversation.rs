//! What passes between a server and an appliance over time: content, configuration, keys, certificates, and being apart.

use malachor::app::enrolled::{self, About};
use malachor::app::{App, Clock};
use malachor::crypto::keys::PrivateKey;
use malachor::domain::id::{ApplianceId, OrderId, SiteId};
use malachor::domain::order::{ORDER, Order, OrderState, Verb};
use malachor::fleet::orders::{self, Request, StoredOrder};
use malachor::heal::{self, Reach};
use malachor::host::Host;

use crate::place::{FILE, Place, facts, stderr, stdout, with_file};
use crate::serving::{Agent, Fleet, has_curl, start, until};

/// An appliance that checks in every second.
fn quick(mode: &str) -> Place {
    let appliance = with_file(mode, "good");
    appliance.configure("[agent]\n", "[agent]\ncheck_in = \"1s\"\n");
    appliance
}

/// A server and an appliance that knows it, with the token of a person who may everything.
struct Together {
    appliance: Place,
    fleet: Fleet,
    lee: String,
}

/// `None`, with the reason noted, where there is no curl to ask with.
fn together(mode: &str) -> Option<Together> {
    prepared(mode, |_| {})
}

/// The same, with something done to the appliance before anybody starts.
fn prepared(mode: &str, prepare: impl FnOnce(&Place)) -> Option<Together> {
    if !has_curl() {
        return None;
    }
    let appliance = quick(mode);
    prepare(&appliance);
    let fleet = Fleet::start_for(&appliance);
    fleet.enrol(&appliance);
    let lee = fleet.person("lee", "admin");
    Some(Together { appliance, fleet, lee })
}

fn log(place: &Place) -> String {
    std::fs::read_to_string(place.dir.path().join("log")).unwrap_or_default()
}

const SECOND: &str = r#"
id: RB-TEST-SECOND-001
title: A second check
hipaa: ["164.312(b)"]
severity: low
target: host
detect: { every: 1h, timeout: 5s, exec: [echo, '{"state": "good"}'] }
expect:
  - that: facts.state == "good"
    reason: not_good
    say: "It says {{ facts.state }}"
tests:
  - { name: good, facts: { state: good }, verdict: pass }
  - { name: bad, facts: { state: bad }, verdict: fail, reasons: [not_good] }
"#;

#[test]
fn content_and_configuration_reach_an_appliance_verified_or_not_at_all() {
    let Some(Together { appliance, fleet, lee }) = together("heal") else { return };
    let agent = Agent(start(&appliance, &["agent"]));

    // Content: what does not compile is refused at the server; what does runs on the appliance.
    fleet.place.write("ours/broken.yaml", &SECOND.replace("facts.state", "facts.stat +"));
    let ours = fleet.place.dir.path().join("ours").display().to_string();
    let refused = fleet.place.run(&["publish", "content", &ours, "--by", "ops"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    std::fs::remove_file(fleet.place.dir.path().join("ours/broken.yaml")).unwrap();
    fleet.place.write("ours/second.yaml", SECOND);
    fleet.place.ok(&["publish", "content", &ours, "--by", "ops"]);
    let checks = || stdout(&appliance.run(&["check", "list"]));
    until("the new check is there", || checks().contains("RB-TEST-SECOND-001"));
    until("it runs", || stdout(&appliance.run(&["evidence", "list"])).contains("RB-TEST-SECOND-001"));

    // Configuration: what a server may not say is refused; the strictest mode wins; the rest goes below the own file.
    let bad = fleet.place.write("bad.toml", "[agent]\nstate_dir = \"/tmp\"\n");
    let refused = fleet.place.run(&["publish", "config", &bad, "--by", "ops"]);
    assert!(stderr(&refused).contains("agent.state_dir: a server may say only"), "{}", stderr(&refused));
    let strict = fleet.place.write("strict.toml", "[heal]\nmode = \"observe\"\nflap_count = 7\n");
    fleet.place.ok(&["publish", "config", &strict, "--site", "clinic", "--by", "ops"]);
    let shown = || stdout(&appliance.run(&["config", "show", "--origin"]));
    until("the configuration is in force", || shown().contains("flap_count = 7"));
    assert!(shown().contains("heal.mode = \"observe\""), "{}", shown());
    until("the agent goes on with it", || log(&appliance).matches("the agent is ready").count() >= 3);
    appliance.write("facts.json", "{\"state\": \"bad\"}");
    assert_eq!(fleet.ordered(&lee, r#"{"do": "run_checks", "checks": []}"#).0, "succeeded");
    assert!(facts(&appliance).contains("bad"), "nothing is healed where the server says observe");

    // What does not hold together with the appliance's own files is refused there, and stays refused.
    let odd = fleet.place.write("odd.toml", "[runbooks.RB-NOT-HERE-001]\nenabled = false\n");
    fleet.place.ok(&["publish", "config", &odd, "--site", "clinic", "--by", "ops"]);
    let refused = || stdout(&appliance.run(&["evidence", "list"])).matches("config of the server refused").count();
    until("it is refused", || refused() == 1);
    assert!(shown().contains("flap_count = 7"));
    let inventory = || fleet.appliance(&lee)["inventory"].clone();
    until("the server knows what it works with", || inventory()["config"]["number"] == 1);
    assert_eq!((&inventory()["content"]["number"], &inventory()["mode"]), (&1.into(), &"observe".into()));
    assert!(inventory()["checks"]["RB-TEST-SECOND-001"]["every_s"] == 3600, "{}", inventory());
    let (state, say) = fleet.ordered(&lee, r#"{"do": "sync_content"}"#);
    assert_eq!((state.as_str(), say.as_str()), ("succeeded", "the content in force is the one published"));
    assert_eq!(refused(), 1, "once is enough");

    // What is changed on the appliance's disk is not used, and fetched again.
    let kept = appliance.dir.path().join("state/server/content.json");
    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, text.replace("A second check", "A second thing")).unwrap();
    assert!(!checks().contains("RB-TEST-SECOND-001"), "{}", checks());
    until("it is fetched again", || checks().contains("RB-TEST-SECOND-001"));
    // A log that grows while it is read is no verdict.
    drop(agent);
    appliance.ok(&["evidence", "verify"]);
}

#[test]
fn a_configuration_that_cannot_be_verified_heals_nothing() {
    let Some(Together { appliance, fleet, .. }) = together("heal") else { return };
    let strict = fleet.place.write("c.toml", "[heal]\nflap_count = 7\n");
    fleet.place.ok(&["publish", "config", &strict, "--by", "ops"]);
    let agent = Agent(start(&appliance, &["agent"]));
    until("the configuration is in force", || stdout(&appliance.run(&["config", "show"])).contains("flap_count = 7"));
    drop((agent, fleet));
    let kept = appliance.dir.path().join("state/server/config.json");
    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, text.replace("flap_count = 7", "flap_count = 9")).unwrap();
    let shown = appliance.run(&["config", "show", "--origin"]);
    assert!(stderr(&shown).contains("so nothing is healed"), "{}", stderr(&shown));
    assert!(stdout(&shown).contains("heal.mode = \"observe\""), "{}", stdout(&shown));
    appliance.write("facts.json", "{\"state\": \"bad\"}");
    let dry = appliance.run(&["heal", "--dry-run", "--check", FILE]);
    assert!(stdout(&dry).contains("observe"), "{}", stdout(&dry));
}

#[test]
fn order_keys_rotate_while_orders_go_on() {
    let Some(Together { appliance, fleet, lee }) = together("observe") else { return };
    let agent = Agent(start(&appliance, &["agent"]));
    let diagnose = || fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0;
    assert_eq!(diagnose(), "succeeded");
    let keys = |args: &[&str]| fleet.place.run(&[&["server", "keys"], args].concat());
    assert_eq!(keys(&["retire", "--by", "ops"]).status.code(), Some(2), "no rotation is under way");
    drop(agent);
    assert_eq!(keys(&["rotate", "--by", "ops"]).status.code(), Some(0));
    let early = keys(&["retire", "--by", "ops"]);
    assert!(stderr(&early).contains("clinic/this-host do not hold the new key yet"), "{}", stderr(&early));
    let agent = Agent(start(&appliance, &["agent"]));
    let list = || stdout(&keys(&["list", "--json"]));
    until("the appliance holds both", || list().lines().count() == 2 && list().matches("\"held_by\":1").count() == 2);
    assert_eq!(diagnose(), "succeeded", "signed by the new key");
    assert_eq!(keys(&["retire", "--by", "ops"]).status.code(), Some(0));
    let about = || std::fs::read_to_string(appliance.dir.path().join("state/server/server.json")).unwrap();
    until("the old key is dropped", || about().matches("/malachor/orders+").count() == 1);
    assert_eq!(diagnose(), "succeeded");
    drop(agent);
    let entries = stdout(&appliance.run(&["evidence", "list"]));
    assert_eq!(entries.matches("keys that sign orders changed").count(), 2, "{entries}");
    appliance.ok(&["evidence", "verify"]);
}

#[test]
fn a_client_certificate_is_renewed_before_it_ends() {
    if !has_curl() {
        return;
    }
    let appliance = quick("observe");
    let fleet = Fleet::start_with("certificate_life = \"12s\"\n");
    fleet.enrol(&appliance);
    let lee = fleet.person("lee", "admin");
    let client = || std::fs::read_to_string(appliance.dir.path().join("state/server/client.pem")).unwrap();
    let first = client();
    let _agent = Agent(start(&appliance, &["agent"]));
    until("it is renewed", || client() != first);
    let second = client();
    until("it is renewed again", || client() != second);
    assert_eq!(fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0, "succeeded");
    let (_, trail) = fleet.ask("GET", "/api/audit", &lee, None);
    assert!(trail.to_string().matches("certificate.renew").count() >= 2, "{trail}");
}

#[test]
fn an_appliance_from_an_older_snapshot_gets_no_orders_until_somebody_looked() {
    let Some(Together { appliance, fleet, lee }) = together("observe") else { return };
    let agent = Agent(start(&appliance, &["agent"]));
    assert_eq!(fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0, "succeeded");
    drop(agent);
    let state = appliance.dir.path().join("state");
    let (old, new) = (appliance.dir.path().join("old"), appliance.dir.path().join("new"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::remove_dir_all(to).ok();
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    copy(&state, &old);
    let agent = Agent(start(&appliance, &["agent"]));
    assert_eq!(fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0, "succeeded");
    drop(agent);
    copy(&state, &new);

    copy(&old, &state);
    let agent = Agent(start(&appliance, &["agent"]));
    until("the server noticed", || fleet.appliance(&lee)["state"] == "rolled_back");
    let body = r#"{"verb": {"do": "collect_diagnostics"}, "target": ["clinic/this-host"], "reason": "a test"}"#;
    assert_eq!(fleet.ask("POST", "/api/orders", &lee, Some(body)).0, 404, "it is not to be had");
    let release =
        || fleet.place.run(&["appliance", "release", "clinic/this-host", "--reason", "looked", "--by", "ops"]);
    assert!(stderr(&release()).contains("restore a newer"), "{}", stderr(&release()));
    drop(agent);

    copy(&new, &state);
    let _agent = Agent(start(&appliance, &["agent"]));
    until("it is released", || release().status.code() == Some(0));
    assert_eq!(fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0, "succeeded");
    fleet.place.ok(&["appliance", "revoke", "clinic/this-host", "--by", "ops"]);
    until("it is turned away", || log(&appliance).contains("the client certificate is revoked"));
    assert_eq!(fleet.ask("POST", "/api/orders", &lee, Some(body)).0, 404, "it is gone");
    let (_, trail) = fleet.ask("GET", "/api/audit", &lee, None);
    for act in ["appliance.rolled_back", "appliance.release", "appliance.revoke"] {
        assert!(trail.to_string().contains(act), "{act}: {trail}");
    }
}

#[test]
fn an_appliance_does_its_work_without_its_server_and_hands_everything_over_later() {
    let often = |appliance: &Place| appliance.append(&format!("[runbooks.{FILE}]\nevery = \"1s\"\n"));
    let Some(Together { appliance, mut fleet, lee }) = prepared("heal", often) else { return };
    let _agent = Agent(start(&appliance, &["agent"]));
    until("evidence arrives", || fleet.appliance(&lee)["held"].as_u64() > Some(1));
    let held = fleet.appliance(&lee)["held"].as_u64().unwrap();
    let doctor = || stdout(&appliance.run(&["doctor"]));
    assert!(doctor().contains("the certificate holds 89 more days"), "{}", doctor());
    fleet.kill();
    assert!(doctor().contains("✖ server"), "{}", doctor());
    appliance.write("facts.json", "{\"state\": \"bad\"}");
    until("it is healed without the server", || facts(&appliance).contains("good"));
    fleet.again();
    until("everything is handed over", || {
        let one = fleet.appliance(&lee);
        one["held"].as_u64() > Some(held) && one["outbox"].as_u64() == Some(0)
    });
    appliance.ok(&["evidence", "verify"]);
}

#[test]
fn a_site_takes_ten_requests_in_five_minutes_whoever_asks() {
    let Some(Together { appliance: _appliance, fleet, lee }) = together("observe") else { return };
    let ortiz = fleet.person("ortiz", "admin");
    let body = r#"{"verb": {"do": "run_checks", "checks": []}, "target": ["clinic/*"], "reason": "a test"}"#;
    for turn in 0..10 {
        let (status, said) = fleet.ask("POST", "/api/orders", if turn % 2 == 0 { &lee } else { &ortiz }, Some(body));
        assert_eq!(status, 200, "{turn}: {said}");
    }
    let (status, said) = fleet.ask("POST", "/api/orders", &ortiz, Some(body));
    assert_eq!(status, 429, "{said}");
    assert_eq!(said["detail"], "clinic: 10 requests within 300 s are allowed");
}

/// Runs the file check once, as the agent does.
fn look(place: &Place) {
    let config = place.dir.path().join("malachor.toml");
    let loaded = malachor::config::load(Some(&config), []).unwrap();
    let app = App::open(loaded, Host::live(), Clock::system()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        app.ready().await.unwrap();
        let runbook = app.checks().find(|runbook| runbook.id.as_str() == FILE).unwrap();
        heal::run_check(&app, runbook, Reach::Heal).await.unwrap();
    });
}

#[test]
fn what_waits_is_bounded_and_what_is_left_out_is_counted_in_signed_records() {
    let place = with_file("observe", "good");
    crate::place::change(
        &place,
        "expect:\n",
        "expect:\n  - { that: facts.more != \"x\", reason: more, level: warn, say: \"There is more\" }\n",
    );
    crate::place::change(&place, "facts: { state: good }", "facts: { state: good, more: y }");
    crate::place::change(&place, "facts: { state: bad }", "facts: { state: bad, more: y }");
    place.configure("[agent]\n", "[agent]\noutbox_entries = 4\n");
    let more = |more: &str| drop(place.write("facts.json", &format!("{{\"state\": \"good\", \"more\": \"{more}\"}}")));
    let list = || place.ok(&["--json", "evidence", "list"]);
    let count = |what: &str| list().matches(what).count();
    let flip = |times: usize| {
        for turn in 0..times {
            more(if turn % 2 == 0 { "x" } else { "y" });
            look(&place);
        }
    };
    // Without a server nothing waits, whatever the log holds.
    flip(8);
    let size = || list().lines().count();
    let before = size();
    assert!(before > 8);
    let about = About {
        url: "https://localhost:1".into(),
        site: "clinic".parse().unwrap(),
        appliance: "this-host".parse().unwrap(),
        order_keys: Vec::new(),
        witness_key: String::new(),
    };
    enrolled::keep_about(&place.dir.path().join("state"), &about).unwrap();
    flip(8);
    assert_eq!(size(), before + 1, "one record, and no change after it");
    assert_eq!(count("changes of findings are not written from here on"), 1);
    // The server takes what waits.
    let database = rusqlite::Connection::open(place.dir.path().join("state").join(malachor::store::DATABASE)).unwrap();
    database.execute("UPDATE outbox SET sent_at = '2026-05-04T12:00:00Z'", []).unwrap();
    flip(2);
    assert_eq!(count("there is room again"), 1);
    assert_eq!(size(), before + 4, "the end of the gap, and both changes");
    let listed = list();
    let end = listed.lines().find(|line| line.contains("there is room again")).unwrap();
    let shown: serde_json::Value = serde_json::from_str(end).unwrap();
    let seq = shown["seq"].to_string();
    let entry = place.ok(&["evidence", "show", &seq]);
    assert!(entry.contains("leftOut") && entry.contains('8'), "{entry}");
    place.ok(&["evidence", "verify"]);
}

/// Puts an order into the server's store as if it had been issued there.
fn plant(fleet: &Fleet, sign: impl Fn(&Order, &PrivateKey) -> Vec<u8>, change: impl Fn(&mut Order)) {
    let dir = fleet.place.dir.path().join("fleet");
    let key = PrivateKey::load(&dir.join("keys/order.pem")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let now = Clock::system().now();
    let (site, appliance): (SiteId, ApplianceId) = ("clinic".parse().unwrap(), "this-host".parse().unwrap());
    runtime.block_on(async {
        let store = malachor::fleet::Fleet::open(malachor::fleet::Place::File(dir.join("fleet.db"))).await.unwrap();
        let (at, id) = (site.clone(), appliance.clone());
        let seq = store.write(move |sql| {
            let (at, id) = (at.clone(), id.clone());
            Box::pin(async move { orders::next_seq(sql, &at, &id).await })
        });
        let seq = seq.await.unwrap();
        let bytes: [u8; 8] = std::array::from_fn(|n| u8::try_from(seq).unwrap() + u8::try_from(n).unwrap());
        let mut order = Order {
            version: 1,
            id: OrderId::order(bytes),
            site: site.clone(),
            appliance: appliance.clone(),
            seq,
            nonce: format!("{seq:032x}"),
            issued_at: now,
            not_before: now,
            expires: now + jiff::SignedDuration::from_mins(30),
            by: "mallory".into(),
            approved_by: Some("nobody".into()),
            reason: "to try it".into(),
            verb: Verb::SetKillSwitch { on: true },
        };
        change(&mut order);
        let request = Request {
            id: OrderId::request(bytes),
            verb: "{}".into(),
            target: vec![(site.clone(), appliance.clone())],
            reason: "x".into(),
            asked_by: "mallory".into(),
            asked_at: now,
            life_s: 1800,
            state: "issued".into(),
            decided_by: None,
            decided_at: None,
        };
        let stored = StoredOrder {
            site,
            appliance,
            seq,
            id: OrderId::order(bytes),
            request: request.id.clone(),
            envelope: sign(&order, &key),
            expires_at: now + jiff::SignedDuration::from_mins(30),
            state: OrderState::Queued,
            queued_at: now,
            changed_at: now,
            say: String::new(),
            report: None,
        };
        let put = store.write(move |sql| {
            let (request, stored) = (request.clone(), stored.clone());
            Box::pin(async move {
                orders::add_request(sql, &request).await?;
                orders::add_order(sql, &stored).await
            })
        });
        put.await.unwrap();
    });
}

fn signed_as(kind: &str, order: &Order, key: &PrivateKey) -> Vec<u8> {
    let payload = serde_json::to_vec(order).unwrap();
    malachor::crypto::dsse::sign(kind, &payload, key, malachor::crypto::keys::KeyId([0; 4])).unwrap()
}

#[test]
fn orders_that_do_not_hold_are_refused_recorded_once_and_stand_in_nobodys_way() {
    let Some(Together { appliance, fleet, lee }) = together("observe") else { return };
    let _agent = Agent(start(&appliance, &["agent"]));
    assert_eq!(fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0, "succeeded", "place 1 is used");
    let own = |order: &Order, key: &PrivateKey| signed_as(ORDER, order, key);
    let hour = jiff::SignedDuration::from_hours(1);
    plant(&fleet, |order, _| signed_as(ORDER, order, &PrivateKey::generate().unwrap()), |_| {});
    plant(&fleet, |order, key| signed_as("application/json", order, key), |_| {});
    plant(&fleet, own, |order| order.appliance = "another".parse().unwrap());
    plant(&fleet, own, |order| order.site = "elsewhere".parse().unwrap());
    plant(&fleet, own, |order| order.seq = 1);
    plant(&fleet, own, |order| {
        (order.issued_at, order.not_before, order.expires) =
            (order.issued_at - hour, order.not_before - hour, order.expires - hour);
    });
    plant(&fleet, own, |order| order.not_before += hour);
    plant(&fleet, own, |order| order.expires += jiff::SignedDuration::from_hours(24 * 30));
    plant(&fleet, own, |order| {
        (order.verb, order.approved_by) = (Verb::SetKillSwitch { on: false }, Some("mallory".into()));
    });
    let said = || stdout(&appliance.run(&["--json", "evidence", "list"]));
    let reasons = [
        ("is not signed by an order key", 1),
        ("it is no order", 1),
        ("it is for clinic/another", 1),
        ("it is for elsewhere/this-host", 1),
        ("its place 1 in the sequence is used", 1),
        ("it was valid until", 1),
        ("it is valid from", 1),
        ("valid for longer than any order may be", 1),
        ("needs a second person", 1),
    ];
    until("all are refused", || reasons.iter().all(|(why, _)| said().contains(why)));
    let (state, say) = fleet.ordered(&lee, r#"{"do": "set_kill_switch", "on": true}"#);
    assert_eq!((state.as_str(), say.as_str()), ("succeeded", "kill switch on"), "a good one after them is carried out");
    let said = said();
    for (why, times) in reasons {
        assert_eq!(said.matches(why).count(), times, "{why}: {said}");
    }
    appliance.ok(&["evidence", "verify"]);
}

#[test]
fn a_clock_that_is_ahead_delays_evidence_and_loses_none_of_it() {
    if !has_curl() {
        return;
    }
    let appliance = with_file("observe", "good");
    let fleet = Fleet::start_for(&appliance);
    fleet.enrol(&appliance);
    let lee = fleet.person("lee", "admin");
    let config = appliance.dir.path().join("malachor.toml");
    let ahead = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(600));
    let hands = std::sync::Arc::clone(&ahead);
    let clock = Clock::manual(move || {
        let seconds = hands.load(std::sync::atomic::Ordering::SeqCst);
        Clock::system().now() + jiff::SignedDuration::from_secs(seconds)
    });
    let open = |clock: &Clock| {
        App::open(malachor::config::load(Some(&config), []).unwrap(), Host::live(), clock.clone()).unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let app = open(&clock);
        app.ready().await.unwrap();
        // Ten minutes: nothing is handed over, and what would be is told from a forgery.
        assert_eq!(malachor::uplink::once(&app).await.unwrap().held, 0);
        let body = app.store.read(|tx| tx.outgoing(0, 500, jiff::Timestamp::MAX)).await.unwrap().unwrap();
        let file = appliance.dir.path().join("body");
        std::fs::write(&file, body).unwrap();
        let client = appliance.dir.path().join("state/server/client.pem");
        let asked = std::process::Command::new("curl")
            .args(["-sS", "--cacert"])
            .arg(fleet.place.dir.path().join("fleet/keys/ca.pem"))
            .args(["--cert", &client.display().to_string(), "--key", &client.display().to_string()])
            .args(["--data-binary", &format!("@{}", file.display())])
            .arg(format!("https://localhost:{}/v1/evidence", fleet.port))
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_str(&stdout(&asked)).unwrap();
        assert!(said["type"].as_str().unwrap().ends_with("clock_ahead") && said["status"] == 422, "{said}");
        assert_eq!(fleet.ask("GET", "/stats", &lee, None).1["quarantined"], 0);
    });
    // A little: it waits until the server's clock has come to it.
    let state = appliance.dir.path().join("state");
    std::fs::remove_file(state.join(malachor::store::DATABASE)).unwrap();
    std::fs::write(state.join("keys/no-log-yet"), "").unwrap();
    ahead.store(95, std::sync::atomic::Ordering::SeqCst);
    runtime.block_on(async {
        let app = open(&clock);
        app.ready().await.unwrap();
        assert_eq!(malachor::uplink::once(&app).await.unwrap().held, 0);
        std::thread::sleep(std::time::Duration::from_secs(7));
        assert_eq!(malachor::uplink::once(&app).await.unwrap().held, 1);
    });
    assert_eq!(fleet.appliance(&lee)["held"], 1);
}

/// Asks the server with an appliance's client certificate: the status.
fn as_appliance(fleet: &Fleet, client: &std::path::Path, path: &str) -> String {
    let asked = std::process::Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(fleet.place.dir.path().join("fleet/keys/ca.pem"))
        .args(["--cert", &client.display().to_string(), "--key", &client.display().to_string()])
        .arg(format!("https://localhost:{}{path}", fleet.port))
        .output()
        .unwrap();
    stdout(&asked)
}

/// Asks for an order that needs a second person, who says yes; how it ended.
fn ordered_by_two(fleet: &Fleet, lee: &str, verb: &str) -> (String, String) {
    let ortiz = fleet.person("ortiz", "admin");
    let body = format!(r#"{{"verb": {verb}, "target": ["clinic/this-host"], "reason": "a test"}}"#);
    let (status, request) = fleet.ask("POST", "/api/orders", lee, Some(&body));
    assert_eq!((status, &request["state"]), (200, &"waiting".into()), "{request}");
    let id = request["id"].as_str().unwrap();
    let yes = fleet.ask("POST", &format!("/api/orders/{id}/decision"), &ortiz, Some(r#"{"approve": true}"#));
    assert_eq!(yes.0, 200, "{}", yes.1);
    let over = ["succeeded", "failed", "refused", "expired"];
    until("the order is over", || over.contains(&fleet.order(lee, id).0.as_str()));
    fleet.order(lee, id)
}

#[test]
fn a_new_client_certificate_ends_the_one_before() {
    if !has_curl() {
        return;
    }
    let appliance = quick("observe");
    let fleet = Fleet::start_for(&appliance);
    fleet.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
    let config = appliance.dir.path().join("malachor.toml");
    let mut enroll = std::process::Command::new(env!("CARGO_BIN_EXE_malachor"))
        .args(["enroll", "-", "--config", &config.display().to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut enroll.stdin.take().unwrap(), format!("{}\n", fleet.token(false)).as_bytes())
        .unwrap();
    assert!(enroll.wait().unwrap().success(), "the token comes by standard input");
    let lee = fleet.person("lee", "admin");
    let client = appliance.dir.path().join("state/server/client.pem");
    let stolen = appliance.dir.path().join("stolen.pem");
    std::fs::copy(&client, &stolen).unwrap();
    assert_eq!(as_appliance(&fleet, &stolen, "/v1/log"), "200");
    let _agent = Agent(start(&appliance, &["agent"]));
    let (state, say) = ordered_by_two(&fleet, &lee, r#"{"do": "rotate_keys"}"#);
    assert_eq!((state.as_str(), say.as_str()), ("succeeded", "the client certificate has a new key"));
    until("the old one ends", || as_appliance(&fleet, &stolen, "/v1/log") == "401");
    assert_eq!(as_appliance(&fleet, &client, "/v1/log"), "200");
}

#[test]
fn what_two_people_signed_is_what_runs() {
    let with_word = |appliance: &Place| {
        crate::place::change(appliance, "remediate:", "params:\n  word: { type: string, default: good }\nremediate:");
        let content = "content: '{\"state\": \"good\", \"by\": \"{{ params.word }}\"}'";
        crate::place::change(appliance, "content: '{\"state\": \"good\"}'", content);
    };
    let Some(Together { appliance, fleet, lee }) = prepared("heal", with_word) else { return };
    let _agent = Agent(start(&appliance, &["agent"]));
    until("the agent checked", || stdout(&appliance.run(&["evidence", "list"])).contains(FILE));
    appliance.write("facts.json", "{\"state\": \"bad\"}");
    let verb = format!(r#"{{"do": "run_runbook", "check": "{FILE}", "params": {{"word": "lee"}}}}"#);
    let (state, say) = ordered_by_two(&fleet, &lee, &verb);
    assert_eq!(state, "succeeded", "{say}");
    assert!(facts(&appliance).contains("\"by\": \"lee\""), "{}", facts(&appliance));
}

#[test]
fn a_stop_comes_through_while_evidence_cannot_be_kept() {
    let Some(Together { appliance, fleet, lee }) = together("observe") else { return };
    let worm = fleet.place.dir.path().join("fleet/worm");
    std::fs::rename(&worm, worm.with_extension("away")).unwrap();
    std::fs::write(&worm, "in the way").unwrap();
    let _agent = Agent(start(&appliance, &["agent"]));
    until("evidence waits", || log(&appliance).contains("evidence waits"));
    let (state, say) = fleet.ordered(&lee, r#"{"do": "set_kill_switch", "on": true}"#);
    assert_eq!((state.as_str(), say.as_str()), ("succeeded", "kill switch on"));
    std::fs::remove_file(&worm).unwrap();
    std::fs::rename(worm.with_extension("away"), &worm).unwrap();
    until("it is handed over", || fleet.appliance(&lee)["held"].as_u64() > Some(0));
}

#[test]
fn a_server_from_an_older_backup_gets_again_what_it_lost() {
    let Some(Together { appliance, mut fleet, lee }) = together("observe") else { return };
    let dir = fleet.place.dir.path().join("fleet");
    let agent = Agent(start(&appliance, &["agent"]));
    let diagnose = |fleet: &Fleet| fleet.ordered(&lee, r#"{"do": "collect_diagnostics"}"#).0;
    assert_eq!(diagnose(&fleet), "succeeded");
    drop(agent);
    fleet.kill();
    let files = ["fleet.db", "fleet.db-wal", "fleet.db-shm"];
    let copy = |to: &std::path::Path, from: &std::path::Path| {
        for file in files {
            std::fs::remove_file(to.join(file)).ok();
            if from.join(file).exists() {
                std::fs::copy(from.join(file), to.join(file)).unwrap();
            }
        }
    };
    let backup = fleet.place.dir.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    copy(&backup, &dir);
    fleet.again();
    let agent = Agent(start(&appliance, &["agent"]));
    assert_eq!(diagnose(&fleet), "succeeded");
    assert_eq!(diagnose(&fleet), "succeeded");
    until("all is held", || fleet.appliance(&lee)["outbox"] == 0);
    let held = fleet.appliance(&lee)["held"].as_u64().unwrap();
    drop(agent);
    fleet.kill();
    copy(&dir, &backup);
    fleet.again();
    assert!(fleet.appliance(&lee)["held"].as_u64() < Some(held));
    let _agent = Agent(start(&appliance, &["agent"]));
    until("it has all again", || fleet.appliance(&lee)["held"].as_u64() > Some(held));
    assert_eq!(diagnose(&fleet), "succeeded", "orders go on after those that were used");
    let (_, trail) = fleet.ask("GET", "/api/audit", &lee, None);
    assert!(trail.to_string().contains("server.behind"), "{trail}");
    let said = stdout(&appliance.run(&["--json", "evidence", "list"]));
    assert!(said.contains("the server lost entries it had acknowledged"), "{said}");
}

#[test]
fn a_stop_waits_for_no_other_order() {
    let slow = "RB-TEST-SLOW-001";
    let check = SECOND.replace("RB-TEST-SECOND-001", slow).replace("timeout: 5s", "timeout: 60s");
    let check = check.replace("[echo, '{\"state\": \"good\"}']", "[sleep, \"25\"]");
    let prepare = |appliance: &Place| drop(appliance.write("catalog/slow.yaml", &check));
    let Some(Together { appliance, fleet, lee }) = prepared("observe", prepare) else { return };
    let _agent = Agent(start(&appliance, &["agent"]));
    until("the agent speaks", || fleet.appliance(&lee)["last_seen_at"].is_string());
    let body = format!(
        r#"{{"verb": {{"do": "run_checks", "checks": ["{slow}"]}}, "target": ["clinic/this-host"], "reason": "a test"}}"#
    );
    let (status, request) = fleet.ask("POST", "/api/orders", &lee, Some(&body));
    assert_eq!(status, 200, "{request}");
    let id = request["id"].as_str().unwrap();
    until("it is under way", || fleet.order(&lee, id).0 == "running");
    let (state, say) = fleet.ordered(&lee, r#"{"do": "set_kill_switch", "on": true}"#);
    assert_eq!((state.as_str(), say.as_str()), ("succeeded", "kill switch on"));
    assert_eq!(fleet.order(&lee, id).0, "running", "the other one goes on beside it");
    until("the other one ends", || fleet.order(&lee, id).0 == "succeeded");
}
