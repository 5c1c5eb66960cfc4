//! The node: desired configuration in, maps out.
//!
//! Level-triggered and idempotent: [`Node::apply`] compares what is wanted with what runs and
//! changes the difference; probes, next hops and the clock steer words. It blocks for no longer
//! than a few memory writes; what needs a grace period is set aside until [`Node::rested`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_common::abi::{FEATURE_NAT, LIST_BLOCK, ServiceRecord};

use super::backend::{Backend, Before, Drain, NewBackend};
use super::clock::{self, epoch_ms};
use super::doubts::Doubts;
use super::health::{Failure, FailureKind, HealthSnapshot, HealthState};
use super::server_ids::ServerIds;
use super::servers::Servers;
use super::service::{Running, is_probed};
use super::status::milliseconds;
use super::sweep::{FlowsFound, IdleByRow, NatFound, Swept};
use super::tables::{Arena, Discarded, Need};
use crate::config::model::{self, Config, HashPolicy, Mode, Prefix, Via};
use crate::dataplane::frontends::{Listener, Plan};
use crate::dataplane::lists::Lists;
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::probe_path::ProbePath;
use crate::net::{HopProblem, NextHop, Resolver, Said};
use crate::probe::{ProbeEvent, Prober, Target, Way};
use crate::store::Down;

/// Drains by service and backend name: what the operator wants beside the configuration.
pub type Drains = HashMap<(String, String), Drain>;

/// Everything that balances on this machine.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub arena: Arena,
    pub servers: Servers,
    lists: Lists,
    server_ids: ServerIds,
    /// Who is kept out of every service.
    blocked: BTreeSet<Prefix>,
    pub services: Vec<Running>,
    prober: Prober,
    resolver: Resolver,
    next_probe: u64,
    /// The way of clients' packets, for probes.
    path: Arc<ProbePath>,
    /// Where the service and backend of each probe were when a configuration was last applied.
    /// Sorted.
    by_probe: Vec<(u64, (u32, u32))>,
    /// When services next settle something, while that is known: each probe result asks.
    settles: Option<Option<Instant>>,
    discarded: Discarded,
    /// What packets said against backends.
    doubts: Doubts,
    /// Connections by row, of the last sweep of the NAT table.
    nat_rows: HashMap<u32, u64>,
    /// The last time backends or servers changed.
    changed_at: Instant,
    /// A governor waits for the prober's test of itself.
    wants_test: bool,
    /// Servers whose link of ours is down.
    blind: HashSet<IpAddr>,
    /// Who was down when the daemon ended, until a backend of that name begins.
    was_down: HashMap<(String, String), Down>,
    /// Servers may be known that no backend has any more, or will be.
    has_former_servers: bool,
}

/// A link that came up needs its neighbours, and perhaps a switch's port, first.
const LINK_SETTLES: Duration = Duration::from_secs(2);

