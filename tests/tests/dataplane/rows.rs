//! The packets: each what it is, its bytes, and what becomes of it. Read it as a specification.
//!
//! Rows run in order on one program; rows of one client port are one connection.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, Ipv4Extensions, Ipv4Header, PacketBuilder, TcpHeader};
use lb_common::verdict::Verdict;

use crate::checks::Expect::{self, Direct, Nat, Untouched};
use crate::checks::Row;
use crate::frames::*;
use crate::world::*;
use Verdict::*;

/// All rows.
pub(crate) fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for vip in [VIP4, VIP6] {
        flows(&mut rows, vip);
        services(&mut rows, vip);
        truncations(&mut rows, vip);
        outer(&mut rows, vip);
    }
    ipv4_headers(&mut rows);
    ipv6_headers(&mut rows);
    other_protocols(&mut rows);
    not_ip(&mut rows);
    rows
}

fn row(rows: &mut Vec<Row>, what: impl Into<String>, frame: Vec<u8>, expect: Expect) {
    rows.push(Row { what: what.into(), frame, expect });
}

fn family(vip: IpAddr) -> &'static str {
    if vip.is_ipv4() { "v4" } else { "v6" }
}

/// An address of this family that is no VIP.
fn elsewhere(vip: IpAddr) -> SocketAddr {
    let address = if vip.is_ipv4() { "203.0.113.99" } else { "2001:db8:ffff::99" };
    SocketAddr::new(address.parse().unwrap(), DSR_TCP)
}

/// A packet that can be told only by its address: `verdict` at a VIP, passed elsewhere.
fn odd(
    rows: &mut Vec<Row>,
    what: &str,
    vip: IpAddr,
    verdict: Verdict,
    make: &dyn Fn(SocketAddr) -> Vec<u8>,
) {
    let f = family(vip);
    row(
        rows,
        format!("{f} {what} to a VIP"),
        make(SocketAddr::new(vip, DSR_TCP)),
        Untouched(verdict),
    );
    row(rows, format!("{f} {what} to others"), make(elsewhere(vip)), Untouched(PassNotVip));
    row(rows, format!("{f} {what} to a NAT address"), make(nat(vip)), Untouched(PassNotVip));
}

/// Connections and datagrams, whole, in both modes.
fn flows(rows: &mut Vec<Row>, vip: IpAddr) {
    let f = family(vip);
    for (mode, port, expect) in [("dsr", DSR_TCP, Direct), ("nat", NAT_TCP, Nat)] {
        let to = SocketAddr::new(vip, port);
        for (flags, name) in
            [(SYN, "SYN"), (ACK, "ACK"), (FIN, "FIN"), (ACK, "ACK after FIN"), (RST, "RST")]
        {
            row(rows, format!("{f} tcp {mode} {name}"), tcp(to, 40_000, flags), expect);
        }
        let wrong = edit(tcp(to, 40_000, ACK), transport(vip) + 16, &[0xde, 0xad]);
        row(rows, format!("{f} tcp {mode} wrong checksum"), wrong, expect);
        let bare = frame(&FROM_CLIENT, client(to, 40_001), to, TCP, SYN, b"");
        row(rows, format!("{f} tcp {mode} SYN without payload"), bare, expect);
        let large = frame(&FROM_CLIENT, client(to, 40_001), to, TCP, ACK, &[0xa5; 1399]);
        row(rows, format!("{f} tcp {mode} 1,399 bytes of payload"), large, expect);
        let trailed = [tcp(to, 40_002, SYN), vec![0xff; 7]].concat();
        row(rows, format!("{f} tcp {mode} SYN with a trailer of 0xff"), trailed, expect);
    }
    for (mode, port, expect) in [("dsr", DSR_UDP, Direct), ("nat", NAT_UDP, Nat)] {
        let to = SocketAddr::new(vip, port);
        row(rows, format!("{f} udp {mode}"), udp(to, 41_000), expect);
        row(rows, format!("{f} udp {mode}, again"), udp(to, 41_000), expect);
        let none = edit(udp(to, 41_001), transport(vip) + 6, &[0, 0]);
        row(rows, format!("{f} udp {mode} without checksum"), none, expect);
        let wrong = edit(udp(to, 41_001), transport(vip) + 6, &[0xde, 0xad]);
        row(rows, format!("{f} udp {mode} wrong checksum"), wrong, expect);
        let empty = frame(&FROM_CLIENT, client(to, 41_002), to, UDP, 0, b"");
        row(rows, format!("{f} udp {mode} empty"), empty.clone(), expect);
        let padded = [empty, vec![0; 18]].concat();
        row(rows, format!("{f} udp {mode} empty, padded to 60 bytes and more"), padded, expect);
    }
}

