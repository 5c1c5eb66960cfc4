//! The simulator: the packet path and the daemon's half of flow affinity against an oracle.
//!
//! Frames go through the program's own code; changes through the daemon's own, on simulated time.
//! An oracle that shares no code with either remembers where each connection began, and counts
//! every packet that goes elsewhere. With all rules kept there is none without a reason; with any
//! one rule broken there are some.
//!
//! `HOLDFAST_SEED` gives a run again; `cargo xtask simulate` makes a large one.

mod cpu;
mod daemon;
mod oracle;
mod random;
mod site;
mod wire;
mod world;

use self::oracle::Found;
use self::site::{Kind, Site};
use self::world::{Plan, World};
use super::rules;
use crate::config::model::Mode;
use daemon::SECOND;

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

fn plan(seed: u64, connections: u64) -> Plan {
    let flows = if seed % 4 == 3 { 300 } else { 200_000 };
    Plan {
        seed,
        connections,
        flows,
        rate: 200,
        pause: 3 * SECOND,
        refusals: seed.is_multiple_of(2),
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

fn seed() -> u64 {
    std::env::var("HOLDFAST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_established_connection_is_misdirected() {
    let worlds = number("HOLDFAST_WORLDS").unwrap_or(2);
    let connections = number("HOLDFAST_CONNECTIONS").unwrap_or(6000);
    let mut all = Found::default();
    for world in 0..worlds {
        let found = run::<0>(plan(seed() + world, connections));
        if found.wrong() + found.uncovered > 0 {
            eprintln!(
                "seed {}: {} wrong, {} uncovered",
                seed() + world,
                found.wrong(),
                found.uncovered
            );
            eprintln!("{:#?}", found.told);
        }
        all.add(found);
    }
    eprintln!("{all:#?}");
    assert_eq!((all.wrong(), all.uncovered, all.uncovered_live), (0, 0, 0), "seed {}", seed());
}

#[test]
fn every_rule_of_the_daemon_is_missed() {
    let connections = number("HOLDFAST_CONNECTIONS").unwrap_or(6000);
    for rule in rules::ALL {
        rules::break_rule(Some(rule));
        let found = run::<0>(plan(seed(), connections));
        rules::break_rule(None);
        eprintln!("{rule:?}: {} wrong, {} uncovered", found.wrong(), found.uncovered);
    }
}
