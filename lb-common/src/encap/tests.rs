//! All tunnels with all that can be in them; `etherparse` says what was made.

use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;

use super::*;
use crate::abi::{KIND_DSR, KIND_NAT};
use crate::frame::HostFrame;
use crate::samples::{PAYLOADS, Payload, Sample, whole_checksum};

const KINDS: [u32; 4] = [KIND_IPIP4, KIND_IPIP6, KIND_GUE4, KIND_GUE6];
const PORT: u32 = 6080;
const MACS: [u8; 12] = [2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 2, 2];

fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

fn server(kind: u32) -> Server {
    let v6 = |last| [word([0xfd, 0, 0, 0]), 0, 0, word(last)];
    let (source, address) = match kind {
        KIND_IPIP4 | KIND_GUE4 => {
            ([word([10, 9, 0, 0]), 0, 0, 0], [word([10, 77, 0, 11]), 0, 0, 0])
        }
        _ => (v6([0, 9, 0, 0]), v6([0, 77, 0, 11])),
    };
    let mac = |at: usize| word([MACS[at], MACS[at + 1], MACS[at + 2], MACS[at + 3]]);
    Server {
        ethernet: [mac(0), mac(4), mac(8)],
        ifindex: 3,
        address,
        source,
        kind,
        mtu: 1500,
        vlan: 0,
        entropy: word([0, 0, 0xff, 0xff]),
    }
}

fn sent(sample: &Sample, kind: u32, hash: u64) -> Vec<u8> {
    let mut frame = HostFrame::new(&sample.frame());
    let server = server(kind);
    let done = match sample.family {
        4 => encapsulate::<V4, _>(&mut frame, &server, hash, &crate::samples::settings()),
        _ => encapsulate::<V6, _>(&mut frame, &server, hash, &crate::samples::settings()),
    };
    done.unwrap();
    frame.bytes().to_vec()
}

/// The packet as a router would have sent it on: one hop less, and its IPv4 checksum anew.
fn one_hop_on(sample: &Sample) -> Vec<u8> {
    Sample { hops: sample.hops - 1, ..sample.clone() }.frame().split_off(14)
}

fn check(sample: &Sample, kind: u32, hash: u64) {
    let frame = sent(sample, kind, hash);
    let inner = one_hop_on(sample);
    let told = format!("{sample:?} by kind {kind}, hash {hash:#x}");
    assert_eq!(frame.len(), 14 + overhead(kind) as usize + inner.len(), "{told}");
    assert_eq!(frame[frame.len() - inner.len()..], inner, "{told}");
    assert_eq!(frame[..12], MACS, "{told}");

    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let is_gue = kind == KIND_GUE4 || kind == KIND_GUE6;
    let protocol = match (is_gue, sample.family) {
        (true, _) => 17,
        (false, 4) => 4,
        (false, _) => 41,
    };
    let entropy = [(hash >> 16) as u8, (hash >> 24) as u8];
    match packet.net.unwrap() {
        NetSlice::Ipv4(outer) => {
            assert!(kind == KIND_IPIP4 || kind == KIND_GUE4);
            let header = outer.header().to_header();
            assert_eq!(frame[12..14], [8, 0]);
            assert_eq!(usize::from(header.total_len), frame.len() - 14);
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "{told}");
            assert_eq!(header.source, [10, 9, entropy[0], entropy[1]]);
            assert_eq!(header.destination, [10, 77, 0, 11]);
            assert_eq!((header.time_to_live, header.protocol.0), (64, protocol));
            assert_eq!(frame[15], sample.traffic_class);
            let dont_fragment = sample.family == 6 || sample.dont_fragment;
            assert_eq!(header.dont_fragment, dont_fragment);
            if dont_fragment {
                assert_eq!(header.identification, 0);
            }
            assert!(!header.is_fragmenting_payload());
        }
        NetSlice::Ipv6(outer) => {
            assert!(kind == KIND_IPIP6 || kind == KIND_GUE6);
            let header = outer.header().to_header();
            assert_eq!(frame[12..14], [0x86, 0xdd]);
            assert_eq!(usize::from(header.payload_length), frame.len() - 54);
            assert_eq!(header.source[..14], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            assert_eq!(header.source[14..], entropy);
            assert_eq!(header.destination[12..], [0, 77, 0, 11]);
            assert_eq!((header.hop_limit, header.next_header.0), (64, protocol));
            assert_eq!(header.traffic_class, sample.traffic_class);
            assert_eq!(header.flow_label.value(), (hash >> 16) as u32 & 0xf_ffff | 1);
        }
        NetSlice::Arp(_) => panic!("{told}"),
    }
    if is_gue {
        let at = frame.len() - inner.len() - 8;
        let number = |at| u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_eq!(number(at), 0xc000 | hash as u16 & 0x3fff);
        assert_eq!(u32::from(number(at + 2)), PORT);
        assert_eq!(usize::from(number(at + 4)), inner.len() + 8);
        let promises = !matches!(sample.payload, Payload::UdpZero | Payload::Fragment);
        if kind == KIND_GUE6 && promises {
            assert_ne!(number(at + 6), 0, "{told}");
            let length = (frame.len() as u32 - 54).to_be_bytes();
            let pseudo = [&frame[22..54], &length, &[0, 0, 0, 17]];
            let texts = [pseudo[0], pseudo[1], pseudo[2], &frame[54..]];
            assert_eq!(whole_checksum(&texts), 0, "{told}");
        } else {
            assert_eq!(number(at + 6), 0, "{told}");
        }
    }
}

