//! Resets as `etherparse` reads them, for segments that it made.

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, NetSlice,
    PacketBuilder, SlicedPacket, TcpHeader, TransportSlice,
};
use proptest::prelude::*;

use super::*;
use crate::frame::HostFrame;
use crate::host::{HostMaps, VIP4, VIP6};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT4: [u8; 4] = [198, 51, 100, 7];

fn bytes_of(address: [u32; 4]) -> [u8; 16] {
    bytemuck::cast(address)
}

fn client6() -> [u8; 16] {
    bytes_of(crate::host::v6(7))
}

fn segment(family: u32, tcp: TcpHeader, data: &[u8]) -> Vec<u8> {
    let ip = if family == 4 {
        let vip = VIP4[0].to_ne_bytes();
        let header = Ipv4Header::new(0, 57, IpNumber::TCP, CLIENT4, vip).unwrap();
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    } else {
        let header = Ipv6Header {
            traffic_class: 3,
            flow_label: 0xa_bcde.try_into().unwrap(),
            hop_limit: 57,
            source: client6(),
            destination: bytes_of(VIP6),
            ..Ipv6Header::default()
        };
        IpHeaders::Ipv6(header, Ipv6Extensions::default())
    };
    let packet = PacketBuilder::ethernet2(CLIENT_MAC, OUR_MAC).ip(ip).tcp_header(tcp);
    let mut frame = Vec::new();
    packet.write(&mut frame, data).unwrap();
    frame
}

fn answered(family: u32, bytes: &[u8]) -> (Verdict, Vec<u8>) {
    let maps = HostMaps::with_weights(&[1]);
    let mut frame = HostFrame::new(bytes);
    let verdict = if family == 4 {
        answer::<V4, _, _>(&maps, &mut frame)
    } else {
        answer::<V6, _, _>(&maps, &mut frame)
    };
    (verdict, frame.bytes().to_vec())
}

/// All of a reset that does not depend on the segment's numbers, checked; its TCP header.
fn reset(family: u32, before: &[u8], after: &[u8]) -> TcpHeader {
    let packet = SlicedPacket::from_ethernet(after).unwrap();
    assert_eq!((&after[..6], &after[6..12]), (&CLIENT_MAC[..], &OUR_MAC[..]));
    let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("{packet:?}") };
    assert!(tcp.payload().is_empty());
    let header = tcp.to_header();
    let sum = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!((ip.source, ip.destination), (VIP4[0].to_ne_bytes(), CLIENT4));
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!((ip.time_to_live, ip.identification), (64, 0));
            assert!(ip.dont_fragment && ip.total_len == 40);
            // Ethernet's least frame, where the segment's was as long; nothing of its text in it.
            assert_eq!(after.len(), before.len().min(60));
            assert!(before.len() < 60 || after[54..].iter().all(|byte| *byte == 0));
            header.calc_checksum_ipv4(&ip, &[]).unwrap()
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!((ip.source, ip.destination), (bytes_of(VIP6), client6()));
            assert_eq!((ip.hop_limit, ip.traffic_class, ip.flow_label.value()), (64, 0, 0));
            assert_eq!(after.len(), 74);
            header.calc_checksum_ipv6(&ip, &[]).unwrap()
        }
        other => panic!("IPv{family}: {other:?}"),
    };
    assert_eq!(header.checksum, sum);
    assert_eq!((header.source_port, header.destination_port), (443, 40_000));
    assert_eq!((header.window_size, header.urgent_pointer, header.data_offset()), (0, 0, 5));
    header
}

proptest! {
    #[test]
    fn a_reset_says_what_rfc_9293_asks_for(
        six: bool, sequence: u32, acknowledgment_number: u32, flags in 0..32u8, options in 0..11usize,
        data in prop::collection::vec(any::<u8>(), 0..1400), trailer in 0..20usize,
    ) {
        let family = if six { 6 } else { 4 };
        let is = |bit: u8| flags & bit != 0;
        let mut tcp = TcpHeader::new(40_000, 443, sequence, 1024);
        (tcp.fin, tcp.syn, tcp.psh, tcp.ack) = (is(1), is(2), is(8), is(16));
        tcp.acknowledgment_number = acknowledgment_number;
        tcp.urgent_pointer = 7;
        tcp.set_options_raw(&vec![1; options * 4][..options.min(10) * 4]).unwrap();
        let mut before = segment(family, tcp.clone(), &data);
        before.resize(before.len() + trailer, 0xee);
        let (verdict, after) = answered(family, &before);
        prop_assert_eq!(verdict, Verdict::ResetSent);
        let reset = reset(family, &before, &after);
        prop_assert!(reset.rst && !reset.syn && !reset.fin && !reset.psh && !reset.urg);
        if tcp.ack {
            prop_assert!(!reset.ack);
            prop_assert_eq!(reset.sequence_number, acknowledgment_number);
            prop_assert_eq!(reset.acknowledgment_number, 0);
        } else {
            let length = data.len() as u32 + u32::from(tcp.syn) + u32::from(tcp.fin);
            prop_assert!(reset.ack);
            prop_assert_eq!(reset.sequence_number, 0);
            prop_assert_eq!(reset.acknowledgment_number, sequence.wrapping_add(length));
        }
    }
}

#[test]
fn what_must_not_be_answered_stays_as_it_is() {
    for family in [4, 6] {
        let mut tcp = TcpHeader::new(40_000, 443, 5, 1024);
        tcp.ack = true;
        let plain = segment(family, tcp.clone(), b"text");
        let (source, offset) = if family == 4 { (26, 46) } else { (22, 66) };
        let mut bad: Vec<Vec<u8>> = Vec::new();
        tcp.rst = true;
        bad.push(segment(family, tcp, b"text"));
        let mut to_all = plain.clone();
        to_all[0] |= 1;
        bad.push(to_all);
        let mut from_group = plain.clone();
        from_group[source] = if family == 4 { 224 } else { 0xff };
        bad.push(from_group);
        for header in [0x40, 0x70] {
            let mut wrong = plain.clone();
            wrong[offset] = header;
            bad.push(wrong);
        }
        for frame in bad {
            assert_eq!(answered(family, &frame), (Verdict::DropNatBackendDown, frame.clone()));
        }
    }
}

#[test]
fn beyond_the_limit_nothing_is_answered() {
    let maps = HostMaps::with_weights(&[1]);
    maps.exhausted.set(Some(Limit::Reset));
    let mut tcp = TcpHeader::new(40_000, 443, 5, 1024);
    tcp.ack = true;
    let before = segment(4, tcp, b"text");
    let mut frame = HostFrame::new(&before);
    assert_eq!(answer::<V4, _, _>(&maps, &mut frame), Verdict::DropNatBackendDown);
    assert_eq!(frame.bytes(), before);
    assert_eq!(maps.take_events(), [Event::ResetLimited]);
}
