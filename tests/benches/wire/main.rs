//! `cargo xtask bench wire`: packets through cables between namespaces, made, balanced, received
//! and looked at on one core; beside the kernel's own balancing and an XDP program that only
//! bounces. docs/benchmarks.md says what the figures mean.

#[expect(dead_code, reason = "the programs use more of it")]
#[path = "../../../lb-ebpf/src/bench/wire_abi.rs"]
mod abi;
mod frame;
mod lanes;
mod latency;
mod programs;
mod report;
mod throughput;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use lb_tests::{
    Family, all_cores,
    bench::{self, Options, progress, progress_ends},
    down_stale, pin,
};

use lanes::{Lane, Lanes, System};
use programs::Programs;
use report::{Measured, Waits};
use throughput::Traffic;

fn main() -> ExitCode {
    bench::main(run)
}

/// The core that makes, balances and receives, and the one for everything else.
#[derive(Clone, Copy)]
struct Cores {
    packets: usize,
    rest: usize,
}

fn run(options: &Options) -> Result<()> {
    if !lanes::is_installed("nft") {
        bail!("the kernel's balancing needs nft: `apt install nftables`");
    }
    let cores = all_cores()?;
    let (Some(first), Some(last)) = (cores.first(), cores.last()) else { bail!("no cores") };
    let cores = Cores { packets: *last, rest: *first };
    // Whatever is started from here on leaves the packets' core alone.
    pin(&[cores.rest])?;
    down_stale()?;
    let wanted = cases(options);
    let mut programs = Programs::load()?;
    let mut lanes = Lanes::new()?;
    for system in System::ALL {
        if wanted.iter().any(|case| case.system == system) {
            progress(&format!("wire: building {}", system.mode()));
            lanes.add(system, &mut programs)?;
        }
    }
    let generator = lanes.generator.clone();
    generator.enter(|| {
        pin(&[cores.packets])?;
        let measured = throughput(options, &lanes.lanes, &wanted, &mut programs)?;
        report::throughput(&measured);
        let waits = latency(options, &lanes.lanes, &measured, &mut programs, cores)?;
        report::latency(&waits);
        Ok(())
    })?
}

/// A measurement of throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) system: System,
    pub(crate) family: Family,
    pub(crate) flows: u32,
}

impl Case {
    /// As `CASE` on the command line is compared with.
    fn name(self) -> String {
        let Self { system, family, flows } = self;
        let family = family.to_string().replace("IP", "");
        let flows = match flows {
            1 => "1 flow".to_owned(),
            _ if flows >= 1 << 20 => format!("{} M flows", flows >> 20),
            _ => format!("{} k flows", flows >> 10),
        };
        format!("{} {family} {flows}", system.mode())
    }
}

/// What latency is measured with, and at half of what speed.
const PROBED: Traffic = Traffic { family: Family::V4, flows: 1 << 16 };

/// All that is wanted, and what it is compared with.
fn cases(options: &Options) -> Vec<Case> {
    let mut all = vec![PROBED];
    if !options.quick {
        let other = |family, flows| Traffic { family, flows };
        all.insert(0, other(Family::V4, 1));
        all.extend([other(Family::V6, 1), other(Family::V6, 1 << 16)]);
    }
    let mut cases = Vec::new();
    for traffic in all {
        let is_wanted = |system: &System| {
            let is_probed = traffic == PROBED && !waits(options, *system).is_empty();
            is_probed || options.wants(&traffic.of(*system).name())
        };
        if System::ALL.iter().any(is_wanted) {
            let baseline = [System::Generator, System::Cable, System::Bounce, System::Nftables];
            let wanted = |system: &System| baseline.contains(system) || is_wanted(system);
            cases.extend(System::ALL.into_iter().filter(wanted).map(|system| traffic.of(system)));
        }
    }
    cases
}

/// How busy a system is to be kept while probes are sent.
fn waits(options: &Options, system: System) -> Vec<Busy> {
    let wanted = |busy: &Busy| match (system, busy) {
        (System::Generator | System::Cable, _) => false,
        // Half of its own is the same.
        (System::Nftables, Busy::AsNftables) => false,
        _ => options.wants(&report::wait_name(system, *busy)),
    };
    Busy::ALL.into_iter().filter(wanted).collect()
}

/// Visits of each lane in a round, and windows in a visit.
const VISITS: usize = 2;
const WINDOWS: u32 = 8;

fn throughput(
    options: &Options,
    lanes: &[Lane],
    cases: &[Case],
    programs: &mut Programs,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for (pass, case) in (1..).zip(cases) {
        let (lane, traffic) = (lane(lanes, case.system)?, case.traffic());
        let arrivals = throughput::verify(programs, lane, traffic, pass)?;
        measured.push(Measured { case: *case, ns: Vec::new(), arrivals });
    }
    for round in 0..options.rounds {
        progress(&format!("wire: round {} of {}", round + 1, options.rounds));
        for at in (0..VISITS * measured.len()).map(|visit| visit % cases.len()) {
            let Some(one) = measured.get_mut(at) else { continue };
            let (lane, traffic) = (lane(lanes, one.case.system)?, one.case.traffic());
            let (mut ns, arrivals) = throughput::measure(programs, lane, traffic, WINDOWS)?;
            one.ns.append(&mut ns);
            one.arrivals.add(&arrivals);
        }
    }
    progress_ends();
    Ok(measured)
}

/// How busy a system is kept while probes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    Idle,
    /// Half of what nftables can do.
    AsNftables,
    /// Half of what it can do itself.
    Half,
}

impl Busy {
    const ALL: [Self; 3] = [Self::Idle, Self::AsNftables, Self::Half];
}

fn latency(
    options: &Options,
    lanes: &[Lane],
    measured: &[Measured],
    programs: &mut Programs,
    cores: Cores,
) -> Result<Vec<Waits>> {
    if cores.packets == cores.rest {
        eprintln!("wire: latency needs a second core");
        return Ok(Vec::new());
    }
    let least = |system| {
        let of = |one: &&Measured| one.case == PROBED.of(system);
        measured.iter().find(of).map(Measured::least_ns)
    };
    let mut all = Vec::new();
    for system in lanes.iter().map(|lane| lane.system) {
        let (Some(own), Some(kernel)) = (least(system), least(System::Nftables)) else { continue };
        for busy in waits(options, system) {
            let ns_per_frame = match busy {
                Busy::Idle => f64::INFINITY,
                Busy::AsNftables => 2.0 * kernel,
                Busy::Half => 2.0 * own,
            };
            all.push(Waits { system, busy, ns_per_frame, rounds: Vec::new() });
        }
    }
    let (rounds, time) = if options.quick { (1, 200) } else { (options.rounds, 500) };
    let time = Duration::from_millis(time);
    for round in 0..rounds {
        progress(&format!("wire: latency, round {} of {rounds}", round + 1));
        for waits in &mut all {
            let load = latency::Load { ns_per_frame: waits.ns_per_frame, time };
            let lane = lane(lanes, waits.system)?;
            waits.rounds.push(latency::measure(programs, lane, load, cores.rest)?);
        }
    }
    progress_ends();
    Ok(all)
}

impl Case {
    fn traffic(self) -> Traffic {
        Traffic { family: self.family, flows: self.flows }
    }
}

impl Traffic {
    fn of(self, system: System) -> Case {
        Case { system, family: self.family, flows: self.flows }
    }
}

fn lane(lanes: &[Lane], system: System) -> Result<&Lane> {
    let found = lanes.iter().find(|lane| lane.system == system);
    found.with_context(|| format!("{} was not built", system.mode()))
}
