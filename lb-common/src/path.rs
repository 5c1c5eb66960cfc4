//! The packet path, whole: decode → find service → pick backend → rewrite → send.
//!
//! Every step answers "go on" or the packet's [`Verdict`]. What runs here runs in the kernel,
//! under `lb explain`, and in the tests, on the same bytes.

use crate::abi::{
    ADDRESS_NAT, ADDRESS_VIP, FEATURE_FILTERS, FEATURE_NAT, FEATURE_QUIC, FEATURE_TUNNEL4,
    FEATURE_TUNNEL6, FlowKey, IFINDEX_LOCAL, KIND_DSR, KIND_NAT, LIST_BLOCK, SERVICE_ALLOW,
    SERVICE_BLOCK, SERVICE_HASH_ADDRESSES, SERVICE_HASH_SOURCE, SERVICE_MSS, SERVICE_NAT,
    SERVICE_QUIC, SERVICE_RATE, STATE_REPLY, Server, ServerIdKey,
};
use crate::encap::{Encapsulate, encapsulate, overhead};
use crate::filter;
use crate::find_service::{Service, find_address, find_fragments, find_service};
use crate::frame::Frame;
use crate::icmp::{self, Icmp, IcmpKind, Tell};
use crate::ip::{Flow, Ip, Odd, V4, V6, ether_type};
use crate::maps::{Maps, NatSlot};
use crate::mss::{self, Segment};
use crate::nat::{self, Known};
use crate::packet::Packet;
use crate::pick::{Picked, pick};
use crate::quic::{self, Datagram, Quic};
use crate::rewrite::{Translate, ethernet};
use crate::verdict::{Event, Kind, Verdict};
use crate::vlan;

/// A family, with all that the path does to its packets.
pub trait Family: Translate + Encapsulate + Icmp + Segment + Datagram {}
impl Family for V4 {}
impl Family for V6 {}

/// Where a frame came from: its interface, and the VLAN tag it bore (the id; 0 for none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Interface index.
    pub ifindex: u32,
    /// VLAN id.
    pub vlan: u32,
}

impl Arrival {
    /// Both in one word.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.ifindex as u64 | (self.vlan as u64) << 32
    }

    /// Of [`Self::word`].
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self { ifindex: word as u32, vlan: (word >> 32) as u32 }
    }
}

/// A packet rewritten and ready to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The interface it leaves by; [`IFINDEX_LOCAL`]: it stays, for this host's kernel.
    pub ifindex: u32,
    /// The backend row it goes to; [`Sent::TO_CLIENT`] for a reply.
    pub row: u32,
    /// The VLAN tag it is to bear: the id; 0 for none.
    pub vlan: u32,
}

impl Sent {
    /// `row` of a reply.
    pub const TO_CLIENT: u32 = u32::MAX;
}

/// Takes a frame that arrived on interface `ingress` through the whole path.
///
/// Counts backends and events; the caller counts the verdict, [`Verdict::NatReply`] included. A
/// verdict of kind `Send` is an answer to the sender, which leaves where the packet came.
#[inline(always)]
pub fn run<M: Maps, F: Frame>(maps: &M, frame: &mut F, ingress: u32) -> Result<Sent, Verdict> {
    let tag = vlan::pop(frame)?;
    let arrival = Arrival { ifindex: ingress, vlan: vlan::id(tag) };
    let result = by_family(maps, frame, arrival);
    let leaves_with = match result {
        // What stays here, or goes back to its sender, is tagged as it came.
        Ok(Sent { ifindex: IFINDEX_LOCAL, .. }) => tag,
        Ok(sent) => vlan::tag(sent.vlan),
        Err(verdict) if matches!(verdict.kind(), Kind::Drop) => 0,
        Err(_) => tag,
    };
    vlan::push(frame, leaves_with).ok_or(Verdict::DropInternal)?;
    result
}

#[inline(always)]
fn by_family<M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    arrival: Arrival,
) -> Result<Sent, Verdict> {
    let Some(head) = frame.packet().head::<14>() else { return Err(Verdict::PassBadHeader) };
    match head.be16::<12>() {
        ether_type::IPV4 => balance::<V4, M, F>(maps, frame, arrival),
        ether_type::IPV6 => balance::<V6, M, F>(maps, frame, arrival),
        _ => Err(Verdict::PassNotIp),
    }
}

