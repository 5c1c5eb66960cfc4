//! Resets made here: a segment of a TCP connection whose backend is gone becomes, in place, what a
//! host that knows no such connection answers (RFC 9293, section 3.10.7.1).
//!
//! May assume that [`Ip::decode`](crate::ip::Ip::decode) took the frame for TCP: headers without IP options, all there.

use crate::abi::Limit;
use crate::checksum::Sum;
use crate::frame::Frame;
use crate::icmp::{HOPS, Icmp, is_group};
use crate::ip::{ACK, FIN, RST, SYN, TCP, V4, V6};
use crate::maps::Maps;
use crate::packet::Packet;
use crate::rewrite::{ethernet, frame_ethernet, swap_ethernet};
use crate::verdict::{Event, Verdict};

/// Makes of the segment in `frame` the reset that answers it. The frame must be as it came, but for
/// VLAN tags.
///
/// Where there must be no answer, or by this processor's limit may be none, the segment is dropped
/// as it came. A function of its own: its stack is not that of other answers.
#[inline(never)]
pub fn answer<I: Reset, M: Maps, F: Frame>(maps: &M, frame: &mut F) -> Verdict {
    if !maps.take(Limit::Reset) {
        maps.count(Event::ResetLimited);
        return Verdict::DropNatBackendDown;
    }
    match make::<I, F>(frame) {
        Some(()) => Verdict::ResetSent,
        None => Verdict::DropNatBackendDown,
    }
}

#[inline(always)]
fn make<I: Reset, F: Frame>(frame: &mut F) -> Option<()> {
    // Verifier: as in `icmp::tell`, a length cut to 32 bits unseen is "32-bit pointer arithmetic
    // prohibited".
    let length = i32::try_from(frame.packet().len()).ok()?;
    I::reset(frame.packet())?;
    if length > I::LENGTH { frame.move_tail(I::LENGTH.wrapping_sub(length)) } else { Some(()) }
}

/// What differs between the families.
pub trait Reset: Icmp {
    /// Bytes of frame that a reset has at most.
    const LENGTH: i32;
    /// Writes the headers of the reset that answers a segment over the segment's own. `None`: there
    /// is none, and nothing has changed.
    fn reset(packet: Packet<'_>) -> Option<()>;
}

/// A reset's numbers, as in a packet, and its flags.
#[derive(Clone, Copy)]
struct Numbers {
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
}

impl Numbers {
    /// Those that answer a segment: its own numbers as in the packet, the byte of its data offset,
    /// its flags, and the bytes of it, header included. `None`: it is a reset itself, or its header
    /// is longer than it.
    #[inline(always)]
    const fn answering(
        sequence: u32,
        acknowledgement: u32,
        (offset, flags): (u8, u8),
        bytes: u32,
    ) -> Option<Self> {
        let header = (offset as u32 >> 4) * 4;
        if flags & RST != 0 || header < TCP_HEADER || header > bytes {
            return None;
        }
        if flags & ACK != 0 {
            return Some(Self { sequence: acknowledgement, acknowledgement: 0, flags: RST });
        }
        // SYN and FIN are counted as data is (section 3.4).
        let control = (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        let next = u32::from_be(sequence).wrapping_add(bytes - header + control);
        Some(Self { sequence: 0, acknowledgement: next.to_be(), flags: RST | ACK })
    }

    /// The word behind the numbers: data offset, flags, a window of nothing.
    #[inline(always)]
    const fn rest(self) -> u32 {
        u32::from_ne_bytes([(TCP_HEADER / 4 * 16) as u8, self.flags, 0, 0])
    }

    /// Sum of all that its header has but ports, and of the pseudo header's length and protocol.
    #[inline(always)]
    const fn sum(self) -> Sum {
        let of_pseudo_header = u32::from_ne_bytes([0, TCP, 0, TCP_HEADER as u8]);
        Sum::none()
            .add(of_pseudo_header)
            .add(self.sequence)
            .add(self.acknowledgement)
            .add(self.rest())
    }
}

/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;

impl Reset for V4 {
    /// The least that Ethernet carries: not every driver makes a shorter frame as long.
    const LENGTH: i32 = 60;

    #[inline(always)]
    fn reset(packet: Packet<'_>) -> Option<()> {
        let head = packet.head::<54>()?;
        let addresses = frame_ethernet(packet)?;
        let (client, vip) = (head.word32::<26>(), head.word32::<30>());
        if is_group(&addresses) || !Self::is_unicast(&[client, 0, 0, 0]) {
            return None;
        }
        let bytes = u32::from(head.be16::<16>()).wrapping_sub(20);
        let control = (head.u8::<46>(), head.u8::<47>());
        let numbers = Numbers::answering(head.word32::<38>(), head.word32::<42>(), control, bytes)?;
        ethernet(packet, &swap_ethernet(&addresses))?;
        // Not to be fragmented, so without an identification (RFC 6864, section 4.1).
        let words = [
            u32::from_ne_bytes([0x45, 0, 0, 20 + TCP_HEADER as u8]),
            u32::from_ne_bytes([0, 0, 0x40, 0]),
            u32::from_ne_bytes([HOPS, TCP, 0, 0]),
            vip,
        ];
        head.set_words::<14>(words);
        head.set_word32::<30>(client);
        head.set_word16::<24>(Sum::none().add_words(&words).add(client).checksum());
        let ports = head.word32::<34>().rotate_left(16);
        head.set_word32::<34>(ports);
        head.set_word32::<38>(numbers.sequence);
        head.set_word32::<42>(numbers.acknowledgement);
        head.set_word32::<46>(numbers.rest());
        let sum = numbers.sum().add(client).add(vip).add(ports);
        head.set_word16::<50>(sum.checksum());
        head.set_word16::<52>(0);
        if let Some(padded) = packet.head::<{ Self::LENGTH as usize }>() {
            padded.set_word32::<54>(0);
            padded.set_word16::<58>(0);
        }
        Some(())
    }
}

impl Reset for V6 {
    const LENGTH: i32 = 74;

    #[inline(always)]
    fn reset(packet: Packet<'_>) -> Option<()> {
        let head = packet.head::<74>()?;
        let addresses = frame_ethernet(packet)?;
        let (client, vip) = (head.words::<22>(), head.words::<38>());
        if is_group(&addresses) || !Self::is_unicast(&client) {
            return None;
        }
        let control = (head.u8::<66>(), head.u8::<67>());
        let bytes = u32::from(head.be16::<18>());
        let numbers = Numbers::answering(head.word32::<58>(), head.word32::<62>(), control, bytes)?;
        ethernet(packet, &swap_ethernet(&addresses))?;
        head.set_word32::<14>(u32::from_ne_bytes([0x60, 0, 0, 0]));
        head.set_word32::<18>(u32::from_ne_bytes([0, TCP_HEADER as u8, TCP, HOPS]));
        head.set_words::<22>(vip);
        head.set_words::<38>(client);
        let ports = head.word32::<54>().rotate_left(16);
        head.set_word32::<54>(ports);
        head.set_word32::<58>(numbers.sequence);
        head.set_word32::<62>(numbers.acknowledgement);
        head.set_word32::<66>(numbers.rest());
        let sum = numbers.sum().add_words(&client).add_words(&vip).add(ports);
        head.set_word16::<70>(sum.checksum());
        head.set_word16::<72>(0);
        Some(())
    }
}

#[cfg(test)]
mod tests;
