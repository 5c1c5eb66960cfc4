//! The daemon's half: the control plane's own code on simulated time, with grace periods and
//! sweeps that take their while, as in the control loop.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::abi::ServiceRecord;

use super::random::Random;
use super::wire;
use crate::config::model::{self, HashPolicy, Mode};
use crate::control::backend::{Backend, NewBackend};
use crate::control::health::{Failure, FailureKind, HealthSnapshot, HealthState, LastFailure};
use crate::control::rules::{Rule, keep};
use crate::control::server_ids::ServerIds;
use crate::control::servers::Servers;
use crate::control::service::Running;
use crate::control::sweep::{self, FlowsFound, NatFound, Swept};
use crate::control::tables::{Arena, Discarded};
use crate::dataplane::frontends::{Listener, Plan};
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::memory;
use crate::net::{NextHop, Remote};

/// A millisecond, in the simulation's unit.
pub(super) const MS: u64 = 1000;
/// A second.
pub(super) const SECOND: u64 = 1000 * MS;

/// The program's clock does not begin at zero.
const UPTIME: u64 = 1000 * SECOND;

/// The first address that NAT uses; not a server's.
const NAT: [u8; 4] = [203, 0, 113, 1];

/// How the daemon finds a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    Soft,
    Hard,
}

pub(super) struct Daemon {
    pub(super) maps: Arc<LiveMaps>,
    pub(super) arena: Arena,
    pub(super) services: Vec<Running>,
    /// No packet reads what was before this position any more.
    pub(super) floor: u64,
    servers: Servers,
    server_ids: ServerIds,
    start: Instant,
    discarded: Discarded,
    grace: Option<Grace>,
    sweep: Sweep,
    nat_rows: HashMap<u32, u64>,
    changed_at: u64,
    /// When services next settle something.
    settles_at: u64,
    random: Random,
    pub(super) swept: u64,
}

struct Grace {
    due: u64,
    position: u64,
    discarded: Discarded,
    places: HashSet<u32>,
}

enum Sweep {
    Idle { due: u64 },
    Waiting { due: u64, began: u64, position: u64, services: Option<HashMap<u32, Swept>> },
    Done { due: u64, began: u64, flows: Option<HashMap<String, FlowsFound>>, nat: NatFound },
}

impl Daemon {
    pub(super) fn new(seed: u64, flows: u32, slots_for: fn(usize) -> u32) -> Self {
        let maps = Arc::new(LiveMaps::in_memory(memory::settings(seed), flows, 1 << 20).unwrap());
        let mut arena = Arena::new(Arc::clone(&maps));
        arena.slots_for = slots_for;
        let daemon = Self {
            servers: Servers::new(Arc::clone(&maps), &model::Node::default()),
            server_ids: ServerIds::new(Arc::clone(&maps)),
            maps,
            arena,
            services: Vec::new(),
            floor: memory::position(),
            start: Instant::now(),
            discarded: Discarded::default(),
            grace: None,
            sweep: Sweep::Idle { due: SECOND },
            nat_rows: HashMap::new(),
            changed_at: 0,
            settles_at: u64::MAX,
            random: Random::new(seed ^ 0xdae),
            swept: 0,
        };
        daemon.set_clock(0);
        daemon
    }

    pub(super) fn set_clock(&self, now: u64) {
        memory::set_clock(Duration::from_micros(UPTIME + now));
    }

    /// Milliseconds of the program's clock.
    pub(super) fn program_ms(now: u64) -> u64 {
        (UPTIME + now) / MS
    }

    fn at(&self, now: u64) -> Instant {
        self.start + Duration::from_micros(now)
    }

    /// Makes services, all of whose backends take traffic.
    pub(super) fn start(&mut self, services: &[model::Service]) {
        for service in services {
            let new = service.backends.iter().map(|b| self.new_backend(service.mode, b, None, 0));
            let new = new.map(|new| NewBackend { wait_for_health: false, ..new }).collect();
            let now = self.at(0);
            let mut running =
                Running::new(&mut self.arena, Arc::new(service.clone()), new, now).unwrap();
            running.listen(&mut self.arena).unwrap();
            // Else nothing would be known that takes a drained one back.
            for backend in &mut running.backends {
                backend.health = HealthSnapshot::initial(HealthState::Up, now);
            }
            self.services.push(running);
        }
        let listeners: Vec<Listener> = services
            .iter()
            .enumerate()
            .flat_map(|(at, service)| {
                let keeps_fragments = service.hash != HashPolicy::Flow;
                let listens = service.listen.iter();
                listens.map(move |f| Listener { frontend: *f, service: at, keeps_fragments })
            })
            .collect();
        let none: ServiceRecord = bytemuck::Zeroable::zeroed();
        let record = |at: usize| self.services.get(at).map_or(none, |r| r.tables.record());
        let wanted = Plan::of(&listeners).wanted(record);
        self.arena.records.sync(&wanted).unwrap();
        self.server_ids.sync(&self.services).unwrap();
        self.mark_addresses();
    }

