//! Being there: connections that wait, and check-ins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use malachor::wire::CheckIn;
use serde_json::json;
use tokio::task::JoinSet;

use super::database::Databases;
use super::line::{Line, request};
use super::stage::Stage;
use super::{quantile, real, row};

/// Check-ins under way at a time.
const IN_FLIGHT: usize = 256;
/// How long check-ins are counted.
const SPAN: Duration = Duration::from_secs(10);
/// Check-ins of one appliance; the server allows 120 a minute.
const MOST: usize = 110;

/// Memory of a server that has nothing to do, and what each appliance that waits for orders adds.
pub(crate) async fn idle(databases: &Databases, appliances: usize) {
    let stage = Stage::set(databases, appliances).await;
    // The first requests of each kind bring in code and connections of their own, which are not an appliance's.
    let mut first = Line::open(stage.port, &stage.appliances[0].tls).await.expect("a connection");
    first.ask(&check_in(&stage)).await.expect("a check-in");
    first.ask(&poll(0)).await.expect("a look for orders");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let alone = stage.resident();
    let own =
        format!("of which {:.1} MB are its own, the rest pages of the program file", real_kib(alone.own) / 1024.0);
    let all = format!("{:.1} MB", real_kib(alone.all) / 1024.0);
    row("resident memory of an idle server", databases, &all, &own, "< 30 MB");
    let mut waiting = JoinSet::new();
    for mut line in stage.connect().await {
        waiting.spawn(async move { line.ask(&poll(50)).await.map(|_| line) });
    }
    let before = stage.cpu();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let spent = (stage.cpu() - before) * 10.0;
    assert!(waiting.try_join_next().is_none(), "a long poll ended early: {}", stage.log());
    let each = real_kib(stage.resident().all.saturating_sub(alone.all)) / real(appliances);
    let beside = format!("{appliances} over mTLS, each with a long poll; {spent:.1} % of a core");
    row("resident memory of an idle appliance", databases, &format!("{each:.1} KiB"), &beside, "< 40 KiB");
}

#[expect(clippy::cast_precision_loss, reason = "a process has far less than 2^52 KiB")]
fn real_kib(kib: u64) -> f64 {
    kib as f64
}

/// The request that waits for orders.
pub(crate) fn poll(seconds: u32) -> Vec<u8> {
    request("GET", &format!("/v1/orders?wait={seconds}"), None, b"")
}

fn check_in(stage: &Stage) -> Vec<u8> {
    let said = CheckIn {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time: jiff::Timestamp::now().to_string(),
        order_keys: stage.order_keys.clone(),
        order_seq: 0,
        log_size: 0,
        outbox: 0,
        posture: Some(json!({"posture": {"pass": 27, "fail": 1, "unknown": 2, "not_applicable": 4}, "score": 93})),
        inventory: None,
    };
    request("POST", "/v1/check-in", None, &serde_json::to_vec(&said).expect("a check-in"))
}

/// Check-ins a second, by the clock and for each second of a core that the server uses.
pub(crate) async fn check_ins(databases: &Databases, appliances: usize) {
    let stage = Stage::set(databases, appliances).await;
    let mut lines = stage.connect().await;
    let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(check_in(&stage)));
    let each = lines.len().div_ceil(IN_FLIGHT);
    let mut workers = JoinSet::new();
    let (cpu, database, start) = (stage.cpu(), databases.cpu(), Instant::now());
    while !lines.is_empty() {
        let some = lines.split_off(lines.len().saturating_sub(each));
        workers.spawn(one_after_another(some, Arc::clone(&said), Arc::clone(&stop)));
    }
    tokio::time::sleep(SPAN).await;
    stop.store(true, Ordering::Relaxed);
    let mut times: Vec<f64> = workers.join_all().await.concat();
    let (spent, cpu, database) = (start.elapsed().as_secs_f64(), stage.cpu() - cpu, databases.cpu() - database);
    let done = real(times.len());
    let of_database = match databases {
        Databases::Sqlite => String::new(),
        Databases::Postgres(_) => format!("; {:.0}/s with the database's own cores", done / (cpu + database)),
    };
    let beside =
        format!("{:.0}/s by the clock, p99 {:.0} ms{of_database}", done / spent, quantile(&mut times, 0.99) * 1e3);
    let goal = match databases {
        Databases::Sqlite => ">= 5000/s/core",
        Databases::Postgres(_) => ">= 2000/s/core",
    };
    row("check-ins, durable", databases, &format!("{:.0}/s/core", done / cpu), &beside, goal);
}

/// Checks in on each line in turn until it is told to stop; gives how long each took.
async fn one_after_another(mut lines: Vec<Line>, said: Arc<Vec<u8>>, stop: Arc<AtomicBool>) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..MOST {
        for line in &mut lines {
            if stop.load(Ordering::Relaxed) {
                return times;
            }
            let start = Instant::now();
            line.ask(&said).await.expect("a check-in");
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times
}
