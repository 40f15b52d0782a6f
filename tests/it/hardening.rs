//! What strangers, and appliances that turn bad, cannot do to a server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;

use malachor::app::Clock;
use malachor::config::{Loaded, server::Server};
use malachor::net::tls::{client, roots};
use malachor::server::State;

use crate::caller::{Caller, on_runtime};
use crate::enrolled::Enrolled;
use crate::place::{Place, stderr, stdout};
use crate::serving::{Fleet, has_curl, start, until};

fn authority(fleet: &Fleet) -> PathBuf {
    fleet.place.dir.path().join("fleet/keys/ca.pem")
}

fn nobody(fleet: &Fleet) -> Caller {
    Caller::new(fleet.port, &authority(fleet))
}

/// Makes an appliance known; gives who it is, and somebody who may see and do everything.
async fn enrol(fleet: &Fleet, appliance: &mut Enrolled) -> (Caller, Caller) {
    fleet.place.ok(&["site", "add", &appliance.site, "--name", "Elm Street", "--by", "ops"]);
    let lee = nobody(fleet).with(&fleet.person("lee", "admin"));
    let path = format!("/api/sites/{}/appliances/{}/token", appliance.site, appliance.name);
    let token = lee.ask("POST", &path, "{}").await.unwrap().json();
    appliance.enrol(&nobody(fleet), token["token"].as_str().unwrap()).await;
    (nobody(fleet).showing(&authority(fleet), &appliance.shown()), lee)
}

#[test]
fn strangers_do_not_take_the_places_of_appliances() {
    on_runtime(async {
        let mut fleet = Fleet::start_with("connections = 8\nconnections_per_address = 3\n");
        let mut appliance = Enrolled::new("clinic", "front");
        let (its, _) = enrol(&fleet, &mut appliance).await;
        let health = async |caller: &Caller| {
            let mut talk = caller.connect().await.ok()?;
            talk.ask("GET", "/health", "").await.ok().map(|_| talk)
        };
        let from = |last| nobody(&fleet).from(Ipv4Addr::new(127, 0, 9, last));
        let begun = Instant::now();
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(health(&from(1)).await.expect("an address has its places"));
        }
        assert!(health(&from(1)).await.is_none(), "and no more");
        open.push(health(&from(2)).await.expect("another address has its own"));
        assert!(health(&from(3)).await.is_none(), "half of all places are not for strangers");
        // Appliances come in, from an address that has no more places for strangers, too.
        let its = its.from(Ipv4Addr::new(127, 0, 9, 2));
        for _ in 0..4 {
            open.push(health(&its).await.expect("an appliance has a place"));
        }
        // All eight are taken, and the server hears that it is to stop.
        assert!(begun.elapsed() < Duration::from_secs(9), "too slow to tell");
        assert!(fleet.stop() < Duration::from_secs(2));
    });
}

#[test]
fn a_stranger_who_says_nothing_is_gone_in_ten_seconds() {
    on_runtime(async {
        let fleet = Fleet::start();
        let (nobody, begun) = (nobody(&fleet), Instant::now());
        let mut talk = nobody.connect().await.unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(talk.ask("GET", "/health", "").await.unwrap().status, 200, "eight seconds are not too long");
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(talk.ask("GET", "/health", "").await.is_err(), "open for {:?}", begun.elapsed());
        // Without even a handshake it is sooner.
        let mut silent = TcpStream::connect((Ipv4Addr::LOCALHOST, fleet.port)).unwrap();
        silent.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        silent.write_all(&[22, 3, 1]).unwrap();
        assert!(matches!(silent.read(&mut [0; 16]), Ok(0)));
    });
}

