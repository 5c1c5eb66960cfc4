//! The maps that the targets run over: services of every mode and policy, backends of every kind,
//! as the daemon would fill them. Made once; an input changes words and limits.

use std::cell::RefCell;

use crate::abi::{
    ADDRESS_NAT, ADDRESS_VIP, Address, FEATURE_FILTERS, FEATURE_PREFIXES, FEATURE_QUIC,
    FEATURES_ALL, IFINDEX_INGRESS, IFINDEX_LOCAL, KEY_PREFIX, KIND_DSR, KIND_GUE4, KIND_GUE6,
    KIND_IPIP4, KIND_IPIP6, KIND_NAT, LIST_BLOCK, Limit, PORT_EXACT, PORT_FRAGMENTS, SERVICE_ALLOW,
    SERVICE_BLOCK, SERVICE_HASH_ADDRESSES, SERVICE_HASH_SOURCE, SERVICE_MSS, SERVICE_NAT,
    SERVICE_QUIC, SERVICE_RATE, SERVICE_RESET, SERVICE_TRACK, SERVICE_UDP_FLOW, Server,
    ServerIdKey, ServiceRecord, Table, Word, port_key,
};
use crate::find_service::prefix_name;
use crate::host::{BLOCK, FIRST, HostMaps, NAT4, NAT6, SLOTS, VIP4, VIP6, v6};
use crate::quic;

use super::bytes::{Input, TCP, UDP};

/// Backends of a service.
pub(super) const BACKENDS: u32 = 12;
/// Worlds there are.
pub(super) const WORLDS: usize = 6;

thread_local! {
    static ALL: RefCell<[Option<HostMaps>; WORLDS]> = const { RefCell::new([const { None }; WORLDS]) };
}

/// Does something over the maps of a world, fresh.
///
/// | world | backends |
/// | --- | --- |
/// | 0 | of every kind but NAT |
/// | 1, 2 | NAT of IPv4, of IPv6 |
/// | 3, 4 | the same with the VIP as NAT address |
/// | 5 | of every kind: an IPv4 service whose mode changes |
pub(super) fn with<T>(number: usize, work: impl FnOnce(&mut HostMaps) -> T) -> T {
    let number = number % WORLDS;
    ALL.with_borrow_mut(|all| {
        let maps = all[number].get_or_insert_with(|| make(number));
        maps.forget();
        maps.now.set(1000);
        maps.nat_room.set(usize::MAX);
        maps.flows_refused.set(false);
        maps.exhausted.set(None);
        maps.settings.features = FEATURES_ALL;
        (0..BACKENDS).for_each(|i| maps.set_word(i, word(i, 0)));
        work(maps)
    })
}

/// Reads what is compiled in, what limits are reached, and what state backends are in.
pub(super) fn unsettle(maps: &mut HostMaps, input: &mut Input<'_>) {
    let [features, limits, states] = input.array();
    for (bit, feature) in [FEATURE_FILTERS, FEATURE_QUIC, FEATURE_PREFIXES].iter().enumerate() {
        if features >> bit & 1 != 0 {
            maps.settings.features &= !feature;
        }
    }
    maps.flows_refused.set(limits & 1 != 0);
    maps.exhausted.set(match limits >> 1 & 3 {
        1 => Some(Limit::FlowInsert),
        2 => Some(Limit::Icmp),
        3 => Some(Limit::Reset),
        _ => None,
    });
    if limits & 8 != 0 {
        maps.nat_room.set(usize::from(limits >> 4));
    }
    for i in 0..BACKENDS {
        maps.set_word(i, word(i, states >> (i % 4 * 2)));
    }
}

/// The word of a backend in one of eight states.
pub(super) const fn word(backend: u32, state: u8) -> Word {
    let full = Word::FULL;
    let (admit, old, generation, serving, retired) = match state & 7 {
        0 => (full, full, 0, true, false),
        // Draining, returning, down, then what comes less often.
        1 => (0, full, 0, true, false),
        2 => (full / 2, 0, 0, true, false),
        3 => (0, 0, 1, false, false),
        4 => (0, 0, 0, true, false),
        5 => (0, full, 0, true, true),
        6 => (full, full, 1, true, false),
        _ => (0, 0, 2, false, true),
    };
    Word::new(admit, old, backend, generation, serving, retired)
}

