//! What decides on a backend beside ports and addresses: hash policies, QUIC over NAT; and how
//! tunnels spread flows.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{ADDRESS_NAT, ADDRESS_VIP, Server};
use lb_common::verdict::{Event, Verdict};
use lb_userspace::config::model::Prefix;
use lb_userspace::dataplane::services::address;

use crate::checks::Expect::Sent;
use crate::checks::Row;
use crate::decode::{Decoded, Tunnel, untagged};
use crate::errors::every_kind;
use crate::frames::*;
use crate::places::{FRAGMENT_PORT, QUIC_CONFIG, fragment_vip, server_id};
use crate::rig::{End, Sizes};
use crate::world::{Feature, TCP, UDP, VIP4, VIP6, Way, World, port};

/// Clients of a family.
fn clients(six: bool) -> impl Iterator<Item = IpAddr> {
    (1..60).map(move |n| match six {
        true => IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n]),
        false => IpAddr::from([198, 51, 100, n as u8]),
    })
}

#[test]
fn by_its_addresses_a_client_has_one_backend_and_clients_have_all() {
    let mut world = World::new(Sizes::default());
    for way in Way::ALL {
        for vip in [VIP4, VIP6] {
            for feature in [Feature::HashSource, Feature::HashAddresses] {
                let to = SocketAddr::new(vip, port(feature, way));
                let mut all = HashSet::new();
                for ip in clients(vip.is_ipv6()) {
                    let mut of_client = HashSet::new();
                    for (number, protocol) in [(1, TCP), (2, TCP), (3, TCP), (1, UDP)] {
                        let from = SocketAddr::new(ip, 52_000 + number);
                        let packet = frame(&FROM_CLIENT, from, to, protocol, SYN, PAYLOAD);
                        of_client.insert((protocol == TCP, backend(&mut world, &packet)));
                    }
                    let tcp = of_client.iter().filter(|(is_tcp, _)| *is_tcp).count();
                    assert_eq!(tcp, 1, "{way:?} {feature:?}: {ip} has one backend");
                    let rows: HashSet<u32> = of_client.iter().map(|(_, row)| *row).collect();
                    assert_eq!(rows.len(), 1, "{way:?} {feature:?}: whatever the protocol");
                    all.extend(rows);
                }
                assert_eq!(all.len(), 3, "{way:?} {feature:?}");
            }
        }
    }
}

fn backend(world: &mut World, packet: &[u8]) -> u32 {
    match world.rig.run(packet).end {
        End::Backend(row) => row,
        end => panic!("{end:?}"),
    }
}

/// One flow has one outer source, port and label, which routers may hash by; flows have many, as
/// far as the server's prefix has room. A client's flows are spread even where its backend is one.
#[test]
fn tunnels_spread_flows_and_keep_each_on_its_path() {
    let mut world = World::new(Sizes::default());
    for way in Way::ALL.into_iter().filter(|way| way.is_tunnel()) {
        for (vip, feature) in [VIP4, VIP6]
            .into_iter()
            .flat_map(|vip| [(vip, Feature::Plain), (vip, Feature::HashSource)])
        {
            let to = SocketAddr::new(vip, port(feature, way));
            let mut sources: HashMap<u32, HashSet<IpAddr>> = HashMap::new();
            let mut ports: HashMap<u32, HashSet<u16>> = HashMap::new();
            for from in 52_000..52_300 {
                let mut outer = |flags| {
                    let out = world.rig.run(&tcp(to, from, flags));
                    let End::Backend(row) = out.end else { panic!("{out:?}") };
                    let frame = untagged(&out.frame);
                    let tunnel = Tunnel::of(&frame);
                    // Next header and all addresses aside: version, class and flow label.
                    let label = if tunnel.is_v4 { Vec::new() } else { frame[14..18].to_vec() };
                    (row, tunnel.source, tunnel.udp.map(|udp| udp.source_port), label)
                };
                let (row, source, port, label) = outer(SYN);
                assert_eq!(outer(ACK), (row, source, port, label), "{way:?}: of one flow");
                sources.entry(row).or_default().insert(source);
                ports.entry(row).or_default().extend(port);
            }
            for (row, sources) in sources {
                let (group, index) = world.backend(row);
                let entropy = group.servers[index].entropy.count_ones();
                let flows = 300 / 4;
                let least = if entropy == 0 { 1 } else { (1 << entropy.min(5)).min(flows / 2) };
                assert!(sources.len() >= least, "{way:?}: {} sources", sources.len());
                assert!(entropy != 0 || sources.len() == 1, "{way:?}: {sources:?}");
                let is_udp = matches!(way, Way::Gue4 | Way::Gue6);
                let most = ports[&row].len();
                assert!(!is_udp || most > flows / 2, "{way:?} {feature:?}: {most} source ports");
            }
        }
    }
}

fn short_header(index: usize) -> Vec<u8> {
    [&[0x41, QUIC_CONFIG << 5][..], &server_id(index), &[0xee; 24]].concat()
}

