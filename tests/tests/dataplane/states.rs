//! Packets that need a state of their own: NAT's tables and ports, limits, headroom.

use std::collections::HashSet;
use std::net::SocketAddr;

use etherparse::TransportHeader;
use lb_common::abi::NatEntry;
use lb_common::frame::HostFrame;
use lb_common::path;
use lb_common::verdict::{Event, Verdict};
use lb_userspace::dataplane::view::View;

use crate::checks::Expect::{Sent, TimeExceeded, TooBig, Untouched};
use crate::checks::Row;
use crate::decode::{Decoded, untagged};
use crate::frames::*;
use crate::rig::{Action, End, HEADROOM, INGRESS, Sizes};
use crate::world::{Feature, TCP, UDP, VIP4, VIP6, Way, World, port};

/// Port of the plain services of NAT.
const NAT: u16 = port(Feature::Plain, Way::Nat);

/// The kernel's runner takes no frame without a whole Ethernet header, so the host runs these.
#[test]
fn frames_shorter_than_an_ethernet_header_are_left_to_the_kernel() {
    let world = World::new(Sizes::default());
    let whole = tcp(SocketAddr::new(VIP4, NAT), 1, SYN);
    for length in 0..14 {
        let mut frame = HostFrame::new(&whole[..length]);
        let view = View::new(&world.rig.maps);
        let end = path::run(&view, &mut frame, INGRESS);
        assert_eq!(end, Err(Verdict::PassBadHeader), "{length} bytes");
        assert_eq!(frame.bytes(), &whole[..length]);
    }
}

/// A computed checksum of zero is sent as 0xffff, as zero says "none" (RFC 768).
#[test]
fn a_udp_checksum_that_computes_to_zero_is_sent_as_ones() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, NAT);
        let from = client(to, 50_000);
        let ask = |payload: &[u8]| frame(&FROM_CLIENT, from, to, UDP, 0, payload);
        let run = |world: &mut World, payload: &[u8]| {
            let row = Row::new(format!("to {to}"), ask(payload), Sent(Way::Nat));
            checksum(&Decoded::of(&untagged(&world.check(&row).frame)))
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
    let row = Row::new(format!("{to}"), tcp(to, port, SYN), Sent(Way::Nat));
    Decoded::of(&untagged(&world.check(&row).frame))
}

#[test]
fn replies_have_odd_ends_too() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let got = open(&mut world, SocketAddr::new(vip, NAT), 50_001);
        let (backend, nat) = (got.destination(), got.source());
        let outside = |hops| Outside { hops, ..FROM_CLIENT };
        for hops in [0, 1] {
            let answer = frame(&outside(hops), backend, nat, TCP, ACK, b"late");
            world.check(&Row::new(format!("answer with {hops} hops left"), answer, TimeExceeded));
        }
        let headers = if vip.is_ipv4() { 40 } else { 60 };
        for (length, fits) in [(1500, true), (1501, false)] {
            let answer = frame(&outside(9), backend, nat, TCP, ACK, &vec![1; length - headers]);
            if fits {
                let out = world.rig.run(&answer);
                assert_eq!(out.end, End::Verdict(Verdict::NatReply));
            } else {
                world.check(&Row::new("answer too big for clients", answer, TooBig(1500)));
            }
        }
        // Not of the connection: another source port, another protocol.
        let stranger = SocketAddr::new(backend.ip(), backend.port() + 1);
        for (what, frame) in [
            ("another port of the backend", frame(&outside(9), stranger, nat, TCP, ACK, b"")),
            ("another protocol", frame(&outside(9), backend, nat, UDP, 0, b"")),
        ] {
            world.check(&Row::new(what, frame, Untouched(Verdict::PassNotVip)));
        }
    }
}

#[test]
fn an_answer_leaves_by_the_interface_the_client_came_by() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let got = open(&mut world, SocketAddr::new(vip, NAT), 50_002);
        let maps = world.rig.maps.clone();
        // As if the client's last packet had come by another interface.
        let elsewhere = |entry: &NatEntry| NatEntry { ifindex: 9, ..*entry };
        maps.nat.for_each(|key, entry| maps.nat.set(key, elsewhere(entry)).unwrap()).unwrap();
        let answer = frame(&FROM_CLIENT, got.destination(), got.source(), TCP, ACK, b"");
        assert_eq!(world.rig.run(&answer).action, Action::Redirect);
        // The client's next packet corrects it.
        let again = world.rig.run(&tcp(SocketAddr::new(vip, NAT), 50_002, ACK));
        assert_eq!(again.events, [Event::NatLookup, Event::NatHopLearned]);
        assert_eq!(world.rig.run(&answer).action, Action::Transmit);
    }
}

