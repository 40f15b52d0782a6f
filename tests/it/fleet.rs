//! The contract of the fleet store, held by every database it can stand on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use malachor::crypto::merkle::Node;
use malachor::domain::bundle::BundleKind;
use malachor::domain::id::{ApplianceId, OrderId, SiteId};
use malachor::domain::order::OrderState;
use malachor::domain::role::{Role, Roles, Sites};
use malachor::fleet::audit::{self, Audit};
use malachor::fleet::bundles;
use malachor::fleet::enrolments::{self, Certificate, EnrolToken};
use malachor::fleet::logs::{self, Advance, Followed, NewEntry, Segment};
use malachor::fleet::orders::{self, Request, StoredOrder};
use malachor::fleet::people::{self, Person, Token};
use malachor::fleet::sites::{self, ApplianceState, EvidenceKeys, LastSeen, PlanTier, Site, Standing};
use malachor::fleet::{Fleet, FleetError, Kind, Place, PostgresConnection};
use malachor::server::publish::{Draft, publish};

use crate::peers::Peers;

fn now() -> Timestamp {
    "2026-05-04T12:00:00Z".parse().unwrap()
}

fn later(minutes: i64) -> Timestamp {
    now() + SignedDuration::from_mins(minutes)
}

fn north() -> SiteId {
    "north".parse().unwrap()
}

fn desk() -> ApplianceId {
    "front-desk".parse().unwrap()
}

fn token(hash: u8, again: bool) -> EnrolToken {
    EnrolToken {
        hash: [hash; 32],
        site: north(),
        appliance: desk(),
        again,
        created_by: "operator:root".into(),
        created_at: now(),
        expires_at: later(60),
    }
}

fn keys(word: &str) -> EvidenceKeys {
    EvidenceKeys { entry: format!("{word}/entry"), head: word.into(), recovery: None }
}

fn certificate(serial: &str) -> Certificate {
    Certificate { serial: serial.into(), not_before: now(), not_after: later(60 * 24 * 90) }
}

async fn with_site(fleet: &Fleet) {
    let added = fleet.write(|sql| {
        Box::pin(async move {
            let site = Site { id: north(), name: "North".into(), tier: PlanTier::Professional, created_at: now() };
            sites::add_site(sql, &site).await
        })
    });
    added.await.unwrap();
}

async fn enrol(fleet: &Fleet, hash: u8, serial: &'static str, keys_: &'static str) -> Result<(), FleetError> {
    fleet
        .write(move |sql| {
            Box::pin(async move {
                enrolments::add_token(sql, &token(hash, hash > 1)).await?;
                let token = enrolments::use_token(sql, &[hash; 32], later(1)).await?;
                enrolments::enrol(
                    sql,
                    &token,
                    ("o/malachor/north/front-desk", &keys(keys_)),
                    &certificate(serial),
                    later(1),
                )
                .await
            })
        })
        .await
}

async fn contract(fleet: Fleet) {
    a_transaction_is_all_or_nothing(&fleet).await;
    with_site(&fleet).await;
    a_token_enrols_one_appliance_once(&fleet).await;
    an_appliance_says_how_it_is(&fleet).await;
    orders_have_places_and_go_one_way(&fleet).await;
    a_log_is_followed_step_by_step(&fleet).await;
    people_and_tokens(&fleet).await;
    what_never_changes_never_changes(&fleet).await;
    what_is_published_stays_and_the_newest_is_in_force(&fleet).await;
    a_fleet_belongs_to_one_authority(&fleet).await;
    everybody_at_once(&fleet).await;
}

