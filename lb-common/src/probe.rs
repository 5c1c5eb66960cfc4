//! The way of a health probe in the direct modes: a client's.
//!
//! The prober's socket is connected to the server's own address, so that the kernel finds route, next
//! hop and source as for anything else. On its way out the packet is turned to the VIP and handed
//! over as a client's is, by the server's record; on its way in the answer, which comes from the VIP,
//! is turned back to what the socket expects. So a server that lacks the VIP or the decapsulator
//! does not answer, as it would not answer clients.
//!
//! A packet is a probe's by addresses and ports, all four, in both directions; all others are left
//! alone. Where a tunnel leads to a server of another family than the VIP's, the IP header is made
//! anew (RFC 7915 does the same for good; here both ends are known).
//!
//! Packets are the kernel's (`struct sk_buff`), not frames of a wire: payload may lie elsewhere, and a
//! transport checksum may be the device's to fill in. So lengths are not compared with bytes, and
//! checksums are mended by those who know their state ([`Skb`]).

use crate::abi::{Address, FlowKey, KIND_DSR, ProbeEntry, Settings, probe_key, split_ports};
use crate::checksum::{Difference, Sum};
use crate::encap::{Encapsulate, encapsulate};
use crate::frame::Frame;
use crate::ip::{Ip, TCP, UDP, V4, V6, ether_type};
use crate::packet::Packet;
use crate::rewrite::ethernet;

/// A packet of the kernel's on its way out or in.
pub trait Skb: Frame {
    /// Mends the transport checksum at an offset for other addresses in its pseudo header.
    fn mend(&mut self, at: u32, is_udp: bool, addresses: Difference) -> Option<()>;
    /// Tells how the sum of the whole packet changed by what was written into it beside
    /// [`Self::mend`]: a device may have summed it up.
    fn account(&mut self, written: Difference);
    /// Makes room for an IP header of the other family (4 or 6) in place of the present one: 20
    /// zero bytes more before it, or its first 20 bytes less.
    fn change_family(&mut self, family: u32) -> Option<()>;
}

/// What the way needs to know.
pub trait ProbeMaps {
    /// The probe of a key ([`probe_key`]).
    fn probe(&self, key: u32) -> Option<&ProbeEntry>;
    /// Seed, GUE port and tunnels.
    fn settings(&self) -> Settings;
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is no probe's, and untouched.
    Other,
    /// It is on a client's way, or its answer on the way back.
    Turned,
    /// It could not be turned, and is spoilt: it must not go on.
    Spoilt,
}

/// An IP header as far as another family can say it.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    key: FlowKey,
    /// DSCP and ECN.
    traffic_class: u32,
    /// Bytes behind the header.
    payload: u32,
    /// TTL or hop limit.
    hops: u32,
}

impl Header {
    #[inline(always)]
    const fn protocol(&self) -> u8 {
        self.key.kind as u8
    }
}

/// New addresses.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    source: Address,
    destination: Address,
}

/// What a family's headers need to be turned.
pub trait Turn: Encapsulate {
    /// The other family.
    type Other: Turn;
    /// Where the transport header begins in a frame.
    const TRANSPORT: u32;