#[test]
fn a_server_stops_at_once_while_appliances_wait_for_orders() {
    on_runtime(async {
        let mut fleet = Fleet::start();
        let mut appliance = Enrolled::new("clinic", "front");
        let (its, _) = enrol(&fleet, &mut appliance).await;
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let its = its.clone();
                tokio::spawn(async move { its.ask("GET", "/v1/orders?wait=50", "").await.unwrap() })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let took = tokio::task::spawn_blocking(move || fleet.stop()).await.unwrap();
        assert!(took < Duration::from_secs(2), "{took:?}");
        for answer in waiting {
            let said = answer.await.unwrap();
            assert_eq!((said.status, said.text.trim()), (200, r#"{"orders":[]}"#));
        }
    });
}

/// Sends a large body slowly.
struct Slow(Child);

impl Slow {
    fn start(fleet: &Fleet, appliance: &Enrolled) -> Self {
        let dir = fleet.place.dir.path();
        let (certificate, key) = appliance.pem();
        std::fs::write(dir.join("slow.pem"), format!("{certificate}{key}")).unwrap();
        std::fs::write(dir.join("large"), vec![b'x'; 1024 * 1024]).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--limit-rate", "20K", "-H", "Expect:", "-X", "POST", "--data-binary"]);
        curl.arg(format!("@{}", dir.join("large").display())).arg("--cacert").arg(authority(fleet));
        curl.arg("--cert").arg(dir.join("slow.pem")).arg(format!("https://localhost:{}/v1/evidence", fleet.port));
        Self(curl.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

#[test]
fn an_appliance_has_two_large_bodies_under_way() {
    if !has_curl() {
        return;
    }
    on_runtime(async {
        let fleet = Fleet::start();
        let mut appliance = Enrolled::new("clinic", "front");
        let (its, _) = enrol(&fleet, &mut appliance).await;
        let slow = [Slow::start(&fleet, &appliance), Slow::start(&fleet, &appliance)];
        let begun = Instant::now();
        while its.ask("POST", "/v1/evidence", "x").await.unwrap().status != 503 {
            assert!(begun.elapsed() < Duration::from_secs(20), "a third one is taken");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let said = its.ask("POST", "/v1/check-in", &Enrolled::check_in(0)).await.unwrap();
        assert_eq!(said.status, 200, "small ones need no room: {said:?}");
        drop(slow);
        let begun = Instant::now();
        while its.ask("POST", "/v1/evidence", "x").await.unwrap().status == 503 {
            assert!(begun.elapsed() < Duration::from_secs(20), "their room is not free again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// A body whose first line has a signature of nobody.
fn forged(batch: &str, mark: char) -> String {
    let at = batch.find("\"sig\":\"").unwrap() + 7;
    let mut bytes = batch.as_bytes().to_vec();
    bytes[at] = if bytes[at] == mark as u8 { b'z' } else { mark as u8 };
    String::from_utf8(bytes).unwrap()
}

fn acts(trail: &Value, act: &str) -> usize {
    trail.as_array().unwrap().iter().filter(|row| row["act"] == act).count()
}

#[test]
fn only_what_an_appliance_signed_is_kept_and_not_without_end() {
    on_runtime(async {
        let fleet = Fleet::start();
        let mut appliance = Enrolled::new("clinic", "front");
        let (its, lee) = enrol(&fleet, &mut appliance).await;
        let ask = async |path: &str| lee.ask("GET", path, "").await.unwrap().json();
        let post = async |body: &str| its.ask("POST", "/v1/evidence", body).await.unwrap();
        let log = appliance.log().await;
        log.grow(5).await;
        let batch = log.batch(0, 100).await.unwrap();
        // Signed by nobody, before and after the server holds entries of that place.
        let said = post(&forged(&batch, 'A')).await;
        assert!(said.status == 422 && said.text.contains("BAD_SIGNATURE"), "{said:?}");
        assert_eq!(post(&batch).await.status, 200);
        for mark in ['B', 'C', 'D', 'E'] {
            let said = post(&forged(&batch, mark)).await;
            assert!(said.status == 422 && said.text.contains("BAD_SIGNATURE"), "{said:?}");
        }
        assert_eq!(ask("/stats").await["quarantined"], 0, "it proves nothing");
        assert_eq!(acts(&ask("/api/audit").await, "evidence.reject"), 1, "once a day");
        assert_eq!(ask("/api/appliances").await[0]["state"], "active");

        // Signed, and another story.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let other = appliance.log().await;
        for kept in 1..=22_u64 {
            let said = post(&other.batch(0, 100).await.unwrap()).await;
            assert!(said.status == 422 && said.text.contains("FORK"), "{said:?}");
            assert_eq!(ask("/stats").await["quarantined"], kept.min(20));
            other.grow(1).await;
        }
        assert_eq!(ask("/api/appliances").await[0]["state"], "rolled_back", "it gets no orders");
        let trail = ask("/api/audit?limit=500").await;
        assert_eq!((acts(&trail, "appliance.rolled_back"), acts(&trail, "evidence.quarantine")), (1, 20), "{trail}");
        assert_eq!(acts(&trail, "evidence.reject"), 1);

        let listed = stdout(&fleet.place.run(&["--json", "quarantine", "list"]));
        let first: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
        assert_eq!((&first["reason"], &first["appliance"]), (&"FORK".into(), &"clinic/front".into()));
        let out = fleet.place.dir.path().join("out");
        fleet.place.ok(&["quarantine", "export", &first["id"].to_string(), "--out", &out.display().to_string()]);
        let proof = std::fs::read_to_string(&out).unwrap();
        let line = other.lines().await[0].clone();
        assert!(proof.starts_with(&format!("{line}\n\n")), "{proof}");
        assert!(proof.contains("/malachor/witness "), "and what the server cosigned: {proof}");
        assert_eq!(proof.len() as u64, first["bytes"].as_u64().unwrap());
        assert!(!fleet.place.run(&["quarantine", "export", "99", "--out", "/dev/null"]).status.success());
    });
}

fn files(dir: &Path) -> usize {
    let Ok(all) = std::fs::read_dir(dir) else { return 0 };
    all.map(|one| one.unwrap().path()).map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[test]
fn nothing_lies_in_worm_that_no_log_leads_to() {
    on_runtime(async {
        let fleet = Fleet::start();
        let mut appliance = Enrolled::new("clinic", "front");
        let (its, _) = enrol(&fleet, &mut appliance).await;
        let (log, dir) = (appliance.log().await, fleet.place.dir.path().join("fleet"));
        let mut bodies = Vec::new();
        for _ in 0..6 {
            log.grow(20).await;
            bodies.push(log.batch(0, 1000).await.unwrap());
        }
        let mut posts = tokio::task::JoinSet::new();
        for body in bodies {
            let its = its.clone();
            posts.spawn(async move {
                let begun = Instant::now();
                // Two large bodies at a time; the others, whose bodies are not even read, come again.
                while !its.ask("POST", "/v1/evidence", &body).await.is_ok_and(|said| [200, 409].contains(&said.status))
                {
                    assert!(begun.elapsed() < Duration::from_secs(30));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        }
        posts.join_all().await;
        let database = rusqlite::Connection::open(dir.join("fleet.db")).unwrap();
        let segments = || database.query_row("SELECT count(*) FROM segment", [], |row| row.get::<_, usize>(0)).unwrap();
        assert_eq!(files(&dir.join("worm/v1")), segments(), "each object is a log's");

        // What cannot stand in a column is told before anything is written.
        let before = segments();
        let from = log.size().await;
        log.grow(1).await;
        let next = log.batch(from, 10).await.unwrap();
        let (line, head) = next.split_once("\n\n").unwrap();
        for word in ["a\\u0000b", &"long".repeat(17)] {
            let line = appliance.resealed(line, ("\"outcome\":\"pass\"", &format!("\"outcome\":\"{word}\"")));
            let said = its.ask("POST", "/v1/evidence", &format!("{line}\n\n{head}")).await.unwrap();
            assert!(said.status == 422 && said.text.contains("outcome"), "{said:?}");
        }
        assert_eq!((files(&dir.join("worm/v1")), segments()), (before, before));
    });
}

/// Days the clock of the test below is behind.
static BEHIND: LazyLock<AtomicI64> = LazyLock::new(|| AtomicI64::new(100));

#[test]
fn the_servers_certificate_is_renewed_while_it_runs() {
    on_runtime(async {
        let dir = tempfile::tempdir().unwrap();
        let behind = || SignedDuration::from_hours(24 * BEHIND.load(Ordering::Relaxed));
        let clock = Clock::manual(move || Timestamp::now() - behind());
        let state_dir = dir.path().join("fleet");
        let config = Server { listen: ([127, 0, 0, 1], 0).into(), state_dir: state_dir.clone(), ..Server::default() };
        let loaded = Loaded::defaults().with_flag("server", "test", |all| all.server = config);
        let state = Arc::new(State::open(&loaded, clock).await.unwrap());
        let listening = malachor::server::start(Arc::clone(&state)).await.unwrap();
        let tls = TlsConnector::from(client(roots(&state_dir.join("keys/ca.pem")).unwrap(), None).unwrap());
        let shown = async || {
            let stream = tokio::net::TcpStream::connect(listening.address()).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let stream = tls.connect(name, stream).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap()[0].clone()
        };
        let end = || {
            let text = state.metrics.text();
            let line = text.lines().find(|line| line.starts_with("malachor_server_own_certificate_end_seconds "));
            line.unwrap().rsplit_once(' ').unwrap().1.parse::<i64>().unwrap()
        };
        let (first, ends) = (shown().await, end());
        state.renew_own().await.unwrap();
        assert_eq!(shown().await, first, "it is good for long");
        BEHIND.store(0, Ordering::Relaxed);
        state.renew_own().await.unwrap();
        assert_ne!(shown().await, first, "half of its life is over");
        assert!(end() > ends + 99 * 24 * 3600, "{} after {ends}", end());
        listening.stop().await;
    });
}

#[test]
fn a_server_whose_evidence_store_is_gone_is_not_ready() {
    if !has_curl() {
        return;
    }
    let fleet = Fleet::start();
    let worm = fleet.place.dir.path().join("fleet/worm");
    let ready = || fleet.ask("GET", "/ready", "", None);
    assert_eq!(ready().0, 200);
    std::fs::rename(&worm, worm.with_extension("away")).unwrap();
    until("it says so", || ready().0 == 503);
    assert_eq!(ready().1["parts"]["worm"], "down");
    std::fs::rename(worm.with_extension("away"), &worm).unwrap();
    until("it is ready again", || ready().0 == 200);
    assert_eq!(files(&worm), 0, "nothing is left of asking");
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_and_commands_are_not() {
    let mut fleet = Fleet::start();
    let (other, dir) = (Place::new(""), fleet.place.dir.path().join("fleet"));
    other.write(
        "malachor.toml",
        &format!(
            "role = \"server\"\n[site]\nid = \"operator\"\n[server]\nlisten = \"127.0.0.1:0\"\nstate_dir = {dir:?}\n"
        ),
    );
    let status = start(&other, &["server"]).wait().unwrap();
    let log = std::fs::read_to_string(other.dir.path().join("log")).unwrap();
    assert!(!status.success() && log.contains("another server works on"), "{log}");
    other.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
    // A server that was killed holds nothing.
    fleet.kill();
    fleet.again();
}

#[test]
fn a_start_that_fails_names_the_setting() {
    for (more, wanted) in [
        ("[server.store]\nurl = \"notaurl\"\n", "server.store.url: is no URL"),
        ("[server.store]\nurl = \"postgres://m@localhost:5432,db.example:5432/m\"\n", "server.store.ca_file"),
        ("[server.store]\nconnections = 0\n", "server.store.connections: at least 1"),
        ("[server.limiter]\nurl = \"notaurl\"\n", "server.limiter.url: is no URL"),
        ("[server.limiter]\nurl = \"rediss://127.0.0.1:1\"\n", "server.limiter.ca_file: is needed"),
        ("[server.worm]\nendpoint = \"notaurl\"\n", "server.worm.endpoint: is no URL"),
    ] {
        let place = Place::new("");
        let state = place.dir.path().join("fleet");
        place.write(
            "malachor.toml",
            &format!("role = \"server\"\n[server]\nlisten = \"127.0.0.1:0\"\nstate_dir = {state:?}\n{more}"),
        );
        let output = place.run(&["server"]);
        assert!(!output.status.success() && stderr(&output).contains(wanted), "{more}: {}", stderr(&output));
    }
}
