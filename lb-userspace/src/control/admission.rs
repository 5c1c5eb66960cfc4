//! What traffic one backend takes, over time: the daemon's half of flow affinity.
//!
//! ```text
//!             drain                  after idle
//!   serving ─────────► draining ───────────────────► drained
//!    ▲   ▲              │                             │
//!    │   └──── ready ───┘                             │ ready
//!    │    after idle                                  ▼
//!    └───────────────────────────────────────── returning ◄── up ── down
//!
//!   from anywhere: hard failure → down, at once
//! ```
//!
//! | phase | `admit` | `admit_old` | serving | settled |
//! | --- | --- | --- | --- | --- |
//! | serving | all | all | yes | yes |
//! | draining | none | all | yes | no |
//! | drained | none | none | yes | yes |
//! | returning | growing to all | none | yes | no |
//! | down | none | none | no | yes |
//!
//! While a backend is unsettled the program records where its flows go. A step that *settles*
//! one, or turns it round, leaves recorded flows that no longer go where their slot says:
//! [`Step::cover`] demands that their slots be marked before the word is written. A hard failure
//! needs no cover: what was recorded elsewhere is where the walk goes now, and what was recorded
//! here is void.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use lb_common::abi::Word;

use crate::config::model::Ramp;

/// The least share of new flows that a backend takes that grows.
const LEAST: u16 = Word::FULL / 50;

/// What the operator and the probes together want of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Take traffic.
    Serve,
    /// Keep what it has, take nothing new.
    Drain,
    /// It is dead: keep nothing.
    Down,
}

/// Where a backend is in the diagram above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Serving,
    Draining,
    Drained,
    Returning,
    Down,
}

/// How long transitions of a service last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// `idle_timeout`.
    pub idle: Duration,
    /// `slow_start`.
    pub slow_start: Duration,
    /// `slow_start_curve`.
    pub ramp: Ramp,
}

/// The levels of a service's backends made relative: the highest counts as full, so that a
/// service whose backends all return takes all its flows.
pub fn relative(levels: &mut [u16]) {
    let top = levels.iter().copied().max().unwrap_or(0);
    if top == 0 || top == Word::FULL {
        return;
    }
    for level in levels {
        let scaled = u32::from(*level) * u32::from(Word::FULL) / u32::from(top);
        *level = u16::try_from(scaled).unwrap_or(Word::FULL);
    }
}

/// One step: the phase changed, and the word must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub from: Phase,
    pub to: Phase,
    /// Slots must be marked before the word is written.
    pub cover: bool,
}

/// A backend's phase and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    phase: Phase,
    since: Instant,
}

impl Admission {
    /// A backend that had no traffic before: settled as wanted.
    #[must_use]
    pub fn new(want: Want, now: Instant) -> Self {
        let phase = match want {
            Want::Serve => Phase::Serving,
            Want::Drain => Phase::Drained,
            Want::Down => Phase::Down,
        };
        Self { phase, since: now }
    }

