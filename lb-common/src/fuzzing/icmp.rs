//! ICMP, step by step: what a message is, the reply to a ping, the flow that an error quotes and
//! its translation there and back, and the errors made here.
//!
//! Input: what to do, 48 bytes of addresses and ports to translate to, one byte for
//! [`mend`](super::bytes::mend), a frame.

use super::bytes::{ICMP, ICMP6, Input, Ip, TCP, UDP, be16, ip, sums, untagged};
use super::guarded::Guarded;
use super::world;
use crate::abi::Address;
use crate::frame::Frame;
use crate::icmp::{self, Icmp, IcmpKind, Tell};
use crate::ip::{Flow, Odd, V4, V6};
use crate::rewrite::Translation;
use crate::verdict::{Kind, Verdict};

/// What ICMP makes of any bytes.
pub fn icmp(input: &[u8]) {
    let mut input = Input(input);
    let what = input.byte();
    let to = To::read(&mut input);
    let bytes = input.frame();
    match be16(&bytes, 12) {
        0x0800 => of::<V4>(what, &to.cut(), &bytes),
        0x86dd => of::<V6>(what, &to, &bytes),
        _ => {}
    }
}

/// What to translate to.
struct To {
    source: Address,
    destination: Address,
    server: Address,
    ports: u32,
}

impl To {
    fn read(input: &mut Input<'_>) -> Self {
        let mut word = || u32::from_ne_bytes(input.array());
        let mut address = || [word(), word(), word(), word()];
        let (source, destination, server) = (address(), address(), address());
        Self { source, destination, server, ports: word() }
    }

    fn cut(&self) -> Self {
        let cut = |address: Address| [address[0], 0, 0, 0];
        Self {
            source: cut(self.source),
            destination: cut(self.destination),
            server: cut(self.server),
            ports: self.ports,
        }
    }
}

fn of<I: Icmp>(what: u8, to: &To, bytes: &[u8]) {
    let mut frame = Guarded::new(bytes);
    let mut flow = Flow::NONE;
    let end = I::decode(frame.packet(), &mut flow);
    if what & 1 == 0 && matches!(end, Ok(()) | Err(Odd::Icmp | Odd::Fragment)) {
        return told::<I>(what, bytes);
    }
    if end != Err(Odd::Icmp) {
        return;
    }
    let packet = ip(&bytes[14..]).unwrap();
    let kind = match (packet.is_v4(), packet.payload[0]) {
        (true, 8) | (false, 128) => IcmpKind::EchoRequest,
        (true, 3 | 4 | 11 | 12) | (false, 1..=4) => IcmpKind::Error,
        _ => IcmpKind::Other,
    };
    assert_eq!(icmp::kind::<I>(frame.packet()), kind);
    replied::<I>(bytes, kind, &packet);
    let quoted = icmp::quoted::<I>(frame.packet());
    assert_eq!(frame.bytes(), bytes, "reading writes nothing");
    // It is asked of errors only.
    if kind == IcmpKind::Error {
        assert_eq!(quoted, expected_flow::<I>(&packet));
        translated::<I>(bytes, to, quoted);
    }
}

fn replied<I: Icmp>(bytes: &[u8], kind: IcmpKind, request: &Ip<'_>) {
    let mut frame = Guarded::new(bytes);
    if icmp::echo_reply::<I>(frame.packet()).is_none() {
        assert_eq!(frame.bytes(), bytes);
        return;
    }
    assert_eq!(kind, IcmpKind::EchoRequest);
    let after = frame.bytes().to_vec();
    let reply = ip(&after[14..]).unwrap();
    assert_eq!((&after[..6], &after[6..12]), (&bytes[6..12], &bytes[..6]));
    assert_eq!((reply.source, reply.destination), (request.destination, request.source));
    assert_eq!((reply.hops, reply.protocol), (64, request.protocol));
    assert_eq!(reply.payload[0], if request.is_v4() { 0 } else { 129 });
    assert_eq!(reply.payload[4..], request.payload[4..]);
    assert_eq!(sums(&after), sums(bytes));
    assert_eq!(icmp::echo_reply::<I>(frame.packet()), None, "nobody answers an answer");
}

/// The flow that an error is about, read from its quote.
fn expected_flow<I: Icmp>(error: &Ip<'_>) -> Option<Flow> {
    let quote = error.payload.get(8..)?;
    let quoted = ip(quote).filter(|quoted| quoted.is_v4() == error.is_v4())?;
    let later = quoted.is_v4() && be16(quoted.header, 6) & 0x1fff != 0;
    let ports = quote.get(quoted.header.len()..quoted.header.len() + 8)?;
    if later || !matches!(quoted.protocol, TCP | UDP) || quoted.source != error.destination {
        return None;
    }
    let mut flow = Flow::NONE;
    flow.key.source = address(quoted.destination);
    flow.key.destination = address(quoted.source);
    flow.key.ports = u32::from_ne_bytes([ports[2], ports[3], ports[0], ports[1]]);
    flow.key.kind = I::FAMILY << 16 | u32::from(quoted.protocol);
    flow.tcp_flags = Flow::ASIDE;
    flow.length = (error.header.len() + error.length) as u32;
    Some(flow)
}

fn address(bytes: &[u8]) -> Address {
    let mut address = [0; 4];
    for (word, bytes) in address.iter_mut().zip(bytes.chunks(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap());
    }
    address
}

