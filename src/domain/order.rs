//! Orders: what the server may ask of an appliance, bound to one appliance, one place in its sequence and a short time.
//!
//! An order is a DSSE envelope whose payload is the canonical JSON of [`Order`]; what was signed is what is stored, sent
//! and verified. It runs nothing by itself: it enters the pipeline at the guards, like a person standing at the appliance.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::{ApplianceId, CheckId, OrderId, SiteId};

/// Media type of an order's payload.
pub const ORDER: &str = "application/vnd.malachor.order+json";
/// Media type of the payload in which an appliance says what became of one.
pub const REPORT: &str = "application/vnd.malachor.order-report+json";
/// Longest time an order may wait to be carried out.
pub const MAX_LIFE: SignedDuration = SignedDuration::from_hours(24 * 7);
/// How far ahead of the appliance's clock an order may begin to be valid.
pub const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What may be asked. A closed set: anything else is refused by the reader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Verb {
    /// Run checks now; all of them where none is named.
    RunChecks {
        /// Which.
        checks: Vec<CheckId>,
    },
    /// Heal what a check found with its runbook, within the guards.
    RunRunbook {
        /// The check whose drift it is about.
        check: CheckId,
        /// Parameters, checked against the runbook's schema.
        params: Map<String, Value>,
    },
    /// Fetch rules and runbooks now.
    SyncContent {},
    /// Stop all healing, or allow it again.
    SetKillSwitch {
        /// On stops everything.
        on: bool,
    },
    /// Make a new key for the client certificate.
    RotateKeys {},
    /// Fetch the site's configuration now.
    UpdateConfig {},
    /// Send what a technician needs to look into it: versions, posture, own health.
    CollectDiagnostics {},
}

impl Verb {
    /// The word for lists and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::RunChecks { .. } => "run_checks",
            Self::RunRunbook { .. } => "run_runbook",
            Self::SyncContent {} => "sync_content",
            Self::SetKillSwitch { .. } => "set_kill_switch",
            Self::RotateKeys {} => "rotate_keys",
            Self::UpdateConfig {} => "update_config",
            Self::CollectDiagnostics {} => "collect_diagnostics",
        }
    }

    /// Whether a second person must say yes: it changes what an appliance does by itself from now on, or may interrupt
    /// people's work. Stopping never waits for anybody.
    pub fn needs_second(&self) -> bool {
        match self {
            Self::RunRunbook { .. } | Self::RotateKeys {} | Self::UpdateConfig {} => true,
            Self::SetKillSwitch { on } => !on,
            Self::RunChecks { .. } | Self::SyncContent {} | Self::CollectDiagnostics {} => false,
        }
    }
}

/// One order to one appliance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Form of this value; 1.
    pub version: u32,
    /// Its id.
    pub id: OrderId,
    /// The site it is for.
    pub site: SiteId,
    /// The only appliance it is for.
    pub appliance: ApplianceId,
    /// Its place in that appliance's sequence, from 1; each is used once, in order.
    pub seq: u64,
    /// 32 hexadecimal digits that no other order has.
    pub nonce: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Not before.
    pub not_before: Timestamp,
    /// Not from this instant on.
    pub expires: Timestamp,
    /// Who asked.
    pub by: String,
    /// Who said yes, where a second person had to.
    pub approved_by: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// What to do.
    pub verb: Verb,
}

/// Why an appliance refuses an order. Each is evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No known order key signed it.
    #[error("it is not signed by an order key this appliance was given at enrolment")]
    Signature,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Form(String),
    /// It is for another appliance.
    #[error("it is for {0}, not for this appliance")]
    Addressee(String),
    /// Its time is over.
    #[error("it was valid until {0}")]
    Expired(Timestamp),
    /// Its time has not come.
    #[error("it is valid from {0} only")]
    TooEarly(Timestamp),
    /// It asks for more time than any order has.
    #[error("it would be valid for longer than any order may be")]
    TooLong,
    /// It was seen before.
    #[error("its place {seq} in the sequence is used: the last one was {last}")]
    Replay {
        /// The order's place.
        seq: u64,
        /// The last place used.
        last: u64,
    },
    /// A dangerous verb without a second person.
    #[error("{0} needs a second person's yes")]
    OnePerson(&'static str),
}

