//! What users are promised of the table: shares, evenness, and how little a change moves.

use proptest::prelude::*;

use super::*;

const SEED: u64 = 0x5eed;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("web-{i:03}")).collect()
}

/// A table of backends with these names and weights; the index is the place in the list.
fn table(names: &[String], weights: &[u16], slots: u32) -> Vec<u16> {
    let entries: Vec<Entry<'_>> = names
        .iter()
        .zip(weights)
        .enumerate()
        .map(|(i, (name, &weight))| Entry { name, weight, index: i as u16 })
        .collect();
    build(&entries, slots, SEED)
}

fn counts(table: &[u16], backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends];
    table.iter().for_each(|&index| counts[usize::from(index)] += 1);
    counts
}

/// How far the share of a backend is from its weight's, in slots and in part of the share.
fn worst(table: &[u16], weights: &[u16]) -> (f64, f64) {
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let off = |(&count, &weight): (&u32, &u16)| {
        let due = table.len() as f64 * f64::from(weight) / total;
        let slots = (f64::from(count) - due).abs();
        (slots, slots / due)
    };
    let counts = counts(table, weights.len());
    let offs: Vec<_> = counts.iter().zip(weights).map(off).collect();
    offs.iter().fold((0.0, 0.0), |(a, b), &(slots, part)| (slots.max(a), part.max(b)))
}

/// Slots whose backend changed though both tables have it, as a share of all slots.
fn moved_needlessly(before: &[u16], after: &[u16], common: impl Fn(u16) -> bool) -> f64 {
    let moved = before.iter().zip(after).filter(|(a, b)| a != b && common(**a) && common(**b));
    moved.count() as f64 / before.len() as f64
}

#[test]
fn shares_follow_the_weights() {
    let ramp: Vec<u16> = (1..=100).collect();
    let rows: &[(&str, Vec<u16>, u32)] = &[
        ("one backend", vec![7], 16_381),
        ("equal", vec![1; 10], 16_381),
        ("equal, as many as a small table takes", vec![1; 100], 16_381),
        ("equal, as many as a middle table takes", vec![1; 655], 65_537),
        ("1:1:2", vec![1, 1, 2], 16_381),
        ("1:10", vec![1, 10], 16_381),
        ("1:2:…:100", ramp, 65_537),
        ("a tenth beside the heaviest", vec![100, 1000, 1000], 16_381),
    ];
    for (what, weights, slots) in rows {
        let table = table(&names(weights.len()), weights, *slots);
        assert_eq!(table.len(), *slots as usize, "{what}: every slot is filled");
        let (off, part) = worst(&table, weights);
        println!("{what}: off by at most {off:.2} slots, {:.3} % of the share", part * 100.0);
        assert!(off <= 1.5, "{what}: off by {off} slots");
        // Below a hundred slots, one slot is more than 1 %.
        let fewest = counts(&table, weights.len()).into_iter().min().unwrap_or(0);
        assert!(part <= 0.01 || fewest < 150, "{what}: off by {part} of the share");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn shares_are_within_1_percent_of_the_weights_or_a_slot(
        weights in prop::collection::vec(1u16..=1000, 1..=100),
    ) {
        let table = table(&names(weights.len()), &weights, 16_381);
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for (&count, &weight) in counts(&table, weights.len()).iter().zip(&weights) {
            let due = 16_381.0 * f64::from(weight) / total;
            let off = (f64::from(count) - due).abs();
            prop_assert!(off <= (due * 0.01).max(1.5), "{} slots for {} due", count, due);
        }
    }

    #[test]
    fn the_table_does_not_depend_on_the_order_of_the_configuration(
        weights in prop::collection::vec(1u16..=50, 2..20), turn in 0usize..20, swap in 0usize..20,
    ) {
        let names = names(weights.len());
        let mut entries: Vec<Entry<'_>> = names.iter().zip(&weights).enumerate()
            .map(|(i, (name, &weight))| Entry { name, weight, index: i as u16 }).collect();
        let table = build(&entries, 1021, SEED);
        prop_assert_eq!(&build(&entries, 1021, SEED), &table);
        entries.rotate_left(turn % weights.len());
        entries.swap(0, swap % weights.len());
        prop_assert_eq!(&build(&entries, 1021, SEED), &table);
    }
}

#[test]
fn another_index_moves_no_slot() {
    // Replacing a server gives its name a new index, and nothing else knows of addresses or
    // health: the slots are the same, only what they hold is renumbered.
    let names = names(5);
    let with = |index_of: &dyn Fn(usize) -> u16| {
        let entries: Vec<Entry<'_>> = names
            .iter()
            .enumerate()
            .map(|(i, name)| Entry { name, weight: 3, index: index_of(i) })
            .collect();
        build(&entries, 16_381, SEED)
    };
    let before = with(&|i| i as u16);
    let after = with(&|i| if i == 2 { 99 } else { i as u16 });
    let renumbered: Vec<u16> = before.iter().map(|&i| if i == 2 { 99 } else { i }).collect();
    assert_eq!(after, renumbered);
}

#[test]
fn a_removed_backend_moves_few_slots_of_the_others() {
    for count in [3usize, 10, 50, 100] {
        let all = names(count);
        let before = table(&all, &vec![1; count], 16_381);
        let gone = count / 2;
        let kept: Vec<Entry<'_>> = all
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != gone)
            .map(|(i, name)| Entry { name, weight: 1, index: i as u16 })
            .collect();
        let after = build(&kept, 16_381, SEED);
        let survives = |index: u16| usize::from(index) != gone;
        let share = moved_needlessly(&before, &after, survives);
        println!(
            "1 of {count} removed or added: {:.2} % of slots move between the others",
            share * 100.0
        );
        assert!(share <= limit(count), "{count}: {share}");
    }
}

