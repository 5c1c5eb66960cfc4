//! What goes straight and what does not. That it then ends as it would on the whole path is checked
//! on every frame of the fuzz target `path`, whose corpus the tests replay.

use super::*;
use crate::abi::{
    KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, SERVICE_HASH_SOURCE, SERVICE_TRACK, Word,
};
use crate::frame::HostFrame;
use crate::host::{HostMaps, NAT4, NAT6, VIP4, VIP6};
use crate::path::{Stop, from_word, run_whole, to_word};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const INGRESS: u32 = 3;

/// A segment without options, or a datagram of 12 bytes: from a client, port 40000.
fn frame(six: bool, protocol: u8, to: [u32; 4], port: u16, flags: u8) -> Vec<u8> {
    let words = |address: [u32; 4]| address.map(u32::to_ne_bytes).concat();
    let mut frame = [&OUR_MAC[..], &CLIENT_MAC[..]].concat();
    if six {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77]);
        frame.extend(words(to));
    } else {
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 198, 51, 100, 7]);
        frame.extend(&words(to)[..4]);
    }
    frame.extend([40_000u16.to_be_bytes(), port.to_be_bytes()].concat());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    if protocol == 17 {
        let length = frame.len() - 16;
        frame[length..length + 2].copy_from_slice(&20u16.to_be_bytes());
    }
    frame
}

fn maps(six: bool, flags: u32, kind: u32) -> HostMaps {
    let mut maps = HostMaps::with_weights(&[1, 1, 1]);
    let family = if six { 6 } else { 4 };
    maps.add_frontend(family, 80, 6, flags);
    assert!(maps.add_record(family, if six { VIP6 } else { VIP4 }, 80, 17, flags));
    for server in &mut maps.servers {
        server.kind = kind;
        server.source = if six { NAT6 } else { NAT4 };
    }
    maps
}

const fn vip(six: bool) -> [u32; 4] {
    if six { VIP6 } else { VIP4 }
}

/// How a frame ends on the straight way; `None`: not there, and then nothing has changed.
fn straight(maps: &HostMaps, before: &[u8]) -> Option<Result<Sent, Verdict>> {
    let (maps, whole) = (maps.fork(), maps.fork());
    let mut moving = HostFrame::new(before);
    let end = run(&maps, &mut moving, INGRESS, |end| to_word(end.map_err(Stop::Verdict)));
    if end == NOT_STRAIGHT {
        assert_eq!(moving.bytes(), before);
        assert_eq!(maps.left(), whole.left());
        return None;
    }
    let mut other = HostFrame::new(before);
    assert_eq!(from_word(end), run_whole(&whole, &mut other, INGRESS));
    assert_eq!(moving.bytes(), other.bytes());
    assert_eq!(maps.left(), whole.left());
    Some(from_word(end))
}

#[test]
fn every_mode_without_state_is_straight() {
    for kind in [KIND_DSR, KIND_IPIP4, KIND_IPIP6, KIND_GUE4, KIND_GUE6] {
        for six in [false, true] {
            for (protocol, flags) in [(6, SYN), (6, ACK), (17, 0)] {
                let maps = maps(six, 0, kind);
                let frame = frame(six, protocol, vip(six), 80, flags);
                assert!(matches!(straight(&maps, &frame), Some(Ok(_))), "{kind} {six} {protocol}");
            }
        }
    }
}

#[test]
fn an_open_nat_connection_is_straight_both_ways() {
    for six in [false, true] {
        // That it would be reset costs it nothing while it is alive.
        let maps = maps(six, SERVICE_NAT | SERVICE_RESET, KIND_NAT);
        let syn = frame(six, 6, vip(six), 80, SYN);
        assert_eq!(straight(&maps, &syn), None, "opens a connection");
        let mut moving = HostFrame::new(&syn);
        run_whole(&maps, &mut moving, INGRESS).unwrap();
        let ack = frame(six, 6, vip(six), 80, ACK);
        assert!(matches!(straight(&maps, &ack), Some(Ok(_))));
        let mut moved = ack.clone();
        moved[11] ^= 1;
        assert_eq!(straight(&maps, &moved), None, "another router's");

        let mut reply = moving.bytes().to_vec();
        let (at, width) = if six { (22, 16) } else { (26, 4) };
        reply[at..at + 2 * width].rotate_left(width);
        reply[at + 2 * width..at + 2 * width + 4].rotate_left(2);
        let flags = at + 2 * width + 13;
        reply[flags] = ACK;
        let end = straight(&maps, &reply);
        assert!(matches!(end, Some(Ok(Sent { row: Sent::TO_CLIENT, .. }))), "{end:?}");
        reply[flags] = SYN | ACK;
        assert_eq!(straight(&maps, &reply), None, "its segment size may be clamped");
        maps.set_word(0, Word::new(0, 0, 0, 1, false, false));
        maps.set_word(1, Word::new(0, 0, 1, 1, false, false));
        maps.set_word(2, Word::new(0, 0, 2, 1, false, false));
        assert_eq!(straight(&maps, &ack), None, "its backend is gone");
    }
}

