//! What [`super::conditions`] looks at: a service as the control loop knows it.
//!
//! Ages are in milliseconds before now, times in milliseconds since the epoch.

use crate::report::{BackendState, HealthState};

/// One service.
#[derive(Clone, Debug, Default)]
pub struct ServiceView<'a> {
    pub name: &'a str,
    /// Percent of backends that must serve; `None`: all.
    pub capacity_warning: Option<u8>,
    /// It fails open.
    pub panic: Option<Panic>,
    /// Recorded flows that packets would have missed, since the start.
    pub violations: u64,
    /// Overrides of the service as a whole that may have an end, such as a freeze.
    pub overrides: Vec<Override<'a>>,
    pub backends: Vec<BackendView<'a>>,
}

/// So few backends are healthy that all of them get traffic.
#[derive(Clone, Copy, Debug)]
pub struct Panic {
    pub healthy: usize,
    pub since_ms: u64,
}

/// An override of somebody's that may have an end.
#[derive(Clone, Debug)]
pub struct Override<'a> {
    /// `drain`, `maintenance`, `freeze`.
    pub what: &'static str,
    pub actor: &'a str,
    pub reason: Option<&'a str>,
    /// When it was to end.
    pub until_ms: Option<u64>,
    /// The command that ends it.
    pub end: String,
}

/// One backend.
#[derive(Clone, Debug)]
pub struct BackendView<'a> {
    pub name: &'a str,
    pub health: HealthState,
    /// In this state for so long.
    pub since_ms: u64,
    pub last_failure: Option<&'a str>,
    pub detection_ms: Option<f64>,
    pub state: BackendState,
    /// The command that asks it what its probe asks.
    pub by_hand: Option<String>,
    pub drained: Option<Drained<'a>>,
    /// Flows that it still has.
    pub flows: Option<u64>,
    pub hop_problem: Option<String>,
    /// It fails, and stays in service.
    pub kept: Option<Kept>,
    pub flapping: Option<Flapping>,
    pub latency: Option<LatencyOff>,
    pub share: Option<ShareOff>,
    /// Overrides of it that may have an end.
    pub overrides: Vec<Override<'a>>,
}

#[derive(Clone, Copy, Debug)]
pub struct Drained<'a> {
    pub actor: &'a str,
    pub reason: Option<&'a str>,
    pub at_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub since_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Flapping {
    /// Changes of its health…
    pub changes: u32,
    /// …within this time.
    pub within_ms: u64,
    /// How long it is held out yet.
    pub held_ms: u64,
    pub since_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct LatencyOff {
    pub recent_ms: f64,
    pub usual_ms: f64,
    pub since_ms: u64,
}

/// Shares are 0 to 1.
#[derive(Clone, Copy, Debug)]
pub struct ShareOff {
    pub share: f64,
    pub expected: f64,
    pub flows: u64,
    pub since_ms: u64,
}

impl<'a> BackendView<'a> {
    /// A backend that is well.
    #[must_use]
    pub fn well(name: &'a str) -> Self {
        Self {
            name,
            health: HealthState::Up,
            since_ms: 0,
            last_failure: None,
            detection_ms: None,
            state: BackendState::Serving,
            by_hand: None,
            drained: None,
            flows: None,
            hop_problem: None,
            kept: None,
            flapping: None,
            latency: None,
            share: None,
            overrides: Vec::new(),
        }
    }

    /// Whether it takes new flows.
    #[must_use]
    pub fn takes(&self) -> bool {
        matches!(self.state, BackendState::Serving | BackendState::Returning)
    }

    /// Whether there is nothing to say of it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.health == HealthState::Up
            && self.drained.is_none()
            && self.hop_problem.is_none()
            && self.kept.is_none()
            && self.flapping.is_none()
            && self.latency.is_none()
            && self.share.is_none()
            && self.overrides.is_empty()
    }
}

impl ServiceView<'_> {
    /// Backends that take new flows.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.backends.iter().filter(|b| b.takes()).count()
    }
}
