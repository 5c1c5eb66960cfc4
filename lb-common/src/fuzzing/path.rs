//! The whole path, packet after packet, over the maps of a world.
//!
//! Input: the world, three bytes for its state ([`world::unsettle`]), then steps: one byte of what
//! to do, one of how. A step is a frame, the reply to what was sent last, an ICMP error about it,
//! some time that passes, or a backend that changes.

mod sent;

use super::bytes::{Input, MAX_FRAME, be16, ip, mend, untagged};
use super::guarded::Guarded;
use super::world::{self, BACKENDS};
use super::{bytes, icmp};
use crate::abi::{KIND_NAT, STATE_REPLY};
use crate::host::HostMaps;
use crate::icmp::Tell;
use crate::maps::Maps;
use crate::nat::other_key;
use crate::path::{Sent, run, run_whole};
use crate::verdict::{Kind, Verdict};

/// What the path makes of any packets.
pub fn path(input: &[u8]) {
    let mut input = Input(input);
    world::with(usize::from(input.byte()), |maps| {
        world::unsettle(maps, &mut input);
        let mut last = None;
        for _ in 0..MOST_STEPS {
            if input.0.is_empty() {
                break;
            }
            last = step(maps, &mut input, last);
        }
        connections_are_pairs(maps);
    });
}

const MOST_STEPS: usize = 6;

/// A frame that was sent on, and what it was.
struct Last {
    before: Vec<u8>,
    ingress: u32,
    sent: Sent,
    after: Vec<u8>,
}

fn step(maps: &HostMaps, input: &mut Input<'_>, last: Option<Last>) -> Option<Last> {
    let [what, how] = input.array();
    let ingress = 3 + u32::from(what >> 6);
    match (what & 7, last) {
        (0..=3, _) => {
            let [low, high] = input.array();
            let length = usize::from(u16::from_le_bytes([low, high]) & 0x3ff);
            let mut frame = input.take(length).to_vec();
            let padded = frame.len() + usize::from(how) * 8;
            if what & 8 != 0 && padded <= MAX_FRAME {
                frame.resize(padded, 0);
            }
            mend(&mut frame, what >> 4);
            through(maps, &frame, ingress)
        }
        (4, Some(last)) => {
            let reply = reply(&last, how);
            let next = through(maps, &reply, last.sent.ifindex);
            comes_back(maps, &last, &reply, next.as_ref());
            next
        }
        (5, Some(last)) => through(maps, &error(&last, how), last.sent.ifindex),
        (6, last) => {
            maps.now.set(maps.now.get().wrapping_add(u32::from(how)));
            last
        }
        (7, last) => {
            let backend = u32::from(how) % BACKENDS;
            maps.set_word(backend, world::word(backend, what >> 3));
            last
        }
        (_, last) => last,
    }
}

/// A frame through the path, with all that must hold of any frame.
fn through(maps: &HostMaps, before: &[u8], ingress: u32) -> Option<Last> {
    maps.sent.take();
    maps.new_flows.take();
    maps.doubted.take();
    maps.take_events();
    let (whole, mut other) = (maps.fork(), Guarded::new(before));
    let mut frame = Guarded::new(before);
    let end = run(maps, &mut frame, ingress);
    let after = frame.bytes().to_vec();
    // The short cut makes no difference but in time.
    assert_eq!(end, run_whole(&whole, &mut other, ingress));
    assert_eq!(after, other.bytes());
    assert_eq!(maps.left(), whole.left());
    let counted = maps.sent.take();
    match end {
        Ok(sent) => {
            sent::check(maps, before, &after, sent, &counted);
            Some(Last { before: before.to_vec(), ingress, sent, after })
        }
        Err(verdict) => {
            assert!(counted.is_empty(), "one end: {verdict:?}, and {counted:?}");
            maps.take_events();
            ended(maps, before, &after, verdict);
            None
        }
    }
}

fn ended(maps: &HostMaps, before: &[u8], after: &[u8], verdict: Verdict) {
    match verdict {
        Verdict::DropInternal => panic!("these maps do not contradict each other"),
        Verdict::NatReply => panic!("the caller's to count, not an end"),
        Verdict::TimeExceededSent => {
            icmp::is_error_about(after, before, verdict, Tell::TimeExceeded);
        }
        Verdict::TooBigSent => {
            let (_, error) = untagged(after);
            let mtu = &ip(&error[14..]).unwrap().payload[4..8];
            let mtu = u32::from_be_bytes(mtu.try_into().unwrap());
            icmp::is_error_about(after, before, verdict, Tell::TooBig(mtu));
            let least = if be16(&error, 12) == 0x0800 { 68 } else { 1280 };
            assert!((least..maps.settings().client_mtu.max(1501)).contains(&mtu), "{mtu}");
        }
        Verdict::ResetSent => is_reset_of(after, before),
        Verdict::EchoReply => {
            assert_eq!(after.len(), before.len());
            let (before, after) = (untagged(before).1, untagged(after).1);
            assert_eq!(bytes::sums(&after), bytes::sums(&before));
        }
        // A connection's SYN is clamped before a port is found for it.
        Verdict::DropNatFull | Verdict::DropNatNoPort => {}
        // Found without a next hop only when it was translated.
        Verdict::DropNoNextHop => {}
        _ if verdict.kind() == Kind::Drop => assert_eq!(after, untagged(before).1, "{verdict:?}"),
        _ => assert_eq!(after, before, "{verdict:?}"),
    }
}

