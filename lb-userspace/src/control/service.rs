//! One service as it runs: its configuration, its backends' state, and its part of the maps.
//!
//! Everything that changes what traffic a backend takes goes through [`Running::steer`], which
//! knows what must be marked before the word is written.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_common::abi::{MODE_DSR, MODE_NAT, Word};
use lb_common::find_service::Service as Found;

use super::admission::{Admission, Pace, Phase, Want, relative};
use super::backend::{Backend, Counted, NewBackend, want};
use super::health::{HealthSnapshot, HealthState};
use super::sweep::{FlowsFound, Swept};
use super::tables::{Arena, Discarded, Member, ServiceTables};
use crate::config::model::{self, Mode, Probe};
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::services::Key;

/// A backend that left the configuration; its row rests until nothing points to it.
#[derive(Clone, Copy, Debug)]
struct Retired {
    index: u16,
    server: u32,
    since: Instant,
}

/// A service as it runs.
#[derive(Debug)]
pub struct Running {
    pub config: model::Service,
    pub backends: Vec<Backend>,
    pub tables: ServiceTables,
    retired: Vec<Retired>,
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
}

impl Running {
    /// A service with these backends, in the maps, not yet listening.
    pub fn new(
        arena: &mut Arena,
        config: model::Service,
        backends: Vec<NewBackend>,
        now: Instant,
    ) -> Result<Self> {
        let mode = match config.mode {
            Mode::Nat => MODE_NAT,
            // The other modes have no path in the program yet.
            Mode::Dsr | Mode::Ipip | Mode::Gue => MODE_DSR,
        };
        let tables = ServiceTables::new(arena, backends.len(), mode)?;
        let mut running = Self {
            config,
            backends: Vec::new(),
            tables,
            retired: Vec::new(),
            exceptions: false,
            epoch: 0,
            flows: HashMap::new(),
            flows_as_of: None,
            paced_at: now,
        };
        for backend in backends {
            running.add(arena, backend, now)?;
        }
        // Nothing is discarded: there was no table before.
        let _ = running.rebuild(arena)?;
        Ok(running)
    }

    /// The most rows it will need at once to become this: leaving backends keep theirs for a while.
    #[must_use]
    pub fn rows_towards(&self, wanted: &model::Service) -> usize {
        let is_new = |w: &&model::Backend| self.backends.iter().all(|b| b.config.name != w.name);
        self.backends.len() + self.retired.len() + wanted.backends.iter().filter(is_new).count()
    }

    /// Adds a backend: its word and port, not yet its slots.
    pub fn add(&mut self, arena: &mut Arena, new: NewBackend, now: Instant) -> Result<()> {
        let used = |index: &u16| {
            self.backends.iter().any(|b| b.index == *index)
                || self.retired.iter().any(|r| r.index == *index)
        };
        let capacity = u16::try_from(self.tables.capacity()).unwrap_or(u16::MAX);
        let index = (0..capacity).find(|index| !used(index)).context("no row left")?;
        let admission = match (new.admission, &new.drain) {
            (Some(known), _) => known,
            // It may still have connections from before a restart: as if drained just now.
            (None, Some(drain)) if drain.is_recent(self.config.idle_timeout) => {
                Admission::draining(now)
            }
            (None, drain) => {
                let want = want(new.health.state, true, drain.is_some());
                let unknown = if new.wait_for_health { Want::Down } else { Want::Serve };
                Admission::new(want.unwrap_or(unknown), now)
            }
        };
        let mut backend = Backend {
            generation: self.tables.next_generation(&arena.maps, index),
            index,
            admission,
            level: Word::FULL,
            config: new.config,
            probe: new.probe,
            server: new.server,
            drain: new.drain,
            health: new.health,
            detection: None,
            counted_before: Counted::default(),
        };
        backend.counted_before = self.rows_counted(&arena.maps, index);
        self.write_port(arena, &backend)?;
        self.tables.set_word(&arena.maps, index, backend.word())?;
        self.backends.push(backend);
        Ok(())
    }

    /// Takes backends out of the next table: those whose names are not among these.
    pub fn part_with(&mut self, keep: &[model::Backend]) -> Vec<Backend> {
        let stays = |b: &Backend| keep.iter().any(|k| k.name == b.config.name);
        let (stay, leave) = std::mem::take(&mut self.backends).into_iter().partition(stays);
        self.backends = stay;
        leave
    }

