//! Connections of NAT whose backend is gone, in a service that is to reset them: what the client's
//! segments are answered with, as an independent decoder reads it.

use std::net::SocketAddr;

use etherparse::TransportHeader;
use lb_common::verdict::{Event, Verdict};

use crate::decode::{Decoded, tag, untagged};
use crate::frames::*;
use crate::rig::{Action, End, Outcome, Sizes};
use crate::world::{Feature, TCP, UDP, VIP4, VIP6, Way, World, port};

/// The service of a family.
fn service(six: bool) -> SocketAddr {
    SocketAddr::new(if six { VIP6 } else { VIP4 }, port(Feature::Reset, Way::Nat))
}

/// A connection from this port, whose backend is gone now.
fn orphan(world: &mut World, six: bool, from: u16) {
    let out = world.rig.run(&tcp(service(six), from, SYN));
    let End::Backend(row) = out.end else { panic!("{out:?}") };
    world.rig.maps.words.set(row, 0).unwrap();
}

/// A segment of it, with options or without.
fn segment(six: bool, from: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let to = service(six);
    tcp_with_options(&FROM_CLIENT, (client(to, from), to), flags, options, payload)
}

/// RFC 9293, section 3.10.7.1, by what `asked` says.
fn assert_reset(out: &Outcome, asked: &[u8], what: &str) {
    assert_eq!(out.end, End::Verdict(Verdict::ResetSent), "{what}");
    assert_eq!(out.action, Action::Transmit, "{what}");
    assert_eq!(out.events, [Event::NatLookup], "{what}");
    assert_eq!(tag(&out.frame), tag(asked), "{what}: VLAN tag");
    let (asked, answer) = (Decoded::of(&untagged(asked)), Decoded::of(&untagged(&out.frame)));
    let macs = |of: &Decoded| (of.destination_mac, of.source_mac);
    assert_eq!(macs(&answer), (asked.source_mac, asked.destination_mac), "{what}");
    assert_eq!(answer.source(), asked.destination(), "{what}: from the VIP");
    assert_eq!(answer.destination(), asked.source(), "{what}");
    assert_eq!(answer.hops(), 64, "{what}");
    assert!(answer.payload.is_empty(), "{what}");
    let checksums = answer.checksums();
    assert!(checksums.header && checksums.transport, "{what}: checksums");
    let (TransportHeader::Tcp(asked_tcp), TransportHeader::Tcp(tcp)) =
        (&asked.transport, &answer.transport)
    else {
        panic!("{what}: no TCP")
    };
    assert_eq!((tcp.data_offset(), tcp.window_size, tcp.urgent_pointer), (5, 0, 0), "{what}");
    let numbers = (tcp.sequence_number, tcp.acknowledgment_number);
    if asked_tcp.ack {
        assert_eq!(answer.flags(), RST, "{what}");
        assert_eq!(numbers, (asked_tcp.acknowledgment_number, 0), "{what}");
    } else {
        let length = asked.payload.len() as u32 + u32::from(asked_tcp.fin);
        assert_eq!(answer.flags(), RST | ACK, "{what}");
        assert_eq!(numbers, (0, asked_tcp.sequence_number.wrapping_add(length)), "{what}");
    }
}

#[test]
fn segments_of_a_connection_without_backend_are_answered_with_resets() {
    const FIN_ALONE: u8 = 0x01;
    const NOTHING: u8 = 0;
    for six in [false, true] {
        let mut world = World::new(Sizes::default());
        orphan(&mut world, six, 47_000);
        for flags in [ACK, FIN, SYN | ACK, FIN_ALONE, NOTHING] {
            for options in [&[][..], &[1; 12], &[1; 40]] {
                for length in [0, 1, 6, 7, 1300] {
                    let plain = segment(six, 47_000, flags, options, &vec![0x5a; length]);
                    for frame in [
                        plain.clone(),
                        [plain.clone(), vec![0xee; 9]].concat(),
                        tagged(plain.clone(), 0x8100, 0x6005),
                        tagged(plain, 0x88a8, 7),
                    ] {
                        let out = world.rig.run(&frame);
                        let what = format!("{flags:#x}, {} + {length} bytes", options.len());
                        assert_reset(&out, &frame, &what);
                        // Ethernet's least, or IPv6's.
                        let most = if six { 74 } else { 60 };
                        assert!(untagged(&out.frame).len() <= most, "{what}: no more than that");
                    }
                }
            }
        }
        world.rig.assert_conserved();
    }
}

#[test]
fn what_must_not_be_answered_is_dropped_as_it_came() {
    for six in [false, true] {
        let mut world = World::new(Sizes::default());
        orphan(&mut world, six, 47_001);
        let ack = segment(six, 47_001, ACK, &[], PAYLOAD);
        let mut to_all = ack.clone();
        to_all[0] |= 1;
        let offset = if six { 66 } else { 46 };
        let longer = edit(ack.clone(), offset, &[0xf0]);
        let shorter = edit(ack, offset, &[0x40]);
        let reset = segment(six, 47_001, RST, &[], &[]);
        let both = segment(six, 47_001, RST | ACK, &[], &[]);
        for frame in [to_all, longer, shorter, reset, both] {
            let out = world.rig.run(&frame);
            assert_eq!(out.end, End::Verdict(Verdict::DropNatBackendDown));
            assert_eq!((out.action, out.frame), (Action::Drop, frame));
        }
        world.rig.assert_conserved();
    }
}

/// A SYN begins anew, a datagram does so always, and what no entry is of may be another's.
#[test]
fn only_connections_that_were_open_are_reset() {
    for six in [false, true] {
        let mut world = World::new(Sizes::default());
        orphan(&mut world, six, 47_002);
        let unknown = world.rig.run(&segment(six, 47_003, ACK, &[], PAYLOAD));
        assert_eq!(unknown.end, End::Verdict(Verdict::DropNatNoConnection));
        let anew = world.rig.run(&segment(six, 47_002, SYN, &[], &[]));
        assert!(anew.events.contains(&Event::NatVoid), "{anew:?}");
        assert!(matches!(anew.end, End::Backend(_)), "{anew:?}");
        assert_eq!(world.rig.run(&segment(six, 47_002, ACK, &[], &[])).end, anew.end);
        let to = service(six);
        let datagram = frame(&FROM_CLIENT, client(to, 47_004), to, UDP, 0, PAYLOAD);
        let End::Backend(row) = world.rig.run(&datagram).end else { panic!("no backend") };
        world.rig.maps.words.set(row, 0).unwrap();
        let moved = world.rig.run(&datagram);
        assert!(matches!(moved.end, End::Backend(other) if other != row), "{moved:?}");
        // In ways without state there is no such connection.
        let to = SocketAddr::new(to.ip(), port(Feature::Reset, Way::Dsr));
        let End::Backend(row) = world.rig.run(&opening(to, 47_005, TCP)).end else {
            panic!("no backend")
        };
        world.rig.maps.words.set(row, 0).unwrap();
        let out = world.rig.run(&tcp(to, 47_005, ACK));
        assert!(matches!(out.end, End::Backend(other) if other != row), "{out:?}");
    }
}
