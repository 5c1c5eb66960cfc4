//! Runs the packets of [`crate::rows`] through the program, and those that need a state of their
//! own.

use std::collections::HashMap;
use std::net::SocketAddr;

use lb_common::abi::NatEntry;
use lb_common::packet::Packet;
use lb_common::path;
use lb_common::verdict::{Event, Verdict};
use lb_userspace::dataplane::view::View;

use etherparse::TransportHeader;

use crate::checks::{Expect, Row};
use crate::decode::Decoded;
use crate::frames::{ACK, FROM_CLIENT, Outside, SYN, client, frame, tcp, udp};
use crate::rig::{Action, End, INGRESS, MOST_POISON, Outcome, Sizes};
use crate::rows;
use crate::world::{NAT_TCP, NAT_UDP, TCP, UDP, VIP4, VIP6, World};

#[test]
fn every_packet_becomes_what_it_should() {
    let mut world = World::new(Sizes::default());
    let rows = rows::all();
    let mut backend_of = HashMap::new();
    for row in &rows {
        let out = world.check(row);
        if let End::Backend(backend) = out.end {
            let packet = Decoded::of(&row.frame);
            let flow = (packet.source(), packet.destination(), packet.protocol());
            let first = *backend_of.entry(flow).or_insert(backend);
            assert_eq!(backend, first, "{}: the flow changed its backend", row.what);
        }
    }
    world.rig.assert_conserved();
    println!("{} packets, {} flows to backends", rows.len(), backend_of.len());
}

#[test]
fn what_lies_around_a_packet_does_not_matter() {
    let rows = rows::all();
    let outcomes = |poison: usize| -> Vec<Outcome> {
        let mut world = World::new(Sizes::default());
        world.rig.poison = poison;
        rows.iter().map(|row| world.rig.run(&row.frame)).collect()
    };
    let clean = outcomes(0);
    for poison in [4, 104, MOST_POISON] {
        for ((row, clean), poisoned) in rows.iter().zip(&clean).zip(outcomes(poison)) {
            assert_eq!(*clean, poisoned, "{} behind {poison} bytes of 0xff", row.what);
        }
    }
}

/// The kernel's runner takes no frame without a whole Ethernet header, so the host runs these.
#[test]
fn frames_shorter_than_an_ethernet_header_are_left_to_the_kernel() {
    let world = World::new(Sizes::default());
    let whole = tcp(SocketAddr::new(VIP4, NAT_TCP), 1, SYN);
    for length in 0..14 {
        let mut bytes = whole[..length].to_vec();
        let view = View::new(&world.rig.maps);
        let end = path::run(&view, Packet::from_slice(&mut bytes), INGRESS);
        assert_eq!(end, Err(Verdict::PassBadHeader), "{length} bytes");
        assert_eq!(bytes, whole[..length]);
    }
}

/// A computed checksum of zero is sent as 0xffff, as zero says "none" (RFC 768).
#[test]
fn a_udp_checksum_that_computes_to_zero_is_sent_as_ones() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, NAT_UDP);
        let from = client(to, 50_000);
        let ask = |payload: &[u8]| frame(&FROM_CLIENT, from, to, UDP, 0, payload);
        let run = |world: &mut World, payload: &[u8]| {
            let row = Row { what: format!("to {to}"), frame: ask(payload), expect: Expect::Nat };
            checksum(&Decoded::of(&world.check(&row).frame))
        };
        // Adding a checksum to the text it is of makes the sum all ones.
        let balance = run(&mut world, &[0, 0, 7, 7]).to_be_bytes();
        assert_eq!(run(&mut world, &[balance[0], balance[1], 7, 7]), 0xffff, "there, {to}");
        // And one that came as 0xffff.
        let balance = checksum(&Decoded::of(&ask(&[0, 0, 9, 9]))).to_be_bytes();
        let ones = [balance[0], balance[1], 9, 9];
        assert_eq!(checksum(&Decoded::of(&ask(&ones))), 0xffff);
        run(&mut world, &ones);
    }
}

fn checksum(packet: &Decoded) -> u16 {
    match &packet.transport {
        TransportHeader::Udp(udp) => udp.checksum,
        other => panic!("{other:?} is not UDP"),
    }
}

/// A connection's packet as the backend gets it.
fn open(world: &mut World, to: SocketAddr, port: u16) -> Decoded {
    let row = Row { what: format!("{to}"), frame: tcp(to, port, SYN), expect: Expect::Nat };
    Decoded::of(&world.check(&row).frame)
}