    /// A backend whose connections may be alive while it takes nothing new.
    #[must_use]
    pub fn draining(now: Instant) -> Self {
        Self { phase: Phase::Draining, since: now }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Goes towards what is wanted, if it is not there or on its way.
    pub fn towards(&mut self, want: Want, now: Instant) -> Option<Step> {
        use Phase::{Down, Drained, Draining, Returning, Serving};
        let to = match (self.phase, want) {
            (Down, Want::Down)
            | (Serving | Returning, Want::Serve)
            | (Draining | Drained, Want::Drain) => return None,
            (_, Want::Down) => Down,
            (Draining, Want::Serve) => Serving,
            (Drained | Down, Want::Serve) => Returning,
            (Serving, Want::Drain) => Draining,
            // What came since it returned is recorded; what did not is elsewhere already.
            (Returning | Down, Want::Drain) => Drained,
        };
        Some(self.enter(to, now))
    }

    /// Settles a transition that has lasted `idle` since its last change: by then every flow that
    /// is still alive has had a packet, and is recorded.
    pub fn settle(&mut self, now: Instant, pace: Pace) -> Option<Step> {
        if now < self.settles_at(pace)? {
            return None;
        }
        let to = match self.phase {
            Phase::Draining => Phase::Drained,
            _ => Phase::Serving,
        };
        Some(self.enter(to, now))
    }

    /// When [`Self::settle`] has something to do.
    #[must_use]
    pub fn settles_at(&self, pace: Pace) -> Option<Instant> {
        match self.phase {
            Phase::Draining => Some(self.since + pace.idle),
            Phase::Returning => Some(self.since + pace.slow_start + pace.idle),
            Phase::Serving | Phase::Drained | Phase::Down => None,
        }
    }

    /// The share of new flows it is due, of [`Word::FULL`]; grows while it returns.
    #[must_use]
    pub fn level(&self, now: Instant, pace: Pace) -> u16 {
        match self.phase {
            Phase::Serving => Word::FULL,
            Phase::Returning if self.is_growing(now, pace) => {
                let grown = now.saturating_duration_since(self.since).as_secs_f64();
                let part = grown / pace.slow_start.as_secs_f64();
                let least = f64::from(LEAST) / f64::from(Word::FULL);
                let share = match pace.ramp {
                    Ramp::Linear => part,
                    Ramp::Exponential => least.powf(1.0 - part),
                };
                // Never none: that would be settled, and its flows unrecorded.
                ((f64::from(Word::FULL) * share) as u16).clamp(LEAST, Word::FULL)
            }
            Phase::Returning => Word::FULL,
            Phase::Draining | Phase::Drained | Phase::Down => 0,
        }
    }

    /// Whether [`Self::level`] still grows.
    #[must_use]
    pub fn is_growing(&self, now: Instant, pace: Pace) -> bool {
        self.phase == Phase::Returning && now < self.since + pace.slow_start
    }

    /// The word of this phase; `level` is the backend's share of new flows where it takes any.
    #[must_use]
    pub fn word(&self, server: u32, generation: u32, level: u16) -> Word {
        let (admit, admit_old) = match self.phase {
            Phase::Serving => (Word::FULL, Word::FULL),
            Phase::Draining => (0, Word::FULL),
            Phase::Returning => (level, 0),
            Phase::Drained | Phase::Down => (0, 0),
        };
        Word::new(admit, admit_old, server, generation, self.phase != Phase::Down, false)
    }

    fn enter(&mut self, to: Phase, now: Instant) -> Step {
        let from = std::mem::replace(&mut self.phase, to);
        self.since = now;
        Step { from, to, cover: from.is_unsettled() && to != Phase::Down }
    }
}

impl Phase {
    /// Whether a backend takes new flows, all of its share or some.
    #[must_use]
    pub fn takes_new(self) -> bool {
        matches!(self, Self::Serving | Self::Returning)
    }

    /// Whether it ends by itself.
    fn is_unsettled(self) -> bool {
        matches!(self, Self::Draining | Self::Returning)
    }
}

/// How many backends of a service are in which phases: each step asks, and to ask them all costs more
/// than the step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Draining or returning.
    pub unsettled: usize,
    /// Not serving, or not fully.
    pub away: usize,
}

impl Census {
    #[must_use]
    pub fn of(phases: impl Iterator<Item = Phase>) -> Self {
        phases.fold(Self::default(), |census, phase| census.with(phase))
    }

    /// One of the backends took a step.
    pub fn note(&mut self, step: &Step) {
        let (from, to) = (Self::default().with(step.from), self.with(step.to));
        self.unsettled = to.unsettled.saturating_sub(from.unsettled);
        self.away = to.away.saturating_sub(from.away);
    }

