//! `cargo xtask …`: set-up, diagnosis, lab, demo, tests, fuzzing and benchmarks, one command each.
//!
//! Builds without the eBPF toolchain, so that it can install it.

mod bench;
mod demo;
mod doctor;
mod fuzz;
mod kernels;
mod lab;
mod product;
mod setup;
mod shell;
mod simulate;
mod test;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, try and test Holdfast", version)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build Holdfast, saying what and why; safe to repeat
    Setup {
        /// Also what the lab, the demo and the tests run: nginx, curl, wrk, iproute2, ethtool, ping, traceroute
        #[arg(long)]
        lab: bool,
        /// Also what benchmarks compare with: haproxy, nginx with its stream module, nftables
        #[arg(long)]
        bench: bool,
    },
    /// Explain what this kernel, interface and toolchain offer and lack
    Doctor {
        /// Also look at this network interface
        interface: Option<String>,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Network namespaces with real backends, to try things in
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// Show balancing, fail-over and fail-back in nat and dsr, IPv4 and IPv6; needs root or sudo
    Demo {
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
        /// Use this `lb` instead of building one
        #[arg(long, value_name = "PATH")]
        lb: Option<PathBuf>,
    },
    /// Connections against changes without end, simulated: packets and changes by the product's own code
    Simulate {
        /// The first world's seed; the same seed gives the same run
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[arg(long, default_value_t = 1_000_000)]
        connections: u64,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Format, lints and all tests; needs root or sudo
    Test,
    /// Packet fixtures on the oldest supported and the newest packaged kernel, each in an emulated machine
    Kernels(kernels::Options),
    /// Feed the packet path generated packets and check what must always hold
    Fuzz(fuzz::Fuzz),
    /// Measure speed, failover and scale; all parts but `table` need root or sudo
    Bench(bench::Bench),
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Task::Setup { lab, bench } => setup::run(lab || bench)
            .and_then(|()| if bench { setup::bench::install_programs() } else { Ok(()) }),
        Task::Doctor { interface, output } => return doctor::run(interface.as_deref(), output),
        Task::Lab(command) => lab::run(command),
        Task::Demo { output, lb } => demo::run(output, lb),
        Task::Simulate { seed, connections, output } => simulate::run(seed, connections, output),
        Task::Test => test::run(),
        Task::Kernels(options) => kernels::run(&options),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}
