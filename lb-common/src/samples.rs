//! Packets for this crate's tests, made and judged by `etherparse`, which knows none of our code.

use bytemuck::Zeroable;
use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, PacketBuilder,
};

use crate::abi::{FEATURES_ALL, Settings};

/// What is in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Tcp,
    Udp,
    /// Without a checksum.
    UdpZero,
    /// ICMP of the family: an echo request.
    Icmp,
    /// A fragment: of UDP, the first one.
    Fragment,
}

pub(crate) const PAYLOADS: [Payload; 5] =
    [Payload::Tcp, Payload::Udp, Payload::UdpZero, Payload::Icmp, Payload::Fragment];

/// A packet to be made.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// 4 or 6.
    pub(crate) family: u32,
    pub(crate) payload: Payload,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    pub(crate) hops: u8,
    /// IPv4 only.
    pub(crate) dont_fragment: bool,
    pub(crate) identification: u16,
    pub(crate) data: Vec<u8>,
}

impl Sample {
    pub(crate) fn new(family: u32, payload: Payload) -> Self {
        Self {
            family,
            payload,
            traffic_class: 0,
            hops: 57,
            dont_fragment: true,
            identification: 0x1234,
            data: b"what the client sent".to_vec(),
        }
    }

    /// The packet in an Ethernet frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let ip = ethernet.ip(if self.family == 4 { self.v4() } else { self.v6() });
        let mut frame = Vec::new();
        match self.payload {
            Payload::Tcp => ip.tcp(40_000, 443, 7, 1024).ack(9).psh().write(&mut frame, &self.data),
            Payload::Icmp if self.family == 4 => {
                ip.icmpv4_echo_request(1, 2).write(&mut frame, &self.data)
            }
            Payload::Icmp => ip.icmpv6_echo_request(1, 2).write(&mut frame, &self.data),
            _ => ip.udp(40_000, 443).write(&mut frame, &self.data),
        }
        .unwrap();
        if self.payload == Payload::UdpZero {
            let at = if self.family == 4 { 40 } else { 60 };
            frame[at..at + 2].fill(0);
        }
        frame
    }

    fn v4(&self) -> IpHeaders {
        let mut ip =
            Ipv4Header::new(0, self.hops, IpNumber::UDP, [198, 51, 100, 7], [192, 0, 2, 10])
                .unwrap();
        ip.dscp = (self.traffic_class >> 2).try_into().unwrap();
        ip.ecn = (self.traffic_class & 3).try_into().unwrap();
        ip.dont_fragment = self.dont_fragment;
        ip.identification = self.identification;
        ip.more_fragments = self.payload == Payload::Fragment;
        IpHeaders::Ipv4(ip, Ipv4Extensions::default())
    }

    fn v6(&self) -> IpHeaders {
        let address = |last| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
            bytes[15] = last;
            bytes
        };
        let ip = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: 0xa_bcde.try_into().unwrap(),
            hop_limit: self.hops,
            source: address(7),
            destination: address(10),
            ..Ipv6Header::default()
        };
        let fragment = (self.payload == Payload::Fragment)
            .then(|| Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, true, 99));
        IpHeaders::Ipv6(ip, Ipv6Extensions { fragment, ..Ipv6Extensions::default() })
    }
}

/// RFC 1071 over a whole text; zero if a checksum in it is right.
pub(crate) fn whole_checksum(texts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for text in texts {
        for pair in text.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Settings with all features; GUE on its usual port.
pub(crate) fn settings() -> Settings {
    Settings { gue_port: 6080, features: FEATURES_ALL, ..Settings::zeroed() }
}
