//! Which service a packet is for: a look-up in an open-addressing table of frontends.
//!
//! Cost: one cache line for a hit without collision. The daemon keeps every record within
//! [`SERVICE_PROBES`] of where its search begins.

use crate::abi::{Address, KEY_EMPTY, SERVICE_PROBES, ServiceRecord, Table, service_key};
use crate::ip::{Flow, Ip};
use crate::maps::Maps;

/// What a packet needs to know of its service: its record, read once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its Maglev table and backend rows.
    pub table: Table,
    /// `SERVICE_*` bits.
    pub flags: u32,
    /// Its number.
    pub number: u32,
    /// As in [`ServiceRecord::udp_until`].
    pub udp_until: u32,
    /// As in [`ServiceRecord::mss`].
    pub mss: u32,
    /// As in [`ServiceRecord::quic`].
    pub quic: u32,
    /// As in [`ServiceRecord::rate`].
    pub rate: u32,
    /// As in [`ServiceRecord::burst`].
    pub burst: u32,
}

impl Service {
    /// Whether one of these `SERVICE_*` bits is set.
    #[inline(always)]
    #[must_use]
    pub const fn is(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// The service that listens on the flow's destination.
#[inline(always)]
pub fn find_service<I: Ip, M: Maps>(maps: &M, flow: &Flow) -> Option<Service> {
    let key = service_key(flow.destination_port(), flow.protocol(), I::FAMILY);
    let record = find::<I, M>(maps, &flow.key.destination, key)?;
    Some(of_record(maps, record))
}

#[inline(always)]
fn of_record<M: Maps>(maps: &M, record: &ServiceRecord) -> Service {
    Service {
        table: Table(maps.table(record)),
        flags: record.flags,
        number: record.service,
        udp_until: record.udp_until,
        mss: record.mss,
        quic: record.quic,
        rate: record.rate,
        burst: record.burst,
    }
}

/// What the node does with an address apart from any port: `ADDRESS_*` bits, zero for nothing.
#[inline(never)]
pub fn find_address<I: Ip, M: Maps>(maps: &M, address: &Address) -> u32 {
    find::<I, M>(maps, address, service_key(0, 0, I::FAMILY)).map_or(0, |record| record.flags)
}

#[inline(always)]
fn find<'m, I: Ip, M: Maps>(maps: &'m M, address: &Address, key: u32) -> Option<&'m ServiceRecord> {
    let settings = maps.settings();
    let start = I::service_hash(settings.seed, address, key);
    for probe in 0..SERVICE_PROBES {
        let record = maps.service(start.wrapping_add(probe) & settings.service_mask)?;
        if record.key == key && I::same(&record.address, address) {
            return Some(record);
        }
        if record.key == KEY_EMPTY {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests;
