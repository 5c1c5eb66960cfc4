//! Full NAT: both addresses and ports rewritten, replies translated back.
//!
//! A connection is two entries of one map, each keyed by its packets as they arrive, so that
//! every packet costs one look-up. The key of the reply entry holds the allocated source port:
//! the insert that fails if the key exists *is* the allocation, so no two connections share a
//! port towards one backend, whatever the number of processors. Entries leave only by the
//! daemon's housekeeping, both together, or when their backend is gone and the client begins
//! anew; never by eviction, which would free a port in use.
//!
//! A client's replies leave by the interface and MAC address its packets come by, learned when
//! the connection opens and again whenever they change: no route look-up, and a failed-over
//! router is followed with the client's next packet.

use crate::abi::{
    FlowKey, NAT_PORT_TRIES, NatEntry, STATE_CLOSING, STATE_REPLY, STATE_USED, Server,
    TOUCH_SECONDS, WALK_STEPS, Word, join_ports,
};
use crate::frame::Frame;
use crate::hash::{fast_range, step};
use crate::icmp::{self, Icmp};
use crate::ip::Flow;
use crate::maps::{Maps, NatSlot, NotInserted};
use crate::packet::Packet;
use crate::path::{Arrival, Sent};
use crate::rewrite::{Translate, Translation, ethernet, frame_ethernet, swap_ethernet};
use crate::verdict::{Event, Verdict};

/// What the NAT table says of a client's packet.
#[derive(Clone, Copy, Debug)]
pub enum Known<'m> {
    /// It belongs to this connection.
    Connection(NatSlot<'m>),
    /// It is no client's but a backend's: a VIP may be a NAT address, too, and a frontend's port
    /// among those that NAT hands out.
    Reply,
    /// Its connection's backend is gone.
    Void,
    /// Nothing.
    Nothing,
}

/// Looks a client's packet up.
#[inline(always)]
pub fn known<'m, M: Maps>(maps: &'m M, flow: &Flow) -> Known<'m> {
    maps.count(Event::NatLookup);
    let Some(slot) = maps.nat(&flow.key) else { return Known::Nothing };
    if is_usable(maps, flow, slot.entry()) {
        return Known::Connection(slot);
    }
    if is_reply(slot.entry()) { Known::Reply } else { Known::Void }
}

/// Translates a client's packet and addresses it to its backend.
#[inline(always)]
pub fn forward<I: Translate, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    slot: NatSlot<'_>,
    server: &Server,
    flow: &Flow,
    arrival: Arrival,
) -> Result<Sent, Verdict> {
    let frame = frame_ethernet(packet).ok_or(Verdict::DropInternal)?;
    follow_client(maps, slot, flow, &frame, arrival);
    translate_to_backend::<I, M>(maps, packet, slot, server, flow)?;
    Ok(Sent { ifindex: server.ifindex, row: slot.entry().row, vlan: server.vlan })
}

/// The part of [`forward`] that every packet takes.
#[inline(always)]
pub(crate) fn translate_to_backend<I: Translate, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    slot: NatSlot<'_>,
    server: &Server,
    flow: &Flow,
) -> Result<(), Verdict> {
    touch(maps, slot, flow);
    translate::<I>(packet, flow, slot.entry())?;
    ethernet(packet, &server.ethernet).ok_or(Verdict::DropInternal)
}

/// Whether a client's packet came by the way that its connection's last one came.
#[inline(always)]
pub(crate) fn is_where_it_was(packet: Packet<'_>, entry: &NatEntry, arrival: Arrival) -> bool {
    frame_ethernet(packet).is_some_and(|frame| came_by(entry, &frame, arrival))
}

#[inline(always)]
fn came_by(entry: &NatEntry, frame: &[u32; 3], arrival: Arrival) -> bool {
    let known = &entry.ethernet;
    let same_hop = (frame[0] ^ known[0]) | (frame[1] ^ known[1]) | (frame[2] ^ known[2]) == 0;
    same_hop && entry.ifindex == arrival.ifindex && entry.vlan == arrival.vlan
}

/// Whether a packet to a NAT address is to a port that NAT hands out; the host's own traffic is
/// not, and costs no look-up.
#[inline(always)]
pub fn may_be_reply<M: Maps>(maps: &M, flow: &Flow) -> bool {
    let settings = maps.settings();
    let port = u32::from(u16::from_be(flow.destination_port()));
    port.wrapping_sub(settings.nat_port_first) < settings.nat_port_count
}

/// Translates a backend's packet back, if it belongs to a connection, and says which interface
/// it leaves by.
#[inline(always)]
pub fn back<I: Translate, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    slot: NatSlot<'_>,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let entry = slot.entry();
    touch(maps, slot, flow);
    translate::<I>(packet, flow, entry)?;
    ethernet(packet, &entry.ethernet).ok_or(Verdict::DropInternal)?;
    Ok(Sent { ifindex: entry.ifindex, row: Sent::TO_CLIENT, vlan: entry.vlan })
}

