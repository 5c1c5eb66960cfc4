//! What decides on a backend beside ports and addresses: hash policies, QUIC over NAT; and how
//! tunnels spread flows.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::verdict::Event;

use crate::checks::Expect::Sent;
use crate::checks::Row;
use crate::decode::{Decoded, Tunnel, untagged};
use crate::frames::*;
use crate::places::{QUIC_CONFIG, server_id};
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
            for index in [first, (first + 1) % 3, first, (first + 2) % 3] {
                let mut row = Row::new("QUIC by NAT", packet(index), Sent(Way::Nat));
                row.backend = Some(first);
                row.events = vec![Event::QuicServerId];
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
