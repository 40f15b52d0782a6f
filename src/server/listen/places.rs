//! Who may have how many connections: no address and no appliance takes the places of all others.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::id::{ApplianceId, SiteId};
use crate::net::counted_as;
use crate::server::authority::Identity;
use crate::server::counted::{Counted, One};

/// Connections of one appliance: it needs two, and some more while those of before are not known to be gone.
const PER_APPLIANCE: usize = 16;

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    Address(IpAddr),
    Appliance(SiteId, ApplianceId),
}

/// All places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// For who has no certificate: half of them, so that appliances always find the other half.
    strangers: Arc<Semaphore>,
    held: Counted<Holder>,
    per_address: usize,
}

/// One of a holder's places; it is free again when this is dropped.
pub(super) type Seat = One<Holder>;

impl Places {
    /// `per_address` of 0 counts no addresses.
    pub(super) fn new(connections: usize, per_address: usize) -> Self {
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(connections)),
            strangers: Arc::new(Semaphore::new(connections.div_ceil(2))),
            held: Counted::default(),
            per_address,
        }
    }

    /// Waits for a place; `None` never comes while this is there.
    pub(super) async fn any(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// A place for an address, if it has not too many.
    pub(super) fn at(&self, address: IpAddr) -> Option<Seat> {
        let most = if self.per_address == 0 { usize::MAX } else { self.per_address };
        self.held.take(Holder::Address(counted_as(address)), most)
    }

    /// A place for who showed an appliance's certificate, if it has not too many.
    pub(super) fn of(&self, identity: &Identity) -> Option<Seat> {
        self.held.take(Holder::Appliance(identity.site.clone(), identity.appliance.clone()), PER_APPLIANCE)
    }

    /// A place for who showed none, if not half of all are taken by such.
    pub(super) fn stranger(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.strangers).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_an_appliance_has_its_own_places_and_no_more() {
        let places = Places::new(100, 2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut seats = vec![places.at(address("2001:db8::1")).unwrap(), places.at(address("2001:db8::2")).unwrap()];
        assert!(places.at(address("2001:db8::3")).is_none(), "the same network");
        assert!(places.at(address("2001:db8:0:1::3")).is_some());
        seats.pop();
        assert!(places.at(address("2001:db8::3")).is_some(), "one is free again");
        let mapped = [places.at(address("::ffff:10.0.0.7")), places.at(address("10.0.0.7"))];
        assert!(mapped.iter().all(Option::is_some));
        assert!(places.at(address("10.0.0.7")).is_none(), "one address in two ways of writing");
        let identity = Identity {
            site: "clinic".parse().unwrap(),
            appliance: "desk".parse().unwrap(),
            serial: String::new(),
            not_after: jiff::Timestamp::MAX,
        };
        let held: Vec<_> = std::iter::from_fn(|| places.of(&identity)).collect();
        assert_eq!(held.len(), PER_APPLIANCE);
        drop((held, seats, mapped));
        assert!(places.held.is_empty(), "nobody is remembered who is gone");
        let open = Places::new(100, 0);
        assert_eq!(std::iter::repeat_with(|| open.at(address("10.0.0.7"))).take(1000).flatten().count(), 1000);
    }
}
