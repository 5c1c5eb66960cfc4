//! What services do beside forwarding, in every mode.

use std::net::SocketAddr;

use lb_common::verdict::Event::{FlowInsert, FlowLookup, MssClamped, QuicServerId, Rehash};
use lb_common::verdict::Verdict::{DropBlocked, DropNatNoConnection, DropNotAllowed, DropRate};

use super::{Rows, family, to};
use crate::checks::Expect::{Sent, TimeExceeded, Untouched};
use crate::frames::*;
use crate::places::{MSS, QUIC_CONFIG, server_id};
use crate::world::{Feature, TCP, UDP, Way};

pub(super) fn rows(rows: &mut Rows, six: bool) {
    for way in Way::ALL {
        lists(rows, six, way);
        rate(rows, six, way);
        segment_size(rows, six, way);
        quic(rows, six, way);
        policies(rows, six, way);
        changing(rows, six, way);
    }
}

/// A client by another address: outside allow lists, or on the block list.
fn from(to: SocketAddr, v4: &str, v6: &str, port: u16) -> SocketAddr {
    SocketAddr::new(if to.is_ipv6() { v6 } else { v4 }.parse().unwrap(), port)
}

fn lists(rows: &mut Rows, six: bool, way: Way) {
    for protocol in [TCP, UDP] {
        let f = format!("{} {} {way:?}", family(six), name_of(protocol));
        let allow = to(six, Feature::Allow, way);
        rows.add(
            format!("{f} from an allowed source"),
            opening(allow, 48_000, protocol),
            Sent(way),
        );
        let stranger = from(allow, "198.51.100.200", "2001:db8:c::cafe", 48_001);
        for flags in [SYN, ACK] {
            let frame = frame(&FROM_CLIENT, stranger, allow, protocol, flags, PAYLOAD);
            let what = format!("{f} from a source that is not allowed");
            rows.add(what, frame, Untouched(DropNotAllowed));
        }
        let block = to(six, Feature::Block, way);
        let what = format!("{f} from a source that is not blocked");
        rows.add(what, opening(block, 48_002, protocol), Sent(way));
        let blocked = from(block, "203.0.113.77", "2001:db8:bad:77::1", 48_003);
        let at = |to| frame(&FROM_CLIENT, blocked, to, protocol, SYN, PAYLOAD);
        rows.add(format!("{f} from a blocked source"), at(block), Untouched(DropBlocked));
        let plain = to(six, Feature::Plain, way);
        rows.add(format!("{f} from a blocked source, where nobody looks"), at(plain), Sent(way));
    }
}

/// Three flows of a source, whatever their protocol.
fn rate(rows: &mut Rows, six: bool, way: Way) {
    let f = format!("{} {way:?}", family(six));
    let to = to(six, Feature::Rate, way);
    let packet = |from, protocol, flags| frame(&FROM_CLIENT, from, to, protocol, flags, PAYLOAD);
    let client = |port| client(to, port);
    for port in [48_004, 48_005] {
        let what = format!("{f} rate: a flow of few");
        rows.add(what, packet(client(port), TCP, SYN), Sent(way));
    }
    rows.add(format!("{f} rate: the last flow"), packet(client(48_006), UDP, 0), Sent(way));
    for protocol in [TCP, UDP] {
        let frame = packet(client(48_007), protocol, SYN);
        rows.add(format!("{f} rate: one flow more"), frame, Untouched(DropRate));
    }
    rows.add(format!("{f} rate: of an open flow"), packet(client(48_004), TCP, ACK), Sent(way));
    let neighbour = from(to, "198.51.100.8", "2001:db8:c:0:8::", 48_008);
    // An IPv6 source is its /64, so this one is the same.
    let expect = if six { Untouched(DropRate) } else { Sent(way) };
    rows.add(format!("{f} rate: of a neighbour"), packet(neighbour, TCP, SYN), expect);
    let other = from(to, "198.51.101.7", "2001:db8:c:1::7", 48_009);
    rows.add(format!("{f} rate: of another source"), packet(other, TCP, SYN), Sent(way));
}

