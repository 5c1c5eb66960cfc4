//! Which service a packet is for: a look-up in an open-addressing table of frontends.
//!
//! The most specific frontend has the packet: the address alone before a longer prefix before a
//! shorter one, and of one address (or prefix) the fewest ports. Cost: one cache line for a hit
//! of address and port without collision, which is the normal case; all else is a function of its
//! own. The daemon keeps every record within [`SERVICE_PROBES`] of where its search begins, and
//! writes into a prefix's records what it inherits of those around it, so that one prefix is
//! enough; an address alone inherits by missing.

use crate::abi::{
    ADDRESS_VIP, Address, FEATURE_PREFIXES, FlowKey, KEY_EMPTY, KEY_PREFIX, PORT_EXACT,
    PORT_FRAGMENTS, SERVICE_PROBES, ServiceRecord, Table, port_key, service_key,
};
use crate::ip::{Flow, Ip, UDP};
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
    find_frontend::<I, M>(maps, &flow.key.destination, flow.destination_port(), flow.protocol())
}

/// The record of the flow's very destination.
#[inline(always)]
pub(crate) fn find_exact<'m, I: Ip, M: Maps>(
    maps: &'m M,
    flow: &Flow,
) -> Option<&'m ServiceRecord> {
    let key = service_key(flow.destination_port(), flow.protocol(), I::FAMILY);
    find::<I, M>(maps, &flow.key.destination, key)
}

/// The record of an address alone.
#[inline(always)]
pub(crate) fn find_alone<'m, I: Ip, M: Maps>(
    maps: &'m M,
    address: &Address,
) -> Option<&'m ServiceRecord> {
    find::<I, M>(maps, address, service_key(0, 0, I::FAMILY))
}

/// Whether a VIP prefix holds an address.
#[inline(always)]
pub(crate) fn is_in_prefix<I: Ip, M: Maps>(maps: &M, address: &Address) -> bool {
    has_prefixes(maps) && maps.vip_prefix(I::FAMILY, address).is_some()
}

/// The service that listens on an address, a port (as in a packet) and a protocol.
#[inline(always)]
pub fn find_frontend<I: Ip, M: Maps>(
    maps: &M,
    address: &Address,
    port: u16,
    protocol: u8,
) -> Option<Service> {
    let record = match find::<I, M>(maps, address, service_key(port, protocol, I::FAMILY)) {
        Some(record) => record,
        None => maps.service(maps.wider::<I>(address, port_key(port, 0, protocol, I::FAMILY)))?,
    };
    Some(of_record(maps, record))
}