    fn with(self, phase: Phase) -> Self {
        Self {
            unsettled: self.unsettled + usize::from(phase.is_unsettled()),
            away: self.away + usize::from(phase != Phase::Serving),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACE: Pace =
        Pace { idle: Duration::from_secs(60), slow_start: Duration::ZERO, ramp: Ramp::Linear };
    const SLOW: Pace = Pace { slow_start: Duration::from_secs(100), ..PACE };

    /// One event at a second: what is wanted, or the clock alone.
    type Event = (u64, Option<Want>);

    fn check(first: Want, events: &[Event], expect: &[(u64, Phase, bool)]) {
        let start = Instant::now();
        let mut admission = Admission::new(first, start);
        let mut seen = Vec::new();
        for &(at, want) in events {
            let now = start + Duration::from_secs(at);
            let step = match want {
                Some(want) => admission.towards(want, now),
                None => admission.settle(now, PACE),
            };
            seen.extend(step.map(|step| (at, step.to, step.cover)));
        }
        assert_eq!(seen, expect, "{events:?}");
    }

    #[test]
    fn phases_follow_events() {
        use Phase::{Down, Drained, Draining, Returning, Serving};
        use Want::{Down as Fail, Drain, Serve};
        check(Serve, &[(1, Some(Serve)), (99, None)], &[]);
        check(
            Serve,
            &[(1, Some(Drain)), (2, Some(Drain)), (60, None), (61, None), (62, None)],
            &[(1, Draining, false), (61, Drained, true)],
        );
        check(
            Serve,
            &[(1, Some(Drain)), (5, Some(Serve))],
            &[(1, Draining, false), (5, Serving, true)],
        );
        check(
            Serve,
            &[(1, Some(Fail)), (9, Some(Serve)), (68, None), (69, None)],
            &[(1, Down, false), (9, Returning, false), (69, Serving, true)],
        );
        check(
            Serve,
            &[(1, Some(Fail)), (2, Some(Serve)), (3, Some(Fail)), (4, Some(Serve))],
            &[(1, Down, false), (2, Returning, false), (3, Down, false), (4, Returning, false)],
        );
        check(
            Drain,
            &[(1, Some(Serve)), (2, Some(Drain)), (3, Some(Fail)), (4, Some(Drain))],
            &[(1, Returning, false), (2, Drained, true), (3, Down, false), (4, Drained, false)],
        );
        check(
            Fail,
            &[(1, Some(Serve)), (2, Some(Fail))],
            &[(1, Returning, false), (2, Down, false)],
        );
    }

    #[test]
    fn a_slow_start_grows_to_full_and_settles_after() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut admission = Admission::new(Want::Down, start);
        assert_eq!(admission.level(start, SLOW), 0);
        admission.towards(Want::Serve, start);
        let share = |seconds| f64::from(admission.level(at(seconds), SLOW)) / 65_535.0;
        for (seconds, expect) in
            [(0, 0.02), (1, 0.02), (10, 0.1), (50, 0.5), (99, 0.99), (100, 1.0)]
        {
            assert!((share(seconds) - expect).abs() < 0.001, "{seconds}: {}", share(seconds));
        }
        let fast = Pace { ramp: Ramp::Exponential, ..SLOW };
        for (seconds, expect) in [(0, 0.02), (25, 0.053), (50, 0.141), (75, 0.376), (100, 1.0)] {
            let share = f64::from(admission.level(at(seconds), fast)) / 65_535.0;
            assert!((share - expect).abs() < 0.001, "{seconds}: {share}");
        }
        assert!(admission.is_growing(at(99), SLOW) && !admission.is_growing(at(100), SLOW));
        assert!(!admission.word(1, 1, admission.level(start, SLOW)).settled());
        assert_eq!(admission.settles_at(SLOW), Some(at(160)));
    }

    #[test]
    fn the_highest_level_counts_as_full() {
        for (mut levels, expect) in [
            (vec![1000, 500, 0], vec![65_535, 32_767, 0]),
            (vec![65_535, 500], vec![65_535, 500]),
            (vec![0, 0], vec![0, 0]),
            (vec![], vec![]),
        ] {
            relative(&mut levels);
            assert_eq!(levels, expect);
        }
    }

    proptest! {
        /// A store that leaves `admit` below full leaves the backend unsettled, or settled away.
        #[test]
        fn words_obey_the_rules(events in prop::collection::vec((0u64..90, 0u8..4), 0..60)) {
            let mut now = Instant::now();
            let mut admission = Admission::new(Want::Serve, now);
            for (wait, event) in events {
                now += Duration::from_secs(wait);
                let step = match event {
                    0 => admission.towards(Want::Serve, now),
                    1 => admission.towards(Want::Drain, now),
                    2 => admission.towards(Want::Down, now),
                    _ => admission.settle(now, PACE),
                };
                let word = admission.word(3, 4, Word::FULL);
                prop_assert!(word.admit() == Word::FULL || !word.settled() || word.admit() == 0);
                prop_assert_eq!(word.serving(), admission.phase() != Phase::Down);
                prop_assert_eq!(admission.settles_at(PACE).is_some(), !word.settled());
                // What was unsettled and now is not is covered, unless it is dead.
                if let Some(step) = step {
                    let was = Admission { phase: step.from, since: now }.word(3, 4, Word::FULL);
                    let ends = !was.settled() && (word.settled() || step.cover);
                    prop_assert_eq!(step.cover, ends && word.serving());
                }
                // A step is done once.
                let mut again = admission;
                prop_assert!(step.is_none() || again.settle(now, PACE).is_none());
            }
        }
    }
}
