//! What a server leans on goes away in the middle of its work and comes back: what was acknowledged is there, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::caller::{Caller, on_runtime};
use crate::enrolled::{Enrolled, Log};
use crate::grown::{Grown, Kept, parts, receipt};
use crate::serving::Fleet;

const NAMES: [&str; 3] = ["one", "two", "three"];
/// Entries sealed in each round.
const GROWTH: u64 = 5;

/// Appliances that hand over evidence without a pause.
struct Load {
    writers: Vec<Arc<Writer>>,
    tasks: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

struct Writer {
    name: &'static str,
    caller: Caller,
    witness: String,
    log: Log,
    /// Entries the last receipt was for.
    acknowledged: AtomicU64,
    /// Receipts.
    receipts: AtomicU64,
    /// Check-ins that were answered.
    seen: AtomicU64,
    rounds: AtomicU64,
    /// Whether the server may be away altogether.
    may_be_away: bool,
}

impl Load {
    async fn start(fleet: &Fleet, may_be_away: bool) -> Self {
        let authority = fleet.place.dir.path().join("fleet/keys/ca.pem");
        let nobody = Caller::new(fleet.port, &authority);
        let admin = nobody.with(&fleet.person("lee", "admin"));
        fleet.place.ok(&["site", "add", "clinic", "--name", "Elm Street", "--by", "ops"]);
        let (mut writers, mut tasks, stop) = (Vec::new(), Vec::new(), Arc::new(AtomicBool::new(false)));
        for name in NAMES {
            let mut appliance = Enrolled::new("clinic", name);
            let path = format!("/api/sites/clinic/appliances/{name}/token");
            let token = admin.ask("POST", &path, "{}").await.unwrap().json();
            let witness = appliance.enrol(&nobody, token["token"].as_str().unwrap()).await;
            let writer = Arc::new(Writer {
                name,
                caller: nobody.showing(&authority, &appliance.shown()),
                witness,
                log: appliance.log().await,
                acknowledged: AtomicU64::new(0),
                receipts: AtomicU64::new(0),
                seen: AtomicU64::new(0),
                rounds: AtomicU64::new(0),
                may_be_away,
            });
            let (its, stopping) = (Arc::clone(&writer), Arc::clone(&stop));
            tasks.push(tokio::spawn(async move {
                while !stopping.load(Ordering::Relaxed) {
                    its.round().await;
                    tokio::time::sleep(Duration::from_millis(120)).await;
                }
            }));
            writers.push(writer);
        }
        Self { writers, tasks, stop }
    }

    /// Each appliance gets so many receipts, and is seen, after this moment.
    async fn goes_on(&self, receipts: u64) {
        let wanted: Vec<(u64, u64)> = self.writers.iter().map(|writer| writer.counts()).collect();
        let begun = Instant::now();
        loop {
            let on = |(writer, before): (&Arc<Writer>, &(u64, u64))| {
                writer.counts().0 >= before.0 + receipts && writer.counts().1 > before.1
            };
            if self.writers.iter().zip(&wanted).all(on) {
                return;
            }
            let now: Vec<_> = self.writers.iter().map(|writer| writer.counts()).collect();
            assert!(begun.elapsed() < Duration::from_secs(40), "no receipts for 40 s: {wanted:?}, {now:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn receipts(&self) -> u64 {
        self.writers.iter().map(|writer| writer.counts().0).sum()
    }

    /// Stops, hands over what is left, and compares every log with what is kept of it.
    async fn ends_with_all_of_it_in(self, kept: &Kept) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        for writer in &self.writers {
            let size = writer.log.size().await;
            while writer.acknowledged.load(Ordering::Relaxed) < size {
                writer.hand_over().await;
            }
            kept.holds("clinic", writer.name, &writer.log.lines().await).await;
        }
    }
}

impl Writer {
    fn counts(&self) -> (u64, u64) {
        (self.receipts.load(Ordering::Relaxed), self.seen.load(Ordering::Relaxed))
    }

