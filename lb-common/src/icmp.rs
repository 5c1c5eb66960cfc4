//! ICMP: what those are owed who send to a VIP, or learn something about what came from one.
//!
//! A VIP answers pings here ([`echo_reply`]). An error about a packet that a backend sent goes to
//! that backend: by the flow it quotes ([`quoted`]), and translated if the flow is
//! ([`translate_quoted`]). A packet that cannot be sent on is told why ([`tell`]).
//!
//! May assume that [`Ip::decode`] has read the frame, and of all but [`tell`] that it said
//! [`Odd::Icmp`](crate::ip::Odd::Icmp): a whole message, without IPv4 options. The quote in it is
//! anyone's word, and of its transport header only 8 bytes may be there (RFC 792). Checksums that
//! arrive are not verified: all are changed by what changed, so that what was damaged before stays
//! damaged.

mod error;

use network_types::ip::IpProto;

use crate::abi::{Address, FlowKey};
use crate::checksum::Difference;
use crate::ip::{Flow, Ip, TCP, UDP, V4, V6};
use crate::packet::Packet;
use crate::rewrite::{Translation, ethernet, frame_ethernet, swap_ethernet};

pub use error::{Tell, tell};

/// What an ICMP message is to a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpKind {
    /// A ping.
    EchoRequest,
    /// An error about a packet that it quotes.
    Error,
    /// Anything else.
    Other,
}

/// What a message is.
#[inline(always)]
#[must_use]
pub fn kind<I: Icmp>(packet: Packet<'_>) -> IcmpKind {
    I::kind(packet)
}

/// Whether an error says that there is no way to a packet's destination, or nobody there: that it
/// is too large is another matter (RFC 792; RFC 4443, section 3.1).
#[inline(always)]
#[must_use]
pub fn says_unreachable<I: Icmp>(packet: Packet<'_>) -> bool {
    I::says_unreachable(packet)
}

/// Makes a ping its reply, in place (RFC 792; RFC 4443, section 4.2). `None`: it is none, or must
/// not be answered, and nothing has changed.
#[inline(always)]
#[must_use]
pub fn echo_reply<I: Icmp>(packet: Packet<'_>) -> Option<()> {
    I::echo_reply(packet)
}

/// The flow that an error is about, seen from its client: the packet quoted was on its way back.
/// `None` if the quote does not tell, or is of another host's packet than the one that the error
/// was sent to.
#[inline(always)]
#[must_use]
pub fn quoted<I: Icmp>(packet: Packet<'_>) -> Option<Flow> {
    I::quoted(packet)
}

/// Translates an error: addresses its own packet to the second of `outer` from the first, takes
/// one hop, and makes of the quoted packet what `inner` says. Of an error whose flow was
/// [`quoted`], or one that quotes in the same way; `None`, and nothing has changed, if it does
/// not.
///
/// `inner` is of the packet as it is quoted: its source is who the error is sent to.
#[inline(always)]
#[must_use]
pub fn translate_quoted<I: Icmp>(
    packet: Packet<'_>,
    outer: (&Address, &Address),
    inner: &Translation<'_>,
) -> Option<()> {
    I::translate_quoted(packet, outer, inner)
}

