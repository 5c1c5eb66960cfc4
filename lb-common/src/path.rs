//! The packet path, whole: decode → find service → pick backend → rewrite → send.
//!
//! Every step answers "go on" or the packet's [`Verdict`]. What runs here runs in the kernel,
//! under `lb explain`, and in the tests, on the same bytes.

use crate::abi::{ADDRESS_NAT, ADDRESS_VIP, Address, MODE_DSR};
use crate::find_service::{Service, find_address, find_service};
use crate::ip::{Flow, Odd, V4, V6, ether_type};
use crate::maps::Maps;
use crate::nat;
use crate::packet::Packet;
use crate::pick::pick;
use crate::rewrite::{Translate, ethernet};
use crate::verdict::Verdict;

/// A packet rewritten and ready to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The backend row it goes to; [`Sent::TO_CLIENT`] for a reply.
    pub row: u32,
}

impl Sent {
    /// `row` of a reply.
    pub const TO_CLIENT: u32 = u32::MAX;
}

/// Takes a frame that arrived on interface `ingress` through the whole path.
///
/// Counts backends and events; the caller counts the verdict, [`Verdict::NatReply`] included.
#[inline(always)]
pub fn run<M: Maps>(maps: &M, packet: Packet<'_>, ingress: u32) -> Result<Sent, Verdict> {
    let Some(frame) = packet.head::<14>() else { return Err(Verdict::PassBadHeader) };
    match frame.be16::<12>() {
        ether_type::IPV4 => balance::<V4, M>(maps, packet, ingress),
        ether_type::IPV6 => balance::<V6, M>(maps, packet, ingress),
        ether_type::VLAN | ether_type::QINQ => Err(Verdict::PassVlan),
        _ => Err(Verdict::PassNotIp),
    }
}

#[inline(always)]
fn balance<I: Translate, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    ingress: u32,
) -> Result<Sent, Verdict> {
    let flow = match I::decode(packet) {
        Ok(flow) => flow,
        Err(Odd::Unaddressed) => return Err(Verdict::PassBadHeader),
        Err(Odd::Addressed(to, verdict)) => return Err(if_vip::<I, M>(maps, &to, verdict)),
    };
    let sent = match find_service::<I, M>(maps, &flow) {
        Some(service) if service.mode == MODE_DSR => {
            Some(direct::<I, M>(maps, packet, &service, &flow)?)
        }
        Some(service) => nat::forward::<I, M>(maps, packet, &service, &flow, ingress)?,
        None => None,
    };
    let Some(sent) = sent else {
        return not_for_a_service::<I, M>(maps, packet, &flow);
    };
    maps.count_sent(sent.row, packet.len() as u64);
    Ok(sent)
}

/// Layer-2 direct server return: the packet as it came, to the backend's MAC address.
#[inline(always)]
fn direct<I: Translate, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    service: &Service,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let hash = I::hash(maps.settings().seed, &flow.key);
    let picked = pick(maps, service, flow, hash)?;
    let server = maps.server(picked.word.server()).ok_or(Verdict::DropInternal)?;
    if server.ifindex == 0 {
        return Err(Verdict::DropNoNextHop);
    }
    if flow.is_tcp() && flow.opens() {
        maps.count_new(picked.row);
    }
    ethernet(packet, &server.ethernet).ok_or(Verdict::DropInternal)?;
    Ok(Sent { ifindex: server.ifindex, row: picked.row })
}

#[inline(always)]
fn not_for_a_service<I: Translate, M: Maps>(
    maps: &M,
    packet: Packet<'_>,
    flow: &Flow,
) -> Result<Sent, Verdict> {
    let address = find_address::<I, M>(maps, &flow.key.destination);
    if address & ADDRESS_NAT != 0
        && nat::may_be_reply(maps, flow)
        && let Some(ifindex) = nat::reply::<I, M>(maps, packet, flow)?
    {
        return Ok(Sent { ifindex, row: Sent::TO_CLIENT });
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
