//! The control loop: takes one event at a time, and lets what follows from it happen.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::plane::Plane;
use super::{check_nat_ports, needed};
use crate::config::{self, Config};
use crate::control::backend::Drain;
use crate::control::blocks::check_harmless;
use crate::control::explain::explain;
use crate::control::handle::{Actor, BackendChange, BlockChange, Request};
use crate::control::node::{Node, Resting};
use crate::control::status::{About, epoch_ms, status};
use crate::control::sweep::{self, FlowsFound, NatFound};
use crate::dataplane::grace;
use crate::net::{NextHopEvent, TooBig};
use crate::probe::{BATCH, ProbeEvent};
use crate::report::{Block, Changed, Error, ErrorKind, Interface};
use crate::store::{State, Store};

/// Where events come from.
pub(super) struct Inputs {
    pub signals: Signals,
    pub requests: mpsc::Receiver<Request>,
    pub probes: mpsc::Receiver<ProbeEvent>,
    pub hops: mpsc::Receiver<NextHopEvent>,
    pub too_big: mpsc::Receiver<TooBig>,
}

/// The signals the daemon takes; from when this is made on, none takes its default action.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let take = |kind| signal(kind).context("cannot take signals");
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }
}

/// How often idle NAT connections are looked for, and settled changes swept, at the least.
const SWEEP: Duration = Duration::from_secs(1);
/// The share of time that sweeping may take: a large table is swept less often.
const SWEEP_SHARE: u32 = 20;

pub(super) struct ControlLoop {
    node: Node,
    plane: Plane,
    store: Store,
    state: State,
    /// Read again on reload.
    file: Option<PathBuf>,
    interfaces: Vec<Interface>,
    started: Instant,
    grace: Option<JoinHandle<Resting>>,
    sweep: Option<JoinHandle<Result<Swept>>>,
    sweep_at: Instant,
}

/// What a sweep brought home.
struct Swept {
    began: Instant,
    flows: Option<HashMap<String, FlowsFound>>,
    nat: NatFound,
}

impl ControlLoop {
    pub(super) fn new(
        node: Node,
        plane: Plane,
        store: Store,
        state: State,
        file: Option<PathBuf>,
    ) -> Self {
        let interfaces = plane.interfaces();
        let started = Instant::now();
        let sweep_at = started + SWEEP;
        let (grace, sweep) = (None, None);
        Self { node, plane, store, state, file, interfaces, started, grace, sweep, sweep_at }
    }

    /// Runs until a signal ends it. What fails on the way is logged and tried again by the next
    /// event: a daemon that stops for it would be the outage.
    pub(super) async fn run(&mut self, mut inputs: Inputs) -> Result<()> {
        let Inputs { signals, requests, probes, hops, too_big } = &mut inputs;
        let mut results = Vec::with_capacity(BATCH);
        loop {
            let clock = self.node.next_clock().unwrap_or_else(far_away);
            let block_end = self.next_block_end();
            let done = tokio::select! {
                // In this order: an end before all, and failures before what can wait.
                biased;
                _ = signals.terminate.recv() => return Ok(()),
                _ = signals.interrupt.recv() => return Ok(()),
                1.. = probes.recv_many(&mut results, BATCH) => {
                    self.on_probes(&mut results);
                    Ok(())
                }
                Some(event) = hops.recv() => self.on_hop(event),
                Some(message) = too_big.recv() => self.node.on_too_big(message),
                _ = signals.hangup.recv() => { self.on_hangup().await; Ok(()) }
                Some(request) = requests.recv() => { self.on_request(request).await; Ok(()) }
                () = sleep_until(clock) => self.node.on_clock(),
                () = sleep_until(block_end) => self.end_blocks(),
                resting = finished(&mut self.grace) => resting.and_then(|r| self.node.rested(r)),
                swept = finished(&mut self.sweep) => self.on_swept(swept),
                () = sleep_until(self.sweep_at), if self.sweep.is_none() => {
                    self.begin_sweep();
                    Ok(())
                }
            };
            if let Err(error) = done {
                not_handled(&error);
            }
            self.begin_grace();
        }
    }

    /// What is left when the loop has ended: the program, which still runs.
    pub(super) fn into_plane(self) -> Plane {
        self.plane
    }

