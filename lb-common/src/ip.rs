//! The two families, as types: all that differs between IPv4 and IPv6 on a packet's way in.
//!
//! A frame is only ever read up to its ports and TCP flags. What cannot be balanced is told by
//! its destination and the verdict it gets *if* that is a VIP: what is not ours is not judged.

use network_types::ip::IpProto;

use crate::abi::{Address, FlowKey, join_ports};
use crate::hash;
use crate::packet::Packet;
use crate::verdict::Verdict;

/// EtherTypes this program knows (IEEE 802).
pub mod ether_type {
    use network_types::eth::EtherType;

    /// IPv4, host order.
    pub const IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
    /// IPv6, host order.
    pub const IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);
    /// 802.1Q, host order.
    pub const VLAN: u16 = u16::from_be(EtherType::Ieee8021q as u16);
    /// 802.1ad, host order.
    pub const QINQ: u16 = u16::from_be(EtherType::Ieee8021ad as u16);
}

/// TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// UDP.
pub const UDP: u8 = IpProto::Udp as u8;
/// ICMP of IPv4.
pub const ICMP: u8 = IpProto::Icmp as u8;
/// ICMP of IPv6.
pub const ICMP6: u8 = IpProto::Ipv6Icmp as u8;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A packet that can be balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Addresses, ports, family and protocol.
    pub key: FlowKey,
    /// TCP flags; zero for UDP.
    pub tcp_flags: u8,
    /// Bytes of the IP packet, its header included.
    pub length: u32,
}

impl Flow {
    /// Nothing yet: what a frame is read into.
    pub const NONE: Self = Self {
        key: FlowKey { source: [0; 4], destination: [0; 4], ports: 0, kind: 0 },
        tcp_flags: 0,
        length: 0,
    };

    /// In place of TCP flags: not the flow's own packet but an ICMP error about it, or a fragment.
    /// Its way is the flow's; it opens nothing and leaves nothing behind. (No TCP packet has
    /// these flags alone: ECE and CWR.)
    pub const ASIDE: u8 = 0xc0;

    /// In place of TCP flags, of a datagram that opens a connection of its own protocol (QUIC).
    pub const OPENS: u8 = SYN;

    /// Whether it is no packet of the flow itself, or one that may be forged: a reset's sequence
    /// number was checked by nobody. Such packets follow entries, but neither make nor refresh
    /// them.
    #[inline(always)]
    #[must_use]
    pub const fn leaves_no_trace(&self) -> bool {
        self.tcp_flags == Self::ASIDE || self.resets()
    }

    /// Whether it is a TCP connection's first segment.
    #[inline(always)]
    #[must_use]
    pub const fn is_syn(&self) -> bool {
        self.is_tcp() && self.opens()
    }

    /// Whether it is TCP.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol() == TCP
    }

    /// The IP protocol.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.key.kind as u8
    }

    /// Whether it may be the first of its flow: a SYN, or any datagram.
    #[inline(always)]
    #[must_use]
    pub const fn opens(&self) -> bool {
        self.tcp_flags & (SYN | ACK) == SYN || (!self.is_tcp() && self.tcp_flags == 0)
    }

    /// Whether its direction of a TCP connection begins with it: a SYN, or a SYN with ACK.
    #[inline(always)]
    #[must_use]
    pub const fn begins(&self) -> bool {
        self.tcp_flags & SYN != 0
    }

    /// Whether it ends its flow.
    #[inline(always)]
    #[must_use]
    pub const fn closes(&self) -> bool {
        self.tcp_flags & (FIN | RST) != 0
    }

    /// Whether its direction begins with it, or all of it ends at once: in a backend's packet it may
    /// be the answer to a connection's first one.
    #[inline(always)]
    #[must_use]
    pub const fn may_answer_first(&self) -> bool {
        self.tcp_flags & (SYN | RST) != 0
    }

    /// Whether it is a reset.
    #[inline(always)]
    #[must_use]
    pub const fn resets(&self) -> bool {
        self.tcp_flags & RST != 0
    }

    /// Whether it is TCP that a reset may answer: no first segment, no reset, no fragment and no
    /// error about it.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_reset(&self) -> bool {
        self.is_tcp() && !self.opens() && !self.leaves_no_trace()
    }

    /// Destination port, as in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        crate::abi::split_ports(self.key.ports).1
    }
}

/// Why a packet cannot be balanced as a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// There is not even a destination.
    Unaddressed,
    /// ICMP of this family, whole.
    Icmp,
    /// A fragment of a TCP segment or a UDP datagram, the first one included: no ports are read.
    Fragment,
    /// What it gets if it is for a VIP.
    Verdict(Verdict),
}

/// What differs between the families.
pub trait Ip {
    /// 4 or 6.
    const FAMILY: u32;
    /// The smallest MTU a link may have (RFC 791, RFC 8200).
    const LEAST_MTU: u32;