/// Where the transport header begins.
fn transport(vip: IpAddr) -> usize {
    if vip.is_ipv4() { 34 } else { 54 }
}

/// What services say beside "here is a backend".
fn services(rows: &mut Vec<Row>, vip: IpAddr) {
    let f = family(vip);
    let to = |port| SocketAddr::new(vip, port);
    let all: &[(&str, Vec<u8>, Verdict)] = &[
        ("dsr, all backends down, SYN", tcp(to(DSR_DOWN), 42_000, SYN), DropNoBackend),
        ("dsr, all backends down, ACK", tcp(to(DSR_DOWN), 42_000, ACK), DropNoBackend),
        ("nat, all backends down, SYN", tcp(to(NAT_DOWN), 42_000, SYN), DropNoBackend),
        ("nat, all backends down, ACK", tcp(to(NAT_DOWN), 42_000, ACK), DropNatNoConnection),
        ("dsr, no next hop", tcp(to(DSR_NO_HOP), 42_000, SYN), DropNoNextHop),
        ("nat, no next hop", tcp(to(NAT_NO_HOP), 42_000, SYN), DropNoNextHop),
        ("nat, ACK of no connection", tcp(to(NAT_TCP), 42_001, ACK), DropNatNoConnection),
        ("nat, FIN of no connection", tcp(to(NAT_TCP), 42_001, FIN), DropNatNoConnection),
        ("nat, RST of no connection", tcp(to(NAT_TCP), 42_001, RST), DropNatNoConnection),
        (
            "nat, SYN and ACK of no connection",
            tcp(to(NAT_TCP), 42_001, SYN | ACK),
            DropNatNoConnection,
        ),
        ("VIP, tcp to a closed port", tcp(to(CLOSED), 42_002, SYN), PassNoService),
        ("VIP, udp to a closed port", udp(to(CLOSED), 42_002), PassNoService),
        ("VIP, udp to a tcp port", udp(to(DSR_TCP), 42_002), PassNoService),
        ("VIP, tcp to a udp port", tcp(to(DSR_UDP), 42_002, SYN), PassNoService),
        ("no VIP, tcp", tcp(elsewhere(vip), 42_002, SYN), PassNotVip),
        ("no VIP, udp", udp(elsewhere(vip), 42_002), PassNotVip),
        ("NAT address, no connection", tcp(nat(vip), 42_002, ACK), PassNotVip),
        ("NAT address, datagram of no connection", udp(nat(vip), 42_002), PassNotVip),
    ];
    for (what, frame, verdict) in all {
        row(rows, format!("{f} {what}"), frame.clone(), Untouched(*verdict));
    }
    let dsr = to(DSR_TCP);
    for hops in [0, 1] {
        let outside = Outside { hops, ..FROM_CLIENT };
        let of = |to: SocketAddr| frame(&outside, client(to, 42_003), to, TCP, SYN, PAYLOAD);
        let udp = to(NAT_UDP);
        let udp = frame(&outside, client(udp, 42_003), udp, UDP, 0, PAYLOAD);
        row(rows, format!("{f} nat tcp, {hops} hops left"), of(to(NAT_TCP)), Untouched(DropTtl));
        row(rows, format!("{f} nat udp, {hops} hops left"), udp, Untouched(DropTtl));
        row(rows, format!("{f} dsr, {hops} hops left: no router here"), of(dsr), Direct);
    }
    let outside = Outside { hops: 2, ..FROM_CLIENT };
    let nat = to(NAT_TCP);
    let last = frame(&outside, client(nat, 42_004), nat, TCP, SYN, PAYLOAD);
    row(rows, format!("{f} nat, 2 hops left"), last, Nat);
    let outside = Outside { hops: 255, ..FROM_CLIENT };
    let most = frame(&outside, client(nat, 42_004), nat, TCP, ACK, PAYLOAD);
    row(rows, format!("{f} nat, 255 hops left"), most, Nat);
}

fn nat(vip: IpAddr) -> SocketAddr {
    let address = if vip.is_ipv4() { "10.9.0.254" } else { "2001:db8:9::fe" };
    SocketAddr::new(address.parse().unwrap(), 20_000)
}

