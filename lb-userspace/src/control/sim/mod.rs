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

use std::fmt::Debug;
use std::time::Duration;

use self::cpu::RULES;
use self::daemon::{Daemon, Health, SECOND};
use self::oracle::Found;
use self::others::Design;
use self::results::{Broken, Results};
use self::site::{Kind, Scripted, Site};
use self::world::{Plan, World};
use lb_common::abi::Word;

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

/// A plan of events at random. Every fourth has a flow table that is too small; another fourth is
/// calm: one service comes to rest after each event, so that only its own marks are there.
fn plan(seed: u64, connections: u64) -> Plan {
    let calm = seed % 4 == 1;
    let rate = if calm { 50 } else { 200 };
    Plan {
        seed,
        connections,
        flows: if seed % 4 == 3 { 300 } else { 200_000 },
        rate,
        pause: if calm { 0 } else { 2 * SECOND },
        refusals: seed.is_multiple_of(2),
        design: Design::Exceptions,
        flood: 0,
        script: if calm { in_turn(connections / rate) } else { Vec::new() },
        calm,
    }
}

/// A backend is drained and taken back when all is settled, and drained and taken back at once;
/// each when nothing is left of the last change.
fn in_turn(seconds: u64) -> Vec<(u64, Scripted)> {
    let turn = [
        (5, Scripted::Drain),
        (55, Scripted::Ready),
        (115, Scripted::Drain),
        (117, Scripted::Ready),
    ];
    (0..seconds)
        .step_by(160)
        .flat_map(|from| turn.map(|(at, what)| ((from + at) * SECOND, what)))
        .collect()
}

/// One world, with a rule of the packet path broken, or none.
fn run<const BROKEN: usize>(plan: Plan) -> Found {
    let mut sites = sites();
    if plan.calm {
        sites.truncate(1);
        sites[0].service.idle_timeout = Duration::from_secs(4);
    }
    World::<BROKEN>::new(plan, sites, slots_for).run()
}

/// Several worlds one after the other.
fn worlds<const BROKEN: usize>(seed: u64, count: u64, connections: u64) -> Found {
    let mut all = Found::default();
    for seed in seed..seed + count {
        let mut found = run::<BROKEN>(plan(seed, connections));
        for told in &mut found.told {
            *told = format!("HOLDFAST_SEED={seed}: {told}");
        }
        all.add(found);
    }
    all
}

/// What breaks without each rule: of the packet path, then of the daemon.
fn broken(seed: u64, count: u64, connections: u64) -> Vec<Broken> {
    let path: [fn(u64, u64, u64) -> Found; 10] = [
        worlds::<1>,
        worlds::<2>,
        worlds::<3>,
        worlds::<4>,
        worlds::<5>,
        worlds::<6>,
        worlds::<7>,
        worlds::<8>,
        worlds::<9>,
        worlds::<10>,
    ];
    let only = std::env::var("HOLDFAST_RULE").ok();
    let wanted = |rule: &dyn Debug| only.as_ref().is_none_or(|only| format!("{rule:?}") == *only);
    let mut broken: Vec<Broken> = RULES
        .iter()
        .zip(path)
        .filter(|(rule, _)| wanted(rule))
        .map(|(rule, worlds)| Broken::new(rule, &worlds(seed, count, connections)))
        .collect();
    for rule in rules::ALL.into_iter().filter(|rule| wanted(rule)) {
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

#[test]
fn what_is_recorded_to_a_dead_backend_is_void_when_it_returns() {
    let mut daemon = Daemon::new(1, 16, slots_for);
    daemon.start(&[Site::new(0, Kind::Tcp, 1, &[Mode::Dsr], 2).service]);
    let row = daemon.services[0].tables.row(daemon.services[0].backends[0].index);
    let word = |daemon: &Daemon| Word(daemon.maps.words.get(row).unwrap());
    for returns in [Health::Up, Health::Soft] {
        let before = word(&daemon);
        daemon.probe(0, "b0", Health::Hard, SECOND);
        let dead = word(&daemon);
        daemon.probe(0, "b0", returns, 2 * SECOND);
        let after = word(&daemon);
        assert_eq!((before.serving(), dead.serving(), after.serving()), (true, false, true));
        assert!(![before, dead].map(Word::generation).contains(&after.generation()));
    }
}

#[test]
fn a_backend_that_leaves_while_unsettled_stays_so() {
    // What it did before, and whether the word settles.
    let rows: [(&[Health], bool); 4] = [
        (&[], false),
        (&[Health::Hard, Health::Up], false),
        (&[Health::Soft], false),
        (&[Health::Hard], true),
    ];
    for (probes, settled) in rows {
        let mut daemon = Daemon::new(1, 16, slots_for);
        let mut service = Site::new(0, Kind::Tcp, 1, &[Mode::Dsr], 3).service;
        daemon.start(std::slice::from_ref(&service));
        let row = daemon.services[0].tables.row(daemon.services[0].backends[0].index);
        for health in probes {
            daemon.probe(0, "b0", *health, SECOND);
        }
        service.backends.remove(0);
        daemon.apply(0, &service, 2 * SECOND);
        let word = Word(daemon.maps.words.get(row).unwrap());
        assert!(word.retired() && word.active() == 0, "{probes:?}");
        assert_eq!(word.admit() == word.admit_old(), settled, "{probes:?}");
    }
}

/// What breaks without `HOLDFAST_RULE`, or without each rule: for the search of a reason.
#[test]
#[ignore = "takes minutes; a part of what `cargo xtask simulate` runs"]
fn without_a_rule() {
    let connections = number("HOLDFAST_CONNECTIONS", 50_000);
    println!("{:#?}", broken(seed(), number("HOLDFAST_WORLDS", 4), connections));
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
