//! What must hold at any time, from what is in the maps, and from times that are noted here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::abi::Word;
use proptest::prelude::*;

use super::scene::{Scene, service_name};
use crate::alert::Kind;
use crate::control::admission::Phase;
use crate::control::freezes::Freezes;
use crate::control::governor::{Kept, most};
use crate::control::node::tests::{Backend, HealthState, Running};
use crate::control::status::{About, status};
use crate::control::watch::Watch;
use crate::report::{Status, Warning};

/// Between two steps of a ramp, at most.
const STEP: Duration = Duration::from_millis(200);

/// Since when what was seen is so.
#[derive(Default)]
pub(super) struct Noted {
    /// By service, backend and its address: one that succeeds it goes on where it was.
    phases: HashMap<Key, (Phase, Instant)>,
    /// By service: how long its window is, and since when. What a shorter one forgot is forgotten.
    windows: HashMap<String, (Duration, Instant)>,
    /// Services whose backups serve though enough others are well.
    enough: HashMap<String, Instant>,
}

type Key = (String, String, IpAddr);

fn key(running: &Running, backend: &Backend) -> Key {
    let Backend { config, .. } = backend;
    (running.config.name.clone(), config.name.clone(), config.address)
}

impl Scene {
    pub(super) fn check(&mut self) -> Result<(), TestCaseError> {
        self.note();
        let status = self.status();
        let next = self.node.next_clock();
        for running in &self.node.services {
            let told =
                |error| TestCaseError::fail(format!("service {}: {error}", running.config.name));
            self.floor_holds(running).map_err(told)?;
            self.wakes_in_time(running, next).map_err(told)?;
            for backend in &running.backends {
                let told = |error| {
                    let (service, name) = (&running.config.name, &backend.config.name);
                    TestCaseError::fail(format!("backend {service}/{name}: {error}"))
                };
                self.word_says_the_state(running, backend).map_err(told)?;
                self.has_a_reason(running, backend, &status).map_err(told)?;
                self.is_what_is_wanted(running, backend).map_err(told)?;
            }
        }
        let waits = self.node.services.iter().any(|r| r.governor.wants_test());
        prop_assert!(
            !waits || self.node.wants_test(),
            "a test of the prober is waited for in vain"
        );
        Ok(())
    }

    pub(super) fn status(&self) -> Status {
        let (freezes, watch) = (Freezes::default(), Watch::new(self.clock));
        let names = crate::names::Names::default();
        let about = About {
            revision: 1,
            started: Instant::now(),
            interfaces: &[],
            freezes: &freezes,
            watch: &watch,
            names: &names,
        };
        status(&self.node, &about)
    }

    /// Notes what changed; whatever may be over again is to be noted in between.
    pub(super) fn note(&mut self) {
        let now = self.now;
        let mut phases = HashMap::new();
        let mut enough = HashMap::new();
        let mut windows = HashMap::new();
        for running in &self.node.services {
            let (name, window) = (&running.config.name, running.config.failover.window);
            let known = self.noted.windows.get(name).filter(|known| known.0 == window);
            windows.insert(name.clone(), known.copied().unwrap_or((window, now)));
            for backend in &running.backends {
                let phase = backend.admission.phase();
                let key = key(running, backend);
                let known = self.noted.phases.get(&key).filter(|known| known.0 == phase);
                let known = known.copied().unwrap_or((phase, now));
                phases.insert(key, known);
            }
            let is_asked = running.governor.uses_backups() && !self.is_frozen(running);
            if is_asked && enough_primaries_are_well(running) {
                let name = &running.config.name;
                let since = self.noted.enough.get(name).copied().unwrap_or(now);
                enough.insert(name.clone(), since);
            }
        }
        self.noted = Noted { phases, windows, enough };
    }

    fn is_frozen(&self, running: &Running) -> bool {
        let is_it = |frozen: &Option<u8>| {
            frozen.is_none_or(|number| service_name(number) == running.config.name)
        };
        self.frozen.iter().any(is_it)
    }

    fn words(&self, running: &Running, backend: &Backend) -> Vec<Word> {
        let words = &self.node.arena.maps.words;
        running.tables.rows(backend.index).map(|row| Word(words.get(row).unwrap())).collect()
    }

