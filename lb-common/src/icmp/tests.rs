//! Messages as they come and what becomes of them: every expected frame is built anew by another
//! library, which computes all its checksums.

use etherparse::checksum::Sum16BitWords;
use etherparse::{PacketBuilder, PacketBuilderStep};
use proptest::prelude::*;

use super::*;
use crate::abi::split_ports;
use crate::frame::{Frame, HostFrame};
use crate::host::{HostMaps, VIP4, VIP6};
use crate::ip::ports;
use crate::verdict::{Event, Verdict};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];

/// One end of a packet, in both families.
#[derive(Clone, Copy, Debug)]
struct Host(Address, Address);

const VIP: Host = Host(VIP4, VIP6);
const CLIENT: Host = host([198, 51, 100, 7], 0xc1);
const ROUTER: Host = host([203, 0, 113, 9], 0xee);
const BACKEND: Host = host([10, 0, 0, 3], 0xb3);
const OTHER: Host = host([192, 0, 2, 11], 0x11);

const fn host(v4: [u8; 4], last: u8) -> Host {
    Host([u32::from_ne_bytes(v4), 0, 0, 0], crate::host::v6(last))
}

/// A family, as the tests need it.
trait Family: Icmp {
    const HEADER: usize;
    /// Where ICMP says that it is a ping, its reply, too big, out of hops.
    const PING: u8;
    const PONG: u8;
    const BIG: u8;
    const EXCEEDED: u8;
    fn of(host: Host) -> Address;
    fn ip(from: Host, to: Host, hops: u8) -> PacketBuilderStep<etherparse::IpHeaders>;
    fn icmp(
        ip: PacketBuilderStep<etherparse::IpHeaders>,
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: &[u8],
    ) -> Vec<u8>;
    /// The frame of an error made here, but for addresses and message.
    fn made(from: Host, to: Host) -> PacketBuilderStep<etherparse::IpHeaders>;
}

fn ethernet(headers: etherparse::IpHeaders) -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(THEIRS, OURS).ip(headers)
}

fn write<T>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), T>) -> Vec<u8>
where
    T: std::fmt::Debug,
{
    let mut frame = Vec::new();
    write(&mut frame).unwrap();
    frame
}

fn v4_header(from: Host, to: Host, hops: u8) -> etherparse::Ipv4Header {
    let [from, to] = [from.0[0], to.0[0]].map(u32::to_ne_bytes);
    let mut header =
        etherparse::Ipv4Header::new(0, hops, etherparse::IpNumber::TCP, from, to).unwrap();
    header.identification = 0x1234;
    header.dont_fragment = false;
    header
}

fn v6_bytes(address: Address) -> [u8; 16] {
    bytemuck::cast(address)
}

impl Family for V4 {
    const HEADER: usize = 20;
    const PING: u8 = 8;
    const PONG: u8 = 0;
    const BIG: u8 = 3;
    const EXCEEDED: u8 = 11;

    fn of(host: Host) -> Address {
        host.0
    }

    fn ip(from: Host, to: Host, hops: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        ethernet(etherparse::IpHeaders::Ipv4(v4_header(from, to, hops), Default::default()))
    }

    fn icmp(
        ip: PacketBuilderStep<etherparse::IpHeaders>,
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: &[u8],
    ) -> Vec<u8> {
        write(|to| ip.icmpv4_raw(kind, code, rest).write(to, payload))
    }

    fn made(from: Host, to: Host) -> PacketBuilderStep<etherparse::IpHeaders> {
        let mut header = v4_header(from, to, 64);
        header.dscp = 0x30.try_into().unwrap();
        header.identification = 0;
        header.dont_fragment = true;
        let headers = etherparse::IpHeaders::Ipv4(header, Default::default());
        PacketBuilder::ethernet2(OURS, THEIRS).ip(headers)
    }
}

impl Family for V6 {
    const HEADER: usize = 40;
    const PING: u8 = 128;
    const PONG: u8 = 129;
    const BIG: u8 = 2;
    const EXCEEDED: u8 = 3;

    fn of(host: Host) -> Address {
        host.1
    }

    fn ip(from: Host, to: Host, hops: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        let header = etherparse::Ipv6Header {
            traffic_class: 0x28,
            flow_label: 0x12345.try_into().unwrap(),
            hop_limit: hops,
            source: v6_bytes(from.1),
            destination: v6_bytes(to.1),
            ..Default::default()
        };
        ethernet(etherparse::IpHeaders::Ipv6(header, Default::default()))
    }