async fn what_is_published_stays_and_the_newest_is_in_force(fleet: &Fleet) {
    let draft = |kind, site, text: &str| Draft {
        kind,
        site,
        files: [(if kind == BundleKind::Config { "site.toml" } else { "a.yaml" }.to_owned(), text.to_owned())].into(),
        by: "operator:root".into(),
    };
    let config = |site, text| publish(fleet, draft(BundleKind::Config, site, text), now());
    assert_eq!(config(None, "[heal]\nflap_count = 4\n").await.unwrap().number, 1);
    assert_eq!(config(None, "[heal]\nflap_count = 5\n").await.unwrap().number, 2);
    assert_eq!(config(Some(north()), "[heal]\nflap_count = 6\n").await.unwrap().number, 3);
    for (site, text) in [(Some("south".parse().unwrap()), "[heal]\nflap_count = 6\n"), (None, "[site]\nid = \"x\"\n")] {
        assert!(config(site, text).await.is_err());
    }
    assert!(publish(fleet, draft(BundleKind::Content, None, "id: nothing"), now()).await.is_err());
    let force = fleet.read(|sql| Box::pin(bundles::in_force(sql))).await.unwrap();
    let numbers: Vec<u64> = force.iter().map(|(manifest, _)| manifest.number).collect();
    assert_eq!(numbers, [2, 3]);
    for statement in ["UPDATE bundle SET files = '{}'", "DELETE FROM bundle"] {
        let changed = fleet.write(move |sql| Box::pin(async move { sql.run(statement, &[]).await })).await;
        assert_eq!(changed.unwrap_err().kind(), Kind::Broken, "{statement}");
    }
    let kept = fleet.read(|sql| Box::pin(bundles::bundle(sql, BundleKind::Config, 1))).await.unwrap();
    assert_eq!(kept.files["site.toml"], "[heal]\nflap_count = 4\n");
    assert_eq!(kept.manifest.files["site.toml"], malachor::crypto::sha256_hex(b"[heal]\nflap_count = 4\n"));
}

async fn a_fleet_belongs_to_one_authority(fleet: &Fleet) {
    for (fingerprint, mine) in [("aa", true), ("aa", true), ("bb", false)] {
        let claimed = fleet.write(move |sql| Box::pin(bundles::claim(sql, fingerprint))).await;
        assert_eq!(claimed.is_ok(), mine, "{claimed:?}");
    }
}

async fn a_transaction_is_all_or_nothing(fleet: &Fleet) {
    let failed: Result<(), _> = fleet
        .write(|sql| {
            Box::pin(async move {
                let site = Site { id: north(), name: "x".into(), tier: PlanTier::Essential, created_at: now() };
                sites::add_site(sql, &site).await?;
                Err(FleetError::Refused("changed its mind".into()))
            })
        })
        .await;
    assert_eq!(failed.unwrap_err().kind(), Kind::Refused);
    assert!(fleet.read(|sql| Box::pin(sites::sites(sql))).await.unwrap().is_empty());
}

