//! Decoding of both families, the tag off and on, and which part of the path a frame takes.
//!
//! Input: one byte for [`mend`](super::bytes::mend), a frame.

use super::bytes::{ICMP, ICMP6, Input, TCP, UDP, be16, untagged};
use super::guarded::Guarded;
use crate::frame::Frame;
use crate::ip::{Flow, Ip, Odd, V4, V6};
use crate::path::{Part, which};
use crate::verdict::{Kind, Verdict};
use crate::vlan;

/// What decoding makes of any bytes.
pub fn parse(input: &[u8]) {
    let bytes = Input(input).frame();
    tag_off_and_on(&bytes);
    let mut frame = Guarded::new(&bytes);
    decode::<V4>(&mut frame, &bytes, expected_v4(&bytes));
    decode::<V6>(&mut frame, &bytes, expected_v6(&bytes));
    part(&mut frame, &bytes);
    assert_eq!(frame.bytes(), bytes, "reading writes nothing");
}

fn tag_off_and_on(bytes: &[u8]) {
    let mut frame = Guarded::new(bytes);
    let (expected, plain) = untagged(bytes);
    match vlan::pop(&mut frame) {
        Ok(tag) => {
            assert_eq!(frame.bytes(), plain);
            assert_eq!(tag != 0, expected.is_some());
            let id = expected.map_or(0, |tag| u32::from(be16(&tag, 2)) & 0xfff);
            assert_eq!(vlan::id(tag), id);
            vlan::push(&mut frame, tag).unwrap();
        }
        Err(verdict) => assert_eq!(verdict.kind(), Kind::Pass),
    }
    assert_eq!(frame.bytes(), bytes);
}

/// What a frame is, as far as a balancer cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Unaddressed,
    Flow,
    Icmp,
    Fragment,
    Neither,
}

fn decode<I: Ip>(frame: &mut Guarded, bytes: &[u8], expected: Expected) {
    let mut flow = Flow::NONE;
    let end = I::decode(frame.packet(), &mut flow);
    let got = match end {
        Ok(()) => Expected::Flow,
        Err(Odd::Unaddressed) => Expected::Unaddressed,
        Err(Odd::Icmp) => Expected::Icmp,
        Err(Odd::Fragment) => Expected::Fragment,
        Err(Odd::Verdict(verdict)) => {
            assert!(verdict.kind() == Kind::Drop || verdict == Verdict::PassNoService);
            Expected::Neither
        }
    };
    assert_eq!(got, expected);
    if got == Expected::Unaddressed {
        return;
    }
    let (addresses, width) = if I::FAMILY == 4 { (26, 4) } else { (22, 16) };
    let word = |at: usize, i: usize| {
        let at = at + 4 * i;
        if 4 * i >= width { 0 } else { u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) }
    };
    let address = |at| [word(at, 0), word(at, 1), word(at, 2), word(at, 3)];
    assert_eq!(flow.key.source, address(addresses));
    assert_eq!(flow.key.destination, address(addresses + width));
    assert_eq!(flow.key.kind >> 16, I::FAMILY);
    let ports = addresses + 2 * width;
    if got != Expected::Flow {
        assert_eq!((flow.key.ports, flow.tcp_flags), (0, 0), "{end:?}");
        return;
    }
    assert_eq!(flow.key.ports.to_ne_bytes(), bytes[ports..ports + 4]);
    assert_eq!(flow.tcp_flags, if flow.is_tcp() { bytes[ports + 13] } else { 0 });
    assert!(flow.length as usize + 14 <= bytes.len());
}

const fn least(protocol: u8) -> usize {
    if protocol == TCP { 20 } else { 8 }
}

fn expected_v4(bytes: &[u8]) -> Expected {
    let Some(header) = bytes.get(14..34) else { return Expected::Unaddressed };
    let (protocol, length) = (header[9], usize::from(be16(header, 2)));
    let fragment = be16(header, 6) & 0x3fff != 0;
    if header[0] >> 4 != 4 {
        return Expected::Unaddressed;
    }
    if header[0] != 0x45 || length + 14 > bytes.len() {
        return Expected::Neither;
    }
    match (protocol, fragment) {
        (TCP | UDP, true) if length > 20 => Expected::Fragment,
        (TCP | UDP, false) if length >= 20 + least(protocol) => Expected::Flow,
        (ICMP, false) if length >= 28 => Expected::Icmp,
        _ => Expected::Neither,
    }
}

fn expected_v6(bytes: &[u8]) -> Expected {
    let Some(header) = bytes.get(14..54) else { return Expected::Unaddressed };
    let (protocol, length) = (header[6], usize::from(be16(header, 4)));
    if header[0] >> 4 != 6 {
        return Expected::Unaddressed;
    }
    if length + 54 > bytes.len() {
        return Expected::Neither;
    }
    match protocol {
        TCP | UDP if length >= least(protocol) => Expected::Flow,
        ICMP6 if length >= 8 => Expected::Icmp,
        44 if length >= 8 && matches!(bytes[54], TCP | UDP) => Expected::Fragment,
        _ => Expected::Neither,
    }
}

fn part(frame: &mut Guarded, bytes: &[u8]) {
    let part = which(frame.packet());
    let expected = match be16(bytes, 12) {
        _ if bytes.len() < 14 => Err(Verdict::PassBadHeader),
        0x0800 if bytes.len() < 34 => Err(Verdict::PassBadHeader),
        0x86dd if bytes.len() < 54 => Err(Verdict::PassBadHeader),
        0x0800 => Ok(match (bytes[23], bytes.get(34), bytes.len() >= 42) {
            (ICMP, Some(3 | 4 | 11 | 12), true) => Part::Quoted4,
            (ICMP, ..) => Part::Ping4,
            _ => Part::Balance4,
        }),
        0x86dd => Ok(match (bytes[20], bytes.get(54), bytes.len() >= 62) {
            (ICMP6, Some(1..=4), true) => Part::Quoted6,
            (ICMP6, ..) => Part::Ping6,
            _ => Part::Balance6,
        }),
        _ => Err(Verdict::PassNotIp),
    };
    assert_eq!(part, expected);
}
