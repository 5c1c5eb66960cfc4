//! Rules for the times of probes, and for where they come from and go to.

use std::time::Duration;

use super::probe;
use crate::config::model::{Backend, Family, Health, Mode, Probe, Service, Via};
use crate::config::place::{Gaps, Place, Problem};
use crate::config::value::format_duration;

const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
const LONGEST_HOLD: Duration = Duration::from_secs(24 * 3600);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_IN_A_ROW: u32 = 100;
/// Per cent: the rest of an interval is always waited for.
const MOST_JITTER: u8 = 50;

pub(crate) fn check(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let health = &service.health;
    no_port(s, service, gaps, problems);
    no_way(s, service, gaps, problems);
    let mut add = |key, message: String, hint: &str| {
        problems.push(Problem::new(Place::HealthKey(s, key), message, hint));
    };
    times(health, &mut add);
    for (key, count) in [("rise", health.rise), ("fall", health.fall)] {
        if !(1..=MOST_IN_A_ROW).contains(&count) {
            add(key, format!("`{key}` must be 1 to {MOST_IN_A_ROW}"), "2 or 3 suits most services");
        }
    }
    if health.port == Some(0) {
        add(
            "port",
            "0 is not a port".into(),
            "write 1 to 65535, or leave it out for the backend's",
        );
    }
    if health.jitter > MOST_JITTER {
        let message = format!("`jitter` must be 0% to {MOST_JITTER}%");
        add("jitter", message, "10% keeps probes from coming all at once");
    }
    if health.port.is_some() && health.probe == Probe::Icmp {
        add("port", "an icmp probe has no port".into(), "remove it");
    }
    source(s, service, problems);
    probe::check(s, &health.probe, problems);
}

/// One address, so one family.
fn source(s: usize, service: &Service, problems: &mut Vec<Problem>) {
    let Some(source) = service.health.source else { return };
    let place = Place::HealthKey(s, "source");
    if source.is_unspecified() || source.is_multicast() {
        let hint = "write an address of this machine, or leave it out for the route's own";
        problems.push(Problem::new(place, format!("probes can't come from {source}"), hint));
        return;
    }
    let is_other = |backend: &Backend| service.family_of(backend) != Family::of(source);
    if let Some(backend) = service.backends.iter().find(|backend| is_other(backend)) {
        let message =
            format!("{source} can't reach {} at {}", backend.name, service.location(backend));
        let hint = "write a source of the same family, or leave it out for the route's own";
        problems.push(Problem::new(place, message, hint));
    }
}

/// All ports are none in particular: a probe has to be told which.
fn no_port(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let all = service.listen.first().is_some_and(|frontend| frontend.ports.is_all());
    let named = service.health.port.is_some() || service.backends.iter().all(|b| b.port.is_some());
    let place = Place::HealthKey(s, "port");
    let known = ![Place::ServiceKey(s, "listen"), place].iter().any(|gap| gaps.contains(gap));
    if all && !named && known && service.health.probe.has_port() {
        let mut problem = Problem::new(
            place,
            "the service listens on all ports: there is none to probe",
            "add a port to probe, such as health = { tcp = true, port = 80 }, or write \
             health = { none = true }",
        )
        .with(Place::Listen(s, 0), "all ports");
        problem.conflict = false;
        problems.push(problem);
    }
}

/// A backend in `nat` does not know the VIP; some probes can't be led there.
fn no_way(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let probe = &service.health.probe;
    let message = match probe {
        Probe::Icmp | Probe::Exec(_) => {
            Some(format!("an {} probe can't be sent to the VIP", probe.key()))
        }
        Probe::None => Some("nothing is probed, so nothing is sent to the VIP".to_owned()),
        _ => None,
    };
    if let Some(message) = message.filter(|_| service.health.via == Some(Via::Vip)) {
        let hint = "remove this key, or choose a probe over TCP or UDP, such as tcp = true";
        problems.push(Problem::new(Place::HealthKey(s, "via"), message, hint));
        return;
    }
    let known = !gaps.contains(&Place::ServiceKey(s, "mode"));
    if known && service.mode == Mode::Nat && service.health.via == Some(Via::Vip) {
        problems.push(Problem::new(
            Place::HealthKey(s, "via"),
            "a backend in mode nat is never asked for the VIP",
            "remove this key, or write via = \"address\": clients' packets go there as well",
        ));
    }
}

fn times(health: &Health, add: &mut impl FnMut(&'static str, String, &str)) {
    let values = [
        ("interval", health.interval, LONGEST_INTERVAL),
        ("fast_interval", health.fast_interval, LONGEST_INTERVAL),
        ("timeout", health.timeout, LONGEST_TIMEOUT),
    ];
    for (key, value, longest) in values {
        let bounds =
            format!("{} to {}", format_duration(Health::SHORTEST), format_duration(longest));
        if !(Health::SHORTEST..=longest).contains(&value) {
            add(key, format!("`{key}` must be {bounds}"), &format!("choose one of {bounds}"));
        } else if !whole_milliseconds(value) {
            add(key, format!("`{key}` has a fraction of a millisecond"), "use whole milliseconds");
        }
    }
    for (key, value) in [("hold_down", health.hold_down), ("hold_down_max", health.hold_down_max)] {
        if value > LONGEST_HOLD || !whole_milliseconds(value) {
            let message = format!("`{key}` must be 0s to {}", format_duration(LONGEST_HOLD));
            add(key, message, "1s and 1m, the defaults, suit most services; 0s is off");
        }
    }
    if health.hold_down > health.hold_down_max {
        let message = format!(
            "`hold_down` ({}) is longer than `hold_down_max` ({})",
            format_duration(health.hold_down),
            format_duration(health.hold_down_max)
        );
        add("hold_down", message, "it is the first and shortest of the times: shorten it");
    }
    if health.fast_interval > health.interval && health.interval >= Health::SHORTEST {
        let message = format!(
            "`fast_interval` ({}) is longer than `interval` ({})",
            format_duration(health.fast_interval),
            format_duration(health.interval)
        );
        add(
            "fast_interval",
            message,
            "it is the interval while a failure is being confirmed: shorten it",
        );
    }
}

pub(crate) fn whole_milliseconds(duration: Duration) -> bool {
    duration.subsec_nanos().is_multiple_of(1_000_000)
}
