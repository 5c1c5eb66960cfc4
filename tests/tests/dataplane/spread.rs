//! Where flows go and what that costs, by the program's own counters: the spread over weights,
//! and look-ups in the steady state, after a settled failure, during and after a drain.

use std::collections::HashSet;
use std::net::SocketAddr;

use lb_common::abi::Word;
use lb_common::verdict::{Event, Verdict};

use crate::decode::{Decoded, untagged};
use crate::frames::{ACK, FIN, FROM_CLIENT, SYN, client, frame, name_of};
use crate::random::packets;
use crate::rig::{Counters, End, Sizes};
use crate::world::{Feature, Placed, TCP, VIP4, VIP6, Way, World, port};

/// Flows of each service: 10,000, or fewer where few packets were asked for.
fn flows() -> u16 {
    (packets() / 50).clamp(500, 10_000) as u16
}

/// The plain services of the two VIPs, in some ways, each by a name for messages.
fn up(world: &World) -> Vec<(String, Placed)> {
    let ways = [Way::Dsr, Way::Nat, Way::Gue6];
    let up = world.services.iter().filter(|service| {
        let to_vip = [VIP4, VIP6].contains(&service.vip.ip());
        to_vip && service.feature == Feature::Plain && ways.contains(&service.way)
    });
    let named = up.map(|service| {
        let protocol = name_of(service.protocol);
        (format!("{protocol} {}, {:?}", service.vip, service.way), service.clone())
    });
    named.collect()
}

/// One packet of flow number `flow`: a port of one client.
fn packet(service: &Placed, flow: u16, flags: u8) -> Vec<u8> {
    let from = client(service.vip, 10_000 + flow);
    let flags = if service.protocol == TCP { flags } else { 0 };
    frame(&FROM_CLIENT, from, service.vip, service.protocol, flags, b"x")
}

/// Sends a packet of every flow; how many each backend got.
fn send_all(world: &mut World, service: &Placed, flags: u8) -> Vec<u64> {
    let packets = |world: &World| -> Vec<u64> {
        let rows = (0..3).map(|index| service.group.row(index));
        rows.map(|row| world.rig.maps.traffic(row).packets).collect()
    };
    let before = packets(world);
    for flow in 0..flows() {
        world.rig.send(&packet(service, flow, flags));
    }
    packets(world).iter().zip(&before).map(|(now, then)| now - then).collect()
}

/// What was counted since the last call, of all events.
struct Events {
    last: Counters,
}

impl Events {
    fn new(world: &World) -> Self {
        Self { last: Counters::read(&world.rig.maps) }
    }

    fn since(&mut self, world: &World, of: &[Event]) -> Vec<u64> {
        let now = Counters::read(&world.rig.maps);
        let count = |event: &Event| now.events[*event as usize] - self.last.events[*event as usize];
        let counts = of.iter().map(count).collect();
        self.last = now;
        counts
    }
}

const FLOW_EVENTS: &[Event] = &[Event::FlowLookup, Event::FlowInsert];

/// Takes a backend's row out of service or back, its server and generation kept.
fn set_word(world: &World, service: &Placed, index: usize, admit: u16, old: u16, serving: bool) {
    let row = service.group.row(index);
    let word = Word(world.rig.maps.words.get(row).unwrap());
    let next = Word::new(admit, old, word.server(), word.generation(), serving, false);
    world.rig.maps.words.set(row, next.0).unwrap();
}

#[test]
fn flows_spread_by_weight_within_3_sigma() {
    let mut world = World::new(Sizes::default());
    for (name, service) in up(&world) {
        let got = send_all(&mut world, &service, SYN);
        let n = f64::from(flows());
        for (count, share) in got.iter().zip([0.25, 0.25, 0.5]) {
            let sigma = (n * share * (1.0 - share)).sqrt();
            let off = (*count as f64 - n * share) / sigma;
            assert!(off.abs() <= 3.0, "{name}: {count} of {n}, {off:.2} σ off");
        }
        println!("{name}: {got:?} of {n} over weights 1:1:2");
    }
    world.rig.assert_conserved();
}

