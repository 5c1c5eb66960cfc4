//! A reader that runs between every two stores sees each packet's old answer, then its new one.

use bytemuck::Zeroable;
use lb_common::abi::{ADDRESS_VIP, FEATURES_ALL};
use lb_common::find_service::find_address;
use proptest::prelude::*;

use super::*;
use crate::config::model::Prefix;
use crate::dataplane::frontends::{Listener, Plan};
use crate::dataplane::testbed::{Bed, Memory, Packet, Store, listeners, packets, template};

fn listener(text: &str, service: usize) -> Listener {
    Listener { frontend: text.parse().unwrap(), service, keeps_fragments: false }
}

/// Replays what was stored, and asks for every packet after each store. Packets that have the
/// same answer all along must get just that; others one of theirs. Those of a service that goes
/// may be anybody's.
fn watch(before: &mut Memory, bed: &Bed, packets: &[Packet], answers: &[&[Listener]]) {
    let gone = |service: usize| {
        let mut has = answers.iter().map(|all| all.iter().any(|l| l.service == service));
        has.any(|has| has) && !answers.iter().all(|all| all.iter().any(|l| l.service == service))
    };
    let allowed: Vec<Vec<Option<usize>>> = packets
        .iter()
        .map(|packet| answers.iter().map(|listeners| packet.owner(listeners)).collect())
        .collect();
    for store in bed.log.take() {
        before.store(store);
        for (packet, allowed) in packets.iter().zip(&allowed) {
            let found = before.find(packet);
            assert!(
                allowed.contains(&found) || allowed.iter().flatten().any(|s| gone(*s)),
                "{packet:?} got {found:?}, not one of {allowed:?}, after {store:?}"
            );
        }
    }
}

