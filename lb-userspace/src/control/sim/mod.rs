//! The simulator: the packet path and the daemon's half of flow affinity against an oracle.
//!
//! Frames go through the program's own code; changes through the daemon's own, on simulated time.
//! An oracle that shares no code with either remembers where each connection began, and counts
//! every packet that goes elsewhere. With all rules kept there is none without a reason; with any
//! one rule broken there are some.
//!
//! `HOLDFAST_SEED` gives a run again; `cargo xtask simulate` makes a large one.

mod compare;
mod cpu;
mod daemon;
mod oracle;
mod others;
mod random;
mod results;
mod site;
mod wire;
mod world;

use self::cpu::RULES;
use self::daemon::SECOND;
use self::oracle::Found;
use self::others::Design;
use self::results::{Broken, Results};
use self::site::{Kind, Site};
use self::world::{Plan, World};
use super::rules;
use crate::config::model::Mode;

/// `M` of the simulation: small primes, and larger ones for more backends.
fn slots_for(backends: usize) -> u32 {
    match backends {
        0..=9 => 1021,
        10..=13 => 1531,
        14..=17 => 2039,
        _ => 4093,
    }
}

fn sites() -> Vec<Site> {
    use Mode::{Dsr, Ipip, Nat};
    vec![
        Site::new(0, Kind::Tcp, 45, &[Dsr], 6),
        Site::new(1, Kind::Tcp, 30, &[Dsr, Nat, Ipip], 5),
        Site::new(2, Kind::Packet, 3, &[Dsr], 4),
        Site::new(3, Kind::Flow, 12, &[Dsr, Ipip], 5),
        Site::new(4, Kind::Quic, 10, &[Dsr], 5),
    ]
}

/// A plan of events at random; every fourth has a flow table that is too small.
fn plan(seed: u64, connections: u64) -> Plan {
    Plan {
        seed,
        connections,
        flows: if seed % 4 == 3 { 300 } else { 200_000 },
        rate: 200,
        pause: 2 * SECOND,
        refusals: seed.is_multiple_of(2),
        design: Design::Exceptions,
        flood: 0,
        script: Vec::new(),
    }
}

/// One world, with a rule of the packet path broken, or none.
fn run<const BROKEN: usize>(plan: Plan) -> Found {
    let mut world = World::<BROKEN>::new(plan, sites(), slots_for);
    for at in 0..world.sites.len() {
        world.name_servers(at);
    }
    world.run()
}

/// Several worlds one after the other.
fn worlds<const BROKEN: usize>(seed: u64, count: u64, connections: u64) -> Found {
    let mut all = Found::default();
    for seed in seed..seed + count {
        let found = run::<BROKEN>(plan(seed, connections));
        if BROKEN == 0 && found.wrong() + found.uncovered > 0 {
            eprintln!("HOLDFAST_SEED={seed}: {:#?}", found.told);
        }
        all.add(found);
    }
    all
}

/// What breaks without each rule: of the packet path, then of the daemon.
fn broken(seed: u64, count: u64, connections: u64) -> Vec<Broken> {
    let path: [fn(u64, u64, u64) -> Found; 8] = [
        worlds::<1>,
        worlds::<2>,
        worlds::<3>,
        worlds::<4>,
        worlds::<5>,
        worlds::<6>,
        worlds::<7>,
        worlds::<8>,
    ];
    let mut broken: Vec<Broken> = RULES
        .iter()
        .zip(path)
        .map(|(rule, worlds)| Broken::new(rule, &worlds(seed, count, connections)))
        .collect();
    for rule in rules::ALL {
        rules::break_rule(Some(rule));
        broken.push(Broken::new(&rule, &worlds::<0>(seed, count, connections)));
        rules::break_rule(None);
    }
    broken
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn seed() -> u64 {
    number("HOLDFAST_SEED", 1)
}

#[test]
fn no_established_connection_is_misdirected() {
    let found =
        worlds::<0>(seed(), number("HOLDFAST_WORLDS", 2), number("HOLDFAST_CONNECTIONS", 6000));
    assert_eq!((found.wrong(), found.uncovered, found.uncovered_live), (0, 0, 0), "{found:#?}");
    assert!(found.stale > 100 && found.inserts > 100, "{found:#?}");
}

/// `cargo xtask simulate`.
#[test]
#[ignore = "takes minutes; cargo xtask simulate runs it"]
fn simulate() {
    let connections = number("HOLDFAST_CONNECTIONS", 1_000_000);
    let each = connections.min(50_000);
    let count = connections.div_ceil(each);
    let found = worlds::<0>(seed(), count, each);
    let without = broken(seed(), number("HOLDFAST_WORLDS", 4).min(count), each);
    let lines = compare::lines(seed(), if connections < 100_000 { 8 } else { 1 });
    let results =
        Results { seed: seed(), worlds: count, found: &found, without, comparison: lines };
    results.write();
    assert_eq!((found.wrong(), found.uncovered, found.uncovered_live), (0, 0, 0));
    if count >= 4 {
        let missed: Vec<_> = results.without.iter().filter(|b| !b.is_caught()).collect();
        assert!(missed.is_empty(), "rules that nobody misses: {missed:?}");
    }
}
