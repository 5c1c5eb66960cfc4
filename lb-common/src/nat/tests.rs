//! NAT connections, from the packets that make them to the packets they make.

use std::collections::HashSet;

use super::*;
use crate::abi::{
    KIND_DSR, SERVICE_MSS, SERVICE_NAT, SERVICE_QUIC, SERVICE_RESET, ServerIdKey, Word,
};
use crate::frame::HostFrame;
use crate::host::{FIRST, HostMaps, NAT4, VIP4, full};
use crate::ip::{Ip, V4};
use crate::path::run;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const FIN: u8 = 0x11;
const RST: u8 = 0x04;

const CLIENT: [u8; 4] = [198, 51, 100, 7];
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];
const INGRESS: u32 = 3;

fn maps(backends: usize) -> HostMaps {
    let mut maps = HostMaps::with_weights(&vec![1; backends]);
    maps.add_frontend(4, 80, 6, SERVICE_NAT);
    assert!(maps.add_record(4, VIP4, 53, 17, SERVICE_NAT));
    for port in &mut maps.ports {
        *port = 8080u16.to_be();
    }
    maps
}

/// An IPv4 frame without payload; its checksums are the checksum tests' matter.
fn frame(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let least: u8 = if protocol == 6 { 20 } else { 8 };
    let mut frame = Vec::new();
    frame.extend_from_slice(&OUR_MAC);
    frame.extend_from_slice(&CLIENT_MAC);
    frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 20 + least, 0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.1.to_be_bytes());
    frame.extend_from_slice(&to.1.to_be_bytes());
    frame.resize(34 + usize::from(least), 0);
    if protocol == 6 {
        frame[47] = flags;
    }
    frame
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    frame(6, (CLIENT, port), (VIP4[0].to_ne_bytes(), 80), flags)
}

/// Through the path; what comes out is written back.
fn through(maps: &HostMaps, frame: &mut [u8], ingress: u32) -> Result<Sent, Verdict> {
    let mut moving = HostFrame::new(frame);
    let result = run(maps, &mut moving, ingress);
    // A message to the sender takes another frame.
    if moving.bytes().len() == frame.len() {
        frame.copy_from_slice(moving.bytes());
    }
    result
}

fn go(maps: &HostMaps, frame: &mut [u8]) -> Result<Sent, Verdict> {
    through(maps, frame, INGRESS)
}

/// Source and destination of a frame.
fn ends(frame: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let address = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    ((address(26), port(34)), (address(30), port(36)))
}

#[test]
fn a_connection_is_translated_there_and_back() {
    let maps = maps(3);
    for (protocol, port) in [(6, 80), (17, 53)] {
        let vip = (VIP4[0].to_ne_bytes(), port);
        let mut there = frame(protocol, (CLIENT, 40_000), vip, SYN);
        let sent = go(&maps, &mut there).unwrap();
        let index = sent.row - FIRST;
        assert_eq!(sent.ifindex, 10 + index);
        let (source, destination) = ends(&there);
        assert_eq!(source.0, NAT4[0].to_ne_bytes());
        assert!((2000..3000).contains(&source.1));
        assert_eq!(destination, ([10, 0, 0, index as u8], 8080));
        assert_eq!(there[22], 63);
        let events = maps.take_events();
        assert_eq!(events, [Event::NatLookup, Event::NatInsert], "{protocol}");

        let mut back = frame(protocol, destination, source, SYN | ACK);
        let sent = go(&maps, &mut back).unwrap();
        assert_eq!(sent, Sent { ifindex: INGRESS, row: Sent::TO_CLIENT, vlan: 0 });
        assert_eq!(ends(&back), (vip, (CLIENT, 40_000)));
        assert_eq!((&back[..6], &back[6..12], back[22]), (&CLIENT_MAC[..], &OUR_MAC[..], 63));
        assert_eq!(maps.take_events(), [Event::NatLookup]);
    }
    assert_eq!(maps.new_flows.borrow().len(), 2);
    assert_eq!(maps.sent.borrow().len(), 2, "replies are not the backend's traffic");
}