    fn icmp(
        ip: PacketBuilderStep<etherparse::IpHeaders>,
        kind: u8,
        code: u8,
        rest: [u8; 4],
        payload: &[u8],
    ) -> Vec<u8> {
        write(|to| ip.icmpv6_raw(kind, code, rest).write(to, payload))
    }

    fn made(from: Host, to: Host) -> PacketBuilderStep<etherparse::IpHeaders> {
        let header = etherparse::Ipv6Header {
            hop_limit: 64,
            source: v6_bytes(from.1),
            destination: v6_bytes(to.1),
            ..Default::default()
        };
        let headers = etherparse::IpHeaders::Ipv6(header, Default::default());
        PacketBuilder::ethernet2(OURS, THEIRS).ip(headers)
    }
}

/// A packet with ports, without its Ethernet header.
fn packet<F: Family>(udp: bool, from: (Host, u16), to: (Host, u16), payload: &[u8]) -> Vec<u8> {
    let ip = F::ip(from.0, to.0, 61);
    let frame = if udp {
        write(|frame| ip.udp(from.1, to.1).write(frame, payload))
    } else {
        write(|frame| ip.tcp(from.1, to.1, 7, 1024).ack(9).write(frame, payload))
    };
    frame[14..].to_vec()
}

/// An error to a host that quotes.
fn error<F: Family>(to: Host, quote: &[u8]) -> Vec<u8> {
    F::icmp(F::ip(ROUTER, to, 50), F::BIG, 0, [0, 0, 5, 0], quote)
}

/// What a VIP's backend sent to its client, and the error about it.
fn error_about<F: Family>(udp: bool, quoted: usize) -> Vec<u8> {
    let mut packet = packet::<F>(udp, (VIP, 443), (CLIENT, 50_000), &[7; 60]);
    packet.truncate(F::HEADER + quoted);
    error::<F>(VIP, &packet)
}

fn flow<F: Family>(protocol: u8, length: usize) -> Flow {
    Flow {
        key: FlowKey {
            source: F::of(CLIENT),
            destination: F::of(VIP),
            ports: ports(50_000, 443),
            kind: FlowKey::kind_of(F::FAMILY, protocol),
        },
        tcp_flags: Flow::ASIDE,
        length: length as u32,
    }
}

/// Both families' version of a test.
macro_rules! in_both_families {
    ($($name:ident = $test:ident;)*) => {
        $(#[test]
        fn $name() {
            $test::<V4>();
            $test::<V6>();
        })*
    };
}

in_both_families! {
    messages_are_told_apart = kinds;
    a_ping_becomes_its_reply = replies;
    what_must_not_be_answered_is_left = no_replies;
    an_error_says_whose_flow_it_is_about = quotes;
    a_quote_cut_short_tells_nothing = short_quotes;
    what_quotes_no_flow_tells_nothing = other_quotes;
    an_error_is_translated_whole = translations;
    a_frame_cut_short_is_not_translated = short_translations;
    a_sender_is_told_in_its_own_words = told;
    some_are_never_told = untold;
    without_a_token_nobody_is_told = limited;
    without_headroom_nobody_is_told = no_headroom;
}

fn kinds<F: Family>() {
    for kind in 0..=255 {
        let mut frame = F::icmp(F::ip(CLIENT, VIP, 64), kind, 0, [0; 4], &[0; 60]);
        let expected = match (F::FAMILY, kind) {
            (4, 8) | (6, 128) => IcmpKind::EchoRequest,
            (4, 3 | 4 | 11 | 12) | (6, 1..=4) => IcmpKind::Error,
            _ => IcmpKind::Other,
        };
        assert_eq!(super::kind::<F>(Packet::from_slice(&mut frame)), expected, "{kind}");
        let cut = &mut frame[..14 + F::HEADER + 7];
        assert_eq!(super::kind::<F>(Packet::from_slice(cut)), IcmpKind::Other);
    }
}

