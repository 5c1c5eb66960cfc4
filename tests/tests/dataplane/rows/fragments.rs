//! Fragments: kept together where a service's policy does not ask for ports, dropped elsewhere.

use std::net::SocketAddr;

use lb_common::verdict::Verdict::{DropFragment, DropTooBig, DropTtl, PassNotVip};

use super::{Rows, elsewhere, family, to};
use crate::checks::Expect::{Sent, TimeExceeded, TooBig, Untouched};
use crate::frames::*;
use crate::places::{FRAGMENT_PORT, fragment_vip};
use crate::world::{Feature, TCP, UDP, Way};

const PARTS: [&str; 3] = ["first", "middle", "last"];

pub(super) fn rows(rows: &mut Rows, six: bool) {
    let f = family(six);
    for protocol in [TCP, UDP] {
        let p = name_of(protocol);
        for way in Way::ALL {
            dropped(rows, six, way, protocol);
            for by_source in [true, false] {
                kept(rows, six, way, protocol, by_source);
            }
        }
        for (part, frame) in PARTS.iter().zip(pieces(elsewhere(six), protocol, 44_000)) {
            rows.add(format!("{f} {p}, {part} fragment to others"), frame, Untouched(PassNotVip));
        }
    }
}

/// Hashed by ports; or by addresses, but the service does not ask for fragments.
fn dropped(rows: &mut Rows, six: bool, way: Way, protocol: u8) {
    for feature in [Feature::Plain, Feature::HashSource, Feature::HashAddresses] {
        let to = to(six, feature, way);
        for (part, frame) in PARTS.iter().zip(pieces(to, protocol, 44_001)) {
            let what = format!(
                "{} {} {way:?}, {feature:?}: {part} fragment",
                family(six),
                name_of(protocol)
            );
            rows.add(what, frame, Untouched(DropFragment));
        }
    }
}

fn kept(rows: &mut Rows, six: bool, way: Way, protocol: u8, by_source: bool) {
    let by = if by_source { "source" } else { "addresses" };
    let f = format!("{} {} {way:?} by {by}", family(six), name_of(protocol));
    let to = SocketAddr::new(fragment_vip(six, way, by_source), FRAGMENT_PORT);
    rows.add(format!("{f}: whole"), opening(to, 44_002, protocol), Sent(way));
    let sent = if way == Way::Nat { Untouched(DropFragment) } else { Sent(way) };
    for (part, frame) in PARTS.iter().zip(pieces(to, protocol, 44_002)) {
        rows.add(format!("{f}: {part} fragment"), frame.clone(), sent);
        if !way.is_tunnel() {
            continue;
        }
        // Of all fragments the first one alone is answered.
        let is_first = *part == "first";
        let told = if is_first { TimeExceeded } else { Untouched(DropTtl) };
        rows.add(format!("{f}: {part} fragment, one hop left"), with_hops(frame, 1), told);
    }
    let large = frame(&FROM_CLIENT, client(to, 44_003), to, protocol, ACK, &[0x11; 1600]);
    if !way.is_tunnel() {
        return;
    }
    // The rest of a large packet, behind a first fragment of 24 bytes and one of 24 more.
    let [_, _, rest] = fragments(&large, 0x0808);
    rows.add(format!("{f}: last fragment too big"), rest.clone(), Untouched(DropTooBig));
    let as_first =
        if six { edit(rest, 56, &[0, 1]) } else { with_fragment_word(rest, 0x0808, 0x2000) };
    let most = if six { 1280.max(1500 - way.overhead()) } else { 1500 - way.overhead() };
    rows.add(format!("{f}: first fragment too big"), as_first, TooBig(most));
}
