//! The daemon's hands on the kernel's hash maps.

use std::collections::HashMap;

use bytemuck::Zeroable;
use lb_common::abi::{FlowEntry, FlowKey};

use crate::rig::{Rig, Sizes};

fn key(number: u32) -> FlowKey {
    FlowKey { ports: number, ..FlowKey::zeroed() }
}

fn entry(number: u32) -> FlowEntry {
    FlowEntry { row: number, generation: 1, last_seen: 2, state: 3 }
}

#[test]
fn single_entries_are_written_read_and_deleted() {
    let rig = Rig::load(Sizes::default());
    let flows = &rig.maps.flows;
    assert_eq!(flows.get(&key(1)).unwrap(), None);
    flows.set(&key(1), entry(1)).unwrap();
    assert_eq!(flows.get(&key(1)).unwrap(), Some(entry(1)));
    flows.set(&key(1), entry(2)).unwrap();
    assert_eq!(flows.get(&key(1)).unwrap(), Some(entry(2)));
    flows.remove(&key(1)).unwrap();
    assert_eq!(flows.get(&key(1)).unwrap(), None);
    flows.remove(&key(1)).unwrap();
}

#[test]
fn all_entries_are_read_each_once() {
    let rig = Rig::load(Sizes::default());
    for number in 0..20_000 {
        rig.maps.flows.set(&key(number), entry(number)).unwrap();
    }
    let mut seen = HashMap::new();
    rig.maps
        .flows
        .for_each(|key, entry| assert!(seen.insert(key.ports, *entry).is_none(), "{key:?} twice"))
        .unwrap();
    assert_eq!(seen.len(), 20_000);
    assert!(seen.iter().all(|(number, found)| *found == entry(*number)));
}
