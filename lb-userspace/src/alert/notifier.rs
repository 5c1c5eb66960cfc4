//! The thread that tells: an engine, and deliveries, each a task of its own.
//!
//! A thread with a runtime of its own, so that neither a handshake nor a host name that nobody
//! resolves is ever waited for by the control loop or by a probe. It is told all that is wrong, all
//! targets, and asked; it never asks back. No target waits for another.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Clock;
use super::conditions::Found;
use super::deliver::deliver;
use super::engine::{Engine, Message, Rules};
use super::memory::Memory;
use super::message::{Body, node_name};
use crate::config::model::Alert;
use crate::control::clock::epoch_ms;
use crate::control::handle::Reply;
use crate::control::status::milliseconds;
use crate::report::{AlertState, AlertTarget, AlertTest, Alerts, Error, ErrorKind};

/// Questions that wait for the thread.
const QUESTIONS: usize = 16;
/// At least as often it looks what is due.
const TICK: Duration = Duration::from_secs(1);

/// Its end is not waited for longer: a look-up of a name may take its time.
const FAREWELL: Duration = Duration::from_secs(1);

/// The other end of the thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Notifier {
    found: watch::Sender<Arc<Found>>,
    targets: watch::Sender<Arc<Vec<Alert>>>,
    questions: mpsc::Sender<Question>,
    /// Closed when the thread has ended.
    ended: std::sync::mpsc::Receiver<()>,
}

#[derive(Debug)]
pub enum Question {
    /// What is wrong, and who knows.
    List(Reply<Alerts>),
    /// Send every target a test message.
    Test(Reply<Vec<AlertTest>>),
}

struct Inputs {
    found: watch::Receiver<Arc<Found>>,
    targets: watch::Receiver<Arc<Vec<Alert>>>,
    questions: mpsc::Receiver<Question>,
}

impl Notifier {
    /// Starts the thread; what was told is kept in `directory`.
    pub fn start(directory: &Path, alerts: &[Alert], clock: Clock) -> Result<Self> {
        let (found, found_end) = watch::channel(Arc::new(Found::default()));
        let (targets, targets_end) = watch::channel(Arc::new(alerts.to_vec()));
        let (questions, questions_end) = mpsc::channel(QUESTIONS);
        let memory = Memory::open(directory);
        let inputs = Inputs { found: found_end, targets: targets_end, questions: questions_end };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the thread of alerts")?;
        let (running, ended) = std::sync::mpsc::channel();
        let run = move || {
            let _running: std::sync::mpsc::Sender<()> = running;
            runtime.block_on(Telling::new(memory, clock).run(inputs));
            // A look-up of a name may block for long; nobody waits for it any more.
            runtime.shutdown_background();
        };
        thread::Builder::new()
            .name("alerts".into())
            .spawn(run)
            .context("cannot start the thread of alerts")?;
        Ok(Self { found, targets, questions, ended })
    }

    /// Ends the thread, and with it the programs that it runs.
    pub fn stop(self) {
        let Self { found, targets, questions, ended } = self;
        drop((found, targets, questions));
        // An error either way: it has ended, or it will with the process.
        let _ = ended.recv_timeout(FAREWELL);
    }

    /// All that is wrong now.
    pub fn observe(&self, found: Found) {
        self.found.send_replace(Arc::new(found));
    }

    /// Who is told from now on.
    pub fn set_targets(&self, alerts: &[Alert]) {
        self.targets.send_if_modified(|known| {
            let changed = known.as_slice() != alerts;
            if changed {
                *known = Arc::new(alerts.to_vec());
            }
            changed
        });
    }

    /// Asks; never waits.
    pub fn ask(&self, question: Question) {
        if let Err(refused) = self.questions.try_send(question) {
            let busy = || {
                let message = "the thread of alerts has too many questions to answer";
                Error::new(ErrorKind::Internal, message, "try again")
            };
            // Whoever asked may have gone.
            match refused.into_inner() {
                Question::List(reply) => drop(reply.send(Err(busy()))),
                Question::Test(reply) => drop(reply.send(Err(busy()))),
            }
        }
    }
}

/// What an attempt came to.
struct Attempt {
    target: String,
    result: Result<(), String>,
}

/// The thread's own.
struct Telling {
    clock: Clock,
    node: String,
    engine: Engine,
    memory: Memory,
    alerts: Vec<Target>,
    attempts: JoinSet<Attempt>,
}

#[derive(Clone)]
struct Target {
    identity: String,
    /// As it is shown; unique.
    name: String,
    alert: Arc<Alert>,
}

impl Telling {
    fn new(memory: Memory, clock: Clock) -> Self {
        let engine = Engine::new(clock.now());
        let (alerts, attempts) = (Vec::new(), JoinSet::new());
        Self { clock, node: node_name(), engine, memory, alerts, attempts }
    }

