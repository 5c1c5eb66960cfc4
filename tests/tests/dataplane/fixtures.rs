//! Runs the packets of [`crate::rows`] through the program.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::checks::Row;
use crate::decode::{Decoded, untagged};
use crate::rig::{End, MOST_POISON, Outcome, Sizes};
use crate::rows;
use crate::world::World;

#[test]
fn every_packet_becomes_what_it_should() {
    let mut world = World::new(Sizes::default());
    let rows = rows::all();
    let mut backend_of = HashMap::new();
    let mut hops = HashSet::new();
    let mut failed = Vec::new();
    for row in &rows {
        // All that fail are told, not the first alone.
        let Ok(out) = catch_unwind(AssertUnwindSafe(|| world.check(row))) else {
            failed.push(&row.what);
            continue;
        };
        let End::Backend(backend) = out.end else { continue };
        let (group, index) = world.backend(backend);
        hops.insert((group.way, index));
        let Some(packet) = Decoded::try_of(&untagged(&row.frame)) else { continue };
        if row.backend.is_some() {
            continue;
        }
        let flow = (packet.source(), packet.destination(), packet.protocol());
        let first = *backend_of.entry(flow).or_insert(backend);
        assert_eq!(backend, first, "{}: the flow changed its backend", row.what);
    }
    assert!(failed.is_empty(), "{} of {} rows: {failed:#?}", failed.len(), rows.len());
    world.rig.assert_conserved();
    assert_eq!(hops.len(), 3 * 7, "every way to every kind of next hop: {hops:?}");
    let distinct: HashSet<&[u8]> = rows.iter().map(|row| &row.frame[..]).collect();
    println!(
        "{} rows, {} distinct, {} flows to backends",
        rows.len(),
        distinct.len(),
        backend_of.len()
    );
    let mut ends = BTreeMap::<String, u32>::new();
    for row in &rows {
        *ends.entry(format!("{:?}", row.expect)).or_default() += 1;
    }
    println!("{ends:#?}");
}

#[test]
fn every_packet_cut_short_is_passed_or_dropped() {
    let mut world = World::new(Sizes::default());
    let rows = rows::truncated();
    for row in &rows {
        world.check(row);
    }
    world.rig.assert_conserved();
    println!("{} rows of frames cut short", rows.len());
}

#[test]
fn what_lies_around_a_packet_does_not_matter() {
    let rows: Vec<Row> = rows::all();
    let outcomes = |poison: usize| -> Vec<Outcome> {
        let mut world = World::new(Sizes::default());
        world.rig.poison = poison;
        rows.iter().map(|row| world.rig.run(&row.frame)).collect()
    };
    let clean = outcomes(0);
    for poison in [4, 104, MOST_POISON] {
        for ((row, clean), poisoned) in rows.iter().zip(&clean).zip(outcomes(poison)) {
            assert_eq!(*clean, poisoned, "{} behind {poison} bytes of 0xff", row.what);
        }
    }
}
