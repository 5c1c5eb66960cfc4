//! Rules within one service.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::address::unusable;
use super::health::whole_milliseconds;
use super::name;
use crate::config::model::{Backend, Mode, Service};
use crate::config::place::{Gaps, Place, Problem};

const IDLE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const LONGEST_START: Duration = Duration::from_secs(3600);
const MAX_WEIGHT: u16 = 1000;

pub(crate) fn check(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let key = |key| Place::ServiceKey(s, key);
    if !gaps.contains(&key("name")) {
        name(key("name"), &service.name, problems);
    }
    if !IDLE.contains(&service.idle_timeout) || !whole_milliseconds(service.idle_timeout) {
        problems.push(Problem::new(
            key("idle_timeout"),
            "`idle_timeout` must be 1s to 24h",
            "5m, the default, suits most services",
        ));
    }
    if service.slow_start > LONGEST_START || !whole_milliseconds(service.slow_start) {
        problems.push(Problem::new(
            key("slow_start"),
            "`slow_start` must be 0s to 1h",
            "30s lets most servers warm up; 0s, the default, is off",
        ));
    }
    if service.listen.is_empty() && !gaps.contains(&key("listen")) {
        problems.push(Problem::new(
            key("listen"),
            "the service listens nowhere",
            "add listen = [\"192.0.2.10:80/tcp\"]",
        ));
    }
    if service.backends.is_empty() && !gaps.contains(&key("backends")) {
        problems.push(Problem::new(
            key("backends"),
            "the service has no backends",
            "add backends = [{ name = \"web-01\", address = \"10.0.0.11\" }], or remove the service",
        ));
    }
    for (l, frontend) in service.listen.iter().enumerate() {
        listen(Place::Listen(s, l), frontend.vip.address, frontend.ports.first, problems);
    }
    let mode = (!gaps.contains(&key("mode"))).then_some(service.mode);
    for (b, backend) in service.backends.iter().enumerate() {
        one_backend((s, b), backend, mode, problems);
        if mode == Some(Mode::Nat) {
            family((s, b), backend, service, problems);
        }
    }
    duplicates(s, service, problems);
}

fn listen(place: Place, address: IpAddr, port: u16, problems: &mut Vec<Problem>) {
    if let Some((what, hint)) = unusable(address) {
        problems.push(Problem::new(place, format!("{address} is {what}, not a VIP"), hint));
    }
    if port == 0 {
        problems.push(Problem::new(place, "0 is not a port to listen on", "write 1 to 65535"));
    }
}

fn one_backend(
    (s, b): (usize, usize),
    backend: &Backend,
    mode: Option<Mode>,
    problems: &mut Vec<Problem>,
) {
    let key = |key| Place::BackendKey(s, b, key);
    name(key("name"), &backend.name, problems);
    if let Some((what, hint)) = unusable(backend.address) {
        let message = format!("{} is {what}, not a server", backend.address);
        problems.push(Problem::new(key("address"), message, hint));
    }
    if backend.port == Some(0) {
        let hint = "write 1 to 65535, or leave it out for the port clients used";
        problems.push(Problem::new(key("port"), "0 is not a port", hint));
    } else if backend.port.is_some() && mode == Some(Mode::Dsr) {
        problems.push(Problem::new(
            key("port"),
            "a dsr service can't change the port: only MAC addresses are rewritten",
            "remove `port`, or use mode = \"nat\"",
        ));
    }
    if backend.weight == 0 {
        problems.push(Problem::new(
            key("weight"),
            "the weight must be 1 to 1000",
            "to send a backend no new connections use `lb backend drain`; to be rid of it remove it",
        ));
    } else if backend.weight > MAX_WEIGHT {
        problems.push(Problem::new(
            key("weight"),
            "the weight must be 1 to 1000",
            "weights are relative: divide all of the service's by the same number",
        ));
    }
}

fn family(
    (s, b): (usize, usize),
    backend: &Backend,
    service: &Service,
    problems: &mut Vec<Problem>,
) {
    let other = service
        .listen
        .iter()
        .position(|frontend| frontend.vip.is_ipv4() != backend.address.is_ipv4());
    let Some(l) = other else { return };
    let (family, vip) = match backend.address {
        IpAddr::V4(_) => ("IPv4", "IPv6"),
        IpAddr::V6(_) => ("IPv6", "IPv4"),
    };
    let mut problem = Problem::new(
        Place::BackendKey(s, b, "address"),
        format!("an {family} backend can't serve an {vip} VIP in mode nat"),
        "make two services, one for each family, with the backends of that family",
    )
    .with(Place::Listen(s, l), "this VIP");
    problem.conflict = false;
    problems.push(problem);
}

fn duplicates(s: usize, service: &Service, problems: &mut Vec<Problem>) {
    // A backend without a port has the VIP's, so it may be the same endpoint as one that names it.
    let port = service.listen.first().map(|frontend| frontend.ports.first);
    let common = port.filter(|port| service.listen.iter().all(|other| other.ports.first == *port));
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    for (b, backend) in service.backends.iter().enumerate() {
        if let Some(first) = names.insert(backend.name.as_str(), b) {
            let shown = backend.name.escape_debug();
            problems.push(
                Problem::new(
                    Place::BackendKey(s, b, "name"),
                    format!("this service has two backends named '{shown}'"),
                    "give one of them another name: the name is its identity",
                )
                .with(Place::BackendKey(s, first, "name"), "the other one"),
            );
        }
        if let Some(first) = addresses.insert((backend.address, backend.port.or(common)), b) {
            problems.push(
                Problem::new(
                    Place::BackendKey(s, b, "address"),
                    format!("{} is in this service twice", backend.address),
                    "remove one of the two; to send it more traffic, raise its weight",
                )
                .with(Place::BackendKey(s, first, "address"), "the other one"),
            );
        }
    }
}