/// What the table does, rounded up: the more backends, the more turns change hands.
const fn limit(count: usize) -> f64 {
    match count {
        0..=5 => 0.001,
        6..=20 => 0.006,
        _ => 0.015,
    }
}

#[test]
fn a_changed_weight_moves_little_more_than_its_own_slots() {
    for (count, from, to) in [(3usize, 10u16, 12u16), (10, 10, 5), (10, 10, 9), (50, 10, 20)] {
        let all = names(count);
        let mut weights = vec![10; count];
        weights[0] = from;
        let before = table(&all, &weights, 16_381);
        weights[0] = to;
        let after = table(&all, &weights, 16_381);
        let own = |table: &[u16]| f64::from(counts(table, count)[0]) / 16_381.0;
        let needed = (own(&after) - own(&before)).abs();
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / 16_381.0;
        println!(
            "weight {from} → {to} of one of {count}: {:.2} % of slots moved, {:.2} % had to",
            moved * 100.0,
            needed * 100.0
        );
        assert!(moved - needed <= 0.012, "{count}: {moved} moved, {needed} needed");
    }
}

#[test]
fn degenerate_inputs_give_sensible_tables() {
    assert!(build(&[], 16_381, SEED).is_empty());
    let one = Entry { name: "a", weight: 1, index: 9 };
    assert!(build(&[one], 1, SEED).is_empty());
    assert_eq!(build(&[one], 2, SEED), [9, 9]);
    assert!(build(&[one], 16_381, SEED).iter().all(|&index| index == 9));
    // Weight 0 counts as 1: a backend that shall take nothing is drained, not weighted away.
    let zero = [Entry { weight: 0, ..one }, Entry { name: "b", weight: 1, index: 1 }];
    let half = counts(&build(&zero, 1021, SEED), 10)[9];
    assert!((510..=511).contains(&half), "{half}");
    let extremes = [Entry { weight: 1, ..one }, Entry { name: "b", weight: u16::MAX, index: 1 }];
    let table = build(&extremes, 65_537, SEED);
    let lightest = table.iter().filter(|&&index| index == 9).count();
    assert!((1..=2).contains(&lightest), "{lightest}");
    // More backends than slots: the first to have a turn share them.
    let many = names(20);
    assert_eq!(self::table(&many, &[1; 20], 13).len(), 13);
}

#[test]
fn table_sizes_are_primes_of_at_least_fifty_slots_a_backend() {
    for (backends, slots) in [
        (0, 16_381),
        (100, 16_381),
        (101, 65_537),
        (1_310, 65_537),
        (1_311, 655_373),
        (6_553, 655_373),
    ] {
        assert_eq!(slots_for(backends), slots, "{backends} backends");
        assert!(slots as usize >= 50 * backends);
        assert!((2..).take_while(|d| d * d <= slots).all(|d| slots % d != 0), "{slots}");
        assert!(slots <= crate::abi::Table::MAX_SLOTS);
    }
}

#[test]
fn the_table_is_frozen() {
    // Nodes of different versions must agree on every slot: FNV-1a over the table's bytes.
    let fnv = |table: &[u16]| {
        table.iter().flat_map(|index| index.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let weighted = table(&names(5), &[1, 2, 3, 10, 1], 16_381);
    let equal = table(&names(10), &[1; 10], 65_537);
    assert_eq!([fnv(&weighted), fnv(&equal)], FROZEN);
}

const FROZEN: [u64; 2] = [2072539377746821841, 3762719286274665283];