    fn mark_addresses(&mut self) {
        self.arena.records.set_nat_addresses(&self.servers.nat_sources()).unwrap();
    }

    fn new_backend(
        &mut self,
        mode: Mode,
        config: &Arc<model::Backend>,
        before: Option<&Backend>,
        now: u64,
    ) -> NewBackend {
        let IpAddr::V4(address) = config.address else { unreachable!() };
        let (server, _) = self.servers.id(config.address, mode).unwrap();
        let mut destination_mac = [2, 0, 0, 0, 0, 0];
        destination_mac[2..]
            .copy_from_slice(&(u32::from(address) - u32::from(wire::address(0))).to_be_bytes());
        let hop = Remote {
            ifindex: 3,
            vlan: 0,
            interface: "eth0".into(),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac,
            via: None,
            source: NAT.into(),
            mtu: 1500,
        };
        self.servers.set_hop(config.address, Ok(NextHop::Remote(hop))).unwrap();
        let unknown = HealthSnapshot::initial(HealthState::Unknown, self.at(now));
        NewBackend {
            config: Arc::clone(config),
            probe: 0,
            server,
            drain: before.and_then(|b| b.drain.clone()),
            before: before.filter(|b| b.config.address == config.address).map(Backend::hand_on),
            health: before
                .filter(|b| b.config.address == config.address)
                .map_or(unknown, |b| b.health.clone()),
            wait_for_health: true,
        }
    }

    /// Makes a service what is wanted, as [`crate::control::node::Node::apply`] does.
    pub(super) fn apply(&mut self, at: usize, wanted: &model::Service, now: u64) {
        self.changed_at = now;
        let mut running = self.services.remove(at);
        let known = &running.backends;
        let new: Vec<NewBackend> = wanted
            .backends
            .iter()
            .filter(|w| !known.iter().any(|b| b.stays_as(w, wanted.mode)))
            .map(|w| {
                let before = known.iter().find(|b| b.config.name == w.name);
                self.new_backend(wanted.mode, w, before, now)
            })
            .collect();
        let instant = self.at(now);
        self.mark_addresses();
        let (_, discarded) =
            running.change(&mut self.arena, &Arc::new(wanted.clone()), new, instant).unwrap();
        self.discarded.extend(discarded);
        self.services.insert(at, running);
        self.server_ids.sync(&self.services).unwrap();
        self.mark_addresses();
        self.begin_grace(now);
    }

    pub(super) fn probe(&mut self, at: usize, name: &str, health: Health, now: u64) {
        let instant = self.at(now);
        let running = &mut self.services[at];
        let Some(b) = running.position(name) else { return };
        let state = if health == Health::Up { HealthState::Up } else { HealthState::Down };
        let mut snapshot = HealthSnapshot::initial(state, instant);
        if health != Health::Up {
            let kind = match health {
                Health::Soft => FailureKind::HttpStatus,
                _ => FailureKind::Refused,
            };
            let failure = Failure::new(kind, "simulated");
            let last = LastFailure { failure, at: instant, latency: Duration::ZERO };
            snapshot.last_failure = Some(last.into());
        }
        running.backends[b].health = snapshot;
        running.steer(&mut self.arena, b, instant).unwrap();
        self.begin_grace(now);
    }

    pub(super) fn drain(&mut self, at: usize, name: &str, is_drained: bool, now: u64) {
        let instant = self.at(now);
        let running = &mut self.services[at];
        let Some(b) = running.position(name) else { return };
        let drain = crate::control::backend::Drain {
            reason: None,
            actor: "simulation".into(),
            at_ms: crate::control::clock::epoch_ms(),
            until_ms: None,
            maintenance: false,
        };
        running.backends[b].drain = is_drained.then_some(drain.into());
        running.steer(&mut self.arena, b, instant).unwrap();
        self.begin_grace(now);
    }

