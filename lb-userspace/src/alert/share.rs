//! Whether the backends of a service get the new flows that their parts of the table promise.
//!
//! Each new flow goes to a backend with the probability of that backend's share of the slots, so
//! what it gets of `n` flows is binomial. Far off is what chance does not do, and what matters:
//! more than [`SIGMAS`] standard deviations and more than [`RELATIVE`] of the expected share.
//!
//! The window slides by halves, and begins anew whenever what is expected changes.
//!
//! Pure: time and counters are arguments.

use std::time::{Duration, Instant};

/// Flows that a window needs before it says anything.
const ENOUGH: u64 = 1_000;
const SIGMAS: f64 = 4.0;
const RELATIVE: f64 = 0.2;
/// Half a window lasts at least so long, and at most so long if there are few flows.
const SHORTEST: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(300);

/// A backend of a service that is not in transition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Names it for as long as it lives.
    pub key: u64,
    /// Its share of the slots of those that take new flows now; zero if it takes none.
    pub expected: f64,
    /// New flows since it is there.
    pub new_flows: u64,
}

/// The window of one service.
#[derive(Clone, Debug)]
pub struct Window {
    members: Vec<Watched>,
    began: Instant,
    middle: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    key: u64,
    expected: f64,
    at_begin: u64,
    at_middle: u64,
    off: Option<Off>,
}

/// A share far off what is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Off {
    /// 0 to 1.
    pub share: f64,
    pub expected: f64,
    /// Flows of the service in the window.
    pub flows: u64,
    pub since: Instant,
}

impl Window {
    /// A window that begins after `rest`, when what changed has settled.
    #[must_use]
    pub fn new(members: &[Member], now: Instant, rest: Duration) -> Self {
        let watched = |m: &Member| Watched {
            key: m.key,
            expected: m.expected,
            at_begin: m.new_flows,
            at_middle: m.new_flows,
            off: None,
        };
        let began = now + rest;
        Self { members: members.iter().map(watched).collect(), began, middle: began }
    }

    /// Whether it is about these members, with these shares.
    #[must_use]
    pub fn is_of(&self, members: &[Member]) -> bool {
        let same = |(a, b): (&Watched, &Member)| a.key == b.key && a.expected == b.expected;
        self.members.len() == members.len() && self.members.iter().zip(members).all(same)
    }

    /// Takes the counters, of the members that it is of.
    pub fn take(&mut self, members: &[Member], now: Instant) {
        if now <= self.began {
            // It has not begun: the counters are where it will begin.
            for (watched, member) in self.members.iter_mut().zip(members) {
                (watched.at_begin, watched.at_middle) = (member.new_flows, member.new_flows);
            }
            return;
        }
        let since = |from: fn(&Watched) -> u64, watched: &Watched, member: &Member| {
            member.new_flows.saturating_sub(from(watched))
        };
        let pairs = || self.members.iter().zip(members);
        let total: u64 = pairs().map(|(w, m)| since(|w| w.at_begin, w, m)).sum();
        let recent: u64 = pairs().map(|(w, m)| since(|w| w.at_middle, w, m)).sum();
        for (watched, member) in self.members.iter_mut().zip(members) {
            let own = since(|w| w.at_begin, watched, member);
            if total >= ENOUGH {
                watched.judge(own, total, now);
            }
        }
        let half = now.saturating_duration_since(self.middle);
        if (half >= SHORTEST && recent >= ENOUGH / 2) || half >= LONGEST {
            self.began = self.middle;
            self.middle = now;
            for (watched, member) in self.members.iter_mut().zip(members) {
                watched.at_begin = watched.at_middle;
                watched.at_middle = member.new_flows;
                // What so few flows can't confirm is no longer said.
                watched.off = watched.off.filter(|_| total >= ENOUGH);
            }
        }
    }

    /// Whether a member is far off, by its place among them.
    #[must_use]
    pub fn off(&self, at: usize) -> Option<Off> {
        self.members.get(at)?.off
    }
}