    fn takes(&self, running: &Running, backend: &Backend) -> bool {
        self.words(running, backend).iter().all(|word| word.serving() && word.admit() > 0)
    }

    fn is_blind(&self, backend: &Backend) -> bool {
        backend.blind_until.is_some_and(|until| self.now < until)
    }

    /// The daemon takes no more out than it may; what the operator took out is not capacity.
    fn floor_holds(&self, running: &Running) -> Result<(), TestCaseError> {
        if self.is_frozen(running) {
            return Ok(());
        }
        let counts = |b: &&Backend| {
            let is_in_use = !b.config.backup || running.governor.uses_backups();
            b.drain.is_none() && !b.is_new && is_in_use
        };
        let counted: Vec<&Backend> = running.backends.iter().filter(counts).collect();
        let is_out = |b: &&&Backend| !self.takes(running, b);
        let fails = |b: &Backend| b.health.state == HealthState::Down && !self.is_blind(b);
        let removed = counted.iter().filter(is_out).filter(|b| fails(b)).count();
        // Those of which nothing is known stay as they are.
        let held = counted.iter().filter(is_out).filter(|b| !fails(b) && b.ruling.is_out).count();
        let most = most(running.config.failover.max_removed, counted.len());
        prop_assert!(
            removed <= most.saturating_sub(held),
            "{removed} of {} are taken out, {held} are out already, and {most} may be",
            counted.len()
        );
        Ok(())
    }

    /// The table of `control/admission.rs`.
    fn word_says_the_state(
        &self,
        running: &Running,
        backend: &Backend,
    ) -> Result<(), TestCaseError> {
        let (phase, since) = self.noted.phases[&key(running, backend)];
        for word in self.words(running, backend) {
            let says = (word.admit(), word.admit_old(), word.serving());
            let expect = match phase {
                Phase::Serving => (Word::FULL, Word::FULL, true),
                Phase::Draining => (0, Word::FULL, true),
                Phase::Drained => (0, 0, true),
                Phase::Returning => (word.admit().max(1), 0, true),
                Phase::Down => (0, 0, false),
            };
            prop_assert_eq!(says, expect, "the word of {:?}", phase);
            prop_assert_eq!(word.server(), backend.server);
            prop_assert!(!word.retired());
            if phase == Phase::Returning && !running.config.slow_start.is_zero() {
                let share = f64::from(word.admit()) / f64::from(Word::FULL);
                let grown = (self.now - since).saturating_sub(STEP);
                let part = grown.as_secs_f64() / running.config.slow_start.as_secs_f64();
                let least = match running.config.slow_start_curve {
                    crate::config::model::Ramp::Linear => part,
                    crate::config::model::Ramp::Exponential => 0.02f64.powf(1.0 - part),
                };
                prop_assert!(share >= least.min(1.0) - 0.001, "ramp: {share}, not {least}");
            }
        }
        Ok(())
    }

