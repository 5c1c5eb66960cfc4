//! Tunnels to backends that share no layer-2 network with the balancer: the packet as it came, in
//! an outer IP packet, or in UDP in one.
//!
//! IP in IP is RFC 2003 and RFC 2473; IP in UDP is GUE's variant 1, which has no header of its own
//! (draft-ietf-intarea-gue-09, section 4; Linux: `ip fou add port 6080 gue`). What a backend's
//! tunnel interface or `lb decap` takes out is the client's packet, one hop older.
//!
//! The payload is never read: where an outer UDP checksum is due, the inner one vouches for it.

use network_types::ip::IpProto;

use crate::abi::{
    FEATURE_TUNNEL4, FEATURE_TUNNEL6, KIND_DSR, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6,
    KIND_NAT, Server, Settings,
};
use crate::checksum::Sum;
use crate::frame::Frame;
use crate::ip::{Ip, TCP, UDP, V4, V6, ether_type};
use crate::packet::{Head, Packet};

/// TTL and hop limit of outer headers: the tunnel is one hop of the inner packet, however long
/// (RFC 2003, section 3.1).
const OUTER_HOPS: u32 = 64;
/// First of the source ports of GUE: the dynamic ones (RFC 6335, section 6), so that the low 14
/// bits are free for the hash.
const FIRST_PORT: u32 = 0xc000;
/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;
/// The flag of an IPv4 packet that may not be fragmented, in its third word.
const DONT_FRAGMENT: u32 = 0x4000;
const ICMP: u8 = IpProto::Icmp as u8;
const ICMP6: u8 = IpProto::Ipv6Icmp as u8;

/// Bytes that a `KIND_*` adds in front of an IP packet; 0 of one that is no tunnel. Kinds have three bits.
#[inline(always)]
#[must_use]
pub const fn overhead(kind: u32) -> u32 {
    (OVERHEADS >> (8 * (kind & 7))) as u32 & 0xff
}

/// A byte for each kind: arithmetic, where a `match` may become a table in memory.
const OVERHEADS: u64 = 20 << (8 * KIND_IPIP4)
    | 40 << (8 * KIND_IPIP6)
    | (20 + UDP_HEADER as u64) << (8 * KIND_GUE4)
    | (40 + UDP_HEADER as u64) << (8 * KIND_GUE6);
const _: () = assert!(KIND_GUE6 < 8 && KIND_DSR < 8 && KIND_NAT < 8);

/// The mark of an identification that means something.
const MAY_FRAGMENT: u32 = 1 << 16;

/// What the outer headers take from the packet inside.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Bytes of it.
    length: u32,
    /// DSCP and ECN.
    traffic_class: u32,
    /// [`DONT_FRAGMENT`] or zero.
    dont_fragment: u32,
    /// What tells it from others of its flow when both are cut into pieces: 16 bits, with
    /// [`MAY_FRAGMENT`], or zero.
    identification: u32,
}

/// What a family's packets need on their way into a tunnel.
pub trait Encapsulate: Ip {
    /// Its number as a payload of IP (RFC 2003, RFC 2473).
    const PROTOCOL: u8;

