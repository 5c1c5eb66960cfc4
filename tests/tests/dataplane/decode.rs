//! The second opinion: reads frames with a library that shares no code with the program, and
//! recomputes every checksum from all the bytes it covers.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LinkHeader, NetHeaders, PacketHeaders, TransportHeader};

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
        let packet = PacketHeaders::from_ethernet_slice(frame)
            .unwrap_or_else(|e| panic!("not a packet: {e}: {frame:02x?}"));
        let Some(LinkHeader::Ethernet2(ethernet)) = packet.link else { panic!("no Ethernet") };
        Self {
            destination_mac: ethernet.destination,
            source_mac: ethernet.source,
            net: packet.net.expect("an IP header"),
            transport: packet.transport.expect("a TCP or UDP header"),
            payload: packet.payload.slice().to_vec(),
        }
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
