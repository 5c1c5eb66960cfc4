//! Writes the headers of a packet that is sent on. Lengths never change in these modes.

use crate::abi::Address;
use crate::checksum::Difference;
use crate::ip::{Flow, Ip, V4, V6};
use crate::packet::Packet;

/// Replaces both MAC addresses. `None`, which cannot be after decoding, if there are none.
#[inline(always)]
#[must_use]
pub fn ethernet(packet: Packet<'_>, addresses: &[u32; 3]) -> Option<()> {
    let head = packet.head::<14>()?;
    head.set_word32::<0>(addresses[0]);
    head.set_word32::<4>(addresses[1]);
    head.set_word32::<8>(addresses[2]);
    Some(())
}

/// The MAC addresses of a frame as they lie in it: destination, then source.
#[inline(always)]
#[must_use]
pub fn frame_ethernet(packet: Packet<'_>) -> Option<[u32; 3]> {
    let head = packet.head::<14>()?;
    Some([head.word32::<0>(), head.word32::<4>(), head.word32::<8>()])
}

/// The same with source and destination exchanged.
#[inline(always)]
#[must_use]
pub const fn swap_ethernet(addresses: &[u32; 3]) -> [u32; 3] {
    // In memory: d0 d1 d2 d3 | d4 d5 s0 s1 | s2 s3 s4 s5 → s0 s1 s2 s3 | s4 s5 d0 d1 | d2 d3 d4 d5
    let [a, b, c] = [addresses[0].to_le(), addresses[1].to_le(), addresses[2].to_le()];
    [
        u32::from_le(b >> 16 | c << 16),
        u32::from_le(c >> 16 | a << 16),
        u32::from_le(a >> 16 | b << 16),
    ]
}

/// What full NAT makes of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Translation<'t> {
    /// New source address.
    pub source: &'t Address,
    /// New destination address.
    pub destination: &'t Address,
    /// New ports, as in a packet.
    pub ports: u32,
}

/// How a family's headers are translated.
pub trait Translate: Ip {
    /// TTL or hop limit; `None` as for [`ethernet`].
    fn hops(packet: Packet<'_>) -> Option<u8>;
    /// Replaces addresses and ports, takes one hop, and mends the checksums.
    fn translate(packet: Packet<'_>, flow: &Flow, to: &Translation<'_>) -> Option<()>;
}

impl Translate for V4 {
    #[inline(always)]
    fn hops(packet: Packet<'_>) -> Option<u8> {
        Some(packet.head::<34>()?.u8::<22>())
    }

    #[inline(always)]
    fn translate(packet: Packet<'_>, flow: &Flow, to: &Translation<'_>) -> Option<()> {
        let head = packet.head::<42>()?;
        let addresses = Difference::none()
            .replace(flow.key.source[0], to.source[0])
            .replace(flow.key.destination[0], to.destination[0]);
        let hops = u32::from(head.word16::<22>());
        let fewer = hops.wrapping_sub(u32::from(u16::from_ne_bytes([1, 0]))) & 0xffff;
        head.set_word16::<22>(fewer as u16);
        head.set_word16::<24>(addresses.replace(hops, fewer).apply(head.word16::<24>()));
        head.set_word32::<26>(to.source[0]);
        head.set_word32::<30>(to.destination[0]);
        head.set_word32::<34>(to.ports);
        let difference = addresses.replace(flow.key.ports, to.ports);
        if flow.is_tcp() {
            let tcp = packet.head::<54>()?;
            tcp.set_word16::<50>(difference.apply(tcp.word16::<50>()));
        } else {
            head.set_word16::<40>(udp_checksum(difference, head.word16::<40>()));
        }
        Some(())
    }
}

impl Translate for V6 {
    #[inline(always)]
    fn hops(packet: Packet<'_>) -> Option<u8> {
        Some(packet.head::<54>()?.u8::<21>())
    }

    #[inline(always)]
    fn translate(packet: Packet<'_>, flow: &Flow, to: &Translation<'_>) -> Option<()> {
        let head = packet.head::<62>()?;
        head.set_u8::<21>(head.u8::<21>().wrapping_sub(1));
        head.set_words::<22>(*to.source);
        head.set_words::<38>(*to.destination);
        head.set_word32::<54>(to.ports);
        let difference = Difference::none()
            .replace_words(&flow.key.source, to.source)
            .replace_words(&flow.key.destination, to.destination)
            .replace(flow.key.ports, to.ports);
        if flow.is_tcp() {
            let tcp = packet.head::<74>()?;
            tcp.set_word16::<70>(difference.apply(tcp.word16::<70>()));
        } else {
            head.set_word16::<60>(udp_checksum(difference, head.word16::<60>()));
        }
        Some(())
    }
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
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_change_places() {
        let mut frame: Vec<u8> = (1..=14).collect();
        let packet = Packet::from_slice(&mut frame);
        let swapped = swap_ethernet(&frame_ethernet(packet).unwrap());
        ethernet(packet, &swapped).unwrap();
        assert_eq!(frame, [7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 13, 14]);
    }
}