#[test]
fn each_tunnel_takes_each_packet() {
    for kind in KINDS {
        for family in [4, 6] {
            for payload in PAYLOADS {
                check(&Sample::new(family, payload), kind, 0x0123_4567_89ab_cdef);
            }
        }
    }
}

proptest! {
    #[test]
    fn headers_are_right_for_any_packet(
        kind in 0..4usize, six: bool, payload in 0..5usize, traffic_class: u8, hops in 2..=255u8,
        dont_fragment: bool, identification: u16, hash: u64,
        data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let family = if six { 6 } else { 4 };
        let payload = PAYLOADS[payload];
        check(
            &Sample { family, payload, traffic_class, hops, dont_fragment, identification, data },
            KINDS[kind],
            hash,
        );
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    // What the payload brings, the inner checksum takes: only the source address can move the
    // outer one.
    let sample = Sample::new(6, Payload::Udp);
    let mut seen = false;
    for word in 0..=u16::MAX {
        let hash = u64::from(word) << 16;
        let frame = sent(&sample, KIND_GUE6, hash);
        assert_ne!(frame[60..62], [0, 0]);
        if frame[60..62] == [0xff, 0xff] {
            seen = true;
            check(&sample, KIND_GUE6, hash);
        }
    }
    assert!(seen);
}

#[test]
fn what_lies_behind_a_datagram_has_no_checksum_to_vouch_for_it() {
    for family in [4, 6] {
        let mut frame = Sample::new(family, Payload::Udp).frame();
        // The IP packet is longer than the datagram in it: options of UDP (RFC 9868).
        frame.extend([0x12, 0x34, 0x56]);
        let (at, header) = if family == 4 { (16, 0) } else { (18, 40) };
        let length = frame.len() as u16 - 14 - header;
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
        let mut frame = HostFrame::new(&frame);
        let done = match family {
            4 => {
                encapsulate::<V4, _>(&mut frame, &server(KIND_GUE6), 7, &crate::samples::settings())
            }
            _ => {
                encapsulate::<V6, _>(&mut frame, &server(KIND_GUE6), 7, &crate::samples::settings())
            }
        };
        done.unwrap();
        assert_eq!(frame.bytes()[60..62], [0, 0], "none, rather than a wrong one: {family}");
    }
}

#[test]
fn packets_that_may_be_cut_are_told_apart() {
    let mut sample = Sample::new(4, Payload::Udp);
    sample.dont_fragment = false;
    let identification = |sample: &Sample| sent(sample, KIND_IPIP4, 7)[18..20].to_vec();
    let first = identification(&sample);
    sample.identification += 1;
    assert_ne!(identification(&sample), first);
    sample.identification -= 1;
    sample.payload = Payload::Fragment;
    assert_ne!(identification(&sample), first);
}

#[test]
fn padding_stays_behind_the_packet() {
    // As the kernel and every receiver does, lengths are the IP header's, not the frame's.
    let sample = Sample::new(4, Payload::Tcp);
    let plain = sent(&sample, KIND_IPIP4, 7);
    let mut padded = sample.frame();
    padded.extend([0xee; 9]);
    let mut frame = HostFrame::new(&padded);
    encapsulate::<V4, _>(&mut frame, &server(KIND_IPIP4), 7, &crate::samples::settings()).unwrap();
    assert_eq!(frame.bytes()[..plain.len()], plain);
}

#[test]
fn kinds_add_what_they_say() {
    let by_kind = |kind| match kind {
        KIND_IPIP4 => 20,
        KIND_IPIP6 => 40,
        KIND_GUE4 => 28,
        KIND_GUE6 => 48,
        _ => 0,
    };
    for kind in 0..8 {
        assert_eq!(overhead(kind), by_kind(kind), "{kind}");
    }
}

#[test]
fn what_is_no_tunnel_or_has_no_room_is_refused() {
    let bytes = Sample::new(4, Payload::Tcp).frame();
    for kind in [KIND_DSR, KIND_NAT, 6, u32::MAX] {
        let mut frame = HostFrame::new(&bytes);
        assert!(
            encapsulate::<V4, _>(&mut frame, &server(kind), 7, &crate::samples::settings())
                .is_none()
        );
        assert_eq!(frame.bytes().len(), bytes.len());
    }
    let mut frame = HostFrame::new(&bytes);
    frame.move_head(-(HostFrame::HEADROOM as i32)).unwrap();
    frame.move_head(10).unwrap();
    assert!(
        encapsulate::<V4, _>(&mut frame, &server(KIND_IPIP4), 7, &crate::samples::settings())
            .is_none()
    );
}