/// All of one family. A function of its own in the program: the stack of one family is enough.
#[inline(never)]
fn balance<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    arrival: Arrival,
) -> Result<Sent, Verdict> {
    let mut flow = Flow::NONE;
    let bytes = frame.packet().len() as u64;
    let service = match I::decode(frame.packet(), &mut flow) {
        Ok(()) => find_service::<I, M>(maps, &flow),
        Err(Odd::Unaddressed) => return Err(Verdict::PassBadHeader),
        Err(Odd::Verdict(verdict)) => return Err(if_vip::<I, M>(maps, &flow, verdict)),
        Err(Odd::Icmp) => return control::<I, M, F>(maps, frame, &flow),
        Err(Odd::Fragment) => {
            flow.tcp_flags = Flow::ASIDE;
            let service = find_fragments::<I, M>(maps, &flow.key);
            // NAT would need its ports.
            let service = service.filter(|service| !service.is(SERVICE_NAT));
            if service.is_none() {
                return Err(if_vip::<I, M>(maps, &flow, Verdict::DropFragment));
            }
            service
        }
    };
    let Some(service) = service else {
        return not_for_a_service::<I, M, F>(maps, frame, &flow);
    };
    if let Some(sent) = serve::<I, M, F>(maps, frame, &service, &mut flow, arrival)? {
        maps.count_sent(sent.row, bytes);
        return Ok(sent);
    }
    not_for_a_service::<I, M, F>(maps, frame, &flow)
}

/// Sends a client's packet to a backend of its service. `Ok(None)`: it is no client's.
#[inline(always)]
fn serve<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    service: &Service,
    flow: &mut Flow,
    arrival: Arrival,
) -> Result<Option<Sent>, Verdict> {
    let features = maps.settings().features;
    if features & FEATURE_FILTERS != 0 && service.is(SERVICE_ALLOW | SERVICE_BLOCK | SERVICE_RATE) {
        filter::check(maps, service, flow)?;
    }
    if service.is(SERVICE_MSS)
        && flow.is_syn()
        && mss::clamp::<I>(frame.packet(), service.mss as u16)
    {
        maps.count(Event::MssClamped);
    }
    let named = if features & FEATURE_QUIC != 0 && service.is(SERVICE_QUIC) && !flow.is_tcp() {
        by_server_id::<I, M, F>(maps, frame, service, flow)
    } else {
        None
    };
    let choice = match named {
        Some(picked) => Choice::Direct(picked, I::hash(maps.settings().seed, &flow.key)),
        None => choose::<I, M>(maps, service, flow)?,
    };
    let (row, to_open) = match choice {
        Choice::Reply => return Ok(None),
        Choice::Connection(slot) => (slot.entry().row, None),
        Choice::Open(picked, hash) | Choice::Direct(picked, hash) => (picked.row, Some(hash)),
    };
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    let server = maps.server(word.server()).ok_or(Verdict::DropInternal)?;
    if let Some(verdict) = obstacle::<I, M, F>(maps, frame, server, flow.length) {
        return Err(verdict);
    }
    if features & FEATURE_NAT != 0 && server.kind == KIND_NAT {
        if let Some(hash) = to_open
            && !nat::close_void(maps, flow)
        {
            nat::open(maps, frame, flow, hash, row, arrival.word())?;
        }
        let slot = maps.nat(&flow.key).ok_or(Verdict::DropInternal)?;
        return nat::forward::<I, M>(maps, frame.packet(), slot, server, flow, arrival).map(Some);
    }
    if flow.is_syn() {
        maps.count_new(row);
    }
    let mut hash = to_open.unwrap_or_default();
    if service.is(SERVICE_HASH_SOURCE | SERVICE_HASH_ADDRESSES) {
        // A tunnel spreads the flows of a client, too.
        hash = I::hash(maps.settings().seed, &flow.key);
    }
    hand_over::<I, M, F>(maps, frame, server, hash)?;
    Ok(Some(Sent { ifindex: server.ifindex, row, vlan: server.vlan }))
}

/// What keeps a packet from a server: no known way, no hops left, too little room. Its sender is
/// told of the last two.
#[inline(always)]
fn obstacle<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    server: &Server,
    length: u32,
) -> Option<Verdict> {
    if server.ifindex == 0 {
        return Some(Verdict::DropNoNextHop);
    }
    if server.ifindex == IFINDEX_LOCAL {
        return None;
    }
    let needs = length + overhead(server.kind);
    // `dsr` is no router.
    let last_hop = server.kind != KIND_DSR && I::hops(frame.packet()).is_none_or(|hops| hops <= 1);
    if !last_hop && needs <= server.mtu {
        return None;
    }
    let fits = server.mtu.saturating_sub(overhead(server.kind));
    let tell = if last_hop { Tell::TimeExceeded } else { Tell::TooBig(fits) };
    Some(icmp::tell::<I, M, F>(maps, frame, tell))
}