#[test]
fn what_is_for_nobody_here_passes() {
    for six in [false, true] {
        let mut maps = maps(six, 0, KIND_DSR);
        let mut to = vip(six);
        to[if six { 3 } else { 0 }] ^= u32::from_ne_bytes([0, 0, 0, 0x40]);
        let stranger = frame(six, 6, to, 80, ACK);
        assert_eq!(straight(&maps, &stranger), Some(Err(Verdict::PassNotVip)));
        assert_eq!(straight(&maps, &frame(six, 6, vip(six), 81, ACK)), None, "another port");
        let nat = if six { NAT6 } else { NAT4 };
        assert_eq!(straight(&maps, &frame(six, 6, nat, 81, ACK)), None, "maybe a reply");
        maps.add_prefix(if six { 6 } else { 4 }, to, 24);
        assert_eq!(straight(&maps, &stranger), None, "in a prefix");
    }
}

#[test]
fn what_is_special_is_not_straight() {
    let plain = || maps(false, 0, KIND_IPIP4);
    let ack = frame(false, 6, VIP4, 80, ACK);
    for flags in [SERVICE_HASH_SOURCE, SERVICE_TRACK] {
        assert_eq!(straight(&maps(false, flags, KIND_IPIP4), &ack), None);
    }
    let clamping = maps(false, SERVICE_MSS, KIND_IPIP4);
    assert!(straight(&clamping, &ack).is_some());
    assert_eq!(straight(&clamping, &frame(false, 6, VIP4, 80, SYN)), None);

    let edits: [fn(&mut Vec<u8>); 6] = [
        |frame| frame[14] = 0x46,
        |frame| frame[20] = 0x20,
        |frame| frame[21] = 1,
        |frame| frame[22] = 1,
        |frame| frame[17] = 200,
        |frame| frame[23] = 1,
    ];
    for (at, edit) in edits.into_iter().enumerate() {
        let mut frame = ack.clone();
        edit(&mut frame);
        assert_eq!(straight(&plain(), &frame), None, "edit {at}");
    }
    let tagged = [&ack[..12], &[0x81, 0, 0, 5], &ack[12..]].concat();
    assert_eq!(straight(&plain(), &tagged), None);
    for length in 0..ack.len() {
        assert_eq!(straight(&plain(), &ack[..length]), None, "{length}");
    }
}

#[test]
fn what_its_backend_does_not_take_is_not_straight() {
    let ack = frame(false, 6, VIP4, 80, ACK);
    for (at, word) in [
        Word::new(0, Word::FULL, 0, 0, true, false),
        Word::new(Word::FULL, 0, 0, 0, true, false),
        Word::new(0, 0, 0, 0, false, false),
        Word::new(Word::FULL, Word::FULL, 0, 0, true, true),
    ]
    .into_iter()
    .enumerate()
    {
        let maps = maps(false, 0, KIND_DSR);
        (0..3).for_each(|backend| maps.set_word(backend, word));
        assert_eq!(straight(&maps, &ack), None, "word {at}");
    }
    let edits: [fn(&mut Server); 4] = [
        |server| server.ifindex = 0,
        |server| server.ifindex = IFINDEX_LOCAL,
        |server| server.vlan = 7,
        |server| server.mtu = 59,
    ];
    for (at, edit) in edits.into_iter().enumerate() {
        let mut maps = maps(false, 0, KIND_IPIP4);
        maps.servers.iter_mut().for_each(edit);
        assert_eq!(straight(&maps, &ack), None, "edit {at}");
    }
}

#[test]
fn a_marked_slot_is_not_straight_and_others_are() {
    let mut maps = maps(false, 0, KIND_DSR);
    for record in maps.services.iter_mut().filter(|record| record.table != 0) {
        record.table = Table(record.table).with_marked(true).0;
    }
    let ack = frame(false, 6, VIP4, 80, ACK);
    assert!(straight(&maps, &ack).is_some());
    maps.marks.fill(u64::MAX);
    assert_eq!(straight(&maps, &ack), None);
}
