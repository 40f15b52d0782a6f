//! From a person's request to an order in an appliance's hand.

use std::time::{Duration, Instant};

use malachor::wire::Orders;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::database::Databases;
use super::line::{Line, request};
use super::presence::poll;
use super::stage::Stage;
use super::{quantile, row};

/// Orders that are asked for.
const ORDERS: usize = 300;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(40);

/// Time from the moment a request is sent until the appliance has the order, while all others wait, too. It holds the
/// time in which the request is accepted.
pub(crate) async fn in_hand(databases: &Databases, appliances: usize) {
    let stage = Stage::set(databases, appliances).await;
    let (got, mut in_hand) = mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    for (n, mut line) in stage.connect().await.into_iter().enumerate() {
        let got = got.clone();
        waiting.spawn(async move {
            loop {
                let answer = line.ask(&poll(50)).await.expect("an answer to a long poll");
                let orders: Orders = serde_json::from_slice(&answer).expect("orders");
                if !orders.orders.is_empty() {
                    got.send((n, Instant::now())).expect("somebody who counts");
                    // It does not say that it has the order, so that asking again would bring it again.
                    return line;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut person = Line::open(stage.port, &stage.tls).await.expect("a connection");
    let (mut times, mut accepted) = (Vec::new(), Vec::new());
    let step = (appliances / ORDERS).max(1);
    for (n, appliance) in stage.appliances.iter().enumerate().step_by(step).take(ORDERS) {
        let token = &stage.tokens[n / step % stage.tokens.len()];
        let target = format!("{}/{}", appliance.site, appliance.id);
        let asked = json!({"verb": {"do": "run_checks", "checks": []}, "target": [target], "reason": "a bench"});
        let asked = request("POST", "/api/orders", Some(token), asked.to_string().as_bytes());
        let start = Instant::now();
        person.ask(&asked).await.expect("an order that is accepted");
        accepted.push(start.elapsed().as_secs_f64() * 1e3);
        let (whose, at) = tokio::time::timeout(Duration::from_secs(10), in_hand.recv())
            .await
            .unwrap_or_else(|_| panic!("order {n} does not arrive:\n{}", stage.log()))
            .expect("somebody who waits");
        assert_eq!(whose, n, "the order is for another appliance");
        times.push(at.duration_since(start).as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    let beside = format!(
        "p50 {:.1} ms; answer to the person p50 {:.1}, p99 {:.1} ms; {appliances} long polls open",
        quantile(&mut times, 0.5),
        quantile(&mut accepted, 0.5),
        quantile(&mut accepted, 0.99)
    );
    row(
        "order, from request to hand, p99",
        databases,
        &format!("{:.1} ms", quantile(&mut times, 0.99)),
        &beside,
        "< 250 ms",
    );
}
