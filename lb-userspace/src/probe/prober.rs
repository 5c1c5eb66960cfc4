//! Keeps asking every backend, each in a task of its own.
//!
//! A task owns its backend's [`HealthMachine`] and reports every result, with the transition it
//! caused, over one channel; the reader only stores what it is told.
//!
//! Intervals run from start to start. The normal interval is shortened at random by up to `jitter`
//! (never lengthened: `interval` is a promise) and the phase is random, so probes spread out. A
//! late probe is followed by one, not by all that were missed.
//!
//! Probes of one backend do not overlap, with one exception: where a backend that takes traffic
//! stays silent for `fast_interval`, and for twice as long as its last answer took, the next probe
//! starts beside the silent one, up to `fall` of them. Without it a server that swallows packets
//! would be found after `fall` timeouts; with it, after
//! `interval + (fall - 1) × fast_interval + timeout`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Asked, Configs, Target, Way, random};
use crate::config::model::{Health, Probe};
use crate::control::health::{
    HealthMachine, HealthSnapshot, HealthState, Policy, ProbeResult, Transition,
};

#[cfg(test)]
mod tests;

/// Names a backend to the prober; the caller chooses it.
pub type Key = u64;

/// Results waiting for the control loop; beyond it, probing waits too.
const QUEUE: usize = 1024;

/// Results that the control loop takes at once: all words that follow from them are written before
/// anything else is done.
pub const BATCH: usize = 256;

/// All probing tasks. Dropping it stops them.
#[derive(Debug)]
pub struct Prober {
    tasks: HashMap<Key, Task>,
    events: mpsc::Sender<ProbeEvent>,
    configs: Configs,
}

/// What a probe, or a change of what is probed, did to a backend's health.
///
/// Events of a key may still be in the channel when it is removed.
#[derive(Clone, Debug)]
pub struct ProbeEvent {
    pub key: Key,
    /// `None`: no probe, the configuration changed the state.
    pub result: Option<ProbeResult>,
    pub transition: Option<Transition>,
    pub snapshot: HealthSnapshot,
    /// Start of the probe.
    pub started: std::time::Instant,
    pub at: std::time::Instant,
}

impl Prober {
    /// A prober, and the end its events come out of. Must be used on a runtime.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<ProbeEvent>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        (Self { tasks: HashMap::new(), events, configs: Configs::default() }, receiver)
    }

    /// Probes `target` from now on, by `way` if there is one; `known` is the state it is taken to be
    /// in until then.
    ///
    /// Returns the health it starts with. A task of the same key is replaced.
    pub fn spawn(
        &mut self,
        key: Key,
        target: Target,
        way: Option<Way>,
        health: Health,
        known: HealthState,
    ) -> HealthSnapshot {
        let machine = HealthMachine::resume(Policy::from(&health), known, now().into_std());
        let snapshot = machine.snapshot();
        let plan = Plan::new(target, way, health, &mut self.configs);
        let (plan, changes) = watch::channel(plan);
        let hurry = Arc::new(Notify::new());
        let follower =
            Follower::new(key, machine, (changes, Arc::clone(&hurry)), self.events.clone());
        let ask = |plan: Plan, doubted| async move {
            let Plan { target, way, asked, health: Health { timeout, .. } } = plan;
            match way {
                Some(way) => super::probe_by_way(&way, &target, &asked, timeout, doubted).await,
                None => super::probe(&target, &asked, timeout).await,
            }
        };
        let task = tokio::spawn(follower.run(ask));
        self.tasks.insert(key, Task { plan, hurry, task });
        snapshot
    }

    /// Changes what is probed and how. Health is kept where the target is the same.
    ///
    /// An unknown key is started from unknown, if there is something to probe.
    pub fn update(&mut self, key: Key, target: Target, way: Option<Way>, health: Health) {
        let Some(task) = self.tasks.get(&key) else {
            if health.probe != Probe::None {
                self.spawn(key, target, way, health, HealthState::Unknown);
            }
            return;
        };
        task.plan.send_if_modified(|plan| {
            let changed = plan.target != target || plan.way != way || plan.health != health;
            if changed {
                *plan = Plan::new(target, way, health, &mut self.configs);
            }
            changed
        });
    }

    /// Something else suggests that it is not well: it is probed now, though no more often than
    /// `fast_interval`.
    pub fn hurry(&self, key: Key) {
        if let Some(task) = self.tasks.get(&key) {
            task.hurry.notify_one();
        }
    }

    /// Stops probing it.
    pub fn remove(&mut self, key: Key) {
        self.tasks.remove(&key);
    }
}

#[derive(Clone, Debug)]
struct Plan {
    target: Target,
    /// How clients' packets go there, if probes are to follow them.
    way: Option<Way>,
    health: Health,
    /// What `health` has asked, made ready.
    asked: Arc<Asked>,
}

impl Plan {
    fn new(target: Target, way: Option<Way>, health: Health, configs: &mut Configs) -> Self {
        let asked = Arc::new(Asked::new(&health.probe, configs));
        Self { target, way, health, asked }
    }
}

