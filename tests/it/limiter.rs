//! The contract of the limiter, held in memory and in Redis, and what happens while Redis is away.

use std::time::{Duration, Instant};

use rustls::RootCertStore;

use malachor::lock::{Asked, Limiter, Rate, RedisConnection, Taken};

use crate::peers::Peers;

const TEN: Rate = Rate { limit: 10, window: Duration::from_mins(5) };

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

fn allowed(taken: Taken) -> bool {
    matches!(taken, Taken::Allowed { .. })
}

async fn contract(limiter: Limiter) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let limiter = limiter.clone();
        tasks.spawn(async move { limiter.take("orders:north", TEN).await });
    }
    let all = tasks.join_all().await;
    assert_eq!(all.iter().filter(|taken| allowed(**taken)).count(), 10, "fifty at once, exactly ten through");
    assert!(all.iter().all(|taken| match taken {
        Taken::Allowed { left } => *left < 10,
        Taken::Later { after } => *after > Duration::from_secs(290) && *after <= Duration::from_mins(5),
    }));
    assert!(allowed(limiter.take("orders:south", TEN).await), "another site has room of its own");
    assert!(allowed(limiter.take("evidence:north", TEN).await), "and so has another class");

    let short = Rate { limit: 2, window: Duration::from_millis(400) };
    let begun = Instant::now();
    assert!(allowed(limiter.take("short", short).await) && allowed(limiter.take("short", short).await));
    let Taken::Later { after } = limiter.take("short", short).await else { panic!("a third within the window") };
    tokio::time::sleep(after).await;
    assert!(allowed(limiter.take("short", short).await), "{:?} later", begun.elapsed());
    assert!(!limiter.is_degraded());
}

#[test]
fn memory_keeps_the_contract() {
    on_runtime(contract(Limiter::memory()));
}

#[test]
fn redis_keeps_the_contract_and_is_missed_when_it_is_gone() {
    let Some(peers) = Peers::start(&["redis"]) else { return };
    let plain = RedisConnection { url: peers.var("REDIS_URL").to_owned(), password: None, roots: None };
    let mut tls =
        RedisConnection { url: peers.var("REDIS_TLS_URL").to_owned(), password: None, roots: Some(peers.roots()) };
    // The password comes apart from the URL.
    tls.url = tls.url.replace(peers.var("REDIS_PASSWORD"), "");
    tls.password = Some(peers.var("REDIS_PASSWORD").to_owned());
    on_runtime(async {
        assert_eq!(Limiter::asked(&tls).await, Ok(()));
        let wrong = RedisConnection { password: Some("wrong".to_owned()), ..tls.clone() };
        assert!(matches!(Limiter::asked(&wrong).await, Err(Asked::Password(_))), "{:?}", Limiter::asked(&wrong).await);
        let untrusted = RedisConnection { roots: Some(RootCertStore::empty()), ..tls.clone() };
        assert!(
            matches!(Limiter::asked(&untrusted).await, Err(Asked::Tls(_))),
            "{:?}",
            Limiter::asked(&untrusted).await
        );
        let limiter = Limiter::redis(tls).unwrap();
        let other = Limiter::redis(plain).unwrap();
        contract(limiter.clone()).await;
        assert!(!allowed(other.take("orders:north", TEN).await), "another replica counts the same");

        peers.tell("pause", "redis");
        let begun = Instant::now();
        assert!(allowed(limiter.take("orders:north", TEN).await), "it goes on in this process");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(limiter.is_degraded());
        let begun = Instant::now();
        for _ in 0..9 {
            limiter.take("orders:north", TEN).await;
        }
        assert!(begun.elapsed() < Duration::from_millis(250), "nobody waits for it again: {:?}", begun.elapsed());
        assert!(!allowed(limiter.take("orders:north", TEN).await), "with the same rule");
        peers.tell("resume", "redis");
        peers.tell("kill", "redis");
        assert!(allowed(other.take("orders:east", TEN).await));
        assert!(other.is_degraded());
        peers.tell("restart", "redis");
        let mut tries = 0;
        while limiter.is_degraded() {
            limiter.take("probe", Rate { limit: 1000, ..TEN }).await;
            tries += 1;
            assert!(tries < 100, "it does not come back");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// It need not be up when the server starts.
#[test]
fn redis_may_come_later() {
    let nobody = RedisConnection { url: "redis://127.0.0.1:1".to_owned(), password: None, roots: None };
    on_runtime(async {
        assert!(matches!(Limiter::asked(&nobody).await, Err(Asked::Away(_))), "{:?}", Limiter::asked(&nobody).await);
        let limiter = Limiter::redis(nobody).unwrap();
        assert!(allowed(limiter.take("k", TEN).await) && limiter.is_degraded());
        assert!(Limiter::redis(RedisConnection { url: "http://x".to_owned(), password: None, roots: None }).is_err());
    });
}
