//! What `lb status` says: the node as it is now, what is wrong with it, and what to do.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_common::abi::Word;
use lb_common::verdict::{Event, Verdict};

use super::backend::Backend;
use super::by_hand::probe_by_hand;
use super::node::Node;
use super::service::Running;
use crate::dataplane::features::names;
use crate::dataplane::maps::LiveMaps;
use crate::net::{self, mac_text};
use crate::report::{
    self, Admin, Counters, HealthState, NamedCount, NextHop, Status, Warning, long_age,
};

/// What the daemon knows beside the node.
#[derive(Debug)]
pub struct About<'a> {
    pub revision: u64,
    pub started: Instant,
    pub interfaces: &'a [report::Interface],
}

/// The whole status.
#[must_use]
pub fn status(node: &Node, about: &About<'_>) -> Status {
    let services: Vec<report::Service> =
        node.services.iter().map(|running| service(node, running)).collect();
    let mut counters = counters(&node.arena.maps);
    counters.sent += node.arena.maps.sent(node.arena.rows_used());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: about.revision,
        uptime_ms: ms(about.started.elapsed()),
        interfaces: about.interfaces.to_vec(),
        features: names(node.arena.maps.settings().features).map(String::from).collect(),
        warnings: warnings(about, node, &services),
        services,
        counters,
    }
}

fn service(node: &Node, running: &Running) -> report::Service {
    let maps = &node.arena.maps;
    let new = |b: &Backend| running.counted(maps, b).new_flows;
    let new_flows: u64 = running.backends.iter().map(new).sum();
    let backends: Vec<report::Backend> =
        running.backends.iter().map(|b| backend(node, running, b, new_flows)).collect();
    report::Service {
        name: running.config.name.clone(),
        mode: running.config.mode,
        listen: running.config.listen.clone(),
        table_slots: running.tables.slot_count(),
        marked_slots: running.tables.marked_slots().0,
        shadowed_slots: running.tables.marked_slots().1,
        coverage_violations: running.violations,
        backends_serving: u32::try_from(running.serving()).unwrap_or(u32::MAX),
        backends_total: u32::try_from(running.backends.len()).unwrap_or(u32::MAX),
        packets: backends.iter().map(|b| b.packets).sum(),
        bytes: backends.iter().map(|b| b.bytes).sum(),
        new_flows,
        backends,
    }
}

fn backend(node: &Node, running: &Running, backend: &Backend, total: u64) -> report::Backend {
    let maps = &node.arena.maps;
    let counted = running.counted(maps, backend);
    let new_flows = counted.new_flows;
    let share = if total == 0 { 0.0 } else { new_flows as f64 / total as f64 };
    let now = Instant::now();
    report::Backend {
        name: backend.config.name.clone(),
        address: backend.config.address,
        port: backend.config.port,
        weight: backend.config.weight,
        health: backend.health.report(now, backend.detection),
        admin: match &backend.drain {
            None => Admin::Ready,
            Some(drain) => Admin::Drain {
                reason: drain.reason.clone(),
                actor: drain.actor.clone(),
                since_ms: epoch_ms().saturating_sub(drain.at_ms),
            },
        },
        state: backend.state(),
        admit: f64::from(backend.word().admit()) / f64::from(Word::FULL),
        expected: running.tables.share(backend.index),
        share,
        packets: counted.packets,
        bytes: counted.bytes,
        new_flows,
        flows: node.flows(running, backend),
        next_hop: next_hop(node, backend),
    }
}

fn next_hop(node: &Node, backend: &Backend) -> NextHop {
    let none = NextHop { interface: None, mac: None, via: None, problem: None };
    match node.servers.hop(backend.config.address, backend.mode) {
        // Nothing on the way: no interface, no MAC, no router.
        Some(Ok(net::NextHop::Local)) => none,
        Some(Ok(net::NextHop::Remote(hop))) => NextHop {
            interface: Some(hop.interface.clone()),
            mac: Some(mac_text(hop.destination_mac)),
            via: hop.via,
            problem: None,
        },
        Some(Err(problem)) => NextHop { problem: Some(problem.to_string()), ..none },
        None => NextHop { problem: Some("not resolved yet".into()), ..none },
    }
}

