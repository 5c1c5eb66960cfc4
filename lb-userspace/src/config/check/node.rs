//! Rules for what concerns the machine: interfaces, ports and addresses of NAT, sizes.

use std::collections::HashMap;

use super::address::{shortest, unusable, unusable_prefix};
use crate::config::model::{Limits, Node};
use crate::config::place::{Place, Problem};

/// The kernel's `IFNAMSIZ`, less the closing zero.
const MAX_INTERFACE_NAME: usize = 15;
/// Below are the well-known ports, whose owners may be talking to the backends too.
const FIRST_NAT_PORT: u16 = 1024;
const MIN_NAT_PORTS: u16 = 256;

pub(crate) fn check(node: &Node, problems: &mut Vec<Problem>) {
    interfaces(node, problems);
    nat(node, problems);
    tunnels(node, problems);
    rates(node, problems);
    limits(&node.limits, problems);
}

fn interfaces(node: &Node, problems: &mut Vec<Problem>) {
    if node.interfaces.is_empty() {
        problems.push(Problem::new(
            Place::Interfaces,
            "no interface to attach to",
            "name the one that traffic arrives on: [node] with interfaces = [\"eth0\"]",
        ));
    }
    let mut seen = HashMap::new();
    for (i, name) in node.interfaces.iter().enumerate() {
        let place = Place::Interface(i);
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        let shown = name.escape_debug();
        if name.is_empty() || name == "." || name == ".." || name.chars().any(bad) {
            let message = format!("'{shown}' can't be the name of an interface");
            problems.push(Problem::new(place, message, "`ip link` lists the names there are"));
        } else if name.len() > MAX_INTERFACE_NAME {
            let message = format!(
                "'{shown}' is longer than an interface's name can be ({MAX_INTERFACE_NAME})"
            );
            problems.push(Problem::new(place, message, "`ip link` lists the names there are"));
        }
        if let Some(first) = seen.insert(name.as_str(), i) {
            let message = format!("interface '{shown}' is listed twice");
            problems.push(
                Problem::new(place, message, "remove one of the two")
                    .with(Place::Interface(first), "first listed here"),
            );
        }
    }
}

fn nat(node: &Node, problems: &mut Vec<Problem>) {
    let (start, end) = (*node.nat_ports.start(), *node.nat_ports.end());
    let hint =
        "leave room below the host's own ports (net.ipv4.ip_local_port_range): \"1024-32767\"";
    if start > end {
        let message = format!("the range {start}-{end} ends before it begins");
        problems.push(Problem::new(Place::NatPorts, message, "write the lower port first"));
    } else if start < FIRST_NAT_PORT {
        let message = format!("NAT can't use ports below {FIRST_NAT_PORT}");
        problems.push(Problem::new(Place::NatPorts, message, hint));
    } else if end - start < MIN_NAT_PORTS - 1 {
        let message = format!("{} ports are too few: at least {MIN_NAT_PORTS}", end - start + 1);
        problems.push(Problem::new(Place::NatPorts, message, hint));
    }
    let mut families = HashMap::new();
    for (i, address) in node.nat_addresses.iter().enumerate() {
        let place = Place::NatAddress(i);
        if let Some((what, hint)) = unusable(*address) {
            let message = format!("{address} is {what}: replies would never come back");
            problems.push(Problem::new(place, message, hint));
        }
        let first = *families.entry(address.is_ipv4()).or_insert(i);
        if first != i {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("{address} is the second {family} address: NAT uses one");
            let hint = "keep one address for each family; for more connections widen `nat_ports`";
            problems.push(
                Problem::new(place, message, hint)
                    .with(Place::NatAddress(first), "the one that is used"),
            );
        }
    }
}

fn tunnels(node: &Node, problems: &mut Vec<Problem>) {
    let mut families = HashMap::new();
    for (i, source) in node.tunnel_sources.iter().enumerate() {
        let place = Place::TunnelSource(i);
        if source.length < shortest(*source) {
            let shortest = shortest(*source);
            let message = format!("{source} is too large a block for tunnel sources");
            let hint = format!("write a prefix of /{shortest} or longer, of this host's alone");
            problems.push(Problem::new(place, message, hint));
        } else if let Some((what, hint)) = unusable_prefix(*source) {
            let message = format!("{source} {what}: tunnels need unicast sources");
            problems.push(Problem::new(place, message, hint));
        }
        let first = *families.entry(source.is_ipv4()).or_insert(i);
        if first != i {
            let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("{source} is the second {family} prefix: tunnels use one");
            let hint = "keep one for each family; a shorter prefix has more addresses";
            problems.push(
                Problem::new(place, message, hint)
                    .with(Place::TunnelSource(first), "the one that is used"),
            );
        }
    }
    if node.gue_port == 0 {
        let hint = "write the UDP port that backends decapsulate GUE on: 6080, the default";
        problems.push(Problem::new(Place::NodeKey("gue_port"), "0 is not a port", hint));
    }
}

fn rates(node: &Node, problems: &mut Vec<Problem>) {
    let bounds =
        [("flow_inserts", node.flow_inserts, 10_000_000), ("icmp_rate", node.icmp_rate, 1_000_000)];
    for (key, value, most) in bounds {
        if !(1..=most).contains(&value) {
            problems.push(Problem::new(
                Place::NodeKey(key),
                format!("`{key}` is out of bounds"),
                format!("use 1 to {most}: it is per second and processor"),
            ));
        }
    }
}

fn limits(limits: &Limits, problems: &mut Vec<Problem>) {
    let bounds = [
        ("frontends", limits.frontends, 1, 65_536),
        ("backends", limits.backends, 1, 1 << 20),
        ("servers", limits.servers, 1, 65_536),
        ("table_bytes", limits.table_bytes, 64 << 10, 1 << 30),
        ("flows", limits.flows, 1024, 1 << 24),
        ("nat_connections", limits.nat_connections, 1024, 1 << 24),
        ("sources", limits.sources, 1, 1 << 20),
        ("rates", limits.rates, 1024, 1 << 24),
        ("server_ids", limits.server_ids, 1, 65_536),
        ("prefixes", limits.prefixes, 1, 65_536),
    ];
    for (key, value, min, max) in bounds {
        if !(min..=max).contains(&value) {
            problems.push(Problem::new(
                Place::Limit(key),
                format!("the limit `{key}` is out of bounds"),
                format!("use {min} to {max}"),
            ));
        }
    }
}
