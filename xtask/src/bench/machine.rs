//! The machine a result comes from, and what of it decides about speed: the first line of every result.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use lb_tests::{Balancer, Lab, Mode, Topology};
use serde_json::{Value, json};

use super::{Bench, fields::shown, results::Line, table};
use crate::shell;

/// What the line's field `part` says.
pub(super) const PART: &str = "machine";

/// `lb` is asked for the mode its program runs in; `None` if no part needs an interface.
pub(super) fn line(bench: &Bench, lb: Option<&Path>) -> Result<Line> {
    let git = |arguments: &[&str]| {
        shell::capture(Command::new("git").current_dir(shell::root()).args(arguments)).ok()
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let xdp_mode = lb.map(|lb| {
        xdp_mode(lb).unwrap_or_else(|why| {
            eprintln!("no XDP mode is known: {why:#}");
            "unknown".into()
        })
    });
    json!({
        "part": PART,
        "cpu": from_file("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism()?.get(),
        "caches": caches(Path::new("/sys/devices/system/cpu/cpu0/cache")),
        "memory_mib": memory_mib(),
        "kernel": word("/proc/sys/kernel/osrelease"),
        "load_average": word("/proc/loadavg").and_then(|l| l.split(' ').next()?.parse::<f64>().ok()),
        "commit": git(&["rev-parse", "--short=12", "HEAD"]),
        "dirty": changed.map(|changed| !changed.is_empty()),
        "compiler": shell::capture(Command::new("rustc").arg("--version")).ok(),
        "bpf_jit": word("/proc/sys/net/core/bpf_jit_enable").map(|value| jit(&value)),
        "xdp_mode": xdp_mode,
        "rounds": bench.rounds,
        "quick": bench.quick,
        "cases": bench.cases,
    })
    .try_into()
}

/// The line for people.
pub(super) fn text(line: &Line) -> String {
    let field = |name: &str| line.fields.get(name).map_or("unknown".into(), shown);
    let dirty = line.fields.get("dirty") == Some(&Value::Bool(true));
    let facts = [
        field("cpu"),
        format!("{} cores", field("cores")),
        field("caches"),
        format!("{} MiB of memory", field("memory_mib")),
        format!("kernel {}", field("kernel")),
        format!("load {}", field("load_average")),
        format!("commit {}{}", field("commit"), if dirty { ", changed since" } else { "" }),
        format!("BPF JIT {}", field("bpf_jit")),
        format!("XDP mode {}", field("xdp_mode")),
    ];
    let mut text = table::folded(&facts.join("; "), table::WIDTH);
    if line.fields.get("quick") == Some(&Value::Bool(true)) {
        let _ = writeln!(text, "--quick: these figures say that it works, not how fast it is");
    }
    text + "\n"
}

fn jit(value: &str) -> String {
    match value {
        "0" => "off".into(),
        "1" => "on".into(),
        other => format!("on ({other})"),
    }
}

/// The first value of a file of `name : value` lines.
fn from_file(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn word(file: &str) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

fn memory_mib() -> Option<u64> {
    let total = from_file("/proc/meminfo", "MemTotal")?;
    Some(total.strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

/// Of one core: "L1d 48K, L1i 32K, L2 2048K, L3 307200K".
fn caches(directory: &Path) -> Option<String> {
    let mut all: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("level").is_file())
        .collect();
    all.sort();
    let cache = |path: &PathBuf| {
        let read = |name: &str| word(path.join(name).to_str()?);
        let kind = match read("type")?.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        Some(format!("L{}{kind} {}", read("level")?, read("size")?))
    };
    let caches: Vec<String> = all.iter().filter_map(cache).collect();
    (!caches.is_empty()).then(|| caches.join(", "))
}

fn xdp_mode(lb: &Path) -> Result<String> {
    if shell::is_root() {
        return mode_in_lab(lb);
    }
    let mut again = shell::as_root("env")?;
    again.arg(std::env::current_exe()?).args(["bench", "xdp-mode"]).arg(lb);
    shell::capture(&mut again)
}

pub(super) fn print_xdp_mode(lb: &Path) -> Result<()> {
    println!("{}", mode_in_lab(lb)?);
    Ok(())
}

/// The mode that `lb` takes on an interface of the lab, where all parts with interfaces run.
fn mode_in_lab(lb: &Path) -> Result<String> {
    let lab = Lab::build(Topology::new(Mode::Dsr, 1).without_nginx())?;
    let config = lab.config(&[lb_tests::ServiceConfig {
        health: "none = true".into(),
        ..lb_tests::ServiceConfig::http(Mode::Dsr, lb_tests::Family::V4)
    }]);
    let balancer = Balancer::start(&lab, lb, &config)?;
    let status = balancer.json(&["status"])?;
    let mode = status["interfaces"][0]["xdp"].as_str();
    Ok(format!("{} (veth)", mode.context("lb status names no XDP mode")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known() {
        let bench = Bench {
            command: None,
            parts: Vec::new(),
            rounds: None,
            quick: true,
            cases: vec!["dsr".into()],
            chart: None,
            output: crate::Output::Text,
        };
        let line = line(&bench, None).unwrap();
        assert!(line.number("cores").unwrap() >= 1.0 && line.number("memory_mib").unwrap() > 1.0);
        assert!(line.text("kernel").is_some() && line.fields.contains_key("load_average"));
        let text = text(&line);
        assert!(
            text.contains("--quick") && text.lines().all(|l| l.chars().count() <= 100),
            "{text}"
        );
    }
}
