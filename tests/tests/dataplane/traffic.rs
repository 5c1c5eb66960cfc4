//! Random packets to random services, and random changes of these.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::Word;

use crate::frames::*;
use crate::places::{QUIC_CONFIG, server_id};
use crate::random::Random;
use crate::world::{Feature, Group, Placed, TCP, World};

/// A packet of one of some thousand flows to any service, or about one.
pub(crate) fn random_packet(world: &World, random: &mut Random) -> Vec<u8> {
    let service = random.pick(&world.services);
    let protocol = service.protocol;
    let to = match random.below(50) {
        0 => SocketAddr::new(service.vip.ip(), 7),
        _ if service.vip.port() == 0 => SocketAddr::new(service.vip.ip(), random.next() as u16),
        _ => service.vip,
    };
    let from = SocketAddr::new(source(to.ip(), random), 1024 + random.below(6) as u16);
    let flags = random.pick(&[SYN, SYN, SYN, ACK, ACK, ACK, ACK, FIN, RST, SYN | ACK]);
    // Now and then the client's packets come by another router.
    let source_mac = [2, 0, 0, 0, 0, 0xc1 + u8::from(random.one_in(20))];
    let hops = random.pick(&[64, 64, 64, 64, 64, 255, 2, 1, 0]);
    let outside = Outside { source_mac, hops, ..FROM_CLIENT };
    let payload = payload(&service, random);
    let whole = if protocol == TCP && flags & SYN != 0 {
        tcp_with_options(&outside, (from, to), flags, &options(random), &payload)
    } else {
        frame(&outside, from, to, protocol, flags, &payload)
    };
    let packet = match random.below(12) {
        0 if whole.len() > transport(&whole) + 50 => {
            let [a, b, c] = fragments(&whole, random.next() as u16);
            random.pick(&[a, b, c])
        }
        1 => about(from, to, protocol, random),
        2 => ping(from.ip(), to.ip(), &payload),
        3 => with_class(whole, random.next() as u8),
        4 if to.is_ipv4() => {
            with_fragment_word(whole, random.next() as u16, random.pick(&[0, 0x4000]))
        }
        _ => whole,
    };
    match random.below(8) {
        0 => tagged(packet, random.pick(&[0x8100, 0x8100, 0x88a8]), random.next() as u16 & 0x7003),
        _ => packet,
    }
}

/// An ICMP error about what a backend answered.
fn about(from: SocketAddr, to: SocketAddr, protocol: u8, random: &mut Random) -> Vec<u8> {
    let answer = frame(&FROM_CLIENT, to, from, protocol, ACK, &[5; 200]);
    let behind = random.pick(&[0, 7, 8, 16, 20, 100]);
    let kind = if to.is_ipv4() { (3, 4) } else { (2, 0) };
    let outside = Outside { hops: random.pick(&[64, 2, 1]), ..FROM_CLIENT };
    icmp(&outside, from.ip(), to.ip(), kind, 1400, &quote(&answer, behind))
}

/// One of some clients; some on lists.
fn source(to: IpAddr, random: &mut Random) -> IpAddr {
    let number = random.pick(&[1, 2, 7, 200]);
    let blocked = random.one_in(10);
    match to {
        IpAddr::V4(_) if blocked => IpAddr::from([203, 0, 113, number as u8]),
        IpAddr::V4(_) => IpAddr::from([198, 51, 100, number as u8]),
        IpAddr::V6(_) if blocked => IpAddr::from([0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, number]),
        // Of several /64, with several hosts each.
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0xc, number & 1, 0, 0, 0, number]),
    }
}

/// Mostly short; now and then more than fits, or a datagram of QUIC.
fn payload(service: &Placed, random: &mut Random) -> Vec<u8> {
    if service.feature == Feature::Quic && !random.one_in(4) {
        let octet = random.pick(&[QUIC_CONFIG << 5, QUIC_CONFIG << 5 | 9, 0xe0]);
        let id = server_id(random.below(4));
        let first = random.pick(&[0x40, 0xc0, 0xe0]);
        let long = [&[first, 0, 0, 0, 1, 8, octet][..], &id].concat();
        let short = [&[first, octet][..], &id].concat();
        let header = if first & 0x80 == 0 { short } else { long };
        return [header, vec![0xee; random.below(30)]].concat();
    }
    let length = match random.below(12) {
        0 => 1300 + random.below(250),
        1 => 80 + random.below(60),
        _ => random.below(64),
    };
    vec![0x5a; length]
}