/// What differs between the families.
pub trait Icmp: Ip + error::Invoking {
    /// See [`kind`].
    fn kind(packet: Packet<'_>) -> IcmpKind;
    /// See [`says_unreachable`].
    fn says_unreachable(packet: Packet<'_>) -> bool;
    /// See [`echo_reply`].
    fn echo_reply(packet: Packet<'_>) -> Option<()>;
    /// See [`quoted`].
    fn quoted(packet: Packet<'_>) -> Option<Flow>;
    /// See [`translate_quoted`].
    fn translate_quoted(
        packet: Packet<'_>,
        outer: (&Address, &Address),
        inner: &Translation<'_>,
    ) -> Option<()>;
    /// Whether an address can be one sender's, and so be answered (RFC 1122, sections 3.2.1.3 and
    /// 3.2.2; RFC 4443, section 2.4).
    fn is_unicast(address: &Address) -> bool;
}

/// TTL and hop limit of what is made here.
pub(crate) const HOPS: u8 = 64;
/// ICMP for IPv4.
const ICMP: u8 = IpProto::Icmp as u8;
/// ICMP for IPv6.
const ICMP6: u8 = IpProto::Ipv6Icmp as u8;

/// Bytes of a transport header that a quote has at least.
const QUOTED: u16 = 8;
/// Bytes of a TCP header up to its checksum's end.
const TO_TCP_CHECKSUM: u16 = 18;

impl Icmp for V4 {
    #[inline(always)]
    fn kind(packet: Packet<'_>) -> IcmpKind {
        match packet.head::<42>().map(|icmp| icmp.u8::<34>()) {
            Some(8) => IcmpKind::EchoRequest,
            // Destination unreachable, source quench, time exceeded, parameter problem.
            Some(3 | 4 | 11 | 12) => IcmpKind::Error,
            _ => IcmpKind::Other,
        }
    }

    #[inline(always)]
    fn says_unreachable(packet: Packet<'_>) -> bool {
        packet.head::<42>().is_some_and(|icmp| icmp.u8::<34>() == 3 && icmp.u8::<35>() != 4)
    }

    #[inline(always)]
    fn echo_reply(packet: Packet<'_>) -> Option<()> {
        let head = packet.head::<42>()?;
        let (source, destination) = (head.word32::<26>(), head.word32::<30>());
        let addresses = frame_ethernet(packet)?;
        if head.u8::<34>() != 8 || is_group(&addresses) || !Self::is_unicast(&[source, 0, 0, 0]) {
            return None;
        }
        ethernet(packet, &swap_ethernet(&addresses))?;
        let hops = head.word16::<22>();
        head.set_u8::<22>(HOPS);
        let fewer = Difference::none().replace(u32::from(hops), u32::from(head.word16::<22>()));
        head.set_word16::<24>(fewer.apply(head.word16::<24>()));
        head.set_word32::<26>(destination);
        head.set_word32::<30>(source);
        let request = head.word16::<34>();
        head.set_u8::<34>(0);
        let reply = u32::from(head.word16::<34>());
        let answered = Difference::none().replace(u32::from(request), reply);
        head.set_word16::<36>(answered.apply(head.word16::<36>()));
        Some(())
    }

    #[inline(always)]
    fn quoted(packet: Packet<'_>) -> Option<Flow> {
        let head = packet.head::<70>()?;
        let length = head.be16::<16>();
        let protocol = head.u8::<51>();
        let source = head.word32::<54>();
        // With options the ports are elsewhere, and in a later fragment nowhere.
        let quotes = length >= 20 + 8 + 20 + QUOTED
            && head.u8::<42>() == 0x45
            && head.be16::<48>() & 0x1fff == 0
            && (protocol == TCP || protocol == UDP)
            && source == head.word32::<30>();
        let key = FlowKey {
            source: [source, 0, 0, 0],
            destination: [head.word32::<58>(), 0, 0, 0],
            ports: head.word32::<62>(),
            kind: FlowKey::kind_of(Self::FAMILY, protocol),
        };
        quotes.then(|| Flow {
            key: key.reversed(),
            tcp_flags: Flow::ASIDE,
            length: u32::from(length),
        })
    }

    #[inline(always)]
    fn translate_quoted(
        packet: Packet<'_>,
        outer: (&Address, &Address),
        inner: &Translation<'_>,
    ) -> Option<()> {
        let flow = Self::quoted(packet)?;
        let head = packet.head::<70>()?;
        let reaches = flow.is_tcp() && flow.length >= 20 + 8 + 20 + u32::from(TO_TCP_CHECKSUM);
        let tcp = if reaches { Some(packet.head::<80>()?) } else { None };

        let addresses = Difference::none()
            .replace(head.word32::<26>(), outer.0[0])
            .replace(head.word32::<30>(), outer.1[0]);
        let hops = u32::from(head.word16::<22>());
        head.set_u8::<22>(head.u8::<22>().wrapping_sub(1));
        let fewer = addresses.replace(hops, u32::from(head.word16::<22>()));
        head.set_word16::<24>(fewer.apply(head.word16::<24>()));
        head.set_word32::<26>(outer.0[0]);
        head.set_word32::<30>(outer.1[0]);

        let addresses = Difference::none()
            .replace(head.word32::<54>(), inner.source[0])
            .replace(head.word32::<58>(), inner.destination[0]);
        let header = head.word16::<52>();
        let new_header = addresses.apply(header);
        head.set_word16::<52>(new_header);
        head.set_word32::<54>(inner.source[0]);
        head.set_word32::<58>(inner.destination[0]);
        let transport = addresses.replace(head.word32::<62>(), inner.ports);
        head.set_word32::<62>(inner.ports);
        let message = transport.replace(u32::from(header), u32::from(new_header));
        let mut changed = (0, 0);
        if let Some(tcp) = tcp {
            let old = tcp.word16::<78>();
            changed = (old, transport.apply(old));
            tcp.set_word16::<78>(changed.1);
        } else if !flow.is_tcp() {
            let old = head.word16::<68>();
            changed = (old, udp_checksum(transport, old));
            head.set_word16::<68>(changed.1);
        }
        let message = message.replace(u32::from(changed.0), u32::from(changed.1));
        head.set_word16::<36>(message.apply(head.word16::<36>()));
        Some(())
    }

    #[inline(always)]
    fn is_unicast(address: &Address) -> bool {
        // "This" network, loopback; multicast and all behind it.
        let [first, ..] = address[0].to_ne_bytes();
        first != 0 && first != 127 && first < 224
    }
}

impl Icmp for V6 {
    #[inline(always)]
    fn kind(packet: Packet<'_>) -> IcmpKind {
        match packet.head::<62>().map(|icmp| icmp.u8::<54>()) {
            Some(128) => IcmpKind::EchoRequest,
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            Some(1..=4) => IcmpKind::Error,
            _ => IcmpKind::Other,
        }
    }

    #[inline(always)]
    fn says_unreachable(packet: Packet<'_>) -> bool {
        packet.head::<62>().is_some_and(|icmp| icmp.u8::<54>() == 1)
    }

    #[inline(always)]
    fn echo_reply(packet: Packet<'_>) -> Option<()> {
        let head = packet.head::<62>()?;
        let (source, destination) = (head.words::<22>(), head.words::<38>());
        let addresses = frame_ethernet(packet)?;
        if head.u8::<54>() != 128 || is_group(&addresses) || !Self::is_unicast(&source) {
            return None;
        }
        ethernet(packet, &swap_ethernet(&addresses))?;
        head.set_u8::<21>(HOPS);
        head.set_words::<22>(destination);
        head.set_words::<38>(source);
        let request = head.word16::<54>();
        head.set_u8::<54>(129);
        // The pseudo header has both addresses, in either order.
        let reply = u32::from(head.word16::<54>());
        let answered = Difference::none().replace(u32::from(request), reply);
        head.set_word16::<56>(answered.apply(head.word16::<56>()));
        Some(())
    }

    #[inline(always)]
    fn quoted(packet: Packet<'_>) -> Option<Flow> {
        let head = packet.head::<110>()?;
        let length = head.be16::<18>();
        let protocol = head.u8::<68>();
        let source = head.words::<70>();
        let quotes = length >= 8 + 40 + QUOTED
            && head.u8::<62>() >> 4 == 6
            && (protocol == TCP || protocol == UDP)
            && Self::same(&source, &head.words::<38>());
        let key = FlowKey {
            source,
            destination: head.words::<86>(),
            ports: head.word32::<102>(),
            kind: FlowKey::kind_of(Self::FAMILY, protocol),
        };
        quotes.then(|| Flow {
            key: key.reversed(),
            tcp_flags: Flow::ASIDE,
            length: u32::from(length) + 40,
        })
    }

    #[inline(always)]
    fn translate_quoted(
        packet: Packet<'_>,
        outer: (&Address, &Address),
        inner: &Translation<'_>,
    ) -> Option<()> {
        let flow = Self::quoted(packet)?;
        let head = packet.head::<110>()?;
        let reaches = flow.is_tcp() && flow.length >= 40 + 8 + 40 + u32::from(TO_TCP_CHECKSUM);
        let tcp = if reaches { Some(packet.head::<120>()?) } else { None };

        // Of the pseudo header: RFC 4443, section 2.3.
        let outside = Difference::none()
            .replace_words(&head.words::<22>(), outer.0)
            .replace_words(&head.words::<38>(), outer.1);
        head.set_word16::<56>(outside.apply(head.word16::<56>()));
        head.set_u8::<21>(head.u8::<21>().wrapping_sub(1));
        head.set_words::<22>(*outer.0);
        head.set_words::<38>(*outer.1);

        let transport = Difference::none()
            .replace_words(&head.words::<70>(), inner.source)
            .replace_words(&head.words::<86>(), inner.destination)
            .replace(head.word32::<102>(), inner.ports);
        head.set_words::<70>(*inner.source);
        head.set_words::<86>(*inner.destination);
        head.set_word32::<102>(inner.ports);
        let mut changed = (0, 0);
        if let Some(tcp) = tcp {
            let old = tcp.word16::<118>();
            changed = (old, transport.apply(old));
            tcp.set_word16::<118>(changed.1);
        } else if !flow.is_tcp() {
            let old = head.word16::<108>();
            changed = (old, udp_checksum(transport, old));
            head.set_word16::<108>(changed.1);
        }
        let message = transport.replace(u32::from(changed.0), u32::from(changed.1));
        head.set_word16::<56>(message.apply(head.word16::<56>()));
        Some(())
    }

    #[inline(always)]
    fn is_unicast(address: &Address) -> bool {
        // Multicast; unspecified and loopback.
        let [first, ..] = address[0].to_ne_bytes();
        let small = address[0] | address[1] | address[2] == 0 && u32::from_be(address[3]) <= 1;
        first != 0xff && !small
    }
}

/// Whether a frame was sent to more than one station: none of them answers (RFC 1122, section
/// 3.2.2).
#[inline(always)]
pub(crate) const fn is_group(addresses: &[u32; 3]) -> bool {
    addresses[0].to_le() & 1 != 0
}

/// Zero says "no checksum", so a computed zero is sent as its other form (RFC 768).
#[inline(always)]
fn udp_checksum(difference: Difference, old: u16) -> u16 {
    if old == 0 {
        return 0;
    }
    match difference.apply(old) {
        0 => 0xffff,
        new => new,
    }
}

#[cfg(test)]
mod tests;
