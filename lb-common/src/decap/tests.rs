//! Tunnels that `etherparse` made are opened, and all else is left as it is.

use etherparse::{
    EtherType, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader, Ipv6Header,
    NetSlice, PacketBuilder, SlicedPacket,
};
use proptest::prelude::*;

use super::*;
use crate::frame::HostFrame;
use crate::samples::{PAYLOADS, Payload, Sample};

const PORT: u16 = 6080;
const SOURCE_V4: [u8; 4] = [10, 9, 1, 2];
const SOURCE_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2];

/// Allows 10.9.0.0/16 and `fd00::9:0:0/96`, told by the words as they lie in a packet.
struct Sources;

impl DecapMaps for Sources {
    fn gue_port(&self) -> u32 {
        u32::from(PORT)
    }

    fn allowed(&self, family: u32, source: &Address) -> bool {
        let bytes: Vec<u8> = source.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match family {
            4 => bytes[..2] == [10, 9] && bytes[4..] == [0; 12],
            6 => bytes[..14] == SOURCE_V6[..14],
            _ => false,
        }
    }
}

/// How a packet is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrap {
    Ip,
    /// GUE, variant 1.
    Gue1,
    /// GUE, variant 0.
    Gue0,
}

const WRAPS: [Wrap; 3] = [Wrap::Ip, Wrap::Gue1, Wrap::Gue0];

/// An IP packet in a tunnel whose outer header is of `family`; `ecn` is that header's.
fn tunnel(family: u32, wrap: Wrap, packet: &[u8], ecn: u8) -> Vec<u8> {
    let number = if packet[0] >> 4 == 4 { 4 } else { 41 };
    let payload = match wrap {
        Wrap::Gue0 => [&[0, number, 0, 0], packet].concat(),
        Wrap::Ip | Wrap::Gue1 => packet.to_vec(),
    };
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
    let builder = builder.ip(if family == 4 {
        let mut ip = Ipv4Header::new(0, 63, IpNumber::IPV4, SOURCE_V4, [10, 77, 0, 11]).unwrap();
        ip.dscp = 10.try_into().unwrap();
        ip.ecn = ecn.try_into().unwrap();
        etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())
    } else {
        let mut destination = SOURCE_V6;
        destination[15] = 77;
        let ip = Ipv6Header {
            traffic_class: 10 << 2 | ecn,
            hop_limit: 63,
            source: SOURCE_V6,
            destination,
            ..Ipv6Header::default()
        };
        etherparse::IpHeaders::Ipv6(ip, etherparse::Ipv6Extensions::default())
    });
    let mut frame = Vec::new();
    match wrap {
        Wrap::Ip => builder.write(&mut frame, IpNumber(number), &payload).unwrap(),
        _ => builder.udp(50_000, PORT).write(&mut frame, &payload).unwrap(),
    }
    frame
}

/// What becomes of a frame.
fn opened(frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut frame = HostFrame::new(frame);
    let verdict = run(&Sources, &mut frame);
    assert!(VERDICTS.contains(&verdict) && verdict != Verdict::DropInternal, "{verdict:?}");
    (verdict, frame.bytes().to_vec())
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0x60, 7], &frame[12..]].concat()
}

fn check(family: u32, wrap: Wrap, sample: &Sample) {
    let plain = sample.frame();
    // As encapsulation would have it: that is the sender's.
    let frame = tunnel(family, wrap, &plain[14..], 0);
    assert_eq!(opened(&frame), (Verdict::PassDecapsulated, plain.clone()), "{wrap:?} {sample:?}");
    let got = opened(&tagged(&frame));
    assert_eq!(got, (Verdict::PassDecapsulated, tagged(&plain)), "{wrap:?} {sample:?}");
}