    /// Where many services share a server, its failure is many results: all words first, and only
    /// then what is to be said of them.
    fn on_probes(&mut self, results: &mut Vec<ProbeEvent>) {
        let mut moved = Vec::new();
        for event in results.drain(..) {
            let transition = event.transition.clone();
            match self.node.on_probe(event) {
                Ok(Some(place)) => {
                    moved.extend(transition.map(|t| (place, t.first.elapsed(), t.failure)));
                }
                Ok(None) => {}
                Err(error) => not_handled(&error),
            }
        }
        for ((s, b), detection, failure) in moved {
            let Some(running) = self.node.services.get(s) else { continue };
            let Some(backend) = running.backends.get(b) else { continue };
            let (service, backend) = (&running.config.name, &backend.config.name);
            let detection_ms = detection.as_secs_f64() * 1000.0;
            match failure {
                Some(failure) => tracing::warn!(
                    %service, %backend, reason = %failure.text,
                    detection_ms = format!("{detection_ms:.1}"), "backend is down; its traffic moved"
                ),
                None => tracing::info!(%service, %backend, "backend is up"),
            }
        }
    }

    fn on_hop(&mut self, event: NextHopEvent) -> Result<()> {
        match &event.hop {
            Ok(hop) => tracing::debug!(server = %event.server, ?hop, "next hop"),
            Err(problem) => tracing::warn!(server = %event.server, %problem, "no next hop"),
        }
        self.node.on_next_hop(event.server, event.hop)
    }

    async fn on_hangup(&mut self) {
        match self.reload("signal").await {
            Ok(changed) if changed.changes.is_empty() => tracing::info!("reloaded; no changes"),
            Ok(changed) => tracing::info!(changes = changed.changes.len(), "reloaded"),
            Err(error) => tracing::error!(%error, "cannot reload; the configuration stays"),
        }
    }

    async fn on_request(&mut self, request: Request) {
        // Whoever asked may have gone; then the answer is nobody's.
        match request {
            Request::Status(reply) => {
                let about = About {
                    revision: self.state.revision,
                    started: self.started,
                    interfaces: &self.interfaces,
                };
                let _ = reply.send(Ok(status(&self.node, &about)));
            }
            Request::Config(reply) => {
                let _ = reply.send(Ok(self.state.config.clone()));
            }
            Request::Apply { config, actor, reply } => {
                let mut state = self.state.clone();
                state.take_applied(&config);
                let _ = reply.send(self.commit(state, &actor).await);
            }
            Request::Reload { actor, reply } => {
                let _ = reply.send(self.reload(&actor).await);
            }
            Request::Backend { service, change, actor, reply } => {
                let _ = reply.send(self.change_backend(&service, change, &actor).await);
            }
            Request::Blocks(reply) => {
                let _ = reply.send(Ok(self.state.blocks.entries().to_vec()));
            }
            Request::Block { change, actor, reply } => {
                let _ = reply.send(self.change_blocks(change, &actor).await);
            }
            Request::Explain { protocol, client, vip, reply } => {
                let _ = reply.send(explain(&self.node, protocol, client, vip));
            }
        }
    }

    async fn reload(&mut self, actor: &str) -> Result<Changed, Error> {
        let Some(path) = &self.file else {
            return Err(Error::new(
                ErrorKind::Refused,
                "this daemon was started from options, not from a file",
                "change it with `lb apply FILE` or `lb backend`",
            ));
        };
        let config = config::load(path).map_err(|error| {
            let message =
                format!("{} does not load; what runs stays as it is\n{error}", path.display());
            Error::new(ErrorKind::Invalid, message, "mend the file and reload again")
        })?;
        let mut state = self.state.clone();
        let node = self.node.config.node.clone();
        let node_changed = config.node != node;
        state.take_file(&config, Config { node, ..config.clone() });
        let mut changed = self.commit(state, actor).await?;
        if node_changed {
            let warning = "[node] changed in the file; that takes a restart of `lb run`";
            tracing::warn!("{warning}");
            changed.warnings.push(warning.into());
        }
        Ok(changed)
    }

