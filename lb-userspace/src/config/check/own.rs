//! Rules for this node's own addresses: what replies to NAT come to, and what tunnels begin with.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::model::{Config, Frontend};
use crate::config::place::{Gaps, Place, Problem};

pub(crate) fn check(config: &Config, gaps: &Gaps, problems: &mut Vec<Problem>) {
    nat_backends(config, problems);
    nat_frontends(config, gaps, problems);
    tunnel_sources(config, problems);
}

/// The first of each family: more are refused, and not worth comparing with everything.
fn used<T>(values: &[T], is_ipv4: impl Fn(&T) -> bool) -> Vec<(usize, &T)> {
    let first = |v4| values.iter().enumerate().find(|(_, value)| is_ipv4(value) == v4);
    [first(true), first(false)].into_iter().flatten().collect()
}

fn nat_backends(config: &Config, problems: &mut Vec<Problem>) {
    let mut own = HashMap::new();
    for (i, address) in config.node.nat_addresses.iter().enumerate() {
        own.entry(*address).or_insert(Place::NatAddress(i));
    }
    for (s, service) in config.services.iter().enumerate() {
        for (b, backend) in service.backends.iter().enumerate() {
            if let Some(nat) = own.get(&backend.address) {
                let message = format!("{} is a NAT source address of this node", backend.address);
                let hint = "a server can't be this node: correct one of the two";
                let place = Place::BackendKey(s, b, "address");
                problems.push(Problem::new(place, message, hint).with(*nat, "listed here"));
            }
        }
    }
}

fn nat_frontends(config: &Config, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let own = used(&config.node.nat_addresses, IpAddr::is_ipv4);
    let ports = &config.node.nat_ports;
    let takes_replies = |frontend: &Frontend, address: IpAddr| {
        frontend.vip.contains(address)
            && frontend.ports.first <= *ports.end()
            && frontend.ports.last >= *ports.start()
    };
    for (s, service) in config.services.iter().enumerate() {
        // In `nat` a packet's connection is looked up first, so a reply is known as one.
        if !service.mode.is_direct() || gaps.contains(&Place::ServiceKey(s, "mode")) {
            continue;
        }
        for (l, frontend) in service.listen.iter().enumerate() {
            let Some((i, _)) = own.iter().find(|(_, own)| takes_replies(frontend, **own)) else {
                continue;
            };
            let message = format!(
                "{frontend} is where replies to NAT come in: they would be taken for clients' \
                 packets"
            );
            let hint = "use an address that is not in `nat_addresses`, or a port outside of \
                        `nat_ports`";
            problems.push(
                Problem::new(Place::Listen(s, l), message, hint)
                    .with(Place::NatAddress(*i), "listed here"),
            );
        }
    }
}

/// Backends answer nobody there, and ICMP errors about tunnels come back there.
fn tunnel_sources(config: &Config, problems: &mut Vec<Problem>) {
    for (i, source) in used(&config.node.tunnel_sources, |source| source.is_ipv4()) {
        let mut clash = |place, message| {
            let hint = "choose addresses for `tunnel_sources` that nothing else has";
            problems.push(
                Problem::new(place, message, hint).with(Place::TunnelSource(i), "listed here"),
            );
        };
        for (s, service) in config.services.iter().enumerate() {
            for (l, frontend) in service.listen.iter().enumerate() {
                let vip = frontend.vip;
                if vip.overlaps(source) {
                    let message = format!("{vip} and the tunnel sources {source} overlap");
                    clash(Place::Listen(s, l), message);
                }
            }
            for (b, backend) in service.backends.iter().enumerate() {
                if source.contains(backend.address) {
                    let message =
                        format!("{} is one of the tunnel sources {source}", backend.address);
                    clash(Place::BackendKey(s, b, "address"), message);
                }
            }
        }
    }
}