    async fn round(&self) {
        self.log.grow(GROWTH).await;
        self.hand_over().await;
        // Seldom enough for the limit on check-ins.
        if self.rounds.fetch_add(1, Ordering::Relaxed).is_multiple_of(6) {
            let check_in = Enrolled::check_in(self.log.size().await);
            let said = self.ask("POST", "/v1/check-in", &check_in).await;
            if let Some(said) = said {
                assert_eq!(said["rolled_back"], false, "{}: it has all it ever had: {said}", self.name);
                self.seen.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn hand_over(&self) {
        let from = self.acknowledged.load(Ordering::Relaxed);
        let Some(batch) = self.log.batch(from, 50).await else { return };
        let Some(said) = self.ask("POST", "/v1/evidence", &batch).await else { return };
        let size = receipt(&said, &self.witness);
        assert!(size > from, "{}: a receipt for less than the one before", self.name);
        self.acknowledged.store(size, Ordering::Relaxed);
        self.receipts.fetch_add(1, Ordering::Relaxed);
    }

    /// A yes, or `None` where the server says that it cannot just now. There is no third answer.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Option<serde_json::Value> {
        match tokio::time::timeout(Duration::from_mins(1), self.caller.ask(method, path, body)).await {
            Ok(Ok(said)) if said.status == 200 => Some(said.json()),
            Ok(Ok(said)) if said.status == 503 => None,
            Ok(Err(_)) if self.may_be_away => None,
            other => panic!("{} {path}: {other:?}", self.name),
        }
    }
}

/// Somebody who asks how the server is.
struct Watch(Caller);

impl Watch {
    fn of(fleet: &Fleet) -> Self {
        Self(Caller::new(fleet.port, &fleet.place.dir.path().join("fleet/keys/ca.pem")))
    }

    /// What `/ready` says, quickly, with `/health` beside it.
    async fn ready(&self) -> (u16, String, String, String) {
        let begun = Instant::now();
        let health = self.0.ask("GET", "/health", "").await.unwrap();
        assert_eq!(health.status, 200, "the process answers whatever it leans on: {health:?}");
        let said = self.0.ask("GET", "/ready", "").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "whoever asks cannot wait {:?}", begun.elapsed());
        let parts = parts(&said.json());
        assert_eq!(said.json()["ready"], said.status == 200, "{said:?}");
        let part = |name: &str| parts.get(name).cloned().unwrap_or_default();
        (said.status, part("store"), part("limiter"), part("worm"))
    }

    async fn until(&self, status: u16, store: &str, limiter: &str, worm: &str) {
        let (begun, wanted) = (Instant::now(), (status, store.to_owned(), limiter.to_owned(), worm.to_owned()));
        loop {
            let ready = self.ready().await;
            if ready == wanted {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(40), "after 40 s {ready:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[test]
fn a_store_that_goes_away_and_comes_back_costs_time_and_nothing_else() {
    on_runtime(async {
        let Some(grown) = Grown::start().await else { return };
        let fleet = Fleet::start_with(&grown.config());
        let (watch, load) = (Watch::of(&fleet), Load::start(&fleet, false).await);
        watch.until(200, "ok", "ok", "ok").await;
        load.goes_on(2).await;
        for (name, how, back) in [
            ("pg", "kill", "restart"),
            ("redis", "kill", "restart"),
            ("s3", "kill", "restart"),
            ("pg", "pause", "resume"),
            ("s3", "pause", "resume"),
        ] {
            grown.peers.tell(how, name);
            match name {
                "pg" => watch.until(503, "down", "ok", "ok").await,
                "s3" => watch.until(503, "ok", "ok", "down").await,
                _ => {
                    watch.until(200, "ok", "degraded", "ok").await;
                    load.goes_on(2).await;
                }
            }
            if name != "redis" {
                // Whatever was on its way has arrived or failed: from here on nothing is acknowledged.
                tokio::time::sleep(Duration::from_millis(500)).await;
                let receipts = load.receipts();
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(load.receipts(), receipts, "a receipt without {name}");
            }
            grown.peers.tell(back, name);
            watch.until(200, "ok", "ok", "ok").await;
            load.goes_on(2).await;
        }
        load.ends_with_all_of_it_in(&grown.kept().await).await;
    });
}

#[test]
fn a_server_killed_in_the_middle_has_everything_it_acknowledged() {
    on_runtime(async {
        let mut fleet = Fleet::start();
        let (watch, load) = (Watch::of(&fleet), Load::start(&fleet, true).await);
        for round in 0..4 {
            load.goes_on(2).await;
            // At another moment of its work each time.
            tokio::time::sleep(Duration::from_millis(37 * round)).await;
            fleet.kill();
            fleet.again();
            watch.until(200, "ok", "ok", "ok").await;
        }
        load.goes_on(2).await;
        load.ends_with_all_of_it_in(&Kept::embedded(&fleet.place).await).await;
    });
}
