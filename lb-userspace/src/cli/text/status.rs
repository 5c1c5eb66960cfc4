//! `lb status` and the two lists: what is wrong first, then the tables.

use std::time::Duration;

use super::format::{count, percent, safe_line, wrap};
use super::table::Table;
use crate::report::{Absence, Admin, Backend, BackendState, HealthState, Service, Status, Warning};
use crate::report::{age, long_age};

/// An earlier status, to show rates instead of totals.
#[derive(Clone, Copy)]
pub(crate) struct Since<'a> {
    pub(crate) status: &'a Status,
    pub(crate) elapsed: Duration,
}

pub(crate) fn status(status: &Status, since: Option<Since<'_>>, width: usize) -> String {
    let mut out = String::new();
    problems(status, width, &mut out);
    out.push('\n');
    interfaces(status, width, &mut out);
    if !status.services.is_empty() {
        out.push('\n');
        out.push_str(&services(status, since, width));
        out.push('\n');
        out.push_str(&backends(status, None, since, width));
    }
    drops(status, width, &mut out);
    out
}

fn problems(status: &Status, width: usize, out: &mut String) {
    for warning in &status.warnings {
        problem(warning, width, out);
    }
    if status.warnings.is_empty() {
        let total: u32 = status.services.iter().map(|service| service.backends_total).sum();
        let serving: u32 = status.services.iter().map(|service| service.backends_serving).sum();
        let backends = status.services.iter().flat_map(|service| &service.backends);
        let waits =
            |b: &&Backend| b.backup && b.admin == Admin::Ready && b.state == BackendState::Drained;
        let waiting = backends.filter(waits).count();
        let needed = total.saturating_sub(u32::try_from(waiting).unwrap_or(u32::MAX));
        let reserve = if waiting > 0 { format!(", {waiting} in reserve") } else { String::new() };
        let text = match total {
            0 => "ok nothing to balance: no service has been configured".to_owned(),
            _ => {
                format!("ok nothing is wrong; {serving} of {needed} backends are serving{reserve}")
            }
        };
        out.push_str(&wrap(&text, "", "  ", width));
    }
}

/// What is wrong with whom, and what to do about it.
pub(super) fn problem(warning: &Warning, width: usize, out: &mut String) {
    let text = format!("{} {}", warning.subject, warning.message);
    out.push_str(&wrap(&text, "! ", "  ", width));
    if let Some(next) = &warning.next {
        out.push_str(&wrap(next, "    next: ", "      ", width));
    }
}

fn interfaces(status: &Status, width: usize, out: &mut String) {
    let names: Vec<String> = status
        .interfaces
        .iter()
        .map(|interface| format!("{} ({} XDP)", interface.name, interface.xdp))
        .collect();
    let text = format!(
        "on {}, revision {}, up {}, lb {}",
        names.join(", "),
        status.revision,
        long_age(status.uptime_ms),
        status.version
    );
    out.push_str(&wrap(&text, "", "  ", width));
}

pub(crate) fn services(status: &Status, since: Option<Since<'_>>, width: usize) -> String {
    let traffic = match since {
        None => ["NEW", "PACKETS", "BYTES"],
        Some(_) => ["NEW/s", "PPS", "BITS/s"],
    };
    let [new, packets, bytes] = traffic;
    let mut table = Table::new(&["SERVICE", "MODE", "LISTEN", "UP", new, packets, bytes], &[0, 2]);
    for service in &status.services {
        let before = since.map(|since| (find(since.status, &service.name), since.elapsed));
        let rate = |now: u64, was: fn(&Service) -> u64, scale: u64| match &before {
            None => count(now),
            Some((before, elapsed)) => count(per_second(now, before.map(was), *elapsed) * scale),
        };
        table.row([
            service.name.clone(),
            service.mode.to_string(),
            listen(service),
            format!("{}/{}", service.backends_serving, service.backends_total),
            rate(service.new_flows, |s| s.new_flows, 1),
            rate(service.packets, |s| s.packets, 1),
            rate(service.bytes, |s| s.bytes, if since.is_some() { 8 } else { 1 }),
        ]);
    }
    table.render(width)
}

