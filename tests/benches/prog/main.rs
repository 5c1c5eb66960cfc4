//! `cargo xtask bench prog`: nanoseconds per packet of the loaded program, by test runs.
//!
//! A small program writes the headers of the next flow and calls the program under test, as a test
//! run of many packets does not restore them. Its own time is in every figure, and in the floors
//! that figures are divided by. See docs/benchmarks.md.

mod cases;
mod driver;
mod frames;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use aya::programs::ProgramFd;
use lb_common::verdict::Verdict;
use lb_tests::bench::{self, Figure, Options, emit, progress, progress_ends};
use lb_userspace::config::model::Prefix;
use lb_userspace::dataplane::decap::Decapsulator;
use serde_json::json;

use crate::cases::{Case, Kind, State};
use crate::driver::{Driver, Floor};
use crate::world::{Mode, Placed, Set, World, footprint};

/// Windows of a case in a round.
const WINDOWS: u32 = 100;

fn main() -> ExitCode {
    bench::main(run)
}

fn run(options: &Options) -> Result<()> {
    let mut cases = cases::all(options.quick);
    let wanted = |case: &Case| options.wants(&case.name());
    // Floors go with whatever is compared with them.
    let flows: BTreeSet<u32> = cases.iter().filter(|c| wanted(c)).map(|c| c.flows).collect();
    cases.retain(|case| match case.kind {
        Kind::Floor(_) => flows.contains(&case.flows),
        _ => wanted(case),
    });
    ensure!(!cases.is_empty(), "no case has a name like that");
    let mut bench = Bench::new(cases)?;
    if let Err(why) = alone() {
        eprintln!("other processes may interrupt what is measured: {why}");
    }
    for round in 0..options.rounds {
        bench.round(round, options.rounds)?;
    }
    progress_ends();
    bench.report();
    Ok(())
}

/// Nothing else runs on this processor while a window does: the kernel looks for others between
/// packets. Between windows there is time for them.
fn alone() -> std::io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads one struct, for this process.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A case that is ready to run.
struct Ready {
    case: Case,
    placed: Placed,
    driver: Driver,
    windows: Vec<f64>,
}

struct Bench {
    world: World,
    decapsulator: Decapsulator,
    ready: Vec<Ready>,
}

impl Bench {
    fn new(cases: Vec<Case>) -> Result<Self> {
        progress("loading the program and filling its maps");
        let sets: BTreeSet<Set> = cases.iter().map(|case| case.set).collect();
        let sets: Vec<Set> = sets.into_iter().collect();
        let nat = nat_flows(&cases);
        // And those that SYNs open.
        let connections = nat.values().sum::<u32>() + (1 << 18);
        let world = World::new(&sets, connections)?;
        for (set, flows) in &nat {
            world.open_connections(&world.placed(set)?, *flows)?;
        }
        let from = [world::tunnel_source(false), world::tunnel_source(true)].map(Prefix::host);
        let decapsulator = Decapsulator::load(&from, 6080)?;
        let mut ready = Vec::new();
        for case in cases {
            let placed = world.placed(&case.set)?;
            let driver = Driver::load(&case.template(placed.vip), case.undo())
                .with_context(|| case.name())?;
            ready.push(Ready { case, placed, driver, windows: Vec::new() });
        }
        let mut bench = Self { world, decapsulator, ready };
        for at in 0..bench.ready.len() {
            bench.check(at)?;
        }
        Ok(bench)
    }

    /// Every packet of a case must end as it should: what is measured is what it says.
    fn check(&mut self, at: usize) -> Result<()> {
        let name = self.ready[at].case.name();
        progress(&format!("checking {name}"));
        self.begin(at)?;
        let ready = &mut self.ready[at];
        let packets = ready.case.flows.clamp(1000, 1 << 20);
        let before = self.world.counted();
        let opened = self.decapsulator.verdicts(Verdict::PassDecapsulated);
        ready.driver.run(packets, ready.case.action()).with_context(|| name.clone())?;
        let after = self.world.counted();
        let opened = self.decapsulator.verdicts(Verdict::PassDecapsulated) - opened;
        let (sent, other) = (after.0 - before.0, after.1 - before.1);
        let packets = u64::from(packets);
        let expected = match ready.case.kind {
            Kind::Floor(_) => (0, 0, 0),
            Kind::Decap { .. } => (0, 0, packets),
            Kind::NatReply | Kind::Echo | Kind::TooBig | Kind::Miss | Kind::PortMiss => {
                (0, packets, 0)
            }
            _ => (packets, 0, 0),
        };
        ensure!(
            (sent, other, opened) == expected,
            "{name}: of {packets} packets {sent} went to backends, {other} were answered or passed, \
             {opened} came out of a tunnel; so far {:?}",
            self.world.verdicts()
        );
        self.end(at)
    }