    async fn change_backend(
        &mut self,
        service: &str,
        change: BackendChange,
        actor: &Actor,
    ) -> Result<Changed, Error> {
        let config = config::apply_backend_change(&self.state.config, service, &change)?;
        let mut state = self.state.clone();
        let (name, drain) = match change {
            BackendChange::Drain { name, reason } => {
                let drain = Drain { reason, actor: actor.clone(), at_ms: epoch_ms() };
                (name, Some(drain))
            }
            BackendChange::Ready { name } => (name, None),
            BackendChange::Add(_) | BackendChange::Remove { .. } | BackendChange::Weight { .. } => {
                state.change(config);
                return self.commit(state, actor).await;
            }
        };
        let mut changed = self.unchanged();
        if !state.set_drain(service, &name, drain.clone()) {
            return Ok(changed);
        }
        let what = if drain.is_some() { "draining" } else { "ready" };
        let reason = drain.as_ref().and_then(|drain| drain.reason.clone());
        self.node
            .set_drain(service, &name, drain)
            .map_err(|error| failed(ErrorKind::Internal, &error))?;
        self.state = state;
        self.save(&mut changed);
        let subject = format!("{service}/{name}");
        tracing::info!(%actor, backend = %subject, reason, "{what}");
        changed.changes.push(format!("{subject}: {what}"));
        let running = self.node.services.iter().find(|r| r.config.name == service);
        if running.is_some_and(|r| r.serving() == 0) {
            changed.warnings.push(format!(
                "{service} has no backend left that is ready: those that are alive get its new \
                 traffic, drained or not"
            ));
        }
        Ok(changed)
    }

    async fn change_blocks(
        &mut self,
        change: BlockChange,
        actor: &Actor,
    ) -> Result<Changed, Error> {
        let mut blocks = self.state.blocks.clone();
        let now = epoch_ms();
        let mut changed = self.unchanged();
        let done = match change {
            BlockChange::Add { prefix, reason, lasts, local } => {
                if let Some(local) = local {
                    check_harmless(prefix, &self.backends(), &local)?;
                }
                let lasts = lasts.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                let until_ms = lasts.map(|time| now.saturating_add(time));
                let actor = actor.clone();
                let new = Block { prefix, reason, actor, since_ms: now, until_ms };
                blocks.add(new).then(|| format!("{prefix}: blocked"))
            }
            BlockChange::Remove { prefix } => {
                if let Some(around) = blocks.around(prefix) {
                    let wider = around.prefix;
                    changed.warnings.push(format!("{prefix} is blocked still, as part of {wider}"));
                }
                blocks.remove(prefix).then(|| format!("{prefix}: no longer blocked"))
            }
        };
        let Some(change) = done else { return Ok(changed) };
        let mut state = self.state.clone();
        state.blocks = blocks;
        self.widen(&state).await?;
        self.node
            .set_blocked(state.blocks.prefixes())
            .map_err(|error| failed(ErrorKind::Refused, &error))?;
        self.state = state;
        self.save(&mut changed);
        tracing::info!(%actor, %change, "block list");
        changed.changes.push(change);
        Ok(changed)
    }

    fn backends(&self) -> Vec<(String, IpAddr)> {
        let services = self.state.config.services.iter();
        services
            .flat_map(|s| s.backends.iter().map(|b| (format!("{}/{}", s.name, b.name), b.address)))
            .collect()
    }

    /// When a block ends by itself. An hour at most: the clock of the day may be set meanwhile.
    fn next_block_end(&self) -> Instant {
        let ends = self.state.blocks.next_end();
        let left = ends.map(|end| Duration::from_millis(end.saturating_sub(epoch_ms())));
        left.map_or_else(far_away, |left| far_away().min(Instant::now() + left.min(FAR)))
    }

    fn end_blocks(&mut self) -> Result<()> {
        let mut blocks = self.state.blocks.clone();
        let ended = blocks.expire(epoch_ms());
        if ended.is_empty() {
            return Ok(());
        }
        // First of all, or a failure would be tried again at once, without end.
        self.state.blocks = blocks;
        self.node.set_blocked(self.state.blocks.prefixes())?;
        for block in ended {
            tracing::info!(prefix = %block.prefix, "no longer blocked: its time ended");
        }
        self.store.write(&self.state)
    }

