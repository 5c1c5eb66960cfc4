//! What [`super::conditions`] looks at: a service as the control loop knows it.
//!
//! Ages are in milliseconds before now, times in milliseconds since the epoch.

use std::net::IpAddr;

use crate::control::governor::Kept;
use crate::report::{BackendState, Freeze, HealthState};

/// One service.
#[derive(Clone, Debug, Default)]
pub struct ServiceView<'a> {
    pub name: &'a str,
    /// Percent of backends that must serve; `None`: all.
    pub capacity_warning: Option<u8>,
    /// It fails open.
    pub panic: Option<Panic>,
    /// Backups serve.
    pub uses_backups: bool,
    /// They go into reserve after so long, as enough of the others are well.
    pub backups_rest_in_ms: Option<u64>,
    pub frozen: Option<Freeze>,
    /// Recorded flows that packets would have missed, since the start.
    pub violations: u64,
    pub backends: Vec<BackendView<'a>>,
}

/// More backends fail than may be out: those that answer at all get traffic again.
#[derive(Clone, Copy, Debug)]
pub struct Panic {
    pub failing: usize,
    /// Of so many that count.
    pub counted: usize,
    pub may_be_out: usize,
    pub since_ms: u64,
}

/// One backend.
#[derive(Clone, Debug)]
pub struct BackendView<'a> {
    pub name: &'a str,
    pub health: HealthState,
    /// In this state for so long.
    pub since_ms: u64,
    /// How the outage began.
    pub first_failure: Option<&'a str>,
    pub last_failure: Option<&'a str>,
    pub detection_ms: Option<f64>,
    pub state: BackendState,
    /// Its probes cannot be made: its health is as it was.
    pub unprobed: Option<Unprobed<'a>>,
    /// The command that asks it what its probe asks.
    pub by_hand: Option<String>,
    pub drained: Option<Drained<'a>>,
    pub is_backup: bool,
    /// A backup in reserve.
    pub is_standby: bool,
    /// Flows that it still has.
    pub flows: Option<u64>,
    pub hop_problem: Option<HopProblem>,
    /// Its name gives its address no more.
    pub stale_name: Option<StaleName<'a>>,
    /// It fails, and stays in service.
    pub kept: Option<Kept>,
    pub flapping: Option<Flapping>,
    pub latency: Option<LatencyOff>,
    pub share: Option<ShareOff>,
}

#[derive(Clone, Copy, Debug)]
pub struct Drained<'a> {
    pub actor: &'a str,
    pub reason: Option<&'a str>,
    pub at_ms: u64,
    /// When it was to be taken back.
    pub until_ms: Option<u64>,
    /// That it fails is no news.
    pub maintenance: bool,
}

/// A name that does not resolve, or to what can't be: the address that it gave before is kept.
#[derive(Clone, Debug)]
pub struct StaleName<'a> {
    pub host: &'a str,
    pub address: IpAddr,
    /// A clause whose subject is the name.
    pub why: &'a str,
    pub since_ms: u64,
    /// The command that looks it up.
    pub by_hand: String,
}

/// Why nothing can be sent to it.
#[derive(Clone, Debug)]
pub struct HopProblem {
    pub why: String,
    /// The command that shows the way.
    pub by_hand: String,
}

#[derive(Clone, Copy, Debug)]
pub struct Unprobed<'a> {
    pub why: &'a str,
    pub since_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Flapping {
    /// How often it went down without being up for long in between.
    pub falls: u32,
    /// How long it is held down yet.
    pub held_ms: u64,
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

impl Drained<'_> {
    /// In words.
    #[must_use]
    pub fn what(&self) -> &'static str {
        if self.maintenance { "in maintenance" } else { "drained" }
    }
}

impl<'a> BackendView<'a> {
    /// A backend that is well.
    #[must_use]
    pub fn well(name: &'a str) -> Self {
        Self {
            name,
            health: HealthState::Up,
            since_ms: 0,
            first_failure: None,
            last_failure: None,
            detection_ms: None,
            state: BackendState::Serving,
            unprobed: None,
            by_hand: None,
            drained: None,
            flows: None,
            hop_problem: None,
            stale_name: None,
            kept: None,
            flapping: None,
            latency: None,
            share: None,
            is_backup: false,
            is_standby: false,
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
            && self.stale_name.is_none()
            && self.kept.is_none()
            && self.flapping.is_none()
            && self.latency.is_none()
            && self.share.is_none()
    }
}

impl ServiceView<'_> {
    /// The first backend's own check that fails, where the operator did not take it out.
    #[must_use]
    pub fn first_check(&self) -> Option<String> {
        let fails = |b: &&BackendView<'_>| {
            b.drained.is_none() && (b.health == HealthState::Down || b.unprobed.is_some())
        };
        self.backends.iter().filter(fails).find_map(|b| b.by_hand.clone())
    }

    /// Backends that take new flows.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.backends.iter().filter(|b| b.takes()).count()
    }
}
