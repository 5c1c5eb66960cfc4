//! Headers that contradict themselves, or that no client needs; other protocols than TCP and UDP;
//! what is no IP.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, TcpHeader};
use lb_common::verdict::Verdict::*;

use super::{Rows, family, to};
use crate::checks::Expect::{Sent, Untouched};
use crate::frames::*;
use crate::world::{Feature, OUR_MAC, Way};

pub(super) fn rows(rows: &mut Rows) {
    for six in [false, true] {
        contradictions(rows, six);
    }
    ipv4(rows);
    ipv6(rows);
    other_protocols(rows);
    not_ip(rows);
}

/// Around and before the IP header.
fn contradictions(rows: &mut Rows, six: bool) {
    let f = family(six);
    let to = to(six, Feature::Plain, Way::Dsr);
    let whole = tcp(to, 44_000, SYN);
    for version in (0u8..16).filter(|version| *version != if six { 6 } else { 4 }) {
        let other = edit(whole.clone(), 14, &[version << 4 | whole[14] & 15]);
        rows.add(format!("{f} type, but version {version}"), other, Untouched(PassBadHeader));
    }
    let kind: u16 = if six { 0x0800 } else { 0x86dd };
    let other = edit(whole, 12, &kind.to_be_bytes());
    rows.add(format!("{f} packet said to be of the other"), other, Untouched(PassBadHeader));
    // Length fields that contradict the frame or the header.
    let length_at = if six { 18 } else { 16 };
    let least = if six { 20 } else { 40 };
    let made = move |length: u16| {
        move |to: SocketAddr| edit(tcp(to, 44_000, ACK), length_at, &length.to_be_bytes())
    };
    rows.odd("length of 0", six, DropMalformed, &made(0));
    rows.odd("length without a whole TCP header", six, DropMalformed, &made(least - 1));
    rows.odd("length a byte past the frame", six, DropTruncated, &|to| {
        lengthen(tcp(to, 44_000, ACK), length_at, 1)
    });
    rows.odd("length of 65,535", six, DropTruncated, &made(0xffff));
    let of_udp = |to: SocketAddr| edit(udp(to, 44_000), length_at, &(least - 13).to_be_bytes());
    rows.odd("length without a whole UDP header", six, DropMalformed, &of_udp);
    let shorter = lengthen(tcp(to, 44_000, ACK), length_at, -(PAYLOAD.len() as i32));
    rows.add(format!("{f} payload turned trailer by its length"), shorter, Sent(Way::Dsr));
}

/// TCP behind an IPv4 header with options.
fn with_options(to: SocketAddr) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (client(to, 1).ip(), to.ip()) else {
        panic!("IPv4 only")
    };
    let mut ip = Ipv4Header::new(0, 64, 6.into(), source.octets(), destination.octets()).unwrap();
    ip.options = [1, 1, 1, 1].into();
    let mut bytes = Vec::new();
    let mut tcp = TcpHeader::new(45_000, to.port(), 1, 1000);
    tcp.syn = true;
    PacketBuilder::ethernet2(CLIENT_MAC, OUR_MAC)
        .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
        .tcp_header(tcp)
        .write(&mut bytes, PAYLOAD)
        .unwrap();
    bytes
}

fn ipv4(rows: &mut Rows) {
    rows.odd("with options", false, DropOptions, &with_options);
    let ping_with_options = |to| mended(edit(with_options(to), 23, &[1]));
    rows.odd("ping with a recorded route", false, PassNoService, &ping_with_options);
    for words in 0..5u8 {
        let what = format!("header length of {words} words");
        rows.odd(&what, false, DropMalformed, &|to| {
            edit(tcp(to, 45_000, SYN), 14, &[0x40 | words])
        });
    }
    let fragment = |bits: u16| move |to| with_fragment_word(tcp(to, 45_000, ACK), 7, bits);
    rows.odd("first fragment", false, DropFragment, &fragment(0x2000));
    rows.odd("middle fragment", false, DropFragment, &fragment(0x20b9));
    rows.odd("last fragment", false, DropFragment, &fragment(0x0172));
    let of_udp = |to| with_fragment_word(udp(to, 45_000), 7, 0x2000);
    rows.odd("first fragment of UDP", false, DropFragment, &of_udp);
    let empty = |to| edit(fragment(0x2000)(to), 16, &[0, 20]);
    rows.odd("fragment without payload", false, DropMalformed, &empty);
    let cut = |to| fragment(0x0172)(to)[..40].to_vec();
    rows.odd("fragment cut off", false, DropTruncated, &cut);
}

