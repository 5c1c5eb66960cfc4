//! Headers rewritten: NAT there and back, tunnels in and out, segment sizes, QUIC's routes.
//!
//! Input: what to do, 44 bytes for it, one byte for [`mend`](super::bytes::mend), a frame.

use bytemuck::Zeroable;

use super::bytes::{Input, Sums, UDP, be16, ip, sums};
use super::decap::Believe;
use super::guarded::Guarded;
use crate::abi::{Address, FEATURES_ALL, KIND_GUE6, KIND_IPIP4, Server, Settings};
use crate::decap;
use crate::encap::{Encapsulate, encapsulate, overhead};
use crate::frame::Frame;
use crate::ip::{Flow, Odd, V4, V6};
use crate::mss::{self, Segment};
use crate::path::Family;
use crate::quic::{self, Datagram, Quic};
use crate::rewrite::{Translate, Translation};
use crate::verdict::Verdict;

/// What rewriting makes of any bytes.
pub fn rewrite(input: &[u8]) {
    let mut input = Input(input);
    let what = input.byte();
    let mut words = Words(input.take(44));
    let bytes = input.frame();
    match be16(&bytes, 12) {
        0x0800 => of::<V4>(what, &mut words, &bytes),
        0x86dd => of::<V6>(what, &mut words, &bytes),
        _ => {}
    }
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn word(&mut self) -> u32 {
        let mut input = Input(self.0);
        let word = u32::from_ne_bytes(input.array());
        self.0 = input.0;
        word
    }

    fn address(&mut self, family: u32) -> Address {
        let first = self.word();
        let mut more = || if family == 4 { 0 } else { self.word() };
        [first, more(), more(), more()]
    }
}

fn of<I: Family>(what: u8, words: &mut Words<'_>, bytes: &[u8]) {
    let mut frame = Guarded::new(bytes);
    let mut flow = Flow::NONE;
    let end = I::decode(frame.packet(), &mut flow);
    // What has no hop left is refused before.
    let hops = bytes.get(14..).and_then(ip).map_or(0, |ip| ip.hops);
    match (what & 3, end) {
        (0 | 1, _) if hops < 2 => {}
        (0, Ok(())) => translated::<I>(bytes, &flow, words),
        (1, Ok(()) | Err(Odd::Icmp | Odd::Fragment)) => tunnelled::<I>(what >> 2, words, bytes),
        (2, Ok(())) if flow.is_syn() => clamped::<I>(words.word() as u16, bytes),
        (3, Ok(())) if !flow.is_tcp() => routed::<I>(words, bytes),
        _ => {}
    }
}

fn translated<I: Translate>(bytes: &[u8], flow: &Flow, words: &mut Words<'_>) {
    let (source, destination) = (words.address(I::FAMILY), words.address(I::FAMILY));
    let ports = words.word();
    let mut frame = Guarded::new(bytes);
    let to = Translation { source: &source, destination: &destination, ports };
    I::translate(frame.packet(), flow, &to).unwrap();
    let hops = ip(&bytes[14..]).unwrap().hops;
    assert_eq!(I::hops(frame.packet()), Some(hops.wrapping_sub(1)));
    assert_eq!(sums(frame.bytes()), sums(bytes));
    let mut now = Flow::NONE;
    assert_eq!(I::decode(frame.packet(), &mut now), Ok(()));
    assert_eq!((now.key.source, now.key.destination), (source, destination));
    assert_eq!((now.key.ports, now.key.kind), (ports, flow.key.kind));
    assert_eq!((now.tcp_flags, now.length), (flow.tcp_flags, flow.length));
    // And back.
    let key = &flow.key;
    let back = Translation { source: &key.source, destination: &key.destination, ports: key.ports };
    I::translate(frame.packet(), &now, &back).unwrap();
    assert_eq!(sums(frame.bytes()), sums(bytes));
    let (hops_at, transport) = if I::FAMILY == 4 { (22, 34) } else { (21, 54) };
    let transport_sum = transport + if flow.is_tcp() { 16 } else { 6 };
    let mut expected = bytes.to_vec();
    expected[hops_at] = hops.wrapping_sub(2);
    let mut places = vec![transport_sum];
    places.extend((I::FAMILY == 4).then_some(24));
    for at in places {
        expected[at..at + 2].copy_from_slice(&frame.bytes()[at..at + 2]);
    }
    assert_eq!(frame.bytes(), expected, "what it was, two hops on");
    // A datagram that had no checksum has none, and no other lost its own.
    let had = |bytes: &[u8]| flow.is_tcp() || be16(bytes, transport_sum) != 0;
    assert_eq!(had(frame.bytes()), had(bytes));
}

fn tunnelled<I: Encapsulate>(kind: u8, words: &mut Words<'_>, bytes: &[u8]) {
    let kind = KIND_IPIP4 + u32::from(kind & 3);
    let over = if kind & 1 == 0 { 4 } else { 6 };
    let server = Server {
        ethernet: [words.word() & !1u32.to_le(), 2, 3],
        ifindex: 1,
        address: words.address(over),
        source: words.address(over),
        kind,
        mtu: 1500,
        vlan: 0,
        entropy: words.word(),
    };
    let hash = u64::from(words.word()) << 16;
    let mut frame = Guarded::new(bytes);
    let settings = Settings { gue_port: 6080, features: FEATURES_ALL, ..Settings::zeroed() };
    encapsulate::<I, _>(&mut frame, &server, hash, &settings).unwrap();
    out_again(bytes, frame.bytes(), &server);
}

