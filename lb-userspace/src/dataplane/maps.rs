//! The program's maps from the daemon's side: arrays in memory, hash maps by system call.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use bytemuck::Pod;
use lb_common::abi::{FlowEntry, FlowKey, NatEntry, Server, ServiceRecord, Settings, Traffic, map};
use lb_common::verdict::{EVENT_BASE, Event, ROW, Verdict};

use super::entries::Entries;
use super::mapped::Mapped;

/// Every map of a loaded program. The control loop is the only writer of the arrays it fills;
/// the program is the only writer of the counters.
#[derive(Debug)]
pub struct LiveMaps {
    pub settings: Settings,
    pub services: Mapped<ServiceRecord>,
    pub tables: Mapped<u64>,
    pub marks: Mapped<u64>,
    pub words: Mapped<u64>,
    pub ports: Mapped<u64>,
    pub servers: Mapped<Server>,
    pub spare: Mapped<u64>,
    pub flows: Entries<FlowKey, FlowEntry>,
    pub nat: Entries<FlowKey, NatEntry>,
    traffic: Mapped<Traffic>,
    new_flows: Mapped<u64>,
    counters: Mapped<u64>,
}

impl LiveMaps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, settings: Settings) -> Result<Self> {
        Ok(Self {
            settings,
            services: array(ebpf, map::SERVICES)?,
            tables: array(ebpf, map::TABLES)?,
            marks: array(ebpf, map::MARKS)?,
            words: array(ebpf, map::WORDS)?,
            ports: array(ebpf, map::PORTS)?,
            servers: array(ebpf, map::SERVERS)?,
            spare: array(ebpf, map::SPARE)?,
            flows: Entries::new(owned(&data(ebpf, map::FLOWS)?)?),
            nat: Entries::new(owned(&data(ebpf, map::NAT)?)?),
            traffic: array(ebpf, map::TRAFFIC)?,
            new_flows: array(ebpf, map::NEW_FLOWS)?,
            counters: array(ebpf, map::COUNTERS)?,
        })
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

fn data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data)) => Ok(data),
        _ => bail!("the eBPF object has no map {name} of the type expected"),
    }
}

fn owned(data: &MapData) -> Result<OwnedFd> {
    data.fd().as_fd().try_clone_to_owned().context("cannot duplicate a map's descriptor")
}
