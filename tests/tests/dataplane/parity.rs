//! The same code on the same maps and bytes: in the kernel, and on the host as `lb explain` runs
//! it. Any difference is a fault of the compiler, of the program's edges, or of the daemon's view
//! of the maps. Packets are the fixtures, random flows, and mutations of both; the words, marks
//! and the flow table change under way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::abi::{STATE_REPLY, Word};
use lb_common::nat::other_key;
use lb_common::packet::Packet;
use lb_common::path::{self, Sent};
use lb_common::verdict::{Event, Kind, Verdict};
use lb_userspace::dataplane::view::View;

use crate::decode::Decoded;
use crate::frames::{ACK, FIN, FROM_CLIENT, Outside, RST, SYN, client, frame};
use crate::random::{Random, packets};
use crate::rig::{Action, Counters, INGRESS, Rig, Sizes};
use crate::rows;
use crate::world::{Health, Placed, TCP, World};

/// Programs that random packets are run on, each with its share of them.
const PROGRAMS: usize = 2;
/// Packets between two changes of the world.
const ERA: usize = 200;

#[test]
fn fixtures_are_the_same_on_the_host_and_in_the_kernel() {
    let mut both = Both::new(Sizes::default());
    for row in rows::all() {
        both.run(&row.frame, &row.what);
    }
    both.assert_counted();
}

#[test]
fn random_packets_are_the_same_on_the_host_and_in_the_kernel() {
    compare(Sizes::default());
}

#[test]
fn random_packets_are_the_same_where_ports_are_scarce() {
    compare(Sizes { nat_ports: (20_000, 20_063), ..Sizes::default() });
}

fn compare(sizes: Sizes) {
    let mut random = Random::from_environment();
    let mut both = Both::new(sizes);
    let fixtures: Vec<Vec<u8>> = rows::all().into_iter().map(|row| row.frame).collect();
    let mut answers: Vec<Vec<u8>> = Vec::new();
    for i in 0..packets() / PROGRAMS {
        if i % ERA == 0 {
            both.change(&mut random);
        }
        let whole = match random.below(10) {
            0 => random.pick(&fixtures),
            1 | 2 if !answers.is_empty() => random.pick(&answers),
            _ => both.random_flow(&mut random),
        };
        let mutate = random.one_in(4);
        let packet = if mutate { mutated(whole, &mut random) } else { whole };
        let (sent, out) = both.run(&packet, "a random packet");
        let to_backend = sent.is_some_and(|sent| sent.row != Sent::TO_CLIENT);
        if !mutate && to_backend && packet[14..] != out[14..] {
            remember(&mut answers, &out, &mut random);
        }
    }
    both.assert_counted();
    both.assert_paired();
    both.print();
}

/// Keeps a backend's answer to a packet it got, for later.
fn remember(answers: &mut Vec<Vec<u8>>, got: &[u8], random: &mut Random) {
    let got = Decoded::of(got);
    let flags = random.pick(&[SYN | ACK, ACK, ACK, FIN, RST]);
    let (from, to) = (got.destination(), got.source());
    let answer = frame(&FROM_CLIENT, from, to, got.protocol(), flags, b"answer");
    if answers.len() < 4096 {
        answers.push(answer);
    } else {
        let at = random.below(answers.len());
        answers[at] = answer;
    }
}

/// Some bytes changed, cut off or added.
fn mutated(mut packet: Vec<u8>, random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => packet.truncate(14 + random.below(packet.len() - 13)),
        1 => packet.extend(std::iter::repeat_n(0xff, random.below(60))),
        kind => {
            // Mostly where headers lie.
            let reach = if kind < 4 { packet.len() } else { packet.len().min(58) };
            for _ in 0..=random.below(3) {
                let at = 12 + random.below(reach - 12);
                packet[at] = match random.below(3) {
                    0 => packet[at] ^ 1 << random.below(8),
                    1 => random.pick(&[0, 1, 6, 17, 44, 58, 0x45, 0x60, 0xff]),
                    _ => random.next() as u8,
                };
            }
        }
    }
    packet
}

/// Host and kernel, and what the host says was counted.
struct Both {
    world: World,
    expected: Counters,
    new_flows: Vec<u64>,
}

impl Both {
    fn new(sizes: Sizes) -> Self {
        let world = World::new(sizes);
        let expected = Counters::read(&world.rig.maps);
        Self { world, expected, new_flows: vec![0; crate::rig::ROWS as usize] }
    }

    /// Runs a packet on both sides. What it was sent as, and its bytes afterwards.
    fn run(&mut self, packet: &[u8], what: &str) -> (Option<Sent>, Vec<u8>) {
        let rig = &mut self.world.rig;
        let maps = Arc::clone(&rig.maps);
        let mut host = packet.to_vec();
        let view = View::new(&maps);
        let end = path::run(&view, Packet::from_slice(&mut host), INGRESS);
        let counter = verdict_of(end);
        let before = counter.map(|verdict| rig.maps.verdicts(verdict));
        let (action, kernel) = rig.send(packet);
        let after = counter.map(|verdict| rig.maps.verdicts(verdict));

        let told = || format!("{what}, number {}: {packet:02x?}: {end:?}", rig.received);
        assert_eq!(action, action_of(end), "{}", told());
        assert_eq!(kernel, host, "{}", told());
        assert_eq!(after, before.map(|before| before + 1), "{}", told());
        self.expect(end, packet.len(), &view.events(), view.new_flow());
        (end.ok(), kernel)
    }

