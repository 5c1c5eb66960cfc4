//! The control loop: takes one event at a time, and lets what follows from it happen.

mod naming;
mod overrides;
mod requests;
mod sweeping;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::plane::Plane;
use super::{check_nat_ports, give_back_memory, needed};
use crate::alert::notifier::Notifier;
use crate::config::model::Lookup;
use crate::config::{self};
use crate::control::clock::Jumps;
use crate::control::handle::Request;
use crate::control::node::{Node, Resting};
use crate::control::watch::{Scene, Watch};
use crate::dataplane::grace;
use crate::names::Answer;
use crate::net::{NextHopEvent, Said};
use crate::probe::{BATCH, ProbeEvent, self_test};
use crate::report::{Changed, Error, ErrorKind, Interface};
use crate::store::{HealthFile, State, Store};

pub(super) use naming::Naming;
use naming::{Change, Waiting};
use sweeping::{SWEEP, Swept};

/// Where events come from.
pub(super) struct Inputs {
    pub signals: Signals,
    pub requests: mpsc::Receiver<Request>,
    pub probes: mpsc::Receiver<ProbeEvent>,
    pub hops: mpsc::Receiver<NextHopEvent>,
    pub said: mpsc::Receiver<Said>,
    pub names: mpsc::Receiver<(Lookup, Answer)>,
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

/// After a change of health it is written for a restart: not each of many at once.
const HEALTH_WRITTEN: Duration = Duration::from_secs(1);
/// Between two tests of the prober by itself.
const RETEST: Duration = Duration::from_millis(500);
/// How often it is looked whether packets spoke against backends.
const DOUBTS: Duration = Duration::from_millis(100);
pub(super) struct ControlLoop {
    node: Node,
    plane: Plane,
    store: Store,
    health_file: HealthFile,
    /// When who is down is next written, if that may have changed.
    health_at: Option<Instant>,
    state: State,
    naming: Naming,
    /// Read again on reload.
    file: Option<PathBuf>,
    interfaces: Vec<Interface>,
    watch: Watch,
    notifier: Notifier,
    started: Instant,
    jumps: Jumps,
    grace: Option<JoinHandle<Resting>>,
    sweep: Option<JoinHandle<Result<Swept>>>,
    sweep_at: Instant,
    doubts_at: Instant,
    /// The prober's test of itself, while it runs, and when the next may.
    test: Option<JoinHandle<Result<()>>>,
    test_at: Instant,
}

impl ControlLoop {
    pub(super) fn new(
        node: Node,
        plane: Plane,
        (store, health_file): (Store, HealthFile),
        (state, naming): (State, Naming),
        file: Option<PathBuf>,
        watch: Watch,
        notifier: Notifier,
    ) -> Self {
        let interfaces = plane.interfaces();
        let started = Instant::now();
        let sweep_at = started + SWEEP;
        Self {
            node,
            plane,
            store,
            health_file,
            health_at: None,
            state,
            naming,
            file,
            interfaces,
            started,
            jumps: Jumps::new(),
            grace: None,
            sweep: None,
            sweep_at,
            doubts_at: started,
            test: None,
            test_at: started,
            watch,
            notifier,
        }
    }

