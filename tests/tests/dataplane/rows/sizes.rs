//! Hops and lengths: what cannot go on, and what its sender is told.

use std::net::{IpAddr, SocketAddr};

use lb_common::verdict::Verdict::{DropTooBig, DropTtl};

use super::{Rows, family, to};
use crate::checks::Expect::{Sent, TimeExceeded, TooBig, Untouched};
use crate::frames::*;
use crate::world::{Feature, MTU, NARROW_MTU, TCP, TINY_MTU, UDP, Way};

pub(super) fn rows(rows: &mut Rows, six: bool) {
    for way in Way::ALL {
        for protocol in [TCP, UDP] {
            hops(rows, six, way, protocol);
            too_big(rows, six, way, protocol);
        }
    }
    for way in Way::ALL.into_iter().filter(|way| way.takes_hop()) {
        nobody_to_tell(rows, six, way);
    }
}

fn hops(rows: &mut Rows, six: bool, way: Way, protocol: u8) {
    let (f, p) = (family(six), name_of(protocol));
    let to = to(six, Feature::Plain, way);
    for hops in [0, 1, 2, 255] {
        let frame = with_hops(opening(to, 43_000, protocol), hops);
        let expect = if way.takes_hop() && hops < 2 { TimeExceeded } else { Sent(way) };
        rows.add(format!("{f} {p} {way:?}, {hops} hops left"), frame, expect);
    }
    if !way.takes_hop() {
        return;
    }
    // The quote is short below 128 bytes of packet, and long from there on.
    let headers = if six { 40 } else { 20 } + if protocol == TCP { 20 } else { 8 };
    for length in [126, 127, 128, 129, 1400] {
        let payload = vec![0xa5; length - headers];
        let from = client(to, 43_001);
        // The connection is open: an ACK must be answered by its hops, not for being unknown.
        rows.add("opens", opening(to, 43_001, protocol), Sent(way));
        let whole = with_hops(frame(&FROM_CLIENT, from, to, protocol, ACK, &payload), 1);
        let what = format!("{f} {p} {way:?}, one hop left, {length} bytes");
        rows.add(what.clone(), whole.clone(), TimeExceeded);
        let trailed = [whole, vec![0xff; 9]].concat();
        rows.add(format!("{what} and a trailer"), trailed, TimeExceeded);
    }
}

/// As much as fits, and one byte more.
fn too_big(rows: &mut Rows, six: bool, way: Way, protocol: u8) {
    let (f, p) = (family(six), name_of(protocol));
    let headers = if six { 40 } else { 20 } + if protocol == TCP { 20 } else { 8 };
    let least = if six { 1280 } else { 68 };
    let mut sized = |feature, mtu: u32, length: u32| {
        let to = to(six, feature, way);
        let from = client(to, 43_002);
        rows.add("opens", opening(to, 43_002, protocol), Sent(way));
        let payload = vec![0x3c; length as usize - headers];
        let frame = frame(&FROM_CLIENT, from, to, protocol, ACK, &payload);
        let most = mtu - way.overhead();
        let expect =
            if length <= most || way == Way::Local { Sent(way) } else { TooBig(most.max(least)) };
        rows.add(format!("{f} {p} {way:?}, {length} bytes over {mtu}"), frame, expect);
    };
    for (feature, mtu) in [(Feature::Plain, MTU), (Feature::Narrow, NARROW_MTU)] {
        if way == Way::Local && feature == Feature::Narrow {
            continue;
        }
        for length in [mtu - way.overhead(), mtu - way.overhead() + 1, mtu, mtu + 200] {
            sized(feature, mtu, length);
        }
    }
    if way != Way::Local {
        tiny(rows, six, way, protocol);
    }
}

/// Where less fits than a host must take: it is told the least that it heeds (RFC 791, RFC 8201).
fn tiny(rows: &mut Rows, six: bool, way: Way, protocol: u8) {
    let (f, p) = (family(six), name_of(protocol));
    let to = to(six, Feature::Tiny, way);
    let least = if six { 1280 } else { 68 };
    let frame = frame(&FROM_CLIENT, client(to, 43_003), to, protocol, SYN, &[7; 100]);
    let expect = TooBig((TINY_MTU - way.overhead()).max(least));
    rows.add(format!("{f} {p} {way:?}, an MTU below the least"), frame, expect);
}

/// Errors go to one host that sent to one host; there are none about errors.
fn nobody_to_tell(rows: &mut Rows, six: bool, way: Way) {
    let f = family(six);
    let to = to(six, Feature::Plain, way);
    let narrow = super::to(six, Feature::Tiny, way);
    let sources: &[&str] = if six {
        &["::", "::1", "ff02::1"]
    } else {
        &["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
    };
    let late = Outside { hops: 1, ..FROM_CLIENT };
    for source in sources {
        let from = SocketAddr::new(source.parse::<IpAddr>().unwrap(), 43_004);
        let untold = frame(&late, from, to, UDP, 0, PAYLOAD);
        rows.add(format!("{f} {way:?}, no hops, from {source}"), untold, Untouched(DropTtl));
        let untold = frame(&FROM_CLIENT, from, narrow, UDP, 0, &[1; 200]);
        rows.add(format!("{f} {way:?}, too big, from {source}"), untold, Untouched(DropTooBig));
    }
    let group = Outside { destination_mac: [1, 0, 0x5e, 0, 0, 1], ..late };
    let untold = frame(&group, client(to, 43_005), to, UDP, 0, PAYLOAD);
    rows.add(format!("{f} {way:?}, no hops, to all stations"), untold, Untouched(DropTtl));
}