/// Grace periods pass: for records, for a prefix before its records, and for their places.
fn rest(table: &mut ServiceTable<&Bed>) {
    for _ in 0..3 {
        let places = table.resting();
        table.rested(&places).unwrap();
    }
    assert!(table.resting().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_misses_on_the_way(
        first in listeners(), second in listeners(), third in listeners(), waits: bool,
        offset in 0usize..7,
    ) {
        let bed = Bed::new();
        let packets: Vec<Packet> = packets().into_iter().skip(offset).step_by(7).collect();
        let mut table = ServiceTable::new(&bed);
        let mut memory = Memory::new();
        table.sync(&Plan::of(&first).wanted(template)).unwrap();
        watch(&mut memory, &bed, &packets, &[&[], &first]);
        table.sync(&Plan::of(&second).wanted(template)).unwrap();
        watch(&mut memory, &bed, &packets, &[&first, &second]);
        let mut answers: Vec<&[Listener]> = vec![&first, &second, &third];
        if waits {
            rest(&mut table);
            watch(&mut memory, &bed, &packets, &[&first, &second]);
            answers.remove(0);
        }
        let plan = Plan::of(&third);
        table.sync(&plan.wanted(template)).unwrap();
        watch(&mut memory, &bed, &packets, &answers);
        rest(&mut table);
        watch(&mut memory, &bed, &packets, &answers);
        for packet in &packets {
            prop_assert_eq!(memory.find(packet), packet.owner(&third));
        }
        prop_assert_eq!(memory.records(), plan.keys().count(), "nothing is left behind");
        table.sync(&plan.wanted(template)).unwrap();
        prop_assert!(bed.log.take().is_empty(), "what is there is not written again");
    }

    #[test]
    fn a_frontend_more_inside_of_others_disturbs_none(
        mut some in listeners(), text in prop::sample::select(vec![
            "10.0.0.1:8005/tcp", "10.0.0.1:8000-8100/tcp", "10.0.0.0/25:*/udp",
            "10.0.0.0/24:79-8063/tcp", "10.0.0.2:*/tcp", "[2001:db8::/64]:80/tcp",
        ]),
        offset in 0usize..7,
    ) {
        let new = listener(text, 4);
        some.retain(|l| l.frontend != new.frontend);
        let mut more = some.clone();
        more.push(new);
        let bed = Bed::new();
        let packets: Vec<Packet> = packets().into_iter().skip(offset).step_by(7).collect();
        let mut table = ServiceTable::new(&bed);
        let mut memory = Memory::new();
        table.sync(&Plan::of(&some).wanted(template)).unwrap();
        watch(&mut memory, &bed, &[], &[]);
        for _ in 0..2 {
            table.sync(&Plan::of(&more).wanted(template)).unwrap();
            watch(&mut memory, &bed, &packets, &[&some, &more]);
            table.sync(&Plan::of(&some).wanted(template)).unwrap();
            watch(&mut memory, &bed, &packets, &[&some, &more]);
            rest(&mut table);
            watch(&mut memory, &bed, &packets, &[&some, &more]);
        }
    }
}

#[test]
fn records_of_a_gone_service_go_at_once_and_others_wait() {
    let bed = Bed::new();
    let mut table = ServiceTable::new(&bed);
    let stays = listener("192.0.2.1:80/tcp", 0);
    let all = [stays, listener("192.0.2.1:81/tcp", 0), listener("192.0.2.1:82/tcp", 1)];
    table.sync(&Plan::of(&all).wanted(template)).unwrap();
    table.sync(&Plan::of(&[stays]).wanted(template)).unwrap();
    let found = |port| {
        let memory = bed.memory.borrow();
        memory.find(&Packet { to: [192, 0, 2, 1].into(), port, protocol: stays.frontend.protocol })
    };
    assert_eq!([80, 81, 82].map(found), [Some(0), Some(0), None]);
    let places = table.resting();
    assert_eq!(places.len(), 2);
    table.rested(&places).unwrap();
    assert_eq!([80, 81, 82].map(found), [Some(0), None, None]);
    // The place of the one is free, that of the other waits once more.
    let places = table.resting();
    assert_eq!(places.len(), 1);
    // A record that is wanted again stays.
    table.sync(&Plan::of(&all).wanted(template)).unwrap();
    table.sync(&Plan::of(&[stays]).wanted(template)).unwrap();
    let before = table.resting();
    table.sync(&Plan::of(&all).wanted(template)).unwrap();
    table.rested(&before).unwrap();
    assert_eq!([80, 81, 82].map(found), [Some(0), Some(0), Some(1)]);
    // One that leaves after the grace period has begun waits for the next.
    let before = table.resting();
    table.sync(&Plan::of(&[stays]).wanted(template)).unwrap();
    table.rested(&before).unwrap();
    assert_eq!(found(81), Some(0));
}

#[test]
fn services_change_in_place_and_addresses_keep_what_nat_says() {
    let bed = Bed::new();
    let mut table = ServiceTable::new(&bed);
    let all = [listener("192.0.2.1:80-90/tcp", 0), listener("192.0.2.1:81/tcp", 1)];
    let plan = Plan::of(&all);
    let (vip, other): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 9].into());
    table.set_nat_addresses(&[vip, other].into()).unwrap();
    table.sync(&plan.wanted(template)).unwrap();
    let bits = |to: IpAddr| find_address::<V4, _>(&*bed.memory.borrow(), &address(to));
    assert_eq!([vip, other].map(bits), [ADDRESS_VIP | ADDRESS_NAT, ADDRESS_NAT]);
    let moved = Table::new(64, 1021, false, true, 0);
    bed.log.take();
    table.point(0, moved).unwrap();
    let log = bed.log.take();
    let stored = |store: &Store| matches!(store, Store::Record(_, r) if r.table == moved.0);
    assert!(!log.is_empty() && log.iter().all(stored));
    table.update(1, |record| record.flags |= 1 << 6).unwrap();
    assert_eq!(bed.log.borrow().len(), 1);
    table.set_nat_addresses(&BTreeSet::new()).unwrap();
    assert_eq!([vip, other].map(bits), [ADDRESS_VIP, 0]);
    table.set_nat_addresses(&[vip].into()).unwrap();
    table.sync(&Wanted::default()).unwrap();
    rest(&mut table);
    assert_eq!([vip, other].map(bits), [ADDRESS_NAT, 0]);
    assert_eq!(bed.memory.borrow().records(), 1);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let bed = Bed::new();
    let table = ServiceTable::new(&bed);
    let vips = (0..17).map(|i| listener(&format!("10.{i}.0.0/16:80/tcp"), 0));
    let plan = Plan::of(&vips.collect::<Vec<_>>());
    let refused = table.check_room(plan.keys(), plan.prefixes()).unwrap_err().to_string();
    assert!(refused.contains("limits.prefixes"), "{refused}");
    table.check_room(plan.keys(), &BTreeSet::new()).unwrap();
    // 16,384 places: some neighbourhood is full long before all are.
    let many = (0..600).map(|i| listener(&format!("10.0.{}.{}:2-65534/tcp", i / 250, i % 250), 0));
    let plan = Plan::of(&many.collect::<Vec<_>>());
    assert_eq!(plan.keys().count(), 600 * 30);
    let refused = table.check_room(plan.keys(), plan.prefixes()).unwrap_err().to_string();
    assert!(refused.contains("limits.frontends"), "{refused}");
    assert!(bed.log.borrow().is_empty());
}

#[test]
fn a_keys_words_are_the_programs() {
    let _: Settings = Settings { features: FEATURES_ALL, ..Settings::zeroed() };
    let host = Key::exact([10, 0, 0, 1].into(), 80, 6).words();
    assert_eq!(
        host,
        ([u32::from_ne_bytes([10, 0, 0, 1]), 0, 0, 0], 0x5000_0000 | 6 << 8 | 16 << 3 | 4)
    );
    let prefix = Key::alone(Prefix::around([10, 0, 0, 0].into(), 8)).words();
    assert_eq!(prefix.0, [u32::from_ne_bytes([10, 0x80, 0, 0]), 0, 0, 0]);
    assert_eq!(prefix.1, 0x80 << 8 | 16 << 3 | 4);
}
