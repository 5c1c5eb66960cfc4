//! How long a backend's successful probes usually take, and whether they take far longer now.
//!
//! The usual is an exponentially weighted mean with its mean deviation. It forgets by time, not by
//! number of probes, so that it means the same at every interval. What is far off counts as no
//! more than twice the usual: an hour of slowness moves the usual little, while a server that stays
//! slower becomes the usual one within hours.
//!
//! Pure: time is an argument.

use std::time::{Duration, Instant};

/// Half of what was usual is forgotten after some 40 minutes.
const MEMORY: Duration = Duration::from_secs(3600);
/// Fewer successes tell nothing of what is usual.
const ENOUGH: u16 = 30;
/// As many of the last successes as one lost packet or one pause of a garbage collector can't move.
const RECENT: usize = 5;
/// Far off: so many times the usual…
const TIMES: f32 = 5.0;
/// …by so much, in milliseconds: below nobody feels it…
const MORE_MS: f32 = 10.0;
/// …and by so many deviations, for servers whose answers vary.
const DEVIATIONS: f32 = 4.0;

/// What is known of one backend; small, as there may be a million of them.
#[derive(Clone, Debug)]
pub struct Usual {
    mean_ms: f32,
    deviation_ms: f32,
    count: u16,
    recent_ms: [f32; RECENT],
    last: Instant,
    off_since: Option<Instant>,
}

/// A latency far off its usual.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Off {
    pub recent_ms: f64,
    pub usual_ms: f64,
    pub since: Instant,
}

impl Usual {
    /// Begins with a first success.
    #[must_use]
    pub fn new(latency: Duration, now: Instant) -> Self {
        let ms = latency.as_secs_f32() * 1000.0;
        let (mean_ms, recent_ms) = (ms, [ms; RECENT]);
        Self { mean_ms, deviation_ms: 0.0, count: 1, recent_ms, last: now, off_since: None }
    }

    /// Takes the latency of a success.
    pub fn add(&mut self, latency: Duration, now: Instant) {
        let ms = latency.as_secs_f32() * 1000.0;
        self.recent_ms.rotate_left(1);
        self.recent_ms[RECENT - 1] = ms;
        self.count = self.count.saturating_add(1);
        if self.is_off() {
            self.off_since.get_or_insert(now);
        } else {
            self.off_since = None;
        }
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        let forgets = 1.0 - (-passed.as_secs_f32() / MEMORY.as_secs_f32()).exp();
        let learning = self.count <= ENOUGH;
        // At first each counts as much as any other.
        let weight = if learning { 1.0 / f32::from(self.count) } else { forgets };
        let counted = if learning { ms } else { ms.min(2.0 * self.mean_ms.max(1.0)) };
        let distance = (counted - self.mean_ms).abs();
        self.mean_ms += weight * (counted - self.mean_ms);
        self.deviation_ms += weight * (distance - self.deviation_ms);
    }

    /// Whether it is far off now, and since when.
    #[must_use]
    pub fn off(&self) -> Option<Off> {
        let since = self.off_since?;
        let (recent_ms, usual_ms) = (f64::from(self.median()), f64::from(self.mean_ms));
        Some(Off { recent_ms, usual_ms, since })
    }

    fn is_off(&self) -> bool {
        let (recent, usual) = (self.median(), self.mean_ms);
        self.count > ENOUGH
            && recent > TIMES * usual
            && recent > usual + MORE_MS.max(DEVIATIONS * self.deviation_ms)
    }

    fn median(&self) -> f32 {
        let mut sorted = self.recent_ms;
        sorted.sort_by(f32::total_cmp);
        sorted[RECENT / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probes once a second: how long, and of what latency in milliseconds.
    fn after(steps: &[(u64, f32)]) -> (Usual, Instant) {
        let begin = Instant::now();
        let ms = |ms: f32| Duration::from_secs_f32(ms / 1000.0);
        let mut usual = Usual::new(ms(steps[0].1), begin);
        let mut now = begin;
        for (seconds, latency) in steps {
            for _ in 0..*seconds {
                now += Duration::from_secs(1);
                usual.add(ms(*latency), now);
            }
        }
        (usual, now)
    }

    #[test]
    fn far_off_its_usual_is_told_and_ends() {
        for (what, steps, off) in [
            ("too little is known", &[(10, 1.0), (10, 100.0)][..], false),
            ("one slow answer", &[(100, 2.0), (1, 500.0), (2, 2.0)], false),
            ("two slow answers", &[(100, 2.0), (2, 500.0)], false),
            ("three of five", &[(100, 2.0), (3, 500.0)], true),
            ("not by five times", &[(100, 20.0), (10, 90.0)], false),
            ("by five times, but nobody feels it", &[(100, 0.2), (10, 9.0)], false),
            ("by ten milliseconds and more", &[(100, 0.2), (10, 11.0)], true),
            ("over", &[(100, 2.0), (60, 500.0), (3, 2.0)], false),
            ("an hour of slowness is no habit", &[(100, 2.0), (1800, 500.0)], true),
            ("a day of it is", &[(100, 2.0), (86_400, 500.0)], false),
            ("and the old latency is fine again", &[(9, 2.0), (86_400, 500.0), (9, 2.0)], false),
        ] {
            assert_eq!(after(steps).0.off().is_some(), off, "{what}");
        }
    }

    #[test]
    fn it_says_since_when_and_how_far() {
        let (usual, now) = after(&[(100, 2.0), (33, 80.0)]);
        let off = usual.off().unwrap();
        assert_eq!(now - off.since, Duration::from_secs(30), "from the third slow answer on");
        assert!((off.recent_ms - 80.0).abs() < 0.1 && (off.usual_ms - 2.0).abs() < 0.2, "{off:?}");
    }

    #[test]
    fn a_server_that_always_varies_is_not_off() {
        let mut steps = Vec::new();
        for _ in 0..40 {
            steps.extend([(8, 2.0), (4, 60.0)]);
        }
        assert!(after(&steps).0.off().is_none());
    }
}