/// Every frame cut at every length. Only the IP header says where a packet ends, so one that is
/// whole counts as a packet, and all shorter ones as truncated once their address can be read.
fn truncations(rows: &mut Vec<Row>, vip: IpAddr) {
    let f = family(vip);
    let header_end = transport(vip);
    for (name, port, is_tcp, expect) in [
        ("tcp dsr", DSR_TCP, true, Direct),
        ("udp dsr", DSR_UDP, false, Direct),
        ("tcp nat", NAT_TCP, true, Nat),
        ("udp nat", NAT_UDP, false, Nat),
    ] {
        let at = |to| if is_tcp { tcp(to, 43_000, SYN) } else { udp(to, 43_000) };
        let whole = at(SocketAddr::new(vip, port));
        let foreign = at(elsewhere(vip));
        for length in 14..whole.len() {
            let (ours, theirs) = if length < header_end {
                (PassBadHeader, PassBadHeader)
            } else {
                (DropTruncated, PassNotVip)
            };
            let what = format!("{f} {name} cut to {length} of {} bytes", whole.len());
            row(rows, what.clone(), whole[..length].to_vec(), Untouched(ours));
            row(rows, format!("{what}, no VIP"), foreign[..length].to_vec(), Untouched(theirs));
        }
        row(rows, format!("{f} {name} whole"), whole, expect);
    }
}

/// Around and before the IP header.
fn outer(rows: &mut Vec<Row>, vip: IpAddr) {
    let f = family(vip);
    let to = SocketAddr::new(vip, DSR_TCP);
    let whole = tcp(to, 44_000, SYN);
    let tag = |tpid: u16| [tpid.to_be_bytes(), [0, 5]].concat();
    let tagged = insert(whole.clone(), 12, &tag(0x8100));
    row(rows, format!("{f} 802.1Q to a VIP"), tagged.clone(), Untouched(PassVlan));
    row(
        rows,
        format!("{f} 802.1ad to a VIP"),
        insert(whole.clone(), 12, &tag(0x88a8)),
        Untouched(PassVlan),
    );
    row(
        rows,
        format!("{f} 802.1ad around 802.1Q to a VIP"),
        insert(tagged, 12, &tag(0x88a8)),
        Untouched(PassVlan),
    );
    for version in (0u8..16).filter(|v| *v != if vip.is_ipv4() { 4 } else { 6 }) {
        let other = edit(whole.clone(), 14, &[version << 4 | whole[14] & 15]);
        row(rows, format!("{f} type, but version {version}"), other, Untouched(PassBadHeader));
    }
    for (kind, name) in [(0x0800u16, "IPv4"), (0x86dd, "IPv6")] {
        if whole[12..14] != kind.to_be_bytes() {
            let other = edit(whole.clone(), 12, &kind.to_be_bytes());
            row(rows, format!("{f} packet said to be {name}"), other, Untouched(PassBadHeader));
        }
    }
    // Length fields that contradict the frame or the header.
    let length_at = if vip.is_ipv4() { 16 } else { 18 };
    let least = if vip.is_ipv4() { 40 } else { 20 };
    let payload = PAYLOAD.len() as i32;
    let made = move |length: u16| {
        move |to: SocketAddr| edit(tcp(to, 44_000, ACK), length_at, &length.to_be_bytes())
    };
    odd(rows, "length of 0", vip, DropMalformed, &made(0));
    odd(rows, "length without a whole TCP header", vip, DropMalformed, &made(least - 1));
    odd(rows, "length a byte past the frame", vip, DropTruncated, &|to| {
        lengthen(tcp(to, 44_000, ACK), length_at, 1)
    });
    odd(rows, "length of 65,535", vip, DropTruncated, &made(0xffff));
    let shorter = lengthen(tcp(to, 44_000, ACK), length_at, -payload);
    row(rows, format!("{f} payload turned trailer by its length"), shorter, Direct);
    let of_udp = |to: SocketAddr| edit(udp(to, 44_000), length_at, &(least - 13).to_be_bytes());
    odd(rows, "length without a whole UDP header", vip, DropMalformed, &of_udp);
}