#[test]
fn the_steady_state_asks_dsr_nothing_and_nat_once_a_packet() {
    let mut world = World::new(Sizes::default());
    for (name, service) in up(&world) {
        let mut events = Events::new(&world);
        for flags in [SYN, ACK, FIN] {
            send_all(&mut world, &service, flags);
            let counted = events.since(&world, Event::ALL);
            let opens = service.way == Way::Nat && flags == SYN;
            let all = u64::from(flows());
            for (event, count) in Event::ALL.iter().zip(counted) {
                let expected = match event {
                    Event::NatLookup if service.way == Way::Nat => all,
                    Event::NatInsert if opens => all,
                    // A collision of the hash; the next port was free, or not all had opened.
                    Event::NatPortTaken if opens => count,
                    _ => 0,
                };
                assert_eq!(count, expected, "{name}, flags {flags:#x}: {}", event.name());
            }
        }
    }
}

#[test]
fn answers_cost_one_look_up_each() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let service =
            world.service(SocketAddr::new(vip, port(Feature::Plain, Way::Nat)), TCP).clone();
        let answers: Vec<Vec<u8>> = (0..1000)
            .map(|flow| {
                let got = world.rig.send(&packet(&service, flow, SYN)).1;
                let got = Decoded::of(&untagged(&got));
                frame(&FROM_CLIENT, got.destination(), got.source(), TCP, SYN | ACK, b"")
            })
            .collect();
        let mut events = Events::new(&world);
        let before = world.rig.maps.verdicts(Verdict::NatReply);
        for answer in &answers {
            world.rig.send(answer);
        }
        assert_eq!(world.rig.maps.verdicts(Verdict::NatReply) - before, 1000);
        assert_eq!(events.since(&world, &[Event::NatLookup]), [1000]);
    }
}

#[test]
fn a_settled_failure_costs_no_look_up_and_moves_only_the_failed_backends_flows() {
    let mut world = World::new(Sizes::default());
    for (name, service) in up(&world) {
        let backend =
            |world: &mut World, flow, flags| world.rig.run(&packet(&service, flow, flags)).end;
        let before: Vec<End> = (0..1000).map(|flow| backend(&mut world, flow, SYN)).collect();
        set_word(&world, &service, 1, 0, 0, false);
        let mut events = Events::new(&world);
        let mut moved = [0u32; 3];
        for (flow, was) in (0..).zip(&before) {
            let failed = *was == End::Backend(service.group.row(1));
            let now = backend(&mut world, flow, SYN);
            assert_ne!(now, End::Backend(service.group.row(1)), "{name}");
            assert!(failed || now == *was, "{name}: flow {flow} of a healthy backend moved");
            for (index, count) in moved.iter_mut().enumerate() {
                *count += u32::from(failed && now == End::Backend(service.group.row(index)));
            }
            let later = backend(&mut world, flow, ACK);
            assert_eq!(later, now, "{name}: flow {flow} goes on where it began");
        }
        assert_eq!(events.since(&world, FLOW_EVENTS), [0, 0], "{name}");
        let all = f64::from(moved[0] + moved[2]);
        let off = (f64::from(moved[0]) - all / 3.0) / (all * 2.0 / 9.0).sqrt();
        println!("{name}: {moved:?} of 1,000 flows moved, all of them the failed backend's");
        assert!(off.abs() <= 3.0, "{name}: they spread by weight, too; {off:.2} σ off");
        set_word(&world, &service, 1, Word::FULL, Word::FULL, true);
    }
}

