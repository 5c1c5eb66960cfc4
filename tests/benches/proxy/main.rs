//! `cargo xtask bench proxy`: real requests through each load balancer to real servers, and what a
//! request costs. docs/benchmarks.md says what the figures mean.

mod report;
mod system;
mod wrk;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use lb_tests::{
    bench::{self, Options, progress, progress_ends},
    down_stale,
};

use report::Measured;
use system::{Site, System};
use wrk::Wrk;

fn main() -> ExitCode {
    bench::main(run)
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    name: &'static str,
    path: &'static str,
    connections: u32,
    /// A connection for each request.
    closes: bool,
}

impl Case {
    /// Whether bytes matter, and not requests.
    fn is_bulk(self) -> bool {
        self.path == "/big"
    }
}

const CASES: [Case; 4] = [
    Case { name: "keep-alive, 32 connections", path: "/", connections: 32, closes: false },
    Case { name: "close, 32 connections", path: "/", connections: 32, closes: true },
    Case { name: "keep-alive, 1 connection", path: "/", connections: 1, closes: false },
    Case { name: "100 KiB, 8 connections", path: "/big", connections: 8, closes: false },
];
/// As many of them as a quick run has.
const QUICK: usize = 2;

fn run(options: &Options) -> Result<()> {
    system::need_programs()?;
    down_stale()?;
    let cases: Vec<Case> = CASES[..if options.quick { QUICK } else { CASES.len() }]
        .iter()
        .filter(|case| System::ALL.iter().any(|system| options.wants(&name(**case, *system))))
        .copied()
        .collect();
    let mut sites = Vec::new();
    for system in System::ALL {
        // All results are compared with those two.
        let baseline = matches!(system, System::Direct | System::Haproxy);
        if !cases.is_empty()
            && (baseline || cases.iter().any(|case| options.wants(&name(*case, system))))
        {
            progress(&format!("proxy: building {}", system.mode()));
            sites.push(Site::build(system)?);
        }
    }
    let mut measured: Vec<Measured> = cases
        .iter()
        .flat_map(|case| sites.iter().map(|site| Measured::new(*case, site.system)))
        .collect();
    let rounds = if options.quick { options.rounds.min(2) } else { options.rounds };
    for round in 0..rounds {
        progress(&format!("proxy: round {} of {rounds}", round + 1));
        let runs = cases.iter().flat_map(|case| sites.iter().map(move |site| (case, site)));
        for ((case, site), measured) in runs.zip(&mut measured) {
            measured.add(&site.run(&wrk(*case))?);
        }
    }
    progress_ends();
    report::all(&measured);
    Ok(())
}

/// As `CASE` on the command line is compared with.
fn name(case: Case, system: System) -> String {
    format!("{} {}", system.mode(), case.name)
}

fn wrk(case: Case) -> Wrk {
    let Case { path, connections, closes, .. } = case;
    Wrk { path, connections, closes, time: Duration::from_secs(1) }
}