    /// Retires a backend that is in no table any more. Connections that are recorded to it may
    /// finish.
    pub fn retire(&mut self, arena: &mut Arena, gone: &Backend, now: Instant) -> Result<()> {
        let serving = gone.admission.phase() != Phase::Down;
        let word = Word::new(0, 0, gone.server, gone.generation, serving, true);
        self.tables.set_word(&arena.maps, gone.index, word)?;
        self.retired.push(Retired { index: gone.index, server: gone.server, since: now });
        self.epoch += 1;
        Ok(())
    }

    /// Takes rows for more backends; the table must be rebuilt.
    pub fn grow(&mut self, arena: &mut Arena, backends: usize) -> Result<()> {
        self.epoch += 1;
        self.tables.grow(arena, backends)
    }

    /// Makes its frontends those of its configuration.
    pub fn listen(&mut self, arena: &mut Arena) -> Result<()> {
        self.epoch += 1;
        self.tables.listen(arena, &self.keys())
    }

    /// Whether it is to be known that flows may be recorded: they are once the table is left to
    /// be walked, and stay so until a sweep finds none.
    fn note_exceptions(&mut self) {
        let is_away = |b: &Backend| b.admission.phase() != Phase::Serving;
        self.exceptions |= !self.retired.is_empty() || self.backends.iter().any(is_away);
    }

    /// Swaps in the table of the backends there are now.
    pub fn rebuild(&mut self, arena: &mut Arena) -> Result<Discarded> {
        let members: Vec<Member> = self
            .backends
            .iter()
            .map(|b| Member {
                name: b.config.name.clone(),
                weight: b.config.weight,
                index: b.index,
            })
            .collect();
        self.note_exceptions();
        let cover = self.exceptions && self.config.mode == Mode::Dsr;
        let discarded = self.tables.rebuild(arena, &members, cover)?;
        self.epoch += 1;
        self.write_spares(arena)?;
        Ok(discarded)
    }

    /// Points a backend to another server: the old one's connections end there, as in a failure.
    /// Where it is probed, the new one takes traffic from its first success on.
    pub fn replace(
        &mut self,
        arena: &mut Arena,
        name: &str,
        server: u32,
        now: Instant,
    ) -> Result<()> {
        let Some(at) = self.backends.iter().position(|b| b.config.name == name) else {
            return Ok(());
        };
        let probed = is_probed(&self.config);
        let generation = self.tables.next_generation(&arena.maps, self.backends[at].index);
        let backend = &mut self.backends[at];
        backend.server = server;
        backend.generation = generation;
        if probed {
            backend.admission.towards(Want::Down, now);
            backend.health = HealthSnapshot::initial(HealthState::Unknown, now);
        }
        self.write_step(arena, at, false)
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

    /// Takes what probes and operator now say of a backend, and writes its word if that changes
    /// what it takes. Whether it did.
    pub fn steer(&mut self, arena: &mut Arena, at: usize, now: Instant) -> Result<bool> {
        let Some(backend) = self.backends.get_mut(at) else { return Ok(false) };
        let Some(want) = backend.want() else { return Ok(false) };
        let Some(step) = backend.admission.towards(want, now) else { return Ok(false) };
        if step.to == Phase::Down && self.config.mode == Mode::Dsr {
            // What is recorded to it stays void when it returns: the flows have moved.
            backend.generation = (backend.generation + 1) % Word::GENERATIONS;
        }
        self.pace(arena, now)?;
        self.write_step(arena, at, step.cover)?;
        Ok(true)
    }

    /// Settles what has been in transition for long enough. Whether anything changed.
    pub fn settle(&mut self, arena: &mut Arena, now: Instant) -> Result<bool> {
        let pace = self.pace_of();
        let mut changed = false;
        for at in 0..self.backends.len() {
            if let Some(step) = self.backends[at].admission.settle(now, pace) {
                self.write_step(arena, at, step.cover)?;
                changed = true;
            }
        }
        self.pace(arena, now)?;
        Ok(changed)
    }

    /// Brings the shares of returning backends up to date.
    fn pace(&mut self, arena: &Arena, now: Instant) -> Result<()> {
        let pace = self.pace_of();
        self.paced_at = now;
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
        Pace { idle: self.config.idle_timeout, slow_start: self.config.slow_start }
    }

    /// When [`Self::settle`] has something to do.
    #[must_use]
    pub fn settles_at(&self) -> Option<Instant> {
        let pace = self.pace_of();
        let grows = |b: &Backend| b.admission.is_growing(self.paced_at, pace);
        let grown = self.backends.iter().any(grows).then(|| self.paced_at + GROWTH);
        let settled = self.backends.iter().filter_map(|b| b.admission.settles_at(pace)).min();
        settled.into_iter().chain(grown).min()
    }

    /// What a sweep of the flow table must know.
    #[must_use]
    pub fn swept(&self) -> Swept {
        let service =
            Found { table: self.tables.table(), mode: MODE_DSR, number: self.tables.number };
        Swept {
            name: self.config.name.clone(),
            service,
            idle: self.config.idle_timeout,
            epoch: self.epoch,
        }
    }

    /// Whether the flow table must be swept for it.
    #[must_use]
    pub fn needs_sweep(&self) -> bool {
        self.exceptions && self.config.mode == Mode::Dsr
    }

    /// Clears the marks a sweep found needless, if nothing changed since it began.
    pub fn apply_sweep(
        &mut self,
        arena: &mut Arena,
        found: FlowsFound,
        began: Instant,
    ) -> Result<()> {
        if found.epoch != self.epoch {
            return Ok(());
        }
        self.tables.keep_marks(arena, &found.needed)?;
        self.flows = found.rows;
        self.flows_as_of = Some(began);
        if found.live == 0 {
            self.exceptions = false;
            self.note_exceptions();
        }
        Ok(())
    }

    /// Frees the rows of retired backends, and former rows, that nothing points to any more, by a
    /// sweep of NAT connections that began at `nat_as_of` and by its own of recorded flows.
    pub fn free_retired(&mut self, nat: &HashMap<u32, u64>, nat_as_of: Instant) -> Discarded {
        let as_of = match self.config.mode {
            Mode::Nat => Some(nat_as_of),
            Mode::Dsr | Mode::Ipip | Mode::Gue => self.flows_as_of,
        };
        let in_use = |row: u32| nat.contains_key(&row) || self.flows.contains_key(&row);
        let tables = &self.tables;
        self.retired.retain(|retired| {
            let seen = as_of.is_some_and(|as_of| as_of > retired.since);
            !seen || tables.rows(retired.index).any(in_use)
        });
        // Marks are of slots, so they hold for former rows as well.
        let no_doubt = !self.exceptions || self.config.mode == Mode::Nat;
        if no_doubt { self.tables.shed(in_use) } else { Discarded::default() }
    }

    /// Servers that its retired backends still hold.
    pub fn retired_servers(&self) -> impl Iterator<Item = u32> {
        self.retired.iter().map(|retired| retired.server)
    }

    /// The keys of its frontends in the service table.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.config.listen.iter().map(key_of).collect()
    }

