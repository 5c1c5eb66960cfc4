//! The open-addressing table: found through collisions and removed records, within its bound.

use super::*;
use crate::abi::{ADDRESS_NAT, ADDRESS_VIP, FlowKey, KEY_REMOVED, SERVICE_NAT, join_ports};
use crate::host::{HostMaps, NAT4, VIP4, VIP6, v6};
use crate::ip::{V4, V6};

fn flow(family: u32, destination: Address, port: u16, protocol: u8) -> Flow {
    Flow {
        key: FlowKey {
            source: [1, 0, 0, 0],
            destination,
            ports: join_ports(1, port.to_be()),
            kind: FlowKey::kind_of(family, protocol),
        },
        tcp_flags: 2,
        length: 40,
    }
}

#[test]
fn a_frontend_is_found_by_address_port_protocol_and_family() {
    let mut maps = HostMaps::with_weights(&[1]);
    maps.add_frontend(4, 80, 6, SERVICE_NAT);
    maps.add_frontend(6, 443, 17, 4);
    let found = |f: &Flow| find_service::<V4, _>(&maps, f).map(|s| s.flags);
    let found6 = |f: &Flow| find_service::<V6, _>(&maps, f).map(|s| s.flags);
    assert_eq!(found(&flow(4, VIP4, 80, 6)), Some(SERVICE_NAT));
    assert_eq!(found6(&flow(6, VIP6, 443, 17)), Some(4));
    for (what, other) in [
        ("port", flow(4, VIP4, 81, 6)),
        ("protocol", flow(4, VIP4, 80, 17)),
        ("address", flow(4, NAT4, 80, 6)),
    ] {
        assert_eq!(found(&other), None, "another {what}");
    }
    // The family is part of the key: the first word alone would match.
    let mut mixed = HostMaps::with_weights(&[1]);
    assert!(mixed.add_record(4, [VIP6[0], 0, 0, 0], 80, 6, SERVICE_NAT));
    assert_eq!(find_service::<V6, _>(&mixed, &flow(6, [VIP6[0], 0, 0, 0], 80, 6)), None);
    assert_eq!(found6(&flow(6, v6(0x11), 443, 17)), None);
    assert_eq!(find_address::<V4, _>(&maps, &VIP4), ADDRESS_VIP);
    assert_eq!(find_address::<V4, _>(&maps, &NAT4), ADDRESS_NAT);
    assert_eq!(find_address::<V4, _>(&maps, &[9, 0, 0, 0]), 0);
}

#[test]
fn a_crowded_table_finds_all_it_took() {
    let mut maps = HostMaps::with_weights(&[1]);
    let taken: Vec<u16> = (1..100).filter(|&p| maps.add_record(4, VIP4, p, 6, 0)).collect();
    assert!((40..=64).contains(&taken.len()), "{} of 64 places were found", taken.len());
    for port in 1..100 {
        let found = find_service::<V4, _>(&maps, &flow(4, VIP4, port, 6)).is_some();
        assert_eq!(found, taken.contains(&port), "port {port}");
    }
}

#[test]
fn a_removed_record_hides_none_behind_it() {
    let mut maps = HostMaps::with_weights(&[1]);
    let taken: Vec<u16> = (1..60).filter(|&p| maps.add_record(4, VIP4, p, 6, 0)).collect();
    let gone: Vec<u16> = taken.iter().copied().step_by(2).collect();
    for record in &mut maps.services {
        let port = u16::from_be((record.key >> 16) as u16);
        if gone.contains(&port) {
            record.key = KEY_REMOVED;
        }
    }
    for port in taken {
        let found = find_service::<V4, _>(&maps, &flow(4, VIP4, port, 6)).is_some();
        assert_eq!(found, !gone.contains(&port), "port {port}");
    }
}

/// A record of ports; `flags` tell it from others.
fn range(
    family: u32,
    address: Address,
    first: u16,
    bits: u32,
    protocol: u8,
    flags: u32,
) -> ServiceRecord {
    let key = port_key(first.to_be(), bits, protocol, family);
    let table = Table::new(0, 1021, false, false, 1).0;
    ServiceRecord { key, address, table, flags, ..bytemuck::Zeroable::zeroed() }
}

fn alone(family: u32, address: Address, space: u8, ports: u32) -> ServiceRecord {
    let key = port_key(0, PORT_EXACT, space, family);
    ServiceRecord { key, address, flags: ADDRESS_VIP, ports, ..bytemuck::Zeroable::zeroed() }
}

