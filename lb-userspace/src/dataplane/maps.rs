//! The program's maps from the daemon's side: arrays in memory, hash maps by system call.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use bytemuck::Pod;
use lb_common::abi::{
    AddressKey, Bucket, FlowEntry, FlowKey, NatEntry, RateKey, Server, ServerIdKey, ServiceRecord,
    Settings, Traffic, map,
};
use lb_common::verdict::{EVENT_BASE, Event, ROW, Verdict};

use super::entries::Entries;
use super::mapped::Mapped;

/// Every map of a loaded program. The control loop is the only writer of the arrays it fills;
/// the program is the only writer of the counters.
#[derive(Debug)]
pub struct LiveMaps {
    settings: Settings,
    /// Those of the settings: they grow.
    features: AtomicU32,
    pub services: Mapped<ServiceRecord>,
    pub tables: Mapped<u64>,
    pub marks: Mapped<u64>,
    pub words: Mapped<u64>,
    pub ports: Mapped<u64>,
    pub servers: Mapped<Server>,
    pub spare: Mapped<u64>,
    pub flows: Entries<FlowKey, FlowEntry>,
    pub nat: Entries<FlowKey, NatEntry>,
    /// VIP prefixes: their lengths, longest match. Written by [`Self::add_prefix`] and
    /// [`Self::remove_prefix`].
    pub prefixes: Entries<AddressKey, u32>,
    prefix_count: Mapped<u64>,
    /// Sources on lists, longest match.
    pub sources: Entries<AddressKey, u32>,
    pub rates: Entries<RateKey, Bucket>,
    pub server_ids: Entries<ServerIdKey, u32>,
    /// Interfaces frames may leave by: interface, and the program that sees them leave (none).
    pub devices: Entries<u32, [u32; 2]>,
    /// What packets said against backends.
    pub doubts: Mapped<u64>,
    traffic: Mapped<Traffic>,
    new_flows: Mapped<u64>,
    counters: Mapped<u64>,
}

