//! Whole packets in every mode.

use std::net::SocketAddr;

use lb_common::verdict::Event;
use lb_common::verdict::Verdict::*;

use super::{Expect, Rows, elsewhere, family, to};
use crate::checks::Expect::{Sent, Untouched};
use crate::frames::*;
use crate::world::{CLOSED, Feature, TCP, UDP, Way, nat_address};

pub(super) fn rows(rows: &mut Rows, six: bool) {
    for way in Way::ALL {
        connections(rows, six, way);
        datagrams(rows, six, way);
        header_fields(rows, six, way);
    }
    health(rows, six);
    services(rows, six);
}

fn connections(rows: &mut Rows, six: bool, way: Way) {
    let f = family(six);
    let to = to(six, Feature::Plain, way);
    // Some ports each, so that all backends get some.
    for port in 40_000..40_008 {
        for (flags, name) in
            [(SYN, "SYN"), (ACK, "ACK"), (FIN, "FIN"), (ACK, "ACK after FIN"), (RST, "RST")]
        {
            rows.add(
                format!("{f} tcp {way:?} {name} from {port}"),
                tcp(to, port, flags),
                Sent(way),
            );
        }
    }
    let ack = tcp(to, 40_000, ACK);
    let at = transport(&ack) + 16;
    rows.add(format!("{f} tcp {way:?} wrong checksum"), edit(ack, at, &[0xde, 0xad]), Sent(way));
    let from = client(to, 40_001);
    let bare = frame(&FROM_CLIENT, from, to, TCP, SYN, b"");
    rows.add(format!("{f} tcp {way:?} SYN without payload"), bare, Sent(way));
    let large = frame(&FROM_CLIENT, from, to, TCP, ACK, &[0xa5; 1349]);
    rows.add(format!("{f} tcp {way:?} 1,349 bytes of payload"), large, Sent(way));
    let trailed = [tcp(to, 40_002, SYN), vec![0xff; 7]].concat();
    rows.add(format!("{f} tcp {way:?} SYN with a trailer of 0xff"), trailed, Sent(way));
}

fn datagrams(rows: &mut Rows, six: bool, way: Way) {
    let f = family(six);
    let to = to(six, Feature::Plain, way);
    for port in 41_000..41_008 {
        rows.add(format!("{f} udp {way:?} from {port}"), udp(to, port), Sent(way));
    }
    rows.add(format!("{f} udp {way:?}, again"), udp(to, 41_000), Sent(way));
    let at = transport(&udp(to, 1)) + 6;
    let none = edit(udp(to, 41_001), at, &[0, 0]);
    rows.add(format!("{f} udp {way:?} without checksum"), none, Sent(way));
    let wrong = edit(udp(to, 41_001), at, &[0xde, 0xad]);
    rows.add(format!("{f} udp {way:?} wrong checksum"), wrong, Sent(way));
    let empty = frame(&FROM_CLIENT, client(to, 41_002), to, UDP, 0, b"");
    rows.add(format!("{f} udp {way:?} empty"), empty.clone(), Sent(way));
    let padded = [empty, vec![0; 18]].concat();
    rows.add(format!("{f} udp {way:?} empty, padded to 60 bytes and more"), padded, Sent(way));
}

/// DSCP, ECN, DF, identification, flow label; a header checksum that is wrong.
fn header_fields(rows: &mut Rows, six: bool, way: Way) {
    let f = family(six);
    let to = to(six, Feature::Plain, way);
    for class in [0xb8, 0xb9, 0x02, 0x01, 0x03, 0xff] {
        let marked = with_class(tcp(to, 40_003, SYN), class);
        rows.add(format!("{f} {way:?} keeps traffic class {class:#04x}"), marked, Sent(way));
    }
    if six {
        let labelled = edit(tcp(to, 40_004, SYN), 14, &[0x6b, 0x9a, 0xbc, 0xde]);
        rows.add(format!("{f} {way:?} keeps a flow label"), labelled, Sent(way));
        return;
    }
    for (word, name) in [(0x4000, "DF"), (0, "without DF")] {
        let frame = with_fragment_word(tcp(to, 40_004, SYN), 0xbeef, word);
        rows.add(format!("{f} {way:?} {name}"), frame, Sent(way));
    }
    let wrong = edit(udp(to, 41_003), 24, &[0xde, 0xad]);
    rows.add(format!("{f} {way:?} wrong header checksum"), wrong, Sent(way));
}

fn health(rows: &mut Rows, six: bool) {
    let f = family(six);
    for way in [Way::Dsr, Way::Nat, Way::Gue6] {
        let down = to(six, Feature::Down, way);
        for (name, frame, verdict) in [
            ("SYN", tcp(down, 42_000, SYN), DropNoBackend),
            ("ACK", tcp(down, 42_000, ACK), DropNoBackend),
            ("datagram", udp(down, 42_000), DropNoBackend),
        ] {
            let what = format!("{f} {way:?}, all backends down, {name}");
            let events: &[Event] = if name == "datagram" {
                &[Event::Rehash, Event::WalkExhausted]
            } else {
                &[Event::FlowLookup, Event::Rehash, Event::WalkExhausted]
            };
            rows.add(what, frame, Untouched(verdict)).counts(events);
        }
        let no_hop = to(six, Feature::NoNextHop, way);
        for (name, frame) in [("SYN", tcp(no_hop, 42_000, SYN)), ("datagram", udp(no_hop, 42_000))]
        {
            let what = format!("{f} {way:?}, no next hop, {name}");
            rows.add(what, frame, Untouched(DropNoNextHop));
        }
    }
}

/// What services say beside "here is a backend".
fn services(rows: &mut Rows, six: bool) {
    let f = family(six);
    let nat_to = to(six, Feature::Plain, Way::Nat);
    let closed = SocketAddr::new(nat_to.ip(), CLOSED);
    let other = elsewhere(six);
    let nat = |port| SocketAddr::new(nat_address(six), port);
    let all: &[(&str, Vec<u8>, Expect)] = &[
        ("nat, ACK of no connection", tcp(nat_to, 42_001, ACK), Untouched(DropNatNoConnection)),
        ("nat, FIN of no connection", tcp(nat_to, 42_001, FIN), Untouched(DropNatNoConnection)),
        ("nat, RST of no connection", tcp(nat_to, 42_001, RST), Untouched(DropNatNoConnection)),
        (
            "nat, SYN and ACK of no connection",
            tcp(nat_to, 42_001, SYN | ACK),
            Untouched(DropNatNoConnection),
        ),
        ("VIP, tcp to a closed port", tcp(closed, 42_002, SYN), Untouched(PassNoService)),
        ("VIP, udp to a closed port", udp(closed, 42_002), Untouched(PassNoService)),
        ("no VIP, tcp", tcp(other, 42_002, SYN), Untouched(PassNotVip)),
        ("no VIP, udp", udp(other, 42_002), Untouched(PassNotVip)),
        ("NAT address, no connection", tcp(nat(20_000), 42_002, ACK), Untouched(PassNotVip)),
        ("NAT address, datagram", udp(nat(20_000), 42_002), Untouched(PassNotVip)),
        ("NAT address, a port of the host", tcp(nat(22), 42_002, SYN), Untouched(PassNotVip)),
    ];
    for (what, frame, expect) in all {
        rows.add(format!("{f} {what}"), frame.clone(), *expect);
    }
}
