//! Lowers the segment size that a SYN announces, so that no answer to it is too long for the way
//! back (RFC 9293, section 3.7.1).
//!
//! May assume a TCP segment with a whole header ([`Ip::decode`]). The options are the sender's: no
//! length among them is trusted, and what is malformed ends the walk with the packet as it was.

use crate::checksum::Difference;
use crate::ip::{Ip, V4, V6};
use crate::packet::{Head, Packet};

/// Lowers the maximum segment size option of a SYN to `limit`, if it has one that is greater;
/// whether it did. A SYN without the option means 536 bytes (IPv6: 1220) and is left as it is.
#[inline(never)]
pub fn clamp<I: Segment>(packet: Packet<'_>, limit: u16) -> bool {
    let Some(length) = I::syn_options(packet) else { return false };
    lower::<I>(packet, length, limit).is_some()
}

#[inline(always)]
fn lower<I: Segment>(packet: Packet<'_>, length: u32, limit: u16) -> Option<()> {
    let mut at = 0;
    for _ in 0..MOST_STEPS {
        // Fewer bytes than the option has cannot hold it.
        if at + MSS_LENGTH > length {
            return None;
        }
        let option = I::option(packet, at)?;
        match option.u8::<0>() {
            END => return None,
            NO_OPERATION => at += 1,
            MSS => {
                let announced = option.word16::<2>();
                if u32::from(option.u8::<1>()) != MSS_LENGTH || u16::from_be(announced) <= limit {
                    return None;
                }
                // At an odd offset the number's bytes belong to two words of the sum: it counts
                // there as if it were 256 times as large.
                let shift = 8 * (at & 1);
                let (old, new) = (u32::from(announced), u32::from(limit.to_be()));
                let difference = Difference::none().replace(old << shift, new << shift);
                I::mend(packet, difference)?;
                option.set_word16::<2>(limit.to_be());
                return Some(());
            }
            _ => match option.u8::<1>() {
                0 | 1 => return None,
                length => at += u32::from(length),
            },
        }
    }
    None
}

/// RFC 9293, section 3.2.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: u32 = 4;

/// Places where the option can begin: TCP has at most 40 bytes of options.
const MOST_STEPS: u32 = 40 - MSS_LENGTH + 1;

const SYN: u8 = 0x02;

/// Where a family's segments lie.
pub trait Segment: Ip {
    /// Bytes of options, of a SYN that has its whole header.
    fn syn_options(packet: Packet<'_>) -> Option<u32>;
    /// Four bytes of the options, from this byte on.
    fn option(packet: Packet<'_>, at: u32) -> Option<Head<'_, 4>>;
    /// Changes the checksum.
    fn mend(packet: Packet<'_>, difference: Difference) -> Option<()>;
}

impl Segment for V4 {
    #[inline(always)]
    fn syn_options(packet: Packet<'_>) -> Option<u32> {
        let head = packet.head::<54>()?;
        let length = u32::from(head.be16::<16>()).checked_sub(20)?;
        options(head.u8::<47>(), head.u8::<46>(), length)
    }

    #[inline(always)]
    fn option(packet: Packet<'_>, at: u32) -> Option<Head<'_, 4>> {
        packet.part::<54, 63, 4>(at)
    }

    #[inline(always)]
    fn mend(packet: Packet<'_>, difference: Difference) -> Option<()> {
        let head = packet.head::<54>()?;
        head.set_word16::<50>(difference.apply(head.word16::<50>()));
        Some(())
    }
}

impl Segment for V6 {
    #[inline(always)]
    fn syn_options(packet: Packet<'_>) -> Option<u32> {
        let head = packet.head::<74>()?;
        options(head.u8::<67>(), head.u8::<66>(), u32::from(head.be16::<18>()))
    }

    #[inline(always)]
    fn option(packet: Packet<'_>, at: u32) -> Option<Head<'_, 4>> {
        packet.part::<74, 63, 4>(at)
    }

    #[inline(always)]
    fn mend(packet: Packet<'_>, difference: Difference) -> Option<()> {
        let head = packet.head::<74>()?;
        head.set_word16::<70>(difference.apply(head.word16::<70>()));
        Some(())
    }
}

/// Bytes of options by flags, data offset and the segment's length.
#[inline(always)]
const fn options(flags: u8, offset: u8, segment: u32) -> Option<u32> {
    let header = (offset >> 4) as u32 * 4;
    if flags & SYN == 0 || header < 20 || header > segment {
        return None;
    }
    Some(header - 20)
}

#[cfg(test)]
mod tests;
