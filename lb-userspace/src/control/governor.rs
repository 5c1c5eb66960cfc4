//! Which failing backends are taken out of a service, and which are kept though they fail.
//!
//! A health check must never be the outage. Of the backends that count (ready, and once found up)
//! at most `max_removed` are out at once, and only so many within a window. Where more fail than
//! may be out, the service *panics*: those that answer at all serve again, and of those that do
//! not answer only as many stay out as may. A standby that is a backup serves while too little of
//! the rest is well.
//!
//! Where most fail at once, the prober is suspected first: nothing is taken out before its test of
//! itself has passed. Nor is a backend that cannot be judged, as our own link to it is down.
//!
//! Pure: time is an argument.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::health::HealthState;
use crate::config::model::Percent;

#[cfg(test)]
mod tests;

/// What of a service's configuration the governor needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_removed`.
    pub total: Percent,
    /// `max_removed_in_window`.
    pub in_window: Percent,
    /// `removal_window`.
    pub window: Duration,
    /// `backup_below`.
    pub backup_below: Percent,
    /// `backup_return`.
    pub backup_return: Duration,
}

/// One backend, as the governor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub state: HealthState,
    /// Nothing usable answers at all; else the application answers and says no.
    pub is_hard: bool,
    /// Its latest probe failed, whether or not that has decided anything.
    pub is_suspect: bool,
    /// Our own link to it is, or just was, down.
    pub is_blind: bool,
    /// The operator has not taken it out.
    pub is_ready: bool,
    /// Was never found up since it came: no capacity yet.
    pub is_new: bool,
    pub is_backup: bool,
    pub weight: u16,
    /// Start of the first failing probe of its streak.
    pub failing_since: Option<Instant>,
    /// What was ruled last.
    pub ruling: Ruling,
}

/// What becomes of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// Out because its probes fail, or did not pass yet.
    pub is_out: bool,
    /// A backup that is not needed.
    pub is_standby: bool,
    /// Why it is not out though it is down.
    pub kept: Option<Kept>,
    /// When it was last taken out, because it fails.
    pub removed_at: Option<Instant>,
}

/// Why a failing backend is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// More fail than may be out.
    Panic,
    /// So many begin to fail at once that more would soon be out than may.
    Suspected,
    /// Most fail at once, and the prober has not passed its test of itself.
    Untested,
    /// As many as may within the window have just been taken out.
    Window,
    /// An operator has frozen health.
    Frozen,
    /// Our own link to it is, or just was, down.
    Uplink,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "more fail than may be out (panic)",
            Self::Suspected => "so many begin to fail at once that it may be the probe",
            Self::Untested => "most fail at once, and the prober's test of itself has not passed",
            Self::Window => "as many as may within the window have just been taken out",
            Self::Frozen => "health is frozen",
            Self::Uplink => "our own link to it is, or just was, down",
        })
    }
}

/// What the daemon knows beside the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// An operator keeps all as it is.
    pub is_frozen: bool,
    /// When the prober last passed its test of itself.
    pub tested_at: Option<Instant>,
}

/// How long a passed test of the prober counts.
pub const TEST_COUNTS: Duration = Duration::from_secs(1);

/// The governor of one service.
#[derive(Clone, Debug)]
pub struct Governor {
    limits: Limits,
    /// When backends were last taken out, within the window; each once.
    removals: VecDeque<Instant>,
    panic: Option<Instant>,
    backups: Backups,
    counts: Counts,
    wants_test: bool,
    /// Nothing is special: a backend that changes affects no other.
    is_simple: bool,
}

/// How many backends count, and how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub counted: usize,
    /// Down, and not because we cannot see.
    pub failing: usize,
    /// Those, and those whose latest probe failed.
    pub suspects: usize,
    /// Out, failing or not yet known.
    pub out: usize,
    /// How many may be out.
    pub most: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Backups {
    are_used: bool,
    /// Since when enough primaries are well.
    enough_since: Option<Instant>,
}