/// A QUIC packet with a short header to a port of the VIP; its connection id names a server.
fn quic(from: ([u8; 4], u16), port: u16, id: u8) -> Vec<u8> {
    let mut frame = frame(17, from, (VIP4[0].to_ne_bytes(), port), 0);
    frame.extend([0x40, 0x20, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame[17] += 16;
    frame[39] = 24;
    frame
}

fn quic_maps() -> HostMaps {
    let mut maps = maps(3);
    for port in [443, 2005] {
        assert!(maps.add_record(4, VIP4, port, 17, SERVICE_NAT | SERVICE_QUIC));
    }
    for record in &mut maps.services {
        record.quic = crate::quic::config(1, 1);
    }
    for id in 0..3 {
        let key = ServerIdKey { service: 0, padding: 0, id: u64::from(id).to_le() };
        maps.server_ids.insert(key, FIRST + id);
    }
    maps
}

#[test]
fn a_connection_id_chooses_for_connections_that_are_not_open_yet() {
    for id in 0..3u8 {
        let maps = quic_maps();
        let mut first = quic((CLIENT, 40_000), 443, id);
        assert_eq!(go(&maps, &mut first).unwrap().row, FIRST + u32::from(id));
        assert!(maps.take_events().contains(&Event::QuicServerId));
        // Another id on the same connection: still whole to where the connection goes.
        let mut other = quic((CLIENT, 40_000), 443, (id + 1) % 3);
        let sent = go(&maps, &mut other).unwrap();
        assert_eq!((sent.row, sent.ifindex), (FIRST + u32::from(id), 10 + u32::from(id)));
        assert_eq!(other[..14], first[..14], "the MAC addresses are that backend's");
        assert_eq!(ends(&other), ends(&first));
        assert_eq!(maps.take_events(), [Event::NatLookup]);
    }
}

#[test]
fn a_reply_is_no_clients_packet_whatever_its_connection_id() {
    let mut maps = quic_maps();
    maps.nat_from_vip4();
    maps.settings.nat_port_first = 2005;
    maps.settings.nat_port_count = 1;
    let mut there = quic((CLIENT, 40_000), 443, 1);
    go(&maps, &mut there).unwrap();
    let (ours, backend) = ends(&there);
    // Our port towards the backend is one that a frontend has, too.
    let mut back = quic(backend, ours.1, 2);
    assert_eq!(go(&maps, &mut back).unwrap().row, Sent::TO_CLIENT);
    assert_eq!(ends(&back).1, (CLIENT, 40_000));
}

#[test]
fn a_syn_is_clamped_only_if_it_goes_on() {
    let mut maps = maps(1);
    assert!(maps.add_record(4, VIP4, 81, 6, SERVICE_NAT | SERVICE_MSS));
    for record in &mut maps.services {
        record.mss = 1200;
    }
    let mut syn = frame(6, (CLIENT, 40_000), (VIP4[0].to_ne_bytes(), 81), SYN);
    syn.extend([2, 4, 5, 180]);
    (syn[17], syn[46]) = (44, 0x60);
    // Out of hops, and its sender may not be told.
    maps.exhausted.set(Some(crate::abi::Limit::Icmp));
    let mut old = syn.clone();
    old[22] = 1;
    let before = old.clone();
    assert_eq!(go(&maps, &mut old), Err(Verdict::DropTtl));
    assert_eq!(old, before, "as it came");
    assert_eq!(maps.take_events(), [Event::NatLookup, Event::IcmpLimited]);
    go(&maps, &mut syn).unwrap();
    assert_eq!(syn[54..], [2, 4, 4, 176]);
}

#[test]
fn the_reply_entry_is_the_exact_reverse() {
    let maps = maps(3);
    for port in 1024..1224 {
        go(&maps, &mut tcp(port, SYN)).unwrap();
    }
    let entries = maps.nat_entries();
    assert_eq!(entries.len(), 400);
    for (key, entry) in &entries {
        let other_key = other_key(entry, key.kind);
        let other = entries[&other_key];
        assert_eq!(super::other_key(&other, key.kind), *key);
        assert_eq!((other.row, other.generation), (entry.row, entry.generation));
        assert_eq!(other.ethernet, swap_ethernet(&entry.ethernet));
        assert_ne!(other.state & STATE_REPLY, entry.state & STATE_REPLY);
    }
}

#[test]
fn ports_never_collide_and_run_out_with_a_verdict() {
    let mut maps = maps(2);
    maps.settings.nat_port_first = 4000;
    maps.settings.nat_port_count = 20;
    let mut taken = HashSet::new();
    let (mut opened, mut refused) = (0, 0);
    for port in 1024..3024 {
        let mut frame = tcp(port, SYN);
        match go(&maps, &mut frame) {
            Ok(_) => {
                let (source, destination) = ends(&frame);
                assert!((4000..4020).contains(&source.1), "{source:?}");
                assert!(taken.insert((source, destination)), "{source:?} is taken twice");
                opened += 1;
            }
            Err(verdict) => {
                assert_eq!(verdict, Verdict::DropNatNoPort);
                refused += 1;
            }
        }
    }
    println!("{opened} connections over 20 ports to 2 backends, {refused} refused");
    assert_eq!(opened, 40, "all ports to both backends are found in the end");
    assert_eq!(maps.nat_entries().len(), 80, "a refused connection leaves no entry");
    assert!(maps.take_events().contains(&Event::NatPortTaken));
}

/// A backend of a VIP that is the NAT address, too, talks to it from the port that it serves on: a
/// connection to itself from the frontend's port would have one key for both of its directions.
#[test]
fn a_backend_talks_to_itself_from_another_port_than_the_frontends() {
    for (ports, end) in [(2, Ok(FIRST)), (1, Err(Verdict::DropNatNoPort))] {
        let mut maps = maps(1);
        assert!(maps.add_record(4, VIP4, 2005, 6, SERVICE_NAT));
        maps.nat_from_vip4();
        maps.settings.nat_port_first = 2005;
        maps.settings.nat_port_count = ports;
        let (backend, vip) = (([10, 0, 0, 0], 8080), VIP4[0].to_ne_bytes());
        let mut there = frame(6, backend, (vip, 2005), SYN);
        assert_eq!(go(&maps, &mut there).map(|sent| sent.row), end, "{ports} ports");
        if end.is_err() {
            assert!(maps.nat_entries().is_empty());
            continue;
        }
        assert_eq!(ends(&there), ((vip, 2006), backend));
        let mut back = frame(6, backend, (vip, 2006), SYN | ACK);
        assert_eq!(go(&maps, &mut back).map(|sent| sent.row), Ok(Sent::TO_CLIENT));
        assert_eq!(ends(&back), ((vip, 2005), backend));
    }
}

#[test]
fn a_full_table_refuses_whole_connections() {
    let maps = maps(2);
    // An odd number: the last connection has room for one of its two entries.
    maps.nat_room.set(5);
    let ends: Vec<_> = (1024..1034).map(|port| go(&maps, &mut tcp(port, SYN)).err()).collect();
    assert_eq!(ends.iter().filter(|end| end.is_none()).count(), 2);
    assert!(ends[2..].iter().all(|end| *end == Some(Verdict::DropNatFull)));
    assert_eq!(maps.nat_entries().len(), 4, "no half of a connection is left");
}

#[test]
fn a_tcp_connection_is_opened_by_its_syn_alone() {
    let maps = maps(2);
    for flags in [ACK, FIN, RST, SYN | ACK, 0] {
        let end = go(&maps, &mut tcp(2000, flags));
        assert_eq!(end, Err(Verdict::DropNatNoConnection), "{flags:#x}");
    }
    assert!(maps.nat_entries().is_empty());
}

#[test]
fn a_connection_stays_at_its_backend_whatever_the_words_say() {
    let maps = maps(3);
    let row = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
    let index = row - FIRST;
    maps.set_word(index, Word::new(0, 0, index, 0, true, false));
    for flags in [ACK, SYN, FIN, ACK] {
        assert_eq!(go(&maps, &mut tcp(2000, flags)).map(|s| s.row), Ok(row), "{flags:#x}");
    }
    // The client begins anew after a FIN: another backend, as this one takes nobody.
    maps.take_events();
    let moved = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
    assert_ne!(moved, row);
    assert!(maps.take_events().contains(&Event::NatVoid));
    assert_eq!(maps.nat_entries().len(), 2, "the old connection's entries are gone, both");
}

#[test]
fn a_connection_to_a_failed_backend_is_refused_until_the_client_begins_anew() {
    for reused in [false, true] {
        let maps = maps(3);
        let row = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
        let index = row - FIRST;
        // Failed, or the row has another owner.
        let word =
            if reused { Word::new(u16::MAX, u16::MAX, index, 1, true, false) } else { Word(0) };
        maps.set_word(index, word);
        assert_eq!(go(&maps, &mut tcp(2000, ACK)), Err(Verdict::DropNatBackendDown));
        assert_eq!(maps.nat_entries().len(), 2);
        let anew = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
        assert_eq!(anew == row, reused);
        assert_eq!(maps.nat_entries().len(), 2);
        assert_eq!(go(&maps, &mut tcp(2000, ACK)).map(|s| s.row), Ok(anew));
    }
}

#[test]
fn where_asked_to_a_connection_to_a_failed_backend_is_reset() {
    for backends in [1, 3] {
        let mut maps = maps(backends);
        assert!(maps.add_record(4, VIP4, 81, 6, SERVICE_NAT | SERVICE_RESET));
        let to_81 = |flags| frame(6, (CLIENT, 2000), (VIP4[0].to_ne_bytes(), 81), flags);
        let row = go(&maps, &mut to_81(SYN)).unwrap().row;
        assert!(go(&maps, &mut to_81(ACK)).is_ok());
        // Of an unknown connection nothing can be said: another balancer's may be.
        let stranger = &mut frame(6, (CLIENT, 2001), (VIP4[0].to_ne_bytes(), 81), ACK);
        assert_eq!(go(&maps, stranger), Err(Verdict::DropNatNoConnection));
        maps.set_word(row - FIRST, Word(0));
        maps.take_events();
        for flags in [ACK, FIN, ACK] {
            let mut segment = to_81(flags);
            segment[42..46].copy_from_slice(&[1, 2, 3, 4]);
            segment[46] = 0x50;
            assert_eq!(go(&maps, &mut segment), Err(Verdict::ResetSent), "{backends}");
            assert_eq!(ends(&segment), ((VIP4[0].to_ne_bytes(), 81), (CLIENT, 2000)));
            assert_eq!((&segment[38..42], segment[47]), (&[1, 2, 3, 4][..], RST));
            assert_eq!(maps.take_events(), [Event::NatLookup], "no other backend is looked for");
        }
        let is_alone = backends == 1;
        let dropped = if is_alone { Verdict::DropNoBackend } else { Verdict::DropNatBackendDown };
        assert_eq!(go(&maps, &mut to_81(RST | ACK)), Err(dropped), "a reset is not answered");
        assert_eq!(
            maps.nat_entries().len(),
            2,
            "its port stays taken while the backend may use it"
        );
        let anew = go(&maps, &mut to_81(SYN));
        assert_eq!(anew.is_ok(), !is_alone, "{anew:?}");
    }
}

/// The first thing that a backend says of a connection, to which this is the client's SYN.
fn first_answer(maps: &HostMaps, port: u16, flags: u8) -> u32 {
    let mut syn = tcp(port, SYN);
    let row = go(maps, &mut syn).unwrap().row;
    let (nat, backend) = ends(&syn);
    maps.take_events();
    go(maps, &mut frame(6, backend, nat, flags)).unwrap();
    row
}

#[test]
fn a_backend_that_refuses_a_connection_is_doubted_once() {
    let maps = maps(3);
    let row = first_answer(&maps, 2000, RST | ACK);
    assert_eq!(maps.take_events(), [Event::NatLookup, Event::NatRefused]);
    assert_eq!(maps.doubted.take(), [row]);
    // One that has answered may reset for reasons of its own.
    for first in [SYN | ACK, ACK] {
        first_answer(&maps, 2001, first);
        assert!(maps.doubted.take().is_empty());
        let mut syn = tcp(2001, SYN);
        go(&maps, &mut syn).unwrap();
        let (nat, backend) = ends(&syn);
        go(&maps, &mut frame(6, backend, nat, RST)).unwrap();
        // And so may the client.
        go(&maps, &mut tcp(2001, RST)).unwrap();
        assert!(maps.doubted.take().is_empty());
        assert!(!maps.take_events().contains(&Event::NatRefused));
    }
}

#[test]
fn a_retired_backend_finishes_its_connections_and_gets_no_new_one() {
    let maps = maps(3);
    let row = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
    let index = row - FIRST;
    maps.set_word(index, Word::new(0, 0, index, 0, true, true));
    assert_eq!(go(&maps, &mut tcp(2000, ACK)).map(|s| s.row), Ok(row));
    assert_ne!(go(&maps, &mut tcp(2000, SYN)).map(|s| s.row), Ok(row));
}

/// The service's mode changed: backends are other ones, and NAT's have retired.
#[test]
fn a_syn_that_goes_elsewhere_takes_its_ports_old_connection_with_it() {
    let mut maps = maps(2);
    let old = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
    let (index, other) = (old - FIRST, FIRST + 1 - old);
    maps.set_word(index, Word::new(0, 0, index, 0, true, true));
    maps.servers[other as usize].kind = KIND_DSR;
    assert_eq!(go(&maps, &mut tcp(2000, ACK)).map(|s| s.row), Ok(old));
    let anew = go(&maps, &mut tcp(2000, SYN)).unwrap().row;
    assert_eq!(anew, FIRST + other);
    assert_eq!(go(&maps, &mut tcp(2000, ACK)).map(|s| s.row), Ok(anew));
    assert!(maps.nat_entries().is_empty());
}

#[test]
fn a_client_that_begins_anew_without_nat_leaves_its_old_connection() {
    let mut maps = maps(2);
    assert!(go(&maps, &mut tcp(40_000, SYN)).is_ok());
    let row = maps.nat_entries().values().find(|e| e.state & STATE_REPLY == 0).unwrap().row;
    // The mode changed: the backend of the connection is retired, the other takes all, without NAT.
    let other = FIRST + 1 - (row - FIRST);
    maps.set_word(row - FIRST, Word::new(0, 0, row - FIRST, 0, true, true));
    maps.servers[(other - FIRST) as usize].kind = KIND_DSR;
    assert_eq!(go(&maps, &mut tcp(40_000, ACK)).map(|sent| sent.row), Ok(row));
    for flags in [SYN, ACK] {
        let sent = go(&maps, &mut tcp(40_000, flags));
        assert_eq!(sent.map(|sent| sent.row), Ok(other), "{flags}");
    }
    assert!(maps.nat_entries().is_empty());
}

#[test]
fn replies_follow_the_client_to_another_mac_address() {
    let maps = maps(1);
    let mut there = tcp(2000, SYN);
    go(&maps, &mut there).unwrap();
    let (source, destination) = ends(&there);
    maps.take_events();
    let mut moved = tcp(2000, ACK);
    moved[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    through(&maps, &mut moved, INGRESS + 1).unwrap();
    assert_eq!(maps.take_events(), [Event::NatLookup, Event::NatHopLearned]);
    let mut again = tcp(2000, ACK);
    again[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    through(&maps, &mut again, INGRESS + 1).unwrap();
    assert_eq!(maps.take_events(), [Event::NatLookup], "learned once");
    let mut back = frame(6, destination, source, ACK);
    assert_eq!(go(&maps, &mut back).unwrap().ifindex, INGRESS + 1);
    assert_eq!(back[..6], [2, 9, 9, 9, 9, 9]);
    assert_eq!(back[6..12], OUR_MAC);
}

#[test]
fn a_packet_without_hops_left_goes_nowhere_and_leaves_nothing() {
    let maps = maps(1);
    for ttl in [0, 1] {
        let mut frame = tcp(2000, SYN);
        frame[22] = ttl;
        assert_eq!(go(&maps, &mut frame), Err(Verdict::TimeExceededSent));
    }
    assert!(maps.nat_entries().is_empty());
    let mut there = tcp(2000, SYN);
    there[22] = 2;
    go(&maps, &mut there).unwrap();
    assert_eq!(there[22], 1);
    let (source, destination) = ends(&there);
    let mut back = frame(6, destination, source, ACK);
    back[22] = 1;
    assert_eq!(go(&maps, &mut back), Err(Verdict::TimeExceededSent));
}

#[test]
fn what_belongs_to_no_connection_passes() {
    let maps = maps(1);
    let nat = (NAT4[0].to_ne_bytes(), 2000);
    let mut stray = frame(6, ([10, 0, 0, 0], 8080), nat, ACK);
    assert_eq!(go(&maps, &mut stray), Err(Verdict::PassNotVip));
    // Nor is it taken for a reply by an entry that translates a client's packets.
    let mut flow = Flow::NONE;
    V4::decode(Packet::from_slice(&mut stray), &mut flow).unwrap();
    let key = flow.key;
    go(&maps, &mut tcp(2000, SYN)).unwrap();
    let clients = |e: &&NatEntry| e.state & STATE_REPLY == 0;
    let forward = maps.nat_entries().values().find(clients).copied().unwrap();
    maps.insert_nat(&key, &forward).unwrap();
    assert_eq!(go(&maps, &mut stray), Err(Verdict::PassNotVip));
}

#[test]
fn without_a_next_hop_nothing_is_opened() {
    let mut maps = maps(1);
    maps.servers[0].ifindex = 0;
    assert_eq!(go(&maps, &mut tcp(2000, SYN)), Err(Verdict::DropNoNextHop));
    assert!(maps.nat_entries().is_empty());
    maps.set_word(0, Word(0));
    maps.spares.fill(0x0001_0001_0001_0001);
    maps.set_word(1, Word(0));
    assert_eq!(go(&maps, &mut tcp(2000, SYN)), Err(Verdict::DropNoBackend));
}

#[test]
fn backend_port_zero_is_the_frontends_own() {
    let mut maps = maps(1);
    maps.ports.fill(0);
    let mut there = tcp(2000, SYN);
    go(&maps, &mut there).unwrap();
    assert_eq!(ends(&there).1.1, 80);
}

#[test]
fn an_entry_notes_its_use_at_most_every_few_seconds() {
    let maps = maps(1);
    let mut there = tcp(2000, SYN);
    go(&maps, &mut there).unwrap();
    let (source, destination) = ends(&there);
    let seen = |reply: bool| {
        let entries = maps.nat_entries();
        let mut of = entries.values().filter(|e| (e.state & STATE_REPLY != 0) == reply);
        of.next().map(|e| (e.last_seen, e.state & !STATE_REPLY)).unwrap()
    };
    assert_eq!(seen(true), (1000, 0), "the backend has not answered yet");
    maps.now.set(1000 + TOUCH_SECONDS - 1);
    go(&maps, &mut tcp(2000, ACK)).unwrap();
    assert_eq!(seen(false), (1000, STATE_USED));
    maps.now.set(1000 + TOUCH_SECONDS);
    go(&maps, &mut tcp(2000, ACK)).unwrap();
    assert_eq!(seen(false), (1000 + TOUCH_SECONDS, STATE_USED));
    go(&maps, &mut frame(6, destination, source, FIN)).unwrap();
    assert_eq!(seen(true), (1000 + TOUCH_SECONDS, STATE_USED | STATE_CLOSING));
    assert_eq!(seen(false).1, STATE_USED, "each direction closes by itself");
    // A new SYN on the same ports opens both ends again.
    assert_eq!(maps.words[FIRST as usize].get(), full(0));
    go(&maps, &mut tcp(2000, FIN)).unwrap();
    assert_eq!(seen(false).1, STATE_USED | STATE_CLOSING);
    go(&maps, &mut tcp(2000, SYN)).unwrap();
    assert_eq!(seen(false).1, STATE_USED);
}

#[test]
fn a_vip_may_be_the_nat_address_too() {
    let mut maps = maps(2);
    maps.nat_from_vip4();
    maps.settings.nat_port_count = 8;
    let mut taken = HashSet::new();
    for port in 1024..1324 {
        let mut there = tcp(port, SYN);
        let Ok(_) = go(&maps, &mut there) else { continue };
        let (source, destination) = ends(&there);
        taken.insert((source.1, destination));
        let mut back = frame(6, destination, source, ACK);
        assert_eq!(go(&maps, &mut back).map(|sent| sent.row), Ok(Sent::TO_CLIENT), "{source:?}");
        assert_eq!(ends(&back).1, (CLIENT, port));
    }
    assert_eq!(taken.len(), 16, "eight ports to each of two backends");
    // Other ports are the VIP's: closed ones pass, without a look-up outside the range of NAT.
    maps.take_events();
    let vip = VIP4[0].to_ne_bytes();
    for (port, lookups) in [(1999, 0), (2000, 1), (2007, 1), (2008, 0)] {
        let mut stray = frame(6, (CLIENT, 5000), (vip, port), SYN);
        assert_eq!(go(&maps, &mut stray), Err(Verdict::PassNoService));
        assert_eq!(maps.take_events().len(), lookups, "port {port}");
    }
    let mut odd = tcp(5000, SYN);
    odd[14] = 0x46;
    assert_eq!(go(&maps, &mut odd), Err(Verdict::DropOptions), "it is a VIP");
}

#[test]
fn a_frontends_port_may_be_among_the_ports_of_nat() {
    for protocol in [6, 17] {
        let mut maps = maps(2);
        maps.nat_from_vip4();
        maps.settings.nat_port_count = 8;
        assert!(maps.add_record(4, VIP4, 2003, protocol, SERVICE_NAT));
        let vip = (VIP4[0].to_ne_bytes(), 2003);
        let mut answered = 0;
        for port in 1024..1324 {
            let mut there = frame(protocol, (CLIENT, port), vip, SYN);
            let Ok(_) = go(&maps, &mut there) else { continue };
            let (source, destination) = ends(&there);
            let mut back = frame(protocol, destination, source, SYN | ACK);
            let sent = go(&maps, &mut back);
            assert_eq!(sent.map(|sent| sent.row), Ok(Sent::TO_CLIENT), "by {source:?}");
            assert_eq!(ends(&back), (vip, (CLIENT, port)));
            answered += 1;
        }
        assert_eq!(answered, 16, "eight ports to each of two backends");
        assert_eq!(maps.nat_entries().len(), 32);
    }
}

#[test]
fn a_reused_port_forgets_the_last_connections_end() {
    let maps = maps(1);
    let mut there = tcp(2000, SYN);
    go(&maps, &mut there).unwrap();
    let (source, destination) = ends(&there);
    let back = |flags| go(&maps, &mut frame(6, destination, source, flags)).unwrap();
    back(SYN | ACK);
    go(&maps, &mut tcp(2000, FIN)).unwrap();
    back(FIN);
    let closing = || maps.nat_entries().values().filter(|e| e.state & STATE_CLOSING != 0).count();
    assert_eq!(closing(), 2);
    go(&maps, &mut tcp(2000, SYN)).unwrap();
    back(SYN | ACK);
    assert_eq!(closing(), 0);
}
