//! Two servers over the same stores, behind a proxy that hands out connections in turn: one fleet, whoever answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use malachor::crypto::dsse::Envelope;
use malachor::store::Store;

use crate::caller::{Caller, Said, on_runtime};
use crate::enrolled::Enrolled;
use crate::grown::{Grown, receipt};
use crate::place::with_file;
use crate::serving::{Agent, Fleet, start};

/// Each connection goes to the next of the ports.
fn proxy(listener: TcpListener, ports: [u16; 2]) {
    std::thread::spawn(move || {
        for (incoming, port) in listener.incoming().zip(ports.into_iter().cycle()) {
            let (Ok(client), Ok(server)) = (incoming, TcpStream::connect(("127.0.0.1", port))) else { continue };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || pass_on(&client, &server));
            std::thread::spawn(move || pass_on(&to, &from));
        }
    });
}

fn pass_on(mut from: &TcpStream, mut to: &TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut bytes) {
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}

/// Two servers, and a fleet with nobody in it.
struct Pair {
    grown: Grown,
    one: Fleet,
    other: Fleet,
    lee: String,
}

impl Pair {
    async fn start(more: &str) -> Option<Self> {
        let grown = Grown::start().await?;
        let config = format!("{more}{}", grown.config());
        let one = Fleet::start_with(&config);
        let other = one.start_beside(&config);
        one.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
        let lee = one.person("lee", "admin");
        Some(Self { grown, one, other, lee })
    }

    fn authority(&self) -> std::path::PathBuf {
        self.one.place.dir.path().join("fleet/keys/ca.pem")
    }

    /// Somebody at each of the two.
    fn both(&self) -> [Caller; 2] {
        [&self.one, &self.other].map(|fleet| Caller::new(fleet.port, &self.authority()))
    }

    /// Makes an appliance known at the one, and gives who it is at both.
    async fn enrol(&self, appliance: &mut Enrolled) -> ([Caller; 2], String) {
        let [one, other] = self.both();
        let path = format!("/api/sites/{}/appliances/{}/token", appliance.site, appliance.name);
        let token = one.with(&self.lee).ask("POST", &path, "{}").await.unwrap().json();
        // Enrolled at the one, known at the other.
        let witness = appliance.enrol(&one, token["token"].as_str().unwrap()).await;
        let at = |caller: Caller| caller.showing(&self.authority(), &appliance.shown());
        ([at(one), at(other)], witness)
    }
}

