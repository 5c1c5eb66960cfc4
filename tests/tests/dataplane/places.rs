//! Which services there are, and on which addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::Zeroable;
use lb_common::abi::{
    ADDRESS_VIP, LIST_BLOCK, SERVICE_ALLOW, SERVICE_BLOCK, SERVICE_HASH_ADDRESSES,
    SERVICE_HASH_SOURCE, SERVICE_MSS, SERVICE_QUIC, SERVICE_RATE, SERVICE_RESET, SERVICE_TRACK,
    SERVICE_UDP_FLOW, ServerIdKey, ServiceRecord,
};
use lb_common::quic;
use lb_userspace::config::model::Prefix;
use lb_userspace::dataplane::services::{Key, prefix_key};

use crate::world::{
    Feature, Group, TCP, UDP, VIP4, VIP6, Way, World, nat_flag, own_addresses, port,
};

/// An interface in the map of devices, and one that is not.
pub(crate) const LISTED_DEVICE: u32 = 7;
pub(crate) const UNLISTED_DEVICE: u32 = 8;

/// What services with an MSS allow.
pub(crate) const MSS: u16 = 1200;
/// QUIC: the configuration of connection ids, and how long a server id is.
pub(crate) const QUIC_CONFIG: u8 = 3;
pub(crate) const SERVER_ID: usize = 4;
const QUIC: u32 = quic::config(QUIC_CONFIG as u32, SERVER_ID as u32);

/// The server id of a backend.
pub(crate) fn server_id(index: usize) -> [u8; SERVER_ID] {
    [0xa0 + index as u8, 1, 2, 3]
}

/// Features of all ways whose backends are those of plain services.
const SHARED: [(Feature, u32); 11] = [
    (Feature::HashSource, SERVICE_HASH_SOURCE),
    (Feature::HashAddresses, SERVICE_HASH_ADDRESSES),
    (Feature::Mss, SERVICE_MSS),
    (Feature::Quic, SERVICE_QUIC),
    (Feature::Allow, SERVICE_ALLOW),
    (Feature::Rate, SERVICE_RATE),
    (Feature::Block, SERVICE_BLOCK),
    (Feature::UdpFlow, SERVICE_UDP_FLOW),
    (Feature::Track, SERVICE_TRACK | SERVICE_UDP_FLOW),
    (Feature::Changing, 0),
    (Feature::Reset, SERVICE_RESET),
];

/// Fills the world.
pub(crate) fn furnish(world: &mut World) {
    own_addresses(world);
    world.rig.maps.devices.set(&LISTED_DEVICE, [crate::rig::INGRESS, 0]).unwrap();
    for six in [false, true] {
        let vip = if six { VIP6 } else { VIP4 };
        let mut plain = Vec::new();
        for way in Way::ALL {
            let group = world.group(way, Feature::Plain, six);
            listen_at(world, vip, Feature::Plain, 0, &group);
            for (feature, flags) in SHARED {
                listen_at(world, vip, feature, flags, &group);
            }
            fragments(world, six, &group);
            plain.push(group);
        }
        for way in [Way::Dsr, Way::Nat, Way::Gue6] {
            for feature in [Feature::Down, Feature::NoNextHop] {
                let group = world.group(way, feature, six);
                listen_at(world, vip, feature, 0, &group);
            }
        }
        for way in Way::ALL.into_iter().filter(|way| *way != Way::Local) {
            for feature in [Feature::Narrow, Feature::Tiny] {
                let group = world.group(way, feature, six);
                listen_at(world, vip, feature, 0, &group);
            }
        }
        specific(world, six, &plain);
        let blocked = prefix_key(LIST_BLOCK, blocked(six));
        world.rig.maps.sources.set(&blocked, 1).unwrap();
    }
}

/// TCP and UDP on the port of this feature.
fn listen_at(world: &mut World, vip: IpAddr, feature: Feature, flags: u32, group: &Group) {
    let at = port(feature, group.way);
    let keys = [TCP, UDP].map(|protocol| Key::exact(vip, at, protocol));
    let record = ServiceRecord {
        flags: flags | nat_flag(group.way, feature),
        mss: u32::from(MSS),
        quic: QUIC,
        // No more come, however long a test runs.
        rate: 0,
        burst: 3,
        ..ServiceRecord::zeroed()
    };
    let group = Group { feature, ..group.clone() };
    let number = world.listen(&keys, &group, record);
    let maps = &world.rig.maps;
    if feature == Feature::Allow {
        maps.sources.set(&prefix_key(number, allowed(vip.is_ipv6())), 1).unwrap();
    }
    if feature == Feature::Quic {
        name_servers(world, number, &group);
    }
}

/// The backends of a service have QUIC server ids.
fn name_servers(world: &World, service: u32, group: &Group) {
    for index in 0..3 {
        let [a, b, c, d] = server_id(index);
        let id = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
        let key = ServerIdKey { service, padding: 0, id };
        world.rig.maps.server_ids.set(&key, group.row(index)).unwrap();
    }
}