fn counters(maps: &LiveMaps) -> Counters {
    let verdicts =
        Verdict::ALL.iter().map(|&verdict| NamedCount::of_verdict(verdict, maps.verdicts(verdict)));
    let events = Event::ALL.iter().map(|&event| NamedCount::of_event(event, maps.events(event)));
    Counters {
        sent: maps.verdicts(Verdict::NatReply),
        verdicts: verdicts.collect(),
        events: events.collect(),
    }
}

/// Worst first: services without a backend, dead backends, unreachable ones, forgotten drains.
fn warnings(about: &About<'_>, node: &Node, services: &[report::Service]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for service in services.iter().filter(|s| s.backends_serving == 0) {
        let alive = |b: &report::Backend| b.state != report::BackendState::Down;
        let drained = service.backends.iter().find(|b| alive(b) && b.admin != Admin::Ready);
        let message = match service.backends.iter().any(alive) {
            true => {
                "has only draining backends: they get the new traffic too, as nothing else is left"
            }
            false => "has no backend left: the service is down",
        };
        warnings.push(Warning {
            subject: service.name.clone(),
            message: message.into(),
            next: drained.map(|b| format!("lb backend ready {}/{}", service.name, b.name)),
        });
    }
    let all = || services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
    let running = node.services.iter().flat_map(|r| r.backends.iter().map(move |b| (r, b)));
    for ((service, backend), (running, configured)) in all().zip(running) {
        if backend.health.state != HealthState::Down {
            continue;
        }
        let since = long_age(backend.health.since_ms);
        let reason = backend.health.last_failure.as_deref().unwrap_or("its probes fail");
        let found = backend.health.detection_ms.map_or(String::new(), |ms| {
            format!("; found and taken out within {ms:.0} ms of the first failing probe")
        });
        warnings.push(Warning {
            subject: format!("{}/{}", service.name, backend.name),
            message: format!("is down for {since}: {reason}{}{found}", beginning(backend)),
            next: probe_by_hand(&running.config, &configured.config),
        });
    }
    for (service, backend) in all() {
        let Some(problem) = &backend.next_hop.problem else { continue };
        warnings.push(Warning {
            subject: format!("{}/{}", service.name, backend.name),
            message: format!("has no next hop: {problem}"),
            next: None,
        });
    }
    for (service, backend) in all() {
        let Admin::Drain { reason, actor, since_ms } = &backend.admin else { continue };
        let subject = format!("{}/{}", service.name, backend.name);
        let since = long_age(*since_ms);
        let reason = reason.as_ref().map_or(String::new(), |reason| format!(" (\"{reason}\")"));
        let left = backend.flows.map_or(String::new(), |flows| {
            format!(", {flows} {} left", if flows == 1 { "flow" } else { "flows" })
        });
        let passes = match backend.health.state {
            HealthState::Up => "; its probes pass",
            HealthState::Unknown | HealthState::Down => "",
        };
        warnings.push(Warning {
            message: format!("is drained for {since} by {actor}{reason}{left}{passes}"),
            next: Some(format!("lb backend ready {subject}")),
            subject,
        });
    }
    for interface in about.interfaces.iter().filter(|i| i.xdp == "generic") {
        warnings.push(Warning {
            subject: interface.name.clone(),
            message: "runs in generic XDP mode, several times slower than native".into(),
            next: Some(format!("ethtool -i {}", interface.name)),
        });
    }
    for service in services.iter().filter(|s| s.backends_serving == 1 && s.backends_total > 1) {
        warnings.push(Warning {
            subject: service.name.clone(),
            message: "has one backend left: its failure takes the service down".into(),
            next: None,
        });
    }
    warnings
}

/// How the outage began, if that was in another way than it is now.
fn beginning(backend: &report::Backend) -> String {
    let Some(report::Outage { first, last }) = &backend.health.outage else { return String::new() };
    match first.text == last.text {
        true => String::new(),
        false => format!("; it began with {}", first.text),
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn epoch_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, ms)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