    fn expect(
        &mut self,
        end: Result<Sent, Verdict>,
        bytes: usize,
        events: &[Event],
        new_flow: Option<u32>,
    ) {
        if let Some(verdict) = verdict_of(end) {
            self.expected.verdicts[verdict as usize] += 1;
        } else if let Ok(sent) = end {
            let traffic = &mut self.expected.traffic[sent.row as usize];
            traffic.packets += 1;
            traffic.bytes += bytes as u64;
        }
        for event in events {
            self.expected.events[*event as usize] += 1;
        }
        if let Some(row) = new_flow {
            self.new_flows[row as usize] += 1;
        }
    }

    /// Every counter is what the host expects, and every packet was counted once.
    fn assert_counted(&self) {
        let rig: &Rig = &self.world.rig;
        assert_eq!(Counters::read(&rig.maps), self.expected);
        for (row, expected) in (0..).zip(&self.new_flows) {
            assert_eq!(rig.maps.new_flows(row), *expected, "new flows of row {row}");
        }
        rig.assert_conserved();
    }

    /// Every NAT entry has its other half, its exact reverse: none is left behind.
    fn assert_paired(&self) {
        let mut entries = HashMap::new();
        let nat = &self.world.rig.maps.nat;
        nat.for_each(|key, entry| assert!(entries.insert(*key, *entry).is_none())).unwrap();
        for (key, entry) in &entries {
            let half = other_key(entry, key.kind);
            let other = entries.get(&half).unwrap_or_else(|| panic!("{key:?} is alone"));
            assert_eq!(other_key(other, key.kind), *key);
            assert_eq!((other.row, other.generation), (entry.row, entry.generation));
            assert_eq!((entry.state ^ other.state) & STATE_REPLY, STATE_REPLY);
        }
        println!("{} NAT connections, each of two entries", entries.len() / 2);
    }

    fn print(&self) {
        let sent: u64 = self.expected.traffic.iter().map(|t| t.packets).sum();
        println!("{} packets, {sent} to backends", self.world.rig.received);
        for (verdict, count) in Verdict::ALL.iter().zip(&self.expected.verdicts) {
            println!("  {:<24}{count:>8}", verdict.name());
        }
        for (event, count) in Event::ALL.iter().zip(&self.expected.events) {
            println!("  {:<24}{count:>8}", event.name());
        }
    }

    /// A packet of one of some thousand flows to any service.
    fn random_flow(&self, random: &mut Random) -> Vec<u8> {
        let Placed { vip, protocol, .. } = random.pick(&self.world.services);
        let port = 1024 + random.below(2_000) as u16;
        let to = if random.one_in(50) { SocketAddr::new(vip.ip(), 7) } else { vip };
        let flags = random.pick(&[SYN, SYN, SYN, ACK, ACK, ACK, ACK, FIN, RST, SYN | ACK]);
        let payload = vec![0x5a; random.below(64)];
        let flags = if protocol == TCP { flags } else { 0 };
        // Now and then the client's packets come by another router.
        let source_mac = [2, 0, 0, 0, 0, 0xc1 + u8::from(random.one_in(20))];
        let outside = Outside { source_mac, ..FROM_CLIENT };
        frame(&outside, client(to, port), to, protocol, flags, &payload)
    }

    /// New words for the backends of a service, and marks in its table.
    fn change(&mut self, random: &mut Random) {
        let at = random.below(self.world.services.len());
        let service = self.world.services[at].clone();
        let maps = self.world.rig.maps.clone();
        for index in 0..service.servers.len() {
            let row = service.row(index);
            let old = Word(maps.words.get(row).unwrap());
            maps.words.set(row, random_word(old, service.health, random).0).unwrap();
        }
        let marked = random.one_in(2);
        for _ in 0..200 {
            let slot = random.below(service.table.slots() as usize) as u32;
            let (element, bit) = service.table.mark_at(slot);
            let marks = maps.marks.get(element).unwrap();
            maps.marks.set(element, marks ^ 1 << bit).unwrap();
        }
        self.world.table.set_table(service.key(), service.table.with_marked(marked)).unwrap();
    }
}

/// A backend's next state: full, failed, draining, drained, returning, in between, retired, or of
/// another owner.
fn random_word(old: Word, health: Health, random: &mut Random) -> Word {
    const FULL: u16 = Word::FULL;
    let part = random.next() as u16;
    let other = random.next() as u16;
    let (admit, admit_old, serving, retired) = match random.below(9) {
        0..2 if health != Health::Down => (FULL, FULL, true, false),
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

/// The verdict that is counted, if the packet is not a backend's.
fn verdict_of(end: Result<Sent, Verdict>) -> Option<Verdict> {
    match end {
        Ok(sent) if sent.row == Sent::TO_CLIENT => Some(Verdict::NatReply),
        Ok(_) => None,
        Err(verdict) => Some(verdict),
    }
}

fn action_of(end: Result<Sent, Verdict>) -> Action {
    match end {
        Ok(sent) if sent.ifindex == INGRESS => Action::Transmit,
        Ok(_) => Action::Redirect,
        Err(verdict) if verdict.kind() == Kind::Pass => Action::Pass,
        Err(_) => Action::Drop,
    }
}