fn segment_size(rows: &mut Rows, six: bool, way: Way) {
    let f = format!("{} {way:?}", family(six));
    let to = to(six, Feature::Mss, way);
    let segment = |flags, options: &[u8]| {
        tcp_with_options(&FROM_CLIENT, (client(to, 48_010), to), flags, options, PAYLOAD)
    };
    let [_, _, high, low] = mss_option(MSS);
    let mut clamped = |what: &str, before: &[u8], after: &[u8]| {
        let row = rows.add(format!("{f} MSS {what}"), segment(SYN, before), Sent(way));
        row.becomes(segment(SYN, after)).counts(&[MssClamped]);
    };
    clamped("alone", &mss_option(1460), &[2, 4, high, low]);
    clamped("one too large", &mss_option(MSS + 1), &[2, 4, high, low]);
    clamped("largest", &[2, 4, 0xff, 0xff], &[2, 4, high, low]);
    clamped("at an odd place", &[1, 2, 4, 5, 0xb4, 1, 1, 0], &[1, 2, 4, high, low, 1, 1, 0]);
    let (sack, window) = ([4, 2, 1, 1], [3, 3, 7, 1]);
    clamped(
        "behind others",
        &[&sack[..], &window, &mss_option(9000)].concat(),
        &[&sack[..], &window, &[2, 4, high, low]].concat(),
    );
    let last = |option: &[u8]| [&[1; 36][..], option].concat();
    clamped("last of 40 bytes", &last(&mss_option(1460)), &last(&[2, 4, high, low]));
    for (what, flags, options) in [
        ("as large as may be", SYN, mss_option(MSS).to_vec()),
        ("smaller", SYN, mss_option(536).to_vec()),
        ("missing", SYN, Vec::new()),
        ("behind the end of options", SYN, vec![0, 0, 0, 0, 2, 4, 5, 0xb4]),
        ("of a wrong length", SYN, vec![2, 3, 5, 0xb4]),
        ("behind a malformed option", SYN, vec![3, 0, 1, 1, 2, 4, 5, 0xb4]),
        ("within an option", SYN, vec![5, 8, 2, 4, 5, 0xb4, 0, 0]),
        ("of no SYN", ACK, mss_option(1460).to_vec()),
    ] {
        rows.add(format!("{f} MSS {what}"), segment(flags, &options), Sent(way));
    }
    if way.takes_hop() {
        let late = with_hops(segment(SYN, &mss_option(1460)), 1);
        rows.add(format!("{f} MSS: an error quotes what came"), late, TimeExceeded);
    }
    let plain = super::to(six, Feature::Plain, way);
    rows.add(format!("{f} MSS where nobody clamps"), tcp(plain, 48_010, SYN), Sent(way));
}

/// A datagram of QUIC with a short header, and one with a long header.
fn short(octet: u8, id: &[u8]) -> Vec<u8> {
    [&[0x41, octet][..], id, &[0xee; 24]].concat()
}

fn long(first: u8, version: u32, length: u8, octet: u8, id: &[u8]) -> Vec<u8> {
    [&[first][..], &version.to_be_bytes(), &[length, octet], id, &[0xee; 24]].concat()
}