/// Translates an ICMP error about a packet of a connection, which was found by the flow that the
/// error quotes: to the backend if that is the client's side, else to the client. Its source
/// becomes the balancer's own on that side, as the router's may not be reachable from there.
#[inline(always)]
pub fn error<I: Translate + Icmp, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    slot: NatSlot<'_>,
) -> Result<Sent, Verdict> {
    let entry = slot.entry();
    if I::hops(packet).is_none_or(|hops| hops <= 1) {
        return Err(Verdict::DropTtl);
    }
    let inner = Translation {
        source: &entry.destination,
        destination: &entry.source,
        ports: entry.ports.rotate_left(16),
    };
    icmp::translate_quoted::<I>(packet, (&entry.source, &entry.destination), &inner)
        .ok_or(Verdict::DropInternal)?;
    if is_reply(entry) {
        ethernet(packet, &entry.ethernet).ok_or(Verdict::DropInternal)?;
        return Ok(Sent { ifindex: entry.ifindex, row: Sent::TO_CLIENT, vlan: entry.vlan });
    }
    let server = server_of(maps, entry)?;
    ethernet(packet, &server.ethernet).ok_or(Verdict::DropInternal)?;
    Ok(Sent { ifindex: server.ifindex, row: entry.row, vlan: server.vlan })
}

/// The server of a connection's backend, if the way to it is known.
#[inline(always)]
pub fn server_of<'m, M: Maps>(maps: &'m M, entry: &NatEntry) -> Result<&'m Server, Verdict> {
    let word = maps.word(entry.row).ok_or(Verdict::DropInternal)?;
    let server = maps.server(word.server()).ok_or(Verdict::DropInternal)?;
    if server.ifindex == 0 { Err(Verdict::DropNoNextHop) } else { Ok(server) }
}

/// The connection that a backend's packet belongs to, if any.
#[inline(always)]
pub fn known_reply<'m, M: Maps>(maps: &'m M, flow: &Flow) -> Option<NatSlot<'m>> {
    maps.count(Event::NatLookup);
    maps.nat(&flow.key).filter(|slot| is_reply(slot.entry()))
}

/// The key of a connection's other entry: what this entry makes of a packet, seen from there.
#[inline(always)]
#[must_use]
pub const fn other_key(entry: &NatEntry, kind: u32) -> FlowKey {
    FlowKey { source: entry.source, destination: entry.destination, ports: entry.ports, kind }
        .reversed()
}

#[inline(always)]
fn translate<I: Translate>(
    packet: Packet<'_>,
    flow: &Flow,
    entry: &NatEntry,
) -> Result<(), Verdict> {
    let to =
        Translation { source: &entry.source, destination: &entry.destination, ports: entry.ports };
    I::translate(packet, flow, &to).ok_or(Verdict::DropInternal)
}

/// Whether a packet of this flow may go on by this entry.
#[inline(always)]
pub fn is_usable<M: Maps>(maps: &M, flow: &Flow, entry: &NatEntry) -> bool {
    usable_word(maps, flow, entry).is_some()
}

/// The word of an entry's backend, if a packet of this flow may go on by the entry.
#[inline(always)]
pub(crate) fn usable_word<M: Maps>(maps: &M, flow: &Flow, entry: &NatEntry) -> Option<Word> {
    let word = maps.word(entry.row)?;
    if !word.serving() || word.generation() != entry.generation || is_reply(entry) {
        return None;
    }
    let anew = flow.is_syn();
    let finished = entry.state & STATE_CLOSING != 0;
    let ends = anew && (word.retired() || (word.admit() == 0 && finished));
    (!ends).then_some(word)
}

/// Whether it is a reply entry.
#[inline(always)]
pub(crate) const fn is_reply(entry: &NatEntry) -> bool {
    entry.state & STATE_REPLY != 0
}

/// Replies leave by the way the client's last packet came.
#[inline(always)]
fn follow_client<M: Maps>(
    maps: &M,
    slot: NatSlot<'_>,
    flow: &Flow,
    frame: &[u32; 3],
    arrival: Arrival,
) {
    let entry = slot.entry();
    if came_by(entry, frame, arrival) {
        return;
    }
    maps.count(Event::NatHopLearned);
    slot.relocate(frame, arrival.ifindex, arrival.vlan);
    if let Some(reply) = maps.nat(&other_key(entry, flow.key.kind)) {
        reply.relocate(&swap_ethernet(frame), arrival.ifindex, arrival.vlan);
    }
}

#[inline(always)]
fn touch<M: Maps>(maps: &M, slot: NatSlot<'_>, flow: &Flow) {
    let entry = slot.entry();
    let now = maps.now();
    let due = now.wrapping_sub(entry.last_seen) >= TOUCH_SECONDS;
    let ends = if flow.closes() { STATE_CLOSING } else { 0 };
    // Where ports are reused, each direction's FIN was the last connection's.
    let kept = if flow.begins() { entry.state & !STATE_CLOSING } else { entry.state | ends };
    let state = kept | STATE_USED;
    if due || state != entry.state {
        slot.touch(now, state);
    }
}

