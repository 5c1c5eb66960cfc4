//! Pings, and ICMP errors that quote what a backend sent.

use std::net::{IpAddr, SocketAddr};

use lb_common::verdict::Event::Quoted;
use lb_common::verdict::Verdict::{
    DropBlocked, DropIcmpNoFlow, DropTooBig, DropTtl, PassNoService, PassNotVip,
};

use super::{Rows, elsewhere, family, to, vip};
use crate::checks::Expect::{EchoReply, Sent, Untouched};
use crate::frames::*;
use crate::places::{Wide, fragment_vip, wide};
use crate::world::{Feature, TCP, UDP, Way, nat_address};

pub(super) fn rows(rows: &mut Rows, six: bool) {
    pings(rows, six);
    unanswered(rows, six);
    for way in Way::ALL.into_iter().filter(|way| *way != Way::Nat) {
        for protocol in [TCP, UDP] {
            quoted(rows, six, way, protocol);
        }
    }
    no_flow(rows, six);
}

/// A host that pings.
fn pinger(six: bool) -> IpAddr {
    client(SocketAddr::new(vip(six), 0), 0).ip()
}

fn pings(rows: &mut Rows, six: bool) {
    let f = family(six);
    let from = pinger(six);
    let Wide { host, within, .. } = wide(six);
    let inherited: IpAddr = if six { "2001:db8:f:8::1" } else { "198.18.8.1" }.parse().unwrap();
    for (what, to) in [
        ("the VIP", vip(six)),
        ("a VIP with fragments", fragment_vip(six, Way::Gue6, true)),
        ("a VIP of port ranges", host),
        ("an address of a VIP prefix", inherited),
        ("an address within a VIP prefix", within),
    ] {
        rows.add(format!("{f} ping to {what}"), ping(from, to, b"abcdefg"), EchoReply);
    }
    let vip = vip(six);
    for data in [0, 1, 2, 63, 1400] {
        let frame = ping(from, vip, &vec![0x77; data]);
        rows.add(format!("{f} ping of {data} bytes"), frame, EchoReply);
    }
    for hops in [0, 1, 255] {
        let frame = with_hops(ping(from, vip, b"x"), hops);
        rows.add(format!("{f} ping with {hops} hops left"), frame, EchoReply);
    }
    let marked = with_class(ping(from, vip, b"x"), 0xb8);
    rows.add(format!("{f} ping with a traffic class"), marked, EchoReply);
    let trailed = [ping(from, vip, b"x"), vec![0xff; 9]].concat();
    rows.add(format!("{f} ping with a trailer"), trailed, EchoReply);
}

fn unanswered(rows: &mut Rows, six: bool) {
    let f = family(six);
    let (from, vip) = (pinger(six), vip(six));
    let to_nat = ping(from, nat_address(six), b"x");
    rows.add(format!("{f} ping to a NAT address"), to_nat, Untouched(PassNotVip));
    let to_other = ping(from, elsewhere(six).ip(), b"x");
    rows.add(format!("{f} ping to others"), to_other, Untouched(PassNotVip));
    let blocked: IpAddr = if six { "2001:db8:bad::9" } else { "203.0.113.9" }.parse().unwrap();
    rows.add(
        format!("{f} ping from a blocked source"),
        ping(blocked, vip, b"x"),
        Untouched(DropBlocked),
    );
    let blocked_elsewhere = ping(blocked, elsewhere(six).ip(), b"x");
    rows.add(
        format!("{f} ping from a blocked source to others"),
        blocked_elsewhere,
        Untouched(PassNotVip),
    );
    let many: &[&str] =
        if six { &["::", "::1", "ff02::1"] } else { &["0.0.0.0", "127.0.0.1", "224.0.0.1"] };
    for source in many {
        let frame = ping(source.parse().unwrap(), vip, b"x");
        rows.add(format!("{f} ping from {source}"), frame, Untouched(PassNoService));
    }
    let group = edit(ping(from, vip, b"x"), 0, &[0x33, 0x33, 0, 0, 0, 1]);
    rows.add(format!("{f} ping to all stations"), group, Untouched(PassNoService));
    let kinds: &[u8] =
        if six { &[129, 128 + 2, 135, 0, 5, 127] } else { &[0, 5, 9, 13, 17, 18, 255] };
    for kind in kinds {
        let frame = icmp(&FROM_CLIENT, from, vip, (*kind, 0), 7, b"12345678");
        rows.add(format!("{f} ICMP type {kind}"), frame, Untouched(PassNoService));
    }
    // Pieces of a large ping are the kernel's, whatever its first piece says.
    for (part, frame) in fragments(&ping(from, vip, &[9; 100]), 5).into_iter().enumerate() {
        rows.add(format!("{f} ping, fragment {part}"), frame, Untouched(PassNoService));
    }
}