#[derive(Debug)]
struct Task {
    plan: watch::Sender<Plan>,
    hurry: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task of one backend.
struct Follower {
    key: Key,
    machine: HealthMachine,
    plan: watch::Receiver<Plan>,
    hurry: Arc<Notify>,
    events: mpsc::Sender<ProbeEvent>,
    last_start: Option<Instant>,
    /// Whether its phase is random yet.
    spread: bool,
}

struct Answer {
    started: Instant,
    result: ProbeResult,
}

impl Follower {
    fn new(
        key: Key,
        machine: HealthMachine,
        (plan, hurry): (watch::Receiver<Plan>, Arc<Notify>),
        events: mpsc::Sender<ProbeEvent>,
    ) -> Self {
        Self { key, machine, plan, hurry, events, last_start: None, spread: false }
    }

    /// Runs until it is aborted or nobody listens any more.
    async fn run<A, F>(mut self, ask: A)
    where
        A: Fn(Plan, bool) -> F,
        F: Future<Output = ProbeResult>,
    {
        while self.follow_plan(&ask).await.is_some() {}
    }

    /// Probes by the present plan until it changes; asks with it, and whether the last answer was a
    /// failure. `None` when there is nothing left to do.
    async fn follow_plan<A, F>(&mut self, ask: &A) -> Option<()>
    where
        A: Fn(Plan, bool) -> F,
        F: Future<Output = ProbeResult>,
    {
        let plan = self.plan.borrow_and_update().clone();
        let mut in_flight = FuturesUnordered::new();
        let mut next = self.first_start(&plan.health);
        loop {
            tokio::select! {
                biased;
                change = self.plan.changed() => {
                    change.ok()?;
                    return self.replan(&plan).await;
                }
                Some(answer) = in_flight.next() => {
                    self.report(answer).await?;
                    next = self.next_start(&plan.health, in_flight.len());
                }
                () = self.hurry.notified(), if in_flight.is_empty() => {
                    let soonest = self.last_start.map(|last| last + plan.health.fast_interval);
                    let soon = soonest.map_or_else(now, |soonest| soonest.max(now()));
                    next = next.map(|next| next.min(soon));
                }
                () = sleep_until(next) => {
                    let started = now();
                    self.last_start = Some(started);
                    let doubted = self.machine.snapshot().failing_since.is_some();
                    let asked = ask(plan.clone(), doubted);
                    in_flight.push(async move { Answer { started, result: asked.await } });
                    next = self.next_start(&plan.health, in_flight.len());
                }
            }
        }
    }

    /// Soon, but not all backends in the same instant.
    fn first_start(&self, health: &Health) -> Option<Instant> {
        self.machine.next_probe_in()?;
        let spread = health.fast_interval.min(health.interval);
        let fresh = now() + spread.mul_f64(random_fraction());
        // A changed plan must not probe faster than its interval.
        let paced = self.last_start.map(|last| last + spread);
        Some(paced.map_or(fresh, |paced| paced.max(fresh)))
    }

    fn next_start(&mut self, health: &Health, in_flight: usize) -> Option<Instant> {
        let wait = self.machine.next_probe_in()?;
        let last = self.last_start?;
        let due = match in_flight {
            0 if wait == health.interval => last + wait.mul_f64(self.jitter(health)),
            0 => last + wait,
            _ => last + self.suspect_after(health, in_flight)?,
        };
        Some(due.max(now()))
    }

    /// The part of the interval to wait: any at first, for a random phase, then nearly all.
    fn jitter(&mut self, health: &Health) -> f64 {
        let part = f64::from(health.jitter) / 100.0;
        let whole = if std::mem::replace(&mut self.spread, true) { part } else { 1.0 };
        1.0 - whole * random_fraction()
    }

    /// How long the last probe may be silent before the next starts beside it.
    ///
    /// `None` where no further failure is needed to decide.
    fn suspect_after(&self, health: &Health, in_flight: usize) -> Option<Duration> {
        let known = self.machine.snapshot();
        let failed = known.failing_since.map_or(0, |_| known.streak);
        let asked = u32::try_from(in_flight).unwrap_or(u32::MAX).saturating_add(failed);
        let undecided = known.state != HealthState::Down && asked < health.fall;
        let usual = known.latency.unwrap_or_default().saturating_mul(2);
        undecided.then(|| health.fast_interval.max(usual))
    }

    async fn report(&mut self, answer: Answer) -> Option<()> {
        let at = now().into_std();
        let started = answer.started.into_std();
        let transition = self.machine.on_result(started, at, &answer.result);
        self.send(Some(answer.result), transition, started, at).await
    }

    /// Takes over a changed plan.
    async fn replan(&mut self, old: &Plan) -> Option<()> {
        let (same_server, policy) = {
            let new = self.plan.borrow();
            (new.target.is_same_server(&old.target), Policy::from(&new.health))
        };
        let at = now().into_std();
        match self.machine.reconfigure(policy, same_server, at) {
            Some(transition) => self.send(None, Some(transition), at, at).await,
            None => Some(()),
        }
    }

    async fn send(
        &self,
        result: Option<ProbeResult>,
        transition: Option<Transition>,
        started: std::time::Instant,
        at: std::time::Instant,
    ) -> Option<()> {
        let snapshot = self.machine.snapshot();
        let event = ProbeEvent { key: self.key, result, transition, snapshot, started, at };
        self.events.send(event).await.ok()
    }
}

fn now() -> Instant {
    Instant::now()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Uniform in 0..1.
fn random_fraction() -> f64 {
    u32::try_from(random() >> 32).map_or(0.5, |bits| f64::from(bits) / (f64::from(u32::MAX) + 1.0))
}
