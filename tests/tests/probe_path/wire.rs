//! Frames on a backend's cable, read by `etherparse`: a probe's differ from a client's in whose they
//! are, and in nothing else.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use etherparse::{IpNumber, NetSlice, SlicedPacket, TcpHeader, TransportSlice, UdpHeader};
use lb_tests::{Balancer, Capture, Decap, Family, Lab, Limit, Load, Mode, Topology};

use crate::{service, ways};

/// What clients' packets and probes must have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    ethernet: Vec<u8>,
    outer: Option<Outer>,
    /// Of the packet inside.
    destination: (IpAddr, u16),
    hops: u8,
    traffic_class: u8,
    dont_fragment: bool,
}

/// A tunnel's headers, but for what the flow's hash fills.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Outer {
    ends: (IpAddr, IpAddr),
    hops: u8,
    traffic_class: u8,
    dont_fragment: bool,
    protocol: u8,
    /// Destination port, and whether there is a checksum.
    udp: Option<(u16, bool)>,
}

/// An IP header, and what is behind it.
struct Ip<'a> {
    ends: (IpAddr, IpAddr),
    hops: u8,
    traffic_class: u8,
    dont_fragment: bool,
    protocol: IpNumber,
    payload: &'a [u8],
}

fn ip<'a>(net: &NetSlice<'a>) -> Ip<'a> {
    match net {
        NetSlice::Ipv4(v4) => {
            let header = v4.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "{header:?}");
            Ip {
                ends: (header.source.into(), header.destination.into()),
                hops: header.time_to_live,
                traffic_class: header.dscp.value() << 2 | header.ecn.value(),
                dont_fragment: header.dont_fragment,
                protocol: header.protocol,
                payload: v4.payload().payload,
            }
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header().to_header();
            Ip {
                ends: (header.source.into(), header.destination.into()),
                hops: header.hop_limit,
                traffic_class: header.traffic_class,
                dont_fragment: true,
                protocol: header.next_header,
                payload: v6.payload().payload,
            }
        }
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

/// The sender, and what is to be compared; `None`: neither a client's packet nor a probe's.
fn read(frame: &[u8], vip: IpAddr) -> Option<(IpAddr, Shape)> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let first = sliced.net.as_ref().filter(|net| !matches!(net, NetSlice::Arp(_)))?;
    let first = ip(first);
    let (outer, inside) = match (first.protocol, &sliced.transport) {
        (IpNumber::IPV4 | IpNumber::IPV6, _) => (Some(None), first.payload),
        (IpNumber::UDP, Some(TransportSlice::Udp(udp))) if udp.destination_port() == 6080 => {
            check_udp(&first, &udp.to_header(), udp.payload());
            (Some(Some((6080, udp.checksum() != 0))), udp.payload())
        }
        (IpNumber::TCP, _) => (None, &frame[14..]),
        _ => return None,
    };
    let inner = SlicedPacket::from_ip(inside).expect("a packet in the tunnel");
    let inner_ip = ip(inner.net.as_ref()?);
    if inner_ip.ends.1 != vip {
        return None;
    }
    let Some(TransportSlice::Tcp(tcp)) = &inner.transport else { panic!("{inner:?}") };
    check_tcp(&inner_ip, &tcp.to_header(), tcp.payload());
    let outer = outer.map(|udp| Outer {
        ends: first.ends,
        hops: first.hops,
        traffic_class: first.traffic_class,
        dont_fragment: first.dont_fragment,
        protocol: first.protocol.0,
        udp,
    });
    let shape = Shape {
        ethernet: frame[..14].to_vec(),
        outer,
        destination: (inner_ip.ends.1, tcp.destination_port()),
        hops: inner_ip.hops,
        traffic_class: inner_ip.traffic_class,
        dont_fragment: inner_ip.dont_fragment,
    };
    Some((inner_ip.ends.0, shape))
}

fn check_tcp(ip: &Ip<'_>, tcp: &TcpHeader, payload: &[u8]) {
    let wanted = match ip.ends {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            tcp.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload)
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            tcp.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload)
        }
        ends => panic!("{ends:?}"),
    };
    assert_eq!(wanted.unwrap(), tcp.checksum, "{tcp:?}");
}

fn check_udp(ip: &Ip<'_>, udp: &UdpHeader, payload: &[u8]) {
    let IpAddr::V6(source) = ip.ends.0 else { return };
    let IpAddr::V6(destination) = ip.ends.1 else { return };
    let wanted =
        udp.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload).unwrap();
    assert_eq!(wanted, udp.checksum, "{udp:?}");
}

fn check(mode: Mode, servers: Family, vip: Family) {
    let lab = Lab::build(Topology::new(mode, 1)).unwrap();
    let _decaps = Decap::if_needed(&lab).unwrap();
    let balancer = Balancer::serving(&lab, &[service(mode, servers, vip)]).unwrap();
    let capture = Capture::start(lab.switch(), "b1").unwrap();
    let target = SocketAddr::new(vip.vip(), 80);
    let report = Load::new(target, Limit::Requests(20)).run(lab.client()).unwrap();
    assert_eq!(report.failures(), 0);
    // Several intervals.
    sleep(Duration::from_secs(1));
    let frames = capture.stop();
    balancer.stop().unwrap();

    let told = format!("{mode}, {vip} VIP, {servers} backends");
    let packets: Vec<_> = frames.iter().filter_map(|f| read(f, vip.vip())).collect();
    let of = |sender: IpAddr| -> Vec<Shape> {
        packets.iter().filter(|(from, _)| *from == sender).map(|(_, s)| s.clone()).collect()
    };
    let probes = of(lab.topology().balancer(vip));
    let clients = of(lab.topology().client(vip));
    println!("{told}: {} packets of probes, {} of clients", probes.len(), clients.len());
    // A handshake, a request and a reset each, two times at least.
    assert!(probes.len() >= 8, "{told}: {} packets of probes", probes.len());
    assert_eq!(probes.len() + clients.len(), packets.len(), "{told}");
    let distinct = |shapes: Vec<Shape>| shapes.into_iter().collect::<BTreeSet<_>>();
    let (probes, mut clients) = (distinct(probes), distinct(clients));
    if servers != vip && vip == Family::V4 {
        // A reset that the kernel made for nobody's packet need not say "don't fragment".
        clients.retain(|shape| shape.dont_fragment);
    }
    assert_eq!(probes, clients, "{told}");
    let in_tunnels = probes.iter().filter(|shape| shape.outer.is_some()).count();
    assert_eq!(in_tunnels > 0, mode.is_tunnel(), "{told}");
}

#[test]
fn a_probe_of_dsr_is_as_a_clients_packet() {
    ways(Mode::Dsr).into_iter().for_each(|(servers, vip)| check(Mode::Dsr, servers, vip));
}

#[test]
fn a_probe_of_ipip_is_as_a_clients_packet() {
    ways(Mode::Ipip).into_iter().for_each(|(servers, vip)| check(Mode::Ipip, servers, vip));
}

#[test]
fn a_probe_of_gue_is_as_a_clients_packet() {
    ways(Mode::Gue).into_iter().for_each(|(servers, vip)| check(Mode::Gue, servers, vip));
}
