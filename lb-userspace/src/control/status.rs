//! What `lb status` says: the node as it is now, what is wrong with it, and what to do.

use std::time::{Duration, Instant};

use lb_common::abi::Word;
use lb_common::verdict::{Event, Verdict};

use super::backend::Backend;
use super::clock::{self, epoch_ms};
use super::freezes::Freezes;
use super::node::Node;
use super::service::Running;
use super::watch::{Scene, Watch};
use crate::dataplane::features::names;
use crate::dataplane::maps::LiveMaps;
use crate::names::Names;
use crate::net::{self, mac_text};
use crate::report::{self, Absence, Admin, Counters, HealthState, NamedCount, NextHop, Status};

/// What the daemon knows beside the node.
#[derive(Debug)]
pub struct About<'a> {
    pub revision: u64,
    pub started: Instant,
    pub interfaces: &'a [report::Interface],
    pub freezes: &'a Freezes,
    pub names: &'a Names,
    pub watch: &'a Watch,
}

/// The whole status.
#[must_use]
pub fn status(node: &Node, about: &About<'_>) -> Status {
    let services: Vec<report::Service> =
        node.services.iter().map(|running| service(about, node, running)).collect();
    let mut counters = counters(&node.arena.maps);
    counters.sent += node.arena.maps.sent(node.arena.rows_used());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: about.revision,
        uptime_ms: milliseconds(about.started.elapsed()),
        interfaces: about.interfaces.to_vec(),
        features: names(node.arena.maps.settings().features).map(String::from).collect(),
        warnings: about.watch.warnings(Scene {
            node,
            interfaces: about.interfaces,
            freezes: about.freezes,
            names: about.names,
        }),
        services,
        counters,
    }
}

fn service(about: &About<'_>, node: &Node, running: &Running) -> report::Service {
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
        panic: panic(running),
        uses_backups: running.governor.uses_backups(),
        frozen: about.freezes.of(&running.config.name).cloned(),
        backends_serving: u32::try_from(running.serving()).unwrap_or(u32::MAX),
        backends_total: u32::try_from(running.backends.len()).unwrap_or(u32::MAX),
        packets: backends.iter().map(|b| b.packets).sum(),
        bytes: backends.iter().map(|b| b.bytes).sum(),
        new_flows,
        backends,
    }
}

fn panic(running: &Running) -> Option<report::Panic> {
    let counts = running.governor.last_counts();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    running.governor.panic_since().map(|since| report::Panic {
        since_ms: milliseconds(clock::now().saturating_duration_since(since)),
        counted: number(counts.counted),
        failing: number(counts.failing),
        may_be_out: number(counts.most),
    })
}

fn backend(node: &Node, running: &Running, backend: &Backend, total: u64) -> report::Backend {
    let maps = &node.arena.maps;
    let counted = running.counted(maps, backend);
    let new_flows = counted.new_flows;
    let share = if total == 0 { 0.0 } else { new_flows as f64 / total as f64 };
    let now = clock::now();
    report::Backend {
        name: backend.config.name.clone(),
        address: Some(backend.config.address).filter(|_| backend.config.is_placed()),
        host: backend.config.host.as_ref().map(ToString::to_string),
        port: backend.config.port,
        weight: backend.config.weight,
        health: backend.health.report(now, backend.detection),
        admin: admin(backend, epoch_ms()),
        state: backend.state(),
        backup: backend.config.backup,
        excluded: excluded(backend),
        kept: backend.ruling.kept.map(|kept| kept.to_string()),
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

fn admin(backend: &Backend, now_ms: u64) -> Admin {
    let Some(drain) = &backend.drain else { return Admin::Ready };
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let absence = Absence {
        reason: drain.reason.clone(),
        actor: drain.actor.clone(),
        since_ms: now_ms.saturating_sub(drain.at_ms),
        ends_in_ms: drain.until_ms.map(|until| signed(until) - signed(now_ms)),
    };
    if drain.maintenance { Admin::Maintenance(absence) } else { Admin::Drain(absence) }
}

/// Why a backend takes no new flows, if it takes none: each has a reason.
fn excluded(backend: &Backend) -> Option<String> {
    if backend.admission.phase().takes_new() {
        return None;
    }
    let failure = backend.health.last_failure.as_ref().map(|last| last.failure.text.as_str());
    Some(match (&backend.drain, backend.health.state) {
        (Some(drain), _) => {
            let what = if drain.maintenance { "in maintenance" } else { "drained" };
            let reason = drain.reason.as_ref().map(|reason| format!(": {reason}"));
            format!("{what} by {}{}", drain.actor, reason.unwrap_or_default())
        }
        (None, HealthState::Down) => failure.unwrap_or("its probes fail").to_owned(),
        (None, HealthState::Unknown) => match &backend.health.unprobed {
            Some(unprobed) => format!("its probes cannot be made: {}", unprobed.failure.detail()),
            None => "its probes have not passed yet".to_owned(),
        },
        (None, HealthState::Up) if backend.ruling.is_standby => {
            "a backup: enough of the others are well".to_owned()
        }
        (None, HealthState::Up) => "health is frozen since before it was up".to_owned(),
    })
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
        Some(Err(_)) | None => NextHop { problem: hop_problem(node, backend), ..none },
    }
}

/// Why there is no next hop, if there is none.
pub(super) fn hop_problem(node: &Node, backend: &Backend) -> Option<String> {
    if !backend.config.is_placed() {
        return None;
    }
    match node.servers.hop(backend.config.address, backend.mode) {
        Some(Ok(_)) => None,
        Some(Err(problem)) => Some(problem.to_string()),
        None => Some("not resolved yet".into()),
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

/// Whole milliseconds of a time.
#[must_use]
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