#[test]
fn the_narrowest_range_of_an_address_wins() {
    let mut maps = HostMaps::with_weights(&[1]);
    // 0-65535, 8000-8063, 8032-8047 and 8033 of TCP; 8000-8063 of UDP, in a length TCP has not.
    let tcp = 1 | 1 << 10 | 1 << 12;
    assert!(maps.place(alone(4, VIP4, 0, tcp | 1 << (16 + 11))));
    assert!(maps.place(range(4, VIP4, 0, 0, 6, 100)));
    assert!(maps.place(range(4, VIP4, 8000, 10, 6, 110)));
    assert!(maps.place(range(4, VIP4, 8032, 12, 6, 112)));
    assert!(maps.place(range(4, VIP4, 8033, 16, 6, 116)));
    assert!(maps.place(range(4, VIP4, 8000, 11, 17, 211)));
    let found = |port, protocol| {
        find_service::<V4, _>(&maps, &flow(4, VIP4, port, protocol)).map(|s| s.flags)
    };
    for (port, flags) in
        [(1, 100), (7999, 100), (8000, 110), (8032, 112), (8033, 116), (8047, 112), (8048, 110)]
    {
        assert_eq!(found(port, 6), Some(flags), "port {port}");
    }
    assert_eq!([8063, 8064, 65535].map(|p| found(p, 6)), [110, 100, 100].map(Some));
    assert_eq!([7999, 8000, 8031, 8032].map(|p| found(p, 17)), [None, Some(211), Some(211), None]);
    assert_eq!(found(0, 6), None, "nobody listens on port 0");
    assert_eq!(find_address::<V4, _>(&maps, &VIP4), ADDRESS_VIP);
}

fn prefixes_of<I: Ip>(inside: Address, deeper: Address, outside: Address) {
    let family = I::FAMILY;
    let mut maps = HostMaps::with_weights(&[1]);
    let (short, long) = if family == 4 { (8, 24) } else { (32, 96) };
    maps.add_prefix(family, inside, short);
    maps.add_prefix(family, deeper, long);
    let (wide, narrow) = (prefix_name(&inside, short, family), prefix_name(&deeper, long, family));
    let space = KEY_PREFIX;
    assert!(maps.place(alone(family, wide, space, 1 << 4)));
    assert!(maps.place(range(family, wide, 80, 16, 6 | space, 1)));
    assert!(maps.place(range(family, wide, 4096, 4, 6 | space, 2)));
    assert!(maps.place(range(family, wide, 0, PORT_FRAGMENTS, 6 | space, 3)));
    assert!(maps.place(range(family, narrow, 80, 16, 6 | space, 4)));
    assert!(maps.place(range(family, deeper, 443, 16, 6, 5)));
    let no_fragments = ServiceRecord { table: 0, ..range(family, deeper, 0, PORT_FRAGMENTS, 6, 0) };
    assert!(maps.place(no_fragments));
    let found = |to, port, proto| {
        find_service::<I, _>(&maps, &flow(family, to, port, proto)).map(|s| s.flags)
    };
    assert_eq!(
        [80, 81, 4095, 4096, 8191, 8192].map(|port| found(inside, port, 6)),
        [Some(1), None, None, Some(2), Some(2), None]
    );
    assert_eq!(found(inside, 80, 17), None);
    assert_eq!(found(deeper, 443, 6), Some(5), "the address alone");
    assert_eq!(found(deeper, 80, 6), Some(4), "a miss of the address falls to its prefix");
    assert_eq!(found(deeper, 4096, 6), None, "but to the longest alone: the daemon flattens");
    assert_eq!(found(outside, 80, 6), None);
    let fragments =
        |to| find_fragments::<I, _>(&maps, &flow(family, to, 0, 6).key).map(|s| s.flags);
    assert_eq!(fragments(inside), Some(3));
    assert_eq!(fragments(deeper), None, "a record without slots says that none takes them");
    assert_eq!(fragments(outside), None);
    let bits = [inside, deeper, outside].map(|to| find_address::<I, _>(&maps, &to));
    assert_eq!(bits, [ADDRESS_VIP, ADDRESS_VIP, 0]);
    maps.settings.features &= !FEATURE_PREFIXES;
    let found = find_service::<I, _>(&maps, &flow(family, inside, 80, 6));
    assert_eq!(found, None, "compiled out");
}

#[test]
fn an_address_falls_to_the_longest_prefix_around_it() {
    let four = |a, b, c, d| [u32::from_ne_bytes([a, b, c, d]), 0, 0, 0];
    prefixes_of::<V4>(four(10, 0, 1, 9), four(10, 0, 0, 9), four(11, 0, 0, 9));
    let mut six = v6(9);
    six[1] = 5;
    let mut out = v6(9);
    out[0] ^= 1;
    prefixes_of::<V6>(six, v6(9), out);
}

#[test]
fn prefixes_of_one_network_have_names_of_their_own() {
    let mut names = std::collections::HashSet::new();
    let zero = [0; 4];
    assert!((0..32).all(|length| names.insert(prefix_name(&zero, length, 4))));
    names.clear();
    assert!((0..128).all(|length| names.insert(prefix_name(&zero, length, 6))));
    let ones = [u32::MAX; 4];
    assert_eq!(prefix_name(&ones, 0, 4), [0x80u32.to_le(), 0, 0, 0]);
    for length in 0..128 {
        let as_number = |words: Address| {
            words.iter().fold(0u128, |n, word| n << 32 | u128::from(u32::from_be(*word)))
        };
        let host = u128::MAX >> length;
        let expected = !host | (1 << 127) >> length;
        assert_eq!(as_number(prefix_name(&ones, length, 6)), expected, "length {length}");
        assert_eq!(as_number(prefix_name(&zero, length, 6)), (1 << 127) >> length);
    }
}