    fn round(&mut self, round: usize, rounds: usize) -> Result<()> {
        let count = self.ready.len();
        for at in 0..count {
            let name = self.ready[at].case.name();
            progress(&format!(
                "round {} of {rounds}, case {} of {count}: {name}",
                round + 1,
                at + 1
            ));
            self.begin(at)?;
            let Ready { case, driver, windows, .. } = &mut self.ready[at];
            // The caches are another case's.
            driver.windows(WINDOWS / 4, case.action())?;
            windows.extend(driver.windows(WINDOWS, case.action())?);
            self.end(at)?;
        }
        Ok(())
    }

    fn begin(&mut self, at: usize) -> Result<()> {
        let fd = self.under_test(self.ready[at].case.kind)?;
        let Ready { case, placed, driver, .. } = &mut self.ready[at];
        if let Some(fd) = fd {
            driver.test(&fd)?;
        }
        if let Kind::Floor(floor) = case.kind {
            driver.test_floor(floor)?;
        }
        let state = case.state;
        match state {
            State::Steady => {}
            State::Shadowed => self.world.set_shadowed(placed, true)?,
            _ => self.world.set_words(placed, state.backends(), |server| state.word(server))?,
        }
        Ok(())
    }

    /// All back to normal.
    fn end(&mut self, at: usize) -> Result<()> {
        let Ready { case, placed, .. } = &self.ready[at];
        match case.state {
            State::Steady => Ok(()),
            State::Shadowed => self.world.set_shadowed(placed, false),
            state => self.world.set_words(placed, 0, |server| state.word(server)),
        }
    }

    fn under_test(&mut self, kind: Kind) -> Result<Option<ProgramFd>> {
        Ok(match kind {
            Kind::Floor(_) => None,
            Kind::Decap { .. } => Some(self.decapsulator.program()?.fd()?.try_clone()?),
            _ => Some(self.world.fd()?),
        })
    }

    fn report(&self) {
        let figures: Vec<Figure> = self.ready.iter().map(|r| Figure::of(&r.windows)).collect();
        let floor = |kind: Floor, flows: u32| {
            let of = |r: &Ready| r.case.kind == Kind::Floor(kind) && r.case.flows == flows;
            let at = self.ready.iter().position(of);
            at.map_or(f64::NAN, |at| figures[at].min)
        };
        for (ready, figure) in self.ready.iter().zip(&figures) {
            let case = &ready.case;
            let floor_ns = floor(case.floor(), case.flows);
            emit(&json!({
                "part": "prog",
                "mode": case.mode(),
                "family": if case.set.six { "ipv6" } else { "ipv4" },
                "protocol": case.protocol(),
                "kind": case.kind_name(),
                "flows": case.flows,
                "services": case.set.services,
                "backends": case.set.backends,
                "slots": case.set.slots,
                "ns_min": round(figure.min),
                "ns_p10": round(figure.p10),
                "ns_median": round(figure.median),
                "floor": case.floor().name(),
                "floor_ns_min": round(floor_ns),
                "ratio": round(figure.min / floor_ns),
                "footprint_bytes": footprint(&case.set),
                "verified_instructions": self.world.instructions(),
            }));
        }
    }
}

/// NAT connections that must be open for the cases of each set.
fn nat_flows(cases: &[Case]) -> BTreeMap<Set, u32> {
    let mut flows = BTreeMap::new();
    let is_open = |case: &&Case| case.set.mode == Mode::Nat && case.kind != Kind::Syn;
    for case in cases.iter().filter(is_open) {
        let most = flows.entry(case.set).or_insert(0);
        *most = case.flows.max(*most);
    }
    flows
}

fn round(ns: f64) -> f64 {
    (ns * 100.0).round() / 100.0
}