    /// What follows from any change.
    fn begin_grace(&mut self, now: u64) {
        let settles = self.services.iter().filter_map(Running::settles_at).min();
        self.settles_at = settles
            .map_or(u64::MAX, |at| at.saturating_duration_since(self.start).as_micros() as u64);
        let places = self.arena.records.resting();
        if self.grace.is_some() || (places.is_empty() && self.discarded.is_empty()) {
            return;
        }
        self.grace = Some(Grace {
            due: now + self.random.between(2, 60) * MS,
            position: memory::position(),
            discarded: std::mem::take(&mut self.discarded),
            places,
        });
    }

    /// The next sweep begins no later than this.
    pub(super) fn sweep_by(&mut self, at: u64) {
        if let Sweep::Idle { due } = &mut self.sweep {
            *due = at.min(*due);
        }
    }

    /// When the daemon next does something by itself.
    pub(super) fn next(&self, now: u64) -> u64 {
        // The loop's clock ticks in milliseconds, and later rather than sooner.
        let clock = self.settles_at.max(now.saturating_add(MS));
        let sweep = match &self.sweep {
            Sweep::Idle { due } | Sweep::Waiting { due, .. } | Sweep::Done { due, .. } => *due,
        };
        clock.min(sweep).min(self.grace.as_ref().map_or(u64::MAX, |grace| grace.due))
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: u64) {
        let instant = self.at(now);
        if let Some(grace) = self.grace.take_if(|grace| grace.due <= now) {
            self.floor = self.floor.max(grace.position);
            self.arena.give_back(grace.discarded);
            self.arena.records.rested(&grace.places).unwrap();
        }
        for running in &mut self.services {
            let discarded = running.settle(&mut self.arena, instant).unwrap();
            self.discarded.extend(discarded);
        }
        self.tick_sweep(now);
        self.begin_grace(now);
    }

    fn tick_sweep(&mut self, now: u64) {
        let due = |sweep: &Sweep| match sweep {
            Sweep::Idle { due } | Sweep::Waiting { due, .. } | Sweep::Done { due, .. } => *due,
        };
        if due(&self.sweep) > now {
            return;
        }
        let waits = now + self.random.between(1, 60) * MS;
        self.sweep = match std::mem::replace(&mut self.sweep, Sweep::Idle { due: u64::MAX }) {
            Sweep::Idle { .. } => {
                let needed = self.services.iter().any(Running::needs_sweep);
                let services = || self.services.iter().map(|r| (r.tables.number, r.swept()));
                let services = needed.then(|| services().collect());
                let position = memory::position();
                let waits = if keep(Rule::GraceFirst) { waits } else { now };
                Sweep::Waiting { due: waits, began: now, position, services }
            }
            Sweep::Waiting { began, position, services, .. } => {
                if keep(Rule::GraceFirst) {
                    self.floor = self.floor.max(position);
                }
                let flows = services.map(|services| sweep::flows(&self.maps, &services).unwrap());
                self.swept += u64::from(flows.is_some());
                let idle = self
                    .services
                    .iter()
                    .flat_map(|r| r.tables.stretches().map(|rows| (rows, r.config.idle_timeout)))
                    .collect();
                let nat = sweep::nat(&self.maps, &idle, model::Service::IDLE).unwrap();
                Sweep::Done { due: waits, began, flows, nat }
            }
            Sweep::Done { began, flows, nat, .. } => {
                self.apply_sweep(began, flows, nat);
                Sweep::Idle { due: now + SECOND }
            }
        };
    }

    fn apply_sweep(
        &mut self,
        began: u64,
        flows: Option<HashMap<String, FlowsFound>>,
        nat: NatFound,
    ) {
        let began_at = self.at(began);
        let mut flows = flows.unwrap_or_default();
        self.nat_rows = nat.rows;
        for running in &mut self.services {
            if let Some(found) = flows.remove(&running.config.name) {
                running.apply_sweep(&mut self.arena, found, began_at).unwrap();
            }
        }
        for running in &mut self.services {
            let discarded =
                running.free_retired(&mut self.arena, &self.nat_rows, began_at).unwrap();
            self.discarded.extend(discarded);
        }
        self.server_ids.sync(&self.services).unwrap();
        if began > self.changed_at {
            let used: BTreeSet<u32> = self
                .services
                .iter()
                .flat_map(|r| {
                    let retired = r.retired_servers();
                    r.backends.iter().map(|b| b.server).chain(retired)
                })
                .collect();
            let _ = self.servers.keep(&used);
        }
    }
}