async fn a_token_enrols_one_appliance_once(fleet: &Fleet) {
    enrol(fleet, 1, "01", "first").await.unwrap();
    let again: Result<_, _> = fleet.write(|sql| Box::pin(enrolments::use_token(sql, &[1; 32], later(2)))).await;
    assert_eq!(again.unwrap_err().kind(), Kind::Refused, "it is used");
    let unknown = fleet.write(|sql| Box::pin(enrolments::use_token(sql, &[9; 32], later(2)))).await;
    assert_eq!(unknown.unwrap_err().kind(), Kind::Refused);
    let late: Result<_, _> = fleet
        .write(|sql| {
            Box::pin(async move {
                enrolments::add_token(sql, &token(2, true)).await?;
                enrolments::use_token(sql, &[2; 32], later(60)).await
            })
        })
        .await;
    assert_eq!(late.unwrap_err().kind(), Kind::Refused, "its time is over");
    let second = fleet.write(|sql| Box::pin(async move { enrolments::add_token(sql, &token(3, false)).await })).await;
    assert_eq!(second.unwrap_err().kind(), Kind::Conflict, "the name is taken");
    assert_eq!(enrol(fleet, 4, "04", "other").await.unwrap_err().kind(), Kind::Refused, "not with other keys");
    enrol(fleet, 5, "05", "first").await.unwrap();
    assert_eq!(fleet.read(|sql| Box::pin(enrolments::revoked(sql, later(3)))).await.unwrap(), ["01"]);
    // Asked where it cannot change any more: a certificate that was revoked meanwhile renews nothing.
    let may = |serial: &'static str| {
        fleet.write(move |sql| Box::pin(async move { enrolments::may_go_on(sql, &north(), &desk(), serial).await }))
    };
    assert!(may("05").await.is_ok());
    assert_eq!(may("01").await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(may("77").await.unwrap_err().kind(), Kind::Refused, "nobody issued it");
    // The first use of a newer one ends the older.
    let ended = fleet.write(|sql| {
        Box::pin(async move {
            enrolments::add_certificate(sql, &north(), &desk(), &certificate("06"), later(2)).await?;
            assert_eq!(enrolments::replace_older(sql, &north(), &desk(), "05", later(3)).await?, 0);
            enrolments::replace_older(sql, &north(), &desk(), "06", later(3)).await
        })
    });
    assert_eq!(ended.await.unwrap(), 1);
    assert_eq!(may("05").await.unwrap_err().kind(), Kind::Refused);
    assert!(may("06").await.is_ok());
    // Who is not listened to any more stays so, whatever is said on an open connection.
    let state = fleet.write(|sql| {
        Box::pin(async move {
            enrolments::revoke(sql, &north(), &desk(), later(3)).await?;
            sites::roll_back(sql, &north(), &desk()).await?;
            let state = sites::appliance(sql, &north(), &desk()).await?.map(|one| one.state);
            let last = LastSeen {
                at: later(3),
                version: "0.2.0".into(),
                order_keys: Vec::new(),
                order_seq: 0,
                clock_offset_ms: 0,
                outbox_depth: 0,
                log_size: 0,
                posture: None,
                inventory: None,
            };
            Ok((state, sites::check_in(sql, &north(), &desk(), &last).await.is_err()))
        })
    });
    assert_eq!(state.await.unwrap(), (Some(ApplianceState::Revoked), true));
    assert_eq!(may("06").await.unwrap_err().kind(), Kind::Refused);
    let back = fleet
        .write(|sql| Box::pin(async move { sites::set_state(sql, &north(), &desk(), ApplianceState::Active).await }));
    back.await.unwrap();
}

async fn an_appliance_says_how_it_is(fleet: &Fleet) {
    let said = |inventory: Option<&str>, at| LastSeen {
        at,
        version: "0.2.0".into(),
        order_keys: vec!["abcd".into(), "ef01".into()],
        order_seq: 3,
        clock_offset_ms: -12,
        outbox_depth: 7,
        log_size: 40,
        posture: Some("{}".into()),
        inventory: inventory.map(str::to_owned),
    };
    let (first, second) = (said(Some("{\"cpu\":1}"), now()), said(None, later(1)));
    for said in [first.clone(), second] {
        let stands = fleet.change(move |sql| {
            let said = said.clone();
            Box::pin(async move { sites::check_in(sql, &north(), &desk(), &said).await })
        });
        let nothing_yet = Standing { state: ApplianceState::Active, order_seq: 0, holds: 0, acknowledged: 0 };
        assert_eq!(stands.await.unwrap(), nothing_yet);
    }
    let known = fleet
        .read(|sql| Box::pin(async move { sites::appliance(sql, &north(), &desk()).await }))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(known.last, Some(LastSeen { at: later(1), ..first }), "the inventory of before stays");
    let stranger = fleet
        .change(move |sql| {
            let said = said(None, now());
            Box::pin(async move { sites::check_in(sql, &north(), &"x".parse().unwrap(), &said).await })
        })
        .await;
    assert_eq!(stranger.unwrap_err().kind(), Kind::NotThere);
}

fn order(seq: u64, id: &str) -> StoredOrder {
    StoredOrder {
        site: north(),
        appliance: desk(),
        seq,
        id: id.parse().unwrap(),
        request: "REQ-0000000000000001".parse().unwrap(),
        envelope: b"signed".to_vec(),
        expires_at: later(30),
        state: OrderState::Queued,
        queued_at: now(),
        changed_at: now(),
        say: String::new(),
        report: None,
    }
}

