//! `cargo xtask bench table`: building a service's Maglev table, and publishing it.
//!
//! Building is `lb_common::maglev::build`, which the daemon calls. Publishing is what follows: the slots packed, copied
//! to the arena, and one store of the table's word, after which packets use it. The arena here is memory of this
//! process; the daemon's is a BPF array mapped into it, to which a store costs the same.
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on should stop")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lb_common::abi::Table;
use lb_common::maglev::{Entry, build, slots_for};
use lb_tests::bench::{Figure, Options, emit, progress, progress_ends};
use serde_json::json;

/// Backends and slots; what the product chooses is among them (`slots_for`).
const SIZES: [(usize, u32); 12] = [
    (2, 1_021),
    (2, 16_381),
    (10, 1_021),
    (10, 16_381),
    (100, 1_021),
    (100, 16_381),
    (100, 65_537),
    (500, 65_537),
    (1_000, 16_381),
    (1_000, 65_537),
    (1_000, 655_373),
    (10_000, 655_373),
];
/// What the target is for.
const TARGET: (usize, u32, f64) = (1_000, 65_537, 2_000.0);
const SEED: u64 = 0x5eed;

struct Case {
    backends: usize,
    slots: u32,
    weights: &'static str,
    names: Vec<String>,
    build_us: Vec<f64>,
    publish_us: Vec<f64>,
}

fn main() {
    let options = Options::from_command_line();
    let mut cases: Vec<Case> = SIZES
        .iter()
        .filter(|(_, slots)| !options.quick || *slots <= 65_537)
        .flat_map(|size| ["equal", "1 to 100"].map(|weights| Case::new(*size, weights)))
        .filter(|case| options.wants(&case.name()))
        .collect();
    for round in 0..options.rounds {
        for case in &mut cases {
            progress(&format!("round {} of {}: {}", round + 1, options.rounds, case.name()));
            case.measure();
        }
    }
    progress_ends();
    cases.iter().for_each(Case::emit);
}

impl Case {
    fn new((backends, slots): (usize, u32), weights: &'static str) -> Self {
        let names = (0..backends).map(|i| format!("web-{i:05}")).collect();
        Self { backends, slots, weights, names, build_us: Vec::new(), publish_us: Vec::new() }
    }

    fn name(&self) -> String {
        format!("{} backends, {} slots, {}", self.backends, self.slots, self.weights)
    }

    fn weight(&self, at: usize) -> u16 {
        match self.weights {
            "equal" => 1,
            // In no order that a processor could learn.
            _ => 1 + (at * 37 % 100) as u16,
        }
    }

    /// One round: small tables several times, as a clock is no finer than some tens of nanoseconds.
    fn measure(&mut self) {
        let entries: Vec<Entry<'_>> = self
            .names
            .iter()
            .enumerate()
            .map(|(at, name)| Entry { name, weight: self.weight(at), index: at as u16 })
            .collect();
        let times = (100_000 / self.slots).clamp(3, 50);
        let mut arena = Arena::new(self.slots, self.is_wide());
        for _ in 0..times {
            let start = Instant::now();
            let slots = build(black_box(&entries), black_box(self.slots), SEED);
            self.build_us.push(start.elapsed().as_secs_f64() * 1e6);
            let start = Instant::now();
            arena.publish(black_box(&slots));
            self.publish_us.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }

    /// As in the daemon: a service has rows for twice its backends, and 240 fit a slot of 8 bits.
    fn is_wide(&self) -> bool {
        (self.backends * 2).next_multiple_of(16) > 240
    }

    fn emit(&self) {
        let (build, publish) = (Figure::of(&self.build_us), Figure::of(&self.publish_us));
        let is_target = (self.backends, self.slots) == (TARGET.0, TARGET.1);
        emit(&json!({
            "part": "table",
            "backends": self.backends,
            "slots": self.slots,
            "weights": self.weights,
            "chosen": self.slots == slots_for(self.backends),
            "build_us": build,
            "publish_us": publish,
            "bytes": Table::elements(self.slots, self.is_wide()) * 8,
            "target_us": is_target.then_some(TARGET.2),
        }));
    }
}

/// A place for one table, and the word that says so.
struct Arena {
    elements: Vec<AtomicU64>,
    word: AtomicU64,
    wide: bool,
}

impl Arena {
    fn new(slots: u32, wide: bool) -> Self {
        let count = Table::elements(slots, wide) as usize;
        let elements = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { elements, word: AtomicU64::new(0), wide }
    }

    fn publish(&mut self, slots: &[u16]) {
        let (per_element, bits) = if self.wide { (4, 16) } else { (8, 8) };
        for (slots, element) in slots.chunks(per_element).zip(&self.elements) {
            let word = slots.iter().rev().fold(0, |word, slot| word << bits | u64::from(*slot));
            element.store(word, Ordering::Relaxed);
        }
        let slots = u32::try_from(slots.len()).expect("a table has 20 bits of slots");
        self.word.store(Table::new(0, slots, self.wide, false, 0).0, Ordering::Release);
    }
}
