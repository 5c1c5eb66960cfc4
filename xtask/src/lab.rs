//! `cargo xtask lab`: a lab to try things in by hand.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use lb_tests::{Family, Lab, Mode, Namespace, ServiceConfig, Topology};

use crate::{product, setup, shell};

#[derive(Subcommand)]
pub(crate) enum LabCommand {
    /// Build client, balancer and backends as network namespaces, and leave them up
    Up {
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=200))]
        backends: u8,
        /// nat or dsr (the backends get the VIPs on lo)
        #[arg(long, default_value = "nat")]
        mode: Mode,
        /// Put the backends on a network of their own, behind the balancer's eth1
        #[arg(long)]
        two_armed: bool,
    },
    /// Take a lab down: the only one, or the one named
    Down {
        id: Option<String>,
        /// Every lab that was left up, and what dead test runs left behind
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Open a shell in the client, the balancer (lb), the switch, or a backend (web-01, …)
    Shell {
        namespace: String,
        /// Which lab, if there is more than one
        #[arg(long)]
        id: Option<String>,
    },
}

pub(crate) fn run(command: LabCommand) -> Result<()> {
    if !shell::is_root() {
        bail!("the lab needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask lab …`");
    }
    match command {
        LabCommand::Up { backends, mode, two_armed } => {
            let topology = Topology::new(mode, backends);
            up(if two_armed { topology.two_armed() } else { topology })
        }
        LabCommand::Down { all: true, .. } => down_all(),
        LabCommand::Down { id, .. } => {
            let id = the_lab(id)?;
            lb_tests::down(&id)?;
            println!("lab {id} is down");
            Ok(())
        }
        LabCommand::Shell { namespace, id } => open_shell(&namespace, &the_lab(id)?),
    }
}

fn up(topology: Topology) -> Result<()> {
    setup::install_lab_programs()?;
    let lab = Lab::build_kept(topology)?;
    let topology = lab.topology();
    let services = [Family::V4, Family::V6].map(|family| ServiceConfig {
        name: format!("web-{family}").to_lowercase(),
        ..ServiceConfig::http(topology.mode, family)
    });
    let config = lab.path("lb.toml");
    std::fs::write(&config, lab.config(&services))?;

    println!("lab {} is up ({}):", lab.id(), topology.mode);
    let line = |name: &Namespace, what: &str| println!("  {:<16} {what}", name.name());
    let both = |address: &dyn Fn(Family) -> std::net::IpAddr| {
        format!("{}, {}", address(Family::V4), address(Family::V6))
    };
    line(lab.client(), &both(&|family| topology.client(family)));
    line(lab.balancer(), &both(&|family| topology.balancer(family)));
    for (index, backend) in (0..).zip(lab.backends()) {
        let addresses = both(&|family| topology.backend(index, family));
        line(&backend.namespace, &format!("{addresses}, nginx on ports 80 and 8080"));
    }
    let lb = product::target_dir().join("release/lb");
    let inside = |name: &Namespace| format!("nsenter --net=/run/netns/{}", name.name());
    let (socket, state) = (lab.path("lb.sock"), lab.path("state"));
    println!("\nStart the balancer (after `cargo build --release`):");
    println!("  {} {} run \\", inside(lab.balancer()), lb.display());
    println!("      -c {} --socket {} \\", config.display(), socket.display());
    println!("      --state-dir {}", state.display());
    println!("Ask it, and send a request:");
    println!("  {} --socket {} status", lb.display(), socket.display());
    println!("  {} curl http://{}/", inside(lab.client()), Family::V4.vip());
    println!("  {} curl 'http://[{}]/'", inside(lab.client()), Family::V6.vip());
    println!("A shell in it, and its end:");
    println!("  cargo xtask lab shell client|lb|switch|web-01");
    println!("  cargo xtask lab down {}", lab.id());
    Ok(())
}

fn down_all() -> Result<()> {
    let mut ended = lb_tests::down_stale()?;
    for id in lb_tests::kept() {
        lb_tests::down(&id)?;
        ended.push(id);
    }
    match ended.as_slice() {
        [] => println!("no lab was up"),
        ids => println!("down: {}", ids.join(", ")),
    }
    Ok(())
}

fn open_shell(role: &str, id: &str) -> Result<()> {
    let namespace = Namespace::open(&format!("hf-{id}-{role}"))
        .with_context(|| format!("lab {id} has client, lb, switch, web-01, …, but no {role:?}"))?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut command: Command = namespace.command(shell);
    command.env("PS1", format!("{}# ", namespace.name()));
    // Replaces this process; it returns only if that failed.
    Err(command.exec()).context("cannot start a shell")
}

fn the_lab(id: Option<String>) -> Result<String> {
    let kept = lb_tests::kept();
    match (id, kept.as_slice()) {
        (Some(id), _) if kept.contains(&id) => Ok(id),
        (Some(id), _) => bail!("no lab {id} is up; up: {}", kept.join(", ")),
        (None, [only]) => Ok(only.clone()),
        (None, []) => bail!("no lab is up: `cargo xtask lab up` builds one"),
        (None, many) => bail!("which lab? {} are up", many.join(", ")),
    }
}