async fn orders_have_places_and_go_one_way(fleet: &Fleet) {
    let request = Request {
        id: "REQ-0000000000000001".parse().unwrap(),
        verb: "{}".into(),
        target: vec![(north(), desk())],
        reason: "r".into(),
        asked_by: "person:a".into(),
        asked_at: now(),
        life_s: 1800,
        state: "waiting".into(),
        decided_by: None,
        decided_at: None,
    };
    let request_ = request.clone();
    fleet
        .write(move |sql| {
            let request = request_.clone();
            Box::pin(async move { orders::add_request(sql, &request).await })
        })
        .await
        .unwrap();
    let decide = |who: &'static str| {
        fleet.write(move |sql| {
            Box::pin(async move {
                orders::decide_request(sql, &"REQ-0000000000000001".parse().unwrap(), "issued", who, later(1)).await
            })
        })
    };
    decide("person:b").await.unwrap();
    assert_eq!(decide("person:c").await.unwrap_err().kind(), Kind::Stands, "it is decided");
    let old = Request { id: "REQ-0000000000000002".parse().unwrap(), ..request.clone() };
    let (stale, before) = (old.is_stale(later(30)), old.is_stale(later(29)));
    assert!(stale && !before, "it waits for as long as its orders would hold");
    fleet
        .write(move |sql| {
            let old = old.clone();
            Box::pin(async move { orders::add_request(sql, &old).await })
        })
        .await
        .unwrap();
    for (minutes, ended) in [(29, 0), (30, 1), (31, 0)] {
        let expired = fleet.write(move |sql| Box::pin(orders::expire_requests(sql, later(minutes)))).await.unwrap();
        assert_eq!(expired, ended, "after {minutes} minutes");
    }
    let mut places = Vec::new();
    for _ in 0..2 {
        places.push(
            fleet.write(|sql| Box::pin(async move { orders::next_seq(sql, &north(), &desk()).await })).await.unwrap(),
        );
    }
    assert_eq!(places, [1, 2]);
    for (seq, id) in [(1, "ORD-0000000000000001"), (2, "ORD-0000000000000002")] {
        fleet.write(move |sql| Box::pin(async move { orders::add_order(sql, &order(seq, id)).await })).await.unwrap();
    }
    let twice = fleet
        .write(|sql| Box::pin(async move { orders::add_order(sql, &order(2, "ORD-0000000000000003")).await }))
        .await;
    assert_eq!(twice.unwrap_err().kind(), Kind::Conflict, "a place is used once");
    let waiting = || fleet.look(|sql| Box::pin(async move { orders::waiting(sql, &north(), &desk(), later(2)).await }));
    assert_eq!(waiting().await.unwrap().len(), 2);
    for (state, gets) in [(ApplianceState::RolledBack, 0), (ApplianceState::Active, 2)] {
        fleet
            .change(move |sql| Box::pin(async move { sites::set_state(sql, &north(), &desk(), state).await }))
            .await
            .unwrap();
        assert_eq!(waiting().await.unwrap().len(), gets, "{state:?}");
    }
    fleet
        .write(|sql| Box::pin(async move { orders::delivered(sql, &north(), &desk(), 1, later(2)).await }))
        .await
        .unwrap();
    let seen: Vec<_> = waiting().await.unwrap().into_iter().map(|order| (order.seq, order.state)).collect();
    assert_eq!(seen, [(1, OrderState::Delivered), (2, OrderState::Queued)], "what may be lost is handed out again");
    fleet
        .write(|sql| {
            Box::pin(async move {
                let order = orders::order(sql, &north(), &"ORD-0000000000000001".parse().unwrap()).await?;
                let report = (("helped"), Some(b"report".to_vec()));
                orders::put_order_state(sql, &order, OrderState::Succeeded, report, later(3)).await
            })
        })
        .await
        .unwrap();
    let known = fleet.look(|sql| Box::pin(async move { sites::appliance(sql, &north(), &desk()).await }));
    let said = known.await.unwrap().unwrap().last.unwrap();
    let stands = fleet.change(move |sql| {
        let said = said.clone();
        Box::pin(async move { sites::check_in(sql, &north(), &desk(), &said).await })
    });
    let stands = stands.await.unwrap();
    assert_eq!((stands.order_seq, stands.acknowledged), (2, 1), "what was only handed out is not acknowledged");
    let elsewhere = fleet.read(|sql| {
        Box::pin(async move {
            orders::order(sql, &"south".parse().unwrap(), &"ORD-0000000000000001".parse().unwrap()).await
        })
    });
    assert_eq!(elsewhere.await.unwrap_err().kind(), Kind::NotThere, "another site's order is not there");
    assert_eq!(fleet.write(|sql| Box::pin(orders::expire(sql, later(31)))).await.unwrap(), 1);
    let request_id: OrderId = "REQ-0000000000000001".parse().unwrap();
    let all = fleet
        .read(move |sql| {
            let id = request_id.clone();
            Box::pin(async move { Ok(orders::orders_of(sql, &[&id], &Sites::All).await?.remove(&id).unwrap()) })
        })
        .await
        .unwrap();
    let ends: Vec<_> = all.iter().map(|order| order.state).collect();
    requests_are_found_by_site_and_page_by_page(fleet, &request).await;
    assert!(ends.contains(&OrderState::Succeeded) && ends.contains(&OrderState::Expired), "{ends:?}");
}