/// Until it comes up: that is told.
const WHILE_DOWN: Duration = Duration::from_secs(24 * 3600);

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
        let path = Arc::new(ProbePath::new(Arc::clone(&maps), node.interfaces.clone()));
        Self {
            servers: Servers::new(Arc::clone(&maps), &node),
            lists: Lists::new(Arc::clone(&maps)),
            server_ids: ServerIds::new(Arc::clone(&maps)),
            blocked: BTreeSet::new(),
            arena: Arena::new(maps),
            config: Config { node, alerts: Vec::new(), services: Vec::new() },
            services: Vec::new(),
            prober,
            resolver,
            path,
            next_probe: 0,
            by_probe: Vec::new(),
            settles: None,
            discarded: Discarded::default(),
            doubts: Doubts::default(),
            nat_rows: HashMap::new(),
            changed_at: clock::now(),
            wants_test: false,
            blind: HashSet::new(),
            was_down: HashMap::new(),
            has_former_servers: false,
        }
    }

    /// The way of clients' packets, for probes: closed at first.
    #[must_use]
    pub fn path(&self) -> Arc<ProbePath> {
        Arc::clone(&self.path)
    }

    /// Takes who was down when the daemon ended: they begin as that.
    pub fn inherit(&mut self, down: Vec<Down>) {
        let key = |down: &Down| (down.service.clone(), down.backend.clone());
        self.was_down = down.into_iter().map(|down| (key(&down), down)).collect();
    }

    /// Who is down.
    #[must_use]
    pub fn who_is_down(&self) -> Vec<Down> {
        let now = clock::now();
        let is_down = |b: &&Backend| b.health.state == HealthState::Down && b.config.is_placed();
        let of = |running: &Running, backend: &Backend| Down {
            service: running.config.name.clone(),
            backend: backend.config.name.clone(),
            address: backend.config.address,
            since_ms: epoch_ms().saturating_sub(milliseconds(now - backend.health.since)),
            is_hard: backend.health.is_hard(),
            failure: backend.health.last_failure.as_ref().map(|last| last.failure.text.clone()),
        };
        let services = self.services.iter();
        services.flat_map(|r| r.backends.iter().filter(is_down).map(|b| of(r, b))).collect()
    }

    /// Refuses what [`Self::apply`] would.
    pub fn check(&self, wanted: &Config) -> Result<()> {
        ensure!(
            wanted.node == self.config.node,
            "[node] is fixed while the daemon runs: change it in the file and restart `lb run`"
        );
        self.check_room(wanted)
    }

    /// Makes what runs what is wanted. `first`: at start, where a backend that was not probed yet
    /// takes traffic; later a new one waits for its first success.
    ///
    /// What can be refused is refused before anything changes.
    pub fn apply(&mut self, wanted: &Config, drains: &Drains, first: bool) -> Result<()> {
        self.check(wanted)?;
        let now = clock::now();
        self.changed_at = now;
        self.has_former_servers = true;
        self.settles = None;
        let (kept, gone): (Vec<_>, Vec<_>) = self
            .services
            .drain(..)
            .partition(|running| wanted.services.iter().any(|service| continues(running, service)));
        self.services = kept;
        for service in &wanted.services {
            match self.services.iter().position(|r| continues(r, service)) {
                Some(at) => self.change(at, service, drains, now)?,
                None => self.add(service, drains, first, now)?,
            }
        }
        self.server_ids.sync(&self.services)?;
        let services = wanted.services.iter().enumerate();
        let order: HashMap<&str, usize> = services.map(|(at, s)| (s.name.as_str(), at)).collect();
        self.services.sort_by_key(|running| order.get(running.config.name.as_str()).copied());
        self.mark_addresses()?;
        let none: ServiceRecord = bytemuck::Zeroable::zeroed();
        let record = |service: usize| self.services.get(service).map(|r| r.tables.record());
        let records = plan_of(wanted).wanted(|service| record(service).unwrap_or(none));
        self.arena.records.sync(&records)?;
        for running in &self.services {
            self.lists.set(running.tables.number, &allowed(&running.config))?;
        }
        for running in gone {
            running.backends.iter().for_each(|b| self.prober.remove(b.probe));
            self.lists.set(running.tables.number, &BTreeSet::new())?;
            let discarded = running.tables.remove(&mut self.arena)?;
            self.discarded.extend(discarded);
        }
        self.by_probe = self.services.iter().enumerate().flat_map(probes_of).collect();
        self.by_probe.sort_unstable();
        self.config = wanted.clone();
        self.arena.applied();
        self.note_tests();
        Ok(())
    }

    /// Keeps just these out of every service. What does not fit is refused before anything changes.
    pub fn set_blocked(&mut self, blocked: BTreeSet<Prefix>) -> Result<()> {
        self.lists.check_room(self.lists.missing(Some(LIST_BLOCK), &blocked))?;
        // The list is there before anybody asks it, and until nobody does.
        self.lists.add(LIST_BLOCK, &blocked)?;
        for running in &mut self.services {
            running.set_block_list(&mut self.arena, !blocked.is_empty())?;
        }
        self.lists.set(LIST_BLOCK, &blocked)?;
        self.blocked = blocked;
        Ok(())
    }

    /// Drains or readies a backend. Whether it exists.
    pub fn set_drain(&mut self, service: &str, name: &str, drain: Option<Drain>) -> Result<bool> {
        let Some((s, b)) = self.locate(service, name) else { return Ok(false) };
        self.settles = None;
        self.services[s].backends[b].drain = drain.map(Box::new);
        self.services[s].steer(&mut self.arena, b, clock::now())?;
        self.note_tests();
        Ok(true)
    }

    /// The clock of the day was set: nothing changes but what is shown of it.
    pub fn move_along(&mut self, by_ms: i64) {
        let backends = self.services.iter_mut().flat_map(|running| &mut running.backends);
        for drain in backends.filter_map(|backend| backend.drain.as_mut()) {
            drain.move_along(by_ms);
        }
    }

    /// Takes a probe's result. The places of service and backend, if that one's traffic changed.
    pub fn on_probe(&mut self, event: ProbeEvent) -> Result<Option<(usize, usize)>> {
        // Events of a backend that was just removed may still arrive.
        let Some((s, b)) = self.probed(event.key) else { return Ok(None) };
        let now = clock::now();
        let running = &mut self.services[s];
        running.backends[b].health = event.snapshot;
        let rulings = running.rulings;
        let steered = running.steer(&mut self.arena, b, now);
        self.wants_test |= running.governor.wants_test();
        if running.rulings != rulings || !matches!(steered, Ok(false)) {
            // Not all services are asked again: one that was to settle earlier is asked in vain.
            self.settles = self.settles.map(|at| at.into_iter().chain(running.settles_at()).min());
        }
        let steered = steered?;
        let backend = &mut running.backends[b];
        if let Some(transition) = event.transition
            && transition.to == HealthState::Down
        {
            // Of one that took traffic; another was not taken out.
            backend.detection = steered.then(|| now.saturating_duration_since(transition.first));
        }
        Ok(steered.then_some((s, b)))
    }

    /// Whether a governor waits for the prober's test of itself.
    #[must_use]
    pub fn wants_test(&self) -> bool {
        self.wants_test
    }

    fn note_tests(&mut self) {
        self.wants_test = self.services.iter().any(|r| r.governor.wants_test());
    }

    /// The prober has tested itself: where it passed, those that wait for it decide.
    pub fn on_self_test(&mut self, has_passed: bool) -> Result<()> {
        self.settles = None;
        let now = clock::now();
        for running in self.services.iter_mut().filter(|r| r.governor.wants_test()) {
            if has_passed {
                running.tested(&mut self.arena, now)?;
            }
        }
        self.note_tests();
        Ok(())
    }

    /// Keeps the health of these services as it is, and lets that of all others act.
    pub fn set_frozen(&mut self, is_frozen: impl Fn(&str) -> bool) -> Result<()> {
        self.settles = None;
        let now = clock::now();
        for running in &mut self.services {
            let is_frozen = is_frozen(&running.config.name);
            if running.is_frozen() != is_frozen {
                running.freeze(&mut self.arena, is_frozen, now)?;
            }
        }
        self.note_tests();
        Ok(())
    }

    /// Says why backends are nowhere whose name has no address.
    pub fn explain_nowhere(&mut self, why: impl Fn(&model::Lookup) -> Failure) {
        for running in &mut self.services {
            for backend in running.backends.iter_mut().filter(|b| !b.config.is_placed()) {
                let Some(lookup) = running.config.lookup(&backend.config) else { continue };
                let since = backend.health.since;
                backend.health = HealthSnapshot::nowhere(why(&lookup), since);
            }
        }
    }

    /// Something other than a probe says that a server may be gone: its backends are probed now.
    pub fn suspect(&self, server: IpAddr) {
        let backends = self.services.iter().flat_map(|running| &running.backends);
        for backend in backends.filter(|b| b.config.address == server) {
            self.prober.hurry(backend.probe);
        }
    }

    /// Whether packets may have spoken against backends.
    #[must_use]
    pub fn hears_doubts(&self) -> bool {
        self.arena.maps.settings().features & FEATURE_NAT != 0 || self.doubts.has_unreachable()
    }

    /// Has those probed now that packets spoke against since the last time.
    pub fn on_doubts(&mut self) {
        let words = &self.arena.maps.doubts;
        let words = (0..words.len()).filter_map(|place| words.get(place));
        let rows = self.doubts.read(words, clock::now());
        self.hurry(rows.iter().filter_map(|row| self.backend_of(*row)));
        let unreachable = self.doubts.take_unreachable();
        if !unreachable.is_empty() {
            let all = self.services.iter().flat_map(|r| r.backends.iter().map(move |b| (r, b)));
            self.hurry(all.filter(|(_, b)| unreachable.contains(&b.config.address)));
        }
    }

    /// Has those backends probed now that are not known to be down.
    fn hurry<'n>(&self, doubted: impl Iterator<Item = (&'n Running, &'n Backend)>) {
        for (running, backend) in doubted.filter(|(_, b)| b.health.state != HealthState::Down) {
            let (service, name) = (&running.config.name, &backend.config.name);
            tracing::debug!(%service, backend = %name, "doubted by packets; probed now");
            self.prober.hurry(backend.probe);
        }
    }

    /// Whose row it is.
    fn backend_of(&self, row: u32) -> Option<(&Running, &Backend)> {
        let has = |running: &&Running| running.tables.stretches().any(|rows| rows.contains(&row));
        let running = self.services.iter().find(has)?;
        let is_its = |b: &&Backend| running.tables.rows(b.index).any(|its| its == row);
        running.backends.iter().find(is_its).map(|backend| (running, backend))
    }

    /// While our own link is down, and until what it did to probes is over, its servers cannot be
    /// judged.
    fn note_blind(&mut self, server: IpAddr, is_link_down: bool) -> Result<()> {
        let now = clock::now();
        for running in &mut self.services {
            let health = &running.config.health;
            let over = now + health.interval + health.timeout + LINK_SETTLES;
            let until = if is_link_down { now + WHILE_DOWN } else { over };
            let mut any = false;
            for backend in running.backends.iter_mut().filter(|b| b.config.address == server) {
                backend.blind_until = Some(until);
                any = true;
            }
            if any {
                self.settles = None;
                running.judge(&mut self.arena, now)?;
            }
        }
        self.note_tests();
        Ok(())
    }

    /// Takes a next hop.
    pub fn on_next_hop(&mut self, server: IpAddr, hop: Result<NextHop, HopProblem>) -> Result<()> {
        match &hop {
            Err(HopProblem::LinkDown { .. }) if self.blind.insert(server) => {
                self.note_blind(server, true)?;
            }
            Ok(_) if self.blind.remove(&server) => self.note_blind(server, false)?,
            _ => {}
        }
        if hop.is_err() {
            self.suspect(server);
        }
        if self.servers.set_hop(server, hop)? {
            self.mark_addresses()?;
        }
        Ok(())
    }

    /// Takes what the network says of a packet to a tunnelled server.
    pub fn on_said(&mut self, said: Said) -> Result<()> {
        match said {
            Said::TooBig(message) => self.servers.set_path_mtu(message, clock::now()),
            Said::Unreachable(server) => {
                if self.servers.is_tunnelled(server) {
                    self.doubts.note_unreachable(server, clock::now());
                }
                Ok(())
            }
        }
    }

    /// Settles what is due.
    pub fn on_clock(&mut self) -> Result<()> {
        let now = clock::now();
        self.settles = None;
        self.servers.expire_path_mtus(now)?;
        for running in &mut self.services {
            let discarded = running.settle(&mut self.arena, now)?;
            self.discarded.extend(discarded);
        }
        self.note_tests();
        Ok(())
    }

    /// When [`Self::on_clock`] has something to do.
    #[must_use]
    pub fn next_clock(&mut self) -> Option<Instant> {
        let services = &self.services;
        let earliest = || services.iter().filter_map(Running::settles_at).min();
        let settles = *self.settles.get_or_insert_with(earliest);
        settles.into_iter().chain(self.servers.next_expiry()).min()
    }

    /// What waits for a grace period, if anything does.
    pub fn take_resting(&mut self) -> Option<Resting> {
        let places = self.arena.records.resting();
        let discarded = std::mem::take(&mut self.discarded);
        (!places.is_empty() || !discarded.is_empty()).then_some(Resting { discarded, places })
    }

    /// A grace period has passed since [`Self::take_resting`].
    pub fn rested(&mut self, resting: Resting) -> Result<()> {
        self.arena.give_back(resting.discarded);
        self.arena.records.rested(&resting.places)
    }

    /// What a sweep of recorded flows must know, by service number, if one is needed.
    #[must_use]
    pub fn to_sweep(&self) -> Option<HashMap<u32, Swept>> {
        if !self.services.iter().any(Running::needs_sweep) {
            return None;
        }
        Some(self.services.iter().map(|r| (r.tables.number, r.swept())).collect())
    }

    /// Applies a sweep of the flow table that began at `began`.
    pub fn swept(&mut self, mut found: HashMap<String, FlowsFound>, began: Instant) -> Result<()> {
        self.settles = None;
        for running in &mut self.services {
            if let Some(found) = found.remove(&running.config.name) {
                running.apply_sweep(&mut self.arena, found, began)?;
            }
        }
        Ok(())
    }

    /// How long connections to each row may be idle.
    #[must_use]
    pub fn idle_by_row(&self) -> IdleByRow {
        let services = self.services.iter();
        services
            .flat_map(|r| r.tables.stretches().map(|rows| (rows, r.config.idle_timeout)))
            .collect()
    }

    /// Applies a sweep of the NAT table that began at `began`, and frees what nothing holds.
    pub fn nat_swept(&mut self, found: NatFound, began: Instant) -> Result<()> {
        self.nat_rows = found.rows;
        let unanswered = self.doubts.hear(found.unanswered, clock::now());
        self.hurry(unanswered.iter().filter_map(|row| self.backend_of(*row)));
        self.settles = None;
        for running in &mut self.services {
            let discarded = running.free_retired(&mut self.arena, &self.nat_rows, began)?;
            self.discarded.extend(discarded);
        }
        self.server_ids.sync(&self.services)?;
        // Not what a packet may hold that is under way: a sweep takes far longer than one.
        if began > self.changed_at && self.has_former_servers {
            self.forget_servers();
            self.has_former_servers = self.services.iter().any(Running::has_retired);
        }
        Ok(())
    }

    /// Live recorded flows, or connections, of a backend; `None` where not known.
    #[must_use]
    pub fn flows(&self, running: &Running, backend: &Backend) -> Option<u64> {
        let sum = |counts: &HashMap<u32, u64>| {
            running.tables.rows(backend.index).filter_map(|row| counts.get(&row)).sum()
        };
        match backend.mode {
            Mode::Nat => Some(sum(&self.nat_rows)),
            Mode::Dsr | Mode::Ipip | Mode::Gue => {
                Some(sum(&running.flows)).filter(|flows| *flows > 0)
            }
        }
    }

    /// A backend by its names.
    #[must_use]
    pub fn locate(&self, service: &str, name: &str) -> Option<(usize, usize)> {
        let s = self.services.iter().position(|r| r.config.name == service)?;
        let b = self.services[s].backends.iter().position(|b| b.config.name == name)?;
        Some((s, b))
    }

    /// The backend of a probe, wherever a change that failed on its way has left it.
    fn probed(&self, key: u64) -> Option<(usize, usize)> {
        let at = self.by_probe.binary_search_by_key(&key, |(probe, _)| *probe).ok()?;
        let (s, b) = place(self.by_probe.get(at)?);
        let is_there = self.services.get(s).and_then(|r| r.backends.get(b)).map(|b| b.probe);
        if is_there == Some(key) {
            return Some((s, b));
        }
        let all = self.services.iter().enumerate().flat_map(probes_of);
        all.into_iter().find(|(probe, _)| *probe == key).map(|found| place(&found))
    }

    fn add(
        &mut self,
        service: &Arc<model::Service>,
        drains: &Drains,
        first: bool,
        now: Instant,
    ) -> Result<()> {
        let mut backends = Vec::new();
        for backend in &service.backends {
            let mut new = self.new_backend(service, backend, None, drains, now)?;
            new.wait_for_health = !first || !backend.is_placed();
            backends.push(new);
        }
        let mut running = Running::new(&mut self.arena, Arc::clone(service), backends, now)?;
        running.set_block_list(&mut self.arena, !self.blocked.is_empty())?;
        self.expect_replies(service)?;
        self.lists.set(running.tables.number, &allowed(service))?;
        running.listen(&mut self.arena)?;
        self.services.push(running);
        Ok(())
    }

    /// Changes a service in place. A backend with another address, or in another mode, is a new one
    /// under its name: where only the mode changed it keeps its health and what traffic it takes.
    fn change(
        &mut self,
        at: usize,
        service: &Arc<model::Service>,
        drains: &Drains,
        now: Instant,
    ) -> Result<()> {
        // The list is there before anybody asks it.
        self.lists.add(self.services[at].tables.number, &allowed(service))?;
        let (mut new, first_new) = (Vec::new(), self.next_probe);
        for backend in self.services[at].missing(service) {
            let known = &self.services[at].backends;
            let same =
                |b: &&Backend| b.config.name == backend.name && b.config.address == backend.address;
            let before = known.iter().find(same).map(Backend::hand_on);
            new.push(self.new_backend(service, backend, before, drains, now)?);
        }
        // Replies may come as soon as the table says so.
        self.expect_replies(service)?;
        let running = &mut self.services[at];
        let (gone, discarded) = running.change(&mut self.arena, service, new, now)?;
        self.discarded.extend(discarded);
        gone.iter().for_each(|backend| self.prober.remove(backend.probe));
        let is_old = |b: &&Backend| b.probe < first_new && b.config.is_placed();
        for backend in running.backends.iter().filter(is_old) {
            let target = Target::new(service, &backend.config);
            let way = way(&self.path, service, &backend.config, backend.server);
            self.prober.update(backend.probe, target, way, service.health.clone());
        }
        Ok(())
    }

    fn new_backend(
        &mut self,
        service: &model::Service,
        backend: &Arc<model::Backend>,
        before: Option<Before>,
        drains: &Drains,
        now: Instant,
    ) -> Result<NewBackend> {
        let (server, is_new) = self.servers.id(backend.address, service.mode)?;
        if is_new && backend.is_placed() {
            self.resolver.add(backend.address);
        }
        let probe = self.next_probe;
        self.next_probe += 1;
        let was_down = match before {
            None if !self.was_down.is_empty() && backend.is_placed() => {
                let key = (service.name.clone(), backend.name.clone());
                self.was_down.remove(&key).filter(|down| down.address == backend.address)
            }
            _ => None,
        };
        let unknown = if was_down.is_some() { HealthState::Down } else { HealthState::Unknown };
        let known = before.as_ref().map_or(unknown, |before| before.health.state);
        let health = if !backend.is_placed() {
            let what = backend.host.as_ref().map_or("", |host| host.as_str());
            let failure = Failure::new(FailureKind::Name, format!("{what} has no address yet"));
            HealthSnapshot::nowhere(failure, now)
        } else if is_probed(service) {
            let target = Target::new(service, backend);
            let way = way(&self.path, service, backend, server);
            let begun = self.prober.spawn(probe, target, way, service.health.clone(), known);
            was_down.map_or(begun, |down| HealthSnapshot::inherited(&down, now))
        } else {
            HealthSnapshot::initial(HealthState::Up, now)
        };
        // Nobody is asked for by name where nobody is drained, which is nearly always.
        let drain = (!drains.is_empty())
            .then(|| {
                drains.get(&(service.name.clone(), backend.name.clone())).cloned().map(Box::new)
            })
            .flatten();
        Ok(NewBackend {
            config: Arc::clone(backend),
            probe,
            server,
            drain,
            health: before.as_ref().map_or(health, |before| before.health.clone()),
            before,
            wait_for_health: true,
        })
    }

    /// Refuses what would not fit, before anything is changed.
    fn check_room(&self, wanted: &Config) -> Result<()> {
        let servers =
            wanted.services.iter().flat_map(|s| s.backends.iter().map(|b| (b.address, s.mode)));
        self.servers.check_room(servers)?;
        let ids = wanted.services.iter().flat_map(|s| s.backends.iter().map(|b| b.server_id));
        self.server_ids.check_room(ids.flatten().count())?;
        let mut needs = Vec::new();
        for service in &wanted.services {
            let running = self.services.iter().find(|r| continues(r, service));
            needs.push(match running {
                None => Need::of_new(service.backends.len())?,
                Some(running) => {
                    let rebuild = running.config.backends != service.backends;
                    running.tables.need(running.rows_towards(service), rebuild)?
                }
            });
        }
        self.arena.check_room(&needs)?;
        let missing = |service: &Arc<model::Service>| {
            let running = self.services.iter().find(|r| continues(r, service));
            self.lists.missing(running.map(|r| r.tables.number), &allowed(service))
        };
        self.lists.check_room(wanted.services.iter().map(missing).sum())?;
        let plan = plan_of(wanted);
        self.arena.records.check_room(plan.keys(), plan.prefixes())
    }

    /// Before the first packet is translated: a reply to an address that is not known as NAT's
    /// would go to the host's kernel, which resets the connection.
    fn expect_replies(&mut self, service: &model::Service) -> Result<()> {
        if service.mode == Mode::Nat { self.mark_addresses() } else { Ok(()) }
    }

    fn mark_addresses(&mut self) -> Result<()> {
        self.arena.records.set_nat_addresses(&self.servers.nat_sources())
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

/// The way of clients' packets to a backend, if its probes are to take it.
fn way(
    path: &Arc<ProbePath>,
    service: &model::Service,
    backend: &model::Backend,
    server: u32,
) -> Option<Way> {
    if service.probed_via() == Via::Address {
        return None;
    }
    let vip = service.probed_vip(backend.address)?;
    Some(Way::new(Arc::clone(path), server, vip, service.mode))
}

/// The sources on a service's list.
fn allowed(service: &model::Service) -> BTreeSet<Prefix> {
    service.allow.iter().copied().collect()
}

/// The records of all frontends.
fn plan_of(config: &Config) -> Plan {
    let services = config.services.iter().enumerate();
    let listeners = services.flat_map(|(at, service)| {
        service.listen.iter().map(move |frontend| Listener {
            frontend: *frontend,
            service: at,
            keeps_fragments: service.hash != HashPolicy::Flow,
        })
    });
    Plan::of(&listeners.collect::<Vec<_>>())
}

/// Whether a service can become what is wanted in place.
fn continues(running: &Running, service: &model::Service) -> bool {
    running.config.name == service.name
}

/// The probes of a service, and where that and each backend are: a node has fewer than 2³² of each.
fn probes_of((s, running): (usize, &Running)) -> impl Iterator<Item = (u64, (u32, u32))> {
    (0..).zip(&running.backends).map(move |(b, backend)| (backend.probe, (s as u32, b)))
}

fn place(&(_, (s, b)): &(u64, (u32, u32))) -> (usize, usize) {
    (s as usize, b as usize)
}

#[cfg(test)]
mod tests;