fn listen(service: &Service) -> String {
    match service.listen.as_slice() {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

/// The backends of one service, or of all.
pub(crate) fn backends(
    status: &Status,
    only: Option<&str>,
    since: Option<Since<'_>>,
    width: usize,
) -> String {
    let new = if since.is_some() { "NEW/s" } else { "NEW" };
    let shown = || status.services.iter().filter(|s| only.is_none_or(|name| name == s.name));
    // Names have a column where there are any.
    let named = shown().any(|service| service.backends.iter().any(|b| b.host.is_some()));
    let host = named.then_some("HOST");
    let rest = ["ADDRESS", "HEALTH", "ADMIT", "WEIGHT", "SHARE", "EXPECTED", new];
    let headers: Vec<&str> = std::iter::once("BACKEND").chain(host).chain(rest).collect();
    let mut table = Table::new(&headers, if named { &[0, 1, 2, 3] } else { &[0, 1, 2] });
    for service in shown() {
        for backend in &service.backends {
            let new_flows = match since {
                None => backend.new_flows,
                Some(since) => {
                    let before = find(since.status, &service.name)
                        .and_then(|s| s.backends.iter().find(|b| b.name == backend.name));
                    per_second(backend.new_flows, before.map(|b| b.new_flows), since.elapsed)
                }
            };
            let name = format!("{}/{}", service.name, backend.name);
            let host = named.then(|| backend.host.clone().unwrap_or_default());
            let rest = [
                address(backend),
                health(backend),
                percent(backend.admit),
                backend.weight.to_string(),
                percent(backend.share),
                percent(backend.expected),
                count(new_flows),
            ];
            table.row(std::iter::once(name).chain(host).chain(rest));
        }
    }
    table.render(width)
}

/// What a list of backends adds below its table; `lb status` says it at the top.
pub(crate) fn notes(status: &Status, only: Option<&str>, width: usize) -> String {
    let mut notes = String::new();
    for service in status.services.iter().filter(|s| only.is_none_or(|name| name == s.name)) {
        for backend in &service.backends {
            note(&service.name, backend, width, &mut notes);
        }
    }
    if notes.is_empty() { notes } else { format!("\n{notes}") }
}

fn address(backend: &Backend) -> String {
    let Some(address) = backend.address else { return "none".into() };
    match backend.port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}

/// `up 31d`, `down 4m refused`, `up 2h drained`, `up 2h reserve` (a backup), `up 9d unprobed`.
fn health(backend: &Backend) -> String {
    let since = age(backend.health.since_ms);
    let state = match backend.health.state {
        HealthState::Unknown => format!("unknown {since}"),
        HealthState::Up => format!("up {since}"),
        HealthState::Down => {
            let failure = backend.health.last_failure.as_deref().unwrap_or_default();
            let layer = failure.split(':').next().unwrap_or_default();
            format!("down {since} {layer}")
        }
    };
    let also = match (&backend.admin, backend.state) {
        (Admin::Maintenance(_), _) => " maintenance",
        (Admin::Ready, BackendState::Draining | BackendState::Drained) if backend.backup => {
            " reserve"
        }
        (_, BackendState::Serving) if backend.backup => " backup",
        (_, BackendState::Serving | BackendState::Down) => "",
        (_, BackendState::Draining) => " draining",
        (_, BackendState::Drained) => " drained",
        (_, BackendState::Returning) => " returning",
    };
    let unprobed = if backend.health.unprobed.is_some() { " unprobed" } else { "" };
    format!("{}{also}{unprobed}", state.trim_end())
}

/// Who drained it and why; why it can't be reached.
fn note(service: &str, backend: &Backend, width: usize, out: &mut String) {
    let name = format!("{service}/{}", backend.name);
    if let Admin::Drain(absence) | Admin::Maintenance(absence) = &backend.admin {
        let Absence { reason, actor, since_ms, ends_in_ms } = absence;
        let what = match backend.admin {
            Admin::Maintenance(_) => "was put in maintenance",
            _ => "was drained",
        };
        let end = match ends_in_ms.map(|end| (end < 0, long_age(end.unsigned_abs()))) {
            Some((true, past)) => format!(", {past} past its end"),
            Some((false, left)) => format!(", to end in {left}"),
            None => String::new(),
        };
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let flows = match backend.flows {
            Some(1) => ", 1 flow left".to_owned(),
            Some(flows) => format!(", {} flows left", count(flows)),
            None => String::new(),
        };
        let since = long_age(*since_ms);
        let text = format!("{name} {what} {since} ago by {actor}{reason}{end}{flows}");
        out.push_str(&wrap(&text, "", "    ", width));
    }
    if let Some(problem) = &backend.next_hop.problem {
        out.push_str(&wrap(&format!("{name} has no next hop: {problem}"), "", "    ", width));
    }
}

fn drops(status: &Status, width: usize, out: &mut String) {
    let dropped = || status.counters.verdicts.iter().filter(|v| v.kind == "drop" && v.count > 0);
    if dropped().next().is_some() {
        out.push_str("\nDROPPED\n");
    }
    for verdict in dropped() {
        let text = format!("{}: {}", safe_line(&verdict.name), verdict.help);
        out.push_str(&wrap(&text, &format!("{:>7}  ", count(verdict.count)), "         ", width));
    }
}

fn find<'a>(status: &'a Status, name: &str) -> Option<&'a Service> {
    status.services.iter().find(|service| service.name == name)
}

/// Nothing before, or counters that began anew, is no rate.
fn per_second(now: u64, before: Option<u64>, elapsed: Duration) -> u64 {
    let gained = before.map_or(0, |before| now.saturating_sub(before));
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { (gained as f64 / seconds).round() as u64 } else { 0 }
}