/// What an appliance holds an order to.
#[derive(Debug, Clone, Copy)]
pub struct Addressee<'a> {
    /// Its site.
    pub site: &'a SiteId,
    /// Itself.
    pub appliance: &'a ApplianceId,
    /// The last place in the sequence that was used; 0 before the first.
    pub last_seq: u64,
    /// Its clock.
    pub now: Timestamp,
}

impl Order {
    /// Reads the payload of an envelope whose signature holds.
    pub fn read(payload: &[u8]) -> Result<Self, Refusal> {
        let order: Self = serde_json::from_slice(payload).map_err(|error| Refusal::Form(error.to_string()))?;
        if order.version != 1 {
            return Err(Refusal::Form(format!("its form is version {}, not 1", order.version)));
        }
        if order.nonce.len() != 32 || !order.nonce.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(Refusal::Form("its nonce is not 32 hexadecimal digits".to_owned()));
        }
        Ok(order)
    }

    /// Whether an appliance may carry it out now.
    pub fn check(&self, to: Addressee<'_>) -> Result<(), Refusal> {
        if self.site != *to.site || self.appliance != *to.appliance {
            return Err(Refusal::Addressee(format!("{}/{}", self.site, self.appliance)));
        }
        if self.seq <= to.last_seq {
            return Err(Refusal::Replay { seq: self.seq, last: to.last_seq });
        }
        if self.expires.duration_since(self.issued_at) > MAX_LIFE {
            return Err(Refusal::TooLong);
        }
        if to.now >= self.expires {
            return Err(Refusal::Expired(self.expires));
        }
        if self.not_before.duration_since(to.now) > SKEW {
            return Err(Refusal::TooEarly(self.not_before));
        }
        let second = self.approved_by.as_ref().is_some_and(|who| !who.trim().is_empty() && *who != self.by);
        if self.verb.needs_second() && !second {
            return Err(Refusal::OnePerson(self.verb.word()));
        }
        Ok(())
    }
}

/// Where an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Signed, waiting to be fetched.
    Queued,
    /// Handed to the appliance.
    Delivered,
    /// The appliance has it, written down.
    Acknowledged,
    /// It is being carried out.
    Running,
    /// Done, and verified.
    Succeeded,
    /// Tried, and it did not help.
    Failed,
    /// The appliance or its guards said no.
    Refused,
    /// Its time was over before anybody began.
    Expired,
}

impl OrderState {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Delivered,
        Self::Acknowledged,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Refused,
        Self::Expired,
    ];

    /// The stored and printed word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Delivered => "delivered",
            Self::Acknowledged => "acknowledged",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }

    /// Reads the word.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether nothing more will come.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Refused | Self::Expired)
    }

    /// Whether an appliance's word may move it there. A later word may come first; none goes back, and what is over
    /// stays, except that an order thought expired may turn out to have been carried out in time.
    pub fn may_become(self, next: Self) -> bool {
        let rank = |state: Self| match state {
            Self::Queued => 0,
            Self::Delivered => 1,
            Self::Acknowledged => 2,
            Self::Running => 3,
            Self::Succeeded | Self::Failed | Self::Refused | Self::Expired => 4,
        };
        match self {
            Self::Expired => matches!(next, Self::Succeeded | Self::Failed | Self::Refused),
            Self::Succeeded | Self::Failed | Self::Refused => false,
            Self::Queued | Self::Delivered | Self::Acknowledged | Self::Running => rank(next) > rank(self),
        }
    }
}

