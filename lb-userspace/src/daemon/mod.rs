//! The daemon behind `lb run`: starts everything, runs the control loop, and takes it all down.
//!
//! One thread, one loop, one owner of all state. Only sweeps and grace periods, which block for
//! longer than a packet should wait for a decision, run beside it.

mod control_loop;
pub mod decap;
mod log;
mod plane;
mod probe_way;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_common::abi::FEATURE_FILTERS;
use tokio::sync::{mpsc, oneshot};

use crate::alert::Clock;
use crate::alert::notifier::Notifier;
use crate::api;
use crate::cli::RunOptions;
use crate::config::{self, Config};
use crate::control::clock::epoch_ms;
use crate::control::handle::Handle;
use crate::control::node::Node;
use crate::control::watch::Watch;
use crate::dataplane::features;
use crate::dataplane::load;
use crate::net::{self, NextHopEvent, PathMtuListener, Resolver};
use crate::probe::Prober;
use crate::store::{HealthFile, NamesFile, State, Store};

use control_loop::{ControlLoop, Inputs, Naming, Signals};
use plane::Plane;
use probe_way::ProbeWay;

/// Balances until SIGTERM or SIGINT, then leaves the interfaces as they were.
pub fn run(options: RunOptions) -> Result<()> {
    log::start(options.log_format, options.verbosity);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(serve(options))
}

async fn serve(options: RunOptions) -> Result<()> {
    let signals = Signals::new()?;
    let (store, state) = Store::open(&options.state_dir)?;
    let (health_file, was_down) = HealthFile::open(&options.state_dir);
    let state = resume(state, options.config)?;
    check_nat_ports(&state.config)?;
    let links = net::devices(&state.config.node.interfaces).await?;

    // The socket first: it also tells a second daemon from the first, with nothing attached yet.
    let listener = api::bind(&options.socket)?;
    let log_drops = options.verbosity >= 2;
    let client_mtu = links.iter().map(|link| link.mtu).min().unwrap_or(u32::MAX);
    let (naming, names) = Naming::begin(&state.config, NamesFile::open(&options.state_dir)).await;
    let (config, seed) = (naming.resolve(&state.config), state.seed()?);
    let features = needed(&state, &config);
    let mut loaded = load::load(&config.node, seed, client_mtu, log_drops, features)?;
    if log_drops {
        log::follow_program(&mut loaded)?;
    }
    let (prober, probes) = Prober::new();
    let (resolver, mut hops) = Resolver::start(state.config.node.interfaces.clone())
        .context("cannot follow the kernel's routes over netlink")?;
    let maps = loaded.maps.clone();
    let mut node = Node::new(maps, state.config.node.clone(), prober, resolver);
    node.inherit(was_down);
    let mut way = ProbeWay::new(node.path(), &links);
    way.open(&state.config)?;
    node.apply(&config, &state.drains(), true)?;
    naming.explain_to(&mut node);
    node.set_blocked(state.blocks.prefixes())?;
    node.set_frozen(|service| state.freezes.of(service).is_some())?;
    first_hops(&mut node, &mut hops).await?;

    let (_path_mtus, said) = PathMtuListener::start(state.config.node.gue_port)
        .context("cannot listen for path MTUs of tunnels")?;
    let xdp = options.xdp.unwrap_or(state.config.node.xdp);
    let plane = Plane::attach(loaded, &links, xdp, way)?;
    if let Err(error) = store.write(&state) {
        plane.detach().await?;
        return Err(error);
    }
    tracing::info!(
        revision = state.revision,
        services = state.config.services.len(),
        features = features::names(plane.features()).collect::<Vec<_>>().join(","),
        instructions = plane.instructions(),
        socket = %options.socket.display(),
        "balancing"
    );

    let clock = Clock::new();
    let notifier = Notifier::start(&options.state_dir, &state.config.alerts, clock)?;
    give_back_memory();
    let (handle, requests) = Handle::new();
    let (stop, stopped) = oneshot::channel::<()>();
    let api = tokio::spawn(api::serve(listener, handle, async {
        let _ = stopped.await;
    }));
    let inputs = Inputs { signals, requests, probes, hops, said, names };
    let mut control = ControlLoop::new(
        node,
        plane,
        (store, health_file),
        (state, naming),
        options.file,
        Watch::new(clock),
        notifier,
    );
    let result = control.run(inputs).await;

    // Detach first: from here on packets take the way they took before us.
    let (plane, notifier) = control.into_parts();
    let detached = plane.detach().await;
    notifier.stop();
    let _ = stop.send(());
    let _ = api.await;
    detached?;
    tracing::info!("detached; stopped");
    result
}

/// Taking a large configuration takes more memory than is needed from there on.
fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: returns free memory of the allocator to the system; nothing in use moves.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Waits for the next hops that are to be had at once, so that the first packets find them. A
/// server that does not answer is not waited for.
async fn first_hops(node: &mut Node, hops: &mut mpsc::Receiver<NextHopEvent>) -> Result<()> {
    let limit = tokio::time::sleep(Duration::from_millis(500));
    tokio::pin!(limit);
    while node.servers.unresolved() > 0 {
        tokio::select! {
            Some(event) = hops.recv() => node.on_next_hop(event.server, event.hop)?,
            () = &mut limit => return Ok(()),
        }
    }
    Ok(())
}

/// The stored state, brought up to date with the configuration given.
fn resume(state: Option<State>, wanted: Config) -> Result<State> {
    let Some(mut state) = state else { return State::new(wanted) };
    let before = state.config.clone();
    if state.take_file(&wanted, wanted.clone())? {
        for change in config::diff(&before, &wanted) {
            tracing::warn!(%change, "the configuration changed since the last run, and wins");
        }
    } else {
        let since = config::diff(&wanted, &state.config);
        for change in &since {
            tracing::info!(%change, "kept from before the restart");
        }
    }
    state.forget_stale_drains();
    for ended in state.blocks.expire(epoch_ms()) {
        tracing::info!(prefix = %ended.prefix, "no longer blocked: its time ended");
    }
    state.freezes.expire(epoch_ms());
    config::validate(&state.config).context("the stored configuration")?;
    Ok(state)
}

/// The features that the program must have for a state, whose configuration is resolved.
fn needed(state: &State, resolved: &Config) -> u32 {
    let blocks = if state.blocks.entries().is_empty() { 0 } else { FEATURE_FILTERS };
    features::needed(resolved) | blocks
}

/// A port of the host's own connections may not be one NAT hands out: a reply would be taken.
fn check_nat_ports(config: &Config) -> Result<()> {
    if !config.services.iter().any(|s| s.mode == config::model::Mode::Nat) {
        return Ok(());
    }
    let (nat, host) = (&config.node.nat_ports, net::ip_local_port_range()?);
    if nat.start() <= host.end() && host.start() <= nat.end() {
        bail!(
            "nat_ports {}-{} overlaps the host's own ephemeral ports {}-{}: narrow one of them \
             (`nat_ports` in [node], or `sysctl net.ipv4.ip_local_port_range`)",
            nat.start(),
            nat.end(),
            host.start(),
            host.end()
        );
    }
    Ok(())
}
