//! What strangers, and appliances that turn bad, cannot do to a server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::caller::{Caller, on_runtime};
use crate::enrolled::Enrolled;
use crate::serving::Fleet;

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