/// NAT knows a client's packets by addresses and ports alone, so a connection id that names
/// another backend than the connection's changes nothing; it decides where there is none.
#[test]
fn by_nat_a_connection_id_names_the_backend_of_new_connections() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, port(Feature::Quic, Way::Nat));
        for from in 53_000..53_020 {
            let packet =
                |index| frame(&FROM_CLIENT, client(to, from), to, UDP, 0, &short_header(index));
            let first = usize::from(from % 3);
            let ids = [first, (first + 1) % 3, first, (first + 2) % 3];
            for (at, index) in ids.into_iter().enumerate() {
                let mut row = Row::new("QUIC by NAT", packet(index), Sent(Way::Nat));
                row.backend = Some(first);
                // Once it is open, nobody asks its connection ids.
                row.events = if at == 0 { vec![Event::QuicServerId] } else { Vec::new() };
                world.check(&row);
            }
        }
    }
    world.rig.assert_conserved();
}

/// NAT connections that a service without the flag finds, as they are older than a change: each
/// goes where it went, though the hash may say otherwise by now.
#[test]
fn connections_outlast_a_change_of_mode() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, port(Feature::Changing, Way::Nat));
        for from in 54_000..54_020 {
            let opened = world.rig.run(&tcp(to, from, SYN));
            let End::Backend(row) = opened.end else { panic!("{opened:?}") };
            let word = world.rig.maps.words.get(row).unwrap();
            // Drained: nothing new, and nothing without an entry of its own.
            world.rig.maps.words.set(row, word & !0xffff_ffff).unwrap();
            let (_, index) = world.backend(row);
            let mut on = Row::new("an open connection", tcp(to, from, ACK), Sent(Way::Nat));
            on.backend = Some(index);
            on.events = vec![Event::FlowLookup, Event::Rehash];
            let events = world.rig.run(&on.frame).events;
            on.events.retain(|event| events.contains(event));
            let out = world.check(&on);
            assert_eq!(out.end, opened.end);
            let (was, is) = (&opened.frame, &out.frame);
            assert_eq!(untagged(was)[..12], untagged(is)[..12], "the MACs of its backend");
            let ends = |frame: &[u8]| {
                let packet = Decoded::of(&untagged(frame));
                (packet.source(), packet.destination())
            };
            assert_eq!(ends(was), ends(is));
            world.rig.maps.words.set(row, word).unwrap();
        }
    }
}

/// A VIP may be NAT's own address, and a service's port among those that NAT hands out: a
/// backend's answer is one, whatever server id its payload seems to have.
#[test]
fn an_answer_to_a_vip_is_no_clients_datagram() {
    let of_service = port(Feature::Quic, Way::Nat);
    let mut world = World::new(Sizes { nat_ports: (of_service, of_service), ..Sizes::default() });
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, of_service);
        world.address(Prefix::host(vip), ADDRESS_VIP | ADDRESS_NAT, 0);
        let group = world.service(to, UDP).group.clone();
        for (index, server) in group.servers.iter().enumerate() {
            let id = group.at * 3 + index as u32;
            world.rig.maps.servers.set(id, Server { source: address(vip), ..*server }).unwrap();
        }
        let asked = frame(&FROM_CLIENT, client(to, 55_000), to, UDP, 0, b"Initial");
        let got = Decoded::of(&untagged(&world.rig.run(&asked).frame));
        assert_eq!(got.source(), to, "from the VIP, by the port of the service");
        for named in 0..3 {
            let (from, payload) = (got.destination(), short_header(named));
            let answer = frame(&FROM_CLIENT, from, to, UDP, 0, &payload);
            let out = world.rig.run(&answer);
            assert_eq!(out.end, End::Verdict(Verdict::NatReply));
            assert_eq!(Decoded::of(&out.frame).destination(), client(to, 55_000));
        }
    }
}

/// Fragments go where whole packets of their addresses, or of their source, go.
#[test]
fn fragments_go_where_whole_packets_go() {
    let mut world = World::new(Sizes::default());
    for way in Way::ALL.into_iter().filter(|way| *way != Way::Nat) {
        for (six, protocol, from) in every_kind() {
            for by_source in [false, true] {
                let to = SocketAddr::new(fragment_vip(six, way, by_source), FRAGMENT_PORT);
                let flow = world.rig.run(&opening(to, from, protocol)).end;
                assert!(matches!(flow, End::Backend(_)));
                let whole = frame(&FROM_CLIENT, client(to, from), to, protocol, ACK, &[0x66; 84]);
                for piece in fragments(&whole, 0x0707) {
                    assert_eq!(world.rig.run(&piece).end, flow, "{way:?} to {to}");
                    for index in 0..3 {
                        let end = world.rig.run(&as_quic(piece.clone(), index)).end;
                        assert_eq!(end, flow, "{way:?} to {to}: as QUIC");
                    }
                }
            }
        }
    }
}

/// Where a datagram would have its length and the header of QUIC with a server's id, the fragment
/// has these bytes.
fn as_quic(fragment: Vec<u8>, index: usize) -> Vec<u8> {
    let at = transport(&fragment);
    if fragment.len() < at + 24 {
        return fragment;
    }
    edit(edit(fragment, at + 4, &[1, 0]), at + 8, &short_header(index)[..16])
}
