//! The path of `lb decap`, which runs on a backend: takes a client's packet out of the balancer's
//! tunnel and leaves it to the kernel, as if it had come without.
//!
//! Takes what [`crate::encap`] makes, and the same from others: IP in IP (RFC 2003, RFC 2473), and
//! IP in UDP as GUE with variant 1, or variant 0 with its plain header of four bytes
//! (draft-ietf-intarea-gue-09, sections 3 and 4). All else is the kernel's, untouched.
//!
//! Who can send into a tunnel can send as anyone, so only listed sources may (RFC 2003, section 6).
//! Three things are not checked:
//!
//! - *The outer destination.* Frames keep their MAC addresses, so one that a promiscuous interface
//!   saw by chance stays another host's to the kernel; and what a listed source sends here on
//!   purpose is meant for this host, by whichever of its addresses.
//! - *An outer UDP checksum.* It covers the whole payload, which nothing here reads; what is inside
//!   has checksums of its own, which the kernel does check, and a header broken on its way passes
//!   the checks here only by naming a listed source (compare RFC 6935, section 5).
//! - *The inner packet* beyond version and lengths: that is what the kernel's input does next.

use network_types::ip::IpProto;

use crate::abi::Address;
use crate::checksum::Difference;
use crate::frame::Frame;
use crate::ip::{UDP, ether_type};
use crate::packet::Packet;
use crate::verdict::Verdict;
use crate::vlan;

const IPV4: u8 = IpProto::Ipv4 as u8;
const IPV6: u8 = IpProto::Ipv6 as u8;

/// Number of the list of sources in a map of them: there is but one.
pub const LIST: u32 = 0;

/// All that [`run`] ends in.
pub const VERDICTS: &[Verdict] = &[
    Verdict::PassDecapsulated,
    Verdict::PassNoTunnel,
    Verdict::PassNotIp,
    Verdict::PassVlan,
    Verdict::PassBadHeader,
    Verdict::DropTunnelSource,
    Verdict::DropTunnelInner,
    Verdict::DropTunnelEcn,
    Verdict::DropInternal,
];

/// RFC 3168, section 5: not a transport that understands ECN.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const CE: u8 = 3;

/// What the path asks of its maps.
pub trait DecapMaps {
    /// The UDP port of GUE, host order.
    fn gue_port(&self) -> u32;
    /// Whether tunnels from a source of this family (4 or 6) are taken.
    fn allowed(&self, family: u32, source: &Address) -> bool;
}

/// What an outer header says.
struct Outer {
    /// 4 or 6.
    family: u32,
    source: Address,
    ecn: u8,
    /// Bytes in front of the inner packet, without the Ethernet header.
    headers: u32,
    /// Bytes that the headers say follow.
    payload: u32,
    /// [`IPV4`] or [`IPV6`].
    protocol: u8,
}

/// What UDP's first words say of a tunnel.
struct Gue {
    headers: u32,
    payload: u32,
    protocol: u8,
}

/// Takes a frame through the whole path. The verdict passes or drops it; the caller counts it.
#[inline(always)]
pub fn run<M: DecapMaps, F: Frame>(maps: &M, frame: &mut F) -> Verdict {
    let tag = match vlan::pop(frame) {
        Ok(tag) => tag,
        Err(verdict) => return verdict,
    };
    let verdict = match open(maps, frame) {
        Ok(()) => Verdict::PassDecapsulated,
        Err(verdict) => verdict,
    };
    // Also on what was never in a tunnel: it passes as it came.
    match vlan::push(frame, tag) {
        Some(()) => verdict,
        None => Verdict::DropInternal,
    }
}

#[inline(always)]
fn open<M: DecapMaps, F: Frame>(maps: &M, frame: &mut F) -> Result<(), Verdict> {
    let packet = frame.packet();
    let head = packet.head::<14>().ok_or(Verdict::PassBadHeader)?;
    let outer = match head.be16::<12>() {
        ether_type::IPV4 => outer_v4(packet, maps.gue_port())?,
        ether_type::IPV6 => outer_v6(packet, maps.gue_port())?,
        _ => return Err(Verdict::PassNotIp),
    };
    if !maps.allowed(outer.family, &outer.source) {
        return Err(Verdict::DropTunnelSource);
    }
    let addresses = [head.word32::<0>(), head.word32::<4>(), head.word32::<8>()];
    frame.move_head(outer.headers as i32).ok_or(Verdict::DropTunnelInner)?;
    let packet = frame.packet();
    let ether_type = match outer.protocol {
        IPV4 => inner_v4(packet, &outer)?,
        _ => inner_v6(packet, &outer)?,
    };
    let head = packet.head::<14>().ok_or(Verdict::DropInternal)?;
    head.set_word32::<0>(addresses[0]);
    head.set_word32::<4>(addresses[1]);
    head.set_word32::<8>(addresses[2]);
    head.set_word16::<12>(ether_type.to_be());
    Ok(())
}

/// Reads an outer IPv4 header. One with options, or a fragment, is the kernel's.
#[inline(always)]
fn outer_v4(packet: Packet<'_>, gue_port: u32) -> Result<Outer, Verdict> {
    let ip = packet.head::<34>().ok_or(Verdict::PassBadHeader)?;
    if ip.u8::<14>() >> 4 != 4 {
        return Err(Verdict::PassBadHeader);
    }
    if ip.u8::<14>() != 0x45 || ip.be16::<20>() & 0x3fff != 0 {
        return Err(Verdict::PassNoTunnel);
    }
    let payload = u32::from(ip.be16::<16>()).saturating_sub(20);
    let gue = match ip.u8::<23>() {
        protocol @ (IPV4 | IPV6) => Gue { headers: 0, payload, protocol },
        UDP => {
            let udp = packet.head::<46>().ok_or(Verdict::PassNoTunnel)?;
            let lengths = (u32::from(udp.be16::<38>()), payload);
            gue(gue_port, udp.be16::<36>(), lengths, u32::from_be(udp.word32::<42>()))?
        }
        _ => return Err(Verdict::PassNoTunnel),
    };
    Ok(Outer {
        family: 4,
        source: [ip.word32::<26>(), 0, 0, 0],
        ecn: ip.u8::<15>() & 3,
        headers: 20 + gue.headers,
        payload: gue.payload,
        protocol: gue.protocol,
    })
}