fn ipv6(rows: &mut Rows) {
    /// TCP behind eight bytes of another header, `kind`.
    fn behind(to: SocketAddr, kind: u8, header: [u8; 8]) -> Vec<u8> {
        lengthen(insert(edit(tcp(to, 46_000, SYN), 20, &[kind]), 54, &header), 18, 8)
    }
    const PADDING: [u8; 8] = [6, 0, 1, 4, 0, 0, 0, 0];
    for (name, kind) in [
        ("hop-by-hop options", 0),
        ("routing header", 43),
        ("destination options", 60),
        ("authentication header", 51),
        ("mobility header", 135),
    ] {
        rows.odd(name, true, DropExtension, &|to| behind(to, kind, PADDING));
    }
    for (name, next, offset, verdict) in [
        ("first fragment of TCP", 6, 1, DropFragment),
        ("last fragment of TCP", 6, 0x172, DropFragment),
        ("fragment of UDP", 17, 1, DropFragment),
        ("fragment of a destination header", 60, 1, DropExtension),
        ("fragment of a large ping", 58, 1, PassNoService),
    ] {
        let [high, low] = u16::to_be_bytes(offset << 3 | 1);
        rows.odd(name, true, verdict, &|to| behind(to, 44, [next, 0, high, low, 0, 0, 0, 9]));
    }
    let cut = |to| behind(to, 44, [6, 0, 0, 1, 0, 0, 0, 9])[..54].to_vec();
    rows.odd("fragment header cut off", true, DropTruncated, &cut);
    let short = |to| edit(behind(to, 44, [6, 0, 0, 1, 0, 0, 0, 9]), 18, &[0, 7]);
    rows.odd("half a fragment header", true, DropMalformed, &short);
    rows.odd("no next header", true, PassNoService, &|to| behind(to, 59, PADDING));
    rows.odd("ESP", true, PassNoService, &|to| behind(to, 50, PADDING));
}

fn other_protocols(rows: &mut Rows) {
    for six in [false, true] {
        let at = if six { 20 } else { 23 };
        let wrong_icmp = if six { 1 } else { 58 };
        for (name, protocol) in [
            ("SCTP", 132),
            ("GRE", 47),
            ("IP in IP", 4),
            ("IPv6 in IP", 41),
            ("DCCP", 33),
            ("the other family's ICMP", wrong_icmp),
        ] {
            let make = |to| edit(tcp(to, 47_000, SYN), at, &[protocol]);
            rows.odd(name, six, PassNoService, &make);
        }
        let short = |to: SocketAddr| {
            let whole = ping(client(to, 0).ip(), to.ip(), b"");
            lengthen(whole, if six { 18 } else { 16 }, -1)
        };
        rows.odd("ping shorter than its header", six, DropMalformed, &short);
        let cut = |to: SocketAddr| {
            ping(client(to, 0).ip(), to.ip(), b"")[..transport(&tcp(to, 1, 0)) + 7].to_vec()
        };
        rows.odd("ping cut off", six, DropTruncated, &cut);
    }
}

fn not_ip(rows: &mut Rows) {
    for (what, kind) in [
        ("ARP", 0x0806u16),
        ("LLDP", 0x88cc),
        ("LACP", 0x8809),
        ("MPLS", 0x8847),
        ("PPPoE", 0x8864),
        ("802.3 length", 0x0026),
        ("the old QinQ", 0x9100),
        ("unknown EtherType", 0xfffe),
        ("EtherType 0", 0),
    ] {
        let frame = tcp(to(false, Feature::Plain, Way::Dsr), 48_000, SYN);
        let frame = edit(frame, 12, &kind.to_be_bytes());
        rows.add(what, frame.clone(), Untouched(PassNotIp));
        rows.add(format!("{what}, nothing behind"), frame[..14].to_vec(), Untouched(PassNotIp));
    }
}