fn make(number: usize) -> HostMaps {
    let mut maps = HostMaps::with_weights(&[1; BACKENDS as usize]);
    maps.settings.service_mask = 1023;
    maps.services = vec![bytemuck::Zeroable::zeroed(); 1024];
    maps.marks.fill(0x5555_5555_5555_5555);
    shadow(&mut maps);
    let vip_is_nat = matches!(number, 3 | 4);
    for i in 0..BACKENDS {
        maps.servers[i as usize] = match number {
            0 => direct(i),
            2 | 4 => nat(i, 6, vip_is_nat),
            5 if i % 2 == 0 => direct(i / 2),
            _ => nat(i, 4, vip_is_nat),
        };
    }
    for port in maps.ports.iter_mut().step_by(2) {
        *port = 8080u16.to_be();
    }
    let extra = if number == 0 { 0 } else { SERVICE_NAT };
    for family in [4, 6] {
        // NAT is within a family.
        if number == 0 || (family == 6) == matches!(number, 2 | 4) {
            services(&mut maps, family, extra);
            addresses(&mut maps, family, vip_is_nat);
        }
    }
    for id in 0..BACKENDS {
        let key = ServerIdKey { service: 1, padding: 0, id: u64::from(id + 1).to_le() };
        maps.server_ids.insert(key, FIRST + id);
    }
    maps
}

/// Every third slot had another owner before.
fn shadow(maps: &mut HostMaps) {
    let at = maps.tables.len() as u32;
    let before = Table::new(at + 8, SLOTS, false, false, BLOCK);
    maps.tables.extend([before.0, 0, 0, 0, 0, 0, 0, 0]);
    let owner = |slot: u32| match slot % 3 {
        0 => u64::from(slot % BACKENDS),
        _ => 0xff,
    };
    let element = |i: u32| (0..8).fold(0, |all, j| all | owner(8 * i + j) << (8 * j));
    maps.tables.extend((0..Table::elements(SLOTS, false)).map(element));
}

/// Port, protocol, policy: all a VIP has.
const FRONTENDS: [(u16, u8, u32); 16] = [
    (80, TCP, 0),
    (81, TCP, SERVICE_HASH_SOURCE),
    (82, TCP, SERVICE_HASH_ADDRESSES),
    (83, TCP, SERVICE_TRACK),
    (84, TCP, SERVICE_ALLOW | SERVICE_BLOCK),
    (85, TCP, SERVICE_RATE),
    (86, TCP, SERVICE_MSS),
    (87, TCP, MARKED),
    (88, TCP, SHADOWED),
    (89, TCP, SERVICE_RESET),
    (2005, TCP, 0),
    (53, UDP, 0),
    (54, UDP, SERVICE_UDP_FLOW | MARKED),
    (443, UDP, SERVICE_QUIC | SERVICE_UDP_FLOW),
    (444, UDP, SERVICE_QUIC | SERVICE_RATE),
    (2006, UDP, SERVICE_QUIC),
];
/// Not flags of a record but of its table.
const MARKED: u32 = 1 << 30;
const SHADOWED: u32 = 1 << 31;

fn record(family: u32, address: Address, key: u32, flags: u32) -> ServiceRecord {
    let marked = flags & MARKED != 0;
    let table = Table::new(0, SLOTS, false, marked, BLOCK).with_shadowed(flags & SHADOWED != 0);
    ServiceRecord {
        key: key | family,
        service: 1,
        address,
        table: table.0,
        flags: flags & !(MARKED | SHADOWED),
        udp_until: 1010,
        mss: 1200,
        quic: quic::config(1, 2),
        rate: 1,
        burst: 2,
        ports: 0,
        padding: 0,
    }
}

fn services(maps: &mut HostMaps, family: u32, extra: u32) {
    let vip = if family == 4 { VIP4 } else { VIP6 };
    for (port, protocol, flags) in FRONTENDS {
        let key = port_key(port.to_be(), PORT_EXACT, protocol, 0);
        assert!(maps.place(record(family, vip, key, flags | extra)));
    }
    for (protocol, space, address) in
        [(TCP, 0, vip), (UDP, 0, vip), (TCP, KEY_PREFIX, name(family))]
    {
        let range = port_key(0x2000u16.to_be(), 3, protocol | space, 0);
        assert!(maps.place(record(family, address, range, extra)));
        let fragments = port_key(0, PORT_FRAGMENTS, protocol | space, 0);
        assert!(maps.place(record(family, address, fragments, extra)));
    }
    maps.list(1, family, CLIENTS, 8);
    maps.list(1, family, v6(0), 64);
    maps.list(LIST_BLOCK, family, BLOCKED, 24);
    maps.list(LIST_BLOCK, family, v6(0x80), 121);
}