fn replies<F: Family>() {
    for length in 0..80 {
        let data: Vec<u8> = (1..=length).collect();
        for hops in [1, 63, 64, 255] {
            let mut frame = F::icmp(F::ip(CLIENT, VIP, hops), F::PING, 0, [1, 2, 3, 4], &data);
            echo_reply::<F>(Packet::from_slice(&mut frame)).unwrap();
            let mut expected = F::icmp(F::ip(VIP, CLIENT, 64), F::PONG, 0, [1, 2, 3, 4], &data);
            expected[..12].copy_from_slice(&[THEIRS, OURS].concat());
            assert_eq!(frame, expected, "{length} bytes, {hops} hops");
        }
    }
}

fn no_replies<F: Family>() {
    let ping = F::icmp(F::ip(CLIENT, VIP, 64), F::PING, 0, [1, 2, 3, 4], &[5; 20]);
    let refused = |mut frame: Vec<u8>| {
        let before = frame.clone();
        assert_eq!(echo_reply::<F>(Packet::from_slice(&mut frame)), None);
        assert_eq!(frame, before);
    };
    refused(F::icmp(F::ip(CLIENT, VIP, 64), F::PONG, 0, [1, 2, 3, 4], &[5; 20]));
    let mut group = ping.clone();
    group[0] = 0x33;
    refused(group);
    for source in not_unicast() {
        refused(F::icmp(F::ip(source, VIP, 64), F::PING, 0, [1, 2, 3, 4], &[5; 20]));
    }
    for length in 0..14 + F::HEADER + 8 {
        refused(ping[..length].to_vec());
    }
}

/// Sources that are nobody's address; the IPv6 ones are said twice.
fn not_unicast() -> Vec<Host> {
    let word = |bytes: [u8; 4]| u32::from_ne_bytes(bytes);
    let v6 = [
        [0; 4],
        [0, 0, 0, word([0, 0, 0, 1])],
        [word([0xff, 2, 0, 0]), 0, 0, word([0, 0, 0, 1])],
        [word([0xff, 0x0e, 0, 0]), 1, 2, 3],
    ];
    [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [239, 9, 9, 9], [255; 4]]
        .iter()
        .zip(v6.iter().cycle())
        .map(|(v4, v6)| Host([word(*v4), 0, 0, 0], *v6))
        .collect()
}

fn quotes<F: Family>() {
    for (udp, protocol) in [(false, TCP), (true, UDP)] {
        for quoted in [8, 17, 18, 19, 20, 68] {
            let mut frame = error_about::<F>(udp, quoted);
            let length = frame.len() - 14;
            let before = frame.clone();
            let seen = super::quoted::<F>(Packet::from_slice(&mut frame));
            assert_eq!(seen, Some(flow::<F>(protocol, length)), "{protocol}, {quoted} bytes");
            assert!(!seen.unwrap().opens());
            assert_eq!(frame, before);
        }
    }
}

fn short_quotes<F: Family>() {
    for quoted in 0..8 {
        let mut frame = error_about::<F>(false, quoted);
        // The padding of the frame is not the packet's.
        for _ in 0..2 {
            assert_eq!(super::quoted::<F>(Packet::from_slice(&mut frame)), None, "{quoted}");
            frame.resize(200, 0);
        }
    }
    let whole = error_about::<F>(false, 8);
    for length in 0..whole.len() {
        let mut cut = whole[..length].to_vec();
        assert_eq!(quoted::<F>(Packet::from_slice(&mut cut)), None, "{length}");
    }
}

fn other_quotes<F: Family>() {
    let packet = packet::<F>(false, (VIP, 443), (CLIENT, 50_000), &[7; 60]);
    let none = |to: Host, quote: &[u8]| {
        let mut frame = error::<F>(to, quote);
        assert_eq!(quoted::<F>(Packet::from_slice(&mut frame)), None, "{quote:x?}");
        let same = [0; 4];
        let to = Translation { source: &same, destination: &same, ports: 0 };
        let before = frame.clone();
        let packet = Packet::from_slice(&mut frame);
        assert_eq!(translate_quoted::<F>(packet, (&same, &same), &to), None);
        assert_eq!(frame, before);
    };
    none(OTHER, &packet);
    let changes: &[(usize, u8)] = match F::FAMILY {
        // Options, too few words, another version, protocols, a later fragment.
        4 => &[(0, 0x46), (0, 0x44), (0, 0x65), (9, 1), (9, 4), (9, 47), (7, 1), (6, 0x10)],
        // Another version, extension headers, a fragment, ICMP.
        _ => &[(0, 0x45), (0, 0x70), (6, 0), (6, 43), (6, 44), (6, 58), (6, 60)],
    };
    for (at, value) in changes {
        let mut quote = packet.clone();
        quote[*at] = *value;
        none(VIP, &quote);
    }
    if F::FAMILY == 4 {
        let mut first = packet;
        first[6] = 0x20;
        let mut frame = error::<F>(VIP, &first);
        assert!(quoted::<F>(Packet::from_slice(&mut frame)).is_some(), "a first fragment");
    }
}

