//! What is wrong, as seen by the control loop: views of its services, made from what runs.
//!
//! [`Watch::turn`] looks at a few thousand backends at a time, so that it delays no event by more
//! than a millisecond; a pass over all of them gives one list.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::by_hand::{look_up, probe_by_hand};
use super::clock;
use super::freezes::Freezes;
use super::node::Node;
use super::service::Running;
use super::status::{hop_problem, milliseconds};
use crate::alert::Clock;
use crate::alert::conditions::{
    BackendView, Drained, Flapping, Found, HopProblem, LatencyOff, Panic, ServiceView, ShareOff,
    StaleName, Unprobed,
};
use crate::alert::latency::{self, Usual};
use crate::alert::share::{self, Member, Window};
use crate::config::model::HashPolicy;
use crate::control::health::{HealthState, ProbeResult};
use crate::names::Names;
use crate::report::{BackendState, Freeze, Interface, Warning};

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    pub node: &'a Node,
    pub interfaces: &'a [Interface],
    pub freezes: &'a Freezes,
    pub names: &'a Names,
}

/// Between the beginnings of two passes, and between two turns of one: at least.
const PASS: Duration = Duration::from_secs(1);
const TURN: Duration = Duration::from_millis(1);
/// The share of time that looking may take: a large node is looked at less often.
const SHARE_OF_TIME: u32 = 20;
/// Backends of a turn; a service is looked at as a whole.
const BACKENDS: usize = 2_048;
/// A backend is said to flap for so long after its last change.
const FLAPPED: u64 = 60_000;
/// After a change of what is served.
const SOON: Duration = Duration::from_millis(20);

/// What is learnt of backends for as long as they are there, and how far a pass is.
#[derive(Debug)]
pub struct Watch {
    clock: Clock,
    /// By the backend's probe.
    usual: HashMap<u64, Usual>,
    /// By the service's name.
    windows: HashMap<String, Window>,
    next_service: usize,
    /// The configuration that the pass began with.
    revision: u64,
    found: Found,
    next: Instant,
}