/// Reads an outer IPv6 header. One with extension headers, a fragment's included, is the kernel's.
#[inline(always)]
fn outer_v6(packet: Packet<'_>, gue_port: u32) -> Result<Outer, Verdict> {
    let ip = packet.head::<54>().ok_or(Verdict::PassBadHeader)?;
    if ip.u8::<14>() >> 4 != 6 {
        return Err(Verdict::PassBadHeader);
    }
    let payload = u32::from(ip.be16::<18>());
    let gue = match ip.u8::<20>() {
        protocol @ (IPV4 | IPV6) => Gue { headers: 0, payload, protocol },
        UDP => {
            let udp = packet.head::<66>().ok_or(Verdict::PassNoTunnel)?;
            let lengths = (u32::from(udp.be16::<58>()), payload);
            gue(gue_port, udp.be16::<56>(), lengths, u32::from_be(udp.word32::<62>()))?
        }
        _ => return Err(Verdict::PassNoTunnel),
    };
    Ok(Outer {
        family: 6,
        source: ip.words::<22>(),
        ecn: ip.u8::<15>() >> 4 & 3,
        headers: 40 + gue.headers,
        payload: gue.payload,
        protocol: gue.protocol,
    })
}

/// Whether a datagram is GUE with an IP packet in it, by its port and the word behind the UDP
/// header; `lengths` are what the UDP header says, and what the IP header does.
#[inline(always)]
fn gue(gue_port: u32, port: u16, lengths: (u32, u32), first: u32) -> Result<Gue, Verdict> {
    if u32::from(port) != gue_port {
        return Err(Verdict::PassNoTunnel);
    }
    // The first nibble: variant 1 is an IP header with its version; else variant 0, whose first
    // byte (control bit, length of optional fields) and flags are zero in what we take.
    let (header, protocol) = match first >> 28 {
        4 => (0, IPV4),
        6 => (0, IPV6),
        _ if first == u32::from(IPV4) << 16 => (4, IPV4),
        _ if first == u32::from(IPV6) << 16 => (4, IPV6),
        _ => return Err(Verdict::PassNoTunnel),
    };
    // One that contradicts the IP header holds nothing, which no packet fits in.
    let udp = if lengths.0 > lengths.1 { 0 } else { lengths.0 };
    Ok(Gue { headers: 8 + header, payload: udp.saturating_sub(8 + header), protocol })
}

/// Checks and marks the IPv4 packet behind the Ethernet header; its EtherType.
#[inline(always)]
fn inner_v4(packet: Packet<'_>, outer: &Outer) -> Result<u16, Verdict> {
    let ip = packet.head::<34>().ok_or(Verdict::DropTunnelInner)?;
    let first = ip.u8::<14>();
    let length = u32::from(ip.be16::<16>());
    let header = u32::from(first & 15) * 4;
    if first >> 4 != 4 || header < 20 || length < header || !fits(packet, outer, length) {
        return Err(Verdict::DropTunnelInner);
    }
    let old = ip.u8::<15>();
    let new = old & !3 | ecn(old & 3, outer.ecn)?;
    if new != old {
        let word = |class| u32::from(u16::from_ne_bytes([first, class]));
        let change = Difference::none().replace(word(old), word(new));
        ip.set_u8::<15>(new);
        ip.set_word16::<24>(change.apply(ip.word16::<24>()));
    }
    Ok(ether_type::IPV4)
}

/// Checks and marks the IPv6 packet behind the Ethernet header; its EtherType.
#[inline(always)]
fn inner_v6(packet: Packet<'_>, outer: &Outer) -> Result<u16, Verdict> {
    let ip = packet.head::<54>().ok_or(Verdict::DropTunnelInner)?;
    let length = u32::from(ip.be16::<18>()) + 40;
    if ip.u8::<14>() >> 4 != 6 || !fits(packet, outer, length) {
        return Err(Verdict::DropTunnelInner);
    }
    let old = ip.u8::<15>();
    ip.set_u8::<15>(old & !0x30 | ecn(old >> 4 & 3, outer.ecn)? << 4);
    Ok(ether_type::IPV6)
}

/// Whether a packet of so many bytes is all there: within the tunnel's payload, and the frame.
#[inline(always)]
fn fits(packet: Packet<'_>, outer: &Outer, length: u32) -> bool {
    length <= outer.payload && length as usize + 14 <= packet.len()
}

/// The inner ECN field after the tunnel (RFC 6040, section 4.2, figure 4).
#[inline(always)]
const fn ecn(inner: u8, outer: u8) -> Result<u8, Verdict> {
    // The outer header says nothing new: Not-ECT, or ECT(0).
    if outer & 1 == 0 {
        return Ok(inner);
    }
    match (inner, outer) {
        // Its sender would not slow down.
        (NOT_ECT, CE) => Err(Verdict::DropTunnelEcn),
        (NOT_ECT, _) => Ok(NOT_ECT),
        (CE, _) | (_, CE) => Ok(CE),
        _ => Ok(ECT_1),
    }
}

#[cfg(test)]
mod tests;