fn translations<F: Family>() {
    // Both directions: about what went to the client, told to the backend; and about what went to
    // a backend, told to the client.
    let cases = [
        ((VIP, 443), (CLIENT, 50_000), (BACKEND, 8443), (OTHER, 2001), ROUTER),
        ((OTHER, 2001), (BACKEND, 8443), (CLIENT, 50_000), (VIP, 443), VIP),
    ];
    for (from, to, new_from, new_to, new_router) in cases {
        for (udp, quoted) in (8..90).flat_map(|quoted| [(true, quoted), (false, quoted)]) {
            let quote = |from, to| {
                let mut quote = packet::<F>(udp, from, to, &[7; 60]);
                quote.truncate(F::HEADER + quoted);
                quote
            };
            let mut frame = error::<F>(from.0, &quote(from, to));
            let inner = Translation {
                source: &F::of(new_from.0),
                destination: &F::of(new_to.0),
                ports: ports(new_from.1, new_to.1),
            };
            let outer = (&F::of(new_router), &F::of(new_from.0));
            translate_quoted::<F>(Packet::from_slice(&mut frame), outer, &inner).unwrap();

            let mut expected = quote(new_from, new_to);
            // The checksum of a segment is beyond the quote, or half in it, which stays.
            if !udp && quoted == 17 {
                expected[F::HEADER + 16] = quote(from, to)[F::HEADER + 16];
            }
            let ip = F::ip(new_router, new_from.0, 49);
            let expected = F::icmp(ip, F::BIG, 0, [0, 0, 5, 0], &expected);
            assert_eq!(frame, expected, "UDP: {udp}, {quoted} bytes");
        }
    }
}

#[test]
fn a_quoted_datagram_without_a_checksum_stays_without() {
    let mut datagram = packet::<V4>(true, (VIP, 53), (CLIENT, 50_000), &[7; 60]);
    datagram[26..28].fill(0);
    let mut frame = error::<V4>(VIP, &datagram);
    let inner = Translation { source: &BACKEND.0, destination: &OTHER.0, ports: ports(53, 2001) };
    let outer = (&ROUTER.0, &BACKEND.0);
    translate_quoted::<V4>(Packet::from_slice(&mut frame), outer, &inner).unwrap();
    let mut expected = packet::<V4>(true, (BACKEND, 53), (OTHER, 2001), &[7; 60]);
    expected[26..28].fill(0);
    let ip = V4::ip(ROUTER, BACKEND, 49);
    assert_eq!(frame, V4::icmp(ip, 3, 0, [0, 0, 5, 0], &expected));
}

#[test]
fn a_quoted_header_that_was_damaged_stays_damaged_and_the_message_whole() {
    let mut datagram = packet::<V4>(false, (VIP, 53), (CLIENT, 50_000), &[7; 60]);
    datagram[10] ^= 0x55;
    datagram[36] ^= 0x55;
    let mut frame = error::<V4>(VIP, &datagram);
    let inner = Translation { source: &BACKEND.0, destination: &OTHER.0, ports: ports(53, 2001) };
    let outer = (&ROUTER.0, &BACKEND.0);
    translate_quoted::<V4>(Packet::from_slice(&mut frame), outer, &inner).unwrap();
    assert_ne!(sum(&frame[42..62]), 0);
    assert_eq!((sum(&frame[14..34]), sum(&frame[34..])), (0, 0));
}

/// Zero if a text holds its checksum.
fn sum(text: &[u8]) -> u16 {
    Sum16BitWords::new().add_slice(text).ones_complement()
}