    /// Reads the header of a TCP or UDP packet; `None` of all else, and of what has options,
    /// extension headers or pieces, which no probe has.
    fn header(packet: Packet<'_>) -> Option<Header>;
    /// Writes addresses, and mends the header's own checksum. What that does to the sum of the header.
    fn readdress(packet: Packet<'_>, addresses: Difference, to: &Ends) -> Option<Difference>;
    /// Takes the sum of the last 20 bytes of a header away.
    fn forget(packet: Packet<'_>) -> Option<Difference>;
    /// Writes a whole header, and the frame's type. What that adds to the sum of the packet.
    fn write(packet: Packet<'_>, from: &Header, to: &Ends) -> Option<Difference>;
}

/// Takes a packet that leaves this host.
#[inline(always)]
pub fn leave<M: ProbeMaps, S: Skb>(maps: &M, skb: &mut S) -> End {
    match family(skb.packet()) {
        V4::FAMILY => leave_of::<V4, M, S>(maps, skb),
        V6::FAMILY => leave_of::<V6, M, S>(maps, skb),
        _ => End::Other,
    }
}

/// Takes a packet that comes to this host.
#[inline(always)]
pub fn arrive<M: ProbeMaps, S: Skb>(maps: &M, skb: &mut S) -> End {
    match family(skb.packet()) {
        V4::FAMILY => arrive_of::<V4, M, S>(maps, skb),
        V6::FAMILY => arrive_of::<V6, M, S>(maps, skb),
        _ => End::Other,
    }
}

/// 4, 6, or neither.
#[inline(always)]
fn family(packet: Packet<'_>) -> u32 {
    match packet.head::<14>().map(super::packet::Head::be16::<12>) {
        Some(ether_type::IPV4) => V4::FAMILY,
        Some(ether_type::IPV6) => V6::FAMILY,
        _ => 0,
    }
}

#[inline(always)]
fn leave_of<I: Turn, M: ProbeMaps, S: Skb>(maps: &M, skb: &mut S) -> End {
    let Some(header) = I::header(skb.packet()) else { return End::Other };
    let (own, other) = split_ports(header.key.ports);
    let key = probe_key(I::FAMILY, header.protocol(), own);
    let Some(probe) = maps.probe(key) else { return End::Other };
    let is_its = probe.server_family == I::FAMILY
        && u32::from(other) == probe.port
        && I::same(&header.key.destination, &probe.server.address)
        && I::same(&header.key.source, &probe.local);
    if !is_its {
        return End::Other;
    }
    let to = Ends { source: probe.source, destination: probe.vip };
    let done = if probe.vip_family == I::FAMILY {
        turn::<I, I, S>(skb, &header, &to)
            .and_then(|()| hand_over::<I, M, S>(maps, skb, probe, &header))
    } else {
        turn::<I, I::Other, S>(skb, &header, &to)
            .and_then(|()| hand_over::<I::Other, M, S>(maps, skb, probe, &header))
    };
    if done.is_some() { End::Turned } else { End::Spoilt }
}

#[inline(always)]
fn arrive_of<O: Turn, M: ProbeMaps, S: Skb>(maps: &M, skb: &mut S) -> End {
    let Some(header) = O::header(skb.packet()) else { return End::Other };
    let (other, own) = split_ports(header.key.ports);
    let key = probe_key(O::FAMILY, header.protocol(), own);
    let Some(probe) = maps.probe(key) else { return End::Other };
    let is_its = probe.vip_family == O::FAMILY
        && u32::from(other) == probe.port
        && O::same(&header.key.source, &probe.vip)
        && O::same(&header.key.destination, &probe.source);
    if !is_its {
        return End::Other;
    }
    let to = Ends { source: probe.server.address, destination: probe.local };
    let done = if probe.server_family == O::FAMILY {
        turn::<O, O, S>(skb, &header, &to)
    } else {
        turn::<O, O::Other, S>(skb, &header, &to)
    };
    if done.is_some() { End::Turned } else { End::Spoilt }
}

/// Gives a packet of family `I` these addresses of family `O`.
#[inline(always)]
fn turn<I: Turn, O: Turn, S: Skb>(skb: &mut S, header: &Header, to: &Ends) -> Option<()> {
    // Length and protocol, the rest of the pseudo header, add the same to a sum in both families
    // (RFC 8200, section 8.1).
    let addresses = Difference::none()
        .replace_words(&header.key.source, &to.source)
        .replace_words(&header.key.destination, &to.destination);
    let is_udp = header.protocol() == UDP;
    let checksum = if is_udp { 6 } else { 16 };
    skb.mend(I::TRANSPORT + checksum, is_udp, addresses)?;
    if I::FAMILY == O::FAMILY {
        let written = I::readdress(skb.packet(), addresses, to)?;
        skb.account(written);
        return Some(());
    }
    let forgotten = I::forget(skb.packet())?;
    skb.change_family(O::FAMILY)?;
    let written = O::write(skb.packet(), header, to)?;
    skb.account(forgotten.join(written));
    Some(())
}

/// Sends a packet of family `O` to the server as the balancer sends a client's.
#[inline(always)]
fn hand_over<O: Turn, M: ProbeMaps, S: Skb>(
    maps: &M,
    skb: &mut S,
    probe: &ProbeEntry,
    header: &Header,
) -> Option<()> {
    if probe.server.kind == KIND_DSR {
        return ethernet(skb.packet(), &probe.server.ethernet);
    }
    let key = FlowKey {
        source: probe.source,
        destination: probe.vip,
        ports: header.key.ports,
        kind: FlowKey::kind_of(O::FAMILY, header.protocol()),
    };
    let settings = maps.settings();
    encapsulate::<O, S>(skb, &probe.server, O::hash(settings.seed, &key), &settings)
}

impl Turn for V4 {
    type Other = V6;
    const TRANSPORT: u32 = 34;

    #[inline(always)]
    fn header(packet: Packet<'_>) -> Option<Header> {
        let head = packet.head::<38>()?;
        let protocol = head.u8::<23>();
        let is_whole = head.u8::<14>() == 0x45 && head.be16::<20>() & 0x3fff == 0;
        if !is_whole || (protocol != TCP && protocol != UDP) {
            return None;
        }
        Some(Header {
            key: FlowKey {
                source: [head.word32::<26>(), 0, 0, 0],
                destination: [head.word32::<30>(), 0, 0, 0],
                ports: head.word32::<34>(),
                kind: FlowKey::kind_of(Self::FAMILY, protocol),
            },
            traffic_class: u32::from(head.u8::<15>()),
            payload: u32::from(head.be16::<16>()).wrapping_sub(20),
            hops: u32::from(head.u8::<22>()),
        })
    }

    #[inline(always)]
    fn readdress(packet: Packet<'_>, addresses: Difference, to: &Ends) -> Option<Difference> {
        let head = packet.head::<34>()?;
        head.set_word32::<26>(to.source[0]);
        head.set_word32::<30>(to.destination[0]);
        head.set_word16::<24>(addresses.apply(head.word16::<24>()));
        // A header with its checksum sums to zero, before and after.
        Some(Difference::none())
    }

    #[inline(always)]
    fn forget(_: Packet<'_>) -> Option<Difference> {
        Some(Difference::none())
    }

    #[inline(always)]
    fn write(packet: Packet<'_>, from: &Header, to: &Ends) -> Option<Difference> {
        let head = packet.head::<34>()?;
        let lengths =
            (0x4500 << 16 | from.traffic_class << 16 | (from.payload + 20) & 0xffff).to_be();
        // The other family's packets are cut into pieces by nobody: neither is this one.
        let fragments = DONT_FRAGMENT.to_be();
        let hops = (from.hops << 24 | u32::from(from.protocol()) << 16).to_be();
        let (source, destination) = (to.source[0], to.destination[0]);
        let sum = Sum::none().add(lengths).add(fragments).add(hops).add(source).add(destination);
        head.set_word16::<12>(ether_type::IPV4.to_be());
        head.set_word32::<14>(lengths);
        head.set_word32::<18>(fragments);
        head.set_word32::<22>(hops);
        head.set_word16::<24>(sum.checksum());
        head.set_word32::<26>(source);
        head.set_word32::<30>(destination);
        Some(Difference::none())
    }
}

/// In the second word of an IPv4 header.
const DONT_FRAGMENT: u32 = 0x4000;

impl Turn for V6 {
    type Other = V4;
    const TRANSPORT: u32 = 54;

    #[inline(always)]
    fn header(packet: Packet<'_>) -> Option<Header> {
        let head = packet.head::<58>()?;
        let protocol = head.u8::<20>();
        if head.u8::<14>() >> 4 != 6 || (protocol != TCP && protocol != UDP) {
            return None;
        }
        Some(Header {
            key: FlowKey {
                source: head.words::<22>(),
                destination: head.words::<38>(),
                ports: head.word32::<54>(),
                kind: FlowKey::kind_of(Self::FAMILY, protocol),
            },
            traffic_class: u32::from(head.be16::<14>()) >> 4 & 0xff,
            payload: u32::from(head.be16::<18>()),
            hops: u32::from(head.u8::<21>()),
        })
    }

    #[inline(always)]
    fn readdress(packet: Packet<'_>, addresses: Difference, to: &Ends) -> Option<Difference> {
        let head = packet.head::<54>()?;
        head.set_words::<22>(to.source);
        head.set_words::<38>(to.destination);
        Some(addresses)
    }

    #[inline(always)]
    fn forget(packet: Packet<'_>) -> Option<Difference> {
        let head = packet.head::<54>()?;
        let none = Difference::none().replace(head.word32::<34>(), 0);
        Some(none.replace_words(&head.words::<38>(), &[0; 4]))
    }

    #[inline(always)]
    fn write(packet: Packet<'_>, from: &Header, to: &Ends) -> Option<Difference> {
        let head = packet.head::<54>()?;
        let first = (6 << 28 | from.traffic_class << 20).to_be();
        let protocol = u32::from(from.protocol());
        let second = (from.payload << 16 | protocol << 8 | from.hops).to_be();
        head.set_word16::<12>(ether_type::IPV6.to_be());
        head.set_word32::<14>(first);
        head.set_word32::<18>(second);
        head.set_words::<22>(to.source);
        head.set_words::<38>(to.destination);
        let added = Difference::none().replace(0, first).replace(0, second);
        Some(added.replace_words(&[0; 4], &to.source).replace_words(&[0; 4], &to.destination))
    }
}

#[cfg(test)]
mod tests;
