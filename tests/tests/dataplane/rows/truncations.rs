//! Every frame cut at every length. Only the IP header says where a packet ends, so one that is
//! whole counts as a packet, and all shorter ones as truncated once their address can be read.

use lb_common::verdict::Verdict::{DropTruncated, PassBadHeader, PassNotVip};

use super::{Rows, elsewhere, family, to};
use crate::checks::Expect::{Sent, Untouched};
use crate::frames::{name_of, opening, tagged, transport};
use crate::world::{Feature, TCP, UDP, Way};

pub(super) fn rows(rows: &mut Rows) {
    for six in [false, true] {
        for way in Way::ALL {
            for protocol in [TCP, UDP] {
                plain(rows, six, way, protocol);
            }
        }
        with_tag(rows, six);
    }
}

fn plain(rows: &mut Rows, six: bool, way: Way, protocol: u8) {
    let f = format!("{} {} {way:?}", family(six), name_of(protocol));
    let whole = opening(to(six, Feature::Plain, way), 50_000, protocol);
    let foreign = opening(elsewhere(six), 50_000, protocol);
    for length in 14..whole.len() {
        let (ours, theirs) = if length < transport(&whole) {
            (PassBadHeader, PassBadHeader)
        } else {
            (DropTruncated, PassNotVip)
        };
        let what = format!("{f} cut to {length} of {} bytes", whole.len());
        rows.add(what.clone(), whole[..length].to_vec(), Untouched(ours));
        rows.add(format!("{what}, no VIP"), foreign[..length].to_vec(), Untouched(theirs));
    }
    rows.add(format!("{f} whole"), whole, Sent(way));
}

fn with_tag(rows: &mut Rows, six: bool) {
    let plain = opening(to(six, Feature::Plain, Way::Gue4), 50_001, TCP);
    let header = transport(&plain) + 4;
    let whole = tagged(plain, 0x8100, 9);
    for length in 14..whole.len() {
        let verdict = if length < header { PassBadHeader } else { DropTruncated };
        let what = format!("{} tagged, cut to {length} bytes", family(six));
        rows.add(what, whole[..length].to_vec(), Untouched(verdict));
    }
}
