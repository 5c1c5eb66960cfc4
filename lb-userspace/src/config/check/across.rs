//! Rules between services: whose VIP, whose server, and whether all of it fits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::config::model::{Config, Mode};
use crate::config::place::{Gaps, Place, Problem};

pub(crate) fn check(config: &Config, gaps: &Gaps, problems: &mut Vec<Problem>) {
    names(config, gaps, problems);
    let vips = frontends(config, problems);
    servers(config, gaps, &vips, problems);
    nat_addresses(config, gaps, problems);
    sizes(config, problems);
}

fn names(config: &Config, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let mut seen = HashMap::new();
    for (s, service) in config.services.iter().enumerate() {
        let place = Place::ServiceKey(s, "name");
        if gaps.contains(&place) {
            continue;
        }
        if let Some(first) = seen.insert(service.name.as_str(), s) {
            let message = format!("two services are named '{}'", service.name.escape_debug());
            problems.push(
                Problem::new(place, message, "give one of them another name")
                    .with(Place::ServiceKey(first, "name"), "the other one"),
            );
        }
    }
}

/// Every VIP, with the first place that listens on it.
fn frontends(config: &Config, problems: &mut Vec<Problem>) -> HashMap<IpAddr, Place> {
    let mut seen = HashMap::new();
    let mut vips = HashMap::new();
    for (s, service) in config.services.iter().enumerate() {
        for (l, frontend) in service.listen.iter().enumerate() {
            let place = Place::Listen(s, l);
            vips.entry(frontend.vip.address).or_insert(place);
            match seen.entry(*frontend) {
                Entry::Vacant(entry) => {
                    entry.insert((s, place));
                }
                Entry::Occupied(entry) => {
                    let (owner, first) = *entry.get();
                    let message = match config.services.get(owner) {
                        Some(other) if owner != s => {
                            format!("{frontend} belongs to service '{}' already", other.name)
                        }
                        _ => format!("{frontend} is listed twice"),
                    };
                    let hint =
                        "a VIP, port and protocol can have one service: remove one of the two";
                    problems
                        .push(Problem::new(place, message, hint).with(first, "first listed here"));
                }
            }
        }
    }
    vips
}

fn servers(
    config: &Config,
    gaps: &Gaps,
    vips: &HashMap<IpAddr, Place>,
    problems: &mut Vec<Problem>,
) {
    let mut modes: HashMap<IpAddr, (Mode, usize, Place)> = HashMap::new();
    for (s, service) in config.services.iter().enumerate() {
        let mode_known = !gaps.contains(&Place::ServiceKey(s, "mode"));
        for (b, backend) in service.backends.iter().enumerate() {
            let place = Place::BackendKey(s, b, "address");
            if let Some(vip) = vips.get(&backend.address) {
                let message = format!("{} is a VIP: packets would go in circles", backend.address);
                let hint = "write the server's own address; in dsr the VIP is on its lo besides";
                problems.push(Problem::new(place, message, hint).with(*vip, "the VIP"));
            }
            if !mode_known {
                continue;
            }
            let (mode, owner, first) =
                *modes.entry(backend.address).or_insert((service.mode, s, place));
            if mode != service.mode {
                let owner = config.services.get(owner).map_or("", |other| other.name.as_str());
                let message = format!(
                    "{} is a backend in mode {} here and in mode {mode} in service '{owner}'",
                    backend.address, service.mode
                );
                let hint = "give both services the same mode, or the server a second address";
                problems.push(Problem::new(place, message, hint).with(first, "the other mode"));
            }
        }
    }
}

fn nat_addresses(config: &Config, gaps: &Gaps, problems: &mut Vec<Problem>) {
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
        // In `nat` a packet's connection is looked up first, so a reply is known as one.
        if service.mode != Mode::Dsr || gaps.contains(&Place::ServiceKey(s, "mode")) {
            continue;
        }
        for (l, frontend) in service.listen.iter().enumerate() {
            let Some(nat) = own.get(&frontend.vip.address) else { continue };
            if config.node.nat_ports.contains(&frontend.ports.first) {
                let message = format!(
                    "{frontend} is where replies to NAT come in: they would be taken for clients' \
                     packets"
                );
                let hint = "use an address that is not in `nat_addresses`, or a port outside of \
                            `nat_ports`";
                let place = Place::Listen(s, l);
                problems.push(Problem::new(place, message, hint).with(*nat, "listed here"));
            }
        }
    }
}

fn sizes(config: &Config, problems: &mut Vec<Problem>) {
    let backends = || config.services.iter().flat_map(|service| &service.backends);
    let limits = &config.node.limits;
    let servers: HashSet<IpAddr> = backends().map(|backend| backend.address).collect();
    let counts = [
        (
            "frontends",
            config.services.iter().map(|service| service.listen.len()).sum(),
            limits.frontends,
        ),
        ("backends", backends().count(), limits.backends),
        ("servers", servers.len(), limits.servers),
    ];
    for (key, count, limit) in counts {
        if u32::try_from(count).unwrap_or(u32::MAX) > limit {
            problems.push(Problem::new(
                Place::Limit(key),
                format!("there are {count} {key}, and room for {limit}"),
                format!(
                    "raise it: [node] with limits = {{ {key} = {} }}",
                    count.next_power_of_two()
                ),
            ));
        }
    }
}
