//! The same code on the same maps and bytes: in the kernel, and on the host as `lb explain` runs
//! it. Any difference is a fault of the compiler, of the program's edges, or of the daemon's view
//! of the maps. Packets are the fixtures, whole and cut at every length, random flows, and
//! mutations of all these; words, marks, shadows and the flow table change under way.
//!
//! The host's headroom is all `0xff`, the kernel's changes from packet to packet: zeroes, or
//! `0xff` for as much as there are metadata.

use std::collections::HashMap;
use std::sync::Arc;

use lb_common::abi::{
    FlowEntry, IFINDEX_INGRESS, IFINDEX_LOCAL, NatEntry, STATE_REPLY, TOUCH_SECONDS,
};
use lb_common::frame::HostFrame;
use lb_common::nat::other_key;
use lb_common::path::{self, Sent};
use lb_common::verdict::{Event, Kind, Verdict};
use lb_userspace::dataplane::view::View;

use crate::checks::answer_to;
use crate::decode::{Decoded, try_packet, untagged};
use crate::frames::{ACK, RST, edit};
use crate::random::{Random, packets};
use crate::rig::{Action, Counters, INGRESS, MOST_POISON, Rig, Sizes};
use crate::rows;
use crate::traffic::{change, mutated, random_packet};
use crate::world::{TCP, Way, World};

/// Programs that random packets are run on, each with its share of them.
const PROGRAMS: usize = 2;
/// Packets between two changes of the world.
const ERA: usize = 200;

#[test]
fn fixtures_are_the_same_on_the_host_and_in_the_kernel() {
    let mut both = Both::new(Sizes::default());
    for row in rows::all() {
        let _ = both.run(&row.frame, &row.what);
    }
    both.assert_counted();
    both.assert_paired();
}

#[test]
fn fixtures_cut_at_every_length_are_the_same_and_go_nowhere() {
    let mut both = Both::new(Sizes::default());
    // Every so manieth length, where few packets were asked for.
    let step = (500_000 / packets().max(1)).clamp(1, 50);
    let mut cuts = 0;
    for (number, row) in rows::all().into_iter().enumerate() {
        let whole = &row.frame;
        let trailer = whole.len() - end_of_packet(whole);
        // Past a hundred bytes there is nothing but payload.
        let most = (whole.len() - trailer).min(140);
        for length in (14 + number % step..most).step_by(step) {
            let end = both.run(&whole[..length], &row.what).0;
            let kind = verdict_of(end).map(Verdict::kind);
            let stays = matches!(kind, Some(Kind::Pass | Kind::Drop));
            assert!(stays, "{}, cut to {length} bytes: {end:?}", row.what);
            cuts += 1;
        }
    }
    both.assert_counted();
    println!("{cuts} cuts");
}

/// Where a frame's IP packet ends, if it has one that is whole.
fn end_of_packet(frame: &[u8]) -> usize {
    let plain = untagged(frame);
    let trailer = try_packet(&plain).map_or(0, |(_, trailer)| trailer.len());
    frame.len() - trailer
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
            change(&mut both.world, &mut random);
        }
        both.world.rig.poison = 4 * random.below(MOST_POISON / 4 + 1);
        let whole = match random.below(10) {
            0..3 => random.pick(&fixtures),
            3 | 4 if !answers.is_empty() => random.pick(&answers),
            _ => random_packet(&both.world, &mut random),
        };
        let mutate = random.one_in(4);
        let packet = if mutate { mutated(whole, &mut random) } else { whole };
        let (end, out) = both.run(&packet, "a random packet");
        if let Ok(sent) = end
            && sent.row != Sent::TO_CLIENT
            && !mutate
        {
            both.remember(&mut answers, sent.row, &out, &mut random);
        }
    }
    both.assert_counted();
    both.assert_paired();
    both.print();
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
    fn run(&mut self, packet: &[u8], what: &str) -> (Result<Sent, Verdict>, Vec<u8>) {
        let rig = &mut self.world.rig;
        let maps = Arc::clone(&rig.maps);
        let mut host = HostFrame::new(packet);
        let view = View::new(&maps);
        let end = path::run(&view, &mut host, INGRESS);
        let counter = verdict_of(end);
        let before = counter.map(|verdict| rig.maps.verdicts(verdict));
        let (action, kernel) = rig.send(packet);
        let after = counter.map(|verdict| rig.maps.verdicts(verdict));

        let told = || format!("{what}, number {}: {packet:02x?}: {end:?}", rig.received);
        assert_eq!(action, action_of(end), "{}", told());
        assert_eq!(kernel, host.bytes(), "{}", told());
        assert_eq!(after, before.map(|before| before + 1), "{}", told());
        for (key, entry) in view.nat_seen() {
            let live = maps.nat.get(&key).unwrap();
            assert!(same_nat(live, entry), "{}: {key:?}: {live:?}, {entry:?}", told());
        }
        for (key, entry) in view.flows_written() {
            let live = maps.flows.get(&key).unwrap();
            assert!(same_flow(live, entry), "{}: {key:?}: {live:?}, {entry:?}", told());
        }
        self.expect(end, untagged(packet).len(), &view.events(), view.new_flow());
        (end, kernel)
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

    /// Keeps a backend's answer to a packet it got by NAT, for later.
    fn remember(&self, answers: &mut Vec<Vec<u8>>, row: u32, got: &[u8], random: &mut Random) {
        let (group, index) = self.world.backend(row);
        let Some(packet) = Decoded::try_of(&untagged(got)).filter(|_| group.way == Way::Nat) else {
            return;
        };
        let server = &group.servers[index];
        let mut answer = answer_to(&packet, server, 1460);
        if packet.protocol() == TCP && random.one_in(4) {
            let tag = if server.vlan == 0 { 0 } else { 4 };
            let flags = if packet.source().is_ipv4() { 47 } else { 67 };
            answer = edit(answer, tag + flags, &[RST | ACK]);
        }
        if answers.len() < 4096 {
            answers.push(answer);
        } else {
            let at = random.below(answers.len());
            answers[at] = answer;
        }
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
}

/// The two sides may see different seconds, in the later of which the time is due to be written.
const APART: u32 = TOUCH_SECONDS + 1;

fn same_nat(kernel: Option<NatEntry>, host: Option<NatEntry>) -> bool {
    match (kernel, host) {
        (Some(kernel), Some(host)) => {
            kernel.last_seen.abs_diff(host.last_seen) <= APART
                && NatEntry { last_seen: host.last_seen, ..kernel } == host
        }
        (kernel, host) => kernel.is_none() && host.is_none(),
    }
}

fn same_flow(kernel: Option<FlowEntry>, host: Option<FlowEntry>) -> bool {
    match (kernel, host) {
        (Some(kernel), Some(host)) => {
            kernel.last_seen.abs_diff(host.last_seen) <= APART
                && FlowEntry { last_seen: host.last_seen, ..kernel } == host
        }
        (kernel, host) => kernel.is_none() && host.is_none(),
    }
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
        Ok(Sent { ifindex: INGRESS | IFINDEX_INGRESS, .. }) => Action::Transmit,
        Ok(Sent { ifindex: IFINDEX_LOCAL, .. }) => Action::Pass,
        Ok(_) => Action::Redirect,
        Err(verdict) => match verdict.kind() {
            Kind::Send => Action::Transmit,
            Kind::Pass => Action::Pass,
            _ => Action::Drop,
        },
    }
}