    /// Whoever gets nothing new has a reason that is true, and one past its end is warned of.
    fn has_a_reason(
        &self,
        running: &Running,
        backend: &Backend,
        status: &Status,
    ) -> Result<(), TestCaseError> {
        let service = status.services.iter().find(|s| s.name == running.config.name).unwrap();
        let shown = service.backends.iter().find(|b| b.name == backend.config.name).unwrap();
        let takes = self.takes(running, backend);
        prop_assert_eq!(shown.excluded.is_none(), takes, "{:?}", &shown.excluded);
        let (state, drain) = (backend.health.state, &backend.drain);
        if let Some(reason) = &shown.excluded {
            let is_true = match reason.as_str() {
                "in maintenance by somebody" => drain.as_ref().is_some_and(|d| d.maintenance),
                "drained by somebody" => drain.as_ref().is_some_and(|d| !d.maintenance),
                "a backup: enough of the others are well" => {
                    backend.config.backup && !running.governor.uses_backups()
                }
                "its probes have not passed yet" => {
                    state == HealthState::Unknown && backend.health.unprobed.is_none()
                }
                "its probes cannot be made: as the test says" => {
                    state == HealthState::Unknown && backend.health.unprobed.is_some()
                }
                "health is frozen since before it was up" => self.is_frozen(running),
                "its probes fail" => state == HealthState::Down,
                failure => state == HealthState::Down && failure.ends_with("as the test says"),
            };
            prop_assert!(is_true, "out because {reason:?}, and is {state:?}, {drain:?}");
        }
        if let Some(kept) = &shown.kept {
            prop_assert_eq!(state, HealthState::Down, "kept though it does not fail: {}", kept);
        } else if state == HealthState::Down {
            prop_assert!(!takes, "it fails and takes traffic, and nothing says why");
        }
        let names = (service.name.clone(), shown.name.clone());
        let is_over = drain.is_some() && self.ends.get(&names).is_some_and(|end| *end <= self.now);
        let is_unprobed = |w: &Warning| w.kind == Kind::NoProbe && w.subject == service.name;
        let says = status.warnings.iter().any(is_unprobed);
        prop_assert!(says || shown.health.unprobed.is_none(), "not told that it is not probed");
        let subject = format!("{}/{}", service.name, shown.name);
        let warns = |w: &Warning| w.kind == Kind::OverrideExpired && w.subject == subject;
        prop_assert_eq!(status.warnings.iter().any(warns), is_over, "warned that it is over");
        Ok(())
    }

    /// Whoever is well and wanted gets traffic, and whoever the operator took out does not.
    fn is_what_is_wanted(&self, running: &Running, backend: &Backend) -> Result<(), TestCaseError> {
        let takes = self.takes(running, backend);
        let is_standby = backend.config.backup && !running.governor.uses_backups();
        if self.drains.contains_key(&(running.config.name.clone(), backend.config.name.clone())) {
            prop_assert!(!takes, "the operator took it out");
        } else if backend.health.state == HealthState::Up && !self.is_frozen(running) {
            prop_assert_eq!(takes, !is_standby, "up, and in reserve: {}", is_standby);
        }
        Ok(())
    }

    /// Whatever is to happen by itself, the node is woken for.
    fn wakes_in_time(&self, running: &Running, next: Option<Instant>) -> Result<(), TestCaseError> {
        let config = &running.config;
        let by = |due: Instant, what: &str| {
            prop_assert!(
                next.is_some_and(|next| next <= due.max(self.now)),
                "not woken for {what}, due in {:?}: {:?}",
                due.saturating_duration_since(self.now),
                next.map(|next| next.saturating_duration_since(self.now))
            );
            Ok(())
        };
        for backend in &running.backends {
            let (phase, since) = self.noted.phases[&key(running, backend)];
            match phase {
                Phase::Draining => by(since + config.idle_timeout, "the end of a drain")?,
                Phase::Returning => {
                    by(since + config.slow_start + config.idle_timeout, "the end of a return")?;
                    if self.now < since + config.slow_start {
                        by(self.now + STEP, "the next step of a ramp")?;
                    }
                }
                Phase::Serving | Phase::Drained | Phase::Down => {}
            }
            if let Some(until) = backend.blind_until.filter(|until| *until > self.now) {
                by(until, "the end of blindness")?;
            }
            if backend.ruling.kept == Some(Kept::Window) {
                let removed = running.backends.iter().filter_map(|b| b.ruling.removed_at);
                let (window, since) = self.noted.windows[&config.name];
                let within = removed.filter(|at| *at >= since && *at + window > self.now);
                if let Some(first) = within.min() {
                    by(first + window, "the window's next place")?;
                }
            }
        }
        if let Some(since) = self.noted.enough.get(&config.name) {
            by(*since + config.failover.backup_return, "the backups' return")?;
        }
        Ok(())
    }
}

fn enough_primaries_are_well(running: &Running) -> bool {
    let primaries = || running.backends.iter().filter(|b| !b.config.backup);
    let weigh = |b: &Backend| u64::from(b.config.weight);
    let is_well =
        |b: &&Backend| b.drain.is_none() && !b.is_new && b.health.state != HealthState::Down;
    let all: u64 = primaries().map(weigh).sum();
    let well: u64 = primaries().filter(is_well).map(weigh).sum();
    let below = u64::from(running.config.failover.backup_below.get());
    well > 0 && well * 100 >= all * below
}
