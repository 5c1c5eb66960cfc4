//! `cargo xtask test`: format, lints and all tests, those of the kernel and the netns lab included.

use std::{
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    product,
    setup::{self, compiler},
    shell,
};

struct Step {
    name: &'static str,
    outcome: Outcome,
    time: Duration,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

pub(crate) fn run() -> Result<()> {
    setup::run(true)?;
    if shell::is_root() {
        lb_tests::down_stale()?;
    }
    let steps = [
        step("format", format),
        step("clippy", clippy),
        step("clippy, XDP program", clippy_ebpf),
        step("tests", tests),
    ];
    summary(&steps)
}

fn step(name: &'static str, work: fn() -> Result<Outcome>) -> Step {
    eprintln!("==> {name}");
    let start = Instant::now();
    let outcome = work().unwrap_or_else(|why| Outcome::Failed(format!("{why:#}")));
    Step { name, outcome, time: start.elapsed() }
}

fn format() -> Result<Outcome> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    shell::run(
        cargo()
            .args(["clippy", "--workspace", "--exclude", "lb-ebpf", "--all-targets"])
            .args(["--", "-D", "warnings"]),
    )?;
    Ok(Outcome::Passed)
}

/// For its own target: it is no host program (no `main`, its own panic handler).
fn clippy_ebpf() -> Result<Outcome> {
    if let Err(why) = compiler::active() {
        return Ok(Outcome::Skipped(format!("{why:#}; clippy needs it for the eBPF target")));
    }
    let triple = match cfg!(target_endian = "big") {
        true => "bpfeb-unknown-none",
        false => "bpfel-unknown-none",
    };
    shell::run(
        cargo()
            .env("RUSTC_BOOTSTRAP", "1")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
            )
            .args(["clippy", "--package", "lb-ebpf", "--release", "-Zbuild-std=core"])
            .args(["--target", triple, "--target-dir"])
            .arg(shell::root().join("target/ebpf-clippy"))
            .args(["--", "-D", "warnings"]),
    )?;
    Ok(Outcome::Passed)
}

fn tests() -> Result<Outcome> {
    let lb = product::build_lb()?;
    let mut cargo = cargo();
    cargo.args(["test", "--workspace", "--exclude", "lb-ebpf", "--no-fail-fast"]).env("LB_BIN", lb);
    if !shell::is_root() {
        // The tests need root, the build does not: only the test programs run through sudo.
        let host = product::host_triple()?.replace('-', "_").to_uppercase();
        cargo.env(format!("CARGO_TARGET_{host}_RUNNER"), "sudo -E");
    }
    shell::run(&mut cargo)?;
    Ok(Outcome::Passed)
}

fn summary(steps: &[Step]) -> Result<()> {
    let strict = env::var("CI").is_ok_and(|value| value == "true");
    let mut failed = 0;
    println!();
    for Step { name, outcome, time } in steps {
        let (word, why) = match outcome {
            Outcome::Passed => ("ok", ""),
            Outcome::Failed(why) => ("FAILED", why.as_str()),
            Outcome::Skipped(why) => ("skipped", why.as_str()),
        };
        println!("{word:<8} {name:<20} {:>6.1} s  {why}", time.as_secs_f64());
        let skipped = matches!(outcome, Outcome::Skipped(_));
        if matches!(outcome, Outcome::Failed(_)) || (skipped && strict) {
            failed += 1;
        }
    }
    if failed > 0 {
        let note = if strict { " (in CI a skipped step counts as failed)" } else { "" };
        bail!("{failed} of {} steps failed{note}", steps.len());
    }
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(shell::root());
    cargo
}