async fn requests_are_found_by_site_and_page_by_page(fleet: &Fleet, like: &Request) {
    let south = || Sites::Some(vec!["south".parse().unwrap()]);
    let listed = |sites: Sites, before: Option<&str>, limit| {
        let before: Option<OrderId> = before.map(|id| id.parse().unwrap());
        fleet.read(move |sql| {
            let (sites, before) = (sites.clone(), before.clone());
            Box::pin(async move {
                let found = orders::requests(sql, &sites, before.as_ref(), limit).await?;
                Ok(found
                    .into_iter()
                    .map(|(one, its)| (one.id.to_string(), one.target.len(), its.len()))
                    .collect::<Vec<_>>())
            })
        })
    };
    let id = |n: u8| format!("REQ-00000000000000a{n}");
    for n in 0..5 {
        let site = if n == 0 { "south" } else { "north" };
        let target = vec![(site.parse().unwrap(), desk()), ("south".parse().unwrap(), "x".parse().unwrap())];
        let target = if n == 4 { target } else { target[..1].to_vec() };
        let request = Request { id: id(n).parse().unwrap(), target, asked_at: later(5), ..like.clone() };
        let added = fleet.write(move |sql| {
            let request = request.clone();
            Box::pin(async move { orders::add_request(sql, &request).await })
        });
        added.await.unwrap();
    }
    // The newest of the fleet are another site's, and its own are found all the same, with its own part alone.
    assert_eq!(listed(south(), None, 2).await.unwrap(), [(id(4), 1, 0), (id(0), 1, 0)]);
    assert_eq!(listed(Sites::Some(Vec::new()), None, 9).await.unwrap(), []);
    // All were asked for in the same moment, and none is missed or seen twice.
    let (mut seen, mut before) = (Vec::new(), None::<String>);
    loop {
        let page = listed(Sites::All, before.as_deref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.0.clone());
        seen.extend(page);
    }
    let (first, stale) = (like.id.to_string(), "REQ-0000000000000002".to_owned());
    assert_eq!(
        seen,
        [(id(4), 2, 0), (id(3), 1, 0), (id(2), 1, 0), (id(1), 1, 0), (id(0), 1, 0), (stale, 1, 0), (first, 1, 2)]
    );
}

fn step(from: u64, count: u64, mark: u8) -> Advance {
    let entries = (from..from + count).map(|seq| NewEntry {
        seq,
        line: vec![mark; 40],
        leaf: [mark; 32],
        kind: "check".into(),
        outcome: Some("pass".into()),
        runbook: None,
        claimed_at: now(),
    });
    Advance {
        from,
        entries: entries.collect(),
        nodes: vec![Node { level: 1, index: from, hash: [mark; 32] }],
        segment: Segment {
            first: from,
            last: from + count - 1,
            key: format!("v1/north/{from}"),
            sha256: "00".into(),
            version: "1".into(),
            keep_until: later(60),
        },
        now: Followed {
            size: from + count,
            root: [mark; 32],
            prev: [mark; 32],
            note: b"note".to_vec(),
            advanced_at: later(5),
        },
    }
}