/// TCP options in whole words, with a segment size somewhere, as a rule.
fn options(random: &mut Random) -> Vec<u8> {
    let mut options = vec![1; random.below(8)];
    options.extend(mss_option(random.pick(&[536, 1200, 1201, 1460, 9000])));
    options.resize(options.len().next_multiple_of(4), random.pick(&[0, 1]));
    options
}

/// Some bytes changed, cut off or added.
pub(crate) fn mutated(mut packet: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => packet.truncate(14 + random.below(packet.len() - 13)),
        1 => packet.extend(std::iter::repeat_n(0xff, random.below(60))),
        kind => {
            // Mostly where headers lie.
            let reach = if kind < 4 { packet.len() } else { packet.len().min(80) };
            for _ in 0..=random.below(3) {
                let at = 12 + random.below(reach - 12);
                packet[at] = match random.below(3) {
                    0 => packet[at] ^ 1 << random.below(8),
                    1 => random.pick(&[0, 1, 6, 17, 44, 58, 0x45, 0x60, 0x81, 0xff]),
                    _ => random.next() as u8,
                };
            }
        }
    }
    packet
}

/// New words for the backends of a group, marks in its table, previous owners of its slots.
pub(crate) fn change(world: &mut World, random: &mut Random) {
    let group = random.pick(&world.groups);
    let maps = world.rig.maps.clone();
    for index in 0..group.servers.len() {
        let row = group.row(index);
        let old = Word(maps.words.get(row).unwrap());
        maps.words.set(row, random_word(old, group.feature, random).0).unwrap();
    }
    let marked = random.one_in(2);
    for _ in 0..200 {
        let slot = random.below(group.table.slots() as usize) as u32;
        let (element, bit) = group.table.mark_at(slot);
        let marks = maps.marks.get(element).unwrap();
        maps.marks.set(element, marks ^ 1 << bit).unwrap();
    }
    let shadowed = random.one_in(3);
    if shadowed {
        cast_shadow(world, &group, random);
    }
    let table = group.table.with_marked(marked).with_shadowed(shadowed);
    world.set_table(&group, table);
}

/// Gives every tenth slot of a group a previous owner.
fn cast_shadow(world: &World, group: &Group, random: &mut Random) {
    let maps = &world.rig.maps;
    let shadow = group.shadow();
    for slot in 0..shadow.slots() {
        let (element, shift) = shadow.slot_at(slot);
        let mask = u64::from(shadow.slot_mask());
        let owner = match random.below(10) {
            0 => u64::from(group.first_index()) + random.below(3) as u64,
            _ => mask,
        };
        let others = maps.tables.get(element).unwrap() & !(mask << shift);
        maps.tables.set(element, others | owner << shift).unwrap();
    }
    maps.tables.set(group.table.shadow_at(), shadow.0).unwrap();
}

/// A backend's next state: full, failed, draining, drained, returning, in between, retired, or of
/// another owner.
fn random_word(old: Word, feature: Feature, random: &mut Random) -> Word {
    const FULL: u16 = Word::FULL;
    let part = random.next() as u16;
    let other = random.next() as u16;
    let (admit, admit_old, serving, retired) = match random.below(9) {
        0..2 if feature != Feature::Down => (FULL, FULL, true, false),
        2 => (0, FULL, true, false),
        3 => (0, 0, true, false),
        4 => (FULL, 0, true, false),
        5 => (part, part, true, false),
        6 => (part, other, true, false),
        7 => (0, part, true, true),
        _ => (0, 0, false, false),
    };
    let generation = old.generation() + u32::from(random.one_in(10));
    Word::new(admit, admit_old, old.server(), generation, serving, retired)
}