    /// Runs until a signal ends it. What fails on the way is logged and tried again by the next
    /// event: a daemon that stops for it would be the outage.
    pub(super) async fn run(&mut self, mut inputs: Inputs) -> Result<()> {
        let Inputs { signals, requests, probes, hops, said, names } = &mut inputs;
        let (mut results, mut answers) = (Vec::with_capacity(BATCH), Vec::new());
        loop {
            let clock = self.node.next_clock().unwrap_or_else(far_away);
            let end = self.next_end();
            let health_at = self.health_at.unwrap_or_else(far_away);
            let waited = self.naming.next().unwrap_or_else(far_away);
            let tests = self.node.wants_test() && self.test.is_none();
            let done = tokio::select! {
                // In this order: an end before all, and failures before what can wait.
                biased;
                _ = signals.terminate.recv() => return self.end(),
                _ = signals.interrupt.recv() => return self.end(),
                1.. = probes.recv_many(&mut results, BATCH) => {
                    self.on_probes(&mut results);
                    Ok(())
                }
                Some(event) = hops.recv() => self.on_hop(event),
                Some(said) = said.recv() => self.node.on_said(said),
                () = sleep_until(self.doubts_at), if self.node.hears_doubts() => {
                    self.doubts_at = Instant::now() + DOUBTS;
                    self.node.on_doubts();
                    Ok(())
                }
                tested = finished(&mut self.test) => self.on_tested(tested),
                () = sleep_until(self.test_at), if tests => { self.begin_test(); Ok(()) }
                1.. = names.recv_many(&mut answers, BATCH) => {
                    self.on_answers(std::mem::take(&mut answers)).await;
                    Ok(())
                }
                () = sleep_until(waited) => { self.carry_out_waiting().await; Ok(()) }
                _ = signals.hangup.recv() => { self.on_hangup().await; Ok(()) }
                Some(request) = requests.recv() => { self.on_request(request).await; Ok(()) }
                () = sleep_until(clock) => self.on_clock(),
                () = sleep_until(end) => self.end_what_is_over(),
                () = sleep_until(health_at) => self.write_health(),
                resting = finished(&mut self.grace) => resting.and_then(|r| self.node.rested(r)),
                swept = finished(&mut self.sweep) => self.on_swept(swept),
                () = sleep_until(self.watch.next()) => { self.look(); Ok(()) }
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

    /// What is left when the loop has ended: the program, which still runs, and who tells of it.
    pub(super) fn into_parts(self) -> (Plane, Notifier) {
        (self.plane, self.notifier)
    }

    /// Where many services share a server, its failure is many results: all words first, and only
    /// then what is to be said of them.
    fn on_probes(&mut self, results: &mut Vec<ProbeEvent>) {
        let mut moved = Vec::new();
        for event in results.drain(..) {
            self.watch.on_probe(event.key, event.result.as_ref(), event.at);
            let transition = event.transition.clone();
            if transition.is_some() {
                self.health_at.get_or_insert_with(|| Instant::now() + HEALTH_WRITTEN);
            }
            match self.node.on_probe(event) {
                Ok(Some(place)) => {
                    moved.extend(transition.map(|t| (place, t.first.elapsed(), t.failure)));
                }
                Ok(None) => {}
                Err(error) => not_handled(&error),
            }
        }
        if !moved.is_empty() {
            self.watch.hurry();
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

    fn end(&mut self) -> Result<()> {
        if let Err(error) = self.write_health() {
            not_handled(&error);
        }
        Ok(())
    }

    fn scene(&self) -> Scene<'_> {
        let freezes = &self.state.freezes;
        let names = &self.naming.names;
        Scene { node: &self.node, interfaces: &self.interfaces, freezes, names }
    }

    fn write_health(&mut self) -> Result<()> {
        self.health_at = None;
        self.health_file.write(self.node.who_is_down())
    }

    /// Settles what is due, and looks what will be next.
    fn on_clock(&mut self) -> Result<()> {
        let began = Instant::now();
        self.node.on_clock()?;
        let _ = self.node.next_clock();
        tracing::trace!(loop_us = began.elapsed().as_micros(), "settled");
        Ok(())
    }

    fn on_hop(&mut self, event: NextHopEvent) -> Result<()> {
        match &event.hop {
            Ok(hop) => tracing::debug!(server = %event.server, ?hop, "next hop"),
            Err(problem) => tracing::warn!(server = %event.server, %problem, "no next hop"),
        }
        self.node.on_next_hop(event.server, event.hop)
    }

    async fn on_hangup(&mut self) {
        self.reload("signal".into(), None).await;
    }

    /// Where the clock of the day was set, all that is stored of it is moved with it, before it is
    /// looked at again: what is to last an hour lasts an hour.
    fn follow_clock(&mut self) {
        let Some(by_ms) = self.jumps.take() else { return };
        tracing::warn!(
            seconds = by_ms / 1000,
            "the clock was set; freezes, blocks, drains and maintenance last as long as before"
        );
        self.state.move_along(by_ms);
        self.node.move_along(by_ms);
        if let Err(error) = self.store.write(&self.state) {
            not_handled(&error);
        }
    }

    fn begin_test(&mut self) {
        let interfaces = self.state.config.node.interfaces.clone();
        self.test = Some(tokio::spawn(async move { self_test(&interfaces).await }));
    }

    fn on_tested(&mut self, tested: Result<Result<()>>) -> Result<()> {
        self.test_at = Instant::now() + RETEST;
        let tested = tested?;
        if let Err(error) = &tested {
            tracing::error!(
                error = format!("{error:#}"),
                "most backends of a service fail at once, and so does the prober's test of itself: \
                 none is taken out"
            );
        }
        self.node.on_self_test(tested.is_ok())
    }

    /// Makes a state the one in force: in the maps first, where it may be refused, then on disk.
    async fn commit(&mut self, mut state: State, actor: &str) -> Result<Changed, Error> {
        check_nat_ports(&state.config).map_err(|error| failed(ErrorKind::Refused, &error))?;
        let changes = config::diff(&self.state.config, &state.config);
        state.forget_stale_drains();
        let wanted = self.naming.resolve_checked(&state.config)?;
        self.node.check(&wanted).map_err(|error| failed(ErrorKind::Refused, &error))?;
        self.widen(&state).await?;
        if let Err(error) = self.node.apply(&wanted, &state.drains(), false) {
            // Where it failed on the way, what was there before is put back.
            let before = self.naming.resolve(&self.state.config);
            let before = self.node.apply(&before, &self.state.drains(), false);
            if let Err(error) = before {
                tracing::error!(error = format!("{error:#}"), "the change could not be undone");
            }
            return Err(failed(ErrorKind::Refused, &error));
        }
        self.state = state;
        self.naming.explain_to(&mut self.node);
        if let Err(error) = self.set_frozen() {
            not_handled(&error);
        }
        self.notifier.set_targets(&self.state.config.alerts);
        self.watch.hurry();
        for change in &changes {
            tracing::info!(%actor, revision = self.state.revision, %change, "configuration");
        }
        let mut changed = Changed { changes, ..self.unchanged() };
        changed.warnings = config::warnings(&self.state.config);
        self.save(&mut changed);
        give_back_memory();
        Ok(changed)
    }

    /// Has the program do what a state needs, before anything of that state is there to need it.
    ///
    /// The loop takes no event meanwhile: what a probe found waits for as long as the verifier
    /// takes, some hundred milliseconds. Probes go on, and packets wait for nothing. It happens on
    /// such a change only, once for each feature at most while the daemon runs.
    async fn widen(&mut self, state: &State) -> Result<(), Error> {
        let resolved = self.naming.resolve(&state.config);
        self.plane.widen(needed(state, &resolved)).await.map_err(|error| {
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

    /// Looks at a part of what runs, and has told what is wrong with all of it.
    fn look(&mut self) {
        self.follow_clock();
        let names = &self.naming.names;
        let (interfaces, freezes) = (&self.interfaces, &self.state.freezes);
        let scene = Scene { node: &self.node, interfaces, freezes, names };
        let found = self.watch.turn(scene, self.state.revision);
        if let Some(found) = found {
            self.notifier.observe(found);
        }
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
