//! Packets that speak against a backend: the first answer to a connection is a reset, or an error says
//! that it cannot be reached. They go their way as others do, and the daemon finds whom they are
//! about.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{DOUBTS, doubted_row};
use lb_common::verdict::{Event, Verdict};

use crate::decode::{Decoded, untagged};
use crate::errors::{connect, every_kind, router};
use crate::frames::*;
use crate::rig::{End, Sizes};
use crate::world::{Feature, TCP, VIP4, VIP6, Way, World, nat_address, port};

/// The row that was spoken against since the last look, if any was.
fn doubted(world: &World) -> Option<u32> {
    let doubts = &world.rig.maps.doubts;
    let places = (0..DOUBTS).filter(|place| doubts.get(*place).unwrap() != 0);
    let rows: Vec<u32> = places
        .map(|place| {
            let row = doubted_row(doubts.get(place).unwrap());
            assert_eq!(row % DOUBTS, place);
            doubts.set(place, 0).unwrap();
            row
        })
        .collect();
    assert!(rows.len() <= 1, "{rows:?}");
    rows.first().copied()
}

#[test]
fn a_reset_in_answer_to_a_syn_speaks_against_its_backend() {
    let mut world = World::new(Sizes::default());
    for six in [false, true] {
        let to = SocketAddr::new(if six { VIP6 } else { VIP4 }, port(Feature::Plain, Way::Nat));
        for from in 52_000..52_008 {
            for (first, flags, is_refusal) in [
                (None, RST | ACK, true),
                // The same ports again, on which the backend has answered once.
                (None, RST | ACK, false),
                (Some(SYN | ACK), RST, false),
            ] {
                let out = world.rig.run(&tcp(to, from, SYN));
                let End::Backend(row) = out.end else { panic!("{out:?}") };
                let got = Decoded::of(&untagged(&out.frame));
                let answer =
                    |flags| frame(&FROM_CLIENT, got.destination(), got.source(), TCP, flags, b"");
                if let Some(first) = first {
                    assert_eq!(world.rig.run(&answer(first)).events, [Event::NatLookup]);
                }
                let out = world.rig.run(&answer(flags));
                assert_eq!(out.end, End::Verdict(Verdict::NatReply));
                let client = Decoded::of(&untagged(&out.frame));
                assert_eq!((client.flags(), client.source()), (flags, to), "it reaches the client");
                let events = [Event::NatLookup, Event::NatRefused];
                assert_eq!(out.events, events[..if is_refusal { 2 } else { 1 }]);
                assert_eq!(doubted(&world), is_refusal.then_some(row));
            }
        }
    }
    world.rig.assert_conserved();
}

#[test]
fn an_error_speaks_against_a_backend_that_cannot_be_reached() {
    // Net, host, protocol and port unreachable, prohibited; what says nothing of the kind.
    const KINDS4: [((u8, u8), bool); 8] = [
        ((3, 0), true),
        ((3, 1), true),
        ((3, 2), true),
        ((3, 3), true),
        ((3, 13), true),
        ((3, 4), false),
        ((11, 0), false),
        ((12, 0), false),
    ];
    const KINDS6: [((u8, u8), bool); 6] = [
        ((1, 0), true),
        ((1, 3), true),
        ((1, 4), true),
        ((2, 0), false),
        ((3, 0), false),
        ((4, 0), false),
    ];
    let mut world = World::new(Sizes::default());
    for (six, protocol, from) in every_kind() {
        let connection = connect(&mut world, six, protocol, from, Feature::Plain);
        assert_eq!(doubted(&world), None);
        let error = |to: IpAddr, kind, packet: &[u8]| {
            icmp(&FROM_CLIENT, router(six), to, kind, 1400, &quote(packet, 8))
        };
        let kinds: &[_] = if six { &KINDS6 } else { &KINDS4 };
        for (kind, is_against) in kinds {
            let out = world.rig.run(&error(nat_address(six), *kind, &connection.got));
            assert_eq!(out.end, End::Verdict(Verdict::NatReply), "{kind:?}");
            let events = [Event::NatLookup, Event::Quoted, Event::NatUnreachable];
            assert_eq!(out.events, events[..if *is_against { 3 } else { 2 }], "{kind:?}");
            assert_eq!(doubted(&world), is_against.then_some(connection.row), "{kind:?}");
            // That a client is not reached is no matter of its backend.
            let vip = if six { VIP6 } else { VIP4 };
            let out = world.rig.run(&error(vip, *kind, &connection.answered));
            assert_eq!(out.end, End::Backend(connection.row), "{kind:?}");
            assert_eq!(doubted(&world), None, "{kind:?}");
        }
    }
    world.rig.assert_conserved();
}