/// Who may come to services with an allow list: of the clients, those with low numbers.
fn allowed(six: bool) -> Prefix {
    let address = if six { "2001:db8:c::" } else { "198.51.100.0" };
    Prefix::around(address.parse().unwrap(), if six { 121 } else { 25 })
}

/// Who is on the block list.
fn blocked(six: bool) -> Prefix {
    let address = if six { "2001:db8:bad::" } else { "203.0.113.0" };
    Prefix::around(address.parse().unwrap(), if six { 48 } else { 24 })
}

/// An address on which a service of this way takes all fragments.
pub(crate) fn fragment_vip(six: bool, way: Way, by_source: bool) -> IpAddr {
    let number = 100 + 2 * way as u16 + u16::from(by_source);
    if six {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number))
    } else {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, number as u8))
    }
}

/// The port of [`fragment_vip`].
pub(crate) const FRAGMENT_PORT: u16 = 443;

fn fragments(world: &mut World, six: bool, group: &Group) {
    for by_source in [false, true] {
        let vip = fragment_vip(six, group.way, by_source);
        let policy = if by_source { SERVICE_HASH_SOURCE } else { SERVICE_HASH_ADDRESSES };
        let feature = if by_source { Feature::HashSource } else { Feature::HashAddresses };
        let record = ServiceRecord {
            // Connection ids are no reason to look into fragments.
            flags: policy | nat_flag(group.way, feature) | SERVICE_QUIC,
            quic: QUIC,
            ..ServiceRecord::zeroed()
        };
        let of = |protocol| {
            [Key::exact(vip, FRAGMENT_PORT, protocol), Key::fragments(Prefix::host(vip), protocol)]
        };
        let keys = [of(TCP), of(UDP)].concat();
        let number = world.listen(&keys, &Group { feature, ..group.clone() }, record);
        name_servers(world, number, group);
        world.address(Prefix::host(vip), ADDRESS_VIP, 0);
    }
}

/// VIPs of more than one port or address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide {
    /// An address with a port, a block of ports and all ports.
    pub(crate) host: IpAddr,
    /// A prefix, one in it, and an address in that with records of its own.
    pub(crate) outer: Prefix,
    pub(crate) inner: Prefix,
    pub(crate) within: IpAddr,
}

pub(crate) fn wide(six: bool) -> Wide {
    let [host, outer, inner, within] = if six {
        ["2001:db8::20", "2001:db8:f::", "2001:db8:f:7::", "2001:db8:f:7::7"]
    } else {
        ["192.0.2.20", "198.18.0.0", "198.18.7.0", "198.18.7.7"]
    }
    .map(|address| address.parse().unwrap());
    let (long, short) = if six { (64, 48) } else { (24, 16) };
    Wide { host, outer: Prefix::around(outer, short), inner: Prefix::around(inner, long), within }
}

/// The block of ports on the host: the 64 from here on.
pub(crate) const BLOCK_FIRST: u16 = 5952;
const BLOCK_BITS: u32 = 10;

fn specific(world: &mut World, six: bool, plain: &[Group]) {
    let Wide { host, outer, inner, within } = wide(six);
    let alone = Prefix::host(host);
    let group = |way: Way| plain[way as usize].clone();
    let mut listen = |way: Way, keys: &[Key]| {
        let flags = nat_flag(way, Feature::Plain);
        let record = ServiceRecord { flags, ..ServiceRecord::zeroed() };
        world.listen(keys, &group(way), record);
    };
    listen(Way::Gue6, &[Key::exact(host, 6000, TCP)]);
    listen(Way::Ipip4, &[Key::range(alone, BLOCK_FIRST, BLOCK_BITS, TCP)]);
    listen(Way::Dsr, &[Key::range(alone, 0, 0, TCP)]);
    listen(Way::Nat, &[Key::range(alone, BLOCK_FIRST, BLOCK_BITS, UDP)]);
    // The longer prefix has what it inherits of the shorter one.
    listen(Way::Ipip6, &[Key::range(outer, 0, 0, TCP), Key::range(inner, 0, 0, TCP)]);
    listen(Way::Nat, &[Key::range(outer, 6000, 16, TCP), Key::range(inner, 6000, 16, TCP)]);
    listen(Way::Gue4, &[Key::range(inner, 443, 16, TCP)]);
    listen(Way::Local, &[Key::exact(within, 80, TCP)]);
    world.address(alone, ADDRESS_VIP, 1 | 1 << BLOCK_BITS | 1 << (16 + BLOCK_BITS));
    for prefix in [outer, inner] {
        world.address(prefix, ADDRESS_VIP, 1);
        let length = u32::from(prefix.length);
        world.rig.maps.add_prefix(&prefix_key(0, prefix), length).unwrap();
    }
    world.address(Prefix::host(within), ADDRESS_VIP, 0);
}