async fn advance(fleet: &Fleet, from: u64, count: u64, mark: u8) -> Result<(), FleetError> {
    fleet
        .write(move |sql| {
            Box::pin(async move { logs::advance(sql, &north(), &desk(), &step(from, count, mark)).await })
        })
        .await
}

async fn a_log_is_followed_step_by_step(fleet: &Fleet) {
    let followed = || fleet.read(|sql| Box::pin(async move { logs::followed(sql, &north(), &desk()).await }));
    assert_eq!(followed().await.unwrap(), None);
    advance(fleet, 0, 3, 1).await.unwrap();
    assert_eq!(advance(fleet, 0, 3, 2).await.unwrap_err().kind(), Kind::Transient, "somebody was faster");
    advance(fleet, 3, 1000, 3).await.unwrap();
    let known = followed().await.unwrap().unwrap();
    assert_eq!((known.size, known.root, known.note), (1003, [3; 32], b"note".to_vec()));
    let read =
        fleet.read(|sql| Box::pin(async move { logs::leaves(sql, &north(), &desk(), (2, 4)).await })).await.unwrap();
    assert_eq!(read, [[1; 32], [3; 32], [3; 32]]);
    let nodes = fleet.read(|sql| Box::pin(async move { logs::nodes(sql, &north(), &desk(), &[(1, 3), (0, 0)]).await }));
    assert_eq!(nodes.await.unwrap(), [[3; 32], [1; 32]]);
    let missing = fleet.read(|sql| Box::pin(async move { logs::nodes(sql, &north(), &desk(), &[(7, 7)]).await }));
    assert_eq!(missing.await.unwrap_err().kind(), Kind::Broken);
    let kept = |reason: &'static str| {
        fleet.write(move |sql| {
            Box::pin(async move { logs::quarantine(sql, (&north(), &desk()), reason, ("aa", b"body"), now()).await })
        })
    };
    assert!(kept("FORK").await.unwrap());
    assert!(!kept("FORK").await.unwrap(), "once");
    assert!(kept("BAD_SIGNATURE").await.unwrap());
    for (sites, kept) in [("*", 2), ("north", 2), ("south", 0)] {
        let counted =
            fleet.read(move |sql| Box::pin(async move { logs::quarantined(sql, &Sites::read(sites).unwrap()).await }));
        assert_eq!(counted.await.unwrap(), kept, "{sites}");
    }
}

async fn people_and_tokens(fleet: &Fleet) {
    let person = |id: &str, role, sites| Person {
        id: id.into(),
        name: id.to_uppercase(),
        role,
        sites,
        created_by: "operator:root".into(),
        created_at: now(),
        ended_at: None,
    };
    let dana = person("dana", Role::Technician, Sites::Some(vec![north()]));
    let secret = Token {
        hash: [7; 32],
        id: "TOK-1".into(),
        person: "dana".into(),
        name: "laptop".into(),
        role: Role::Admin,
        sites: Sites::All,
        created_by: "operator:root".into(),
        created_at: now(),
        expires_at: later(60),
    };
    let (dana_, secret_) = (dana.clone(), secret.clone());
    fleet
        .write(move |sql| {
            let (dana, secret) = (dana_.clone(), secret_.clone());
            Box::pin(async move {
                people::add_person(sql, &dana).await?;
                people::add_token(sql, &secret).await
            })
        })
        .await
        .unwrap();
    let twice = fleet
        .write(move |sql| {
            let dana = dana.clone();
            Box::pin(async move { people::add_person(sql, &dana).await })
        })
        .await;
    assert_eq!(twice.unwrap_err().kind(), Kind::Conflict);
    let caller = |at| fleet.read(move |sql| Box::pin(people::caller(sql, &[7; 32], at)));
    let who = caller(later(1)).await.unwrap().unwrap();
    assert_eq!(
        (who.roles, who.sites),
        (Roles { person: Role::Technician, token: Role::Admin }, Sites::Some(vec![north()])),
        "no more than its person may"
    );
    assert_eq!(caller(later(60)).await.unwrap(), None, "its time is over");
    fleet.write(|sql| Box::pin(people::used(sql, &[7; 32], later(1)))).await.unwrap();
    fleet.write(|sql| Box::pin(people::used(sql, &[7; 32], later(1) + SignedDuration::from_secs(30)))).await.unwrap();
    let listed = fleet.read(|sql| Box::pin(people::tokens(sql))).await.unwrap();
    assert_eq!(listed[0].used_at, Some(later(1)), "once a minute");
    fleet.write(|sql| Box::pin(people::end_person(sql, "dana", later(2)))).await.unwrap();
    assert_eq!(caller(later(3)).await.unwrap(), None);
}