/// The service that takes all fragments of the key's destination and protocol; its ports do not
/// count. A record without slots says that none does, whatever the prefix around it says.
#[inline(always)]
pub fn find_fragments<I: Ip, M: Maps>(maps: &M, key: &FlowKey) -> Option<Service> {
    let service = of_record(maps, find_fragment_record::<I, M>(maps, key)?);
    (service.table.slots() != 0).then_some(service)
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
/// Called through [`Maps::address`].
#[inline(always)]
pub fn find_address<I: Ip, M: Maps>(maps: &M, address: &Address) -> u32 {
    let bits = find_alone::<I, M>(maps, address).map_or(0, |record| record.flags);
    // Every prefix in the map is of VIPs.
    let is_in_prefix = bits & ADDRESS_VIP == 0 && is_in_prefix::<I, M>(maps, address);
    if is_in_prefix { bits | ADDRESS_VIP } else { bits }
}

/// How the records of a prefix name it: its bits, then a one, then zeroes. So prefixes of any
/// length have different names, and records need no length. `length` is less than the address's.
#[inline(always)]
#[must_use]
pub const fn prefix_name(address: &Address, length: u32, family: u32) -> Address {
    let [a, b, c, d] = *address;
    if family == 4 {
        let at = length & 31;
        let word = u32::from_be(a) & !(u32::MAX >> at) | (1 << 31) >> at;
        return [word.to_be(), 0, 0, 0];
    }
    let (high, low) = (join(a, b), join(c, d));
    let at = length & 63;
    let (beyond, one) = (u64::MAX >> at, (1 << 63) >> at);
    let (high, low) =
        if length < 64 { (high & !beyond | one, 0) } else { (high, low & !beyond | one) };
    [
        ((high >> 32) as u32).to_be(),
        (high as u32).to_be(),
        ((low >> 32) as u32).to_be(),
        (low as u32).to_be(),
    ]
}

/// Two words of an address as one number.
#[inline(always)]
const fn join(high: u32, low: u32) -> u64 {
    (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64
}

#[inline(always)]
fn has_prefixes<M: Maps>(maps: &M) -> bool {
    maps.settings().features & FEATURE_PREFIXES != 0
}

/// The name of the longest VIP prefix that holds an address.
#[inline(always)]
fn name_of_prefix<I: Ip, M: Maps>(maps: &M, address: &Address) -> Option<Address> {
    if !has_prefixes(maps) {
        return None;
    }
    let length = maps.vip_prefix(I::FAMILY, address)?;
    Some(prefix_name(address, length, I::FAMILY))
}

/// No place of the service table.
pub const NOWHERE: u32 = u32::MAX;

/// The place of the record for what no record of the very address and port says: ranges of
/// ports, then the prefix around it. Nobody listens on port 0, the whole range of ports
/// notwithstanding. `key` holds port and protocol, as [`port_key`] of no bits. Called through
/// [`Maps::wider`].
#[inline(always)]
pub fn wider<I: Ip, M: Maps>(maps: &M, address: &Address, key: u32) -> u32 {
    find_wider::<I, M>(maps, address, (key >> 16) as u16, (key >> 8) as u8).unwrap_or(NOWHERE)
}

#[inline(always)]
fn find_wider<I: Ip, M: Maps>(maps: &M, address: &Address, port: u16, protocol: u8) -> Option<u32> {
    if port == 0 {
        return None;
    }
    if let Some(place) = find_range::<I, M>(maps, address, port, protocol, 0) {
        return Some(place);
    }
    let name = name_of_prefix::<I, M>(maps, address)?;
    let exact = port_key(port, PORT_EXACT, protocol | KEY_PREFIX, I::FAMILY);
    if let Some(place) = place_of::<I, M>(maps, &name, exact) {
        return Some(place);
    }
    find_range::<I, M>(maps, &name, port, protocol, KEY_PREFIX)
}

/// The narrowest range of ports with a record of this address, or of this name of a prefix
/// (`space` is [`KEY_PREFIX`]). Only lengths that some frontend has are looked for.
#[inline(always)]
fn find_range<I: Ip, M: Maps>(
    maps: &M,
    address: &Address,
    port: u16,
    protocol: u8,
    space: u8,
) -> Option<u32> {
    let alone = find::<I, M>(maps, address, port_key(0, PORT_EXACT, space, I::FAMILY))?;
    let lengths = alone.ports >> (if protocol == UDP { 16 } else { 0 });
    let port = u32::from(u16::from_be(port));
    for back in 0..PORT_EXACT {
        let bits = PORT_EXACT - 1 - back;
        if lengths >> bits & 1 == 0 {
            continue;
        }
        let first = (port & !(0xffff >> bits)) as u16;
        let key = port_key(first.to_be(), bits, protocol | space, I::FAMILY);
        if let Some(place) = place_of::<I, M>(maps, address, key) {
            return Some(place);
        }
    }
    None
}

#[inline(never)]
fn find_fragment_record<'m, I: Ip, M: Maps>(
    maps: &'m M,
    key: &FlowKey,
) -> Option<&'m ServiceRecord> {
    let protocol = key.kind as u8;
    let own = port_key(0, PORT_FRAGMENTS, protocol, I::FAMILY);
    if let Some(record) = find::<I, M>(maps, &key.destination, own) {
        return Some(record);
    }
    let name = name_of_prefix::<I, M>(maps, &key.destination)?;
    find::<I, M>(maps, &name, port_key(0, PORT_FRAGMENTS, protocol | KEY_PREFIX, I::FAMILY))
}

#[inline(always)]
fn find<'m, I: Ip, M: Maps>(maps: &'m M, address: &Address, key: u32) -> Option<&'m ServiceRecord> {
    search::<I, M>(maps, address, key).map(|(_, record)| record)
}

#[inline(always)]
fn place_of<I: Ip, M: Maps>(maps: &M, address: &Address, key: u32) -> Option<u32> {
    search::<I, M>(maps, address, key).map(|(place, _)| place)
}

#[inline(always)]
fn search<'m, I: Ip, M: Maps>(
    maps: &'m M,
    address: &Address,
    key: u32,
) -> Option<(u32, &'m ServiceRecord)> {
    let settings = maps.settings();
    let start = I::service_hash(address, key);
    for probe in 0..SERVICE_PROBES {
        let place = start.wrapping_add(probe) & settings.service_mask;
        let record = maps.service(place)?;
        if record.key == key && I::same(&record.address, address) {
            return Some((place, record));
        }
        if record.key == KEY_EMPTY {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests;
