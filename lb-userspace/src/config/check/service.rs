//! Rules within one service: its name and times, where it listens, what it forwards.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::address::{shortest, unusable_prefix};
use super::health::whole_milliseconds;
use super::{backend, failover, features, name};
use crate::config::model::{Frontend, Ports, Service};
use crate::config::place::{Gaps, Place, Problem};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn check(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let key = |key| Place::ServiceKey(s, key);
    if !gaps.contains(&key("name")) {
        name(key("name"), &service.name, problems);
    }
    times(s, service, problems);
    if service.capacity_warning.is_some_and(|percent| !(1..=100).contains(&percent)) {
        let hint = "\"75%\" suits most services; leave it out to hear of each backend that is out";
        let message = "`capacity_warning` must be 1% to 100%";
        problems.push(Problem::new(key("capacity_warning"), message, hint));
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
        listen(Place::Listen(s, l), frontend, problems);
    }
    failover::check(s, service, gaps, problems);
    features::check(s, service, gaps, problems);
    backend::check(s, service, gaps, problems);
}

fn times(s: usize, service: &Service, problems: &mut Vec<Problem>) {
    let rows: [(_, _, RangeInclusive<Duration>, _, _); 3] = [
        (
            "idle_timeout",
            service.idle_timeout,
            SECOND..=24 * HOUR,
            "1s to 24h",
            "5m, the default, suits most services",
        ),
        (
            "udp_timeout",
            service.udp_timeout,
            SECOND..=HOUR,
            "1s to 1h",
            "1m, the default, suits most services",
        ),
        (
            "slow_start",
            service.slow_start,
            Duration::ZERO..=HOUR,
            "0s to 1h",
            "30s lets most servers warm up; 0s, the default, is off",
        ),
    ];
    for (key, value, bounds, words, hint) in rows {
        if !bounds.contains(&value) || !whole_milliseconds(value) {
            let message = format!("`{key}` must be {words}");
            problems.push(Problem::new(Place::ServiceKey(s, key), message, hint));
        }
    }
}

fn listen(place: Place, frontend: &Frontend, problems: &mut Vec<Problem>) {
    let Frontend { vip, ports, .. } = frontend;
    if vip.length < shortest(*vip) {
        let message = format!("{vip} is too large a block for VIPs");
        let hint = format!("write a prefix of /{} or longer", shortest(*vip));
        problems.push(Problem::new(place, message, hint));
    } else if let Some((what, hint)) = unusable_prefix(*vip) {
        problems.push(Problem::new(place, format!("{vip} {what}, not a VIP"), hint));
    }
    if ports.first == 0 && *ports != Ports::ALL {
        let hint = "write 1 to 65535, or * for all ports";
        problems.push(Problem::new(place, "0 is not a port to listen on", hint));
    }
}
