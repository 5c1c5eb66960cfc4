//! One service as it runs: its configuration, its backends' state, and its part of the maps.
//!
//! Everything that changes what traffic a backend takes goes through [`Running::steer`], which
//! knows what must be marked before the word is written.

mod judging;
mod retired;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytemuck::Zeroable;
use lb_common::abi::{
    SERVICE_ALLOW, SERVICE_BLOCK, SERVICE_HASH_ADDRESSES, SERVICE_HASH_SOURCE, SERVICE_MSS,
    SERVICE_NAT, SERVICE_QUIC, SERVICE_RATE, SERVICE_RESET, SERVICE_TRACK, SERVICE_UDP_FLOW,
    SPARES, ServiceRecord, Word,
};
use lb_common::maglev::Entry;

use super::admission::{Admission, Census, Pace, Phase, Want, relative};
use super::backend::{Backend, Counted, NewBackend};
use super::governor::{Circumstances, Governor, Limits, Ruling};
use super::health::HealthState;
use super::rules::{Rule, keep};
use super::sweep::{FlowsFound, Swept};
use super::tables::{Arena, Discarded, ServiceTables};
use crate::config::model::{self, HashPolicy, Mode, OnDown, Probe, Track, UdpPolicy};
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::view::monotonic_seconds;
use retired::Retired;

/// A service as it runs.
#[derive(Debug)]
pub struct Running {
    pub config: Arc<model::Service>,
    pub backends: Vec<Backend>,
    /// Of their phases.
    census: Census,
    pub tables: ServiceTables,
    pub governor: Governor,
    /// What the governor is told beside the backends.
    around: Circumstances,
    /// When it is asked again though nothing has changed.
    rule_at: Option<Instant>,
    /// How often it ruled on all backends: that may have changed any of them, and when it is asked.
    pub(super) rulings: u64,
    retired: Vec<Retired>,
    /// Backends that leave with the next table.
    leaving: Vec<(u16, Mode)>,
    /// Flows may be recorded that go elsewhere than their slot says.
    exceptions: bool,
    /// Raised by every change of words or tables.
    epoch: u64,
    /// Recorded flows by row, of the last sweep; of connections in `nat` the node knows.
    pub flows: HashMap<u32, u64>,
    /// When that sweep began.
    flows_as_of: Option<Instant>,
    /// When levels were last brought up to date.
    paced_at: Instant,
    /// As in [`ServiceRecord::udp_until`].
    udp_until: u32,
    /// Whether the node's block list has entries.
    has_block_list: bool,
    /// When it last left its rows for more.
    grown_at: Option<Instant>,
    /// Recorded flows that sweeps found and packets would not.
    pub violations: u64,
}

impl Running {
    /// A service with these backends, in the maps, not yet listening.
    pub fn new(
        arena: &mut Arena,
        config: Arc<model::Service>,
        backends: Vec<NewBackend>,
        now: Instant,
    ) -> Result<Self> {
        let tables = ServiceTables::new(arena, backends.len())?;
        let mut running = Self {
            backends: Vec::new(),
            census: Census::default(),
            tables,
            governor: Governor::new(limits(&config)),
            around: Circumstances { is_frozen: false, tested_at: None },
            rule_at: None,
            rulings: 0,
            config,
            retired: Vec::new(),
            leaving: Vec::new(),
            exceptions: false,
            epoch: 0,
            flows: HashMap::new(),
            flows_as_of: None,
            paced_at: now,
            udp_until: 0,
            has_block_list: false,
            grown_at: None,
            violations: 0,
        };
        running.add(arena, backends, now)?;
        // Nothing is discarded: there was no table before.
        let _ = running.rebuild(arena, now)?;
        running.judge(arena, now)?;
        Ok(running)
    }

    /// The most rows it will need at once to become this: leaving backends keep theirs for a while.
    #[must_use]
    pub fn rows_towards(&self, wanted: &model::Service) -> usize {
        self.backends.len() + self.retired.len() + self.missing(wanted).len()
    }