/// Makes a packet one that a server without NAT takes.
#[inline(always)]
fn hand_over<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    server: &Server,
    hash: u64,
) -> Result<(), Verdict> {
    let settings = maps.settings();
    if server.ifindex == IFINDEX_LOCAL {
        return Ok(());
    }
    if server.kind == KIND_DSR {
        return ethernet(frame.packet(), &server.ethernet).ok_or(Verdict::DropInternal);
    }
    // An odd kind goes over IPv6.
    let tunnel = if server.kind & 1 == 0 { FEATURE_TUNNEL4 } else { FEATURE_TUNNEL6 };
    if settings.features & tunnel == 0 {
        return Err(Verdict::DropInternal);
    }
    encapsulate::<I, F>(frame, server, hash, settings.gue_port).ok_or(Verdict::DropInternal)
}

/// The backend that a datagram's QUIC connection id names, if it is alive. One that opens a
/// connection is noted as such.
#[inline(always)]
fn by_server_id<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    service: &Service,
    flow: &mut Flow,
) -> Option<Picked> {
    let id = match quic::route::<I>(frame.packet(), service.quic) {
        Quic::Server(id) => id,
        Quic::New => {
            flow.tcp_flags = Flow::OPENS;
            return None;
        }
        Quic::Hash => return None,
    };
    let row = maps.server_id(&ServerIdKey { service: service.number, padding: 0, id })?;
    let word = maps.word(row).filter(|word| word.serving())?;
    maps.count(Event::QuicServerId);
    Some(Picked { row, word })
}

/// What a client's packet is to become.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'m> {
    /// A packet of this NAT connection.
    Connection(NatSlot<'m>),
    /// No client's packet but a backend's.
    Reply,
    /// The first packet of a NAT connection to this backend; with the hash that chose it.
    Open(Picked, u64),
    /// A packet for this backend, sent to it as it is; with the hash that chose it.
    Direct(Picked, u64),
}

/// Decides on a client's packet.
#[inline(always)]
pub fn choose<'m, I: Ip, M: Maps>(
    maps: &'m M,
    service: &Service,
    flow: &Flow,
) -> Result<Choice<'m>, Verdict> {
    let has_nat = maps.settings().features & FEATURE_NAT != 0 && service.is(SERVICE_NAT);
    let mut is_void = false;
    if has_nat {
        match nat::known(maps, flow) {
            Known::Connection(slot) => return Ok(Choice::Connection(slot)),
            Known::Reply => return Ok(Choice::Reply),
            Known::Void => is_void = true,
            Known::Nothing => {}
        }
    }
    let hash = flow_hash::<I>(maps.settings().seed, service, &flow.key);
    let picked = pick(maps, service, flow, hash)?;
    if !has_nat {
        return Ok(Choice::Direct(picked, hash));
    }
    // In a service whose mode changed, what NAT does not know is the former mode's.
    let server = maps.server(picked.word.server()).ok_or(Verdict::DropInternal)?;
    match server.kind {
        KIND_NAT if flow.opens() => Ok(Choice::Open(picked, hash)),
        KIND_NAT if is_void => Err(Verdict::DropNatBackendDown),
        KIND_NAT => Err(Verdict::DropNatNoConnection),
        _ => Ok(Choice::Direct(picked, hash)),
    }
}

/// The hash that decides on a flow's backend, by the service's policy.
#[inline(always)]
#[must_use]
pub fn flow_hash<I: Ip>(seed: u64, service: &Service, key: &FlowKey) -> u64 {
    if !service.is(SERVICE_HASH_SOURCE | SERVICE_HASH_ADDRESSES) {
        return I::hash(seed, key);
    }
    let both = service.is(SERVICE_HASH_ADDRESSES);
    let destination = if both { key.destination } else { [0; 4] };
    I::hash(seed, &FlowKey { destination, ports: 0, kind: I::FAMILY << 16, ..*key })
}

