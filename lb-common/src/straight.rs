//! The straight way: what a packet takes with which nothing is special, to a service with which
//! nothing is special, whose slot has a backend that takes everything. Nearly all packets are such.
//!
//! Does what [`crate::path`] would do, and nothing in between; a packet that is anything else is
//! left to that, untouched. Straight code for few registers: it costs a third of the whole path
//! ([ADR 12](../../docs/adr/0012-the-straight-way.md)), and that costs nearly nothing more for
//! coming second.

use crate::abi::{
    IFINDEX_LOCAL, KIND_DSR, KIND_NAT, SERVICE_HASH_ADDRESSES, SERVICE_HASH_SOURCE, SERVICE_MSS,
    SERVICE_UDP_FLOW, Table,
};
use crate::encap::overhead;
use crate::find_service::find_exact;
use crate::frame::Frame;
use crate::hash::fast_range;
use crate::ip::{V4, V6, ether_type};
use crate::maps::Maps;
use crate::path::{Family, Sent, hand_over};
use crate::pick::{home, is_marked};
use crate::verdict::Verdict;

/// What a service may have and still be plain: what counts only when something changes, or only
/// in SYNs.
const PLAIN: u32 = SERVICE_UDP_FLOW | SERVICE_MSS;

/// Takes a frame the straight way. `None`: it is not for that, and untouched; nothing was counted.
#[inline(always)]
pub fn run<M: Maps, F: Frame>(maps: &M, frame: &mut F) -> Option<Result<Sent, Verdict>> {
    match frame.packet().head::<14>()?.be16::<12>() {
        ether_type::IPV4 => of_family::<V4, M, F>(maps, frame),
        ether_type::IPV6 => of_family::<V6, M, F>(maps, frame),
        _ => None,
    }
}

#[inline(always)]
fn of_family<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
) -> Option<Result<Sent, Verdict>> {
    let packet = frame.packet();
    let bytes = packet.len() as u64;
    let (flow, hops) = I::decode_plain(packet)?;
    let record = find_exact::<I, M>(maps, &flow)?;
    let is_syn = flow.is_syn();
    if record.flags & !PLAIN != 0 || (record.flags & SERVICE_MSS != 0 && is_syn) {
        return None;
    }
    let table = Table(maps.table(record));
    let hash = I::hash(maps.settings().seed, &flow.key);
    let slot = fast_range(hash, table.slots());
    let home = home(maps, table, slot)?;
    if !home.word.full() || (table.marked() && is_marked(maps, table, slot)) {
        return None;
    }
    let server = maps.server(home.word.server())?;
    let kind = server.kind;
    let is_near = server.ifindex != 0 && server.ifindex != IFINDEX_LOCAL && server.vlan == 0;
    let is_hop = kind == KIND_DSR || (kind != KIND_NAT && hops > 1);
    if !is_near || !is_hop || flow.length + overhead(kind) > server.mtu {
        return None;
    }
    // From here on the packet changes.
    if let Err(verdict) = hand_over::<I, M, F>(maps, frame, server, hash) {
        return Some(Err(verdict));
    }
    if is_syn {
        maps.count_new(home.row);
    }
    maps.count_sent(home.row, bytes);
    Some(Ok(Sent { ifindex: server.ifindex, row: home.row, vlan: 0 }))
}

const _: () = assert!(PLAIN & (SERVICE_HASH_SOURCE | SERVICE_HASH_ADDRESSES) == 0);
