//! `cargo xtask …`: set-up, diagnosis, lab, demo and tests, one command each.
//!
//! Builds without the eBPF toolchain, so that it can install it.

mod setup;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};

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
        /// Also what the lab, the demo and the tests run: nginx, curl, wrk, iproute2, ethtool
        #[arg(long)]
        lab: bool,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Task::Setup { lab } => setup::run(lab),
    }
}
