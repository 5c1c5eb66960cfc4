//! The packet path, whole: decode → find service → pick backend → rewrite → send.
//!
//! Every step answers "go on" or the packet's [`Verdict`]. What runs here runs in the kernel,
//! under `lb explain`, and in the tests, on the same bytes.

use crate::abi::{
    ADDRESS_NAT, ADDRESS_VIP, Address, FEATURE_NAT, FEATURE_QUIC, FlowKey, IFINDEX_INGRESS,
    IFINDEX_LOCAL, KIND_DSR, KIND_NAT, SERVICE_ALLOW, SERVICE_BLOCK, SERVICE_HASH_ADDRESSES,
    SERVICE_HASH_SOURCE, SERVICE_MSS, SERVICE_NAT, SERVICE_QUIC, SERVICE_RATE, Server,
};
use crate::find_service::{Service, find_address, find_service};
use crate::frame::Frame;
use crate::ip::{Flow, Ip, Odd, V4, V6, ether_type};
use crate::maps::{Maps, NatSlot};
use crate::nat::{self, Known};
use crate::pick::{Picked, pick};
use crate::rewrite::{Translate, ethernet};
use crate::verdict::Verdict;

/// Where a frame came from: its interface, and the VLAN tag it bore (the id; 0 for none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Interface index.
    pub ifindex: u32,
    /// VLAN id.
    pub vlan: u32,
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
    let Some(head) = frame.packet().head::<14>() else { return Err(Verdict::PassBadHeader) };
    let arrival = Arrival { ifindex: ingress, vlan: 0 };
    match head.be16::<12>() {
        ether_type::IPV4 => balance::<V4, M, F>(maps, frame, arrival),
        ether_type::IPV6 => balance::<V6, M, F>(maps, frame, arrival),
        ether_type::VLAN | ether_type::QINQ => Err(Verdict::PassVlan),
        _ => Err(Verdict::PassNotIp),
    }
}

/// All of one family. A function of its own in the program: the stack of one family is enough.
#[inline(never)]
fn balance<I: Translate, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    arrival: Arrival,
) -> Result<Sent, Verdict> {
    let mut flow = Flow::NONE;
    if let Err(odd) = I::decode(frame.packet(), &mut flow) {
        let to = &flow.key.destination;
        return Err(match odd {
            Odd::Unaddressed => Verdict::PassBadHeader,
            Odd::Verdict(verdict) => if_vip::<I, M>(maps, to, verdict),
            Odd::Icmp => if_vip::<I, M>(maps, to, Verdict::PassNoService),
            Odd::Fragment => if_vip::<I, M>(maps, to, Verdict::DropFragment),
        });
    }
    let Some(service) = find_service::<I, M>(maps, &flow) else {
        return not_for_a_service::<I, M, F>(maps, frame, &flow);
    };
    let bytes = frame.packet().len() as u64;
    let Some(sent) = serve::<I, M, F>(maps, frame, &service, &flow, arrival)? else {
        return not_for_a_service::<I, M, F>(maps, frame, &flow);
    };
    maps.count_sent(sent.row, bytes);
    Ok(sent)
}

/// Sends a client's packet to a backend of its service. `Ok(None)`: it is no client's.
#[inline(always)]
fn serve<I: Translate, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    service: &Service,
    flow: &Flow,
    arrival: Arrival,
) -> Result<Option<Sent>, Verdict> {
    let (row, to_open) = match choose::<I, M>(maps, service, flow)? {
        Choice::Reply => return Ok(None),
        Choice::Connection(slot) => (slot.entry().row, None),
        Choice::Open(picked, hash) => (picked.row, Some(hash)),
        Choice::Direct(picked, hash) => {
            return direct::<I, M, F>(maps, frame, service, picked, hash, flow).map(Some);
        }
    };
    let word = maps.word(row).ok_or(Verdict::DropInternal)?;
    let server = maps.server(word.server()).ok_or(Verdict::DropInternal)?;
    may_go::<I, M, F>(maps, frame, server, flow)?;
    if let Some(hash) = to_open
        && !nat::close_void(maps, flow)
    {
        nat::open(maps, frame, flow, hash, row, arrival)?;
    }
    let slot = maps.nat(&flow.key).ok_or(Verdict::DropInternal)?;
    nat::forward::<I, M>(maps, frame.packet(), slot, server, flow, arrival).map(Some)
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

/// Whether the way to a server is known and takes the packet.
#[inline(always)]
fn may_go<I: Translate, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    server: &Server,
    flow: &Flow,
) -> Result<(), Verdict> {
    if server.ifindex == 0 {
        return Err(Verdict::DropNoNextHop);
    }
    if I::hops(frame.packet()).ok_or(Verdict::DropInternal)? <= 1 {
        return Err(Verdict::DropTtl);
    }
    let _ = (maps, flow);
    Ok(())
}

/// Sends a packet without a NAT connection.
#[inline(always)]
fn direct<I: Translate, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    service: &Service,
    picked: Picked,
    hash: u64,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let server = maps.server(picked.word.server()).ok_or(Verdict::DropInternal)?;
    if flow.is_syn() {
        maps.count_new(picked.row);
    }
    let _ = (service, hash);
    if server.ifindex == 0 {
        return Err(Verdict::DropNoNextHop);
    }
    let sent = Sent { ifindex: server.ifindex, row: picked.row, vlan: server.vlan };
    if server.ifindex == IFINDEX_LOCAL {
        return Ok(sent);
    }
    if server.kind == KIND_DSR {
        ethernet(frame.packet(), &server.ethernet).ok_or(Verdict::DropInternal)?;
        return Ok(sent);
    }
    let _ = (maps, flow, IFINDEX_INGRESS, FEATURE_QUIC, SERVICE_QUIC, SERVICE_MSS);
    let _ = (SERVICE_ALLOW, SERVICE_BLOCK, SERVICE_RATE);
    Err(Verdict::DropInternal)
}

#[inline(always)]
fn not_for_a_service<I: Translate, M: Maps, F: Frame>(
    maps: &M,
    frame: &mut F,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let address = find_address::<I, M>(maps, &flow.key.destination);
    if address & ADDRESS_NAT != 0
        && nat::may_be_reply(maps, flow)
        && let Some(slot) = nat::known_reply(maps, flow)
    {
        if I::hops(frame.packet()).ok_or(Verdict::DropInternal)? <= 1 {
            return Err(Verdict::DropTtl);
        }
        return nat::back::<I, M>(maps, frame.packet(), slot, flow);
    }
    let is_vip = address & ADDRESS_VIP != 0;
    Err(if is_vip { Verdict::PassNoService } else { Verdict::PassNotVip })
}

/// The verdict of a packet that cannot be balanced: its own only if it is for a VIP.
#[inline(always)]
fn if_vip<I: Translate, M: Maps>(maps: &M, to: &Address, verdict: Verdict) -> Verdict {
    let is_vip = find_address::<I, M>(maps, to) & ADDRESS_VIP != 0;
    if is_vip { verdict } else { Verdict::PassNotVip }
}