impl Watch {
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            usual: HashMap::new(),
            windows: HashMap::new(),
            next_service: 0,
            revision: 0,
            found: Found::default(),
            next: clock::now() + PASS,
        }
    }

    /// When the next turn is due.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Something moved: a pass that waits begins soon.
    pub fn hurry(&mut self) {
        if self.next_service == 0 {
            self.next = self.next.min(clock::now() + SOON);
        }
    }

    /// Learns from a probe's result.
    pub fn on_probe(&mut self, probe: u64, result: Option<&ProbeResult>, at: Instant) {
        let Some(Ok(success)) = result else { return };
        match self.usual.get_mut(&probe) {
            Some(usual) => usual.add(success.latency, at),
            None => drop(self.usual.insert(probe, Usual::new(success.latency, at))),
        }
    }

    /// Looks at the next services; all that is wrong, when that was the last of them.
    pub fn turn(&mut self, at: Scene<'_>, revision: u64) -> Option<Found> {
        let Scene { node, interfaces, .. } = at;
        let began = clock::now();
        if self.next_service == 0 || self.revision != revision {
            // Services may be others, or elsewhere: from the beginning.
            (self.next_service, self.revision) = (0, revision);
            self.found = Found::default();
        }
        let mut backends = 0;
        while backends < BACKENDS
            && let Some(running) = node.services.get(self.next_service)
        {
            backends += running.backends.len();
            self.learn_shares(node, running, began);
            let view = self.service(at, running, began);
            self.found.add_service(&view, self.clock.now());
            self.next_service += 1;
        }
        let rest = clock::now().saturating_duration_since(began) * SHARE_OF_TIME;
        if self.next_service < node.services.len() {
            self.next = clock::now() + rest.max(TURN);
            return None;
        }
        self.next = clock::now() + rest.max(PASS);
        self.next_service = 0;
        self.forget_gone(node);
        let mut found = std::mem::take(&mut self.found);
        found.add_interfaces(interfaces);
        found.sort();
        Some(found)
    }

    /// All that is wrong, at once.
    #[must_use]
    pub fn now(&self, at: Scene<'_>) -> Found {
        let now = clock::now();
        let services = at.node.services.iter().map(|running| self.service(at, running, now));
        crate::alert::conditions(at.interfaces, services, self.clock.now())
    }

    /// The same as `lb status` warns of it, by the clock of the day.
    #[must_use]
    pub fn warnings(&self, at: Scene<'_>) -> Vec<Warning> {
        let mut conditions = self.now(at).conditions;
        for since in conditions.iter_mut().filter_map(|c| c.since_ms.as_mut()) {
            *since = self.clock.epoch_of(*since);
        }
        conditions
    }

    fn service<'a>(&self, scene: Scene<'a>, running: &'a Running, now: Instant) -> ServiceView<'a> {
        let name = running.config.name.as_str();
        let window = self.windows.get(name);
        let backend = |(at, backend): (usize, &'a Backend)| {
            let off = window.and_then(|window| window.off(at));
            self.backend(scene, running, backend, off, now)
        };
        ServiceView {
            name,
            capacity_warning: running.config.capacity_warning,
            panic: running.governor.panic_since().map(|since| {
                let counts = running.governor.last_counts();
                Panic {
                    failing: counts.failing,
                    counted: counts.counted,
                    may_be_out: counts.most,
                    since_ms: milliseconds(now.saturating_duration_since(since)),
                }
            }),
            uses_backups: running.governor.uses_backups(),
            backups_rest_in_ms: running
                .governor
                .backups_rest_at()
                .map(|at| milliseconds(at.saturating_duration_since(now))),
            frozen: scene.freezes.of(name).map(|freeze| Freeze {
                since_ms: self.clock.of_epoch(freeze.since_ms),
                until_ms: self.clock.of_epoch(freeze.until_ms),
                ..freeze.clone()
            }),
            violations: running.violations,
            backends: running.backends.iter().enumerate().map(backend).collect(),
        }
    }

    fn backend<'a>(
        &self,
        Scene { node, names, .. }: Scene<'a>,
        running: &Running,
        backend: &'a Backend,
        share: Option<share::Off>,
        now: Instant,
    ) -> BackendView<'a> {
        let age = |since: Instant| milliseconds(now.saturating_duration_since(since));
        let health = &backend.health;
        let off = self.usual.get(&backend.probe).and_then(Usual::off);
        let is_up = health.state == HealthState::Up;
        let off = off.filter(|_| is_up);
        let flaps = health.falls > 1 && age(health.since) < FLAPPED;
        let is_asked = !is_up || off.is_some() || flaps || health.unprobed.is_some();
        let latency = off.map(|latency::Off { recent_ms, usual_ms, since }| LatencyOff {
            recent_ms,
            usual_ms,
            since_ms: age(since),
        });
        BackendView {
            health: health.state,
            since_ms: age(health.since),
            first_failure: health.first_failure.as_ref().map(|first| first.failure.text.as_str()),
            last_failure: health.last_failure.as_ref().map(|last| last.failure.text.as_str()),
            detection_ms: backend.detection.map(|time| time.as_secs_f64() * 1000.0),
            state: backend.state(),
            by_hand: is_asked.then(|| probe_by_hand(&running.config, &backend.config)).flatten(),
            unprobed: health.unprobed.as_ref().map(|unprobed| Unprobed {
                why: unprobed.failure.detail(),
                since_ms: age(unprobed.since),
            }),
            drained: backend.drain.as_ref().map(|drain| Drained {
                actor: &drain.actor,
                reason: drain.reason.as_deref(),
                at_ms: self.clock.of_epoch(drain.at_ms),
                until_ms: drain.until_ms.map(|end| self.clock.of_epoch(end)),
                maintenance: drain.maintenance,
            }),
            is_backup: backend.config.backup,
            is_standby: backend.ruling.is_standby,
            kept: backend.ruling.kept,
            flapping: flaps.then(|| Flapping {
                falls: health.falls,
                held_ms: health
                    .held_until
                    .map_or(0, |until| milliseconds(until.saturating_duration_since(now))),
            }),
            flows: backend.drain.as_ref().and_then(|_| node.flows(running, backend)),
            hop_problem: hop_problem(node, backend).map(|why| {
                let address = backend.config.address;
                HopProblem { why, by_hand: format!("ip route get {address}; ping -c 3 {address}") }
            }),
            stale_name: stale_name(names, running, backend, now),
            latency,
            share: share.map(|share::Off { share, expected, flows, since }| ShareOff {
                share,
                expected,
                flows,
                since_ms: age(since),
            }),
            ..BackendView::well(&backend.config.name)
        }
    }

    /// Takes the counters of a service's new flows, where they say something.
    fn learn_shares(&mut self, node: &Node, running: &Running, now: Instant) {
        let name = &running.config.name;
        let Some(members) = members(node, running) else {
            self.windows.remove(name);
            return;
        };
        match self.windows.get_mut(name) {
            Some(window) if window.is_of(&members) => window.take(&members, now),
            _ => {
                let window = Window::new(&members, now, running.config.idle_timeout);
                self.windows.insert(name.clone(), window);
            }
        }
    }

    /// Forgets what is gone, once that is a good part of what is known.
    fn forget_gone(&mut self, node: &Node) {
        let much = |known: usize, there: usize| known > there + there / 4 + 64;
        let backends: usize = node.services.iter().map(|running| running.backends.len()).sum();
        if much(self.usual.len(), backends) {
            let there = node.services.iter().flat_map(|r| r.backends.iter().map(|b| b.probe));
            let there: HashSet<u64> = there.collect();
            self.usual.retain(|probe, _| there.contains(probe));
        }
        if much(self.windows.len(), node.services.len()) {
            let there = node.services.iter().map(|r| r.config.name.as_str());
            let there: HashSet<&str> = there.collect();
            self.windows.retain(|name, _| there.contains(name.as_str()));
        }
    }
}