/// Checks a packet in a tunnel to this server, and that it comes out as it went in, a hop on.
pub(super) fn out_again(before: &[u8], tunnelled: &[u8], server: &Server) {
    assert!((KIND_IPIP4..=KIND_GUE6).contains(&server.kind));
    assert_eq!(tunnelled.len(), before.len() + overhead(server.kind) as usize);
    let outer = ip(&tunnelled[14..]).unwrap();
    let family = if outer.is_v4() { 0x0800 } else { 0x86dd };
    assert_eq!(be16(tunnelled, 12), family);
    let inner = ip(&before[14..]).unwrap();
    let added = overhead(server.kind) as usize;
    assert_eq!(outer.header.len() + outer.length, added + inner.header.len() + inner.length);
    let (had, has) = (sums(before), sums(tunnelled));
    assert_eq!(has.header, outer.is_v4().then_some(0xffff));
    // With an outer checksum, it is right where the inner ones are; and none goes without need.
    let vouched = had.are_right() && had.transport.is_some();
    if vouched && server.kind == KIND_GUE6 {
        assert_eq!(has.transport, expected_outer(before, &had));
    }
    let mut frame = Guarded::new(tunnelled);
    let verdict = decap::run(&Believe { v4: true, v6: true }, &mut frame);
    assert_eq!(verdict, Verdict::PassDecapsulated);
    let (hops_at, sum_at) = if inner.is_v4() { (22, Some(24)) } else { (21, None) };
    let mut expected = before.to_vec();
    expected[..12].copy_from_slice(&tunnelled[..12]);
    expected[hops_at] = inner.hops.wrapping_sub(1);
    if let Some(at) = sum_at {
        expected[at..at + 2].copy_from_slice(&frame.bytes()[at..at + 2]);
    }
    assert_eq!(frame.bytes(), expected);
    assert_eq!(sums(frame.bytes()), had);
}

/// The sum over an outer datagram; `None` if it has no checksum.
fn expected_outer(before: &[u8], had: &Sums) -> Option<u16> {
    let inner = ip(&before[14..]).unwrap();
    // A datagram's checksum says nothing of what is behind it.
    let whole = inner.protocol != UDP || usize::from(be16(inner.payload, 4)) == inner.length;
    had.transport.filter(|_| whole)
}

fn clamped<I: Segment>(limit: u16, bytes: &[u8]) {
    let mut frame = Guarded::new(bytes);
    let done = mss::clamp::<I>(frame.packet(), limit);
    let mut expected = bytes.to_vec();
    let packet = ip(&bytes[14..]).unwrap();
    let tcp = 14 + packet.header.len();
    let option = option_at(packet.payload).filter(|at| be16(packet.payload, at + 2) > limit);
    assert_eq!(done, option.is_some());
    if let Some(at) = option {
        let at = tcp + at + 2;
        expected[at..at + 2].copy_from_slice(&limit.to_be_bytes());
        expected[tcp + 16..tcp + 18].copy_from_slice(&frame.bytes()[tcp + 16..tcp + 18]);
    }
    assert_eq!(frame.bytes(), expected);
    assert_eq!(sums(frame.bytes()), sums(bytes));
    assert!(!mss::clamp::<I>(frame.packet(), limit), "once is enough");
}

/// Where the first maximum segment size option of a segment is, if all before it are sound.
fn option_at(segment: &[u8]) -> Option<usize> {
    let end = usize::from(segment[12] >> 4) * 4;
    if end > segment.len() {
        return None;
    }
    let mut at = 20;
    while at + 4 <= end {
        match (segment[at], segment[at + 1]) {
            (0, _) => return None,
            (1, _) => at += 1,
            (2, 4) => return Some(at),
            (2, _) | (_, 0 | 1) => return None,
            (_, length) => at += usize::from(length),
        }
    }
    None
}

fn routed<I: Datagram>(words: &mut Words<'_>, bytes: &[u8]) {
    let config = words.word() & 0x7ff;
    let mut frame = Guarded::new(bytes);
    let quic = quic::route::<I>(frame.packet(), config);
    assert_eq!(frame.bytes(), bytes, "reading writes nothing");
    let udp = ip(&bytes[14..]).unwrap().payload;
    let length = usize::from(be16(udp, 4));
    let payload = udp.get(8..).filter(|_| length >= 24).unwrap_or_default();
    // By the header alone, also where the frame ends before the datagram does.
    let whole = bytes.get(14 + if I::FAMILY == 4 { 28 } else { 48 }..).unwrap_or_default();
    let payload = if payload.len() < 16 && length >= 24 { whole } else { payload };
    assert_eq!(quic, expected_route(payload, config));
}

/// draft-ietf-quic-load-balancers, sections 3 and 5.
fn expected_route(payload: &[u8], config: u32) -> Quic {
    let (wanted, length) = (config & 7, (config >> 8) as usize & 0xff);
    if payload.len() < 16 {
        return Quic::Hash;
    }
    let id = if payload[0] & 0x80 == 0 {
        &payload[1..]
    } else {
        let version = &payload[1..5];
        let kind = payload[0] >> 4 & 3;
        let kind = match version {
            [0, 0, 0, 1] => kind,
            [0x6b, 0x33, 0x43, 0xcf] => (kind + 3) % 4,
            _ => return Quic::New,
        };
        match kind {
            0 | 1 => return Quic::New,
            2 if usize::from(payload[5]) > length => &payload[6..],
            _ => return Quic::Hash,
        }
    };
    if u32::from(id[0] >> 5) != wanted || wanted == 7 || !(1..=8).contains(&length) {
        return Quic::Hash;
    }
    let mut bytes = [0; 8];
    bytes[..length].copy_from_slice(&id[1..=length]);
    Quic::Server(u64::from_ne_bytes(bytes))
}