impl LiveMaps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, settings: Settings) -> Result<Self> {
        Ok(Self {
            settings,
            features: settings.features.into(),
            services: array(ebpf, map::SERVICES)?,
            tables: array(ebpf, map::TABLES)?,
            marks: array(ebpf, map::MARKS)?,
            words: array(ebpf, map::WORDS)?,
            ports: array(ebpf, map::PORTS)?,
            servers: array(ebpf, map::SERVERS)?,
            spare: array(ebpf, map::SPARE)?,
            flows: entries(ebpf, map::FLOWS)?,
            nat: entries(ebpf, map::NAT)?,
            prefixes: entries(ebpf, map::PREFIXES)?,
            prefix_count: array(ebpf, map::PREFIX_COUNT)?,
            sources: entries(ebpf, map::SOURCES)?,
            rates: entries(ebpf, map::RATES)?,
            server_ids: entries(ebpf, map::SERVER_IDS)?,
            devices: entries(ebpf, map::DEVICES)?,
            doubts: array(ebpf, map::DOUBTS)?,
            traffic: array(ebpf, map::TRAFFIC)?,
            new_flows: array(ebpf, map::NEW_FLOWS)?,
            counters: array(ebpf, map::COUNTERS)?,
        })
    }

    /// Adds a VIP prefix that is not there.
    pub fn add_prefix(&self, key: &AddressKey, length: u32) -> Result<()> {
        let count = self.prefix_count.get(0).unwrap_or_default();
        self.prefix_count.set(0, count + 1)?;
        self.prefixes.set(key, length).context("VIP prefixes")
    }

    /// Removes a VIP prefix that is there.
    pub fn remove_prefix(&self, key: &AddressKey) -> Result<()> {
        self.prefixes.remove(key).context("VIP prefixes")?;
        let count = self.prefix_count.get(0).unwrap_or_default();
        self.prefix_count.set(0, count.saturating_sub(1))
    }

    /// What the program was loaded with.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings { features: self.features.load(Ordering::Relaxed), ..self.settings }
    }

    /// Notes that the program has these features now.
    pub(super) fn set_features(&self, features: u32) {
        self.features.store(features, Ordering::Relaxed);
    }

    /// Maps without a kernel: for one processor, with room for so many flows and NAT entries.
    #[cfg(test)]
    pub(crate) fn in_memory(settings: Settings, flows: u32, nat: u32) -> Result<Self> {
        let rows = settings.backend_rows;
        Ok(Self {
            features: AtomicU32::new(settings.features),
            settings,
            services: Mapped::anonymous(settings.service_mask + 1)?,
            tables: Mapped::bulk(1 << 16)?,
            marks: Mapped::bulk((1 << 16) / 8)?,
            words: Mapped::anonymous(rows)?,
            ports: Mapped::anonymous(rows)?,
            servers: Mapped::anonymous(1 << 14)?,
            spare: Mapped::bulk(64 * lb_common::abi::SPARES / 4)?,
            flows: Entries::in_memory(flows, true),
            nat: Entries::in_memory(nat, false),
            prefixes: Entries::in_memory(64, false),
            prefix_count: Mapped::anonymous(1)?,
            sources: Entries::in_memory(64, false),
            rates: Entries::in_memory(64, true),
            server_ids: Entries::in_memory(1024, false),
            devices: Entries::in_memory(64, false),
            doubts: Mapped::anonymous(lb_common::abi::DOUBTS)?,
            traffic: Mapped::anonymous(rows)?,
            new_flows: Mapped::anonymous(rows)?,
            counters: Mapped::anonymous(ROW)?,
        })
    }

    /// Nobody reads what was in the arrays before any more.
    #[cfg(test)]
    pub(crate) fn forget_history(&self) {
        self.services.forget_history();
        for array in [&self.tables, &self.marks, &self.words, &self.ports, &self.spare] {
            array.forget_history();
        }
        self.servers.forget_history();
    }

    /// Counts a packet, as the program does.
    #[cfg(test)]
    pub(crate) fn count_sent(&self, row: u32) {
        let before = self.traffic.get(row).unwrap_or_default();
        self.traffic.store(row, Traffic { packets: before.packets + 1, ..before });
    }

    /// Packets and bytes sent to a backend row, all processors together.
    #[must_use]
    pub fn traffic(&self, row: u32) -> Traffic {
        let mut sum = Traffic::default();
        for index in (row..self.traffic.len()).step_by(self.settings.backend_rows as usize) {
            let part = self.traffic.get(index).unwrap_or_default();
            sum.packets += part.packets;
            sum.bytes += part.bytes;
        }
        sum
    }

    /// Packets sent to all backends, past and present, whose rows are below `rows`.
    #[must_use]
    pub fn sent(&self, rows: u32) -> u64 {
        (0..rows).map(|row| self.traffic(row).packets).sum()
    }

    /// New flows of a backend row.
    #[must_use]
    pub fn new_flows(&self, row: u32) -> u64 {
        self.new_flows.sum(row, self.settings.backend_rows)
    }

    /// Packets that ended so.
    #[must_use]
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        self.counters.sum(verdict as u32, ROW)
    }

    /// How often it happened.
    #[must_use]
    pub fn events(&self, event: Event) -> u64 {
        self.counters.sum(EVENT_BASE + event as u32, ROW)
    }
}

fn array<T: Pod>(ebpf: &mut Ebpf, name: &str) -> Result<Mapped<T>> {
    let data = data(ebpf, name)?;
    let info = data.info().with_context(|| format!("map {name}"))?;
    if info.value_size() as usize != size_of::<T>() {
        bail!("map {name} of the eBPF object has elements of {} bytes", info.value_size());
    }
    Mapped::new(data.fd(), info.max_entries()).with_context(|| format!("map {name}"))
}

fn entries<K: Pod + Eq + std::hash::Hash, V: Pod>(
    ebpf: &mut Ebpf,
    name: &str,
) -> Result<Entries<K, V>> {
    let data = data(ebpf, name)?;
    let info = data.info().with_context(|| format!("map {name}"))?;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    if (key, value) != (size_of::<K>(), size_of::<V>()) {
        bail!("map {name} of the eBPF object has entries of {key} and {value} bytes");
    }
    let map = data.fd().as_fd().try_clone_to_owned();
    let map = map.with_context(|| format!("cannot duplicate the descriptor of map {name}"))?;
    Ok(Entries::new(map, info.max_entries()))
}

fn data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    use Map::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap};
    match ebpf.take_map(name) {
        Some(Array(data) | DevMapHash(data) | HashMap(data) | LruHashMap(data) | LpmTrie(data)) => {
            Ok(data)
        }
        _ => bail!("the eBPF object has no map {name} of the type expected"),
    }
}
