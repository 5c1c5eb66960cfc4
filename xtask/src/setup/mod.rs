//! `cargo xtask setup`: installs what is missing to build the XDP program, and on request what the lab runs.
//!
//! Each step looks first, says what it will do and why, and is skipped when there is nothing to do. The result is
//! written to `target/tools/ebpf-toolchain.json`, which the daemon's build script reads.

pub(crate) mod apt;
pub(crate) mod bench;
pub(crate) mod compiler;
pub(crate) mod linker;
pub(crate) mod llvm;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::shell;
use compiler::Compiler;

/// What builds the XDP program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) linker: PathBuf,
    pub(crate) llvm: u32,
    /// Unstable features of a stable compiler are needed (always so today: `-Zbuild-std`).
    pub(crate) bootstrap: bool,
}

pub(crate) fn run(with_lab: bool) -> Result<()> {
    let (compiler, llvm_config) = compiler_with_llvm()?;
    ok("compiler", &compiler.to_string());
    ok("llvm", &llvm_config.display().to_string());
    let linker = linker::ensure(compiler.llvm, &llvm_config)?;
    ok("bpf-linker", &format!("{} (LLVM {})", linker.display(), compiler.llvm));
    let Compiler { rustc, cargo, llvm, .. } = compiler;
    record(&Toolchain { rustc, cargo, linker, llvm, bootstrap: true })?;
    if with_lab {
        install_lab_programs()?;
    }
    Ok(())
}

/// The active compiler with its `core` source, or the distribution's, and the LLVM that matches it. What is there
/// goes before what must be installed.
fn compiler_with_llvm() -> Result<(Compiler, PathBuf)> {
    let mut refused = Vec::new();
    for find in
        [compiler::active, compiler::distribution, compiler::add_source, compiler::add_distribution]
    {
        match find().and_then(|compiler| llvm::ensure(compiler.llvm).map(|llvm| (compiler, llvm))) {
            Ok(found) => return Ok(found),
            Err(why) => refused.push(format!("{why:#}")),
        }
    }
    bail!(
        "no compiler for the XDP program.\n  - {}\nBy hand: `rustup component add rust-src`, and the LLVM \
         development package of the LLVM that `rustc -vV` names.",
        refused.join("\n  - ")
    )
}

/// A program of the lab, the package that has it, and what it is for.
pub(crate) const LAB_PROGRAMS: [(&str, &str, &str); 9] = [
    ("ip", "iproute2", "network namespaces and links"),
    ("ethtool", "ethtool", "turning the links' offloads off"),
    ("nginx", "nginx-light", "the backends"),
    ("dnsmasq", "dnsmasq-base", "a name server to probe and to ask"),
    ("curl", "curl", "requests through the VIP"),
    ("wrk", "wrk", "load through the VIP"),
    ("iperf3", "iperf3", "streams through tunnels"),
    ("ping", "iputils-ping", "whether a VIP answers"),
    ("traceroute", "traceroute", "what is on the way to a VIP"),
];

pub(crate) fn install_lab_programs() -> Result<()> {
    let missing: Vec<_> = LAB_PROGRAMS
        .iter()
        .filter(|(program, ..)| shell::find_program(program).is_none())
        .collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
        let reasons: Vec<_> = missing.iter().map(|(p, _, why)| format!("{p} ({why})")).collect();
        apt::install(&packages, &format!("the lab needs {}", reasons.join(", ")))?;
        if packages.contains(&"nginx-light") {
            apt::stop_service("nginx")?;
        }
    }
    let names: Vec<&str> = LAB_PROGRAMS.iter().map(|(program, ..)| *program).collect();
    ok("lab", &names.join(", "));
    Ok(())
}

pub(crate) fn tools_dir() -> PathBuf {
    shell::root().join("target/tools")
}

pub(crate) fn record_path() -> PathBuf {
    tools_dir().join("ebpf-toolchain.json")
}

pub(crate) fn recorded(path: &Path) -> Option<Toolchain> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// Written only when it changes: the build script runs again when its time stamp does.
fn record(toolchain: &Toolchain) -> Result<()> {
    let path = record_path();
    if recorded(&path).as_ref() != Some(toolchain) {
        fs::create_dir_all(tools_dir())?;
        let text = serde_json::to_string_pretty(toolchain)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    ok("recorded", &path.display().to_string());
    Ok(())
}

fn ok(item: &str, what: &str) {
    eprintln!("ok  {item:<10}  {what}");
}

/// Announces a step before it runs.
fn step(what: &str, why: &str) {
    eprintln!("==> {what}\n    why: {why}");
}
