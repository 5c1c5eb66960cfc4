//! The second opinion: reads frames with a library that shares no code with the program, and
//! recomputes every checksum from all the bytes it covers.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, LinkHeader, NetHeaders, PacketHeaders, TransportHeader,
    UdpHeader,
};

/// A frame of TCP or UDP, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source_mac: [u8; 6],
    net: NetHeaders,
    pub(crate) transport: TransportHeader,
    pub(crate) payload: Vec<u8>,
}

/// Which checksums are right; one that is not there counts as right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksums {
    pub(crate) header: bool,
    pub(crate) transport: bool,
    /// UDP's field says "none".
    pub(crate) absent: bool,
}

impl Decoded {
    pub(crate) fn of(frame: &[u8]) -> Self {
        Self::try_of(frame).unwrap_or_else(|| panic!("neither TCP nor UDP: {frame:02x?}"))
    }

    /// `None` of anything that is not TCP or UDP, whole and without a tag.
    pub(crate) fn try_of(frame: &[u8]) -> Option<Self> {
        let packet = PacketHeaders::from_ethernet_slice(frame).ok()?;
        let Some(LinkHeader::Ethernet2(ethernet)) = packet.link else { return None };
        let transport = packet.transport?;
        if !matches!(transport, TransportHeader::Tcp(_) | TransportHeader::Udp(_)) {
            return None;
        }
        Some(Self {
            destination_mac: ethernet.destination,
            source_mac: ethernet.source,
            net: packet.net?,
            transport,
            payload: packet.payload.slice().to_vec(),
        })
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        match &self.net {
            NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
            NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
            NetHeaders::Arp(_) => panic!("ARP has no flow"),
        }
    }

    fn ports(&self) -> (u16, u16) {
        match &self.transport {
            TransportHeader::Tcp(tcp) => (tcp.source_port, tcp.destination_port),
            TransportHeader::Udp(udp) => (udp.source_port, udp.destination_port),
            other => panic!("{other:?} has no ports"),
        }
    }

    pub(crate) fn source(&self) -> SocketAddr {
        SocketAddr::new(self.addresses().0, self.ports().0)
    }

    pub(crate) fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.addresses().1, self.ports().1)
    }

    pub(crate) fn protocol(&self) -> u8 {
        if matches!(self.transport, TransportHeader::Tcp(_)) { 6 } else { 17 }
    }

    pub(crate) fn flags(&self) -> u8 {
        match &self.transport {
            TransportHeader::Tcp(tcp) => {
                u8::from(tcp.fin)
                    | u8::from(tcp.syn) << 1
                    | u8::from(tcp.rst) << 2
                    | u8::from(tcp.ack) << 4
            }
            _ => 0,
        }
    }

    pub(crate) fn hops(&self) -> u8 {
        match &self.net {
            NetHeaders::Ipv4(ip, _) => ip.time_to_live,
            NetHeaders::Ipv6(ip, _) => ip.hop_limit,
            NetHeaders::Arp(_) => panic!("ARP has no hops"),
        }
    }

    pub(crate) fn checksums(&self) -> Checksums {
        let header = match &self.net {
            NetHeaders::Ipv4(ip, _) => ip.calc_header_checksum() == ip.header_checksum,
            _ => true,
        };
        let absent = matches!(&self.transport, TransportHeader::Udp(udp) if udp.checksum == 0);
        let right = match (&self.net, &self.transport) {
            (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
                tcp.calc_checksum_ipv4(ip, &self.payload).unwrap() == tcp.checksum
            }
            (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
                udp.calc_checksum_ipv4(ip, &self.payload).unwrap() == udp.checksum
            }
            (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
                tcp.calc_checksum_ipv6(ip, &self.payload).unwrap() == tcp.checksum
            }
            (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
                udp.calc_checksum_ipv6(ip, &self.payload).unwrap() == udp.checksum
            }
            _ => panic!("neither TCP nor UDP"),
        };
        Checksums { header, transport: right || absent, absent }
    }

    /// The packet with all that full NAT changes set to zero: the rest must stay.
    pub(crate) fn unchanged_by_nat(&self) -> Self {
        let mut rest = self.clone();
        (rest.destination_mac, rest.source_mac) = ([0; 6], [0; 6]);
        match &mut rest.net {
            NetHeaders::Ipv4(ip, _) => {
                (ip.source, ip.destination) = ([0; 4], [0; 4]);
                (ip.time_to_live, ip.header_checksum) = (0, 0);
            }
            NetHeaders::Ipv6(ip, _) => {
                (ip.source, ip.destination) = ([0; 16], [0; 16]);
                ip.hop_limit = 0;
            }
            NetHeaders::Arp(_) => {}
        }
        match &mut rest.transport {
            TransportHeader::Tcp(tcp) => {
                (tcp.source_port, tcp.destination_port, tcp.checksum) = (0, 0, 0);
            }
            TransportHeader::Udp(udp) => {
                (udp.source_port, udp.destination_port, udp.checksum) = (0, 0, 0);
            }
            _ => {}
        }
        rest
    }
}