async fn ask_for(caller: &Caller, target: &str, verb: &str) -> Said {
    let body = format!(r#"{{"verb": {verb}, "target": ["{target}"], "reason": "a test"}}"#);
    caller.ask("POST", "/api/orders", &body).await.unwrap()
}

const ONE_CHECK: &str = r#"{"do": "run_checks", "checks": ["RB-TEST-FILE-001"]}"#;
const CHECKS: &str = r#"{"do": "run_checks", "checks": []}"#;

#[test]
fn an_appliance_behind_a_proxy_uses_each_order_once_whoever_issued_it() {
    let appliance = with_file("heal", "good");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let catalog = appliance.dir.path().join("catalog");
    on_runtime(async {
        let Some(pair) = Pair::start(&format!("public_port = {port}\n[catalog]\ndir = {catalog:?}\n")).await else {
            return;
        };
        proxy(listener, [pair.one.port, pair.other.port]);
        appliance.ok(&["enroll", &pair.one.token(false)]);
        let agent = Agent(start(&appliance, &["agent"]));
        let [one, other] = pair.both().map(|caller| caller.with(&pair.lee));
        let mine = |said: Said| said.json().as_array().unwrap()[0].clone();
        let begun = Instant::now();
        while !mine(one.ask("GET", "/api/appliances", "").await.unwrap())["last_seen_at"].is_string() {
            assert!(begun.elapsed() < Duration::from_secs(40), "the agent does not check in");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }

        // Ten orders at once, five at each: the limit of both together.
        let mut asking = tokio::task::JoinSet::new();
        for n in 0..10 {
            let caller = [&one, &other][n % 2].clone();
            asking.spawn(async move { ask_for(&caller, "clinic/this-host", ONE_CHECK).await });
        }
        for said in asking.join_all().await {
            assert_eq!(said.status, 200, "{said:?}");
        }
        for caller in [&one, &other] {
            let said = ask_for(caller, "clinic/this-host", ONE_CHECK).await;
            assert_eq!(said.status, 429, "both count together: {said:?}");
        }
        let begun = Instant::now();
        let orders = loop {
            let all = other.ask("GET", "/api/orders", "").await.unwrap().json();
            let orders: Vec<Value> =
                all.as_array().unwrap().iter().flat_map(|one| one["orders"].as_array().unwrap().clone()).collect();
            if orders.iter().all(|order| order["state"] == "succeeded") {
                break orders;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "not carried out: {all}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let mut places: Vec<u64> = orders.iter().map(|order| order["seq"].as_u64().unwrap()).collect();
        places.sort_unstable();
        assert_eq!(places, (1..=10).collect::<Vec<u64>>());

        // The appliance hands over what it wrote about them, and both servers stand where it stands.
        let state = appliance.dir.path().join("state");
        let store = Store::open(&state, None).unwrap();
        let written = lines(&store).await;
        let last = written.iter().rposition(|line| payload(line).contains("ORD-")).unwrap();
        let held = handed_over(&other, last + 1).await;
        drop(agent);
        // What the last moments of the agent brought is counted, too.
        let held = handed_over(&one, held).await;
        let lines = lines(&store).await;
        used_once(&state, &lines, &orders);
        pair.grown.kept().await.holds("clinic", "this-host", &lines[..held]).await;
        appliance.ok(&["evidence", "verify"]);
    });
}

/// Waits until so many entries are held; says how many are.
async fn handed_over(caller: &Caller, least: usize) -> usize {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let said = caller.ask("GET", "/api/appliances", "").await.unwrap().json();
        let held = usize::try_from(said[0]["held"].as_u64().unwrap()).unwrap();
        if held >= least {
            return held;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{held} entries are held, not {least}");
    }
}

fn payload(line: &str) -> String {
    String::from_utf8(Envelope::parse(line.as_bytes()).unwrap().payload.clone()).unwrap()
}

async fn lines(store: &Store) -> Vec<String> {
    let batch = store.read(|tx| tx.outgoing(0, 1_000_000, jiff::Timestamp::MAX)).await.unwrap().unwrap();
    let text = String::from_utf8(batch).unwrap();
    text.split_once("\n\n").unwrap().0.lines().map(str::to_owned).collect()
}

/// No gap and no double: in what the appliance used, and in what its log says about it.
fn used_once(state: &Path, lines: &[String], orders: &[Value]) {
    let database = Connection::open_with_flags(state.join("malachor.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut query = database.prepare("SELECT seq, id, state FROM used_order ORDER BY seq").unwrap();
    let used: Vec<(u64, String, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect();
    assert_eq!(used.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert!(used.iter().all(|(_, _, state)| state == "succeeded"), "{used:?}");
    let payloads: Vec<String> = lines.iter().map(|line| payload(line)).collect();
    for order in orders {
        let id = order["id"].as_str().unwrap();
        assert_eq!(used.iter().filter(|(_, used, _)| used == id).count(), 1, "{id}");
        let said = payloads.iter().filter(|payload| payload.contains(id)).count();
        assert_eq!(said, 1, "{id} stands {said} times in the log");
    }
}

#[test]
fn two_servers_are_one_fleet() {
    on_runtime(async {
        let Some(pair) = Pair::start("").await else { return };
        what_comes_to_both_at_once_is_kept_once(&pair).await;
        what_one_does_the_other_knows_at_once(&pair).await;
    });
}

async fn what_comes_to_both_at_once_is_kept_once(pair: &Pair) {
    let mut appliance = Enrolled::new("clinic", "back");
    let ([one, other], witness) = pair.enrol(&mut appliance).await;
    let (log, mut from, mut refused) = (appliance.log().await, 0, 0);
    for round in 0..12 {
        log.grow(4).await;
        let whole = log.batch(from, 1000).await.unwrap();
        log.grow(4).await;
        // The same at both; every third time the other one gets more, which begins at the same place.
        let second = if round % 3 == 2 { log.batch(from, 1000).await.unwrap() } else { whole.clone() };
        let (first, second) =
            tokio::join!(one.ask("POST", "/v1/evidence", &whole), other.ask("POST", "/v1/evidence", &second));
        let mut sizes = Vec::new();
        for said in [first.unwrap(), second.unwrap()] {
            match said.status {
                200 => sizes.push((receipt(&said.json(), &witness), said.json())),
                409 => refused += 1,
                _ => panic!("{said:?}"),
            }
        }
        if let [(a, first), (b, second)] = sizes.as_slice()
            && a == b
        {
            assert_eq!(first, second, "the same receipt");
        }
        from = sizes.iter().map(|(size, _)| *size).max().expect("one of them takes it");
    }
    println!("{refused} of 24 were told that somebody was faster");
    while let Some(rest) = log.batch(from, 1000).await {
        from = receipt(&one.ask("POST", "/v1/evidence", &rest).await.unwrap().json(), &witness);
    }
    let [here, there] = [&one, &other].map(|caller| caller.ask("GET", "/v1/log", ""));
    let (here, there) = (here.await.unwrap().json(), there.await.unwrap().json());
    assert_eq!((&here, here["size"].as_u64()), (&there, Some(log.size().await)));
    pair.grown.kept().await.holds("clinic", "back", &log.lines().await).await;
}

async fn what_one_does_the_other_knows_at_once(pair: &Pair) {
    let mut appliance = Enrolled::new("clinic", "front");
    let ([one, other], _) = pair.enrol(&mut appliance).await;
    let asking = pair.both()[0].with(&pair.lee);
    // It waits at the other one; several orders come within a second.
    for seq in 1..=6 {
        let waiting = other.clone();
        let poll = tokio::spawn(async move { waiting.ask("GET", "/v1/orders?wait=20", "").await.unwrap() });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let said = ask_for(&asking, "clinic/front", CHECKS).await;
        assert_eq!(said.status, 200, "{said:?}");
        let id = said.json()["orders"][0]["id"].as_str().unwrap().to_owned();
        let asked = Instant::now();
        let orders = poll.await.unwrap().json();
        assert!(asked.elapsed() < Duration::from_secs(3), "order {seq} came after {:?}", asked.elapsed());
        assert_eq!(orders["orders"].as_array().map(Vec::len), Some(1), "{orders}");
        // Reported at the one, known at the other: it is not handed out again.
        let report = appliance.report(&id, seq);
        let told = one.ask("POST", &format!("/v1/orders/{id}"), &report).await.unwrap();
        assert_eq!(told.status, 200, "{told:?}");
    }
    // An end at the one is an end at the other.
    let revoke = "/api/sites/clinic/appliances/front/revoke";
    assert_eq!(asking.ask("POST", revoke, "").await.unwrap().status, 200);
    assert_eq!(one.ask("GET", "/v1/log", "").await.unwrap().status, 401);
    let begun = Instant::now();
    while other.ask("GET", "/v1/log", "").await.unwrap().status != 401 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the other one still lets it in");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
