//! What the maps hold in these tests: services of both families, every mode and every feature,
//! written as the daemon writes them, backend before table and table before service.
//!
//! Backends are in groups of three: what they are sent in ([`Way`]), the clients' family, and
//! their health. A service is a record that points to a group; its port says its feature and way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytemuck::Zeroable;
use lb_common::abi::{
    ADDRESS_NAT, ADDRESS_VIP, BACKEND_BLOCK, IFINDEX_INGRESS, IFINDEX_LOCAL, KIND_DSR, KIND_GUE4,
    KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_NAT, LINE, SERVICE_NAT, SPARES, Server, ServiceRecord,
    Table, Word,
};
use lb_common::maglev::{Entry, build, slots_for};
use lb_userspace::config::model::Prefix;
use lb_userspace::dataplane::services::{Key, ServiceTable, address};

use crate::places;
use crate::rig::{INGRESS, ROWS, Rig, SEED, Sizes};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
pub(crate) const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
const NAT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 254));
const NAT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0xfe));

/// Where NAT connections come from, in this family.
pub(crate) const fn nat_address(six: bool) -> IpAddr {
    if six { NAT6 } else { NAT4 }
}

pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
/// The tag of the second backend of each group.
pub(crate) const BACKEND_VLAN: u32 = 77;
/// Largest packet to a backend, its tunnel included, in groups that are not narrow.
pub(crate) const MTU: u32 = 1500;
/// In narrow ones, and in tiny ones: less than anyone may be told.
pub(crate) const NARROW_MTU: u32 = 1400;
pub(crate) const TINY_MTU: u32 = 90;

/// How packets are sent to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Dsr,
    Nat,
    Ipip4,
    Ipip6,
    Gue4,
    Gue6,
    /// To this host's kernel.
    Local,
}

impl Way {
    pub(crate) const ALL: [Self; 7] =
        [Self::Dsr, Self::Nat, Self::Ipip4, Self::Ipip6, Self::Gue4, Self::Gue6, Self::Local];

    const fn kind(self) -> u32 {
        match self {
            Self::Dsr | Self::Local => KIND_DSR,
            Self::Nat => KIND_NAT,
            Self::Ipip4 => KIND_IPIP4,
            Self::Ipip6 => KIND_IPIP6,
            Self::Gue4 => KIND_GUE4,
            Self::Gue6 => KIND_GUE6,
        }
    }

    /// Bytes it adds: an outer IPv4 or IPv6 header, and one of UDP.
    pub(crate) const fn overhead(self) -> u32 {
        match self {
            Self::Dsr | Self::Nat | Self::Local => 0,
            Self::Ipip4 => 20,
            Self::Ipip6 => 40,
            Self::Gue4 => 28,
            Self::Gue6 => 48,
        }
    }

    pub(crate) const fn is_tunnel(self) -> bool {
        self.overhead() != 0
    }

    /// Whether a packet needs two hops to go on: `dsr` is no router.
    pub(crate) const fn takes_hop(self) -> bool {
        !matches!(self, Self::Dsr | Self::Local)
    }
}

/// What a service is like beside its way. Its number is the hundreds of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub(crate) enum Feature {
    Plain = 10,
    /// All backends failed.
    Down,
    /// No backend's MAC address is known.
    NoNextHop,
    /// [`NARROW_MTU`].
    Narrow,
    /// [`TINY_MTU`].
    Tiny,
    HashSource,
    HashAddresses,
    Mss,
    Quic,
    Allow,
    /// Three flows of a source, then none.
    Rate,
    Block,
    UdpFlow,
    Track,
    /// In a mode change: NAT connections of a former mode may be there. For [`Way::Nat`]: none
    /// may, and yet this is how its backends are sent to.
    Changing,
    /// Connections whose backend is gone are reset.
    Reset,
}

/// The port of a service.
pub(crate) const fn port(feature: Feature, way: Way) -> u16 {
    feature as u16 * 100 + way as u16
}

/// Port no service listens on.
pub(crate) const CLOSED: u16 = 9;

/// Three backends, and the table that chooses between them.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) way: Way,
    pub(crate) feature: Feature,
    /// Its place among the groups.
    pub(crate) at: u32,
    pub(crate) table: Table,
    pub(crate) servers: Vec<Server>,
}

/// Groups that share a block of rows, each with as many of them.
const PER_BLOCK: u32 = 4;
const GROUP_ROWS: u32 = BACKEND_BLOCK / PER_BLOCK;

impl Group {
    /// Where its backends begin among the rows of its table.
    pub(crate) const fn first_index(&self) -> u32 {
        self.at % PER_BLOCK * GROUP_ROWS
    }

