//! One backend as it runs: what is known of it, and what follows for its traffic.

use std::sync::Arc;
use std::time::Duration;

use lb_common::abi::Word;

use super::admission::{Admission, Phase, Want};
use super::health::{HealthSnapshot, HealthState};
use super::status::epoch_ms;
use crate::config::model::{self, Mode};
use crate::report;

/// A backend as it runs.
///
/// What a failure elsewhere in its service looks at comes first, and so lies in one or two cache
/// lines: where a server of a thousand services fails, there is time for little more.
#[derive(Debug)]
#[repr(C)]
pub struct Backend {
    pub admission: Admission,
    pub index: u16,
    /// Its share of new flows where it takes any, as in its word.
    pub(super) level: u16,
    /// How it is reached; in a service whose mode changed, retired ones keep theirs.
    pub mode: Mode,
    pub server: u32,
    pub(super) generation: u32,
    /// The probe's key; never used again after the backend is gone.
    pub probe: u64,
    pub health: HealthSnapshot,
    pub drain: Option<Box<Drain>>,
    /// First failing probe to the word written, of the last failure.
    pub detection: Option<Duration>,
    pub config: Arc<model::Backend>,
    /// What its rows had counted before they were its own.
    pub(super) counted_before: Counted,
}

/// What was sent to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
    pub new_flows: u64,
}

/// Why and by whom a backend is drained.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Drain {
    pub reason: Option<String>,
    pub actor: String,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
}

/// What a backend begins with.
pub struct NewBackend {
    pub config: Arc<model::Backend>,
    pub probe: u64,
    pub server: u32,
    pub drain: Option<Box<Drain>>,
    pub health: HealthSnapshot,
    /// What it took in a service that this one succeeds.
    pub admission: Option<Admission>,
    /// Takes no traffic before its first successful probe.
    pub wait_for_health: bool,
}

impl Backend {
    /// Whether it can become this in place: another address, or another mode, is another server,
    /// and the connections of this one finish here.
    #[must_use]
    pub fn stays_as(&self, wanted: &model::Backend, mode: Mode) -> bool {
        self.config.name == wanted.name
            && self.config.address == wanted.address
            && self.mode == mode
    }

    /// What the dataplane does with it, as users are told.
    #[must_use]
    pub fn state(&self) -> report::BackendState {
        match self.admission.phase() {
            Phase::Serving => report::BackendState::Serving,
            Phase::Draining => report::BackendState::Draining,
            Phase::Drained => report::BackendState::Drained,
            Phase::Returning => report::BackendState::Returning,
            Phase::Down => report::BackendState::Down,
        }
    }

    /// Its word as it is in the maps.
    #[must_use]
    pub fn word(&self) -> Word {
        self.admission.word(self.server, self.generation, self.level)
    }

    /// What is wanted of it; `None`: nothing is known that would move it.
    #[must_use]
    pub fn want(&self) -> Option<Want> {
        let last = self.health.last_failure.as_ref();
        let hard = last.is_none_or(|last| last.failure.kind.is_hard());
        want(self.health.state, hard, self.drain.is_some())
    }
}

impl Drain {
    /// Whether connections from before it may be alive.
    pub(super) fn is_recent(&self, idle: Duration) -> bool {
        let age = epoch_ms().saturating_sub(self.at_ms);
        u128::from(age) < idle.as_millis()
    }
}

/// What probes and operator together want; `None`: nothing is known that would move it.
pub(super) fn want(health: HealthState, hard: bool, drained: bool) -> Option<Want> {
    match (health, drained) {
        (HealthState::Down, _) if hard => Some(Want::Down),
        (_, true) | (HealthState::Down, false) => Some(Want::Drain),
        (HealthState::Up, false) => Some(Want::Serve),
        (HealthState::Unknown, false) => None,
    }
}