fn translated<I: Icmp>(bytes: &[u8], to: &To, quoted: Option<Flow>) {
    let mut frame = Guarded::new(bytes);
    let there = Translation { source: &to.destination, destination: &to.server, ports: to.ports };
    let outer = (&to.source, &to.destination);
    let done = icmp::translate_quoted::<I>(frame.packet(), outer, &there);
    assert_eq!(done.is_some(), quoted.is_some());
    let Some(flow) = quoted else {
        assert_eq!(frame.bytes(), bytes);
        return;
    };
    let after = frame.bytes().to_vec();
    assert_eq!(sums(&after), sums(bytes), "each sum is what it was");
    let error = ip(&after[14..]).unwrap();
    assert_eq!(address(error.source), to.source);
    assert_eq!(address(error.destination), to.destination);
    let now = icmp::quoted::<I>(frame.packet()).unwrap();
    assert_eq!((now.key.source, now.key.destination), (to.server, to.destination));
    assert_eq!(now.key.ports, to.ports.rotate_left(16));
    // And back.
    let before = ip(&bytes[14..]).unwrap();
    let outer = (&address(before.source), &address(before.destination));
    let back = Translation {
        source: outer.1,
        destination: &flow.key.source,
        ports: flow.key.ports.rotate_left(16),
    };
    icmp::translate_quoted::<I>(frame.packet(), outer, &back).unwrap();
    let mut expected = bytes.to_vec();
    expected[hops_at::<I>()] = before.hops.wrapping_sub(2);
    same_but_checksums(frame.bytes(), &expected);
    assert_eq!(sums(frame.bytes()), sums(bytes));
}

const fn hops_at<I: crate::ip::Ip>() -> usize {
    if I::FAMILY == 4 { 22 } else { 21 }
}

/// Whether frames are the same, where a checksum may be in its other form, or be of other hops:
/// that it is right is its sum's matter. No more than four words may differ.
fn same_but_checksums(got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len());
    let differ: Vec<usize> = (0..got.len()).filter(|at| got[*at] != expected[*at]).collect();
    let is_v4 = got[12] == 8;
    // Of the header, the message, the header quoted, and the transport quoted (UDP, TCP).
    let (places, quoted): (&[usize], usize) =
        if is_v4 { (&[24, 36, 52], 62) } else { (&[56], 102) };
    let of_transport = quoted + if got[if is_v4 { 51 } else { 68 }] == UDP { 6 } else { 16 };
    let may = |at: &usize| places.contains(&(at & !1)) || at & !1 == of_transport;
    assert!(differ.iter().all(may), "{differ:?}");
}

fn told<I: Icmp>(what: u8, bytes: &[u8]) {
    let tell = if what & 2 == 0 {
        Tell::TimeExceeded
    } else {
        Tell::TooBig(1 << (8 + u32::from(what >> 4)) | u32::from(what))
    };
    world::with(0, |maps| {
        maps.exhausted.set((what & 4 != 0).then_some(crate::abi::Limit::Icmp));
        let mut frame = Guarded::new(bytes);
        let verdict = icmp::tell::<I, _, _>(maps, &mut frame, tell);
        if verdict.kind() == Kind::Drop {
            assert_eq!(frame.bytes(), bytes, "there is room: it is not even begun");
            return;
        }
        assert!(what & 4 == 0, "the limit holds");
        is_error_about(frame.bytes(), bytes, verdict, tell);
    });
}

/// Whether a frame is the ICMP error that another one, which it quotes, is owed.
pub(super) fn is_error_about(error: &[u8], about: &[u8], verdict: Verdict, tell: Tell) {
    let (about_tag, about) = untagged(about);
    let (tag, error) = untagged(error);
    assert_eq!(tag, about_tag, "it goes where the packet came from");
    assert_eq!((&error[..6], &error[6..12]), (&about[6..12], &about[..6]));
    let (of, packet) = (ip(&error[14..]).unwrap(), &about[14..]);
    let is_v4 = of.is_v4();
    let (source, width) = if is_v4 { (12, 4) } else { (8, 16) };
    assert_eq!(of.destination, &packet[source..source + width]);
    assert_eq!(of.source, &packet[source + width..source + 2 * width]);
    assert_eq!((of.protocol, of.hops), (if is_v4 { ICMP } else { ICMP6 }, 64));
    assert_eq!(of.length, of.payload.len());
    assert_eq!(error.len(), 14 + of.header.len() + of.length, "nothing behind it");
    // RFC 4443, section 3: no longer than the least MTU; RFC 1812 says 576.
    assert!(error.len() - 14 <= 576);
    let quote = &of.payload[8..];
    assert_eq!(quote, &packet[..quote.len()], "the packet as it came");
    assert!(quote.len() >= of.header.len() + 8);
    let header = sums(&error);
    assert_eq!(header.transport, Some(0xffff));
    assert_eq!(header.header, is_v4.then_some(0xffff));
    let expected = match (verdict, tell, is_v4) {
        (Verdict::TimeExceededSent, Tell::TimeExceeded, true) => [11, 0, 0],
        (Verdict::TimeExceededSent, Tell::TimeExceeded, false) => [3, 0, 0],
        (Verdict::TooBigSent, Tell::TooBig(mtu), true) => [3, 4, mtu.min(0xffff)],
        (Verdict::TooBigSent, Tell::TooBig(mtu), false) => [2, 0, mtu],
        other => panic!("{other:?}"),
    };
    let mtu = u32::from_be_bytes(of.payload[4..8].try_into().unwrap());
    assert_eq!([u32::from(of.payload[0]), u32::from(of.payload[1]), mtu], expected);
    // No error about an error, to a group, or from nobody.
    let protocol = packet[if is_v4 { 9 } else { 6 }];
    if matches!(protocol, ICMP | ICMP6) {
        assert_eq!(packet[of.header.len()], if is_v4 { 8 } else { 128 });
    }
    assert_eq!(about[0] & 1, 0);
    let first = of.destination[0];
    let nobody = if is_v4 { matches!(first, 0 | 127 | 224..) } else { first == 0xff };
    assert!(!nobody);
}
