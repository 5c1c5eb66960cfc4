//! Packages on Debian and Ubuntu; elsewhere the sentence that says what to install by hand.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::step;
use crate::shell::{self, capture, find_program, run};

pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!(
            "{why}. This system has no apt: install by hand what Debian calls {list}, then run this again"
        );
    }
    step(&format!("installing with apt: {list}"), why);
    if !packages.iter().all(|package| has_candidate(package)) {
        update()?;
        if let Some(unknown) = packages.iter().find(|package| !has_candidate(package)) {
            bail!("{why}, but apt knows no package {unknown}");
        }
    }
    if apt_get(&["install", "--yes", "--no-install-recommends"], packages).is_ok() {
        return Ok(());
    }
    // The lists may be older than the archive.
    update()?;
    apt_get(&["install", "--yes", "--no-install-recommends"], packages)
        .with_context(|| format!("apt could not install {list}"))
}

/// Stops a service that a package of ours has just started; one that was there before is not ours to stop.
pub(crate) fn stop_service(name: &str) -> Result<()> {
    if find_program("systemctl").is_none()
        || capture(Command::new("systemctl").args(["is-active", name])).is_err()
    {
        return Ok(());
    }
    step(&format!("stopping the {name} service"), "the lab starts its own inside the lab");
    run(shell::as_root("systemctl")?.args(["disable", "--now", name]))
}

fn has_candidate(package: &str) -> bool {
    let policy = capture(Command::new("apt-cache").args(["policy", package])).unwrap_or_default();
    policy.lines().any(|line| {
        line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)")
    })
}

fn update() -> Result<()> {
    apt_get(&["update"], &[])
}

fn apt_get(arguments: &[&str], packages: &[&str]) -> Result<()> {
    // `env` and not the command's environment: sudo would drop it. At run level 1 no package starts its service.
    run(shell::as_root("env")?
        .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "--quiet"])
        .args(arguments)
        .args(packages))
}
