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
