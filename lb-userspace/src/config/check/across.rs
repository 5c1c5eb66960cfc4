//! Rules between services: whose name, and whose server.

use std::collections::HashMap;

use super::address::shortest;
use crate::config::model::{Config, Location, Mode};
use crate::config::nets::Nets;
use crate::config::place::{Gaps, Place, Problem};

pub(crate) fn check(config: &Config, gaps: &Gaps, problems: &mut Vec<Problem>) {
    names(config, gaps, problems);
    servers(config, gaps, &vips(config), problems);
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

/// Every VIP, with the first place that listens on it; none of a block that is refused as too large.
fn vips(config: &Config) -> Nets<Place> {
    let mut vips = Nets::default();
    for (s, service) in config.services.iter().enumerate() {
        for (l, frontend) in service.listen.iter().enumerate() {
            if frontend.vip.length >= shortest(frontend.vip) {
                vips.insert(frontend.vip, Place::Listen(s, l));
            }
        }
    }
    vips
}

fn servers(config: &Config, gaps: &Gaps, vips: &Nets<Place>, problems: &mut Vec<Problem>) {
    let mut modes: HashMap<Location<'_>, (Mode, usize, Place)> = HashMap::new();
    for (s, service) in config.services.iter().enumerate() {
        let mode_known = !gaps.contains(&Place::ServiceKey(s, "mode"));
        for (b, backend) in service.backends.iter().enumerate() {
            let place = Place::BackendKey(s, b, "address");
            if let Some((vip, listed)) = vips.find(backend.address) {
                let what = match vip.is_host() {
                    true => "is a VIP".to_owned(),
                    false => format!("is one of the VIPs {vip}"),
                };
                let message = format!("{} {what}: packets would go in circles", backend.address);
                let hint = "write the server's own address; in dsr and tunnels the VIP is on its lo besides";
                problems.push(Problem::new(place, message, hint).with(*listed, "the VIP"));
            }
            let location = service.location(backend);
            if !mode_known {
                continue;
            }
            let (mode, owner, first) = *modes.entry(location).or_insert((service.mode, s, place));
            if mode != service.mode {
                let owner = config.services.get(owner).map_or("", |other| other.name.as_str());
                let message = format!(
                    "{location} is a backend in mode {} here and in mode {mode} in service '{owner}'",
                    service.mode
                );
                let hint = "give both services the same mode, or the server a second address";
                problems.push(Problem::new(place, message, hint).with(first, "the other mode"));
            }
        }
    }
}