    /// Backends that take new flows.
    #[must_use]
    pub fn serving(&self) -> usize {
        let takes = |b: &&Backend| matches!(b.admission.phase(), Phase::Serving | Phase::Returning);
        self.backends.iter().filter(takes).count()
    }

    fn write_step(&mut self, arena: &mut Arena, at: usize, cover: bool) -> Result<()> {
        let index = self.backends[at].index;
        if cover && self.config.mode == Mode::Dsr {
            // Flows whose home is any backend that turns flows away may have been recorded on
            // their way past this one.
            let away = |b: &&Backend| b.index == index || b.admission.phase() != Phase::Serving;
            let homes: Vec<u16> = self.backends.iter().filter(away).map(|b| b.index).collect();
            self.tables.mark_homes(arena, &homes)?;
        }
        self.tables.set_word(&arena.maps, index, self.backends[at].word())?;
        self.exceptions |= cover;
        self.note_exceptions();
        self.epoch += 1;
        self.write_spares(arena)
    }

    fn write_spares(&self, arena: &Arena) -> Result<()> {
        let serves = |b: &&Backend| !matches!(b.admission.phase(), Phase::Down);
        let takes = |b: &&Backend| matches!(b.admission.phase(), Phase::Serving | Phase::Returning);
        let mut spares: Vec<u16> = self.backends.iter().filter(takes).map(|b| b.index).collect();
        if spares.is_empty() {
            spares = self.backends.iter().filter(serves).map(|b| b.index).collect();
        }
        self.tables.set_spares(&arena.maps, &spares)
    }
}

/// Between two steps of a slow start.
const GROWTH: Duration = Duration::from_millis(200);

/// A frontend's key in the service table.
#[must_use]
pub fn key_of(frontend: &model::Frontend) -> Key {
    let protocol = match frontend.protocol {
        model::Protocol::Tcp => 6,
        model::Protocol::Udp => 17,
    };
    Key { address: frontend.vip.address, port: frontend.ports.first, protocol }
}

/// Whether a service's backends are probed at all.
#[must_use]
pub fn is_probed(service: &model::Service) -> bool {
    service.health.probe != Probe::None
}