    /// Row of the backend with this number.
    pub(crate) const fn row(&self, index: usize) -> u32 {
        self.at * GROUP_ROWS + index as u32
    }

    /// The table of the slots' previous owners, behind its own.
    pub(crate) fn shadow(&self) -> Table {
        let (slots, wide) = (self.table.slots(), self.table.wide());
        let base = self.table.base() + Table::elements(slots, wide) + LINE;
        Table::new(base, slots, wide, false, self.at / PER_BLOCK)
    }

    /// Port of a backend, by that of its frontend.
    pub(crate) const fn backend_port(&self, index: usize, frontend: u16) -> u16 {
        if index == 1 { frontend } else { 8000 }
    }
}

/// A service in the maps.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) vip: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) way: Way,
    pub(crate) feature: Feature,
    pub(crate) number: u32,
    pub(crate) group: Group,
}

/// The program with its services.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rig: Rig,
    pub(crate) services: Vec<Placed>,
    pub(crate) groups: Vec<Group>,
    pub(crate) table: ServiceTable,
    next_number: u32,
    next_element: u32,
    /// The backends of slots, by slots of the table.
    built: Vec<(u32, Vec<u16>)>,
}

impl World {
    /// All services, each with backends of weights 1:1:2.
    pub(crate) fn new(sizes: Sizes) -> Self {
        let rig = Rig::load(sizes);
        let table = ServiceTable::new(rig.maps.clone());
        let mut world = Self {
            rig,
            services: Vec::new(),
            groups: Vec::new(),
            table,
            next_number: 1,
            next_element: 0,
            built: Vec::new(),
        };
        places::furnish(&mut world);
        world
    }

    /// The service a packet to this frontend is for.
    pub(crate) fn service(&self, to: SocketAddr, protocol: u8) -> &Placed {
        let found = self.services.iter().find(|s| s.vip == to && s.protocol == protocol);
        found.unwrap_or_else(|| panic!("no service {to}, protocol {protocol}"))
    }

    /// The group of a backend row, and which of its backends it is.
    pub(crate) fn backend(&self, row: u32) -> (&Group, usize) {
        let (at, index) = ((row / GROUP_ROWS) as usize, (row % GROUP_ROWS) as usize);
        let group = self.groups.get(at).filter(|group| index < group.servers.len());
        (group.unwrap_or_else(|| panic!("no backend has row {row}")), index)
    }

    /// What the node does with an address, or all of a prefix, apart from any port.
    pub(crate) fn address(&mut self, vip: Prefix, flags: u32, ports: u32) {
        let record = ServiceRecord { flags, ports, ..ServiceRecord::zeroed() };
        self.table.put(Key::alone(vip), record).unwrap();
    }

    /// A service's records. Its number.
    pub(crate) fn listen(&mut self, keys: &[Key], group: &Group, record: ServiceRecord) -> u32 {
        let service = self.next_number;
        self.next_number += 1;
        let first = u64::from(group.first_index());
        for element in 0..SPARES / 4 {
            let spares = (first + 1) | (first + 2) << 16 | first << 32 | (first + 1) << 48;
            self.rig.maps.spare.set(service * (SPARES / 4) + element, spares).unwrap();
        }
        let record = ServiceRecord { service, table: group.table.0, ..record };
        for key in keys {
            self.table.put(*key, record).unwrap();
            if key.vip.is_host() {
                self.services.push(Placed {
                    vip: SocketAddr::new(key.vip.address, key.port),
                    protocol: key.protocol,
                    way: group.way,
                    feature: group.feature,
                    number: service,
                    group: group.clone(),
                });
            }
        }
        service
    }

    /// Points all services of a group to another table, or another state of the same.
    pub(crate) fn set_table(&mut self, group: &Group, table: Table) {
        let of_group = self.services.iter().filter(|service| service.group.at == group.at);
        for service in of_group {
            self.table.point(service.number, table).unwrap();
        }
    }