async fn what_never_changes_never_changes(fleet: &Fleet) {
    let row = Audit {
        site: "north".into(),
        at: now(),
        actor: "person:dana".into(),
        act: "order.ask".into(),
        object: "REQ-1".into(),
        outcome: "done".into(),
        detail: json!({"n": 1}),
    };
    let row_ = row.clone();
    fleet
        .write(move |sql| {
            let row = row_.clone();
            Box::pin(async move { audit::write(sql, &row).await })
        })
        .await
        .unwrap();
    let listed = fleet.read(|sql| Box::pin(audit::list(sql, Some("north"), i64::MAX, 10))).await.unwrap();
    assert_eq!(listed.into_iter().map(|(_, row)| row).collect::<Vec<_>>(), [row]);
    assert!(fleet.read(|sql| Box::pin(audit::list(sql, Some("south"), i64::MAX, 10))).await.unwrap().is_empty());
    for statement in [
        "UPDATE entry SET line = leaf",
        "DELETE FROM entry",
        "UPDATE node SET hash = hash",
        "DELETE FROM segment",
        "UPDATE quarantine SET reason = 'x'",
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM audit",
        "DELETE FROM log",
        "UPDATE log SET size = 1",
    ] {
        let changed = fleet.write(move |sql| Box::pin(async move { sql.run(statement, &[]).await })).await;
        assert_eq!(changed.unwrap_err().kind(), Kind::Broken, "{statement}");
    }
}

/// Forty writers: each place is given out once, each log step happens once.
async fn everybody_at_once(fleet: &Fleet) {
    let fleet = Arc::new(fleet.clone());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let fleet = Arc::clone(&fleet);
        tasks.spawn(async move {
            let seq = loop {
                let taken = fleet.write(|sql| Box::pin(async move { orders::next_seq(sql, &north(), &desk()).await }));
                match taken.await {
                    Err(error) if error.kind() == Kind::Transient => {}
                    result => break result.unwrap(),
                }
            };
            (seq, advance(&fleet, 1003, 5, 9).await.is_ok())
        });
    }
    let done = tasks.join_all().await;
    let mut places: Vec<u64> = done.iter().map(|(seq, _)| *seq).collect();
    places.sort_unstable();
    assert_eq!(places, (3..43).collect::<Vec<_>>());
    assert_eq!(done.iter().filter(|(_, advanced)| *advanced).count(), 1);
}

/// An order to many takes a while. Check-ins go on meanwhile, and neither has to begin again.
async fn an_order_and_a_check_in_do_not_collide(fleet: &Fleet) {
    let known = fleet.look(|sql| Box::pin(async move { sites::appliance(sql, &north(), &desk()).await }));
    let said = known.await.unwrap().unwrap().last.unwrap();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let issuing = fleet.write(move |sql| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            sites::enrolled(sql).await?;
            tokio::time::sleep(Duration::from_millis(400)).await;
            let seq = orders::next_seq(sql, &north(), &desk()).await?;
            orders::add_order(sql, &order(seq, "ORD-00000000000000ff")).await
        })
    });
    let speaking = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let said = fleet.change(move |sql| {
            let said = said.clone();
            Box::pin(async move { sites::check_in(sql, &north(), &desk(), &said).await })
        });
        said.await
    };
    let (issued, heard) = tokio::join!(issuing, speaking);
    issued.unwrap();
    heard.unwrap();
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

#[test]
fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let place = || Place::File(dir.path().join("fleet.db"));
    on_runtime(async {
        contract(Fleet::open(place()).await.unwrap()).await;
        let again = Fleet::open(place()).await.unwrap();
        assert_eq!(again.read(|sql| Box::pin(sites::sites(sql))).await.unwrap().len(), 1, "what was written is there");
        again
            .write(|sql| {
                Box::pin(async move { sites::set_state(sql, &north(), &desk(), ApplianceState::RolledBack).await })
            })
            .await
            .unwrap();
    });
}