    async fn run(mut self, mut inputs: Inputs) {
        self.subscribe(&inputs.targets.borrow_and_update().clone());
        loop {
            let wait = match self.engine.next() {
                Some(at) => Duration::from_millis(at.saturating_sub(self.clock.now())).min(TICK),
                None => TICK,
            };
            let wake = Instant::now() + wait;
            tokio::select! {
                changed = inputs.found.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let found = inputs.found.borrow_and_update().clone();
                    self.observe(&found);
                }
                Ok(()) = inputs.targets.changed() => {
                    let targets = inputs.targets.borrow_and_update().clone();
                    self.subscribe(&targets);
                }
                Some(question) = inputs.questions.recv() => {
                    // What was found before the question was asked is part of the answer.
                    let found = inputs.found.borrow_and_update().clone();
                    self.observe(&found);
                    self.answer(question);
                }
                Some(attempt) = self.attempts.join_next() => {
                    if let Ok(attempt) = attempt {
                        self.attempted(attempt);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.send();
        }
    }

    fn subscribe(&mut self, alerts: &[Alert]) {
        let mut seen: HashMap<String, u32> = HashMap::new();
        self.alerts = alerts
            .iter()
            .map(|alert| {
                let shown = alert.target.shown();
                let number = seen.entry(shown.clone()).or_default();
                *number += 1;
                let name = if *number == 1 { shown } else { format!("{shown} ({number})") };
                Target { identity: alert.target.identity(), name, alert: Arc::new(alert.clone()) }
            })
            .collect();
        let rules = self.alerts.iter().map(|t| (t.identity.clone(), rules(&t.alert)));
        let memory = &mut self.memory;
        self.engine.subscribe(rules, |target| memory.take(target));
    }

    fn observe(&mut self, found: &Found) {
        if let Some(left_out) = self.engine.observe(found, self.clock.now()) {
            tracing::warn!(
                left_out,
                "more is wrong than alerts follow: nobody is told of the rest"
            );
        }
    }

    /// Begins what is due.
    fn send(&mut self) {
        for (identity, message) in self.engine.step(self.clock.now()) {
            let Some(target) = self.find(&identity).cloned() else { continue };
            let body = self.body(&message);
            tracing::debug!(target = %target.name, title = %body.title, "sending alerts");
            self.attempts.spawn(async move {
                let result = deliver(&target.alert, &body).await;
                Attempt { target: identity, result }
            });
        }
    }

    fn body(&self, message: &Message) -> Body {
        Body::new(message, &self.node, epoch_ms(), self.clock)
    }

    fn attempted(&mut self, attempt: Attempt) {
        let Attempt { target: identity, result } = attempt;
        let failed_before =
            self.engine.subscriber(&identity).is_some_and(|s| s.last_error.is_some());
        let name = self.find(&identity).map_or_else(String::new, |target| target.name.clone());
        let given_up = self.engine.done(&identity, result.clone(), self.clock.now());
        match result {
            Err(error) if given_up => {
                tracing::error!(target = %name, %error, "alerts not delivered; trying again later");
            }
            Err(error) if !failed_before => {
                tracing::warn!(target = %name, %error, "alerts not delivered yet");
            }
            Err(_) => {}
            Ok(()) => {
                if failed_before {
                    tracing::info!(target = %name, "alerts are delivered again");
                }
                if let Err(error) = self.memory.write(&self.engine) {
                    let error = format!("{error:#}");
                    tracing::warn!(%error, "a restart will send alerts again");
                }
            }
        }
    }

    fn find(&self, identity: &str) -> Option<&Target> {
        self.alerts.iter().find(|target| target.identity == identity)
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::List(reply) => drop(reply.send(Ok(self.list()))),
            Question::Test(reply) => {
                let body = Arc::new(Body::test(&self.node, epoch_ms()));
                let targets = self.alerts.clone();
                tokio::spawn(async move {
                    let tests = targets.iter().map(|target| test(target, &body));
                    drop(reply.send(Ok(futures_util::future::join_all(tests).await)));
                });
            }
        }
    }

    fn list(&self) -> Alerts {
        let now = self.clock.now();
        let subscribers: Vec<_> = self
            .alerts
            .iter()
            .filter_map(|target| Some((target, self.engine.subscriber(&target.identity)?)))
            .collect();
        let alerts = self.engine.holding().into_iter().map(|(key, holding)| {
            let knows = subscribers.iter().filter(|(_, s)| s.knows(key));
            let since_ms = Some(self.clock.epoch_of(holding.since_ms));
            AlertState {
                condition: crate::report::Warning { since_ms, ..holding.condition.clone() },
                notified: knows.map(|(target, _)| target.name.clone()).collect(),
            }
        });
        let targets = subscribers.iter().map(|(target, s)| AlertTarget {
            name: target.name.clone(),
            sent: s.sent,
            failed: s.failed,
            waiting: self.engine.waiting(s, now) as u64,
            last_sent_ms: s.last_sent_ms.map(|at| self.clock.epoch_of(at)),
            last_error: s.last_error.clone(),
        });
        let left_out = self.engine.left_out() as u64;
        Alerts { alerts: alerts.collect(), left_out, targets: targets.collect() }
    }
}

async fn test(target: &Target, body: &Body) -> AlertTest {
    let began = Instant::now();
    let error = deliver(&target.alert, body).await.err();
    let took_ms = milliseconds(began.elapsed());
    AlertTest { target: target.name.clone(), error, took_ms }
}

fn rules(alert: &Alert) -> Rules {
    Rules {
        events: alert.events.clone(),
        min_severity: alert.min_severity,
        repeat_ms: milliseconds(alert.repeat),
        batch_ms: milliseconds(alert.batch),
        retries: alert.retries,
    }
}
