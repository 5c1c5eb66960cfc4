//! `lb decap` on a backend: the running process, and what it counts.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    balancer::Balancer,
    lab::{Backend, Lab},
    namespace::Namespace,
    process::{Process, wait_until},
    topology::Family,
};

const LIMIT: Duration = Duration::from_secs(5);

/// A running `lb decap` on a backend's eth0; killed when dropped.
#[derive(Debug)]
pub struct Decap {
    namespace: Namespace,
    process: Process,
}

impl Decap {
    /// [`Self::everywhere`] if the lab's mode is a tunnel's.
    pub fn if_needed(lab: &Lab) -> Result<Vec<Self>> {
        if lab.topology().mode.is_tunnel() { Self::everywhere(lab) } else { Ok(Vec::new()) }
    }

    /// On every backend, for tunnels from the balancer's addresses.
    pub fn everywhere(lab: &Lab) -> Result<Vec<Self>> {
        let [v4, v6] = Family::ALL.map(|family| lab.topology().balancer_inside(family));
        Self::everywhere_from(lab, &format!("{v4},{v6}"))
    }

    /// On every backend, for tunnels from these prefixes.
    pub fn everywhere_from(lab: &Lab, from: &str) -> Result<Vec<Self>> {
        lab.backends().iter().map(|backend| Self::start(lab, backend, &["--from", from])).collect()
    }

    /// On one backend; returns when it is attached.
    pub fn start(lab: &Lab, backend: &Backend, options: &[&str]) -> Result<Self> {
        let log: PathBuf = lab.path(format!("decap-{}.log", backend.name));
        let mut command = backend.namespace.command(Balancer::binary()?);
        command.args(["-o", "json", "decap", "eth0"]).args(options);
        let process = Process::spawn(&mut command, &log)?;
        let decap = Self { namespace: backend.namespace.clone(), process };
        if !wait_until(LIMIT, || decap.process.log().contains("decapsulating")) {
            bail!("lb decap does not start:\n{}", decap.process.log());
        }
        Ok(decap)
    }

    /// The reports it printed so far.
    fn reports(&self) -> Result<Vec<Value>> {
        let log = self.process.log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Asks a running one for its counters.
    pub fn counts(&self) -> Result<DecapCounts> {
        let before = self.reports()?.len();
        self.process.signal(libc::SIGUSR1);
        let mut report = None;
        // A report may be half written.
        wait_until(LIMIT, || {
            report = self.reports().ok().and_then(|reports| reports.get(before).cloned());
            report.is_some()
        });
        report.map(DecapCounts).with_context(|| format!("no counters:\n{}", self.process.log()))
    }

    /// Ends it; its last counters.
    pub fn stop(mut self) -> Result<DecapCounts> {
        let status = self.process.terminate(LIMIT)?;
        if !status.success() {
            bail!("lb decap ended with {status}:\n{}", self.process.log());
        }
        let link = self.namespace.link("eth0");
        if !link["xdp"].is_null() {
            bail!("lb decap left its program: {link:#}");
        }
        let last = self.reports()?.pop().context("no counters at its end")?;
        Ok(DecapCounts(last))
    }
}

/// The counters of `lb decap` at one moment.
#[derive(Clone, Debug)]
pub struct DecapCounts(pub Value);

impl DecapCounts {
    /// What was counted at all, with how often.
    pub fn non_zero(&self) -> Vec<String> {
        let all = self.0["verdicts"].as_array().into_iter().flatten();
        let counted = all.filter(|verdict| verdict["count"] != 0);
        counted.map(|v| format!("{} {}", v["name"].as_str().unwrap_or("?"), v["count"])).collect()
    }

    pub fn of(&self, name: &str) -> Result<u64> {
        let mut verdicts = self.0["verdicts"].as_array().into_iter().flatten();
        let found = verdicts.find(|verdict| verdict["name"] == name);
        found.and_then(|v| v["count"].as_u64()).with_context(|| format!("no counter {name}"))
    }
}
