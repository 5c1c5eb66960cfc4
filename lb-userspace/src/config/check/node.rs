//! Rules for what concerns the machine: interfaces, ports and addresses of NAT, sizes.

use std::collections::HashMap;

use super::address::unusable;
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

fn limits(limits: &Limits, problems: &mut Vec<Problem>) {
    let bounds = [
        ("frontends", limits.frontends, 1, 65_536),
        ("backends", limits.backends, 1, 1 << 20),
        ("servers", limits.servers, 1, 65_536),
        ("table_bytes", limits.table_bytes, 64 << 10, 1 << 30),
        ("flows", limits.flows, 1024, 1 << 24),
        ("nat_connections", limits.nat_connections, 1024, 1 << 24),
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