    /// Makes a state the one in force: in the maps first, where it may be refused, then on disk.
    async fn commit(&mut self, mut state: State, actor: &str) -> Result<Changed, Error> {
        check_nat_ports(&state.config).map_err(|error| failed(ErrorKind::Refused, &error))?;
        let changes = config::diff(&self.state.config, &state.config);
        state.forget_stale_drains();
        self.node.check(&state.config).map_err(|error| failed(ErrorKind::Refused, &error))?;
        self.widen(&state).await?;
        if let Err(error) = self.node.apply(&state.config, &state.drains(), false) {
            // Where it failed on the way, what was there before is put back.
            let before = self.node.apply(&self.state.config, &self.state.drains(), false);
            if let Err(error) = before {
                tracing::error!(error = format!("{error:#}"), "the change could not be undone");
            }
            return Err(failed(ErrorKind::Refused, &error));
        }
        self.state = state;
        for change in &changes {
            tracing::info!(%actor, revision = self.state.revision, %change, "configuration");
        }
        let mut changed = Changed { changes, ..self.unchanged() };
        changed.warnings = config::warnings(&self.state.config);
        self.save(&mut changed);
        Ok(changed)
    }

    /// Has the program do what a state needs, before anything of that state is there to need it.
    ///
    /// The loop takes no event meanwhile: what a probe found waits for as long as the verifier
    /// takes, some hundred milliseconds. Probes go on, and packets wait for nothing. It happens on
    /// such a change only, once for each feature at most while the daemon runs.
    async fn widen(&mut self, state: &State) -> Result<(), Error> {
        self.plane.widen(needed(state)).await.map_err(|error| {
            let error = error.context("the program does not load with what this needs");
            failed(ErrorKind::Refused, &error)
        })?;
        let led = self.plane.lead_probes(&state.config);
        led.map_err(|error| failed(ErrorKind::Refused, &error))
    }

    /// Writes the state that is in force. What cannot be saved is in force all the same.
    fn save(&self, changed: &mut Changed) {
        if let Err(error) = self.store.write(&self.state) {
            tracing::error!(error = format!("{error:#}"), "the state could not be saved");
            let lost = format!("in force, but a restart will forget it: {error:#}");
            changed.warnings.push(lost);
        }
    }

    fn unchanged(&self) -> Changed {
        Changed { revision: self.state.revision, changes: Vec::new(), warnings: Vec::new() }
    }

    /// Waits out a grace period beside the loop, if something was given up.
    fn begin_grace(&mut self) {
        if self.grace.is_some() {
            return;
        }
        if let Some(resting) = self.node.take_resting() {
            self.grace = Some(tokio::task::spawn_blocking(move || {
                grace::wait();
                resting
            }));
        }
    }

    fn begin_sweep(&mut self) {
        let maps = self.node.arena.maps.clone();
        let services = self.node.to_sweep();
        let idle = self.node.idle_by_row();
        self.sweep = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            // Every packet that decided by older words has recorded what it will, or opened the NAT
            // connection that it will.
            grace::wait();
            let flows = services.map(|services| sweep::flows(&maps, &services)).transpose()?;
            let nat = sweep::nat(&maps, &idle, config::model::Service::IDLE)?;
            Ok(Swept { began, flows, nat })
        }));
    }

    fn on_swept(&mut self, swept: Result<Result<Swept>>) -> Result<()> {
        self.sweep_at = Instant::now() + SWEEP;
        let swept = swept??;
        self.sweep_at = Instant::now() + SWEEP.max(swept.began.elapsed() * SWEEP_SHARE);
        if let Some(flows) = swept.flows {
            self.node.swept(flows, swept.began)?;
        }
        self.node.nat_swept(swept.nat, swept.began)
    }
}

/// The task's result; never, while there is no task.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Result<T> {
    let Some(running) = task else { return std::future::pending().await };
    let result = running.await;
    *task = None;
    result.context("a background task of the daemon failed")
}

async fn sleep_until(at: Instant) {
    tokio::time::sleep_until(at.into()).await;
}

fn not_handled(error: &anyhow::Error) {
    tracing::error!(error = format!("{error:#}"), "an event could not be handled");
}

const FAR: Duration = Duration::from_secs(3600);

fn far_away() -> Instant {
    Instant::now() + FAR
}

fn failed(kind: ErrorKind, error: &anyhow::Error) -> Error {
    Error { kind, message: format!("{error:#}"), hint: None }
}
