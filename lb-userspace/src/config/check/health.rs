//! Rules for probes: times that make sense, and nothing that could break out of a request.

use std::time::Duration;

use crate::config::model::{Health, Mode, Probe, Service, Via};
use crate::config::place::{Gaps, Place, Problem};
use crate::config::value::format_duration;

const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const MOST_IN_A_ROW: u32 = 100;
const LONGEST_TEXT: usize = 1024;

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
    if let Probe::Http { path, host, status } = &health.probe {
        let plain =
            |text: &str| text.len() <= LONGEST_TEXT && text.bytes().all(|b| b.is_ascii_graphic());
        if !path.starts_with('/') {
            add(
                "http",
                "the path doesn't begin with '/'".into(),
                "write the path alone, such as \"/healthz\"",
            );
        } else if !plain(path) {
            let hint = "use up to 1024 ASCII characters; percent-encode what is not";
            add("http", "the path has characters that can't be sent".into(), hint);
        }
        if let Some(host) = host
            && (host.is_empty() || !plain(host) || host.contains(['/', '@']))
        {
            add(
                "host",
                "this can't be a Host header".into(),
                "write a name such as \"example.org\"",
            );
        }
        let (start, end) = (*status.start(), *status.end());
        if start > end || start < 100 || end > 599 {
            let message = format!("{start}-{end} is no range of HTTP status codes");
            add("status", message, "codes are 100 to 599, the lower one first: \"200-399\"");
        }
    }
}

/// All ports are none in particular: a probe has to be told which.
fn no_port(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
    let all = service.listen.first().is_some_and(|frontend| frontend.ports.is_all());
    let named = service.health.port.is_some() || service.backends.iter().all(|b| b.port.is_some());
    let place = Place::HealthKey(s, "port");
    let known = ![Place::ServiceKey(s, "listen"), place].iter().any(|gap| gaps.contains(gap));
    if all && !named && known && service.health.probe != Probe::None {
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

/// A backend in `nat` does not know the VIP; nor do probes that nobody sends.
fn no_way(s: usize, service: &Service, gaps: &Gaps, problems: &mut Vec<Problem>) {
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