fn short_translations<F: Family>() {
    let same = F::of(BACKEND);
    let inner = Translation { source: &same, destination: &same, ports: ports(1, 2) };
    for udp in [true, false] {
        let whole = error_about::<F>(udp, 30);
        for length in 0..=whole.len() {
            let mut bytes = whole.clone();
            let (cut, rest) = bytes.split_at_mut(length);
            let done = translate_quoted::<F>(Packet::from_slice(cut), (&same, &same), &inner);
            assert_eq!(rest, &whole[length..]);
            let needs = 14 + 2 * F::HEADER + 8 + if udp { 8 } else { 18 };
            assert_eq!(done.is_some(), length >= needs, "{length}");
            assert_eq!(bytes == whole, done.is_none());
        }
    }
}

/// A packet to the VIP.
fn request<F: Family>(kind: Request, from: Host, payload: usize) -> Vec<u8> {
    let ip = F::ip(from, VIP, 1);
    let payload: Vec<u8> = (0..payload).map(|i| i as u8).collect();
    match kind {
        Request::Tcp => write(|to| ip.tcp(50_000, 443, 7, 1024).syn().write(to, &payload)),
        Request::Udp => write(|to| ip.udp(50_000, 443).write(to, &payload)),
        Request::Ping => F::icmp(ip, F::PING, 0, [1, 2, 3, 4], &payload),
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Tcp,
    Udp,
    Ping,
}

const REQUESTS: [Request; 3] = [Request::Tcp, Request::Udp, Request::Ping];

fn told<F: Family>() {
    let maps = HostMaps::with_weights(&[1]);
    let tells = [
        (Tell::TimeExceeded, F::EXCEEDED, 0, [0; 4], Verdict::TimeExceededSent),
        (Tell::TooBig(1400), F::BIG, 4, [0, 0, 5, 120], Verdict::TooBigSent),
        (Tell::TooBig(70_000), F::BIG, 4, [0, 0, 255, 255], Verdict::TooBigSent),
    ];
    for (tell, kind, code, rest, verdict) in tells {
        let (code, rest) = match tell {
            Tell::TooBig(mtu) if F::FAMILY == 6 => (0, mtu.to_be_bytes()),
            _ => (code, rest),
        };
        for request_kind in REQUESTS {
            for length in (0..150).chain([1472, 8000]) {
                let request = request::<F>(request_kind, CLIENT, length);
                let packet = &request[14..];
                let quote = if packet.len() >= 128 { 128 } else { F::HEADER + 8 };
                let ip = F::made(VIP, CLIENT);
                let expected = F::icmp(ip, kind, code, rest, &packet[..quote]);
                // With and without padding of the frame.
                for padding in [0, 64] {
                    let mut padded = request.clone();
                    padded.resize(request.len() + padding, 0xaa);
                    let mut frame = HostFrame::new(&padded);
                    assert_eq!(super::tell::<F, _, _>(&maps, &mut frame, tell), verdict);
                    assert_eq!(frame.bytes(), expected, "{request_kind:?}, {length} bytes");
                }
            }
        }
    }
    assert_eq!(maps.take_events(), []);
}

/// Tells, and sees that nothing has happened.
fn refuses<F: Family>(maps: &HostMaps, frame: &[u8], events: &[Event]) {
    let tells = [(Tell::TimeExceeded, Verdict::DropTtl), (Tell::TooBig(1400), Verdict::DropTooBig)];
    for (tell, verdict) in tells {
        let mut host = HostFrame::new(frame);
        assert_eq!(super::tell::<F, _, _>(maps, &mut host, tell), verdict, "{frame:x?}");
        assert_eq!(host.bytes(), frame);
        assert_eq!(maps.take_events(), events);
    }
}

fn untold<F: Family>() {
    let maps = HostMaps::with_weights(&[1]);
    for source in not_unicast() {
        for kind in REQUESTS {
            refuses::<F>(&maps, &request::<F>(kind, source, 150), &[]);
        }
    }
    for kind in (0..=255).filter(|kind| *kind != F::PING) {
        let message = F::icmp(F::ip(CLIENT, VIP, 1), kind, 0, [0; 4], &[0; 150]);
        refuses::<F>(&maps, &message, &[]);
    }
    let mut changes: Vec<(usize, u8)> = vec![(0, 0xff), (0, 0x01)];
    match F::FAMILY {
        // A later fragment, options, another version, GRE.
        4 => changes.extend([(21, 1), (20, 0x30), (14, 0x46), (14, 0x65), (23, 47)]),
        // Another version, hop-by-hop options, GRE.
        _ => changes.extend([(14, 0x45), (20, 0), (20, 47)]),
    }
    for (at, value) in changes {
        let mut frame = request::<F>(Request::Udp, CLIENT, 150);
        frame[at] = value;
        refuses::<F>(&maps, &frame, &[]);
    }
    let whole = request::<F>(Request::Tcp, CLIENT, 150);
    for length in 0..14 + F::HEADER + 8 {
        refuses::<F>(&maps, &whole[..length], &[]);
    }
    // Fewer bytes than a quote has, says the IP header.
    for length in 0..8u16 {
        let mut frame = whole.clone();
        if F::FAMILY == 4 {
            frame[16..18].copy_from_slice(&(20 + length).to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&length.to_be_bytes());
        }
        refuses::<F>(&maps, &frame, &[]);
    }
}

#[test]
fn of_fragments_the_first_is_told() {
    let maps = HostMaps::with_weights(&[1]);
    let mut v4 = request::<V4>(Request::Udp, CLIENT, 150);
    v4[20] = 0x20;
    let mut frame = HostFrame::new(&v4);
    let told = tell::<V4, _, _>(&maps, &mut frame, Tell::TooBig(1400));
    assert_eq!((told, sum(&frame.bytes()[34..])), (Verdict::TooBigSent, 0));
    assert_eq!(frame.bytes()[42..], v4[14..142]);

    let mut v6 = request::<V6>(Request::Udp, CLIENT, 150);
    v6[20] = 44;
    for (inner, offset, told) in [
        (17, [0, 1], true),
        (6, [0, 0], true),
        (17, [0, 8], false),
        (17, [0xff, 0xf9], false),
        (58, [0, 1], false),
        (60, [0, 1], false),
    ] {
        v6[54] = inner;
        v6[56..58].copy_from_slice(&offset);
        if told {
            let mut frame = HostFrame::new(&v6);
            let verdict = tell::<V6, _, _>(&maps, &mut frame, Tell::TimeExceeded);
            assert_eq!(verdict, Verdict::TimeExceededSent);
            assert_eq!(frame.bytes()[62..], v6[14..142]);
        } else {
            refuses::<V6>(&maps, &v6, &[]);
        }
    }
}

fn limited<F: Family>() {
    let mut maps = HostMaps::with_weights(&[1]);
    maps.settings.icmp_rate = 0;
    let frame = request::<F>(Request::Tcp, CLIENT, 150);
    refuses::<F>(&maps, &frame, &[Event::IcmpLimited]);
}

fn no_headroom<F: Family>() {
    let maps = HostMaps::with_weights(&[1]);
    let mut frame = HostFrame::new(&request::<F>(Request::Tcp, CLIENT, 150));
    frame.move_head(27 - HostFrame::HEADROOM as i32).unwrap();
    let inner = frame.bytes().to_vec();
    // The bytes at the new head are no packet; make them one.
    let mut padded = request::<F>(Request::Tcp, CLIENT, 150);
    padded.resize(inner.len(), 0);
    for (at, byte) in padded.iter().enumerate() {
        set(&mut frame, at, *byte);
    }
    let verdict = tell::<F, _, _>(&maps, &mut frame, Tell::TimeExceeded);
    assert_eq!(verdict, Verdict::DropTtl);
}

fn set(frame: &mut HostFrame, at: usize, byte: u8) {
    let packet = frame.packet();
    assert!(at < packet.len());
    let part = packet.part::<0, 4095, 1>(at as u32).unwrap();
    part.set_u8::<0>(byte);
}

#[test]
fn addresses_are_the_ones_that_rfcs_let_answer() {
    for (last, is) in [([1, 1, 1, 1], true), ([126, 0, 0, 1], true), ([223, 255, 255, 255], true)] {
        assert_eq!(V4::is_unicast(&[u32::from_ne_bytes(last), 0, 0, 0]), is);
    }
    assert!(V6::is_unicast(&[0, 0, 0, u32::from_ne_bytes([0, 0, 0, 2])]));
    assert!(V6::is_unicast(&[0, 1, 0, 0]));
    assert!(V6::is_unicast(&[u32::from_ne_bytes([0xfe, 0x80, 0, 0]), 0, 0, 1]));
    assert_eq!(split_ports(ports(1, 2)), (1u16.to_be(), 2u16.to_be()));
}

/// A valid message with some bytes changed, or bytes of any kind.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let valid = (any::<bool>(), any::<bool>(), 0usize..70, 0usize..4).prop_map(
        |(six, udp, length, what)| match (six, what) {
            (false, 0) => error_about::<V4>(udp, length),
            (true, 0) => error_about::<V6>(udp, length),
            (false, 1) => request::<V4>(Request::Ping, CLIENT, length),
            (true, 1) => request::<V6>(Request::Ping, CLIENT, length),
            (false, _) => request::<V4>(Request::Tcp, CLIENT, 2 * length),
            (true, _) => request::<V6>(Request::Udp, CLIENT, 2 * length),
        },
    );
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (valid, changes).prop_map(|(mut frame, changes)| {
        for (at, value) in changes {
            *at.get_mut(&mut frame) = value;
        }
        frame
    });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..220)]
}