impl Governor {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            removals: VecDeque::new(),
            panic: None,
            backups: Backups::default(),
            counts: Counts::default(),
            wants_test: false,
            is_simple: false,
        }
    }

    /// Takes other limits; the next ruling is by them.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.is_simple = false;
    }

    /// Rules on all backends of the service.
    pub fn rule(&mut self, seen: &[Seen], around: Circumstances, now: Instant) -> Vec<Ruling> {
        if around.is_frozen {
            self.is_simple = false;
            self.wants_test = false;
            // How long enough have been well is counted from the thaw on.
            self.backups.enough_since = None;
            let out = seen.iter().filter(|s| self.counts(s) && s.ruling.is_out).count();
            self.counts = Counts { out, ..self.count(seen) };
            self.note_panic(self.counts, now);
            return seen.iter().map(|s| self.frozen(s)).collect();
        }
        self.use_backups(seen, now);
        self.forget_removals(now);
        let counts = self.count(seen);
        let is_panic = self.note_panic(counts, now);
        let is_mass = is_mass(counts);
        let is_tested = around.tested_at.is_some_and(|at| now < at + TEST_COUNTS);
        let mut rulings: Vec<Ruling> = seen.iter().map(|s| self.plainly(s)).collect();
        // Those that count and cannot be ruled on hold what they hold.
        let held = |(s, r): (&Seen, &Ruling)| self.counts(s) && !is_failing(s) && r.is_out;
        let mut left =
            counts.most.saturating_sub(seen.iter().zip(&rulings).filter(|h| held(*h)).count());
        let mut failing: Vec<usize> = (0..seen.len())
            .filter(|at| self.counts(&seen[*at]) && is_failing(&seen[*at]))
            .collect();
        // The deadest first, then whoever is out, then backups, then in order of failure.
        failing.sort_by_key(|at| {
            let s = &seen[*at];
            (!s.is_hard, !s.ruling.is_out, !s.is_backup, s.failing_since)
        });
        self.wants_test = false;
        for at in failing {
            let s = &seen[at];
            let kept = if left == 0 || (is_panic && !s.is_hard) {
                Some(Kept::Panic)
            } else if s.ruling.is_out {
                None
            } else if !s.is_hard && counts.suspects > counts.most {
                Some(Kept::Suspected)
            } else if is_mass && !is_tested {
                self.wants_test = true;
                Some(Kept::Untested)
            } else if !self.may_remove(s, counts) {
                Some(Kept::Window)
            } else {
                rulings[at].removed_at = Some(now);
                self.remove(s, now);
                None
            };
            left -= usize::from(kept.is_none());
            rulings[at].is_out = kept.is_none();
            rulings[at].kept = kept;
        }
        let out = (0..seen.len()).filter(|at| self.counts(&seen[*at]) && rulings[*at].is_out);
        self.counts = Counts { out: out.count(), ..counts };
        let is_plain = |s: &Seen| !s.is_backup && !s.is_blind;
        self.is_simple = !is_panic
            && !is_mass
            && seen.iter().all(is_plain)
            && rulings.iter().all(|r| r.kept.is_none());
        rulings
    }

    /// Rules on one backend that changed, where that affects no other; `None` where it may:
    /// then [`Self::rule`] on all. What is ruled is the same.
    pub fn rule_on(&mut self, before: &Seen, after: &Seen, now: Instant) -> Option<Ruling> {
        let same_role = before.is_ready == after.is_ready
            && before.is_new == after.is_new
            && before.weight == after.weight;
        if !self.is_simple || !same_role || after.is_blind || before.is_backup != after.is_backup {
            return None;
        }
        let mut ruling = self.plainly(after);
        if !self.counts(after) {
            return Some(ruling);
        }
        let mut counts = self.counts;
        let change =
            |count: usize, from: bool, to: bool| count + usize::from(to) - usize::from(from);
        counts.failing = change(counts.failing, is_failing(before), is_failing(after));
        counts.suspects = change(counts.suspects, is_suspect(before), is_suspect(after));
        let was_out = after.ruling.is_out;
        if is_failing(after) && !was_out {
            self.forget_removals(now);
            if !self.may_remove(after, counts) {
                return None;
            }
        }
        ruling.is_out |= is_failing(after);
        counts.out = change(counts.out, was_out, ruling.is_out);
        let is_simple = counts.failing <= counts.most
            && counts.out <= counts.most
            && !is_mass(counts)
            && (counts.suspects <= counts.most || after.is_hard);
        if !is_simple {
            return None;
        }
        if ruling.is_out && !was_out {
            ruling.removed_at = Some(now);
            self.remove(after, now);
        }
        self.counts = counts;
        Some(ruling)
    }

    /// Whether more fail than may be out.
    fn note_panic(&mut self, counts: Counts, now: Instant) -> bool {
        let is_panic = counts.failing > counts.most;
        self.panic = is_panic.then(|| self.panic.unwrap_or(now));
        is_panic
    }

    /// How many backends count, as of the last ruling.
    #[must_use]
    pub fn last_counts(&self) -> Counts {
        self.counts
    }

    /// Since when more fail than may be out.
    #[must_use]
    pub fn panic_since(&self) -> Option<Instant> {
        self.panic
    }

    /// Whether backups serve.
    #[must_use]
    pub fn uses_backups(&self) -> bool {
        self.backups.are_used
    }

    /// When backups that serve go into reserve, as enough of the others are well.
    #[must_use]
    pub fn backups_rest_at(&self) -> Option<Instant> {
        self.backups.enough_since.map(|since| since + self.limits.backup_return)
    }

    /// Whether a test of the prober would let it decide.
    #[must_use]
    pub fn wants_test(&self) -> bool {
        self.wants_test
    }

    /// When to rule again though nothing has changed.
    #[must_use]
    pub fn next(&self, rulings: impl Iterator<Item = Ruling>) -> Option<Instant> {
        let waits = rulings.into_iter().any(|r| r.kept == Some(Kept::Window));
        let window = self.removals.front().filter(|_| waits).map(|at| *at + self.limits.window);
        window.into_iter().chain(self.backups_rest_at()).min()
    }

    /// Whether a backend is capacity of the service: ready, known, and not a backup in reserve.
    fn counts(&self, seen: &Seen) -> bool {
        seen.is_ready && !seen.is_new && (!seen.is_backup || self.backups.are_used)
    }

    /// The ruling on one that is not failing, or does not count.
    fn plainly(&self, seen: &Seen) -> Ruling {
        let was = seen.ruling.is_out;
        let is_out = match seen.state {
            HealthState::Up => false,
            HealthState::Unknown => was,
            HealthState::Down if seen.is_blind => was,
            // Nobody needs it to serve.
            HealthState::Down => true,
        };
        let sees_not = seen.state == HealthState::Down && seen.is_blind && !is_out;
        Ruling {
            is_out,
            is_standby: seen.is_backup && !self.backups.are_used,
            removed_at: seen.ruling.removed_at,
            kept: sees_not.then_some(Kept::Uplink),
        }
    }

    /// All stays as it is; who is a backup is the operator's to say.
    fn frozen(&self, seen: &Seen) -> Ruling {
        let is_kept = seen.state == HealthState::Down && !seen.ruling.is_out;
        let is_standby = seen.is_backup && !self.backups.are_used;
        Ruling { kept: is_kept.then_some(Kept::Frozen), is_standby, ..seen.ruling }
    }

    fn count(&self, seen: &[Seen]) -> Counts {
        let counted = || seen.iter().filter(|s| self.counts(s));
        Counts {
            counted: counted().count(),
            failing: counted().filter(|s| is_failing(s)).count(),
            suspects: counted().filter(|s| is_suspect(s)).count(),
            out: 0,
            most: most(self.limits.total, counted().count()),
        }
    }

    fn most_in_window(&self, counts: Counts) -> usize {
        most(self.limits.in_window, counts.counted)
    }

    /// Whether the window has room for it. One that falls again within the window has its place there.
    fn may_remove(&self, seen: &Seen, counts: Counts) -> bool {
        self.removals.len() < self.most_in_window(counts) || self.place(seen).is_some()
    }

    fn remove(&mut self, seen: &Seen, now: Instant) {
        if let Some(place) = self.place(seen) {
            self.removals.remove(place);
        }
        self.removals.push_back(now);
    }

    /// Where its last removal is among those within the window.
    fn place(&self, seen: &Seen) -> Option<usize> {
        self.removals.iter().position(|at| Some(*at) == seen.ruling.removed_at)
    }

    fn forget_removals(&mut self, now: Instant) {
        while self.removals.front().is_some_and(|at| now >= *at + self.limits.window) {
            self.removals.pop_front();
        }
    }

    /// Backups serve from when too little of the primaries' weight is well, until enough of it has
    /// been well for a while.
    fn use_backups(&mut self, seen: &[Seen], now: Instant) {
        let primaries = || seen.iter().filter(|s| !s.is_backup);
        let weigh = |s: &Seen| u64::from(s.weight);
        let all: u64 = primaries().map(weigh).sum();
        let is_well = |s: &&Seen| s.is_ready && !s.is_new && s.state != HealthState::Down;
        let well: u64 = primaries().filter(is_well).map(weigh).sum();
        let is_enough = well * 100 >= all * u64::from(self.limits.backup_below.get()) && well > 0;
        let backups = &mut self.backups;
        if !seen.iter().any(|s| s.is_backup) {
            *backups = Backups::default();
        } else if !is_enough {
            *backups = Backups { are_used: true, enough_since: None };
        } else if backups.are_used {
            let since = *backups.enough_since.get_or_insert(now);
            if now >= since + self.limits.backup_return {
                *backups = Backups::default();
            }
        }
    }
}

/// How many of `counted` backends may be out: rounded up, as half of three is two, but never all of
/// them unless all may be.
#[must_use]
pub fn most(share: Percent, counted: usize) -> usize {
    let share = usize::from(share.get());
    if share >= 100 {
        counted
    } else {
        (counted * share).div_ceil(100).min(counted.saturating_sub(1))
    }
}

fn is_failing(seen: &Seen) -> bool {
    seen.state == HealthState::Down && !seen.is_blind
}

fn is_suspect(seen: &Seen) -> bool {
    is_failing(seen) || (seen.is_suspect && !seen.is_blind)
}

/// Whether most fail at once: then it may be the prober.
fn is_mass(counts: Counts) -> bool {
    counts.suspects >= 2 && counts.suspects * 2 > counts.counted
}