    /// The backends of what is wanted that it does not have as they shall be.
    #[must_use]
    pub fn missing<'a>(&self, wanted: &'a model::Service) -> Vec<&'a Arc<model::Backend>> {
        let known: HashMap<&str, &Backend> =
            self.backends.iter().map(|b| (b.config.name.as_str(), b)).collect();
        let stays = |w: &model::Backend| {
            known.get(w.name.as_str()).is_some_and(|b| b.stays_as(w, wanted.mode))
        };
        wanted.backends.iter().filter(|w| !stays(w)).collect()
    }

    /// Adds backends: their words and ports, not yet their slots.
    pub fn add(&mut self, arena: &mut Arena, new: Vec<NewBackend>, now: Instant) -> Result<()> {
        let mut free = self.free_indices().into_iter();
        self.backends.reserve_exact(new.len());
        for backend in new {
            let index = free.next().context("no row left")?;
            self.add_at(arena, index, backend, now)?;
        }
        self.count_phases();
        Ok(())
    }

    /// Rows that nothing points to, by their indices.
    fn free_indices(&self) -> Vec<u16> {
        let mut used = self.tables.shadow_owners();
        used.extend(self.backends.iter().map(|b| b.index));
        used.extend(self.retired.iter().map(|r| r.index));
        used.extend(self.leaving.iter().map(|(index, _)| *index));
        let capacity = u16::try_from(self.tables.capacity()).unwrap_or(u16::MAX);
        (0..capacity).filter(|index| !used.contains(index)).collect()
    }

    fn add_at(
        &mut self,
        arena: &mut Arena,
        index: u16,
        new: NewBackend,
        now: Instant,
    ) -> Result<()> {
        let is_up = new.health.state == HealthState::Up;
        let is_out = !is_up && (new.wait_for_health || new.health.state == HealthState::Down);
        let is_standby = new.config.backup && !self.governor.uses_backups();
        let (known, ruling, is_new) = match new.before {
            Some(before) => (Some(before.admission), before.ruling, before.is_new),
            None => {
                let ruling = Ruling { is_out, is_standby, ..Ruling::default() };
                (None, ruling, new.wait_for_health && !is_up)
            }
        };
        let admission = match (known, &new.drain) {
            (Some(known), _) => known,
            // It may still have connections from before a restart: as if drained just now.
            (None, Some(drain)) if drain.is_recent(self.config.idle_timeout) => {
                Admission::draining(now)
            }
            (None, Some(_)) if new.health.state != HealthState::Down => {
                Admission::new(Want::Drain, now)
            }
            (None, _) if is_out => Admission::new(Want::Down, now),
            (None, _) if is_standby => Admission::new(Want::Drain, now),
            (None, _) => Admission::new(Want::Serve, now),
        };
        let mut backend = Backend {
            generation: self.tables.next_generation(&arena.maps, index),
            index,
            mode: self.config.mode,
            admission,
            level: Word::FULL,
            config: new.config,
            probe: new.probe,
            server: new.server,
            drain: new.drain,
            health: new.health,
            ruling,
            seen: None,
            is_new,
            blind_until: None,
            detection: None,
            counted_before: Counted::default(),
        };
        backend.counted_before = self.rows_counted(&arena.maps, index);
        self.write_port(arena, &backend)?;
        self.tables.set_word(&arena.maps, index, backend.word())?;
        self.backends.push(backend);
        Ok(())
    }

    /// Becomes what is wanted, in place: new backends first, then the table, then the old ones'
    /// words. `new` are those it does not have yet. What left, and what was given up.
    pub fn change(
        &mut self,
        arena: &mut Arena,
        wanted: &Arc<model::Service>,
        new: Vec<NewBackend>,
        now: Instant,
    ) -> Result<(Vec<Backend>, Discarded)> {
        let rows = self.rows_towards(wanted);
        if rows > self.tables.capacity() {
            self.grow(arena, rows)?;
            self.grown_at = Some(now);
        }
        let old = std::mem::replace(&mut self.config, Arc::clone(wanted));
        self.governor.set_limits(limits(&self.config));
        let gone = self.part_with(wanted);
        let weights: HashMap<&str, u16> =
            old.backends.iter().map(|b| (b.name.as_str(), b.weight)).collect();
        let mut rebuild = self.tables.is_outgrown() || !gone.is_empty() || !new.is_empty();
        let wanted_of: HashMap<&str, &Arc<model::Backend>> =
            wanted.backends.iter().map(|b| (b.name.as_str(), b)).collect();
        for at in 0..self.backends.len() {
            let known = &mut self.backends[at];
            let Some(&backend) = wanted_of.get(known.config.name.as_str()) else { continue };
            rebuild |= weights.get(backend.name.as_str()) != Some(&backend.weight);
            if known.config != *backend {
                known.config = Arc::clone(backend);
                self.write_port(arena, &self.backends[at])?;
            }
        }
        self.add(arena, new, now)?;
        self.sort();
        // Records first say what packets of the new table need: that NAT is asked, say.
        self.listen(arena)?;
        let discarded = if rebuild { self.rebuild(arena, now)? } else { Discarded::default() };
        for backend in &gone {
            self.retire(arena, backend, now)?;
        }
        self.listen(arena)?;
        self.judge(arena, now)?;
        // By another `slow_start`, and among other backends.
        self.pace(arena, now)?;
        Ok((gone, discarded))
    }

    /// Takes backends out of the next table: all that do not stay as one of these.
    pub fn part_with(&mut self, wanted: &model::Service) -> Vec<Backend> {
        let wanted_of: HashMap<&str, &Arc<model::Backend>> =
            wanted.backends.iter().map(|w| (w.name.as_str(), w)).collect();
        let stays = |b: &Backend| {
            let wanted_as = wanted_of.get(b.config.name.as_str());
            wanted_as.is_some_and(|w| b.stays_as(w, wanted.mode))
        };
        let (stay, leave) = std::mem::take(&mut self.backends).into_iter().partition(stays);
        self.backends = stay;
        self.count_phases();
        self.leaving = leave.iter().map(|b: &Backend| (b.index, b.mode)).collect();
        leave
    }

    /// Where a backend of this name is.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.backends.iter().position(|b| b.config.name == name)
    }

    /// Puts the backends in the order of the configuration.
    pub fn sort(&mut self) {
        let wanted = self.config.backends.iter().enumerate();
        let order: HashMap<&str, usize> = wanted.map(|(at, w)| (w.name.as_str(), at)).collect();
        self.backends.sort_by_key(|b| order.get(b.config.name.as_str()).copied());
    }

    /// Takes rows for more backends; the table must be rebuilt.
    pub fn grow(&mut self, arena: &mut Arena, backends: usize) -> Result<()> {
        self.epoch += 1;
        self.tables.grow(arena, backends)
    }

    /// Makes what its records say what its configuration says.
    pub fn listen(&mut self, arena: &mut Arena) -> Result<()> {
        self.epoch += 1;
        self.describe(arena)
    }

    /// Whether the block list has entries, from now on.
    pub fn set_block_list(&mut self, arena: &mut Arena, has_entries: bool) -> Result<()> {
        self.has_block_list = has_entries;
        self.describe(arena)
    }

    /// Writes what records say beside key and table.
    fn describe(&mut self, arena: &mut Arena) -> Result<()> {
        let config = &self.config;
        let leaving = self.leaving.iter().map(|(_, mode)| *mode);
        let past = self.retired.iter().map(|r| r.mode).chain(leaving);
        let uses_nat = past.chain([config.mode]).any(|mode| mode == Mode::Nat);
        let quic = config
            .quic
            .map_or(0, |quic| u32::from(quic.config_id) | u32::from(quic.server_id_length) << 8);
        let flags = [
            (uses_nat, SERVICE_NAT),
            (uses_nat && config.failover.on_down == OnDown::Reset, SERVICE_RESET),
            (config.hash == HashPolicy::Source, SERVICE_HASH_SOURCE),
            (config.hash == HashPolicy::Addresses, SERVICE_HASH_ADDRESSES),
            (config.udp == UdpPolicy::Flow, SERVICE_UDP_FLOW),
            (config.track == Track::Always, SERVICE_TRACK),
            (!config.allow.is_empty(), SERVICE_ALLOW),
            (self.has_block_list, SERVICE_BLOCK),
            (config.rate_limit.is_some(), SERVICE_RATE),
            (config.quic.is_some(), SERVICE_QUIC),
            (config.mss.is_some(), SERVICE_MSS),
        ];
        let template = ServiceRecord {
            flags: flags.iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit),
            udp_until: self.udp_until,
            mss: config.mss.map_or(0, u32::from),
            quic,
            rate: config.rate_limit.map_or(0, |limit| limit.per_second),
            burst: config.rate_limit.map_or(0, |limit| limit.burst),
            ..ServiceRecord::zeroed()
        };
        self.tables.describe(arena, template)
    }

    /// A change begins: datagrams of flows that are not recorded count as existing for a while.
    fn note_change(&mut self, arena: &mut Arena) -> Result<()> {
        self.epoch += 1;
        if self.config.udp == UdpPolicy::Flow {
            let lasts = u32::try_from(self.config.udp_timeout.as_secs()).unwrap_or(u32::MAX);
            // This second has begun already.
            self.udp_until = monotonic_seconds().saturating_add(lasts).saturating_add(1);
            self.describe(arena)?;
        }
        Ok(())
    }

    /// Whether it is to be known that flows may be recorded: they are once the table is left to
    /// be walked, and stay so until a sweep finds none.
    fn note_exceptions(&mut self) {
        let is_changing = !self.retired.is_empty() || self.tables.has_shadows();
        let is_direct = self.backends.iter().any(|b| b.mode != Mode::Nat) || is_changing;
        self.exceptions |= is_direct && (is_changing || self.census.away > 0);
    }

    /// Swaps in the table of the backends there are now. Slots that change are in transition for
    /// `idle_timeout`.
    pub fn rebuild(&mut self, arena: &mut Arena, now: Instant) -> Result<Discarded> {
        self.note_exceptions();
        // Before the table changes, so that no datagram counts as new by the old table.
        self.announce(arena)?;
        let nat = self.nat_indices();
        let has_flows = self.has_flows();
        let members: Vec<Entry<'_>> = self
            .backends
            .iter()
            .map(|b| Entry { name: &b.config.name, weight: b.config.weight, index: b.index })
            .collect();
        let discarded = self.tables.rebuild(
            arena,
            &members,
            |index| has_flows && !nat.contains(&index),
            has_flows && self.exceptions,
            now,
        )?;
        self.exceptions |= has_flows;
        self.write_spares(arena)?;
        Ok(discarded)
    }

    /// Whether packets of it belong to flows that have a backend: datagrams may not.
    fn has_flows(&self) -> bool {
        let has_tcp = self.config.listen.iter().any(|f| f.protocol == model::Protocol::Tcp);
        has_tcp || self.config.udp == UdpPolicy::Flow
    }

    /// Backends, past ones included, whose connections are in the NAT table.
    fn nat_indices(&self) -> BTreeSet<u16> {
        let retired = self.retired.iter().map(|r| (r.index, r.mode));
        let running = self.backends.iter().map(|b| (b.index, b.mode));
        let nat = |(index, mode): (u16, Mode)| (mode == Mode::Nat).then_some(index);
        let leaving = self.leaving.iter().copied();
        retired.chain(running).chain(leaving).filter_map(nat).collect()
    }

    /// Writes the port a backend has on its side.
    pub fn write_port(&self, arena: &Arena, backend: &Backend) -> Result<()> {
        self.tables.set_port(&arena.maps, backend.index, backend.config.port)
    }

    /// What was sent to a backend since it is one.
    #[must_use]
    pub fn counted(&self, maps: &LiveMaps, backend: &Backend) -> Counted {
        let (all, before) = (self.rows_counted(maps, backend.index), backend.counted_before);
        Counted {
            packets: all.packets.saturating_sub(before.packets),
            bytes: all.bytes.saturating_sub(before.bytes),
            new_flows: all.new_flows.saturating_sub(before.new_flows),
        }
    }

    fn rows_counted(&self, maps: &LiveMaps, index: u16) -> Counted {
        let mut sum = Counted::default();
        for row in self.tables.rows(index) {
            let traffic = maps.traffic(row);
            sum.packets += traffic.packets;
            sum.bytes += traffic.bytes;
            sum.new_flows += maps.new_flows(row);
        }
        sum
    }

    /// Settles what has been in transition for long enough, and ends shadows.
    pub fn settle(&mut self, arena: &mut Arena, now: Instant) -> Result<Discarded> {
        debug_assert_eq!(self.census, self.counted_phases());
        if self.rule_at.is_some_and(|at| at <= now) {
            self.judge(arena, now)?;
        }
        let pace = self.pace_of();
        if self.census.unsettled > 0 {
            for at in 0..self.backends.len() {
                if let Some(step) = self.backends[at].admission.settle(now, pace) {
                    self.census.note(&step);
                    self.announce(arena)?;
                    self.write_step(arena, at, step.cover)?;
                }
            }
        }
        self.pace(arena, now)?;
        let away = if self.tables.has_shadows() { self.away() } else { Vec::new() };
        let ended = self.tables.end_shadows(arena, &away, pace.idle, now)?;
        if ended.is_some() {
            self.exceptions = true;
            self.epoch += 1;
            self.settle_retired(arena, now)?;
        }
        Ok(ended.unwrap_or_default())
    }

    fn count_phases(&mut self) {
        self.census = self.counted_phases();
    }

    fn counted_phases(&self) -> Census {
        Census::of(self.backends.iter().map(|b| b.admission.phase()))
    }

    /// Backends that turn flows away: what is at home there may be recorded elsewhere.
    fn away(&self) -> Vec<u16> {
        let away = self.backends.iter().filter(|b| b.admission.phase() != Phase::Serving);
        away.map(|b| b.index).collect()
    }

    /// Brings the shares of returning backends up to date.
    fn pace(&mut self, arena: &Arena, now: Instant) -> Result<()> {
        let pace = self.pace_of();
        self.paced_at = now;
        // Nobody else's word has a level.
        if self.census.unsettled == 0 {
            return Ok(());
        }
        let mut levels: Vec<u16> =
            self.backends.iter().map(|b| b.admission.level(now, pace)).collect();
        relative(&mut levels);
        for (backend, level) in self.backends.iter_mut().zip(levels) {
            if std::mem::replace(&mut backend.level, level) != level
                && backend.admission.phase() == Phase::Returning
            {
                self.tables.set_word(&arena.maps, backend.index, backend.word())?;
            }
        }
        Ok(())
    }

    fn pace_of(&self) -> Pace {
        let idle = self.config.idle_timeout;
        let idle = if keep(Rule::TransitionLasts) { idle } else { idle / 8 };
        Pace { idle, slow_start: self.config.slow_start, ramp: self.config.slow_start_curve }
    }

    /// When [`Self::settle`] has something to do.
    #[must_use]
    pub fn settles_at(&self) -> Option<Instant> {
        let pace = self.pace_of();
        let ends = self.tables.shadows_end_at(pace.idle).into_iter().chain(self.rule_at).min();
        if self.census.unsettled == 0 {
            return ends;
        }
        let grows = |b: &Backend| b.admission.is_growing(self.paced_at, pace);
        let grown = self.backends.iter().any(grows).then(|| self.paced_at + GROWTH);
        let settled = self.backends.iter().filter_map(|b| b.admission.settles_at(pace)).min();
        settled.into_iter().chain(grown).chain(ends).min()
    }

    /// What a sweep of the flow table must know.
    #[must_use]
    pub fn swept(&self) -> Swept {
        let mut idle = self.config.idle_timeout;
        if self.config.udp == UdpPolicy::Flow {
            idle = idle.max(self.config.udp_timeout);
        }
        Swept {
            name: self.config.name.clone(),
            idle,
            udp_idle: self.config.udp_timeout,
            epoch: self.epoch,
        }
    }

    /// Whether the flow table must be swept for it.
    #[must_use]
    pub fn needs_sweep(&self) -> bool {
        self.config.track == Track::Always || self.exceptions
    }

    /// Clears the marks a sweep found needless, if nothing changed since it began.
    pub fn apply_sweep(
        &mut self,
        arena: &mut Arena,
        found: FlowsFound,
        began: Instant,
    ) -> Result<()> {
        if found.epoch != self.epoch && keep(Rule::EpochCounts) {
            return Ok(());
        }
        self.violations += found.violations;
        if found.violations > 0 {
            tracing::error!(
                service = self.config.name,
                flows = found.violations,
                "recorded flows would not be looked up: please report it with `lb status -o json`"
            );
        }
        if keep(Rule::NoDeadline) {
            self.tables.keep_marks(arena, &found.needed)?;
        } else {
            self.tables.keep_marks(arena, &BTreeSet::new())?;
        }
        self.flows = found.rows;
        self.flows_as_of = Some(began);
        if found.live == 0 {
            self.exceptions = false;
            self.note_exceptions();
        }
        Ok(())
    }

    /// Backends that take new flows.
    #[must_use]
    pub fn serving(&self) -> usize {
        let takes = |b: &&Backend| b.admission.phase().takes_new();
        self.backends.iter().filter(takes).count()
    }

    /// Before words change: whoever sees the new ones finds what he must know beside them.
    fn announce(&mut self, arena: &mut Arena) -> Result<()> {
        self.note_change(arena)?;
        let unsettled = self.has_flows() && self.census.unsettled > 0;
        self.tables.watch(arena, unsettled)
    }

    fn write_step(&mut self, arena: &mut Arena, at: usize, cover: bool) -> Result<()> {
        let index = self.backends[at].index;
        let cover = cover && self.has_flows();
        if cover {
            // Flows whose home is any backend that turns flows away may have been recorded on
            // their way past this one.
            let mut homes = self.away();
            homes.push(index);
            self.tables.mark_homes(arena, &homes)?;
        }
        let word = self.backends[at].word();
        if !keep(Rule::OneStore) {
            let halfway = Word::new(0, 0, word.server(), word.generation(), word.serving(), false);
            self.tables.set_word(&arena.maps, index, halfway)?;
        }
        self.tables.set_word(&arena.maps, index, word)?;
        self.exceptions |= cover;
        self.note_exceptions();
        self.write_spares(arena)
    }

    fn write_spares(&self, arena: &Arena) -> Result<()> {
        let serves = |b: &&Backend| !matches!(b.admission.phase(), Phase::Down);
        let takes = |b: &&Backend| b.admission.phase().takes_new();
        // No more are listed, whatever their number.
        let most = SPARES as usize;
        let mut spares = Vec::with_capacity(most);
        spares.extend(self.backends.iter().filter(takes).map(|b| b.index).take(most));
        if spares.is_empty() {
            spares.extend(self.backends.iter().filter(serves).map(|b| b.index).take(most));
        }
        self.tables.set_spares(&arena.maps, &spares)
    }
}

/// What of a service the governor goes by.
fn limits(service: &model::Service) -> Limits {
    let failover = &service.failover;
    Limits {
        total: failover.max_removed,
        in_window: failover.max_removed_in_window,
        window: failover.window,
        backup_below: failover.backup_below,
        backup_return: failover.backup_return,
    }
}

/// Between two steps of a slow start.
const GROWTH: Duration = Duration::from_millis(200);

/// Whether a service's backends are probed at all.
#[must_use]
pub fn is_probed(service: &model::Service) -> bool {
    service.health.probe != Probe::None
}