#[test]
fn a_full_nat_table_refuses_new_connections_and_keeps_the_old() {
    let mut world = World::new(Sizes { nat_connections: 16, ..Sizes::default() });
    let to = SocketAddr::new(VIP4, NAT);
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
    let to = SocketAddr::new(VIP6, NAT);
    let mut taken = HashSet::new();
    let mut refused = 0;
    for port in 1024..1324 {
        let out = world.rig.run(&tcp(to, port, SYN));
        if out.end == End::Verdict(Verdict::DropNatNoPort) {
            refused += 1;
            continue;
        }
        let got = Decoded::of(&untagged(&out.frame));
        assert!((20_000..=20_007).contains(&got.source().port()));
        assert!(taken.insert((got.source(), got.destination())), "{port}: a port taken twice");
    }
    assert_eq!((taken.len(), refused), (24, 276), "8 ports to each of 3 backends");
}

#[test]
fn a_failed_backend_in_nat_refuses_its_connections_until_they_begin_anew() {
    let mut world = World::new(Sizes::default());
    let to = SocketAddr::new(VIP4, NAT);
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
    let udp_to = SocketAddr::new(VIP4, NAT);
    let End::Backend(row) = world.rig.run(&udp(udp_to, 50_004)).end else { panic!("no backend") };
    world.rig.maps.words.set(row, 0).unwrap();
    let moved = world.rig.run(&udp(udp_to, 50_004));
    assert!(matches!(moved.end, End::Backend(other) if other != row), "a datagram begins anew");
}

#[test]
fn errors_made_are_limited_and_then_packets_are_dropped() {
    let mut world = World::new(Sizes { icmp_rate: 1, ..Sizes::default() });
    let to = SocketAddr::new(VIP6, port(Feature::Plain, Way::Gue4));
    let late = with_hops(udp(to, 50_005), 1);
    let mut ends = Vec::new();
    for _ in 0..100 {
        let out = world.rig.run(&late);
        let limited = out.events.contains(&Event::IcmpLimited);
        assert_eq!(limited, out.end == End::Verdict(Verdict::DropTtl));
        assert!(!limited || out.frame == late, "a dropped packet is not changed");
        ends.push(limited);
    }
    let told = ends.iter().take_while(|limited| !**limited).count();
    // A batch at once, and a token a second.
    assert!((64..70).contains(&told), "{told} told");
    assert!(ends.iter().filter(|limited| **limited).count() > 25);
    world.rig.assert_conserved();
}

#[test]
fn recorded_flows_are_limited_and_then_go_on_unrecorded() {
    let mut world = World::new(Sizes { flow_inserts: 1, ..Sizes::default() });
    let to = SocketAddr::new(VIP4, port(Feature::Track, Way::Ipip4));
    let mut limited = 0;
    for port in 1024..1124 {
        let out = world.rig.run(&tcp(to, port, SYN));
        assert!(matches!(out.end, End::Backend(_)), "{out:?}");
        limited += u32::from(out.events.contains(&Event::FlowInsertLimited));
    }
    assert!((30..=36).contains(&limited), "{limited} of 100 were not recorded");
    world.rig.assert_conserved();
}

/// Drivers leave 256 bytes, which is enough for everything; where there are fewer, nothing leaves
/// half made.
#[test]
fn without_room_in_front_a_packet_is_dropped() {
    let mut world = World::new(Sizes::default());
    for way in Way::ALL.into_iter().filter(|way| way.is_tunnel()) {
        let to = SocketAddr::new(VIP4, port(Feature::Plain, way));
        for port in 50_006..50_016 {
            for room in (0..64).step_by(4) {
                world.rig.poison = HEADROOM - room;
                let out = world.rig.run(&tcp(to, port, SYN));
                if world.rig.poison != HEADROOM - room {
                    println!("this kernel takes too few metadata to leave no room");
                    return;
                }
                // What a refused tag is counted as, beside its backend, is told below.
                let needed = way.overhead() as usize;
                if room < needed {
                    assert_eq!(out.end, End::Verdict(Verdict::DropInternal), "{way:?}: {room}");
                    assert_eq!(out.action, Action::Drop);
                } else if room >= needed + 4 {
                    assert!(matches!(out.end, End::Backend(_)), "{way:?}: {room}");
                }
            }
        }
    }
}
