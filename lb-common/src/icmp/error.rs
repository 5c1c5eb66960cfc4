//! Errors made here: a packet becomes, in place, the ICMP error about itself.
//!
//! Headers are added in front, so that the packet's own IP header lies where the quote begins, and
//! what is behind the quote is cut. A quote has one of two lengths, both whole words of 32 bits, so
//! that its checksum is a short sum.

use super::{HOPS, ICMP, ICMP6, Icmp, IcmpKind, is_group};
use crate::abi::{Address, Limit};
use crate::checksum::Difference;
use crate::frame::Frame;
use crate::ip::{TCP, UDP, V4, V6, ether_type};
use crate::maps::Maps;
use crate::packet::Packet;
use crate::rewrite::{ethernet, frame_ethernet, swap_ethernet};
use crate::verdict::{Event, Verdict};

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// The packet had no hop left.
    TimeExceeded,
    /// The packet is longer than this, the most bytes of IP packet that go on from here. IPv6
    /// hosts heed nothing below 1280 (RFC 8201, section 4).
    TooBig(u32),
}

/// Makes of the packet in `frame` an ICMP error about it, to its sender, from the address it was
/// sent to. The frame must be as it came, but for VLAN tags.
///
/// Where the sender must not, or by this processor's limit may not be told, the verdict is that
/// of a drop.
#[inline(never)]
pub fn tell<I: Icmp, M: Maps, F: Frame>(maps: &M, frame: &mut F, tell: Tell) -> Verdict {
    let (told, untold) = match tell {
        Tell::TimeExceeded => (Verdict::TimeExceededSent, Verdict::DropTtl),
        Tell::TooBig(_) => (Verdict::TooBigSent, Verdict::DropTooBig),
    };
    let Some(about) = I::invoking(frame.packet()) else { return untold };
    if !maps.take(Limit::Icmp) {
        maps.count(Event::IcmpLimited);
        return untold;
    }
    match make::<I, F>(frame, tell, &about) {
        Some(()) => told,
        None => untold,
    }
}

/// The frame made the error. `None`: it is of no use any more.
#[inline(always)]
fn make<I: Icmp, F: Frame>(frame: &mut F, tell: Tell, about: &About) -> Option<()> {
    // Verifier: cut to 32 bits without a look at the others, the length becomes a difference of
    // halves: "32-bit pointer arithmetic prohibited".
    let length = i32::try_from(frame.packet().len()).ok()?;
    frame.move_tail((14 + about.quote as i32).wrapping_sub(length))?;
    frame.move_head(-I::ADDED)?;
    let packet = frame.packet();
    ethernet(packet, &about.ethernet)?;
    I::error(packet, tell, about)
}

/// Bytes of IP packet in a long quote: past the headers of the packet, and of one it may hold.
const LONG: u32 = 128;

/// What an error must know of the packet that it is about.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// MAC addresses of the error.
    ethernet: [u32; 3],
    source: Address,
    destination: Address,
    /// Bytes of it that the error quotes.
    quote: u32,
}

impl About {
    /// How much is quoted of an IP packet of so many bytes, in a frame.
    #[inline(always)]
    fn quote<I: Invoking>(packet: Packet<'_>, length: u32) -> u32 {
        let is_long = length >= LONG && packet.head::<{ 14 + LONG as usize }>().is_some();
        if is_long { LONG } else { I::SHORT }
    }

    /// The sum of the quote, which begins at `AT`.
    #[inline(always)]
    fn sum<const AT: usize>(&self, packet: Packet<'_>) -> Option<Difference> {
        let mut sum = Difference::none();
        // Verifier: unrolled over a head, the loads come first and the additions last, with all
        // of the quote on the stack between them.
        for at in (0..LONG).step_by(4) {
            if at >= self.quote {
                break;
            }
            sum = sum.replace(0, packet.part::<AT, { LONG - 1 }, 4>(at)?.word32::<0>());
        }
        Some(sum)
    }
}

