//! The node: desired configuration in, maps out.
//!
//! Level-triggered and idempotent: [`Node::apply`] compares what is wanted with what runs and
//! changes the difference; probes, next hops and the clock steer words. It blocks for no longer
//! than a few memory writes; what needs a grace period is set aside until [`Node::rested`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::health::{HealthSnapshot, HealthState};
use super::servers::Servers;
use super::service::{Backend, Drain, NewBackend, Running, is_probed, key_of};
use super::sweep::{FlowsFound, NatFound, Swept};
use super::tables::{Arena, Discarded};
use crate::config::model::{self, Config, Mode};
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::services::Key;
use crate::net::{HopProblem, NextHop, Resolver};
use crate::probe::{ProbeEvent, Prober};

/// Drains by service and backend name: what the operator wants beside the configuration.
pub type Drains = HashMap<(String, String), Drain>;

/// Everything that balances on this machine.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub arena: Arena,
    pub servers: Servers,
    pub services: Vec<Running>,
    prober: Prober,
    resolver: Resolver,
    next_probe: u64,
    discarded: Discarded,
    /// Connections by row, of the last sweep of the NAT table.
    nat_rows: HashMap<u32, u64>,
    /// The last time backends or servers changed.
    changed_at: Instant,
}

/// What was given up and may be taken again after a grace period.
#[derive(Debug)]
pub struct Resting {
    discarded: Discarded,
    places: HashSet<u32>,
}