#[test]
fn replies_have_odd_ends_too() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let got = open(&mut world, SocketAddr::new(vip, NAT_TCP), 50_001);
        let (backend, nat) = (got.destination(), got.source());
        let outside = |hops| Outside { hops, ..FROM_CLIENT };
        for hops in [0, 1] {
            let answer = frame(&outside(hops), backend, nat, TCP, ACK, b"late");
            let row = Row {
                what: format!("answer with {hops} hops left"),
                frame: answer,
                expect: Expect::Untouched(Verdict::DropTtl),
            };
            world.check(&row);
        }
        // Not of the connection: another source port, another protocol.
        let stranger = SocketAddr::new(backend.ip(), backend.port() + 1);
        for (what, frame) in [
            ("another port of the backend", frame(&outside(9), stranger, nat, TCP, ACK, b"")),
            ("another protocol", frame(&outside(9), backend, nat, UDP, 0, b"")),
        ] {
            let expect = Expect::Untouched(Verdict::PassNotVip);
            world.check(&Row { what: what.into(), frame, expect });
        }
    }
}

#[test]
fn an_answer_leaves_by_the_interface_the_client_came_by() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let got = open(&mut world, SocketAddr::new(vip, NAT_TCP), 50_002);
        let maps = world.rig.maps.clone();
        // As if the client's last packet had come by another interface.
        let elsewhere = |entry: &NatEntry| NatEntry { ifindex: 9, ..*entry };
        maps.nat.for_each(|key, entry| maps.nat.set(key, elsewhere(entry)).unwrap()).unwrap();
        let answer = frame(&FROM_CLIENT, got.destination(), got.source(), TCP, ACK, b"");
        assert_eq!(world.rig.run(&answer).action, Action::Redirect);
        // The client's next packet corrects it.
        let again = world.rig.run(&tcp(SocketAddr::new(vip, NAT_TCP), 50_002, ACK));
        assert_eq!(again.events, [Event::NatLookup, Event::NatHopLearned]);
        assert_eq!(world.rig.run(&answer).action, Action::Transmit);
    }
}

#[test]
fn a_full_nat_table_refuses_new_connections_and_keeps_the_old() {
    let mut world = World::new(Sizes { nat_connections: 16, ..Sizes::default() });
    let to = SocketAddr::new(VIP4, NAT_TCP);
    let mut opened = Vec::new();
    for port in 1024..1124 {
        let out = world.rig.run(&tcp(to, port, SYN));
        match out.end {
            End::Backend(_) => opened.push(port),
            end => {
                assert_eq!(end, End::Verdict(Verdict::DropNatFull));
                assert_eq!(out.frame, tcp(to, port, SYN), "a dropped packet is not changed");
            }
        }
    }
    assert_eq!(opened.len(), 16);
    for port in opened {
        let out = world.rig.run(&tcp(to, port, ACK));
        assert!(matches!(out.end, End::Backend(_)), "{port}: {out:?}");
    }
    world.rig.assert_conserved();
}

#[test]
fn nat_without_a_free_port_refuses_new_connections_and_takes_no_port_twice() {
    let mut world = World::new(Sizes { nat_ports: (20_000, 20_007), ..Sizes::default() });
    let to = SocketAddr::new(VIP6, NAT_TCP);
    let mut taken = std::collections::HashSet::new();
    let mut refused = 0;
    for port in 1024..1324 {
        let out = world.rig.run(&tcp(to, port, SYN));
        if out.end == End::Verdict(Verdict::DropNatNoPort) {
            refused += 1;
            continue;
        }
        let got = Decoded::of(&out.frame);
        assert!((20_000..=20_007).contains(&got.source().port()));
        assert!(taken.insert((got.source(), got.destination())), "{port}: a port taken twice");
    }
    assert_eq!((taken.len(), refused), (24, 276), "8 ports to each of 3 backends");
}

#[test]
fn a_failed_backend_in_nat_refuses_its_connections_until_they_begin_anew() {
    let mut world = World::new(Sizes::default());
    let to = SocketAddr::new(VIP4, NAT_TCP);
    let out = world.rig.run(&tcp(to, 50_003, SYN));
    let End::Backend(row) = out.end else { panic!("{out:?}") };
    world.rig.maps.words.set(row, 0).unwrap();
    let down = world.rig.run(&tcp(to, 50_003, ACK));
    assert_eq!(down.end, End::Verdict(Verdict::DropNatBackendDown));
    let anew = world.rig.run(&tcp(to, 50_003, SYN));
    assert!(anew.events.contains(&Event::NatVoid), "{:?}", anew.events);
    assert!(matches!(anew.end, End::Backend(other) if other != row));
    let on = world.rig.run(&tcp(to, 50_003, ACK));
    assert_eq!(on.end, anew.end);
    let udp_to = SocketAddr::new(VIP4, NAT_UDP);
    let End::Backend(row) = world.rig.run(&udp(udp_to, 50_004)).end else { panic!("no backend") };
    world.rig.maps.words.set(row, 0).unwrap();
    let moved = world.rig.run(&udp(udp_to, 50_004));
    assert!(matches!(moved.end, End::Backend(other) if other != row), "a datagram begins anew");
}
