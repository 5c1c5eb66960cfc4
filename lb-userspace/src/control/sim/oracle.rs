//! What every connection may expect, remembered apart from all that the balancer knows.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

/// A server in the world.
#[derive(Clone, Debug)]
pub(super) struct Physical {
    /// Times it has died.
    pub(super) deaths: u32,
    /// Whether it answers at all.
    pub(super) alive: bool,
    /// Whether it shall get new connections, and since when that is so.
    pub(super) takes_new: bool,
    pub(super) since: u64,
}

/// Why a connection was lost, where that is nobody's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Excuse {
    /// Silent for longer than `idle_timeout` across a change.
    Silent,
    /// Its entry was evicted.
    Evicted,
    /// It could not be recorded, and another change followed.
    Refused,
    /// A datagram that was under way when the change began: to it the change was not fresh yet.
    UnderWay,
}

/// Packets, and what they cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Traffic {
    pub(super) packets: u64,
    pub(super) lookups: u64,
}

/// The traffic of one kind of service.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sent {
    pub(super) connections: u64,
    pub(super) packets: u64,
    pub(super) stale: u64,
}

/// What a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Found {
    pub(super) connections: u64,
    pub(super) packets: u64,
    pub(super) stale: u64,
    /// By what clients speak.
    pub(super) kinds: BTreeMap<&'static str, Sent>,
    /// Packets by how they reached a server, and replies, and ICMP errors.
    pub(super) ways: BTreeMap<&'static str, u64>,
    pub(super) events: BTreeMap<&'static str, u64>,
    /// Times that a service's number of slots changed.
    pub(super) sizes: u64,
    /// Connections to servers that died.
    pub(super) died: u64,
    /// Packets of established connections sent elsewhere, or dropped, for no reason.
    pub(super) misdirected: u64,
    /// New connections to servers that shall get none.
    pub(super) misplaced: u64,
    pub(super) excused: BTreeMap<&'static str, u64>,
    /// Entries that packets would have missed, checked after every event.
    pub(super) uncovered: u64,
    /// What the daemon's own sweeps counted of these.
    pub(super) uncovered_live: u64,
    pub(super) lookups: u64,
    pub(super) inserts: u64,
    pub(super) evictions: u64,
    pub(super) refused: u64,
    /// Walks that no backend took.
    pub(super) exhausted: u64,
    /// Packets that no backend served.
    pub(super) unserved: u64,
    pub(super) sweeps: u64,
    pub(super) largest_flows: u64,
    /// Before, during and after what a scenario is about.
    pub(super) phases: [Traffic; 3],
    /// The first few, told.
    pub(super) told: Vec<String>,
}

impl Found {
    pub(super) fn events_total(&self) -> u64 {
        self.events.values().sum()
    }

    /// All that must not be.
    pub(super) fn wrong(&self) -> u64 {
        self.misdirected + self.misplaced
    }

    /// Counts a packet that went this way.
    pub(super) fn went(&mut self, way: &'static str) {
        *self.ways.entry(way).or_default() += 1;
    }

    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.told.len() < 12 {
            let what = what();
            self.told.push(what);
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.packets += other.packets;
        self.stale += other.stale;
        self.died += other.died;
        self.misdirected += other.misdirected;
        self.misplaced += other.misplaced;
        self.uncovered += other.uncovered;
        self.uncovered_live += other.uncovered_live;
        self.lookups += other.lookups;
        self.inserts += other.inserts;
        self.evictions += other.evictions;
        self.refused += other.refused;
        self.exhausted += other.exhausted;
        self.unserved += other.unserved;
        self.sizes += other.sizes;
        self.sweeps += other.sweeps;
        self.largest_flows = self.largest_flows.max(other.largest_flows);
        for (all, more) in [
            (&mut self.events, other.events),
            (&mut self.excused, other.excused),
            (&mut self.ways, other.ways),
        ] {
            more.into_iter().for_each(|(name, count)| *all.entry(name).or_default() += count);
        }
        for (name, more) in other.kinds {
            let sent = self.kinds.entry(name).or_default();
            sent.connections += more.connections;
            sent.packets += more.packets;
            sent.stale += more.stale;
        }
        let room = 12 - self.told.len().min(12);
        self.told.extend(other.told.into_iter().take(room));
    }
}

impl Excuse {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent for longer than idle_timeout across a change",
            Self::Evicted => "its entry was evicted",
            Self::Refused => "could not be recorded",
            Self::UnderWay => "a datagram under way in the moment of a change",
        }
    }
}

/// All servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers {
    known: HashMap<u32, Physical>,
}

impl Servers {
    pub(super) fn add(&mut self, number: u32, takes_new: bool, now: u64) {
        let physical = Physical { deaths: 0, alive: true, takes_new, since: now };
        self.known.insert(number, physical);
    }

    pub(super) fn get(&self, number: u32) -> Option<&Physical> {
        self.known.get(&number)
    }

    pub(super) fn deaths(&self, number: u32) -> u32 {
        self.known.get(&number).map_or(0, |physical| physical.deaths)
    }

    pub(super) fn takes_new(&mut self, number: u32, takes: bool, now: u64) {
        if let Some(physical) = self.known.get_mut(&number)
            && physical.takes_new != takes
        {
            (physical.takes_new, physical.since) = (takes, now);
        }
    }

    pub(super) fn die(&mut self, number: u32, now: u64) {
        self.takes_new(number, false, now);
        if let Some(physical) = self.known.get_mut(&number)
            && physical.alive
        {
            physical.alive = false;
            physical.deaths += 1;
        }
    }

    pub(super) fn live(&mut self, number: u32) {
        if let Some(physical) = self.known.get_mut(&number) {
            physical.alive = true;
        }
    }
}
