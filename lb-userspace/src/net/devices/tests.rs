//! Names and routes over VLANs, bonds and a bridge.

use std::net::IpAddr;

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, VlanProtocol};

use super::super::facts::{Neighbour, Route, Vlan};
use super::super::hop::{NextHop, Remote, Towards, hop, towards};
use super::super::messages::{MAC, bond, member, plain, read, vlan, with};
use super::*;

const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// `eth0` with VLANs and `eth1`; `eth2`, `eth3` in `bond0`, which has a VLAN, too; `bond1` alone;
/// `eth4` in a bridge.
fn links() -> Links {
    use VlanProtocol::{Ieee8021Ad, Ieee8021Q};
    let bridge = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]);
    let abroad = vlan(15, "abroad", 1, 9, Ieee8021Q);
    let messages = [
        plain(1, "eth0"),
        plain(2, "eth1"),
        member(3, "eth2", 20),
        member(4, "eth3", 20),
        member(5, "eth4", 30),
        vlan(11, "eth0.5", 1, 5, Ieee8021Q),
        vlan(12, "eth0.6", 1, 4094, Ieee8021Q),
        vlan(13, "eth0.7", 1, 7, Ieee8021Ad),
        vlan(14, "eth0.5.8", 11, 8, Ieee8021Q),
        with(abroad, LinkAttribute::LinkNetNsId(0)),
        bond(20, "bond0"),
        bond(21, "bond1"),
        vlan(22, "bond0.5", 20, 5, Ieee8021Q),
        with(plain(30, "br0"), bridge),
    ];
    messages.into_iter().map(read).map(|link| (link.ifindex, link)).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn messages_are_read() {
    let links = links();
    let tag = |parent, id, dot1q| Some(Vlan { parent, id, dot1q });
    for (ifindex, kind, master, vlan) in [
        (1, None, None, None),
        (3, None, Some(20), None),
        (11, Some("vlan"), None, tag(Some(1), 5, true)),
        (13, Some("vlan"), None, tag(Some(1), 7, false)),
        (15, Some("vlan"), None, tag(None, 9, true)),
        (20, Some("bond"), None, None),
    ] {
        let link = &links[&ifindex];
        assert_eq!((link.kind.as_deref(), link.master), (kind, master), "{link:?}");
        assert_eq!(link.vlan, vlan, "{link:?}");
        assert_eq!((link.mac, link.mtu, link.up), (Some(MAC), 1500, true), "{link:?}");
    }
    let freed = with(plain(3, "eth2"), LinkAttribute::Controller(0));
    assert_eq!(read(freed).master, None);
}

#[test]
fn names_stand_for_devices() {
    let links = links();
    for (configured, expected) in [
        (&["eth0"][..], &[1][..]),
        (&["eth1", "eth0"], &[2, 1]),
        (&["eth0.5"], &[1]),
        (&["eth0", "eth0.5", "eth0.6"], &[1]),
        (&["bond0"], &[3, 4]),
        (&["bond0.5"], &[3, 4]),
        (&["eth3", "bond0"], &[4, 3]),
        (&["eth2"], &[3]),
        (&["br0", "eth4"], &[30, 5]),
    ] {
        let names = names(configured);
        let found: Vec<u32> =
            devices(&names, &links).unwrap().iter().map(|link| link.ifindex).collect();
        assert_eq!(found, expected, "{configured:?}");
        let attached = attached(&names.into_iter().collect(), &links);
        assert_eq!(attached, expected.iter().copied().collect(), "{configured:?}");
    }
}

#[test]
fn names_that_stand_for_none_are_told() {
    let links = links();
    for (name, expected) in [
        ("eth9", "there is no interface \"eth9\"; this host has eth0, eth1,"),
        ("bond1", "bond bond1 has no members"),
        ("eth0.7", "eth0.7 is a VLAN tagged by 802.1ad"),
        ("eth0.5.8", "eth0.5.8 is a VLAN on another VLAN"),
        ("abroad", "abroad is a VLAN whose parent is in another network namespace"),
    ] {
        let problem = devices(&names(&["eth0", name]), &links).unwrap_err().to_string();
        assert!(problem.contains(expected), "{problem}");
        // Those that are there are used all the same.
        let attached = attached(&names(&["eth0", name]).into_iter().collect(), &links);
        assert_eq!(attached, BTreeSet::from([1]), "{name}");
    }
}

/// The hop to a server that the kernel routes by `oif`.
fn resolve(links: &Links, configured: &[&str], oif: u32) -> Result<Remote, HopProblem> {
    let server: IpAddr = "10.0.0.11".parse().unwrap();
    let source = Some("10.0.0.1".parse().unwrap());
    let route = Route { local: false, ifindex: oif, gateway: None, source, mtu: None };
    let attached = attached(&names(configured).into_iter().collect(), links);
    let way = match towards(server, Some(&route), links, &attached, None)? {
        Towards::Neighbour(way) => way,
        Towards::Here => panic!("not local"),
    };
    // Its neighbours are the route's interface's, whatever carries the frames.
    assert_eq!((way.ifindex, &way.interface), (oif, &links[&oif].name));
    match hop(&way, Neighbour::Known { mac: SERVER_MAC, stale: false }).unwrap()? {
        NextHop::Remote(remote) => Ok(remote),
        NextHop::Local => panic!("not local"),
    }
}