/// A frame's one tag, as it lies in it; none of a frame without, or with two.
pub(crate) fn tag(frame: &[u8]) -> Option<[u8; 4]> {
    const TAGS: [[u8; 2]; 2] = [[0x81, 0], [0x88, 0xa8]];
    let is_tag = |at: usize| frame.get(at..at + 2).is_some_and(|t| TAGS.iter().any(|k| k == t));
    let whole = frame.get(12..16).and_then(|tag| tag.try_into().ok());
    if is_tag(12) && !is_tag(16) && frame.len() >= 18 { whole } else { None }
}

/// The frame without its one tag.
pub(crate) fn untagged(frame: &[u8]) -> Vec<u8> {
    match tag(frame) {
        Some(_) => [&frame[..12], &frame[16..]].concat(),
        None => frame.to_vec(),
    }
}

/// A tunnel's outer headers, and what they hold.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) is_v4: bool,
    pub(crate) traffic_class: u8,
    pub(crate) hops: u8,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u16,
    /// Of UDP, if the tunnel is of it.
    pub(crate) udp: Option<Udp>,
    /// What the outer headers say is inside: 4 or 41, 0 in UDP.
    pub(crate) protocol: u8,
    pub(crate) inner: Vec<u8>,
    /// Behind the outer packet.
    pub(crate) trailer: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Udp {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// None if there is none.
    pub(crate) right_checksum: Option<bool>,
}

impl Tunnel {
    /// Of an untagged frame. Asserts that lengths agree, and the header's checksum.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let (packet, trailer) = packet_and_trailer(frame);
        Self { trailer: trailer.to_vec(), ..Self::of_packet(frame, packet) }
    }

    fn of_packet(frame: &[u8], packet: &[u8]) -> Self {
        match frame[12..14] {
            [8, 0] => {
                let (ip, payload) = Ipv4Header::from_slice(packet).expect("an outer header");
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum, "outer checksum");
                assert!(!ip.more_fragments && ip.fragment_offset.value() == 0);
                assert_eq!(ip.header_len(), 20);
                let udp = (ip.protocol == IpNumber::UDP).then(|| {
                    let (udp, inner) = UdpHeader::from_slice(payload).expect("a UDP header");
                    let right = udp.calc_checksum_ipv4(&ip, inner).unwrap() == udp.checksum;
                    (udp, right)
                });
                Self {
                    is_v4: true,
                    traffic_class: ip.dscp.value() << 2 | ip.ecn.value(),
                    hops: ip.time_to_live,
                    source: ip.source.into(),
                    destination: ip.destination.into(),
                    dont_fragment: ip.dont_fragment,
                    identification: ip.identification,
                    ..Self::around(payload, ip.protocol, udp)
                }
            }
            [0x86, 0xdd] => {
                let (ip, payload) = Ipv6Header::from_slice(packet).expect("an outer header");
                assert_ne!(ip.flow_label.value(), 0, "a flow label");
                let udp = (ip.next_header == IpNumber::UDP).then(|| {
                    let (udp, inner) = UdpHeader::from_slice(payload).expect("a UDP header");
                    let right = udp.calc_checksum_ipv6(&ip, inner).unwrap() == udp.checksum;
                    (udp, right)
                });
                Self {
                    is_v4: false,
                    traffic_class: ip.traffic_class,
                    hops: ip.hop_limit,
                    source: ip.source.into(),
                    destination: ip.destination.into(),
                    ..Self::around(payload, ip.next_header, udp)
                }
            }
            _ => panic!("no IP packet outside: {frame:02x?}"),
        }
    }

    /// All but the outer IP header.
    fn around(payload: &[u8], protocol: IpNumber, udp: Option<(UdpHeader, bool)>) -> Self {
        let unspecified = IpAddr::from([0u8; 4]);
        let inner = match &udp {
            Some((udp, _)) => {
                assert_eq!(usize::from(udp.length), payload.len(), "UDP length");
                &payload[8..]
            }
            None => payload,
        };
        Self {
            is_v4: false,
            traffic_class: 0,
            hops: 0,
            source: unspecified,
            destination: unspecified,
            dont_fragment: false,
            identification: 0,
            protocol: if udp.is_some() { 0 } else { protocol.0 },
            udp: udp.map(|(udp, right)| Udp {
                source_port: udp.source_port,
                destination_port: udp.destination_port,
                right_checksum: (udp.checksum != 0).then_some(right),
            }),
            inner: inner.to_vec(),
            trailer: Vec::new(),
        }
    }
}