impl Node {
    /// A node without services.
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>, node: model::Node, prober: Prober, resolver: Resolver) -> Self {
        Self {
            servers: Servers::new(Arc::clone(&maps), node.nat_addresses.clone()),
            arena: Arena::new(maps),
            config: Config { node, services: Vec::new() },
            services: Vec::new(),
            prober,
            resolver,
            next_probe: 0,
            discarded: Discarded::default(),
            nat_rows: HashMap::new(),
            changed_at: Instant::now(),
        }
    }

    /// Makes what runs what is wanted. `first`: at start, where a backend that was not probed yet
    /// takes traffic; later a new one waits for its first success.
    ///
    /// What can be refused is refused before anything changes.
    pub fn apply(&mut self, wanted: &Config, drains: &Drains, first: bool) -> Result<()> {
        ensure!(
            wanted.node == self.config.node,
            "[node] is fixed while the daemon runs: change it in the file and restart `lb run`"
        );
        self.check_room(wanted)?;
        let now = Instant::now();
        self.changed_at = now;
        let stays = |running: &Running| {
            let same = |s: &&model::Service| {
                s.name == running.config.name
                    && s.mode == running.config.mode
                    && running.has_room_for(s.backends.len())
            };
            wanted.services.iter().any(|s| same(&s))
        };
        let (kept, gone) = self.services.drain(..).partition(stays);
        self.services = kept;
        for running in gone {
            running.backends.iter().for_each(|b| self.prober.remove(b.probe));
            let discarded = running.tables.remove(&mut self.arena)?;
            self.discarded.extend(discarded);
        }
        // Frontends that moved between services must go before they come.
        let all: HashSet<Key> =
            wanted.services.iter().flat_map(|s| s.listen.iter().map(key_of)).collect();
        for running in &mut self.services {
            let name = &running.config.name;
            let own = wanted.services.iter().find(|s| s.name == *name);
            let own = own.map_or(&[][..], |s| &s.listen);
            let still: Vec<Key> = running
                .keys()
                .into_iter()
                .filter(|key| all.contains(key) && own.iter().map(key_of).any(|k| k == *key))
                .collect();
            running.tables.listen(&mut self.arena, &still)?;
        }
        for service in &wanted.services {
            match self.services.iter().position(|r| r.config.name == service.name) {
                Some(at) => self.change(at, service, drains, now)?,
                None => self.add(service, drains, first, now)?,
            }
        }
        let order = |r: &Running| wanted.services.iter().position(|s| s.name == r.config.name);
        self.services.sort_by_key(order);
        self.config = wanted.clone();
        self.mark_addresses()
    }

    /// Drains or readies a backend. Whether it exists.
    pub fn set_drain(&mut self, service: &str, name: &str, drain: Option<Drain>) -> Result<bool> {
        let Some((s, b)) = self.locate(service, name) else { return Ok(false) };
        self.services[s].backends[b].drain = drain;
        self.services[s].steer(&mut self.arena, b, Instant::now())?;
        Ok(true)
    }

    /// Takes a probe's result. The backend, if its traffic changed.
    pub fn on_probe(&mut self, event: ProbeEvent) -> Result<Option<(String, String)>> {
        let found = self.services.iter().enumerate().find_map(|(s, running)| {
            let b = running.backends.iter().position(|b| b.probe == event.key)?;
            Some((s, b))
        });
        // Events of a backend that was just removed may still arrive.
        let Some((s, b)) = found else { return Ok(None) };
        let running = &mut self.services[s];
        running.backends[b].health = event.snapshot;
        let steered = running.steer(&mut self.arena, b, Instant::now())?;
        let backend = &mut running.backends[b];
        if let Some(transition) = event.transition
            && transition.to == HealthState::Down
        {
            backend.detection = Some(transition.first.elapsed());
        }
        let names = (running.config.name.clone(), backend.config.name.clone());
        Ok(steered.then_some(names))
    }

    /// Takes a next hop.
    pub fn on_next_hop(&mut self, server: IpAddr, hop: Result<NextHop, HopProblem>) -> Result<()> {
        if self.servers.set_hop(server, hop)? {
            self.mark_addresses()?;
        }
        Ok(())
    }

    /// Settles what is due.
    pub fn on_clock(&mut self) -> Result<()> {
        let now = Instant::now();
        self.services.iter_mut().try_for_each(|r| r.settle(&mut self.arena, now).map(drop))
    }

    /// When [`Self::on_clock`] has something to do.
    #[must_use]
    pub fn next_clock(&self) -> Option<Instant> {
        self.services.iter().filter_map(Running::settles_at).min()
    }

    /// What waits for a grace period, if anything does.
    pub fn take_resting(&mut self) -> Option<Resting> {
        let places = self.arena.records.resting();
        let discarded = std::mem::take(&mut self.discarded);
        (!places.is_empty() || !discarded.is_empty()).then_some(Resting { discarded, places })
    }

    /// A grace period has passed since [`Self::take_resting`].
    pub fn rested(&mut self, resting: Resting) {
        self.arena.records.rested(&resting.places);
        self.arena.give_back(resting.discarded);
    }

    /// The services whose recorded flows must be swept, by frontend.
    #[must_use]
    pub fn to_sweep(&self) -> Option<HashMap<Key, Swept>> {
        if !self.services.iter().any(Running::needs_sweep) {
            return None;
        }
        let dsr = self.services.iter().filter(|r| r.config.mode == Mode::Dsr);
        let by_key = dsr.flat_map(|r| {
            let swept = r.swept();
            r.keys().into_iter().map(move |key| (key, swept.clone()))
        });
        Some(by_key.collect())
    }

    /// Applies a sweep of the flow table.
    pub fn swept(&mut self, mut found: HashMap<String, FlowsFound>) -> Result<()> {
        for running in &mut self.services {
            if let Some(found) = found.remove(&running.config.name) {
                running.apply_sweep(&mut self.arena, found)?;
            }
        }
        Ok(())
    }

    /// How long connections to each row may be idle.
    #[must_use]
    pub fn idle_by_row(&self) -> HashMap<u32, Duration> {
        let rows = |r: &Running| {
            let idle = r.config.idle_timeout;
            let first = r.tables.row(0);
            let count = u32::try_from(r.tables.capacity()).unwrap_or_default();
            (first..first + count).map(move |row| (row, idle)).collect::<Vec<_>>()
        };
        self.services.iter().filter(|r| r.config.mode == Mode::Nat).flat_map(rows).collect()
    }

    /// Applies a sweep of the NAT table that began at `began`, and frees what nothing holds.
    pub fn nat_swept(&mut self, found: NatFound, began: Instant) {
        self.nat_rows = found.rows;
        let nat = &self.nat_rows;
        let now = Instant::now();
        for running in &mut self.services {
            if running.config.mode == Mode::Nat {
                running.flows = nat.clone();
            }
            let flows = running.flows.clone();
            running.free_retired(now, |row| flows.contains_key(&row) || nat.contains_key(&row));
        }
        // Not what a packet may hold that is under way: a sweep takes far longer than one.
        if began > self.changed_at {
            self.forget_servers();
        }
    }

    /// A backend by its names.
    #[must_use]
    pub fn locate(&self, service: &str, name: &str) -> Option<(usize, usize)> {
        let s = self.services.iter().position(|r| r.config.name == service)?;
        let b = self.services[s].backends.iter().position(|b| b.config.name == name)?;
        Some((s, b))
    }

    fn add(
        &mut self,
        service: &model::Service,
        drains: &Drains,
        first: bool,
        now: Instant,
    ) -> Result<()> {
        let mut backends = Vec::new();
        for backend in &service.backends {
            backends.push(self.new_backend(service, backend, drains, first, now)?);
        }
        let mut running = Running::new(&mut self.arena, service.clone(), backends, now)?;
        running.tables.listen(&mut self.arena, &running.keys())?;
        self.services.push(running);
        Ok(())
    }

    fn change(
        &mut self,
        at: usize,
        service: &model::Service,
        drains: &Drains,
        now: Instant,
    ) -> Result<()> {
        let old = self.services[at].config.clone();
        let mut rebuild = false;
        for backend in &old.backends {
            if !service.backends.iter().any(|b| b.name == backend.name) {
                let probe = self.services[at].retire(&mut self.arena, &backend.name, now)?;
                probe.into_iter().for_each(|key| self.prober.remove(key));
                rebuild = true;
            }
        }
        self.services[at].config = service.clone();
        for backend in &service.backends {
            let existing = old.backends.iter().find(|b| b.name == backend.name);
            let Some(existing) = existing else {
                let new = self.new_backend(service, backend, drains, false, now)?;
                self.services[at].add(&mut self.arena, new, now)?;
                rebuild = true;
                continue;
            };
            rebuild |= existing.weight != backend.weight;
            if existing.address != backend.address {
                let server = self.server(backend.address)?;
                self.services[at].replace(&mut self.arena, &backend.name, server)?;
            }
            self.reconfigure(at, service, backend)?;
        }
        let running = &mut self.services[at];
        running.tables.listen(&mut self.arena, &running.keys())?;
        if rebuild {
            let discarded = running.rebuild(&mut self.arena)?;
            self.discarded.extend(discarded);
        }
        Ok(())
    }

    fn reconfigure(
        &mut self,
        at: usize,
        service: &model::Service,
        config: &model::Backend,
    ) -> Result<()> {
        let running = &mut self.services[at];
        let Some(b) = running.backends.iter().position(|b| b.config.name == config.name) else {
            return Ok(());
        };
        running.backends[b].config = config.clone();
        running.write_port(&self.arena, &running.backends[b])?;
        let key = running.backends[b].probe;
        self.prober.update(key, probe_target(service, config), service.health.clone());
        Ok(())
    }

    fn new_backend(
        &mut self,
        service: &model::Service,
        backend: &model::Backend,
        drains: &Drains,
        first: bool,
        now: Instant,
    ) -> Result<NewBackend> {
        let server = self.server(backend.address)?;
        let probe = self.next_probe;
        self.next_probe += 1;
        let health = if is_probed(service) {
            let target = probe_target(service, backend);
            self.prober.spawn(probe, target, service.health.clone(), HealthState::Unknown)
        } else {
            HealthSnapshot::initial(HealthState::Up, now)
        };
        let drain = drains.get(&(service.name.clone(), backend.name.clone())).cloned();
        let wait_for_health = !first;
        Ok(NewBackend { config: backend.clone(), probe, server, drain, health, wait_for_health })
    }

    fn server(&mut self, address: IpAddr) -> Result<u32> {
        let (id, new) = self.servers.id(address)?;
        if new {
            self.resolver.add(address);
        }
        Ok(id)
    }

    /// Refuses what would not fit, before anything is changed.
    fn check_room(&self, wanted: &Config) -> Result<()> {
        let maps = &self.arena.maps;
        let mut servers: BTreeSet<IpAddr> = BTreeSet::new();
        for service in &wanted.services {
            servers.extend(service.backends.iter().map(|b| b.address));
        }
        servers
            .extend(self.config.services.iter().flat_map(|s| s.backends.iter().map(|b| b.address)));
        if servers.len() > maps.servers.len() as usize {
            bail!(
                "{} servers, old and new together, but there is room for {}: raise \
                 `limits.servers` and restart",
                servers.len(),
                maps.servers.len()
            );
        }
        self.arena.check_room(wanted.services.iter().map(|service| {
            let running = self.services.iter().find(|r| r.config.name == service.name);
            let stays = running.is_some_and(|r| {
                r.config.mode == service.mode && r.has_room_for(service.backends.len())
            });
            let changes = running.is_none_or(|r| r.config.backends != service.backends);
            (service.backends.len(), stays, changes)
        }))
    }

    fn mark_addresses(&mut self) -> Result<()> {
        let vips = self.config.services.iter().flat_map(|s| s.listen.iter().map(|f| f.address));
        self.servers.mark_addresses(&mut self.arena.records, &vips.collect())
    }

    /// Forgets servers that no backend, running or retired, has any more.
    fn forget_servers(&mut self) {
        let running = self.services.iter();
        let used: BTreeSet<u32> = running
            .flat_map(|r| {
                let retired = r.retired_servers();
                r.backends.iter().map(|b: &Backend| b.server).chain(retired)
            })
            .collect();
        for server in self.servers.keep(&used) {
            self.resolver.remove(server);
        }
    }
}

/// Where a backend is probed.
fn probe_target(service: &model::Service, backend: &model::Backend) -> SocketAddr {
    let listen = service.listen.first().map_or(0, |frontend| frontend.port);
    let port = service.health.port.or(backend.port).unwrap_or(listen);
    SocketAddr::new(backend.address, port)
}
