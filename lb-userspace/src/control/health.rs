//! The health of one backend: probe results in, state out.
//!
//! ```text
//!                      first success
//!        ┌─────────┐ ────────────────────────────► ┌────┐
//!   ───► │ unknown │                               │ up │
//!        └─────────┘ ──────────┐      ┌──────────► └────┘
//!                     `fall`   │      │ `rise`        │ `fall`
//!                    failures  ▼      │ successes     │ failures
//!                             ┌──────┐◄──────────────┘
//!                             │ down │
//!                             └──────┘
//! ```
//!
//! Counts are of *consecutive* results. Unknown takes traffic: a backend is innocent until `fall`
//! failures. A failure of our own (no file descriptor, no port) is no evidence and moves nothing.
//! A backend that is not probed is up.
//!
//! Pure: time is an argument, nothing is read from a clock or a socket.

use std::fmt;
use std::time::{Duration, Instant};

use crate::config::model::{Health, Probe};
use crate::report;
pub use crate::report::HealthState;

#[cfg(test)]
mod tests;

/// Follows one backend; see the diagram above.
#[derive(Clone, Debug)]
pub struct HealthMachine {
    policy: Policy,
    state: HealthState,
    since: Instant,
    /// The latest results that agree with each other.
    run: Option<Run>,
    last_failure: Option<LastFailure>,
    latency: Option<Duration>,
}

impl HealthMachine {
    #[must_use]
    pub fn new(policy: Policy, now: Instant) -> Self {
        Self::resume(policy, HealthState::Unknown, now)
    }

    /// Continues from what was known before a restart or a reload.
    #[must_use]
    pub fn resume(policy: Policy, known: HealthState, since: Instant) -> Self {
        let state = if policy.probed { known } else { HealthState::Up };
        Self { policy, state, since, run: None, last_failure: None, latency: None }
    }

    /// Takes the result of a probe that ran from `started` to `now`.
    pub fn on_result(
        &mut self,
        started: Instant,
        now: Instant,
        result: &ProbeResult,
    ) -> Option<Transition> {
        match result {
            Ok(success) => self.latency = Some(success.latency),
            Err(failure) => {
                self.last_failure = Some(LastFailure { failure: failure.clone(), at: now });
                if !failure.kind.blames_backend() {
                    return None;
                }
            }
        }
        let run = self.extend_run(started, result.is_ok());
        let to = match (self.state, run.passing) {
            (HealthState::Unknown, true) => HealthState::Up,
            (HealthState::Down, true) if run.length >= self.policy.rise => HealthState::Up,
            (HealthState::Unknown | HealthState::Up, false) if run.length >= self.policy.fall => {
                HealthState::Down
            }
            _ => return None,
        };
        Some(self.enter(to, now, run.since))
    }

    /// Takes a new policy. With `same_server` what is known stays; else it starts from unknown.
    pub fn reconfigure(
        &mut self,
        policy: Policy,
        same_server: bool,
        now: Instant,
    ) -> Option<Transition> {
        self.policy = policy;
        self.run = None;
        let to = if !policy.probed {
            HealthState::Up
        } else if same_server {
            return None;
        } else {
            self.last_failure = None;
            self.latency = None;
            HealthState::Unknown
        };
        (to != self.state).then(|| self.enter(to, now, now))
    }

    /// Whether the last result agrees with the state.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match (self.state, &self.run) {
            (HealthState::Unknown, _) => false,
            (HealthState::Up, Some(run)) => run.passing,
            (HealthState::Down, Some(run)) => !run.passing,
            (_, None) => true,
        }
    }

    /// From the start of one probe to the start of the next; `None` when not probed.
    ///
    /// Fast from the first contrary result until the state is settled, in both directions.
    #[must_use]
    pub fn next_probe_in(&self) -> Option<Duration> {
        if !self.policy.probed {
            return None;
        }
        let doubted = self.run.is_some() && !self.is_settled();
        Some(if doubted { self.policy.fast_interval } else { self.policy.interval })
    }

    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        HealthSnapshot {
            state: self.state,
            since: self.since,
            streak: self.run.map_or(0, |run| run.length),
            failing_since: self.run.and_then(|run| (!run.passing).then_some(run.since)),
            last_failure: self.last_failure.clone(),
            latency: self.latency,
        }
    }

    fn extend_run(&mut self, started: Instant, passing: bool) -> Run {
        let run = match self.run {
            Some(run) if run.passing == passing => {
                Run { length: run.length.saturating_add(1), ..run }
            }
            _ => Run { passing, length: 1, since: started },
        };
        self.run = Some(run);
        run
    }

    fn enter(&mut self, to: HealthState, now: Instant, first: Instant) -> Transition {
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        let failure = match to {
            HealthState::Down => self.last_failure.as_ref().map(|last| last.failure.clone()),
            HealthState::Unknown | HealthState::Up => None,
        };
        Transition { from, to, at: now, first, failure }
    }
}