impl Watched {
    fn judge(&mut self, own: u64, total: u64, now: Instant) {
        let (n, p) = (total as f64, self.expected);
        let distance = (own as f64 - n * p).abs();
        let sigma = (n * p * (1.0 - p)).sqrt();
        let is_off = p > 0.0 && distance > SIGMAS * sigma && distance > RELATIVE * n * p;
        let since = self.off.map_or(now, |off| off.since);
        self.off = is_off.then(|| Off { share: own as f64 / n, expected: p, flows: total, since });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: [f64; 4] = [0.25; 4];

    fn members(expected: [f64; 4], flows: [u64; 4]) -> [Member; 4] {
        [0, 1, 2, 3].map(|at| Member {
            key: at as u64,
            expected: expected[at],
            new_flows: flows[at],
        })
    }

    /// So many seconds of so many flows each; which are off in the end.
    fn off_after(expected: [f64; 4], steps: &[(u64, [u64; 4])]) -> Vec<usize> {
        let begin = Instant::now();
        let mut flows = [7; 4];
        let mut window = Window::new(&members(expected, flows), begin, Duration::ZERO);
        let mut now = begin;
        for (seconds, each) in steps {
            for _ in 0..*seconds {
                now += Duration::from_secs(1);
                (0..4).for_each(|at| flows[at] += each[at]);
                assert!(window.is_of(&members(expected, flows)));
                window.take(&members(expected, flows), now);
            }
        }
        (0..4).filter(|at| window.off(*at).is_some()).collect()
    }

    #[test]
    fn far_off_is_what_chance_does_not_do() {
        for (what, steps, off) in [
            ("no flows", &[(600, [0; 4])][..], &[][..]),
            ("as it should be", &[(600, [25, 25, 25, 25])], &[]),
            ("too few flows to tell", &[(9, [100, 0, 0, 0])], &[]),
            ("enough", &[(11, [100, 0, 0, 0])], &[0, 1, 2, 3]),
            ("off by less than a fifth", &[(600, [29, 24, 23, 24])], &[]),
            ("one too many", &[(60, [40, 20, 20, 20])], &[0]),
            ("one that gets none", &[(60, [34, 0, 33, 33])], &[0, 1, 2, 3]),
            ("over", &[(60, [40, 20, 20, 20]), (90, [25; 4])], &[]),
            ("over, as there are no flows", &[(60, [40, 20, 20, 20]), (900, [0; 4])], &[]),
            ("few flows, for long", &[(1200, [1, 1, 0, 1])], &[0, 1, 2, 3]),
        ] {
            assert_eq!(off_after(EQUAL, steps), off, "{what}");
        }
        // One that takes nothing is not judged; neither is a rare one by what chance does.
        assert_eq!(off_after([0.5, 0.5, 0.0, 0.0], &[(60, [50, 50, 1, 0])]), [0; 0]);
        assert_eq!(off_after([0.333, 0.333, 0.333, 0.001], &[(11, [34, 33, 33, 0])]), [0; 0]);
    }

    #[test]
    fn chance_alone_is_never_off() {
        // A small generator of our own: the test is the same each time it runs.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut flows = [0u64; 4];
        let begin = Instant::now();
        let mut window = Window::new(&members(EQUAL, flows), begin, Duration::ZERO);
        for second in 1..=2_000 {
            for _ in 0..200 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                flows[(state >> 62) as usize] += 1;
            }
            window.take(&members(EQUAL, flows), begin + Duration::from_secs(second));
            assert!((0..4).all(|at| window.off(at).is_none()), "after {second} s: {flows:?}");
        }
    }

    #[test]
    fn what_is_in_transition_is_not_counted() {
        let begin = Instant::now();
        let mut window = Window::new(&members(EQUAL, [0; 4]), begin, Duration::from_secs(300));
        window.take(&members(EQUAL, [9_000, 0, 0, 0]), begin + Duration::from_secs(299));
        window.take(&members(EQUAL, [10_000, 900, 900, 900]), begin + Duration::from_secs(400));
        assert!((0..4).all(|at| window.off(at).is_none()), "counted from its beginning");
        assert!(!window.is_of(&members([0.5, 0.5, 0.0, 0.0], [0; 4])));
        assert!(!window.is_of(&members(EQUAL, [0; 4])[..3]));
    }
}
