//! QUIC by connection id: a datagram goes to the server that chose the id it carries, wherever
//! its client is now.
//!
//! The ids are those of draft-ietf-quic-load-balancers-21 without a key: an octet whose first
//! three bits name a configuration, then the server id as it is, then what the server likes.
//! docs/quic.md is for those who run such servers.
//!
//! Only a packet that can but carry an id of its server's making is routed by it: one with a short
//! header, or a Handshake packet. The first id of a connection is its client's invention, and one
//! in eight names our configuration by chance.
//!
//! May assume a whole UDP datagram ([`Ip::decode`]); reads its first 16 bytes, writes nothing.

use crate::ip::{Ip, V4, V6};
use crate::packet::Packet;

/// What a datagram is routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quic {
    /// It may be the first of its connection: its addresses and ports.
    New,
    /// The server of this id: its bytes as they lie in the packet, then zeroes, as
    /// [`ServerIdKey::id`](crate::abi::ServerIdKey::id) has them.
    Server(u64),
    /// Not the first, and names no server: its addresses and ports.
    Hash,
}

/// Longest server id, in bytes.
pub const MAX_SERVER_ID: u32 = 8;
/// The configuration that a server without one names: not routable (configuration failover).
pub const UNROUTABLE: u32 = 7;

/// [`ServiceRecord::quic`](crate::abi::ServiceRecord::quic) of a configuration id and the length
/// of its server ids in bytes.
#[must_use]
pub const fn config(id: u32, length: u32) -> u32 {
    id & 7 | (length & 0xff) << 8
}

/// Tells where a datagram goes, by its service's [`config`].
#[inline(always)]
#[must_use]
pub fn route<I: Datagram>(packet: Packet<'_>, config: u32) -> Quic {
    let Some([low, high]) = I::payload(packet) else { return Quic::Hash };
    let first = low as u8;
    let (octet, id) = if first & LONG == 0 {
        // RFC 9000, section 17.3: the id begins at byte 1, and only its server knows its length.
        (low >> 8, low >> 16 | high << 48)
    } else {
        // Section 17.2: byte 5 is the length of the id, which begins at byte 6.
        let version = ((low >> 8) as u32).swap_bytes();
        let opening = match version {
            VERSION_1 => first >> 4 & 3,
            // RFC 9369, section 3.2: all types moved on by one.
            VERSION_2 => (first >> 4).wrapping_sub(1) & 3,
            // Nothing is known of it but where its ids are (RFC 8999), not who chose them.
            _ => return Quic::New,
        };
        match opening {
            INITIAL | ZERO_RTT => return Quic::New,
            HANDSHAKE => {}
            // A Retry is never sent to a server.
            _ => return Quic::Hash,
        }
        if (low >> 40) as u8 as u32 <= length(config) {
            return Quic::Hash;
        }
        (low >> 48, low >> 56 | high << 8)
    };
    let wanted = config & 7;
    if octet as u32 >> 5 & 7 != wanted || wanted == UNROUTABLE {
        return Quic::Hash;
    }
    match length(config) {
        length @ 1..=MAX_SERVER_ID => Quic::Server((id & u64::MAX >> (64 - 8 * length)).to_le()),
        _ => Quic::Hash,
    }
}

/// Bytes of a server id.
const fn length(config: u32) -> u32 {
    config >> 8 & 0xff
}

/// The header form: long.
const LONG: u8 = 0x80;
/// RFC 9000.
const VERSION_1: u32 = 1;
/// RFC 9369.
const VERSION_2: u32 = 0x6b33_43cf;
/// Types of long headers of version 1.
const INITIAL: u8 = 0;
const ZERO_RTT: u8 = 1;
const HANDSHAKE: u8 = 2;

/// Where a family's datagrams lie.
pub trait Datagram: Ip {
    /// The first 16 bytes of the payload, as two little-endian numbers. A datagram with fewer
    /// holds no packet of QUIC, the shortest of which has 21 (RFC 9001, section 5.4.2).
    fn payload(packet: Packet<'_>) -> Option<[u64; 2]>;
}

/// Least value of the UDP length field: header and 16 bytes.
const LEAST: u16 = 24;

impl Datagram for V4 {
    #[inline(always)]
    fn payload(packet: Packet<'_>) -> Option<[u64; 2]> {
        let head = packet.head::<58>()?;
        // Not the padding of a short frame.
        (head.be16::<38>() >= LEAST).then(|| join(head.words::<42>()))
    }
}

impl Datagram for V6 {
    #[inline(always)]
    fn payload(packet: Packet<'_>) -> Option<[u64; 2]> {
        let head = packet.head::<78>()?;
        (head.be16::<58>() >= LEAST).then(|| join(head.words::<62>()))
    }
}

#[inline(always)]
const fn join(words: [u32; 4]) -> [u64; 2] {
    let [a, b, c, d] = words;
    [
        u32::from_le(a) as u64 | (u32::from_le(b) as u64) << 32,
        u32::from_le(c) as u64 | (u32::from_le(d) as u64) << 32,
    ]
}

#[cfg(test)]
mod tests;