/// Opens a connection to a backend row for a packet without one. `arrival` is
/// [`Arrival::word`].
#[inline(always)]
pub fn open<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
    hash: u64,
    row: u32,
    arrival: Arrival,
) -> Result<(), Verdict> {
    draft_reply(maps, frame, flow, row, arrival.word())?;
    let ports = reserve(maps, flow, hash, row)?;
    establish(maps, frame, flow, row, ports)
}

/// Drafts the entry that translates replies. One of three functions of their own in the program.
/// Verifier: in one, "combined stack size of 3 calls is 544. Too large".
#[inline(never)]
fn draft_reply<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
    row: u32,
    arrival: u64,
) -> Result<(), Verdict> {
    let arrival = Arrival::from_word(arrival);
    let macs = frame_ethernet(frame.packet()).ok_or(Verdict::DropInternal)?;
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    let draft = maps.draft().ok_or(Verdict::DropInternal)?;
    draft.write(NatEntry {
        source: flow.key.destination,
        destination: flow.key.source,
        ports: flow.key.ports.rotate_left(16),
        row,
        ethernet: swap_ethernet(&macs),
        ifindex: arrival.ifindex,
        generation: word.generation(),
        last_seen: maps.now(),
        state: STATE_REPLY,
        vlan: arrival.vlan,
    });
    Ok(())
}

/// Takes a source port towards the server by inserting the drafted reply entry; the ports to the
/// backend.
#[inline(never)]
fn reserve<M: Maps>(maps: &M, flow: &Flow, hash: u64, row: u32) -> Result<u32, Verdict> {
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    let server = maps.server(word.server()).ok_or(Verdict::DropInternal)?;
    let draft = maps.draft().ok_or(Verdict::DropInternal)?;
    let settings = maps.settings();
    let backend_port = match maps.port(row).ok_or(Verdict::DropInternal)? {
        0 => flow.destination_port(),
        port => port,
    };
    let kind = flow.key.kind;
    let mut key = FlowKey { source: server.address, destination: server.source, ports: 0, kind };
    for attempt in 0..NAT_PORT_TRIES {
        // Steps that no walk takes: the backend's flows spread over all ports.
        let port_hash = step(hash, WALK_STEPS + attempt);
        let port = settings.nat_port_first + fast_range(port_hash, settings.nat_port_count);
        let port = (port as u16).to_be();
        key.ports = join_ports(backend_port, port);
        if key.ports == flow.key.ports {
            // A backend that talks to itself by a VIP that is the NAT address: one key would be
            // both entries'. Others lose one port by this, as addresses cost more to compare.
            maps.count(Event::NatPortTaken);
            continue;
        }
        match maps.insert_nat(&key, draft.entry()) {
            Ok(()) => return Ok(join_ports(port, backend_port)),
            Err(NotInserted::Exists) => maps.count(Event::NatPortTaken),
            Err(NotInserted::Full) => return Err(Verdict::DropNatFull),
        }
    }
    Err(Verdict::DropNatNoPort)
}

/// Inserts the entry that translates the client's packets.
#[inline(never)]
fn establish<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
    row: u32,
    ports: u32,
) -> Result<(), Verdict> {
    let macs = frame_ethernet(frame.packet()).ok_or(Verdict::DropInternal)?;
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    let server = maps.server(word.server()).ok_or(Verdict::DropInternal)?;
    let draft = maps.draft().ok_or(Verdict::DropInternal)?;
    draft.turn(server, ports, &macs);
    match maps.insert_nat(&flow.key, draft.entry()) {
        Ok(()) => {
            maps.count(Event::NatInsert);
            maps.count_new(row);
            Ok(())
        }
        Err(refusal) => {
            maps.remove_nat(&other_key(draft.entry(), flow.key.kind));
            match refusal {
                // Another processor opened the same flow first: this is a retransmission.
                NotInserted::Exists => Ok(()),
                NotInserted::Full => Err(Verdict::DropNatFull),
            }
        }
    }
}

/// Closes a flow's connection if its backend is gone. Whether it has a good one: another
/// processor may have opened it anew just now. Or whether it is no client's but a backend's.
#[inline(never)]
pub fn close_void<M: Maps>(maps: &M, flow: &Flow) -> bool {
    let Some(slot) = maps.nat(&flow.key) else { return false };
    if is_usable(maps, flow, slot.entry()) || is_reply(slot.entry()) {
        return true;
    }
    maps.count(Event::NatVoid);
    // The forward entry first: while a reply entry lasts, its port stays taken.
    let other = other_key(slot.entry(), flow.key.kind);
    maps.remove_nat(&flow.key);
    maps.remove_nat(&other);
    false
}

#[cfg(test)]
mod tests;