/// 198.0.0.0/8.
const CLIENTS: Address = [u32::from_ne_bytes([198, 0, 0, 0]), 0, 0, 0];
/// 198.51.101.0/24.
const BLOCKED: Address = [u32::from_ne_bytes([198, 51, 101, 0]), 0, 0, 0];
/// 192.0.3.0/24, and a /64.
const PREFIX4: Address = [u32::from_ne_bytes([192, 0, 3, 0]), 0, 0, 0];
const PREFIX6: Address = [u32::from_ne_bytes([0x20, 1, 0xd, 0xb8]), 1, 0, 0];

fn name(family: u32) -> Address {
    if family == 4 { prefix_name(&PREFIX4, 24, 4) } else { prefix_name(&PREFIX6, 64, 6) }
}

fn addresses(maps: &mut HostMaps, family: u32, vip_is_nat: bool) {
    let (vip, nat, prefix, length) =
        if family == 4 { (VIP4, NAT4, PREFIX4, 24) } else { (VIP6, NAT6, PREFIX6, 64) };
    maps.add_prefix(family, prefix, length);
    // Both protocols have ranges of three bits.
    let ranges = 1 << 3 | 1 << 19;
    let alone = |address, space, flags| ServiceRecord {
        ports: ranges,
        ..record(family, address, port_key(0, PORT_EXACT, space, 0), flags)
    };
    let of_vip = if vip_is_nat { ADDRESS_VIP | ADDRESS_NAT } else { ADDRESS_VIP };
    assert!(maps.place(alone(vip, 0, of_vip)));
    assert!(maps.place(alone(name(family), KEY_PREFIX, ADDRESS_VIP)));
    if !vip_is_nat {
        assert!(maps.place(alone(nat, 0, ADDRESS_NAT)));
    }
}

fn server(i: u32) -> Server {
    let at = i as u8;
    Server {
        ethernet: [
            u32::from_ne_bytes([2, 0, 0, 0]),
            u32::from_ne_bytes([0, at, 2, 0]),
            u32::from_ne_bytes([0, 0, 0, 0xbb]),
        ],
        ifindex: 10 + i,
        address: [u32::from_ne_bytes([10, 0, 0, at]), 0, 0, 0],
        source: NAT4,
        kind: KIND_DSR,
        mtu: 1500,
        vlan: 0,
        entropy: 0,
    }
}

fn nat(i: u32, family: u32, from_vip: bool) -> Server {
    let vlan = if i.is_multiple_of(3) { 200 } else { 0 };
    let mtu = if i.is_multiple_of(4) { 1280 } else { 1500 };
    let server = Server { kind: KIND_NAT, vlan, mtu, ..server(i) };
    match (family, from_vip) {
        (4, false) => server,
        (4, true) => Server { source: VIP4, ..server },
        (_, false) => Server { address: v6(0x40 + i as u8), source: NAT6, ..server },
        (_, true) => Server { address: v6(0x40 + i as u8), source: VIP6, ..server },
    }
}

fn direct(i: u32) -> Server {
    let entropy = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let over_v6 = |kind| Server { kind, address: v6(0x60), source: v6(0), ..server(i) };
    match i {
        0 => server(i),
        1 => Server { vlan: 100, mtu: 128, ..server(i) },
        2 => Server { kind: KIND_IPIP4, entropy, ..server(i) },
        3 => Server { entropy, vlan: 7, ..over_v6(KIND_IPIP6) },
        4 => Server { kind: KIND_GUE4, ..server(i) },
        5 => over_v6(KIND_GUE6),
        6 => Server { ifindex: IFINDEX_LOCAL, ..server(i) },
        7 => Server { ifindex: 0, ..server(i) },
        8 => Server { ifindex: IFINDEX_INGRESS, ..server(i) },
        9 => Server { entropy, mtu: 256, ..over_v6(KIND_GUE6) },
        10 => Server { kind: KIND_IPIP4, mtu: 64, ..server(i) },
        _ => Server { kind: KIND_GUE4, entropy, vlan: 4094, ..server(i) },
    }
}
