//! VLAN tags: off on the way in, the server's on the way out, and the same again on what passes
//! or is answered. What backends are sent with is in every row: the second of each group is
//! behind a tag.

use lb_common::verdict::Verdict::*;

use super::{Rows, elsewhere, family, to, vip};
use crate::checks::Expect::{EchoReply, Sent, TimeExceeded, Untouched};
use crate::frames::*;
use crate::world::{Feature, TCP, UDP, Way};

/// Name, EtherType and TCI of tags.
const TAGS: [(&str, u16, u16); 5] = [
    ("802.1Q", 0x8100, 5),
    ("802.1Q with a priority", 0x8100, 0xe005),
    ("802.1Q with a priority alone", 0x8100, 0xe000),
    ("802.1ad", 0x88a8, 7),
    ("the largest id", 0x8100, 0xfff),
];

pub(super) fn rows(rows: &mut Rows, six: bool) {
    let f = family(six);
    for (number, (name, ether_type, tci)) in (0..).zip(TAGS) {
        let tag = |frame| tagged(frame, ether_type, tci);
        for way in Way::ALL {
            for protocol in [TCP, UDP] {
                let to = to(six, Feature::Plain, way);
                for port in 46_000..46_004 {
                    let frame = tag(opening(to, port + 10 * number, protocol));
                    rows.add(format!("{f} {name} {way:?} {}", name_of(protocol)), frame, Sent(way));
                }
                if way.takes_hop() {
                    let late = tag(with_hops(opening(to, 46_005, protocol), 1));
                    rows.add(format!("{f} {name} {way:?}, one hop left"), late, TimeExceeded);
                }
            }
        }
        let dsr = to(six, Feature::Plain, Way::Dsr);
        let pinger = client(dsr, 0).ip();
        rows.add(format!("{f} {name}, ping"), tag(ping(pinger, vip(six), b"ping")), EchoReply);
        let other = elsewhere(six);
        let arp = edit(tcp(dsr, 1, SYN), 12, &[8, 6]);
        let closed = udp(std::net::SocketAddr::new(dsr.ip(), 9), 1);
        let fragment = pieces(dsr, UDP, 1)[0].clone();
        for (what, frame, verdict) in [
            ("no VIP", tcp(other, 1, SYN), PassNotVip),
            ("no service", closed, PassNoService),
            ("no IP", arp, PassNotIp),
            ("another version", edit(tcp(dsr, 1, SYN), 14, &[0x77]), PassBadHeader),
            ("a fragment", fragment, DropFragment),
            ("no next hop", tcp(to(six, Feature::NoNextHop, Way::Gue6), 1, SYN), DropNoNextHop),
        ] {
            rows.add(format!("{f} {name}, {what}"), tag(frame), Untouched(verdict));
        }
        let inner = tag(tcp(dsr, 46_006, SYN));
        for outer in [0x8100, 0x88a8] {
            let twice = tagged(inner.clone(), outer, 9);
            rows.add(format!("{f} {name} within {outer:#06x}"), twice, Untouched(PassVlan));
        }
    }
}