/// An untagged frame's IP packet, by its own length, and what is behind it.
pub(crate) fn packet_and_trailer(frame: &[u8]) -> (&[u8], &[u8]) {
    try_packet(frame).unwrap_or_else(|| panic!("no whole IP packet: {frame:02x?}"))
}

/// `None` if the frame has no IP packet, or not all of it.
pub(crate) fn try_packet(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = |i: usize| Some(usize::from(u16::from_be_bytes([*frame.get(i)?, *frame.get(i + 1)?])));
    let length = match frame.get(12..14)? {
        [8, 0] => at(16)?,
        [0x86, 0xdd] => 40 + at(18)?,
        _ => return None,
    };
    frame[14..].split_at_checked(length)
}

/// One's-complement sum of a text, of which a checksum makes it all ones.
pub(crate) fn sums_up(parts: &[&[u8]]) -> bool {
    let text = parts.concat();
    let words =
        text.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum == 0xffff
}

/// An ICMP message of an untagged frame.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) source_mac: [u8; 6],
    pub(crate) destination_mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hops: u8,
    pub(crate) kind: (u8, u8),
    pub(crate) word: u32,
    pub(crate) rest: Vec<u8>,
}

impl Message {
    /// Asserts that all checksums are right.
    pub(crate) fn of(frame: &[u8]) -> Self {
        let mac = |at: usize| frame[at..at + 6].try_into().unwrap();
        let (packet, _) = packet_and_trailer(frame);
        let (source, destination, hops, text): (IpAddr, IpAddr, u8, &[u8]) = match frame[12..14] {
            [8, 0] => {
                let (ip, text) = Ipv4Header::from_slice(packet).expect("an IPv4 header");
                assert_eq!(ip.protocol, IpNumber::ICMP);
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum, "header checksum");
                assert!(sums_up(&[text]), "ICMP checksum");
                (ip.source.into(), ip.destination.into(), ip.time_to_live, text)
            }
            [0x86, 0xdd] => {
                let (ip, text) = Ipv6Header::from_slice(packet).expect("an IPv6 header");
                assert_eq!(ip.next_header, IpNumber::IPV6_ICMP);
                let pseudo = [0, 0, packet[4], packet[5], 0, 0, 0, 58];
                assert!(sums_up(&[&packet[8..40], &pseudo, text]), "ICMP checksum");
                (ip.source.into(), ip.destination.into(), ip.hop_limit, text)
            }
            _ => panic!("no IP packet: {frame:02x?}"),
        };
        Self {
            source_mac: mac(6),
            destination_mac: mac(0),
            source,
            destination,
            hops,
            kind: (text[0], text[1]),
            word: u32::from_be_bytes(text[4..8].try_into().unwrap()),
            rest: text[8..].to_vec(),
        }
    }
}
