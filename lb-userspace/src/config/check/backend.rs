//! Rules for a service's backends: what each one says, and that no two are the same.

use std::collections::HashMap;

use super::address::unusable;
use super::name;
use crate::config::model::{Backend, Family, Mode, Service};
use crate::config::place::{Gaps, Place, Problem};

const MAX_WEIGHT: u16 = 1000;

pub(crate) fn check(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let mode = (!gaps.contains(&Place::ServiceKey(s, "mode"))).then_some(service.mode);
    for (b, backend) in service.backends.iter().enumerate() {
        one_backend((s, b), backend, mode, problems);
        if mode == Some(Mode::Nat) {
            family((s, b), backend, service, problems);
        }
    }
    duplicates(s, service, problems);
    if !gaps.contains(&Place::ServiceKey(s, "quic")) {
        server_ids(s, service, gaps, problems);
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
    if backend.host.is_none() && backend.family.is_some() {
        problems.push(Problem::new(
            key("family"),
            format!("{} is of one family alone", backend.address),
            "remove `family`: it chooses between the addresses of a host name",
        ));
    }
    if let Some((what, hint)) = unusable(backend.address).filter(|_| backend.is_placed()) {
        let message = format!("{} is {what}, not a server", backend.address);
        problems.push(Problem::new(key("address"), message, hint));
    }
    if backend.port == Some(0) {
        let hint = "write 1 to 65535, or leave it out for the port clients used";
        problems.push(Problem::new(key("port"), "0 is not a port", hint));
    } else if let (Some(_), Some(mode)) = (backend.port, mode.filter(|mode| mode.is_direct())) {
        let what = match mode.is_tunnel() {
            true => "clients' packets arrive as they were, inside others",
            false => "only MAC addresses are rewritten",
        };
        problems.push(Problem::new(
            key("port"),
            format!("{} {mode} service can't change the port: {what}", article(mode)),
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

fn article(mode: Mode) -> &'static str {
    if mode == Mode::Ipip { "an" } else { "a" }
}

fn family(
    (s, b): (usize, usize),
    backend: &Backend,
    service: &Service,
    problems: &mut Vec<Problem>,
) {
    let own = service.family_of(backend);
    let other = service.listen.iter().position(|frontend| Family::of(frontend.vip.address) != own);
    let Some(l) = other else { return };
    let (family, vip) = match own {
        Family::Ipv4 => ("IPv4", "IPv6"),
        Family::Ipv6 => ("IPv6", "IPv4"),
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
    let ports = service.listen.first().map(|frontend| frontend.ports);
    let common = ports
        .filter(|ports| ports.is_single() && service.listen.iter().all(|f| f.ports == *ports))
        .map(|ports| ports.first);
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
        let location = service.location(backend);
        if let Some(first) = addresses.insert((location, backend.port.or(common)), b) {
            problems.push(
                Problem::new(
                    Place::BackendKey(s, b, "address"),
                    format!("{location} is in this service twice"),
                    "remove one of the two; to send it more traffic, raise its weight",
                )
                .with(Place::BackendKey(s, first, "address"), "the other one"),
            );
        }
    }
}

/// With `quic` every backend has an id of that length, and its own; without, none has one.
fn server_ids(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let mut seen = HashMap::new();
    for (b, backend) in service.backends.iter().enumerate() {
        let place = Place::BackendKey(s, b, "server_id");
        match (service.quic, backend.server_id) {
            (None, None) => {}
            (None, Some(_)) => problems.push(Problem::new(
                place,
                "a server id is of use with QUIC alone, and this service has no `quic`",
                "remove it, or add quic = { config_id = 0, server_id_length = 4 } to the service",
            )),
            (Some(_), None) if gaps.contains(&place) => {}
            (Some(quic), None) => problems.push(Problem::new(
                Place::Backend(s, b),
                "the backend has no server id, which `quic` needs",
                format!(
                    "add server_id = \"{}\", the one that the server puts into its connection ids",
                    "0a".repeat(usize::from(quic.server_id_length.clamp(1, 8)))
                ),
            )),
            (Some(quic), Some(id)) => {
                // Of a wrong length themselves, the lengths below would all be wrong.
                if id.len() != quic.server_id_length && (1..=8).contains(&quic.server_id_length) {
                    let message = format!(
                        "the server id has {}, and `quic` says {}",
                        bytes(id.len()),
                        bytes(quic.server_id_length)
                    );
                    let hint = "write the id that the server is configured with, or correct \
                                `server_id_length`";
                    problems.push(Problem::new(place, message, hint));
                }
                if let Some(first) = seen.insert(id, b) {
                    problems.push(
                        Problem::new(
                            place,
                            format!("two backends of this service have the server id {id}"),
                            "give each server an id of its own",
                        )
                        .with(Place::BackendKey(s, first, "server_id"), "the other one"),
                    );
                }
            }
        }
    }
}

fn bytes(length: u8) -> String {
    if length == 1 { "1 byte".into() } else { format!("{length} bytes") }
}
