//! `cargo xtask simulate`: the simulator of flow affinity at full size, in a release build.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{Output, shell};

/// The test that does it.
const TEST: &str = "control::sim::simulate";

pub(crate) fn run(seed: u64, connections: u64, output: Output) -> Result<()> {
    let results = shell::root().join("target/simulation.json");
    let mut cargo = Command::new("cargo");
    cargo
        .current_dir(shell::root())
        .args(["test", "--release", "--package", "lb-userspace", "--lib", "--"])
        .args(["--ignored", "--exact", "--nocapture", TEST])
        .env("HOLDFAST_SEED", seed.to_string())
        .env("HOLDFAST_CONNECTIONS", connections.to_string())
        .env("HOLDFAST_RESULTS", &results);
    if matches!(output, Output::Text) {
        return shell::run(&mut cargo);
    }
    let status = cargo.stdout(Stdio::null()).status().context("cannot run cargo")?;
    let text = fs::read_to_string(&results);
    println!("{}", text.with_context(|| format!("cannot read {}", results.display()))?);
    if !status.success() {
        bail!("the simulation failed: {status}");
    }
    Ok(())
}
