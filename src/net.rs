//! Talking to other machines: one HTTP client on one TLS stack.

pub mod http;
pub mod tls;

use std::net::{IpAddr, Ipv6Addr};

/// What is counted as one address: whoever has one of IPv6 has 2^64 of them, so there it is the network (/64).
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & (u128::MAX << 64))),
    }
}

/// Why there is no answer. Whether the other side may have acted is the first thing anybody has to know about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// It was not sent: the other side knows nothing of it.
    #[error("{to}: {why}")]
    NotSent {
        /// The other side.
        to: String,
        /// What is wrong.
        why: String,
    },
    /// It was sent, and what became of it is not known.
    #[error("{to}: {why}; whether it was carried out is not known")]
    Unknown {
        /// The other side.
        to: String,
        /// What is wrong.
        why: String,
    },
}
