//! The health of one backend: probe results in, state out.
//!
//! ```text
//!                    `rise` successes
//!        ┌─────────┐ ────────────────────────────► ┌────┐
//!   ───► │ unknown │                               │ up │
//!        └─────────┘ ──────────┐      ┌──────────► └────┘
//!                     `fall`   │      │ `rise`        │ `fall`
//!                    failures  ▼      │ successes,    │ failures
//!                             ┌──────┐│ and no hold   │
//!                             │ down ├┘◄──────────────┘
//!                             └──────┘
//! ```
//!
//! Counts are of *consecutive* results. Unknown takes traffic at start: a backend is innocent until
//! `fall` failures. A failure of our own (no file descriptor, no port) is no evidence and moves
//! nothing; it is kept apart, as [`Unprobed`]. A backend that is not probed is up.
//!
//! One that goes up and down is *damped*: from its second failure on it is held down for
//! `hold_down`, twice as long each further time, at most `hold_down_max`. One that was up for
//! `hold_down_max` begins anew.
//!
//! Pure: time is an argument, nothing is read from a clock or a socket.

use std::fmt;
use std::time::{Duration, Instant};

use crate::config::model::{Health, Probe};
use crate::control::clock::epoch_ms;
use crate::control::status::milliseconds;
use crate::report;
pub use crate::report::HealthState;
use crate::store::Down;

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
    /// Of the outage that lasts, or may be beginning.
    first_failure: Option<Box<LastFailure>>,
    last_failure: Option<Box<LastFailure>>,
    unprobed: Option<Box<Unprobed>>,
    latency: Option<Duration>,
    damping: Damping,
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
        Self {
            policy,
            state,
            since,
            run: None,
            first_failure: None,
            last_failure: None,
            unprobed: None,
            latency: None,
            damping: Damping::default(),
        }
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
            Err(failure) if !failure.kind.blames_backend() => {
                let since = self.unprobed.as_ref().map_or(now, |known| known.since);
                self.unprobed = Some(Box::new(Unprobed { failure: failure.clone(), since }));
                return None;
            }
            Err(failure) => {
                let latency = now.saturating_duration_since(started);
                let failed = Box::new(LastFailure { failure: failure.clone(), at: now, latency });
                self.last_failure = Some(failed.clone());
                self.first_failure.get_or_insert(failed);
            }
        }
        self.unprobed = None;
        let run = self.extend_run(started, result.is_ok());
        if run.passing && self.state != HealthState::Down {
            self.first_failure = None;
        }
        let to = match (self.state, run.passing) {
            (HealthState::Unknown | HealthState::Down, true)
                if run.length >= self.policy.rise && !self.damping.holds(now) =>
            {
                HealthState::Up
            }
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
        self.unprobed = None;
        let to = if !policy.probed {
            HealthState::Up
        } else if same_server {
            return None;
        } else {
            self.first_failure = None;
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
        let is_held = self.run.is_some_and(|run| run.length >= self.policy.rise && run.passing)
            && self.damping.held_until.is_some();
        let doubted = self.run.is_some() && !self.is_settled() && !is_held;
        Some(if doubted { self.policy.fast_interval } else { self.policy.interval })
    }

    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        HealthSnapshot {
            state: self.state,
            since: self.since,
            streak: self.run.map_or(0, |run| run.length),
            failing_since: self.run.and_then(|run| (!run.passing).then_some(run.since)),
            first_failure: self.first_failure.clone(),
            last_failure: self.last_failure.clone(),
            unprobed: self.unprobed.clone(),
            latency: self.latency,
            falls: self.damping.falls,
            held_until: self.damping.held_until,
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
        match (self.state, to) {
            (_, HealthState::Down) => self.damping.fell(self.state, self.since, &self.policy, now),
            _ => self.damping.held_until = None,
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        if to == HealthState::Up {
            self.first_failure = None;
        }
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
    pub hold_down: Duration,
    pub hold_down_max: Duration,
}

/// How often a backend went down of late, and how long it is held down for it.
#[derive(Clone, Copy, Debug, Default)]
struct Damping {
    falls: u32,
    held_until: Option<Instant>,
}

impl Damping {
    fn holds(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// It went down, from `state`, in which it was since `since`.
    fn fell(&mut self, state: HealthState, since: Instant, policy: &Policy, now: Instant) {
        let was_up_for = now.saturating_duration_since(since);
        if state != HealthState::Up || was_up_for >= policy.hold_down_max {
            self.falls = 0;
        }
        self.falls = self.falls.saturating_add(1);
        self.held_until = self.falls.checked_sub(2).map(|again| {
            let factor = 1u32.checked_shl(again).unwrap_or(u32::MAX);
            now + policy.hold_down.saturating_mul(factor).min(policy.hold_down_max)
        });
    }
}

impl From<&Health> for Policy {
    fn from(health: &Health) -> Self {
        Self {
            probed: health.probe != Probe::None,
            interval: health.interval,
            fast_interval: health.fast_interval,
            rise: health.rise,
            fall: health.fall,
            hold_down: health.hold_down,
            hold_down_max: health.hold_down_max,
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
    /// The first failing probe since the last time that the backend was up and passed.
    pub first_failure: Option<Box<LastFailure>>,
    pub last_failure: Option<Box<LastFailure>>,
    /// Its probes cannot be made.
    pub unprobed: Option<Box<Unprobed>>,
    /// Of the last successful probe.
    pub latency: Option<Duration>,
    /// How often it went down without being up for long in between.
    pub falls: u32,
    /// It stays down until then, whatever its probes say.
    pub held_until: Option<Instant>,
}

impl HealthSnapshot {
    /// Before the first result.
    #[must_use]
    pub fn initial(state: HealthState, since: Instant) -> Self {
        Self {
            state,
            since,
            streak: 0,
            failing_since: None,
            first_failure: None,
            last_failure: None,
            unprobed: None,
            latency: None,
            falls: 0,
            held_until: None,
        }
    }

    /// Of one that was down before a restart.
    #[must_use]
    pub fn inherited(down: &Down, now: Instant) -> Self {
        let age = Duration::from_millis(epoch_ms().saturating_sub(down.since_ms));
        // This host may have been up for less.
        let since = now.checked_sub(age).unwrap_or(now);
        let failed =
            |failure| Box::new(LastFailure { failure, at: since, latency: Duration::ZERO });
        let last_failure = down.last_failure().map(failed);
        Self { last_failure, ..Self::initial(HealthState::Down, since) }
    }

    /// Of one whose name has no address.
    #[must_use]
    pub fn nowhere(failure: Failure, now: Instant) -> Self {
        let last_failure =
            Some(Box::new(LastFailure { failure, at: now, latency: Duration::ZERO }));
        Self { last_failure, ..Self::initial(HealthState::Down, now) }
    }

    /// Whether nothing usable answers at all, by the last failure.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.last_failure.as_ref().is_none_or(|last| last.failure.kind.is_hard())
    }

    /// As the API shows it; `detection` is the caller's measure of the last failure.
    #[must_use]
    pub fn report(&self, now: Instant, detection: Option<Duration>) -> report::Health {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let failed = |failed: &LastFailure| report::FailedProbe {
            kind: failed.failure.kind.name().into(),
            text: failed.failure.text.clone(),
            ago_ms: milliseconds(now.saturating_duration_since(failed.at)),
            latency_ms: ms(failed.latency),
        };
        let outage = self.first_failure.as_ref().zip(self.last_failure.as_ref());
        report::Health {
            state: self.state,
            since_ms: milliseconds(now.saturating_duration_since(self.since)),
            streak: self.streak,
            last_failure: self.last_failure.as_ref().map(|last| last.failure.text.clone()),
            latency_ms: self.latency.map(ms),
            falls: self.falls,
            held_ms: self
                .held_until
                .map(|until| until.saturating_duration_since(now))
                .filter(|left| !left.is_zero())
                .map(ms),
            detection_ms: detection.map(ms),
            unprobed: self.unprobed.as_ref().map(|unprobed| report::Unprobed {
                text: unprobed.failure.detail().into(),
                since_ms: milliseconds(now.saturating_duration_since(unprobed.since)),
            }),
            outage: outage
                .map(|(first, last)| report::Outage { first: failed(first), last: failed(last) }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    pub failure: Failure,
    /// When the probe ended.
    pub at: Instant,
    /// From its start to its end.
    pub latency: Duration,
}

/// Why a backend's probes cannot be made, and since when: until one can be, its health stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprobed {
    /// Of the latest.
    pub failure: Failure,
    /// When the first of them ended.
    pub since: Instant,
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

    /// The text without its kind.
    #[must_use]
    pub fn detail(&self) -> &str {
        let detail = self.text.strip_prefix(self.kind.name());
        detail.and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&self.text)
    }
}

/// The layer a probe failed at, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// It could not be made: a shortage or misconfiguration of our own (files, ports, memory, `source`,
    /// a program that is not there). Says nothing about the backend.
    Local,
    /// Its name has no address.
    Name,
    /// No answer to ARP or neighbour discovery.
    NoNeighbour,
    /// No route, or an ICMP error that says so.
    Unreachable,
    Refused,
    Timeout,
    Reset,
    /// The server answers at its own address, but not by the way of clients' packets.
    PathBroken,
    Tls,
    /// HTTP status, gRPC status, health status or DNS response code.
    HttpStatus,
    /// HTTP body, DNS answer or UDP answer.
    Body,
    /// Answered, but not in the protocol asked for.
    Protocol,
    /// A program that failed.
    Exec,
}

impl FailureKind {
    /// Whether nothing usable answers at all; otherwise the application answers and says no.
    #[must_use]
    pub fn is_hard(self) -> bool {
        match self {
            Self::Name
            | Self::NoNeighbour
            | Self::Unreachable
            | Self::Refused
            | Self::Timeout
            | Self::Reset
            | Self::PathBroken => true,
            Self::Local
            | Self::Tls
            | Self::HttpStatus
            | Self::Body
            | Self::Protocol
            | Self::Exec => false,
        }
    }

    /// Whether it is evidence against the backend.
    #[must_use]
    pub fn blames_backend(self) -> bool {
        self != Self::Local
    }

    /// Its name in the API: stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Name => "name",
            Self::NoNeighbour => "no neighbour",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::PathBroken => "path broken",
            Self::Tls => "tls",
            Self::HttpStatus => "status",
            Self::Body => "body",
            Self::Protocol => "protocol",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
