//! Who may have how many connections: no address and no appliance takes the places of all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::id::{ApplianceId, SiteId};
use crate::server::authority::Identity;

/// Connections of one appliance: it needs two, and some more while those of before are not known to be gone.
const PER_APPLIANCE: usize = 16;

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Address(IpAddr),
    Appliance(SiteId, ApplianceId),
}

/// All places of a listener.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// For who has no certificate: half of them, so that appliances always find the other half.
    strangers: Arc<Semaphore>,
    held: Arc<Mutex<BTreeMap<Holder, usize>>>,
    per_address: usize,
}

/// One of a holder's places; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    holder: Holder,
    held: Arc<Mutex<BTreeMap<Holder, usize>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.holder) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(held.remove(&self.holder)),
        }
    }
}

impl Places {
    /// `per_address` of 0 counts no addresses.
    pub(super) fn new(connections: usize, per_address: usize) -> Self {
        let connections = connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(connections)),
            strangers: Arc::new(Semaphore::new(connections.div_ceil(2))),
            held: Arc::default(),
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
        self.seat(Holder::Address(network(address)), most)
    }

    /// A place for who showed an appliance's certificate, if it has not too many.
    pub(super) fn of(&self, identity: &Identity) -> Option<Seat> {
        self.seat(Holder::Appliance(identity.site.clone(), identity.appliance.clone()), PER_APPLIANCE)
    }

    /// A place for who showed none, if not half of all are taken by such.
    pub(super) fn stranger(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.strangers).try_acquire_owned().ok()
    }

    fn seat(&self, holder: Holder, most: usize) -> Option<Seat> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(holder.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat { holder, held: Arc::clone(&self.held) })
    }
}

/// Whoever has one address of IPv6 has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
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
        assert!(places.held.lock().unwrap().is_empty(), "nobody is remembered who is gone");
        let open = Places::new(100, 0);
        assert_eq!(std::iter::repeat_with(|| open.at(address("10.0.0.7"))).take(1000).flatten().count(), 1000);
    }
}
