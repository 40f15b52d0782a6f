//! Whose window a limiter counts in. Each kind has its own prefix: a person called like a site shares nothing with it.

use std::fmt;
use std::net::IpAddr;

use crate::domain::id::{ApplianceId, SiteId};
use crate::net::counted_as;

/// Somebody, or something, that is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose<'a> {
    /// A person, with all their tokens.
    Person(&'a str),
    /// A site, whoever asks.
    Site(&'a SiteId),
    /// An appliance.
    Appliance(&'a SiteId, &'a ApplianceId),
    /// Where a connection comes from.
    Address(IpAddr),
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(id) => write!(out, "person:{id}"),
            Self::Site(id) => write!(out, "site:{id}"),
            Self::Appliance(site, id) => write!(out, "appliance:{site}/{id}"),
            Self::Address(address) => match counted_as(*address) {
                IpAddr::V4(address) => write!(out, "address:{address}"),
                IpAddr::V6(network) => write!(out, "address:{network}/64"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_shares_a_window_with_a_namesake_of_another_kind() {
        let (site, desk): (SiteId, ApplianceId) = ("clinic".parse().unwrap(), "clinic".parse().unwrap());
        let kinds = [Whose::Person("clinic"), Whose::Site(&site), Whose::Appliance(&site, &desk)];
        assert_eq!(kinds.map(|whose| whose.to_string()), ["person:clinic", "site:clinic", "appliance:clinic/clinic"]);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let key = |address: &str| Whose::Address(address.parse().unwrap()).to_string();
        assert_eq!(key("192.0.2.7"), "address:192.0.2.7");
        assert_eq!(key("::ffff:192.0.2.7"), key("192.0.2.7"));
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "address:2001:db8:1:2::/64");
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    }
}