/// What became of an order, in the appliance's own signed words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderReport {
    /// Form of this value; 1.
    pub version: u32,
    /// The order.
    pub order: OrderId,
    /// The site of the appliance.
    pub site: SiteId,
    /// The appliance.
    pub appliance: ApplianceId,
    /// The order's place in the sequence.
    pub seq: u64,
    /// Where it stands.
    pub state: OrderState,
    /// When, by the appliance's clock.
    pub at: Timestamp,
    /// What happened, in a sentence or a short JSON text for programs.
    pub say: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn order(verb: Verb) -> Order {
        Order {
            version: 1,
            id: "ORD-0011223344556677".parse().unwrap(),
            site: "north".parse().unwrap(),
            appliance: "front-desk".parse().unwrap(),
            seq: 7,
            nonce: "0".repeat(32),
            issued_at: at("2026-05-04T12:00:00Z"),
            not_before: at("2026-05-04T12:00:00Z"),
            expires: at("2026-05-04T12:30:00Z"),
            by: "t.nguyen".into(),
            approved_by: None,
            reason: "the scanner is down".into(),
            verb,
        }
    }

    fn checked(order: &Order, last_seq: u64, now: &str) -> Result<(), Refusal> {
        let (site, appliance) = ("north".parse().unwrap(), "front-desk".parse().unwrap());
        order.check(Addressee { site: &site, appliance: &appliance, last_seq, now: at(now) })
    }

    #[test]
    fn an_order_holds_for_one_appliance_one_place_and_a_short_time() {
        let run = order(Verb::RunChecks { checks: vec![] });
        assert_eq!(checked(&run, 6, "2026-05-04T12:10:00Z"), Ok(()));
        assert_eq!(checked(&run, 7, "2026-05-04T12:10:00Z"), Err(Refusal::Replay { seq: 7, last: 7 }));
        assert_eq!(checked(&run, 6, "2026-05-04T12:30:00Z"), Err(Refusal::Expired(run.expires)));
        assert_eq!(checked(&run, 6, "2026-05-04T11:56:00Z"), Ok(()), "clocks differ a little");
        assert_eq!(checked(&run, 6, "2026-05-04T11:54:00Z"), Err(Refusal::TooEarly(run.not_before)));
        let other = Order { appliance: "back-office".parse().unwrap(), ..run.clone() };
        assert!(matches!(checked(&other, 6, "2026-05-04T12:10:00Z"), Err(Refusal::Addressee(_))));
        let other = Order { site: "south".parse().unwrap(), ..run.clone() };
        assert!(matches!(checked(&other, 6, "2026-05-04T12:10:00Z"), Err(Refusal::Addressee(_))));
        let long = Order { expires: at("2026-05-12T12:00:00Z"), ..run };
        assert_eq!(checked(&long, 6, "2026-05-04T12:10:00Z"), Err(Refusal::TooLong));
    }

    #[test]
    fn what_is_dangerous_needs_two_people() {
        let dangerous = Verb::SetKillSwitch { on: false };
        let alone = order(dangerous.clone());
        assert_eq!(checked(&alone, 0, "2026-05-04T12:10:00Z"), Err(Refusal::OnePerson("set_kill_switch")));
        for who in ["t.nguyen", " "] {
            let same = Order { approved_by: Some(who.into()), ..order(dangerous.clone()) };
            assert!(checked(&same, 0, "2026-05-04T12:10:00Z").is_err(), "{who}");
        }
        let two = Order { approved_by: Some("m.ortiz".into()), ..order(dangerous) };
        assert_eq!(checked(&two, 0, "2026-05-04T12:10:00Z"), Ok(()));
        assert_eq!(checked(&order(Verb::SetKillSwitch { on: true }), 0, "2026-05-04T12:10:00Z"), Ok(()));
    }

    #[test]
    fn only_the_closed_set_is_read() {
        let run = order(Verb::RunRunbook { check: "RB-LNX-AV-001".parse().unwrap(), params: Map::new() });
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(Order::read(text.as_bytes()), Ok(run));
        for (from, to) in [
            ("\"run_runbook\"", "\"run_shell\""),
            ("\"version\":1", "\"version\":2"),
            ("\"params\":{}", "\"params\":{},\"sudo\":true"),
            ("\"seq\":7", "\"seq\":-7"),
            (&"0".repeat(32), "00"),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text);
            assert!(matches!(Order::read(bad.as_bytes()), Err(Refusal::Form(_))), "{bad}");
        }
        assert!(matches!(Order::read(b"{"), Err(Refusal::Form(_))));
    }

    proptest! {
        /// Whatever an appliance says in whatever order, an order never goes back, and what is over stays over.
        #[test]
        fn the_life_of_an_order_goes_one_way(words in proptest::collection::vec(0usize..8, 0..20)) {
            let mut state = OrderState::Queued;
            let mut seen = vec![state];
            for word in words {
                let next = OrderState::ALL[word];
                if state.may_become(next) {
                    prop_assert!(!seen.contains(&next));
                    prop_assert!(!state.is_over() || state == OrderState::Expired);
                    state = next;
                    seen.push(next);
                }
            }
        }
    }
}