#[test]
fn each_tunnel_gives_each_packet_back() {
    for family in [4, 6] {
        for wrap in WRAPS {
            for inner in [4, 6] {
                for payload in PAYLOADS {
                    check(family, wrap, &Sample::new(inner, payload));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_packet_comes_out_as_it_went_in(
        outer_six: bool, wrap in 0..3usize, six: bool, payload in 0..5usize, traffic_class: u8,
        hops: u8, data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let sample = Sample {
            traffic_class, hops, data,
            ..Sample::new(if six { 6 } else { 4 }, PAYLOADS[payload])
        };
        check(if outer_six { 6 } else { 4 }, WRAPS[wrap], &sample);
    }

    #[test]
    fn a_broken_frame_is_dropped_or_passes_as_it_came(
        outer_six: bool, wrap in 0..3usize, six: bool, tag: bool,
        changes in prop::collection::vec((0..100usize, any::<u8>()), 0..4), length in 0..200usize,
    ) {
        let packet = Sample::new(if six { 6 } else { 4 }, Payload::Tcp).frame().split_off(14);
        let mut frame = tunnel(if outer_six { 6 } else { 4 }, WRAPS[wrap], &packet, 0);
        if tag {
            frame = tagged(&frame);
        }
        for (at, byte) in changes {
            let at = at % frame.len();
            frame[at] = byte;
        }
        frame.truncate(length);
        let (verdict, after) = opened(&frame);
        match verdict {
            Verdict::PassDecapsulated => {
                // All of the packet is there, and of the version that the EtherType says.
                let at = if after[12..14] == [0x81, 0] || after[12..14] == [0x88, 0xa8] { 16 } else { 12 };
                let number = |at: usize| usize::from(u16::from_be_bytes([after[at], after[at + 1]]));
                let length = match (number(at), after[at + 2] >> 4) {
                    (0x0800, 4) => number(at + 4),
                    (0x86dd, 6) => 40 + number(at + 6),
                    other => panic!("{other:?}"),
                };
                prop_assert!(at + 2 + length <= after.len());
            }
            Verdict::DropTunnelInner | Verdict::DropTunnelEcn | Verdict::DropTunnelSource => {}
            Verdict::PassNoTunnel | Verdict::PassNotIp | Verdict::PassVlan
                | Verdict::PassBadHeader => prop_assert_eq!(after, frame),
            other => panic!("{other:?}"),
        }
    }
}

/// RFC 6040, figure 4; rows are inner, columns outer, both in the order Not-ECT, ECT(0), ECT(1),
/// CE; `None` is dropped.
#[test]
fn congestion_is_told_as_rfc_6040_says() {
    const ORDER: [u8; 4] = [0, 2, 1, 3];
    const TABLE: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(0), Some(0), None],
        [Some(2), Some(2), Some(1), Some(3)],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    for (row, inner) in TABLE.iter().zip(ORDER) {
        for (wanted, outer) in row.iter().zip(ORDER) {
            for family in [4, 6] {
                for inner_family in [4, 6] {
                    let mut sample = Sample::new(inner_family, Payload::Tcp);
                    sample.traffic_class = 46 << 2 | inner;
                    let packet = sample.frame().split_off(14);
                    let (verdict, after) = opened(&tunnel(family, Wrap::Ip, &packet, outer));
                    let Some(wanted) = *wanted else {
                        assert_eq!(verdict, Verdict::DropTunnelEcn);
                        continue;
                    };
                    assert_eq!(verdict, Verdict::PassDecapsulated);
                    sample.traffic_class = 46 << 2 | wanted;
                    assert_eq!(after, sample.frame(), "{inner} in {outer}");
                    // `frame` has the checksum anew; so is it read by others.
                    let NetSlice::Ipv4(ip) =
                        SlicedPacket::from_ethernet(&after).unwrap().net.unwrap()
                    else {
                        continue;
                    };
                    let ip = ip.header().to_header();
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                }
            }
        }
    }
}

#[test]
fn only_listed_sources_may() {
    let packet = Sample::new(4, Payload::Tcp).frame().split_off(14);
    for wrap in WRAPS {
        for (family, at) in [(4, 27), (6, 35)] {
            let mut frame = tunnel(family, wrap, &packet, 0);
            frame[at] ^= 1;
            assert_eq!(opened(&frame).0, Verdict::DropTunnelSource, "{wrap:?} in {family}");
            // What is in it is nobody's business then.
            frame.truncate(at.max(60) + 10);
            assert_eq!(opened(&frame).0, Verdict::DropTunnelSource, "{wrap:?} in {family}");
        }
    }
}

#[test]
fn what_is_no_ip_packet_of_its_type_is_dropped() {
    for family in [4, 6] {
        let at = if family == 4 { 34 } else { 54 };
        for inner in [4, 6] {
            let packet = Sample::new(inner, Payload::Udp).frame().split_off(14);
            let good = tunnel(family, Wrap::Ip, &packet, 0);
            let refused = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut frame = good.clone();
                change(&mut frame);
                let verdict = opened(&frame).0;
                assert_eq!(verdict, Verdict::DropTunnelInner, "{inner} in {family}: {frame:x?}");
            };
            refused(&|frame| frame[at] = 0x55);
            refused(&|frame| frame[at] ^= 0x20);
            // A byte less in the frame, in the outer header, and one more in the inner.
            refused(&|frame| frame.truncate(frame.len() - 1));
            let length = if family == 4 { 17 } else { 19 };
            refused(&|frame| frame[length] -= 1);
            let length = at + if inner == 4 { 3 } else { 5 };
            refused(&|frame| frame[length] += 1);
            refused(&|frame| frame.truncate(at + 19));
            refused(&|frame| frame.truncate(at));
            if inner == 4 {
                refused(&|frame| frame[at] = 0x44);
                refused(&|frame| (frame[at + 2], frame[at + 3]) = (0, 19));
                refused(&|frame| (frame[at + 2], frame[at + 3], frame[at]) = (0, 23, 0x46));
            }
            let mut gue = tunnel(family, Wrap::Gue1, &packet, 0);
            gue[at + 5] += 1;
            assert_eq!(opened(&gue).0, Verdict::DropTunnelInner, "UDP longer than IP");
            gue[at + 5] -= 2;
            assert_eq!(opened(&gue).0, Verdict::DropTunnelInner, "UDP shorter than the packet");
        }
    }
}

#[test]
fn what_is_in_no_tunnel_passes_as_it_came() {
    let passes = |frame: &[u8], verdict| {
        for frame in [frame.to_vec(), tagged(frame)] {
            assert_eq!(opened(&frame), (verdict, frame.clone()), "{frame:x?}");
        }
    };
    for family in [4, 6] {
        for payload in PAYLOADS {
            passes(&Sample::new(family, payload).frame(), Verdict::PassNoTunnel);
        }
        let at = if family == 4 { 34 } else { 54 };
        let packet = Sample::new(4, Payload::Tcp).frame().split_off(14);
        let mut gue = tunnel(family, Wrap::Gue1, &packet, 0);
        gue[at + 3] ^= 1;
        passes(&gue, Verdict::PassNoTunnel);
        // GUE that we do not know: a control message, optional fields, flags, other payloads.
        for word in [[0x20, 4, 0, 0], [1, 4, 0, 0], [0, 4, 0x80, 0], [0, 17, 0, 0], [0xc0, 4, 0, 0]]
        {
            let mut gue = tunnel(family, Wrap::Gue0, &packet, 0);
            gue[at + 8..at + 12].copy_from_slice(&word);
            passes(&gue, Verdict::PassNoTunnel);
        }
        let mut short = tunnel(family, Wrap::Gue1, &packet, 0);
        short.truncate(at + 11);
        passes(&short, Verdict::PassNoTunnel);
        let mut version = Sample::new(family, Payload::Tcp).frame();
        version[14] ^= 0x50;
        passes(&version, Verdict::PassBadHeader);
        passes(&Sample::new(family, Payload::Tcp).frame()[..33], Verdict::PassBadHeader);
    }
    let mut arp = Sample::new(4, Payload::Tcp).frame();
    arp[12..14].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
    passes(&arp, Verdict::PassNotIp);
    let twice = tagged(&tagged(&Sample::new(4, Payload::Tcp).frame()));
    assert_eq!(opened(&twice), (Verdict::PassVlan, twice.clone()));
}

#[test]
fn outer_fragments_and_options_are_the_kernels() {
    let packet = Sample::new(4, Payload::Tcp).frame().split_off(14);
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
    let v4 = || Ipv4Header::new(0, 63, IpNumber::IPV4, SOURCE_V4, [10, 77, 0, 11]).unwrap();
    let mut headers = vec![v4(), v4(), v4()];
    headers[0].more_fragments = true;
    headers[1].fragment_offset = IpFragOffset::try_new(185).unwrap();
    headers[2].options = Ipv4Options::from([1, 1, 1, 0]);
    for header in headers {
        let ip = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
        let mut frame = Vec::new();
        ethernet().ip(ip).write(&mut frame, IpNumber::IPV4, &packet).unwrap();
        assert_eq!(opened(&frame), (Verdict::PassNoTunnel, frame.clone()));
    }
    let fragment = Ipv6FragmentHeader::new(IpNumber::IPV4, IpFragOffset::ZERO, true, 9);
    let ip = etherparse::IpHeaders::Ipv6(
        Ipv6Header { source: SOURCE_V6, ..Ipv6Header::default() },
        etherparse::Ipv6Extensions { fragment: Some(fragment), ..Default::default() },
    );
    let mut frame = Vec::new();
    ethernet().ip(ip).write(&mut frame, IpNumber::IPV4, &packet).unwrap();
    assert_eq!(opened(&frame), (Verdict::PassNoTunnel, frame.clone()));
}

/// What our own balancer sends.
#[test]
fn our_own_tunnels_are_opened() {
    use crate::abi::{KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, Server};
    use crate::encap::encapsulate;
    use crate::ip::{V4, V6};
    let words = |bytes: [u8; 16]| {
        [0, 4, 8, 12]
            .map(|at| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
    };
    let mut v4 = [0; 16];
    v4[..4].copy_from_slice(&SOURCE_V4);
    for kind in [KIND_IPIP4, KIND_IPIP6, KIND_GUE4, KIND_GUE6] {
        let source = if kind == KIND_IPIP4 || kind == KIND_GUE4 { v4 } else { SOURCE_V6 };
        let server = Server {
            ethernet: [1, 2, 3],
            ifindex: 1,
            address: [9; 4],
            source: words(source),
            kind,
            mtu: 1500,
            vlan: 0,
            entropy: 0,
        };
        for family in [4, 6] {
            for payload in PAYLOADS {
                let mut sample = Sample::new(family, payload);
                sample.traffic_class = 0xb9;
                let mut frame = HostFrame::new(&sample.frame());
                match family {
                    4 => encapsulate::<V4, _>(&mut frame, &server, 77, &crate::samples::settings()),
                    _ => encapsulate::<V6, _>(&mut frame, &server, 77, &crate::samples::settings()),
                }
                .unwrap();
                assert_eq!(run(&Sources, &mut frame), Verdict::PassDecapsulated);
                sample.hops -= 1;
                assert_eq!(frame.bytes()[12..], sample.frame()[12..]);
            }
        }
    }
}