/// A reset by RFC 9293, section 3.10.7.1, from whom the segment was sent to; the tag stays.
fn is_reset_of(after: &[u8], before: &[u8]) {
    let ((tag, after), (tag_before, before)) = (untagged(after), untagged(before));
    assert_eq!(tag, tag_before);
    assert!(bytes::sums(&after).are_right());
    assert_eq!((&after[..6], &after[6..12]), (&before[6..12], &before[..6]));
    assert!(after.len() <= before.len());
    let (reset, segment) = (ip(&after[14..]).unwrap(), ip(&before[14..]).unwrap());
    assert_eq!((reset.source, reset.destination), (segment.destination, segment.source));
    let (reset, segment) = (reset.payload, segment.payload);
    assert_eq!((reset.len(), reset[12]), (20, 0x50), "a header and nothing else");
    assert_eq!((&reset[..2], &reset[2..4]), (&segment[2..4], &segment[..2]));
    let number = |of: &[u8], at: usize| u32::from_be_bytes(of[at..at + 4].try_into().unwrap());
    let flags = segment[13];
    assert_eq!(flags & 4, 0, "no reset answers a reset");
    let expected = if flags & 0x10 == 0 {
        let text = segment.len() - usize::from(segment[12] >> 4) * 4;
        let control = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        (0, number(segment, 4).wrapping_add(text as u32 + control), 0x14)
    } else {
        (number(segment, 8), 0, 4)
    };
    assert_eq!((number(reset, 4), number(reset, 8), reset[13]), expected);
}

/// Each entry has the other direction's, and both agree.
fn connections_are_pairs(maps: &HostMaps) {
    let entries = maps.nat_entries();
    for (key, entry) in &entries {
        let other = other_key(entry, key.kind);
        let pair = entries.get(&other).unwrap();
        assert_eq!(other_key(pair, key.kind), *key);
        assert_eq!(pair.row, entry.row);
        assert_eq!((pair.state ^ entry.state) & STATE_REPLY, STATE_REPLY);
        assert_eq!((pair.ifindex, pair.vlan), (entry.ifindex, entry.vlan));
    }
}

/// What the receiver of a frame answers: both ends exchanged, other TCP flags.
fn reply(last: &Last, flags: u8) -> Vec<u8> {
    let start = if untagged(&last.after).0.is_some() { 18 } else { 14 };
    let mut frame = [&last.after[6..12], &last.after[..6], &last.after[12..]].concat();
    let Some(packet) = last.after.get(start..).and_then(ip) else { return frame };
    let (addresses, width) = if packet.is_v4() { (start + 12, 4) } else { (start + 8, 16) };
    frame[addresses..addresses + 2 * width].rotate_left(width);
    let ports = addresses + 2 * width;
    if packet.whole
        && packet.payload.len() >= 8
        && matches!(packet.protocol, bytes::TCP | bytes::UDP)
    {
        frame[ports..ports + 4].rotate_left(2);
        if packet.protocol == bytes::TCP && packet.payload.len() >= 20 {
            frame[ports + 13] = flags;
            mend(&mut frame, bytes::CHECKSUMS);
        }
    }
    frame
}

/// What a router answers on the way to the receiver: an error that quotes the frame.
fn error(last: &Last, how: u8) -> Vec<u8> {
    let start = if untagged(&last.after).0.is_some() { 18 } else { 14 };
    let Some(packet) = last.after.get(start..).filter(|packet| ip(packet).is_some()) else {
        return Vec::new();
    };
    let quote = &packet[..packet.len().min(28 + 8 * usize::from(how >> 2))];
    let is_v4 = packet[0] == 0x45;
    let mut frame = [&last.after[6..12], &last.after[..6], &last.after[12..start]].concat();
    if is_v4 {
        frame.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, bytes::ICMP, 0, 0, 10, 9, 8, 7]);
        frame.extend(&packet[12..16]);
        frame.extend([[3, 11, 12, 4][usize::from(how & 3)], 4, 0, 0, 0, 0, 5, 0]);
    } else {
        frame.extend([0x60, 0, 0, 0, 0, 0, bytes::ICMP6, 64]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9]);
        frame.extend(&packet[8..24]);
        frame.extend([1 + (how & 3), 0, 0, 0, 0, 0, 5, 0]);
    }
    frame.extend(quote);
    mend(&mut frame, bytes::LENGTHS | bytes::CHECKSUMS);
    frame
}

/// The reply to a packet that NAT sent on goes to its client, from whom the client sent it to.
fn comes_back(maps: &HostMaps, last: &Last, reply: &[u8], sent: Option<&Last>) {
    let kind_of = |row| maps.server(maps.word(row)?.server()).map(|server| server.kind);
    if last.sent.row == Sent::TO_CLIENT || kind_of(last.sent.row) != Some(KIND_NAT) {
        return;
    }
    let (_, plain) = untagged(reply);
    let packet = ip(&plain[14..]).unwrap();
    if !matches!(packet.protocol, bytes::TCP | bytes::UDP) || packet.hops <= 1 {
        return;
    }
    let sent = sent.unwrap();
    assert_eq!(sent.sent.row, Sent::TO_CLIENT);
    assert_eq!(sent.sent.ifindex, last.ingress);
    let (tag, before) = untagged(&last.before);
    assert_eq!(sent.sent.vlan, tag.map_or(0, |tag| u32::from(be16(&tag, 2)) & 0xfff));
    let (_, after) = untagged(&sent.after);
    assert_eq!((&after[..6], &after[6..12]), (&before[6..12], &before[..6]));
    let (client, answer) = (ip(&before[14..]).unwrap(), ip(&after[14..]).unwrap());
    assert_eq!((answer.source, answer.destination), (client.destination, client.source));
    assert_eq!(answer.payload[..2], client.payload[2..4]);
    assert_eq!(answer.payload[2..4], client.payload[..2]);
}