/// What is wrong with the name of a backend that keeps the address it gave before.
fn stale_name<'a>(
    names: &'a Names,
    running: &Running,
    backend: &'a Backend,
    now: Instant,
) -> Option<StaleName<'a>> {
    let host = backend.config.host.as_ref().filter(|_| backend.config.is_placed())?;
    let trouble = names.trouble(&running.config.lookup(&backend.config)?)?;
    Some(StaleName {
        host: host.as_str(),
        address: backend.config.address,
        why: &trouble.why,
        since_ms: milliseconds(now.saturating_duration_since(trouble.since)),
        by_hand: look_up(host, running.config.family_of(&backend.config)),
    })
}

/// What each backend should get of new flows, where that is by chance alone: each flow by itself,
/// and nothing in transition.
fn members(node: &Node, running: &Running) -> Option<Vec<Member>> {
    let config = &running.config;
    let is_settled = |b: &Backend| {
        matches!(b.state(), BackendState::Serving | BackendState::Drained | BackendState::Down)
    };
    if config.hash != HashPolicy::Flow
        || config.quic.is_some()
        || !running.backends.iter().all(is_settled)
    {
        return None;
    }
    let share = |b: &Backend| match b.state() {
        BackendState::Serving => running.tables.share(b.index),
        _ => 0.0,
    };
    let all: f64 = running.backends.iter().map(share).sum();
    let members = running.backends.iter().map(|b| Member {
        key: b.probe,
        expected: share(b) / all,
        new_flows: running.counted(&node.arena.maps, b).new_flows,
    });
    (all > 0.0).then(|| members.collect())
}