    /// Reads a frame of this family into `flow`: the addresses unless it has none, all else as
    /// far as it is there. (Not returned: the program has little stack, and a copy takes a tenth.)
    fn decode(packet: Packet<'_>, flow: &mut Flow) -> Result<(), Odd>;
    /// [`Self::decode`] of most frames: `None` also of some that can be balanced, which are odd or
    /// very short. Beside it TTL or hop limit.
    fn decode_plain(packet: Packet<'_>) -> Option<(Flow, u8)>;
    /// Where a packet is to, if it is as long as its header.
    fn destination(packet: Packet<'_>) -> Option<Address>;
    /// Whether a packet is to this address.
    #[inline(always)]
    fn is_to(packet: Packet<'_>, address: &Address) -> bool {
        Self::destination(packet).is_some_and(|destination| Self::same(&destination, address))
    }
    /// Hash of a flow.
    fn hash(seed: u64, key: &FlowKey) -> u64;
    /// Where a service key's search begins, before masking.
    fn service_hash(address: &Address, key: u32) -> u32;
    /// Whether two addresses of this family are the same.
    fn same(a: &Address, b: &Address) -> bool;
}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug)]
pub enum V4 {}

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug)]
pub enum V6 {}

/// Bytes of a UDP header, and of a TCP header without options.
const fn least(protocol: u8) -> usize {
    if protocol == TCP { 20 } else { 8 }
}

impl Ip for V4 {
    const FAMILY: u32 = 4;
    const LEAST_MTU: u32 = 68;

    #[inline(always)]
    fn decode(packet: Packet<'_>, flow: &mut Flow) -> Result<(), Odd> {
        let Some(ip) = packet.head::<34>() else { return Err(Odd::Unaddressed) };
        let version_length = ip.u8::<14>();
        if version_length >> 4 != 4 {
            return Err(Odd::Unaddressed);
        }
        let protocol = ip.u8::<23>();
        flow.key.source[0] = ip.word32::<26>();
        flow.key.destination[0] = ip.word32::<30>();
        flow.key.kind = FlowKey::kind_of(Self::FAMILY, protocol);
        let odd = |verdict| Err(Odd::Verdict(verdict));
        if protocol != TCP && protocol != UDP && protocol != ICMP {
            return odd(Verdict::PassNoService);
        }
        if version_length != 0x45 {
            let short = version_length & 15 < 5;
            return odd(match protocol {
                // A ping with a recorded route is the kernel's.
                ICMP => Verdict::PassNoService,
                _ if short => Verdict::DropMalformed,
                _ => Verdict::DropOptions,
            });
        }
        // More fragments, or an offset (RFC 791, section 3.1).
        let fragment = ip.be16::<20>() & 0x3fff != 0;
        if fragment && protocol == ICMP {
            return odd(Verdict::PassNoService);
        }
        let length = usize::from(ip.be16::<16>());
        let least = if fragment { 1 } else { least(protocol) };
        if length < 20 + least {
            return odd(Verdict::DropMalformed);
        }
        if length + 14 > packet.len() {
            return odd(Verdict::DropTruncated);
        }
        flow.length = length as u32;
        if protocol == ICMP {
            return Err(Odd::Icmp);
        }
        if fragment {
            return Err(Odd::Fragment);
        }
        let Some(udp) = packet.head::<42>() else { return odd(Verdict::DropTruncated) };
        flow.key.ports = udp.word32::<34>();
        if protocol == TCP {
            let Some(tcp) = packet.head::<54>() else { return odd(Verdict::DropTruncated) };
            flow.tcp_flags = tcp.u8::<47>();
        }
        Ok(())
    }

    #[inline(always)]
    fn decode_plain(packet: Packet<'_>) -> Option<(Flow, u8)> {
        let head = packet.head::<42>()?;
        if head.u8::<14>() != 0x45 || head.word16::<20>() & 0x3fff_u16.to_be() != 0 {
            return None;
        }
        let protocol = head.u8::<23>();
        let (least, tcp_flags) = match protocol {
            TCP => (40, packet.head::<54>()?.u8::<47>()),
            UDP => (28, 0),
            _ => return None,
        };
        let length = head.be16::<16>();
        if length < least || usize::from(length) + 14 > packet.len() {
            return None;
        }
        let key = FlowKey {
            source: [head.word32::<26>(), 0, 0, 0],
            destination: [head.word32::<30>(), 0, 0, 0],
            ports: head.word32::<34>(),
            kind: FlowKey::kind_of(Self::FAMILY, protocol),
        };
        Some((Flow { key, tcp_flags, length: u32::from(length) }, head.u8::<22>()))
    }

    #[inline(always)]
    fn destination(packet: Packet<'_>) -> Option<Address> {
        Some([packet.head::<34>()?.word32::<30>(), 0, 0, 0])
    }