#[test]
fn frames_leave_by_the_device_beneath() {
    let links = links();
    for (configured, oif, expected) in [
        (&["eth0"][..], 1, (1, 0, "eth0")),
        (&["eth0"], 11, (1, 5, "eth0.5")),
        (&["eth0"], 12, (1, 4094, "eth0.6")),
        (&["eth0.5"], 11, (1, 5, "eth0.5")),
        // The program is on the parent, so all that it carries can be reached.
        (&["eth0.5"], 1, (1, 0, "eth0")),
        (&["eth1", "eth0"], 11, (1, 5, "eth0.5")),
        (&["eth2", "eth3"], 20, (IFINDEX_INGRESS, 0, "bond0")),
        (&["eth3"], 20, (IFINDEX_INGRESS, 0, "bond0")),
        (&["bond0"], 20, (IFINDEX_INGRESS, 0, "bond0")),
        (&["bond0"], 22, (IFINDEX_INGRESS, 5, "bond0.5")),
        (&["bond0.5"], 22, (IFINDEX_INGRESS, 5, "bond0.5")),
        (&["br0"], 30, (30, 0, "br0")),
    ] {
        let hop = resolve(&links, configured, oif).unwrap();
        assert_eq!((hop.ifindex, hop.vlan, hop.interface.as_str()), expected, "{configured:?}");
        assert_eq!((hop.source_mac, hop.destination_mac), (MAC, SERVER_MAC), "{configured:?}");
    }
}

#[test]
fn frames_that_cannot_leave_are_told() {
    let links = links();
    let wrong = |name: &str| HopProblem::WrongInterface { name: name.into() };
    let vlan = |name: &str, problem| HopProblem::Vlan { name: name.into(), problem };
    let beside = HopProblem::BesideBond { bond: "bond0".into(), other: "eth0".into() };
    for (configured, oif, expected) in [
        (&["eth1"][..], 11, wrong("eth0.5")),
        (&["eth0"], 20, wrong("bond0")),
        (&["eth0"], 22, wrong("bond0.5")),
        (&["eth4"], 30, wrong("br0")),
        (&["eth0"], 13, vlan("eth0.7", VlanProblem::ServiceTag)),
        (&["eth0"], 14, vlan("eth0.5.8", VlanProblem::Stacked)),
        (&["eth0"], 15, vlan("abroad", VlanProblem::ParentElsewhere)),
        (&["eth0", "bond0"], 20, beside.clone()),
        (&["eth2", "eth3", "eth0"], 22, beside),
    ] {
        assert_eq!(resolve(&links, configured, oif).unwrap_err(), expected, "{configured:?}");
    }
    // A server beside the bond is no problem.
    assert_eq!(resolve(&links, &["eth0", "bond0"], 1).unwrap().ifindex, 1);
}

#[test]
fn one_member_that_is_up_is_enough() {
    let none: &[u32] = &[];
    for (down, configured, oif, expected) in [
        (&[3][..], "bond0", 20, None),
        (&[3], "eth3", 20, None),
        (&[3], "eth2", 20, Some("eth2")),
        (&[3, 4], "bond0", 20, Some("eth2")),
        (&[20], "bond0", 20, Some("bond0")),
        (&[20], "bond0", 22, Some("bond0")),
        (&[22], "bond0", 22, Some("bond0.5")),
        (&[11], "eth0", 11, Some("eth0.5")),
        (&[1], "eth0", 11, Some("eth0")),
        (&[11], "eth0", 1, None),
        (none, "eth0", 11, None),
    ] {
        let mut links = links();
        for ifindex in down {
            links.get_mut(ifindex).unwrap().up = false;
        }
        let expected =
            expected.map_or(Ok(()), |name| Err(HopProblem::LinkDown { name: name.into() }));
        let found = resolve(&links, &[configured], oif).map(drop);
        assert_eq!(found, expected, "{down:?} down, by {configured}");
    }
}

#[test]
fn a_route_lost_with_its_link_is_told() {
    for (down, configured, expected) in [
        (11, "eth0", Some("eth0.5")),
        (20, "eth2", Some("bond0")),
        (22, "eth2", Some("bond0.5")),
        // The bond is up, so this is not why.
        (3, "bond0", None),
        (2, "eth0", None),
    ] {
        let mut links = links();
        links.get_mut(&down).unwrap().up = false;
        let attached = attached(&names(&[configured]).into_iter().collect(), &links);
        let server = "10.0.0.11".parse().unwrap();
        let expected =
            expected.map_or(HopProblem::NoRoute, |name| HopProblem::LinkDown { name: name.into() });
        assert_eq!(towards(server, None, &links, &attached, None), Err(expected), "{down}");
    }
}

#[test]
fn every_link_on_the_way_limits_the_mtu() {
    for (ifindex, mtu, configured, oif, expected) in [
        (11, 1496, "eth0", 11, 1496),
        (1, 1400, "eth0", 11, 1400),
        (11, 1400, "eth0", 1, 1500),
        (20, 1400, "bond0", 22, 1400),
        (4, 1300, "bond0", 20, 1300),
        (4, 1300, "eth2", 20, 1500),
    ] {
        let mut links = links();
        links.get_mut(&ifindex).unwrap().mtu = mtu;
        let hop = resolve(&links, &[configured], oif).unwrap();
        assert_eq!(hop.mtu, expected, "{ifindex} has {mtu}, by {configured}");
    }
}
