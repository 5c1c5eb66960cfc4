//! Rules for what a service does beside forwarding: UDP flows, QUIC, MSS, allow list, rate limit.

use crate::config::model::{Prefix, Protocol, RateLimit, Service, UdpPolicy};
use crate::config::place::{Gaps, Place, Problem};

/// Linux takes no smaller one, and no IPv4 packet holds a larger one.
const MSS: std::ops::RangeInclusive<u16> = 88..=65_495;
/// Three bits, of which all ones mean "no server id".
const LARGEST_CONFIG_ID: u8 = 6;

pub(crate) fn check(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    protocols(s, service, gaps, problems);
    if let Some(quic) = service.quic {
        if quic.config_id > LARGEST_CONFIG_ID {
            problems.push(Problem::new(
                Place::QuicKey(s, "config_id"),
                format!("`config_id` must be 0 to {LARGEST_CONFIG_ID}"),
                "write the one that the servers are configured with; 7 says that there is no \
                 server id",
            ));
        }
        if !(1..=8).contains(&quic.server_id_length) {
            problems.push(Problem::new(
                Place::QuicKey(s, "server_id_length"),
                "`server_id_length` must be 1 to 8",
                "write the bytes of a server id, as the servers are configured",
            ));
        }
    }
    if service.mss.is_some_and(|mss| !MSS.contains(&mss)) {
        problems.push(Problem::new(
            Place::ServiceKey(s, "mss"),
            format!("`mss` must be {} to {}", MSS.start(), MSS.end()),
            "write the bytes of TCP data that fit into a packet, such as 1400, or leave it out",
        ));
    }
    for (a, prefix) in service.allow.iter().enumerate() {
        allow(Place::Allow(s, a), *prefix, problems);
    }
    if let Some(RateLimit { per_second, burst }) = service.rate_limit {
        for (key, value) in [("per_second", per_second), ("burst", burst)] {
            if !(1..=RateLimit::MOST).contains(&value) {
                problems.push(Problem::new(
                    Place::RateLimitKey(s, key),
                    format!("`{key}` must be 1 to {}", RateLimit::MOST),
                    "it is new flows of one source address; to let none in, use `allow`",
                ));
            }
        }
    }
}

/// Keys that do nothing for a service without TCP, or without UDP.
fn protocols(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    // What it listens on is not wholly known, or nothing, which is reported.
    if gaps.contains(&Place::ServiceKey(s, "listen")) || service.listen.is_empty() {
        return;
    }
    let rows = [
        ("udp", service.udp == UdpPolicy::Flow, Protocol::Udp),
        ("quic", service.quic.is_some(), Protocol::Udp),
        ("mss", service.mss.is_some(), Protocol::Tcp),
    ];
    for (key, set, protocol) in rows {
        if set && !service.speaks(protocol) {
            let name = protocol.to_string();
            problems.push(Problem::new(
                Place::ServiceKey(s, key),
                format!("`{key}` is about {}, and this service has none", name.to_uppercase()),
                format!("remove `{key}`, or listen on a /{name} frontend"),
            ));
        }
    }
}

fn allow(place: Place, prefix: Prefix, problems: &mut Vec<Problem>) {
    let mapped = match prefix.address {
        std::net::IpAddr::V6(v6) => prefix.length >= 96 && v6.to_ipv4_mapped().is_some(),
        std::net::IpAddr::V4(_) => false,
    };
    if mapped {
        problems.push(Problem::new(
            place,
            format!("{prefix} is IPv4-mapped: no client has such an address"),
            "write it as IPv4, without ::ffff:",
        ));
    }
}
