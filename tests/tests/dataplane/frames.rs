//! Builds frames with an independent library, and edits their bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Ethernet2Header, Ipv4Header, PacketBuilder, PacketBuilderStep, TcpHeader};

use crate::world::{OUR_MAC, TCP, UDP};

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// Of an odd length as half words go, so that checksums end in one.
pub(crate) const PAYLOAD: &[u8] = b"GET /fixture!";

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
    if protocol == UDP {
        let mut bytes = Vec::new();
        let ip = outside_of(outside, from.ip(), to.ip());
        ip.udp(from.port(), to.port()).write(&mut bytes, payload).unwrap();
        return bytes;
    }
    let mss = mss_option(1460);
    let options: &[u8] = if flags & SYN != 0 { &mss } else { &[] };
    tcp_with_options(outside, (from, to), flags, options, payload)
}

/// The TCP option of a segment size.
pub(crate) fn mss_option(mss: u16) -> [u8; 4] {
    let [high, low] = mss.to_be_bytes();
    [2, 4, high, low]
}

pub(crate) fn tcp_with_options(
    outside: &Outside,
    (from, to): (SocketAddr, SocketAddr),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = TcpHeader::new(from.port(), to.port(), 0x0102_0304, 0xfefd);
    tcp.acknowledgment_number = if flags & ACK == 0 { 0 } else { 0x0a0b_0c0d };
    tcp.syn = flags & SYN != 0;
    tcp.ack = flags & ACK != 0;
    tcp.fin = flags & 1 != 0;
    tcp.rst = flags & RST != 0;
    tcp.set_options_raw(options).unwrap();
    let mut bytes = Vec::new();
    outside_of(outside, from.ip(), to.ip()).tcp_header(tcp).write(&mut bytes, payload).unwrap();
    bytes
}

fn outside_of(
    outside: &Outside,
    from: IpAddr,
    to: IpAddr,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(outside.source_mac, outside.destination_mac);
    on_ip(ethernet, from, to, outside.hops)
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
    frame(&FROM_CLIENT, client(to, port), to, UDP, 0, PAYLOAD)
}

/// A client's packet that may open a flow.
pub(crate) fn opening(to: SocketAddr, port: u16, protocol: u8) -> Vec<u8> {
    if protocol == TCP { tcp(to, port, SYN) } else { udp(to, port) }
}

/// The name of a protocol.
pub(crate) const fn name_of(protocol: u8) -> &'static str {
    if protocol == TCP { "tcp" } else { "udp" }
}

/// An ICMP message: type, code, the second word, what follows.
pub(crate) fn icmp(
    outside: &Outside,
    from: IpAddr,
    to: IpAddr,
    (kind, code): (u8, u8),
    word: u32,
    rest: &[u8],
) -> Vec<u8> {
    let ip = outside_of(outside, from, to);
    let (word, mut bytes) = (word.to_be_bytes(), Vec::new());
    if to.is_ipv4() {
        ip.icmpv4_raw(kind, code, word).write(&mut bytes, rest).unwrap();
    } else {
        ip.icmpv6_raw(kind, code, word).write(&mut bytes, rest).unwrap();
    }
    bytes
}

pub(crate) fn ping(from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
    icmp(&FROM_CLIENT, from, to, (if to.is_ipv4() { 8 } else { 128 }, 0), 0x0001_0002, data)
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

/// The frame with a VLAN tag.
pub(crate) fn tagged(frame: Vec<u8>, ether_type: u16, tci: u16) -> Vec<u8> {
    insert(frame, 12, &[ether_type.to_be_bytes(), tci.to_be_bytes()].concat())
}

/// Of another family than IPv4, an untagged frame's packet is IPv6.
pub(crate) fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}

/// Where the transport header begins.
pub(crate) fn transport(frame: &[u8]) -> usize {
    if is_v4(frame) { 34 } else { 54 }
}

/// An IPv4 frame whose header was edited, with its checksum; another as it is.
pub(crate) fn mended(frame: Vec<u8>) -> Vec<u8> {
    if !is_v4(&frame) {
        return frame;
    }
    let checksum = Ipv4Header::from_slice(&frame[14..]).unwrap().0.calc_header_checksum();
    edit(frame, 24, &checksum.to_be_bytes())
}

/// DSCP and ECN.
pub(crate) fn with_class(frame: Vec<u8>, class: u8) -> Vec<u8> {
    if is_v4(&frame) {
        return mended(edit(frame, 15, &[class]));
    }
    let low = frame[15] & 15;
    edit(frame, 14, &[0x60 | class >> 4, class << 4 | low])
}

pub(crate) fn with_hops(frame: Vec<u8>, hops: u8) -> Vec<u8> {
    let at = if is_v4(&frame) { 22 } else { 21 };
    mended(edit(frame, at, &[hops]))
}

/// IPv4's flags, and an identification.
pub(crate) fn with_fragment_word(frame: Vec<u8>, identification: u16, word: u16) -> Vec<u8> {
    let bytes = [identification.to_be_bytes(), word.to_be_bytes()].concat();
    mended(edit(frame, 18, &bytes))
}

/// A packet cut into three fragments: after 24 bytes of payload, and after 24 more.
pub(crate) fn fragments(whole: &[u8], identification: u16) -> [Vec<u8>; 3] {
    let at = transport(whole);
    let payload = &whole[at..];
    [(0, 24), (24, 48), (48, payload.len())].map(|(from, to)| {
        let more = u16::from(to < payload.len());
        let part = &payload[from..to];
        if is_v4(whole) {
            let frame = [&whole[..at], part].concat();
            let frame = edit(frame, 16, &(20 + part.len() as u16).to_be_bytes());
            return with_fragment_word(frame, identification, (from / 8) as u16 | more << 13);
        }
        let [high, low] = (from as u16 | more).to_be_bytes();
        let [a, b] = identification.to_be_bytes();
        let header = [whole[20], 0, high, low, 0, 0, a, b];
        let frame = [&whole[..at], &header, part].concat();
        let frame = edit(frame, 18, &(8 + part.len() as u16).to_be_bytes());
        edit(frame, 20, &[44])
    })
}

/// A packet of 84 bytes of payload in three fragments.
pub(crate) fn pieces(to: SocketAddr, protocol: u8, port: u16) -> [Vec<u8>; 3] {
    fragments(&frame(&FROM_CLIENT, client(to, port), to, protocol, ACK, &[0x66; 84]), 0x0707)
}

/// What an ICMP error quotes of a frame's packet: this many bytes behind its IP header.
pub(crate) fn quote(frame: &[u8], behind: usize) -> Vec<u8> {
    frame[14..transport(frame) + behind].to_vec()
}