    /// Makes three backends for clients of a family.
    pub(crate) fn group(&mut self, way: Way, feature: Feature, six: bool) -> Group {
        let at = self.groups.len() as u32;
        let maps = self.rig.maps.clone();
        // The first two are as large as the daemon makes them; every second has wide slots, which
        // only large ones would need.
        let slots = if at < 2 { slots_for(3) } else { 1021 };
        let wide = at % 2 == 1;
        let table = Table::new(self.next_element, slots, wide, false, at / PER_BLOCK);
        let mut group = Group { way, feature, at, table, servers: Vec::new() };
        // Behind the slots there is room for the shadow's table word, and for a shadow.
        self.next_element += 2 * (Table::elements(slots, wide) + LINE);
        assert!(group.row(3) < ROWS && self.next_element < maps.tables.len(), "too many groups");
        for index in 0..3 {
            let id = at * 3 + index as u32;
            let server = server(id, index, way, feature, six);
            maps.servers.set(id, server).unwrap();
            group.servers.push(server);
            let row = group.row(index);
            maps.ports.set(row, u64::from(u16::to_be(group.backend_port(index, 0)))).unwrap();
            let is_down = feature == Feature::Down;
            let admit = if is_down { 0 } else { Word::FULL };
            let word = Word::new(admit, admit, id, 0, !is_down, false);
            maps.words.set(row, word.0).unwrap();
        }
        let first = u64::from(group.first_index());
        for (slot, index) in (0..).zip(self.slots(slots)) {
            let (element, shift) = table.slot_at(slot);
            let before = maps.tables.get(element).unwrap();
            let index = first + u64::from(index);
            maps.tables.set(element, before | index << shift).unwrap();
        }
        self.groups.push(group.clone());
        group
    }

    /// Which backend each slot of a table has.
    fn slots(&mut self, slots: u32) -> Vec<u16> {
        if let Some((_, known)) = self.built.iter().find(|(count, _)| *count == slots) {
            return known.clone();
        }
        let entries = [("web-0", 1, 0), ("web-1", 1, 1), ("web-2", 2, 2)]
            .map(|(name, weight, index)| Entry { name, weight, index });
        let built = build(&entries, slots, SEED);
        self.built.push((slots, built.clone()));
        built
    }
}

/// The flag that says a service's packets are looked for among the NAT connections.
pub(crate) const fn nat_flag(way: Way, feature: Feature) -> u32 {
    let has = matches!(way, Way::Nat) != matches!(feature, Feature::Changing);
    if has { SERVICE_NAT } else { 0 }
}

/// An address of an IPv4 block or an IPv6 one, by its last part.
fn numbered(six: bool, v4: [u8; 3], v6: u16, id: u32) -> IpAddr {
    if six {
        IpAddr::V6(Ipv6Addr::new(0xfd00, v6, 0, 0, 0, 0, 0, id as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(v4[0], v4[1], v4[2], id as u8))
    }
}

/// Server `id`. The first of a group is where packets come from, the second behind another
/// interface and in a VLAN, the third behind a bond's members or an interface that is not listed.
fn server(id: u32, index: usize, way: Way, feature: Feature, six: bool) -> Server {
    let outer_six = match way {
        Way::Dsr | Way::Nat | Way::Local => six,
        Way::Ipip4 | Way::Gue4 => false,
        Way::Ipip6 | Way::Gue6 => true,
    };
    let source =
        if way == Way::Nat { nat_address(six) } else { numbered(outer_six, [10, 8, 0], 8, 0) };
    let mut ethernet = [0u8; 12];
    ethernet[..6].copy_from_slice(&[2, 0, 0, 0, 1, id as u8]);
    ethernet[6..].copy_from_slice(&OUR_MAC);
    let ifindex = match (way, feature, index) {
        (_, Feature::NoNextHop, _) => 0,
        (Way::Local, ..) => IFINDEX_LOCAL,
        (_, _, 0) => INGRESS,
        (_, _, 1) => places::LISTED_DEVICE,
        _ if six => places::UNLISTED_DEVICE,
        _ => IFINDEX_INGRESS,
    };
    let entropy: u32 = match (way.is_tunnel(), index) {
        (false, _) | (_, 0) => 0,
        (_, 1) => 0xff,
        _ if outer_six => u32::MAX,
        _ => 0x3f,
    };
    let mtu = match feature {
        Feature::Narrow => NARROW_MTU,
        Feature::Tiny => TINY_MTU,
        _ => MTU,
    };
    Server {
        ethernet: bytemuck::cast(ethernet),
        ifindex,
        address: address(numbered(outer_six, [10, 7, 0], 7, id + 1)),
        source: address(source),
        kind: way.kind(),
        mtu,
        vlan: if index == 1 { BACKEND_VLAN } else { 0 },
        entropy: entropy.to_be(),
    }
}

/// The addresses that are no service's, but the node's own.
pub(crate) fn own_addresses(world: &mut World) {
    for vip in [VIP4, VIP6] {
        world.address(Prefix::host(vip), ADDRESS_VIP, 0);
    }
    for nat in [NAT4, NAT6] {
        world.address(Prefix::host(nat), ADDRESS_NAT, 0);
    }
}