fn ipv4_headers(rows: &mut Vec<Row>) {
    let with_options = |to: SocketAddr| {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (client(to, 1).ip(), to.ip()) else {
            panic!("IPv4 only")
        };
        let mut ip =
            Ipv4Header::new(0, 64, 6.into(), source.octets(), destination.octets()).unwrap();
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
    };
    odd(rows, "with options", VIP4, DropOptions, &with_options);
    for words in 0..5u8 {
        let what = format!("header length of {words} words");
        odd(rows, &what, VIP4, DropMalformed, &|to| {
            edit(tcp(to, 45_000, SYN), 14, &[0x40 | words])
        });
    }
    let fragment = |bits: u16| move |to| edit(tcp(to, 45_000, ACK), 20, &bits.to_be_bytes());
    odd(rows, "first fragment", VIP4, DropFragment, &fragment(0x2000));
    odd(rows, "middle fragment", VIP4, DropFragment, &fragment(0x20b9));
    odd(rows, "last fragment", VIP4, DropFragment, &fragment(0x0172));
    let of_udp = |to| edit(udp(to, 45_000), 20, &[0x20, 0]);
    odd(rows, "first fragment of UDP", VIP4, DropFragment, &of_udp);
    let whole = SocketAddr::new(VIP4, DSR_TCP);
    row(rows, "v4 do not fragment", fragment(0x4000)(whole), Direct);
    let nat = SocketAddr::new(VIP4, NAT_TCP);
    let marked = edit(tcp(nat, 45_001, SYN), 15, &[0xb9]);
    row(rows, "v4 nat keeps DSCP and ECN, and a header checksum that is wrong", marked, Nat);
}

fn ipv6_headers(rows: &mut Vec<Row>) {
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
        odd(rows, name, VIP6, DropExtension, &|to| behind(to, kind, PADDING));
    }
    for (name, next, offset, verdict) in [
        ("first fragment of TCP", 6, 1, DropFragment),
        ("last fragment of TCP", 6, 0x172, DropFragment),
        ("fragment of UDP", 17, 1, DropFragment),
        ("fragment of a destination header", 60, 1, DropFragment),
        ("fragment of a large ping", 58, 1, PassNoService),
    ] {
        let [high, low] = u16::to_be_bytes(offset << 3 | 1);
        odd(rows, name, VIP6, verdict, &|to| behind(to, 44, [next, 0, high, low, 0, 0, 0, 9]));
    }
    let cut = |to| behind(to, 44, [6, 0, 0, 1, 0, 0, 0, 9])[..54].to_vec();
    odd(rows, "fragment header cut off", VIP6, DropFragment, &cut);
    odd(rows, "no next header", VIP6, PassNoService, &|to| behind(to, 59, PADDING));
    odd(rows, "ESP", VIP6, PassNoService, &|to| behind(to, 50, PADDING));
    let labelled =
        edit(tcp(SocketAddr::new(VIP6, NAT_TCP), 46_001, SYN), 14, &[0x6b, 0x9a, 0xbc, 0xde]);
    row(rows, "v6 nat keeps traffic class and flow label", labelled, Nat);
}

fn other_protocols(rows: &mut Vec<Row>) {
    let ping = |to: SocketAddr| {
        let ip =
            on_ip(PacketBuilder::ethernet2(CLIENT_MAC, OUR_MAC), client(to, 0).ip(), to.ip(), 64);
        let mut bytes = Vec::new();
        if to.is_ipv4() {
            ip.icmpv4_echo_request(1, 2).write(&mut bytes, PAYLOAD).unwrap();
        } else {
            ip.icmpv6_echo_request(1, 2).write(&mut bytes, PAYLOAD).unwrap();
        }
        bytes
    };
    for vip in [VIP4, VIP6] {
        odd(rows, "ping", vip, PassNoService, &ping);
        let at = if vip.is_ipv4() { 23 } else { 20 };
        for (name, protocol) in [("SCTP", 132), ("GRE", 47), ("IP in IP", 4), ("DCCP", 33)] {
            odd(rows, name, vip, PassNoService, &|to| edit(tcp(to, 47_000, SYN), at, &[protocol]));
        }
    }
}

fn not_ip(rows: &mut Vec<Row>) {
    for (what, kind) in [
        ("ARP", 0x0806u16),
        ("LLDP", 0x88cc),
        ("LACP", 0x8809),
        ("MPLS", 0x8847),
        ("PPPoE", 0x8864),
        ("802.3 length", 0x0026),
        ("unknown EtherType", 0xfffe),
        ("EtherType 0", 0),
    ] {
        let frame = edit(tcp(SocketAddr::new(VIP4, DSR_TCP), 48_000, SYN), 12, &kind.to_be_bytes());
        row(rows, what, frame.clone(), Untouched(PassNotIp));
        row(rows, format!("{what}, nothing behind"), frame[..14].to_vec(), Untouched(PassNotIp));
    }
}
