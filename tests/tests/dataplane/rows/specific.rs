//! Ports, blocks of ports, all ports; addresses, prefixes, prefixes in prefixes: the most
//! specific has the packet.

use std::net::{IpAddr, SocketAddr};

use lb_common::verdict::Verdict::{DropFragment, PassNoService, PassNotVip};

use super::{Rows, family};
use crate::checks::Expect::{Sent, Untouched};
use crate::frames::{opening, pieces};
use crate::places::{BLOCK_FIRST, Wide, wide};
use crate::world::{TCP, UDP, Way};

pub(super) fn rows(rows: &mut Rows, six: bool) {
    let Wide { host, within, .. } = wide(six);
    let [outer, inner, beyond]: [IpAddr; 3] = if six {
        ["2001:db8:f:8::1", "2001:db8:f:7::1", "2001:db8:10::1"]
    } else {
        ["198.18.8.1", "198.18.7.1", "198.19.0.1"]
    }
    .map(|address| address.parse().unwrap());
    let none = Untouched(PassNoService);
    let last = BLOCK_FIRST + 63;
    for (what, address, port, protocol, expect) in [
        ("the port itself", host, 6000, TCP, Sent(Way::Gue6)),
        ("first of the block", host, BLOCK_FIRST, TCP, Sent(Way::Ipip4)),
        ("last of the block", host, last, TCP, Sent(Way::Ipip4)),
        ("before the block", host, BLOCK_FIRST - 1, TCP, Sent(Way::Dsr)),
        ("behind the block", host, last + 1, TCP, Sent(Way::Dsr)),
        ("the least port", host, 1, TCP, Sent(Way::Dsr)),
        ("the largest port", host, 65_535, TCP, Sent(Way::Dsr)),
        ("port 0, which nobody has", host, 0, TCP, none),
        ("first of UDP's block", host, BLOCK_FIRST, UDP, Sent(Way::Nat)),
        ("within UDP's block", host, 6000, UDP, Sent(Way::Nat)),
        ("last of UDP's block", host, last, UDP, Sent(Way::Nat)),
        ("before UDP's block", host, BLOCK_FIRST - 1, UDP, none),
        ("behind UDP's block", host, last + 1, UDP, none),
        ("any port of the prefix", outer, 7, TCP, Sent(Way::Ipip6)),
        ("a port of the prefix", outer, 6000, TCP, Sent(Way::Nat)),
        ("port 0 of the prefix", outer, 0, TCP, none),
        ("UDP to the prefix", outer, 7, UDP, none),
        ("a port of the longer prefix", inner, 443, TCP, Sent(Way::Gue4)),
        ("that port of the shorter one", outer, 443, TCP, Sent(Way::Ipip6)),
        ("all ports, inherited by the longer", inner, 444, TCP, Sent(Way::Ipip6)),
        ("a port, inherited by the longer", inner, 6000, TCP, Sent(Way::Nat)),
        ("the address's own", within, 80, TCP, Sent(Way::Local)),
        ("of the prefix around the address", within, 443, TCP, Sent(Way::Gue4)),
        ("of the prefixes around the address", within, 81, TCP, Sent(Way::Ipip6)),
        ("beyond the prefix", beyond, 7, TCP, Untouched(PassNotVip)),
    ] {
        let frame = opening(SocketAddr::new(address, port), 47_000, protocol);
        rows.add(format!("{} {what}", family(six)), frame, expect);
    }
    for address in [host, outer, inner, within] {
        for frame in pieces(SocketAddr::new(address, 443), UDP, 47_001) {
            let what = format!("{} a fragment to {address}", family(six));
            rows.add(what, frame, Untouched(DropFragment));
        }
    }
}
