//! One part of the benchmark: a bench target of `lb-tests`, run to its end.

use std::{
    fmt,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{Bench, results::Line};
use crate::{product, shell};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The program alone: nanoseconds a packet, by mode, family and size of the tables
    Prog,
    /// Packets a second through real interfaces, beside nftables and a program that only bounces
    Wire,
    /// Requests a second, latency and processor time, beside HAProxy
    Proxy,
    /// Building a Maglev table, and publishing it
    Table,
    /// From a failure to the last word written
    Failover,
    /// 1,000 services with 1,000 backends each: memory, start, changes, probes
    Scale,
}

impl Part {
    pub(super) const ALL: [Self; 6] =
        [Self::Prog, Self::Wire, Self::Proxy, Self::Table, Self::Failover, Self::Scale];

    pub(super) fn needs_root(self) -> bool {
        self != Self::Table
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prog => "prog",
            Self::Wire => "wire",
            Self::Proxy => "proxy",
            Self::Table => "table",
            Self::Failover => "failover",
            Self::Scale => "scale",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Runs a part; `take` gets each result as it comes.
pub(super) fn run(
    part: Part,
    bench: &Bench,
    lb: &Path,
    mut take: impl FnMut(Line) -> Result<()>,
) -> Result<()> {
    let mut command = command(part, bench, lb)?;
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut results = 0;
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the part's results")?;
        match Line::parse(&line) {
            Ok(line) => {
                take(line)?;
                results += 1;
            }
            Err(_) if line.trim().is_empty() => {}
            Err(why) => eprintln!("no result ({why:#}): {line}"),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("it ended with {status} after {results} results");
    }
    if results == 0 {
        eprintln!("{part} has no such case");
    }
    Ok(())
}

fn command(part: Part, bench: &Bench, lb: &Path) -> Result<Command> {
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(shell::root())
        .args(["bench", "--quiet", "--package", "lb-tests", "--bench", part.name(), "--"])
        .env("LB_BIN", lb);
    if let Some(rounds) = bench.rounds {
        cargo.args(["--rounds", &rounds.to_string()]);
    }
    if bench.quick {
        cargo.arg("--quick");
    }
    cargo.args(&bench.cases);
    if part.needs_root() && !shell::is_root() {
        // The build needs no root: only the part itself runs through sudo.
        let host = product::host_triple()?.replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{host}_RUNNER"), "sudo -E");
    }
    Ok(cargo)
}
