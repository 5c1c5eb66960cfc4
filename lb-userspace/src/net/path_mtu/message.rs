//! An ICMP "too big" or "unreachable" message about a tunnel's packet, read from its bytes.
//!
//! Packet sockets get packets before the kernel has looked at them, so lengths and checksums are
//! checked here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Said, TooBig};

/// Any IPv4 host takes this much (RFC 1191, section 3: less is not to be believed).
pub(super) const MIN_IPV4: u32 = 576;
/// Any IPv6 link takes this much (RFC 8200, section 5).
pub(super) const MIN_IPV6: u32 = 1280;

pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
/// Type "destination unreachable", of which a code is "fragmentation needed".
pub(super) const ICMP_UNREACHABLE: u8 = 3;
const ICMP_TOO_BIG: u8 = 4;
pub(super) const ICMPV6_UNREACHABLE: u8 = 1;
pub(super) const ICMPV6_TOO_BIG: u8 = 2;
/// Bytes of the message before the quoted packet.
pub(super) const ICMP_HEADER: usize = 8;
/// Protocols of tunnels: IPv4 or IPv6 in IP, and UDP, which GUE is in.
pub(super) const TUNNELS: [u8; 3] = [4, 41, UDP];
const UDP: u8 = 17;

/// The flag "more fragments" and the offset.
pub(super) const ANY_FRAGMENT: u16 = 0x3fff;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What an IP packet, from its first byte on, says of the path to a server. `None` if it is no
/// such message, is damaged, or is not about a packet of a tunnel. UDP is one to `gue_port`.
///
/// Old routers do not say how much they would take, but zero; that is the minimum, too.
pub(super) fn read(packet: &[u8], gue_port: u16) -> Option<Said> {
    match packet.first()? >> 4 {
        4 => read_v4(packet, gue_port),
        6 => read_v6(packet, gue_port),
        _ => None,
    }
}

fn read_v4(packet: &[u8], gue_port: u16) -> Option<Said> {
    // Short frames are padded beyond this length.
    let packet = packet.get(..usize::from(u16_at(packet, 2)?))?;
    let fixed = packet.first_chunk::<20>()?;
    let (header, message) = packet.split_at_checked(header_length(fixed[0]))?;
    let whole = u16_at(header, 6)? & ANY_FRAGMENT == 0;
    if fixed[9] != ICMP || !whole || sum(0, header) != u16::MAX || sum(0, message) != u16::MAX {
        return None;
    }
    let (icmp, quoted) = message.split_first_chunk::<ICMP_HEADER>()?;
    if icmp[0] != ICMP_UNREACHABLE {
        return None;
    }
    let mtu = u16::from_be_bytes([icmp[6], icmp[7]]);

    let outer = quoted.first_chunk::<20>()?;
    let first = u16_at(outer, 6)? & FRAGMENT_OFFSET == 0;
    let payload = quoted.get(header_length(outer[0])..)?;
    if outer[0] >> 4 != 4 || !first || !is_tunnel(outer[9], payload, gue_port) {
        return None;
    }
    let server = IpAddr::V4(Ipv4Addr::from(*outer.last_chunk::<4>()?));
    Some(match icmp[1] {
        ICMP_TOO_BIG => Said::TooBig(TooBig { server, mtu: u32::from(mtu).max(MIN_IPV4) }),
        _ => Said::Unreachable(server),
    })
}

fn read_v6(packet: &[u8], gue_port: u16) -> Option<Said> {
    let (header, payload) = packet.split_first_chunk::<40>()?;
    let length = u16::from_be_bytes([header[4], header[5]]);
    let message = payload.get(..usize::from(length))?;
    let addresses = header.get(8..)?;
    let pseudo = sum(u32::from(length) + u32::from(ICMPV6), addresses);
    if header[6] != ICMPV6 || sum(u32::from(pseudo), message) != u16::MAX {
        return None;
    }
    let (icmp, quoted) = message.split_first_chunk::<ICMP_HEADER>()?;
    if icmp[0] != ICMPV6_TOO_BIG && icmp[0] != ICMPV6_UNREACHABLE {
        return None;
    }
    let mtu = u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]);

    let (outer, payload) = quoted.split_first_chunk::<40>()?;
    if outer[0] >> 4 != 6 || !is_tunnel(outer[6], payload, gue_port) {
        return None;
    }
    let server = IpAddr::V6(Ipv6Addr::from(*outer.last_chunk::<16>()?));
    Some(match icmp[0] {
        ICMPV6_TOO_BIG => Said::TooBig(TooBig { server, mtu: mtu.max(MIN_IPV6) }),
        _ => Said::Unreachable(server),
    })
}

fn is_tunnel(protocol: u8, payload: &[u8], gue_port: u16) -> bool {
    TUNNELS.contains(&protocol) && (protocol != UDP || u16_at(payload, 2) == Some(gue_port))
}

/// Of an IPv4 header by its first byte; never less than the fixed part.
fn header_length(first: u8) -> usize {
    (usize::from(first & 15) * 4).max(20)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The Internet checksum's sum, beginning with `start`; all ones over bytes that hold theirs.
fn sum(start: u32, bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let words = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let last = rest.iter().map(|byte| u32::from(*byte) << 8);
    // Of packets of up to 64 KiB this cannot overflow.
    let mut sum = start + words.chain(last).sum::<u32>();
    while sum > u32::from(u16::MAX) {
        sum = (sum & u32::from(u16::MAX)) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