#[test]
fn a_drain_keeps_its_connections_and_asks_the_flow_table_only_while_it_lasts() {
    let mut world = World::new(Sizes::default());
    for vip in [VIP4, VIP6] {
        let service =
            world.service(SocketAddr::new(vip, port(Feature::Plain, Way::Dsr)), TCP).clone();
        let run =
            |world: &mut World, flow, flags| world.rig.run(&packet(&service, flow, flags)).end;
        let drained = End::Backend(service.group.row(2));
        let before: Vec<End> = (0..2000).map(|flow| run(&mut world, flow, SYN)).collect();
        let there = before.iter().filter(|end| **end == drained).count() as u64;

        // Draining: existing flows stay, new ones do not come; only this backend's are recorded.
        set_word(&world, &service, 2, 0, Word::FULL, true);
        let mut events = Events::new(&world);
        for (flow, was) in (0..).zip(&before) {
            assert_eq!(run(&mut world, flow, ACK), *was, "flow {flow} moved by a drain");
        }
        assert_eq!(events.since(&world, FLOW_EVENTS), [there, there]);
        for flow in 5000..7000 {
            let end = run(&mut world, flow, SYN);
            assert_ne!(end, drained, "a new flow to a draining backend");
            assert_eq!(run(&mut world, flow, ACK), end);
        }
        let [lookups, inserts] = events.since(&world, FLOW_EVENTS)[..] else { panic!("two") };
        assert_eq!(lookups, 2 * inserts, "the second packet of each finds the first's entry");
        let recorded: HashSet<u16> = (5000..7000)
            .filter(|&flow| {
                let mut before = Events::new(&world);
                run(&mut world, flow, ACK);
                before.since(&world, FLOW_EVENTS)[0] > 0
            })
            .collect();
        assert_eq!(recorded.len() as u64, inserts, "only flows at home at the backend are");
        println!(
            "drain at {}: {there} of 2,000 flows kept, {inserts} of 2,000 new flows recorded",
            service.vip
        );

        // Settled, nobody left: no look-ups any more.
        set_word(&world, &service, 2, 0, 0, true);
        let mut events = Events::new(&world);
        for flow in 8000..9000 {
            let end = run(&mut world, flow, SYN);
            assert_ne!(end, drained);
            assert_eq!(run(&mut world, flow, ACK), end);
        }
        assert_eq!(events.since(&world, FLOW_EVENTS), [0, 0]);

        // Back again: flows begun elsewhere stay there until the change has settled.
        set_word(&world, &service, 2, Word::FULL, 0, true);
        for flow in 8000..9000 {
            assert_ne!(run(&mut world, flow, ACK), drained, "flow {flow} moved by a return");
        }
        let back = (8000..9000).filter(|flow| run(&mut world, flow + 1000, SYN) == drained);
        assert!(back.count() > 400, "new flows come back");
        set_word(&world, &service, 2, Word::FULL, Word::FULL, true);
    }
}

#[test]
fn after_a_drain_marked_slots_alone_are_looked_up() {
    let mut world = World::new(Sizes::default());
    let service = world.service(SocketAddr::new(VIP6, port(Feature::Plain, Way::Dsr)), TCP).clone();
    let run = |world: &mut World, flow, flags| world.rig.run(&packet(&service, flow, flags)).end;
    let drained = End::Backend(service.group.row(2));
    let kept: Vec<u16> = (0..1000).filter(|&f| run(&mut world, f, SYN) == drained).collect();
    set_word(&world, &service, 2, 0, Word::FULL, true);
    for &flow in &kept {
        assert_eq!(run(&mut world, flow, ACK), drained);
    }

    // As the daemon settles it: first the marks of all slots of the backend, then the word.
    let maps = world.rig.maps.clone();
    for slot in 0..service.group.table.slots() {
        let (element, shift) = service.group.table.slot_at(slot);
        let index =
            maps.tables.get(element).unwrap() >> shift & u64::from(service.group.table.slot_mask());
        if index == u64::from(service.group.first_index() + 2) {
            let (element, bit) = service.group.table.mark_at(slot);
            maps.marks.set(element, maps.marks.get(element).unwrap() | 1 << bit).unwrap();
        }
    }
    world.set_table(&service.group, service.group.table.with_marked(true));
    set_word(&world, &service, 2, 0, 0, true);
    let mut events = Events::new(&world);
    for flow in 0..1000 {
        assert_eq!(run(&mut world, flow, ACK) == drained, kept.contains(&flow), "flow {flow}");
    }
    assert_eq!(events.since(&world, FLOW_EVENTS), [kept.len() as u64, 0]);

    // The last connection has ended and the marks are cleared: nothing is asked any more.
    world.set_table(&service.group, service.group.table);
    for flow in 0..1000 {
        assert_ne!(run(&mut world, flow, ACK), drained);
    }
    assert_eq!(events.since(&world, FLOW_EVENTS), [0, 0]);
}
