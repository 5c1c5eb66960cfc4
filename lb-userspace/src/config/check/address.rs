//! Addresses that can't carry a service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::model::Prefix;

/// Why traffic can't be sent to or received on this address: what it is, and what to do.
pub(crate) fn unusable(address: IpAddr) -> Option<(&'static str, &'static str)> {
    match address {
        IpAddr::V4(address) => unusable_v4(address),
        IpAddr::V6(address) => unusable_v6(address),
    }
    .map(|what| {
        let hint = match what {
            MAPPED => "write it as IPv4, without ::ffff:",
            "a link-local address" => "use an address that is routed, or unique local (fd00::/8)",
            _ => "use a unicast address of the network",
        };
        (what, hint)
    })
}

/// The same for a block of addresses: what of it, and what to do.
pub(crate) fn unusable_prefix(prefix: Prefix) -> Option<(String, &'static str)> {
    if prefix.is_host() {
        return unusable(prefix.address).map(|(what, hint)| (format!("is {what}"), hint));
    }
    // The ends tell, as blocks nest; only IPv4's link-local one has usable addresses around it.
    let inside = IpAddr::from([169, 254, 0, 0]);
    let inside = prefix.contains(inside).then_some(inside);
    [Some(prefix.address), Some(prefix.last()), inside]
        .into_iter()
        .flatten()
        .find_map(unusable)
        .map(|(what, hint)| (format!("has {what} in it"), hint))
}

/// The shortest block that can be a VIP or a tunnel's source: more is a slip of the fingers.
pub(crate) fn shortest(prefix: Prefix) -> u8 {
    if prefix.is_ipv4() { 8 } else { 16 }
}

const MAPPED: &str = "an IPv4-mapped IPv6 address";

fn unusable_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.octets()[0] == 0 {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_link_local() {
        Some("a link-local address")
    } else if address.is_broadcast() {
        Some("the broadcast address")
    } else {
        None
    }
}

fn unusable_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_unicast_link_local() {
        Some("a link-local address")
    } else if address.to_ipv4_mapped().is_some() {
        Some(MAPPED)
    } else {
        None
    }
}