/// What of the configuration the machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub probed: bool,
    pub interval: Duration,
    pub fast_interval: Duration,
    pub rise: u32,
    pub fall: u32,
}

impl From<&Health> for Policy {
    fn from(health: &Health) -> Self {
        Self {
            probed: health.probe != Probe::None,
            interval: health.interval,
            fast_interval: health.fast_interval,
            rise: health.rise,
            fall: health.fall,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Run {
    passing: bool,
    length: u32,
    /// Start of its first probe.
    since: Instant,
}

/// A change of state, and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: HealthState,
    pub to: HealthState,
    pub at: Instant,
    /// Start of the first probe of the run that led here.
    pub first: Instant,
    /// Why it is down; `None` otherwise.
    pub failure: Option<Failure>,
}

impl Transition {
    /// From the start of the first telling probe to the decision.
    #[must_use]
    pub fn detection(&self) -> Duration {
        self.at.saturating_duration_since(self.first)
    }
}

/// What is known of a backend's health now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSnapshot {
    pub state: HealthState,
    pub since: Instant,
    /// Consecutive results that agree with the last one.
    pub streak: u32,
    /// Start of the first failing probe of the current streak.
    pub failing_since: Option<Instant>,
    pub last_failure: Option<LastFailure>,
    /// Of the last successful probe.
    pub latency: Option<Duration>,
}

impl HealthSnapshot {
    /// Before the first result.
    #[must_use]
    pub fn initial(state: HealthState, since: Instant) -> Self {
        Self { state, since, streak: 0, failing_since: None, last_failure: None, latency: None }
    }

    /// As the API shows it; `detection` is the caller's measure of the last failure.
    #[must_use]
    pub fn report(&self, now: Instant, detection: Option<Duration>) -> report::Health {
        let since = now.saturating_duration_since(self.since);
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        report::Health {
            state: self.state,
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            streak: self.streak,
            last_failure: self.last_failure.as_ref().map(|last| last.failure.text.clone()),
            latency_ms: self.latency.map(ms),
            detection_ms: detection.map(ms),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    pub failure: Failure,
    /// When the probe ended.
    pub at: Instant,
}

pub type ProbeResult = Result<Success, Failure>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Success {
    /// From the start of the probe to its answer.
    pub latency: Duration,
}

/// A failed probe; `text` begins with the kind and names the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
}

impl Failure {
    /// Builds the text `KIND: DETAIL`.
    #[must_use]
    pub fn new(kind: FailureKind, detail: impl fmt::Display) -> Self {
        Self { kind, text: format!("{kind}: {detail}") }
    }
}

/// The layer a probe failed at, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// Our own shortage (files, ports, memory): says nothing about the backend.
    Local,
    NoNeighbour,
    Unreachable,
    Refused,
    Timeout,
    Reset,
    /// The server answers at its own address, but not by the way of clients' packets.
    PathBroken,
    HttpStatus,
    /// Answered, but not in the protocol asked for.
    Protocol,
}

impl FailureKind {
    /// Whether nothing usable answers at all; otherwise the application answers and says no.
    #[must_use]
    pub fn is_hard(self) -> bool {
        match self {
            Self::NoNeighbour
            | Self::Unreachable
            | Self::Refused
            | Self::Timeout
            | Self::Reset
            | Self::PathBroken => true,
            Self::Local | Self::HttpStatus | Self::Protocol => false,
        }
    }

    /// Whether it is evidence against the backend.
    #[must_use]
    pub fn blames_backend(self) -> bool {
        self != Self::Local
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::NoNeighbour => "no neighbour",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::PathBroken => "path broken",
            Self::HttpStatus => "status",
            Self::Protocol => "protocol",
        })
    }
}
