//! What the maps hold in these tests: a handful of services of both families and modes, written
//! as the daemon writes them, backend before table and table before service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::abi::{
    ADDRESS_NAT, ADDRESS_VIP, BACKEND_BLOCK, MODE_DSR, MODE_NAT, SPARES, Server, Table, Word,
};
use lb_common::maglev::{Entry, build, slots_for};
use lb_userspace::dataplane::services::{Key, ServiceTable, address};

use crate::rig::{INGRESS, Rig, SEED, Sizes};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
pub(crate) const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
const NAT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 254));
const NAT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0xfe));

pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];

/// What a service is like beside its frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    /// All backends failed.
    Down,
    /// No backend's MAC address is known.
    NoNextHop,
}

/// A service in the maps.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) vip: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) mode: u32,
    pub(crate) health: Health,
    pub(crate) table: Table,
    pub(crate) servers: Vec<Server>,
    /// Port of the backends, host order; zero is the frontend's.
    pub(crate) backend_port: u16,
}

impl Placed {
    /// Row of the backend with this index.
    pub(crate) fn row(&self, index: usize) -> u32 {
        self.table.first_row() + index as u32
    }

    pub(crate) fn key(&self) -> Key {
        Key { address: self.vip.ip(), port: self.vip.port(), protocol: self.protocol }
    }
}

/// The program with its services.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rig: Rig,
    pub(crate) services: Vec<Placed>,
    pub(crate) table: ServiceTable,
    next_element: u32,
    next_server: u32,
}

/// Ports of the services that are up, in each family: `dsr` TCP and UDP, `nat` TCP and UDP.
pub(crate) const DSR_TCP: u16 = 80;
pub(crate) const DSR_UDP: u16 = 53;
pub(crate) const NAT_TCP: u16 = 8080;
pub(crate) const NAT_UDP: u16 = 5353;
/// All backends down.
pub(crate) const DSR_DOWN: u16 = 81;
pub(crate) const NAT_DOWN: u16 = 8081;
/// No next hop known.
pub(crate) const DSR_NO_HOP: u16 = 82;
pub(crate) const NAT_NO_HOP: u16 = 8082;
/// No service.
pub(crate) const CLOSED: u16 = 9;

impl World {
    /// All services, each with backends of weights 1:1:2.
    pub(crate) fn new(sizes: Sizes) -> Self {
        let rig = Rig::load(sizes);
        let table = ServiceTable::new(rig.maps.clone());
        let mut world = Self { rig, services: Vec::new(), table, next_element: 0, next_server: 0 };
        for vip in [VIP4, VIP6] {
            use Health::{Down, NoNextHop, Up};
            for (port, protocol, mode, health) in [
                (DSR_TCP, TCP, MODE_DSR, Up),
                (DSR_UDP, UDP, MODE_DSR, Up),
                (NAT_TCP, TCP, MODE_NAT, Up),
                (NAT_UDP, UDP, MODE_NAT, Up),
                (DSR_DOWN, TCP, MODE_DSR, Down),
                (NAT_DOWN, TCP, MODE_NAT, Down),
                (DSR_NO_HOP, TCP, MODE_DSR, NoNextHop),
                (NAT_NO_HOP, TCP, MODE_NAT, NoNextHop),
            ] {
                world.add(SocketAddr::new(vip, port), protocol, mode, health, &[1, 1, 2]);
            }
        }
        let addresses =
            [(VIP4, ADDRESS_VIP), (VIP6, ADDRESS_VIP), (NAT4, ADDRESS_NAT), (NAT6, ADDRESS_NAT)];
        for (address, kind) in addresses {
            let key = Key { address, port: 0, protocol: 0 };
            world.table.put(key, 0, kind, Table(0)).unwrap();
        }
        world
    }

    /// The service a packet to this frontend is for.
    pub(crate) fn service(&self, to: SocketAddr, protocol: u8) -> &Placed {
        let found = self.services.iter().find(|s| s.vip == to && s.protocol == protocol);
        found.unwrap_or_else(|| panic!("no service {to}, protocol {protocol}"))
    }

    fn add(&mut self, vip: SocketAddr, protocol: u8, mode: u32, health: Health, weights: &[u16]) {
        let maps = self.rig.maps.clone();
        let number = self.services.len() as u32;
        let slots = slots_for(weights.len());
        // Every second service has wide slots, which only large ones would need.
        let wide = number % 2 == 1;
        let table = Table::new(self.next_element, slots, wide, false, number);
        self.next_element += Table::elements(slots, wide);
        let backend_port = if protocol == TCP { 8000 } else { 0 };
        let mut servers = Vec::new();
        for index in 0..weights.len() as u32 {
            let id = self.next_server;
            self.next_server += 1;
            let server = server(id, vip.ip(), health);
            maps.servers.set(id, server).unwrap();
            servers.push(server);
            let row = number * BACKEND_BLOCK + index;
            maps.ports.set(row, u64::from(u16::to_be(backend_port))).unwrap();
            let admit = if health == Health::Down { 0 } else { Word::FULL };
            let word = Word::new(admit, admit, id, 0, health != Health::Down, false);
            maps.words.set(row, word.0).unwrap();
        }
        let names: Vec<String> = (0..weights.len()).map(|i| format!("web-{i}")).collect();
        let entries: Vec<Entry<'_>> = weights
            .iter()
            .zip(&names)
            .zip(0..)
            .map(|((&weight, name), index)| Entry { name, weight, index })
            .collect();
        for (slot, index) in (0..).zip(build(&entries, slots, SEED)) {
            let (element, shift) = table.slot_at(slot);
            let before = maps.tables.get(element).unwrap();
            maps.tables.set(element, before | u64::from(index) << shift).unwrap();
        }
        for element in 0..SPARES / 4 {
            maps.spare.set(number * (SPARES / 4) + element, 0x0001_0000_0002_0001).unwrap();
        }
        let placed = Placed { vip, protocol, mode, health, table, servers, backend_port };
        self.table.put(placed.key(), number, mode, table).unwrap();
        self.services.push(placed);
    }
}

/// Server `id`, of the family of `vip`; every third is where the packets come from.
fn server(id: u32, vip: IpAddr, health: Health) -> Server {
    let (own, nat) = if vip.is_ipv4() {
        (IpAddr::V4(Ipv4Addr::new(10, 9, 0, id as u8 + 1)), NAT4)
    } else {
        (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, id as u16 + 1)), NAT6)
    };
    let mut ethernet = [0u8; 12];
    ethernet[..6].copy_from_slice(&[2, 0, 0, 0, 1, id as u8]);
    ethernet[6..].copy_from_slice(&OUR_MAC);
    let ifindex = match (health, id % 3) {
        (Health::NoNextHop, _) => 0,
        (_, 0) => INGRESS,
        _ => 7,
    };
    Server {
        ethernet: bytemuck::cast(ethernet),
        ifindex,
        address: address(own),
        nat_address: address(nat),
        padding: [0; 4],
    }
}