#[test]
fn postgresql_keeps_the_contract() {
    let Some(peers) = Peers::start(&["pg"]) else { return };
    let roots = peers.roots();
    let connection = PostgresConnection {
        url: peers.var("DATABASE_URL").to_owned(),
        password: None,
        roots: Some(roots),
        connections: 8,
    };
    on_runtime(async {
        let fleet = Fleet::open(Place::Postgres(connection.clone())).await.unwrap();
        contract(fleet.clone()).await;
        an_order_and_a_check_in_do_not_collide(&fleet).await;
        let tls = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let spoken = fleet.read(move |sql| Box::pin(async move { sql.row(tls, &[]).await })).await.unwrap().unwrap();
        assert_eq!(spoken.text(0).unwrap(), "TLSv1.3");

        peers.tell("kill", "pg");
        assert_eq!(fleet.ping().await.unwrap_err().kind(), Kind::Transient);
        peers.tell("restart", "pg");
        let mut tries = 0;
        while fleet.ping().await.is_err() {
            tries += 1;
            assert!(tries < 100, "it does not come back");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let again = Fleet::open(Place::Postgres(connection.clone())).await.unwrap();
        assert_eq!(again.read(|sql| Box::pin(sites::sites(sql))).await.unwrap().len(), 1);
        a_transaction_dropped_half_way_leaves_nothing(&connection).await;

        let newer = "INSERT INTO schema_version (version, sha256) VALUES (99, 'x')";
        fleet.write(move |sql| Box::pin(async move { sql.run(newer, &[]).await })).await.unwrap();
        let refused = Fleet::open(Place::Postgres(connection)).await.unwrap_err();
        assert!(matches!(refused, FleetError::Newer { found: 99, .. }), "{refused}");
    });
}

/// Whoever hangs up in the middle must not leave a connection on which the next transaction commits what it left.
async fn a_transaction_dropped_half_way_leaves_nothing(to: &PostgresConnection) {
    let only = PostgresConnection { connections: 1, ..to.clone() };
    let fleet = Fleet::open(Place::Postgres(only)).await.unwrap();
    let add = |name: &'static str, then: Duration| {
        fleet.write(move |sql| {
            Box::pin(async move {
                let id = name.parse().unwrap();
                let site = Site { id, name: "x".into(), tier: PlanTier::Essential, created_at: now() };
                sites::add_site(sql, &site).await?;
                tokio::time::sleep(then).await;
                Ok(())
            })
        })
    };
    let hung_up = tokio::time::timeout(Duration::from_millis(300), add("half", Duration::from_mins(1))).await;
    assert!(hung_up.is_err());
    add("whole", Duration::ZERO).await.unwrap();
    let there = fleet.read(|sql| Box::pin(sites::sites(sql))).await.unwrap();
    assert!(there.iter().all(|site| site.id.as_str() != "half"), "{there:?}");
    let two = fleet.change(|sql| {
        Box::pin(async move {
            sql.run("DELETE FROM site WHERE id = 'whole'", &[]).await?;
            sql.run("DELETE FROM site WHERE id = 'whole'", &[]).await
        })
    });
    assert_eq!(two.await.unwrap_err().kind(), Kind::Broken, "one statement is one");
}

#[test]
fn a_database_that_is_not_there_is_one_clear_error() {
    on_runtime(async {
        let nobody = PostgresConnection {
            url: "postgres://malachor@127.0.0.1:1/malachor".into(),
            password: Some("hunter2".into()),
            roots: None,
            connections: 2,
        };
        let said = Fleet::open(Place::Postgres(nobody)).await.unwrap_err().to_string();
        assert!(said.contains("malachor") && !said.contains("hunter2"), "{said}");
        assert!(!said.contains("creating a new object"), "{said}");
        let said = Fleet::open(Place::File("/proc/no/fleet.db".into())).await.unwrap_err().to_string();
        assert!(said.contains("/proc/no/fleet.db"), "{said}");
    });
}
