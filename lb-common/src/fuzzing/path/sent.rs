//! What must hold of a frame that was sent to a backend or a client.

use crate::abi::{IFINDEX_LOCAL, KIND_DSR, KIND_NAT, Server};
use crate::fuzzing::bytes::{ip, sums, untagged};
use crate::fuzzing::rewrite::out_again;
use crate::host::HostMaps;
use crate::maps::Maps;
use crate::path::Sent;
use crate::verdict::Event;

pub(super) fn check(
    maps: &HostMaps,
    before: &[u8],
    after: &[u8],
    sent: Sent,
    counted: &[(u32, u64)],
) {
    let clamped = maps.take_events().contains(&Event::MssClamped);
    let (tag_before, before) = untagged(before);
    let (tag, after) = untagged(after);
    if sent.row == Sent::TO_CLIENT {
        assert!(counted.is_empty(), "one end");
        tagged(tag, sent);
        return translated(&before, &after, clamped);
    }
    assert_eq!(counted, [(sent.row, before.len() as u64)], "one end, of what came");
    let word = maps.word(sent.row).unwrap();
    let server = maps.server(word.server()).unwrap();
    assert_eq!((sent.ifindex, sent.vlan), (server.ifindex, server.vlan));
    if server.ifindex == IFINDEX_LOCAL {
        assert_eq!(tag, tag_before);
        return same(&before, &after, clamped);
    }
    tagged(tag, sent);
    assert_eq!(after[..12], macs(server), "its next hop");
    match server.kind {
        KIND_DSR => same(&before[12..], &after[12..], clamped),
        KIND_NAT => {
            translated(&before, &after, clamped);
            let packet = ip(&after[14..]).unwrap();
            let width = packet.source.len() / 4;
            let address = |address: &[u32; 4]| address.map(u32::to_ne_bytes).concat();
            assert_eq!(packet.destination, &address(&server.address)[..4 * width]);
            assert_eq!(packet.source, &address(&server.source)[..4 * width]);
        }
        // What is inside may have been clamped on its way: then only the outside is known.
        _ if clamped => assert_eq!(sums(&after).header.unwrap_or(0xffff), 0xffff),
        _ => out_again(&before, &after, server),
    }
}

fn macs(server: &Server) -> Vec<u8> {
    server.ethernet.map(u32::to_ne_bytes).concat()
}

fn tagged(tag: Option<[u8; 4]>, sent: Sent) {
    let expected = match sent.vlan {
        0 => None,
        id => Some([0x81, 0, (id >> 8) as u8, id as u8]),
    };
    assert_eq!(tag, expected);
}

/// The same bytes, but for a segment size and its checksum.
fn same(before: &[u8], after: &[u8], clamped: bool) {
    assert_eq!(before.len(), after.len());
    let differ = before.iter().zip(after).filter(|(before, after)| before != after).count();
    assert!(differ <= if clamped { 4 } else { 0 }, "{differ} bytes differ");
}

/// The same length, payload and sums, a hop on.
fn translated(before: &[u8], after: &[u8], clamped: bool) {
    assert_eq!(before.len(), after.len());
    assert_eq!(sums(after), sums(before));
    let (was, is) = (ip(&before[14..]).unwrap(), ip(&after[14..]).unwrap());
    assert_eq!(is.hops, was.hops - 1);
    assert_eq!((is.protocol, is.length), (was.protocol, was.length));
    // Ports and checksum of a flow; of an error also the addresses, ports and checksums quoted.
    let differ = (was.payload.iter().zip(is.payload)).filter(|(was, is)| was != is).count();
    let may = match (was.protocol, clamped) {
        (6 | 17, false) => 6,
        (6 | 17, true) => 8,
        _ => 2 + 32 + 2 + 4 + 2,
    };
    assert!(differ <= may, "{differ} bytes differ");
    assert_eq!(before[12..14], after[12..14]);
}
