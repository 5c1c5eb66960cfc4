//! The straight way: what a packet takes with which nothing is special, to a service with which
//! nothing is special, whose slot has a backend that takes everything, or of a NAT connection that
//! is open; and what is for nobody here. Nearly all packets are such.
//!
//! Does what [`crate::path`] would do, and nothing in between. Any other packet is left to that,
//! untouched and uncounted. This is straight code for few registers, at little more than half of the
//! whole path's time (docs/adr/0012-the-straight-way.md). The fuzz target `path` compares the two on
//! every frame.

use crate::abi::{
    ADDRESS_NAT, FEATURE_NAT, IFINDEX_LOCAL, KIND_DSR, KIND_NAT, SERVICE_MSS, SERVICE_NAT,
    SERVICE_RESET, SERVICE_UDP_FLOW, Server, ServiceRecord, Table,
};
use crate::encap::overhead;
use crate::find_service::{find_alone, find_exact, is_in_prefix};
use crate::frame::Frame;
use crate::hash::fast_range;
use crate::ip::{Flow, V4, V6, ether_type};
use crate::maps::Maps;
use crate::nat;
use crate::path::{Arrival, Family, Sent, hand_over};
use crate::pick::{home, is_marked};
use crate::verdict::{Event, Verdict};

/// What a service may have and still be plain: what counts only while something changes, only once a
/// backend is gone, or only in SYNs.
const PLAIN: u32 = SERVICE_UDP_FLOW | SERVICE_RESET | SERVICE_MSS;

/// No end: the frame takes the whole path.
pub const NOT_STRAIGHT: u64 = u64::MAX;

/// Takes a frame that arrived on interface `ingress` the straight way: what `finish` makes of its
/// end, or [`NOT_STRAIGHT`].
///
/// Not a `Result`: the compiler keeps the unused half of one in a register that it never wrote.
/// Verifier: "R3 !read_ok".
#[inline(always)]
pub fn run<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    ingress: u32,
    finish: impl Fn(Result<Sent, Verdict>) -> u64,
) -> u64 {
    let Some(head) = frame.packet().head::<14>() else { return NOT_STRAIGHT };
    let end = match head.be16::<12>() {
        ether_type::IPV4 => of_family::<V4, M, F>(maps, frame, ingress, finish),
        ether_type::IPV6 => of_family::<V6, M, F>(maps, frame, ingress, finish),
        _ => None,
    };
    end.unwrap_or(NOT_STRAIGHT)
}

#[inline(always)]
fn of_family<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    ingress: u32,
    finish: impl Fn(Result<Sent, Verdict>) -> u64,
) -> Option<u64> {
    let (flow, hops) = I::decode_plain(frame.packet())?;
    let Some(record) = find_exact::<I, M>(maps, &flow) else {
        return to_no_service::<I, M, F>(maps, frame, &flow, hops, finish);
    };
    if record.flags & SERVICE_MSS != 0 && flow.begins() {
        return None;
    }
    match record.flags & !PLAIN {
        0 => direct::<I, M, F>(maps, frame, record, &flow, hops, finish),
        SERVICE_NAT if maps.settings().features & FEATURE_NAT != 0 => {
            connection::<I, M, F>(maps, frame, &flow, hops, ingress, finish)
        }
        _ => None,
    }
}

/// To the home of a service without NAT.
#[inline(always)]
fn direct<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    record: &ServiceRecord,
    flow: &Flow,
    hops: u8,
    finish: impl Fn(Result<Sent, Verdict>) -> u64,
) -> Option<u64> {
    let table = Table(maps.table(record));
    let hash = I::hash(maps.settings().seed, &flow.key);
    let slot = fast_range(hash, table.slots());
    let home = home(maps, table, slot)?;
    if !home.word.full() || (table.marked() && is_marked(maps, table, slot)) {
        return None;
    }
    let server = maps.server(home.word.server())?;
    let is_next = server.kind == KIND_DSR || (server.kind != KIND_NAT && hops > 1);
    if !is_next || !takes(server, flow) {
        return None;
    }
    let bytes = frame.packet().len() as u64;
    // From here on the packet changes.
    if let Err(verdict) = hand_over::<I, M, F>(maps, frame, server, hash) {
        return Some(finish(Err(verdict)));
    }
    if flow.is_syn() {
        maps.count_new(home.row);
    }
    maps.count_sent(home.row, bytes);
    Some(finish(Ok(Sent { ifindex: server.ifindex, row: home.row, vlan: 0 })))
}

/// To the backend of a NAT connection, if its client is where it was.
#[inline(always)]
fn connection<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
    hops: u8,
    ingress: u32,
    finish: impl Fn(Result<Sent, Verdict>) -> u64,
) -> Option<u64> {
    // A copy: a key that is pointed to is in memory, for all packets.
    let key = flow.key;
    let slot = maps.nat(&key)?;
    let entry = slot.entry();
    let word = nat::usable_word(maps, flow, entry)?;
    let server = maps.server(word.server())?;
    let arrival = Arrival { ifindex: ingress, vlan: 0 };
    if server.kind != KIND_NAT || hops <= 1 || !takes(server, flow) {
        return None;
    }
    let packet = frame.packet();
    if !nat::is_where_it_was(packet, entry, arrival) {
        return None;
    }
    maps.count(Event::NatLookup);
    let row = entry.row;
    if let Err(verdict) = nat::translate_to_backend::<I, M>(maps, packet, slot, server, flow) {
        return Some(finish(Err(verdict)));
    }
    maps.count_sent(row, packet.len() as u64);
    Some(finish(Ok(Sent { ifindex: server.ifindex, row, vlan: 0 })))
}

/// A backend's reply to its client; or the kernel's, as its address is none that we know.
#[inline(always)]
fn to_no_service<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
    hops: u8,
    finish: impl Fn(Result<Sent, Verdict>) -> u64,
) -> Option<u64> {
    let Some(alone) = find_alone::<I, M>(maps, &flow.key.destination) else {
        let destination = flow.key.destination;
        let is_ours = is_in_prefix::<I, M>(maps, &destination);
        return if is_ours { None } else { Some(finish(Err(Verdict::PassNotVip))) };
    };
    let settings = maps.settings();
    if settings.features & FEATURE_NAT == 0
        || alone.flags != ADDRESS_NAT
        || !nat::may_be_reply(maps, flow)
    {
        return None;
    }
    // A segment size may have to be clamped, or the backend be doubted.
    if hops <= 1 || flow.length > settings.client_mtu || flow.may_answer_first() {
        return None;
    }
    let key = flow.key;
    let slot = maps.nat(&key)?;
    let entry = slot.entry();
    if !nat::is_reply(entry) || entry.vlan != 0 {
        return None;
    }
    maps.count(Event::NatLookup);
    Some(finish(nat::back::<I, M>(maps, frame.packet(), slot, flow)))
}

/// Whether the way to a server is known, untagged, leads away from this host, and takes a packet.
#[inline(always)]
fn takes(server: &Server, flow: &Flow) -> bool {
    let is_away = server.ifindex != 0 && server.ifindex != IFINDEX_LOCAL && server.vlan == 0;
    is_away && flow.length + overhead(server.kind) <= server.mtu
}

#[cfg(test)]
mod tests;