/// What differs between the families.
pub trait Invoking {
    /// Bytes of IP packet in a short quote: a header, and what must follow at least.
    const SHORT: u32;
    /// Bytes of headers that an error adds.
    const ADDED: i32;
    /// Reads a packet, if there may be an error about it (RFC 1122, section 3.2.2; RFC 4443,
    /// section 2.4).
    fn invoking(packet: Packet<'_>) -> Option<About>;
    /// Writes the headers before the quote, the MAC addresses excepted.
    fn error(packet: Packet<'_>, tell: Tell, about: &About) -> Option<()>;
}

impl Invoking for V4 {
    const SHORT: u32 = 28;
    const ADDED: i32 = 28;

    #[inline(always)]
    fn invoking(packet: Packet<'_>) -> Option<About> {
        let head = packet.head::<42>()?;
        let addresses = frame_ethernet(packet)?;
        let source = [head.word32::<26>(), 0, 0, 0];
        let length = u32::from(head.be16::<16>());
        let may = match head.u8::<23>() {
            TCP | UDP => true,
            ICMP => Self::kind(packet) == IcmpKind::EchoRequest,
            _ => false,
        };
        // Only the first fragment is answered.
        if !may
            || head.u8::<14>() != 0x45
            || head.be16::<20>() & 0x1fff != 0
            || length < Self::SHORT
            || is_group(&addresses)
            || !Self::is_unicast(&source)
        {
            return None;
        }
        Some(About {
            ethernet: swap_ethernet(&addresses),
            source,
            destination: [head.word32::<30>(), 0, 0, 0],
            quote: About::quote::<Self>(packet, length),
        })
    }

    #[inline(always)]
    fn error(packet: Packet<'_>, tell: Tell, about: &About) -> Option<()> {
        let head = packet.head::<42>()?;
        let [_, _, high, low] = (20 + 8 + about.quote).to_be_bytes();
        // Internetwork control (RFC 1812, section 4.3.2.5); not to be fragmented, so without an
        // identification (RFC 6864, section 4.1).
        let words = [
            u32::from_ne_bytes([0x45, 0xc0, high, low]),
            u32::from_ne_bytes([0, 0, 0x40, 0]),
            u32::from_ne_bytes([HOPS, ICMP, 0, 0]),
            about.destination[0],
        ];
        head.set_word16::<12>(ether_type::IPV4.to_be());
        head.set_words::<14>(words);
        head.set_word32::<30>(about.source[0]);
        let header = Difference::none().replace_words(&NOTHING, &words).replace(0, about.source[0]);
        head.set_word16::<24>(whole(header));
        let (first, second) = match tell {
            Tell::TimeExceeded => ([11, 0, 0, 0], 0),
            // RFC 1191, section 4.
            Tell::TooBig(mtu) => ([3, 4, 0, 0], mtu.min(0xffff).to_be()),
        };
        let first = u32::from_ne_bytes(first);
        head.set_word32::<34>(first);
        head.set_word32::<38>(second);
        let message = about.sum::<42>(packet)?.replace(0, first).replace(0, second);
        head.set_word16::<36>(whole(message));
        Some(())
    }
}

impl Invoking for V6 {
    const SHORT: u32 = 48;
    const ADDED: i32 = 48;

    #[inline(always)]
    fn invoking(packet: Packet<'_>) -> Option<About> {
        let head = packet.head::<62>()?;
        let addresses = frame_ethernet(packet)?;
        let source = head.words::<22>();
        let length = u32::from(head.be16::<18>()) + 40;
        let may = match head.u8::<20>() {
            TCP | UDP => true,
            ICMP6 => Self::kind(packet) == IcmpKind::EchoRequest,
            FRAGMENT => {
                let inner = head.u8::<54>();
                (inner == TCP || inner == UDP) && head.be16::<56>() & 0xfff8 == 0
            }
            _ => false,
        };
        if !may
            || head.u8::<14>() >> 4 != 6
            || length < Self::SHORT
            || is_group(&addresses)
            || !Self::is_unicast(&source)
        {
            return None;
        }
        Some(About {
            ethernet: swap_ethernet(&addresses),
            source,
            destination: head.words::<38>(),
            quote: About::quote::<Self>(packet, length),
        })
    }

    #[inline(always)]
    fn error(packet: Packet<'_>, tell: Tell, about: &About) -> Option<()> {
        let head = packet.head::<62>()?;
        let length = 8 + about.quote;
        let [_, _, high, low] = length.to_be_bytes();
        head.set_word16::<12>(ether_type::IPV6.to_be());
        head.set_word32::<14>(u32::from_ne_bytes([0x60, 0, 0, 0]));
        head.set_word32::<18>(u32::from_ne_bytes([high, low, ICMP6, HOPS]));
        head.set_words::<22>(about.destination);
        head.set_words::<38>(about.source);
        let (first, second) = match tell {
            Tell::TimeExceeded => ([3, 0, 0, 0], 0),
            Tell::TooBig(mtu) => ([2, 0, 0, 0], mtu.to_be()),
        };
        let first = u32::from_ne_bytes(first);
        head.set_word32::<54>(first);
        head.set_word32::<58>(second);
        let message = about
            .sum::<62>(packet)?
            // The pseudo header (RFC 8200, section 8.1).
            .replace_words(&NOTHING, &about.destination)
            .replace_words(&NOTHING, &about.source)
            .replace(0, length.to_be())
            .replace(0, u32::from(ICMP6).to_be())
            .replace(0, first)
            .replace(0, second);
        head.set_word16::<56>(whole(message));
        Some(())
    }
}

/// RFC 8200, section 4.5.
const FRAGMENT: u8 = network_types::ip::IpProto::Ipv6Frag as u8;

/// What words of a new text replace.
const NOTHING: Address = [0; 4];

/// The checksum of a text, from the difference that it makes to none.
#[inline(always)]
const fn whole(text: Difference) -> u16 {
    text.apply(0xffff)
}
