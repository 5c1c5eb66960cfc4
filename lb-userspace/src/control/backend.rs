//! One backend as it runs: what is known of it, and what follows for its traffic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::abi::Word;

use super::admission::{Admission, Phase, Want};
use super::clock::{epoch_ms, move_along};
use super::governor::{Ruling, Seen};
use super::health::{HealthSnapshot, HealthState};
use crate::config::model::{self, Mode, OnDown};
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
    /// What the governor ruled last, and by what it saw.
    pub ruling: Ruling,
    pub(super) seen: Option<Seen>,
    /// Was not up since it came.
    pub(super) is_new: bool,
    /// Our own link to it is, or just was, down: it cannot be judged until then.
    pub(super) blind_until: Option<Instant>,
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

/// Why and by whom a backend is taken out: drained, or in maintenance.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Drain {
    pub reason: Option<String>,
    pub actor: String,
    /// Milliseconds since the epoch; so is the next time.
    pub at_ms: u64,
    /// When it was to be taken back: nobody is by himself.
    #[serde(default)]
    pub until_ms: Option<u64>,
    /// That it fails meanwhile is no news.
    #[serde(default)]
    pub maintenance: bool,
}

/// What a backend begins with.
pub struct NewBackend {
    pub config: Arc<model::Backend>,
    pub probe: u64,
    pub server: u32,
    pub drain: Option<Box<Drain>>,
    pub health: HealthSnapshot,
    /// What it took in a service that this one succeeds.
    pub before: Option<Before>,
    /// Takes no traffic before its first successful probe.
    pub wait_for_health: bool,
}

/// What a backend hands on to the one that succeeds it under its name and address.
#[derive(Clone, Debug)]
pub struct Before {
    pub health: HealthSnapshot,
    pub admission: Admission,
    pub ruling: Ruling,
    pub is_new: bool,
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
    pub fn want(&self, on_down: OnDown) -> Option<Want> {
        let is_down = self.health.state == HealthState::Down && self.ruling.is_out;
        match self.health.state {
            _ if !self.config.is_placed() => Some(Want::Down),
            _ if is_down && self.health.is_hard() && on_down != OnDown::Keep => Some(Want::Down),
            _ if is_down || self.drain.is_some() || self.ruling.is_standby => Some(Want::Drain),
            _ if self.ruling.is_out => None,
            HealthState::Up | HealthState::Down => Some(Want::Serve),
            HealthState::Unknown => None,
        }
    }

    /// As the governor sees it now.
    pub(super) fn look(&self, now: Instant) -> Seen {
        Seen {
            state: self.health.state,
            is_hard: self.health.is_hard(),
            is_suspect: self.health.failing_since.is_some(),
            is_blind: self.blind_until.is_some_and(|until| now < until),
            is_ready: self.drain.is_none(),
            is_new: self.is_new,
            is_backup: self.config.backup,
            weight: self.config.weight,
            failing_since: self.health.failing_since,
            ruling: self.ruling,
        }
    }

    /// What it hands on.
    pub(super) fn hand_on(&self) -> Before {
        Before {
            health: self.health.clone(),
            admission: self.admission,
            ruling: self.ruling,
            is_new: self.is_new,
        }
    }
}

impl Drain {
    /// The clock of the day was set.
    pub fn move_along(&mut self, by_ms: i64) {
        move_along(&mut self.at_ms, by_ms);
        self.until_ms.iter_mut().for_each(|end| move_along(end, by_ms));
    }

    /// Whether connections from before it may be alive.
    pub(super) fn is_recent(&self, idle: Duration) -> bool {
        let age = epoch_ms().saturating_sub(self.at_ms);
        u128::from(age) < idle.as_millis()
    }
}