    /// Takes a hop, and says what outer headers need. The hop goes before the tunnel, as in any
    /// router (RFC 2003, section 3.1); the caller has refused a packet with none left.
    fn enter(packet: Packet<'_>) -> Option<Inner>;
    /// The one's-complement sum of the whole packet, by what its own checksums promise: no byte
    /// of payload is read. `None` if they promise nothing.
    ///
    /// A segment with its checksum sums to the complement of its pseudo header, and an IPv4 header
    /// to zero. Where the promise is broken the sum is wrong, too, and the packet is refused at the
    /// tunnel's end rather than behind it.
    fn sum(packet: Packet<'_>) -> Option<Sum>;
}

/// Puts the packet of a frame into the tunnel to a server, Ethernet header included. `hash` is the
/// flow's: source port, flow label and source address spread by it over paths and receive queues.
///
/// The frame was decoded as of family `I`, has a hop left and, with [`overhead`], fits into the
/// server's MTU. `None`: there is no room in front, or the server is reached by no tunnel that
/// the settings' features have; the packet is spoilt then.
#[inline(always)]
#[must_use]
pub fn encapsulate<I: Encapsulate, F: Frame>(
    frame: &mut F,
    server: &Server,
    hash: u64,
    settings: &Settings,
) -> Option<()> {
    // Constants to the verifier: the arms that nobody uses are pruned.
    let over4 = settings.features & FEATURE_TUNNEL4 != 0;
    let over6 = settings.features & FEATURE_TUNNEL6 != 0;
    let inner = I::enter(frame.packet())?;
    let outer = Outer { server, hash, inner };
    match server.kind {
        KIND_IPIP4 if over4 => {
            let head = push::<F, KIND_IPIP4>(frame)?.head::<34>()?;
            outer.ipv4(head, I::PROTOCOL, inner.length);
        }
        KIND_IPIP6 if over6 => {
            let head = push::<F, KIND_IPIP6>(frame)?.head::<54>()?;
            outer.ipv6(head, I::PROTOCOL, inner.length);
        }
        KIND_GUE4 if over4 => {
            let head = push::<F, KIND_GUE4>(frame)?.head::<42>()?;
            let udp = outer.udp(settings.gue_port);
            head.set_word32::<34>(udp.ports);
            // No checksum: the inner ones do (RFC 768).
            head.set_word32::<38>(udp.length_and_zero());
            outer.ipv4(head, UDP, udp.length);
        }
        KIND_GUE6 if over6 => {
            let sum = I::sum(frame.packet());
            let head = push::<F, KIND_GUE6>(frame)?.head::<62>()?;
            let udp = outer.udp(settings.gue_port);
            head.set_word32::<54>(udp.ports);
            head.set_word32::<58>(udp.length_and_zero());
            if let Some(sum) = sum {
                head.set_word16::<60>(outer.udp6_checksum(&udp, sum));
            }
            // Else zero, as tunnels may (RFC 6935, section 5; RFC 6936, section 4).
            outer.ipv6(head, UDP, udp.length);
        }
        _ => return None,
    }
    Some(())
}

/// Makes room for the headers of a kind of tunnel.
#[inline(always)]
fn push<F: Frame, const KIND: u32>(frame: &mut F) -> Option<Packet<'_>> {
    frame.move_head(const { -(overhead(KIND) as i32) })?;
    Some(frame.packet())
}

/// A UDP header but for its checksum.
struct Udp {
    /// As in the packet.
    ports: u32,
    length: u32,
}

impl Udp {
    /// The second half of the header.
    #[inline(always)]
    const fn length_and_zero(&self) -> u32 {
        (self.length << 16).to_be()
    }
}

/// What outer headers are made of.
struct Outer<'a> {
    server: &'a Server,
    hash: u64,
    inner: Inner,
}

impl Outer<'_> {
    /// The last word of the source, or the only one, with what the hash fills.
    #[inline(always)]
    const fn source(&self, word: u32) -> u32 {
        word | self.hash as u32 & self.server.entropy
    }

    #[inline(always)]
    const fn source_v6(&self) -> [u32; 4] {
        let [a, b, c, d] = self.server.source;
        [a, b, c, self.source(d)]
    }

    #[inline(always)]
    const fn udp(&self, gue_port: u32) -> Udp {
        let source = FIRST_PORT | self.hash as u32 & 0x3fff;
        Udp {
            ports: (source << 16 | gue_port & 0xffff).to_be(),
            length: self.inner.length + UDP_HEADER,
        }
    }

    /// By the sum of what is inside (RFC 8200, section 8.1).
    #[inline(always)]
    const fn udp6_checksum(&self, udp: &Udp, inner: Sum) -> u16 {
        inner
            .add_words(&self.source_v6())
            .add_words(&self.server.address)
            .add((UDP as u32).to_be())
            // Once for the pseudo header, once for the header.
            .add(udp.length.to_be())
            .add(udp.length_and_zero())
            .add(udp.ports)
            .udp_checksum()
    }

    /// Writes the Ethernet and the IPv4 header.
    #[inline(always)]
    fn ipv4<const N: usize>(&self, head: Head<'_, N>, protocol: u8, payload: u32) {
        let Inner { traffic_class, dont_fragment, identification, .. } = self.inner;
        let identification = if identification & MAY_FRAGMENT != 0 {
            (identification ^ self.hash as u32) & 0xffff
        } else {
            0
        };
        let lengths = (0x4500 << 16 | traffic_class << 16 | (payload + 20) & 0xffff).to_be();
        let fragments = (identification << 16 | dont_fragment).to_be();
        let hops = (OUTER_HOPS << 24 | u32::from(protocol) << 16).to_be();
        let source = self.source(self.server.source[0]);
        let destination = self.server.address[0];
        let sum = Sum::none().add_words(&[lengths, fragments, hops, source]).add(destination);
        self.ethernet(head, ether_type::IPV4);
        head.set_word32::<14>(lengths);
        head.set_word32::<18>(fragments);
        head.set_word32::<22>(hops);
        head.set_word16::<24>(sum.checksum());
        head.set_word32::<26>(source);
        head.set_word32::<30>(destination);
    }

    /// Writes the Ethernet and the IPv6 header.
    #[inline(always)]
    fn ipv6<const N: usize>(&self, head: Head<'_, N>, next_header: u8, payload: u32) {
        // One label a flow, for routers that spread by it (RFC 6438), and never zero, which is
        // none (RFC 6437, section 2).
        let label = (self.hash >> 16) as u32 & 0xf_ffff | 1;
        let first = 6 << 28 | self.inner.traffic_class << 20 | label;
        let second = (payload & 0xffff) << 16 | u32::from(next_header) << 8 | OUTER_HOPS;
        self.ethernet(head, ether_type::IPV6);
        head.set_word32::<14>(first.to_be());
        head.set_word32::<18>(second.to_be());
        head.set_words::<22>(self.source_v6());
        head.set_words::<38>(self.server.address);
    }

    #[inline(always)]
    fn ethernet<const N: usize>(&self, head: Head<'_, N>, ether_type: u16) {
        head.set_word32::<0>(self.server.ethernet[0]);
        head.set_word32::<4>(self.server.ethernet[1]);
        head.set_word32::<8>(self.server.ethernet[2]);
        head.set_word16::<12>(ether_type.to_be());
    }
}

