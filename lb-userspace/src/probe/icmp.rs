//! An echo request (RFC 792, RFC 4443 section 4), through a raw socket: needs `CAP_NET_RAW`.

use socket2::{Protocol, Type};

use super::connect::datagrams;
use super::datagram::exchange;
use super::{Failure, Limit, Target, random};

/// Type, code, checksum, identifier, sequence number, and as many bytes of our own.
const LENGTH: usize = 16;

pub(super) async fn icmp(target: &Target, limit: Limit) -> Result<(), Failure> {
    let ipv6 = target.address.is_ipv6();
    let protocol = if ipv6 { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
    let at = target.address.ip();
    // A port would be a protocol number to a raw socket.
    let mut target = target.clone();
    target.address.set_port(0);
    let socket = datagrams(&target, None, Type::RAW, protocol)?;
    let cookie = random().to_be_bytes();
    let request = request(ipv6, cookie);
    let silence = || format!("no echo reply from {at}");
    exchange(&socket, &target, limit, &request, silence, |packet| {
        is_reply(ipv6, packet, &request).then_some(Ok(()))
    })
    .await
}

/// The first half of `cookie` is identifier and sequence number, so that no two probes share them.
fn request(ipv6: bool, cookie: [u8; 8]) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = if ipv6 { 128 } else { 8 };
    message[4..8].copy_from_slice(&cookie[..4]);
    message[8..16].copy_from_slice(&cookie);
    if !ipv6 {
        // The kernel does it for ICMPv6 (RFC 3542 section 3.1).
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// Raw IPv4 sockets get the IP header too, IPv6 ones don't.
fn is_reply(ipv6: bool, packet: &[u8], request: &[u8; LENGTH]) -> bool {
    let (kind, header) = match ipv6 {
        true => (129, 0),
        false => (0, packet.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4)),
    };
    let Some([answer, 0, _, _, rest @ ..]) = packet.get(header..) else { return false };
    *answer == kind && rest == &request[4..]
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Slice, Icmpv4Type};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_are_as_others_read_them(cookie: [u8; 8]) {
            let request = request(false, cookie);
            let slice = Icmpv4Slice::from_slice(&request).unwrap();
            prop_assert!(matches!(slice.icmp_type(), Icmpv4Type::EchoRequest(_)));
            let right = slice.icmp_type().calc_checksum(slice.payload());
            prop_assert_eq!(slice.header().checksum, right);
        }

        #[test]
        fn no_packet_panics(
            ipv6: bool,
            packet in prop::collection::vec(any::<u8>(), 0..80),
            cookie: [u8; 8],
        ) {
            is_reply(ipv6, &packet, &request(ipv6, cookie));
        }
    }
}
