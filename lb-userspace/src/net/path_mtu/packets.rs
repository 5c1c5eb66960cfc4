//! Packets for tests: those of tunnels, and what routers say of them.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded;
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep,
};

/// What follows the outer IP header.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inner {
    /// Any bytes of this protocol.
    Protocol(u8),
    /// A datagram to this port.
    Udp(u16),
}

/// A packet from `source` to `server` that has `length` bytes and must not be fragmented.
pub(super) fn packet(source: &str, server: &str, inner: Inner, length: usize) -> Vec<u8> {
    let (protocol, above) = match inner {
        Inner::Protocol(protocol) => (protocol, 0),
        Inner::Udp(_) => (17, 8),
    };
    let step = ip(source.parse().unwrap(), server.parse().unwrap(), protocol);
    let header = if server.contains(':') { 40 } else { 20 };
    let payload = vec![0x45; length - header - above];
    let mut bytes = Vec::new();
    match inner {
        Inner::Protocol(_) => step.write(&mut bytes, IpNumber(protocol), &payload).unwrap(),
        Inner::Udp(port) => step.udp(40_000, port).write(&mut bytes, &payload).unwrap(),
    }
    bytes
}

/// A router's message to `to` that `quoted` is larger than `mtu`; all of `quoted` is in it.
pub(super) fn too_big(quoted: &[u8], to: &str, mtu: u32) -> Vec<u8> {
    let to: IpAddr = to.parse().unwrap();
    let mut bytes = Vec::new();
    if to.is_ipv4() {
        let needed = FragmentationNeeded { next_hop_mtu: mtu.try_into().unwrap() };
        let step = ip([10, 0, 0, 254].into(), to, 1);
        let step = step.icmpv4(Icmpv4Type::DestinationUnreachable(needed));
        step.write(&mut bytes, quoted).unwrap();
    } else {
        let step = ip("fd00::fe".parse().unwrap(), to, 58);
        step.icmpv6(Icmpv6Type::PacketTooBig { mtu }).write(&mut bytes, quoted).unwrap();
    }
    bytes
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ip(match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let header = Ipv4Header::new(0, 64, IpNumber(protocol), source, destination).unwrap();
            let header =
                Ipv4Header { dont_fragment: true, fragment_offset: IpFragOffset::ZERO, ..header };
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: 0,
                next_header: IpNumber(protocol),
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        other => panic!("two families: {other:?}"),
    })
}