fn quic(rows: &mut Rows, six: bool, way: Way) {
    const V2: u32 = 0x6b33_43cf;
    let f = format!("{} {way:?}", family(six));
    let to = to(six, Feature::Quic, way);
    let ours = QUIC_CONFIG << 5 | 0x0a;
    // Each from a port of its own: NAT knows flows by that.
    let mut port = 49_000;
    let mut packet = |payload: &[u8]| {
        port += 1;
        frame(&FROM_CLIENT, client(to, port), to, UDP, 0, payload)
    };
    for index in 0..3 {
        let id = server_id(index);
        for (what, payload) in [
            ("a short header", short(ours, &id)),
            ("Handshake of version 1", long(0xe0, 1, 8, ours, &id)),
            ("Handshake of version 2", long(0xf0, V2, 8, ours, &id)),
            ("Handshake, the shortest id", long(0xe0, 1, 5, ours, &id)),
        ] {
            let row =
                rows.add(format!("{f} QUIC: {what}, server {index}"), packet(&payload), Sent(way));
            row.at(index).counts(&[QuicServerId]);
        }
    }
    let id = server_id(1);
    for (what, payload) in [
        ("Initial", long(0xc0, 1, 8, ours, &id)),
        ("Initial of version 2", long(0xd0, V2, 8, ours, &id)),
        ("0-RTT", long(0xd0, 1, 8, ours, &id)),
        ("Retry", long(0xf0, 1, 8, ours, &id)),
        ("an unknown version", long(0xe0, 0x1234_5678, 8, ours, &id)),
        ("Handshake, an id too short", long(0xe0, 1, 4, ours, &id)),
        ("another configuration", short(ours ^ 0x20, &id)),
        ("the configuration that has none", short(0xe0, &id)),
        ("no server's id", short(ours, &[9, 9, 9, 9])),
        ("fewer than 16 bytes", short(ours, &id)[..15].to_vec()),
        ("nothing", Vec::new()),
    ] {
        rows.add(format!("{f} QUIC: {what}"), packet(&payload), Sent(way));
    }
    let id = server_id(2);
    let row =
        rows.add(format!("{f} QUIC: the fewest bytes"), packet(&short(ours, &id)[..16]), Sent(way));
    row.at(2).counts(&[QuicServerId]);
    let trailed = [packet(&short(ours, &id)[..10]), vec![0; 20]].concat();
    rows.add(format!("{f} QUIC: fewer than 16 bytes and a trailer"), trailed, Sent(way));
    let tcp = frame(&FROM_CLIENT, client(to, 48_999), to, TCP, SYN, &short(ours, &id));
    rows.add(format!("{f} QUIC: by TCP"), tcp, Sent(way));
}

fn policies(rows: &mut Rows, six: bool, way: Way) {
    for protocol in [TCP, UDP] {
        let f = format!("{} {} {way:?}", family(six), name_of(protocol));
        for feature in [Feature::HashSource, Feature::HashAddresses, Feature::UdpFlow] {
            let to = to(six, feature, way);
            for port in 48_020..48_024 {
                rows.add(format!("{f} {feature:?}"), opening(to, port, protocol), Sent(way));
            }
        }
        let to = to(six, Feature::Track, way);
        // NAT remembers its connections itself.
        let (first, next): (&[_], &[_]) = match way {
            Way::Nat => (&[FlowLookup, Rehash], &[]),
            _ => (&[FlowLookup, FlowInsert, Rehash], &[FlowLookup, Rehash]),
        };
        let opens = opening(to, 48_030, protocol);
        rows.add(format!("{f} tracked, first"), opens, Sent(way)).counts(first);
        let on = frame(&FROM_CLIENT, client(to, 48_030), to, protocol, ACK, PAYLOAD);
        rows.add(format!("{f} tracked, next"), on, Sent(way)).counts(next);
    }
}

/// A mode change: packets of connections that NAT does not know are the direct mode's. Where
/// only NAT's backends are left, they are nobody's.
fn changing(rows: &mut Rows, six: bool, way: Way) {
    let f = format!("{} {way:?}", family(six));
    let to = to(six, Feature::Changing, way);
    let known = if way == Way::Nat { Untouched(DropNatNoConnection) } else { Sent(way) };
    rows.add(format!("{f} changing: ACK"), tcp(to, 48_040, ACK), known);
    rows.add(format!("{f} changing: RST"), tcp(to, 48_040, RST), known);
    rows.add(format!("{f} changing: SYN"), tcp(to, 48_041, SYN), Sent(way));
    rows.add(format!("{f} changing: ACK behind it"), tcp(to, 48_041, ACK), Sent(way));
    rows.add(format!("{f} changing: datagram"), udp(to, 48_042), Sent(way));
}