/// The errors there are: type, code and second word.
fn errors(six: bool) -> [(&'static str, (u8, u8), u32); 4] {
    if six {
        [
            ("packet too big", (2, 0), 1400),
            ("unreachable", (1, 4), 0),
            ("time exceeded", (3, 0), 0),
            ("parameter problem", (4, 0), 40),
        ]
    } else {
        [
            ("fragmentation needed", (3, 4), 1400),
            ("unreachable", (3, 3), 0),
            ("time exceeded", (11, 0), 0),
            ("parameter problem", (12, 0), 9 << 24),
        ]
    }
}

fn router(six: bool) -> IpAddr {
    if six { "2001:db8:77::1" } else { "198.51.100.254" }.parse().unwrap()
}

/// An error about a packet that a backend sent to this client, as a router sends it to the VIP.
fn error_about(to: SocketAddr, port: u16, protocol: u8, behind: usize) -> Vec<u8> {
    let six = to.is_ipv6();
    let answer = frame(&FROM_CLIENT, to, client(to, port), protocol, ACK, &[5; 1000]);
    let (_, kind, word) = errors(six)[0];
    icmp(&FROM_CLIENT, router(six), to.ip(), kind, word, &quote(&answer, behind))
}

fn quoted(rows: &mut Rows, six: bool, way: Way, protocol: u8) {
    let f = format!("{} {} {way:?}", family(six), name_of(protocol));
    for feature in [Feature::Plain, Feature::HashSource, Feature::Changing] {
        let to = to(six, feature, way);
        for (name, kind, word) in errors(six) {
            let answer = frame(&FROM_CLIENT, to, client(to, 45_000), protocol, ACK, &[5; 100]);
            let message = icmp(&FROM_CLIENT, router(six), to.ip(), kind, word, &quote(&answer, 8));
            let what = format!("{f} {feature:?}: {name} that quotes a flow");
            rows.add(what, message, Sent(way)).counts(&[Quoted]);
        }
        for behind in [20, 100, 1000] {
            let what = format!("{f} {feature:?}: an error that quotes {behind} bytes of a segment");
            rows.add(what, error_about(to, 45_000, protocol, behind), Sent(way)).counts(&[Quoted]);
        }
    }
    let to = to(six, Feature::Plain, way);
    let mut ends = |what: &str, frame, verdict| {
        rows.add(format!("{f}: {what}"), frame, Untouched(verdict));
    };
    ends("an error that quotes too little", error_about(to, 45_000, protocol, 7), DropIcmpNoFlow);
    if way.takes_hop() {
        // No error about an error.
        let late = with_hops(error_about(to, 45_000, protocol, 8), 1);
        ends("an error without hops", late, DropTtl);
        let narrow = super::to(six, Feature::Tiny, way);
        ends("an error too big", error_about(narrow, 45_000, protocol, 200), DropTooBig);
    }
}

/// Errors at a VIP that are about nothing of ours.
fn no_flow(rows: &mut Rows, six: bool) {
    let f = family(six);
    let to = to(six, Feature::Plain, Way::Dsr);
    let others = elsewhere(six);
    let (_, kind, word) = errors(six)[0];
    let about = |of: &[u8]| icmp(&FROM_CLIENT, router(six), to.ip(), kind, word, of);
    let of = |from: SocketAddr, protocol| {
        frame(&FROM_CLIENT, from, client(from, 45_001), protocol, ACK, &[5; 64])
    };
    let whole = of(to, TCP);
    let at = if six { 20 } else { 23 };
    let closed = of(SocketAddr::new(to.ip(), 9), UDP);
    let ip = if six { 40 } else { 20 };
    for (what, text) in [
        ("nothing", Vec::new()),
        ("half a header", quote(&whole, 8)[..ip / 2].to_vec()),
        ("a header alone", quote(&whole, 0)),
        ("another host's packet", quote(&of(others, TCP), 8)),
        ("a port of no service", quote(&closed, 8)),
        ("another protocol", quote(&edit(whole.clone(), at, &[132]), 8)),
        ("a ping of ours", quote(&ping(to.ip(), pinger(six), b"abcdefgh"), 8)),
        ("another version", quote(&edit(whole.clone(), 14, &[0x75]), 8)),
        (
            "NAT's connection that is none",
            quote(&of(super::to(six, Feature::Plain, Way::Nat), TCP), 8),
        ),
    ] {
        rows.add(
            format!("{f} an error that quotes {what}"),
            about(&text),
            Untouched(DropIcmpNoFlow),
        );
    }
    if !six {
        let later = with_fragment_word(whole.clone(), 1, 0x0010);
        let options = edit(whole.clone(), 14, &[0x46]);
        for (what, of) in [("a later fragment", later), ("options", options)] {
            rows.add(
                format!("{f} an error that quotes {what}"),
                about(&quote(&of, 8)),
                Untouched(DropIcmpNoFlow),
            );
        }
    }
    let to_other =
        icmp(&FROM_CLIENT, router(six), others.ip(), kind, word, &quote(&of(others, TCP), 8));
    rows.add(format!("{f} an error to others"), to_other, Untouched(PassNotVip));
    let nat = SocketAddr::new(nat_address(six), 20_000);
    let to_nat = icmp(&FROM_CLIENT, router(six), nat.ip(), kind, word, &quote(&of(nat, TCP), 8));
    rows.add(
        format!("{f} an error to a NAT address about no connection"),
        to_nat,
        Untouched(PassNotVip),
    );
}
