//! What others do, for comparison: an entry for every flow, and a table that is rebuilt for every
//! change. Both know at once which servers take new connections.

use std::collections::HashMap;

use lb_common::abi::FlowKey;
use lb_common::hash::{fast_range, flow_v4};
use lb_common::maglev::{self, Entry};

use super::oracle::Servers;
use super::site::Site;
use crate::dataplane::memory::Table;

/// How packets find their servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Design {
    /// The program's and the daemon's own code.
    Exceptions,
    /// One entry for each flow in an LRU map, the table for new ones.
    PerFlow,
    /// The table alone.
    Rebuilt,
}

/// The state of either.
pub(super) struct Other {
    seed: u64,
    tables: HashMap<u32, Vec<u32>>,
    flows: Table<FlowKey, u32>,
}

/// What one packet cost, and where it went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Went {
    pub(super) to: Option<u32>,
    pub(super) lookups: u64,
    pub(super) inserts: u64,
}

impl Other {
    pub(super) fn new(seed: u64, flows: u32) -> Self {
        Self { seed, tables: HashMap::new(), flows: Table::new(flows as usize, true) }
    }

    /// Builds the tables of those that take new connections.
    pub(super) fn rebuild(&mut self, sites: &[Site], servers: &Servers, slots: fn(usize) -> u32) {
        for site in sites {
            let takes: Vec<_> = site
                .service
                .backends
                .iter()
                .filter(|b| {
                    let number = site.backends.iter().find(|s| s.name == b.name).map(|s| s.number);
                    number.and_then(|n| servers.get(n)).is_some_and(|server| server.takes_new)
                })
                .collect();
            let entries: Vec<Entry<'_>> = (0..)
                .zip(&takes)
                .map(|(index, b)| Entry { name: &b.name, weight: b.weight, index })
                .collect();
            let table = maglev::build(&entries, slots(site.backends.len()), self.seed);
            let number = |index: u16| {
                let name = &takes[usize::from(index)].name;
                site.backends.iter().find(|s| s.name == *name).map_or(0, |s| s.number)
            };
            let vip = u32::from_ne_bytes(site.vip.octets());
            self.tables.insert(vip, table.into_iter().map(number).collect());
        }
    }

    pub(super) fn send(&self, design: Design, key: &FlowKey, servers: &Servers) -> Went {
        let table = self.tables.get(&key.destination[0]).filter(|table| !table.is_empty());
        let slot = table.map(|t| fast_range(flow_v4(self.seed, key), t.len() as u32));
        let home = table.zip(slot).map(|(table, slot)| table[slot as usize]);
        if design == Design::Rebuilt {
            return Went { to: home, ..Went::default() };
        }
        if let Some(at) = self.flows.place(key) {
            // SAFETY: in the map, and this thread is the only one.
            let known = unsafe { *at.as_ptr() };
            if servers.get(known).is_some_and(|server| server.alive) {
                return Went { to: Some(known), lookups: 1, inserts: 0 };
            }
        }
        let Some(home) = home else { return Went { to: None, lookups: 1, inserts: 0 } };
        self.flows.set(key, home);
        self.flows.end_packet();
        Went { to: Some(home), lookups: 1, inserts: 1 }
    }
}