    #[inline(always)]
    fn hash(seed: u64, key: &FlowKey) -> u64 {
        hash::flow_v4(seed, key)
    }

    #[inline(always)]
    fn service_hash(address: &Address, key: u32) -> u32 {
        hash::service_v4(address[0], key)
    }

    #[inline(always)]
    fn same(a: &Address, b: &Address) -> bool {
        a[0] == b[0]
    }
}

impl Ip for V6 {
    const FAMILY: u32 = 6;
    const LEAST_MTU: u32 = 1280;

    #[inline(always)]
    fn decode(packet: Packet<'_>, flow: &mut Flow) -> Result<(), Odd> {
        let Some(ip) = packet.head::<54>() else { return Err(Odd::Unaddressed) };
        if ip.u8::<14>() >> 4 != 6 {
            return Err(Odd::Unaddressed);
        }
        let protocol = ip.u8::<20>();
        flow.key.source = ip.words::<22>();
        flow.key.destination = ip.words::<38>();
        flow.key.kind = FlowKey::kind_of(Self::FAMILY, protocol);
        let odd = |verdict| Err(Odd::Verdict(verdict));
        if protocol != TCP && protocol != UDP && protocol != ICMP6 && protocol != FRAGMENT {
            return odd(not_tcp_or_udp(protocol));
        }
        let length = usize::from(ip.be16::<18>());
        if length < least(protocol) {
            return odd(Verdict::DropMalformed);
        }
        if length + 54 > packet.len() {
            return odd(Verdict::DropTruncated);
        }
        flow.length = length as u32 + 40;
        if protocol == ICMP6 {
            return Err(Odd::Icmp);
        }
        if protocol == FRAGMENT {
            let Some(fragment) = packet.head::<62>() else { return odd(Verdict::DropTruncated) };
            let inner = fragment.u8::<54>();
            if inner != TCP && inner != UDP {
                return odd(not_tcp_or_udp(inner));
            }
            flow.key.kind = FlowKey::kind_of(Self::FAMILY, inner);
            return Err(Odd::Fragment);
        }
        let Some(udp) = packet.head::<62>() else { return odd(Verdict::DropTruncated) };
        flow.key.ports = udp.word32::<54>();
        if protocol == TCP {
            let Some(tcp) = packet.head::<74>() else { return odd(Verdict::DropTruncated) };
            flow.tcp_flags = tcp.u8::<67>();
        }
        Ok(())
    }

    #[inline(always)]
    fn decode_plain(packet: Packet<'_>) -> Option<(Flow, u8)> {
        let head = packet.head::<62>()?;
        let protocol = head.u8::<20>();
        let (least, tcp_flags) = match protocol {
            TCP => (20, packet.head::<74>()?.u8::<67>()),
            UDP => (8, 0),
            _ => return None,
        };
        let length = head.be16::<18>();
        let is_whole = length >= least && usize::from(length) + 54 <= packet.len();
        if head.u8::<14>() >> 4 != 6 || !is_whole {
            return None;
        }
        let key = FlowKey {
            source: head.words::<22>(),
            destination: head.words::<38>(),
            ports: head.word32::<54>(),
            kind: FlowKey::kind_of(Self::FAMILY, protocol),
        };
        Some((Flow { key, tcp_flags, length: u32::from(length) + 40 }, head.u8::<21>()))
    }

    #[inline(always)]
    fn destination(packet: Packet<'_>) -> Option<Address> {
        Some(packet.head::<54>()?.words::<38>())
    }

    #[inline(always)]
    fn hash(seed: u64, key: &FlowKey) -> u64 {
        hash::flow_v6(seed, key)
    }

    #[inline(always)]
    fn service_hash(address: &Address, key: u32) -> u32 {
        hash::service_v6(address, key)
    }

    #[inline(always)]
    fn same(a: &Address, b: &Address) -> bool {
        // Or-ed differences: `==` on arrays becomes a loop on the eBPF target.
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

/// RFC 8200, section 4.5.
const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;

/// Extension headers may hide TCP or UDP (RFC 8200, section 4); anything else is the kernel's,
/// fragments of it included, so that large pings to a VIP work.
#[inline(always)]
const fn not_tcp_or_udp(next_header: u8) -> Verdict {
    const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
    const ROUTING: u8 = IpProto::Ipv6Route as u8;
    const AUTHENTICATION: u8 = IpProto::Ah as u8;
    const DESTINATION: u8 = IpProto::Ipv6Opts as u8;
    const MOBILITY: u8 = 135;
    match next_header {
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY => {
            Verdict::DropExtension
        }
        _ => Verdict::PassNoService,
    }
}

/// Joins host-order ports as in a packet.
#[must_use]
pub const fn ports(source: u16, destination: u16) -> u32 {
    join_ports(source.to_be(), destination.to_be())
}

#[cfg(test)]
mod tests;
