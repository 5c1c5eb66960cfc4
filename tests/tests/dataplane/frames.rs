//! Builds frames with an independent library, and edits their bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep, TcpHeader};

use crate::world::{OUR_MAC, TCP};

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// Odd, so that checksums end in half a word.
pub(crate) const PAYLOAD: &[u8] = b"GET /fixture";

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x11;
pub(crate) const RST: u8 = 0x04;

/// A client of the destination's family, told apart by its port.
pub(crate) fn client(to: SocketAddr, port: u16) -> SocketAddr {
    let ip = match to.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7)),
    };
    SocketAddr::new(ip, port)
}

/// The outside of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside {
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) hops: u8,
}

pub(crate) const FROM_CLIENT: Outside =
    Outside { source_mac: CLIENT_MAC, destination_mac: OUR_MAC, hops: 64 };

/// A frame of TCP (with these flags) or UDP.
pub(crate) fn frame(
    outside: &Outside,
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(outside.source_mac, outside.destination_mac);
    let ip = on_ip(ethernet, from.ip(), to.ip(), outside.hops);
    let mut bytes = Vec::new();
    if protocol == TCP {
        let mut tcp = TcpHeader::new(from.port(), to.port(), 0x0102_0304, 0xfefd);
        tcp.acknowledgment_number = if flags & ACK == 0 { 0 } else { 0x0a0b_0c0d };
        tcp.syn = flags & SYN != 0;
        tcp.ack = flags & ACK != 0;
        tcp.fin = flags & 1 != 0;
        tcp.rst = flags & RST != 0;
        if tcp.syn {
            tcp.set_options_raw(&[2, 4, 5, 0xb4]).unwrap();
        }
        ip.tcp_header(tcp).write(&mut bytes, payload).unwrap();
    } else {
        ip.udp(from.port(), to.port()).write(&mut bytes, payload).unwrap();
    }
    bytes
}

/// An Ethernet frame goes on as IP of the addresses' family.
pub(crate) fn on_ip(
    ethernet: PacketBuilderStep<Ethernet2Header>,
    from: IpAddr,
    to: IpAddr,
    hops: u8,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), hops),
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// A client's packet.
pub(crate) fn tcp(to: SocketAddr, port: u16, flags: u8) -> Vec<u8> {
    frame(&FROM_CLIENT, client(to, port), to, TCP, flags, PAYLOAD)
}

/// A client's datagram.
pub(crate) fn udp(to: SocketAddr, port: u16) -> Vec<u8> {
    frame(&FROM_CLIENT, client(to, port), to, crate::world::UDP, 0, PAYLOAD)
}

/// The frame with some bytes replaced.
pub(crate) fn edit(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The frame with bytes put in.
pub(crate) fn insert(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame.splice(at..at, bytes.iter().copied());
    frame
}

/// Adds to a big-endian 16-bit field: an IP header's length.
pub(crate) fn lengthen(mut frame: Vec<u8>, at: usize, by: i32) -> Vec<u8> {
    let old = i32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    frame[at..at + 2].copy_from_slice(&((old + by) as u16).to_be_bytes());
    frame
}
