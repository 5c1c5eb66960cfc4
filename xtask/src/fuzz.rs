//! `cargo xtask fuzz`: the fuzz targets of the packet path, built and run.
//!
//! Any toolchain will do, as coverage comes from LLVM's own pass and libFuzzer from a crate, which
//! a C++ compiler builds. `--asan` adds AddressSanitizer, a nightly flag. What is found, and the
//! corpus that grows, stay under `target/fuzz`; `--keep` takes into the committed corpus what adds
//! coverage to it.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::shell::{self, capture};

/// As in `lb_common::fuzzing::TARGETS`.
const TARGETS: [&str; 5] = ["parse", "path", "decap", "icmp", "rewrite"];
/// The longest input: a few frames.
const MAX_LEN: &str = "-max_len=1600";

/// What cargo-fuzz passes, too.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// One target; all of them if none is named
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// Executions of each target
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    runs: u64,
    /// Most seconds for each target
    #[arg(long, value_name = "S", default_value_t = 600)]
    seconds: u64,
    /// Also find wrong memory accesses (AddressSanitizer)
    #[arg(long)]
    asan: bool,
    /// Then make the committed corpus anew, as small as covers the same
    #[arg(long)]
    keep: bool,
}

struct Outcome {
    executions: u64,
    per_second: u64,
    coverage: u64,
    features: u64,
    inputs: u64,
    found: Option<PathBuf>,
}

pub(crate) fn run(args: &Fuzz) -> Result<()> {
    let programs = build(args.asan)?;
    let targets =
        TARGETS.into_iter().filter(|name| args.target.as_deref().is_none_or(|t| t == *name));
    let mut outcomes = Vec::new();
    for target in targets {
        eprintln!("==> {target}");
        outcomes.push((target, fuzz(&programs.join(target), target, args)?));
        if args.keep {
            keep(&programs.join(target), target)?;
        }
    }
    summary(&outcomes)
}

fn build(asan: bool) -> Result<PathBuf> {
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let Some(name) = compiler.split_whitespace().next() else { bail!("CXX is empty") };
    if shell::find_program(name).is_none() && !Path::new(name).is_file() {
        bail!("no C++ compiler `{name}`, which builds libFuzzer: install g++ or clang, or set CXX");
    }
    let version = capture(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    let to = shell::root().join("target/fuzz").join(if asan { "asan" } else { "build" });
    let mut cargo = Command::new("cargo");
    // With a target, the flags are not those of build scripts.
    cargo.current_dir(shell::root().join("lb-common/fuzz"));
    cargo.args(["build", "--release", "--target", host, "--target-dir"]).arg(&to);
    let sanitizer = if asan { " -Zsanitizer=address" } else { "" };
    cargo.env("RUSTFLAGS", format!("{FLAGS}{sanitizer}"));
    if asan {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    shell::run(&mut cargo).context(
        "the fuzz targets can't be built: they need the crate libfuzzer-sys, and a rustc whose LLVM \
         has the pass sancov-module, as rustup's have",
    )?;
    Ok(to.join(host).join("release"))
}

fn corpus(target: &str) -> PathBuf {
    shell::root().join("lb-common/fuzz/corpus").join(target)
}

/// Where a target's corpus grows.
fn work(target: &str) -> Result<PathBuf> {
    let work = shell::root().join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    Ok(work)
}

fn fuzz(program: &Path, target: &str, args: &Fuzz) -> Result<Outcome> {
    let found = shell::root().join("target/fuzz").join(format!("found-{target}-"));
    let mut child = Command::new(program)
        .arg(work(target)?)
        .args(Some(corpus(target)).filter(|corpus| corpus.is_dir()))
        .args([format!("-runs={}", args.runs), format!("-max_total_time={}", args.seconds)])
        .args([MAX_LEN, "-print_final_stats=1", "-verbosity=1"])
        .arg(format!("-artifact_prefix={}", found.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let output = BufReader::new(child.stderr.take().context("no output")?);
    let mut outcome =
        Outcome { executions: 0, per_second: 0, coverage: 0, features: 0, inputs: 0, found: None };
    let mut tail = Vec::new();
    for line in output.lines() {
        let line = line?;
        outcome.read(&line);
        // What comes after the last line of progress tells what was found.
        if line.starts_with('#') {
            tail.clear();
        }
        tail.push(line);
    }
    let status = child.wait()?;
    if !status.success() {
        eprintln!("{}", tail.join("\n"));
        if outcome.found.is_none() {
            bail!("{} failed: {status}", program.display());
        }
    }
    Ok(outcome)
}

impl Outcome {
    /// Reads one line of libFuzzer's.
    fn read(&mut self, line: &str) {
        let word_after = |name: &str| {
            let rest = line.split_once(name)?.1.trim_start();
            rest.split([' ', '/']).next()
        };
        let number_after = |name| word_after(name).and_then(|word| word.parse().ok());
        if line.starts_with('#') {
            self.coverage = number_after("cov:").unwrap_or(self.coverage);
            self.features = number_after("ft:").unwrap_or(self.features);
            self.inputs = number_after("corp:").unwrap_or(self.inputs);
        } else if let Some(n) = number_after("stat::number_of_executed_units:") {
            self.executions = n;
        } else if let Some(n) = number_after("stat::average_exec_per_sec:") {
            self.per_second = n;
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.found = Some(PathBuf::from(path.trim()));
        }
    }
}

/// Puts in place of the committed corpus the smallest one that covers what all inputs do.
fn keep(program: &Path, target: &str) -> Result<()> {
    let (to, from) = (corpus(target), work(target)?);
    let fresh = to.with_extension("fresh");
    fs::create_dir_all(&fresh)?;
    // By edges alone: how often each is taken makes a corpus many times as large.
    let mut merge = Command::new(program);
    merge.args(["-set_cover_merge=1", "-use_counters=0", MAX_LEN]).arg(&fresh);
    for dir in [&from, &to].into_iter().filter(|dir| dir.is_dir()) {
        merge.arg(dir);
    }
    capture(&mut merge)?;
    if to.is_dir() {
        fs::remove_dir_all(&to)?;
    }
    fs::rename(&fresh, &to).with_context(|| format!("cannot replace {}", to.display()))
}

fn summary(outcomes: &[(&str, Outcome)]) -> Result<()> {
    println!(
        "\n{:<8} {:>12} {:>9} {:>6} {:>8} {:>7}",
        "", "executions", "per s", "edges", "features", "inputs"
    );
    let mut findings = 0;
    for (target, outcome) in outcomes {
        let Outcome { executions, per_second, coverage, features, inputs, found } = outcome;
        println!(
            "{target:<8} {executions:>12} {per_second:>9} {coverage:>6} {features:>8} {inputs:>7}"
        );
        if let Some(found) = found {
            findings += 1;
            println!("         FOUND: {}", found.display());
        }
    }
    if findings > 0 {
        bail!(
            "{findings} findings: run the target's program under target/fuzz/ on the file for its trace"
        );
    }
    Ok(())
}