/// Everything here, on the middle of some bytes; the bytes around are as before.
fn survives<F: Family>(bytes: &[u8], cut: usize) {
    const AROUND: usize = 64;
    let maps = HostMaps::with_weights(&[1]);
    let bytes = &bytes[..bytes.len() - cut.min(bytes.len())];
    let to = Translation { source: &[1; 4], destination: &[2; 4], ports: 3 };
    for step in 0..3 {
        let mut whole = vec![0xee; AROUND];
        whole.extend(bytes);
        whole.resize(whole.len() + AROUND, 0xee);
        let end = AROUND + bytes.len();
        let packet = Packet::from_slice(&mut whole[AROUND..end]);
        let _ = match step {
            0 => quoted::<F>(packet).map(|_| ()),
            1 => echo_reply::<F>(packet),
            _ => translate_quoted::<F>(packet, (&[4; 4], &[5; 4]), &to),
        };
        let _ = kind::<F>(Packet::from_slice(&mut whole[AROUND..end]));
        assert!(whole[..AROUND].iter().chain(&whole[end..]).all(|byte| *byte == 0xee));
    }
    for tell in [Tell::TimeExceeded, Tell::TooBig(1280)] {
        let mut frame = HostFrame::new(bytes);
        let verdict = super::tell::<F, _, _>(&maps, &mut frame, tell);
        if matches!(verdict, Verdict::TimeExceededSent | Verdict::TooBigSent) {
            let quote = frame.bytes().len() - 14 - F::HEADER - 8;
            assert!(quote == 128 || quote == F::HEADER + 8);
        } else {
            assert_eq!(frame.bytes(), bytes);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in any_frame(), cut in 0usize..40) {
        survives::<V4>(&bytes, cut);
        survives::<V6>(&bytes, cut);
    }

    #[test]
    fn a_translation_and_its_reverse_change_the_hops_alone(
        udp: bool, quoted in 8usize..80, there: ([u32; 4], [u32; 4], u32),
    ) {
        fn both<F: Family>(
            udp: bool, quoted: usize, there: &([u32; 4], [u32; 4], u32),
        ) -> Result<(), TestCaseError> {
            let mut frame = error_about::<F>(udp, quoted);
            let cut = |address: [u32; 4]| if F::FAMILY == 4 { [address[0], 0, 0, 0] } else { address };
            let (source, destination) = (cut(there.0), cut(there.1));
            let inner = Translation { source: &source, destination: &destination, ports: there.2 };
            translate_quoted::<F>(Packet::from_slice(&mut frame), (&destination, &source), &inner)
                .unwrap();
            let (vip, client, router) = (F::of(VIP), F::of(CLIENT), F::of(ROUTER));
            let inner = Translation { source: &vip, destination: &client, ports: ports(443, 50_000) };
            translate_quoted::<F>(Packet::from_slice(&mut frame), (&router, &vip), &inner).unwrap();
            let mut expected = error_about::<F>(udp, quoted);
            expected[if F::FAMILY == 4 { 22 } else { 21 }] -= 2;
            if F::FAMILY == 4 {
                expected[24..26].fill(0);
                let header = sum(&expected[14..34]).to_ne_bytes();
                expected[24..26].copy_from_slice(&header);
            }
            prop_assert_eq!(frame, expected);
            Ok(())
        }
        both::<V4>(udp, quoted, &there)?;
        both::<V6>(udp, quoted, &there)?;
    }
}