/// ICMP to one of our addresses: pings of a VIP are answered, errors follow the flow they quote.
#[inline(never)]
fn control<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    outer: &Flow,
) -> Result<Sent, Verdict> {
    let address = find_address::<I, M>(maps, &outer.key.destination);
    if address == 0 {
        return Err(Verdict::PassNotVip);
    }
    match icmp::kind::<I>(frame.packet()) {
        IcmpKind::EchoRequest if address & ADDRESS_VIP != 0 => {
            let filters = maps.settings().features & FEATURE_FILTERS != 0;
            if filters && maps.listed(LIST_BLOCK, I::FAMILY, &outer.key.source) {
                return Err(Verdict::DropBlocked);
            }
            let answered = icmp::echo_reply::<I>(frame.packet());
            Err(answered.map_or(Verdict::PassNoService, |()| Verdict::EchoReply))
        }
        IcmpKind::Error => follow_quoted::<I, M, F>(maps, frame, address),
        _ => Err(if address & ADDRESS_VIP != 0 {
            Verdict::PassNoService
        } else {
            Verdict::PassNotVip
        }),
    }
}

/// Sends an ICMP error where the flow goes, or comes from, that it quotes.
#[inline(always)]
fn follow_quoted<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    address: u32,
) -> Result<Sent, Verdict> {
    let is_vip = address & ADDRESS_VIP != 0;
    let unknown = if is_vip { Verdict::DropIcmpNoFlow } else { Verdict::PassNotVip };
    let flow = icmp::quoted::<I>(frame.packet()).ok_or(unknown)?;
    let bytes = frame.packet().len() as u64;
    if maps.settings().features & FEATURE_NAT != 0
        && let Some(slot) = maps.nat(&flow.key)
    {
        maps.count(Event::Quoted);
        maps.count(Event::NatLookup);
        let sent = nat::error::<I, M>(maps, frame.packet(), slot)?;
        if slot.entry().state & STATE_REPLY == 0 {
            maps.count_sent(sent.row, bytes);
        }
        return Ok(sent);
    }
    let service = find_service::<I, M>(maps, &flow).ok_or(unknown)?;
    let Choice::Direct(picked, hash) = choose::<I, M>(maps, &service, &flow)? else {
        return Err(unknown);
    };
    let server = maps.server(picked.word.server()).ok_or(Verdict::DropInternal)?;
    if let Some(verdict) = obstacle::<I, M, F>(maps, frame, server, flow.length) {
        return Err(verdict);
    }
    hand_over::<I, M, F>(maps, frame, server, hash)?;
    maps.count(Event::Quoted);
    maps.count_sent(picked.row, bytes);
    Ok(Sent { ifindex: server.ifindex, row: picked.row, vlan: server.vlan })
}

#[inline(always)]
fn not_for_a_service<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let address = find_address::<I, M>(maps, &flow.key.destination);
    if address & ADDRESS_NAT != 0
        && maps.settings().features & FEATURE_NAT != 0
        && nat::may_be_reply(maps, flow)
        && let Some(slot) = nat::known_reply(maps, flow)
    {
        return reply::<I, M, F>(maps, frame, slot, flow);
    }
    let is_vip = address & ADDRESS_VIP != 0;
    Err(if is_vip { Verdict::PassNoService } else { Verdict::PassNotVip })
}

/// Sends a backend's packet to its client.
#[inline(always)]
fn reply<I: Family, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    slot: NatSlot<'_>,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let last_hop = I::hops(frame.packet()).is_none_or(|hops| hops <= 1);
    let mtu = maps.settings().client_mtu;
    if last_hop || flow.length > mtu {
        let tell = if last_hop { Tell::TimeExceeded } else { Tell::TooBig(mtu) };
        return Err(icmp::tell::<I, M, F>(maps, frame, tell));
    }
    if flow.is_tcp() && flow.begins() {
        clamp_reply::<I, M>(maps, frame.packet(), slot, flow);
    }
    nat::back::<I, M>(maps, frame.packet(), slot, flow)
}

/// Clamps the segment size that a backend announces, if its service wants it.
#[inline(never)]
fn clamp_reply<I: Family, M: Maps>(maps: &M, packet: Packet<'_>, slot: NatSlot<'_>, flow: &Flow) {
    let entry = slot.entry();
    let key = FlowKey { destination: entry.source, ports: entry.ports.rotate_left(16), ..flow.key };
    let Some(service) = find_service::<I, M>(maps, &Flow { key, ..*flow }) else { return };
    if service.is(SERVICE_MSS) && mss::clamp::<I>(packet, service.mss as u16) {
        maps.count(Event::MssClamped);
    }
}

/// The verdict of a packet that cannot be balanced: its own only if it is for a VIP.
#[inline(always)]
fn if_vip<I: Ip, M: Maps>(maps: &M, flow: &Flow, verdict: Verdict) -> Verdict {
    let is_vip = find_address::<I, M>(maps, &flow.key.destination) & ADDRESS_VIP != 0;
    if is_vip { verdict } else { Verdict::PassNotVip }
}