impl Encapsulate for V4 {
    const PROTOCOL: u8 = IpProto::Ipv4 as u8;

    #[inline(always)]
    fn enter(packet: Packet<'_>) -> Option<Inner> {
        let head = packet.head::<34>()?;
        // As any router (RFC 1141): one taken from the word is one added to its checksum, whose
        // form of zero stays that of a sum that is not.
        let hop = u16::from_ne_bytes([1, 0]);
        head.set_word16::<22>(head.word16::<22>().wrapping_sub(hop));
        let check = u32::from(head.word16::<24>()) + u32::from(hop);
        head.set_word16::<24>((check + ((check + 1) >> 16)) as u16);
        let fragment = u32::from(head.be16::<20>());
        let dont_fragment = fragment & DONT_FRAGMENT;
        // Its sender tells packets apart by it (RFC 6864, section 4.3), and fragments of one
        // by their offset; a hash alone would mix pieces of any two packets of a flow. It means
        // nothing where nobody may fragment (section 4.1).
        let identification = if dont_fragment != 0 {
            0
        } else {
            u32::from(head.be16::<18>()) ^ (fragment << 8 | fragment >> 8) & 0xffff | MAY_FRAGMENT
        };
        Some(Inner {
            length: u32::from(head.be16::<16>()),
            traffic_class: u32::from(head.u8::<15>()),
            dont_fragment,
            identification,
        })
    }

    #[inline(always)]
    fn sum(packet: Packet<'_>) -> Option<Sum> {
        let head = packet.head::<42>()?;
        if head.be16::<20>() & 0x3fff != 0 {
            return None;
        }
        let protocol = head.u8::<23>();
        let length = u32::from(head.be16::<16>()).wrapping_sub(20);
        match protocol {
            TCP | UDP if protocol == TCP || vouches(head.word32::<38>(), length) => Some(
                Sum::none()
                    .subtract(head.word32::<26>())
                    .subtract(head.word32::<30>())
                    .subtract(u32::from(protocol).to_be())
                    .subtract(length.to_be()),
            ),
            // A checksum of the message alone (RFC 792).
            ICMP => Some(Sum::none()),
            _ => None,
        }
    }
}

impl Encapsulate for V6 {
    const PROTOCOL: u8 = IpProto::Ipv6 as u8;

    #[inline(always)]
    fn enter(packet: Packet<'_>) -> Option<Inner> {
        let head = packet.head::<54>()?;
        head.set_u8::<21>(head.u8::<21>().wrapping_sub(1));
        Some(Inner {
            length: u32::from(head.be16::<18>()) + 40,
            traffic_class: u32::from(head.be16::<14>()) >> 4 & 0xff,
            // No router fragments IPv6, and none in between may do it for them.
            dont_fragment: DONT_FRAGMENT,
            identification: 0,
        })
    }

    #[inline(always)]
    fn sum(packet: Packet<'_>) -> Option<Sum> {
        let head = packet.head::<62>()?;
        let length = u32::from(head.be16::<18>());
        let next_header = head.u8::<20>();
        match next_header {
            TCP | ICMP6 => {}
            UDP if vouches(head.word32::<58>(), length) => {}
            _ => return None,
        }
        // Addresses and length are in the header and, complemented, in the pseudo header: what is
        // left are the first word and the hop limit (RFC 8200, section 8.1).
        Some(
            Sum::none()
                .add(head.word32::<14>())
                .add(u32::from(head.word16::<20>()))
                .subtract(u32::from(next_header).to_be()),
        )
    }
}

/// Whether a datagram's checksum, the second half of its header (length, checksum), is of so many
/// bytes: it says nothing of what lies behind the datagram (RFC 9868 puts options there).
#[inline(always)]
const fn vouches(word: u32, length: u32) -> bool {
    let word = u32::from_be(word);
    word & 0xffff != 0 && word >> 16 == length
}

#[cfg(test)]
mod tests;
