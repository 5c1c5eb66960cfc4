//! Token buckets: how often something may happen, in the long run and at once.
//!
//! A bucket is one aligned 8-byte word, so that processors which share one may lose a count to
//! each other but never tear it. Time is in milliseconds that wrap after 49 days; what looks like
//! the near future is another processor's slightly later clock and refills nothing.

use crate::abi::{Bucket, Limit, Settings};

/// Thousandths of a token: so a rate per second is exact in milliseconds.
const TOKEN: u32 = 1000;

/// Milliseconds that another processor's clock may be ahead.
const SKEW: u32 = 1000;

/// Resets that a processor makes in a second. Each answers one packet and is no longer than it, and
/// only packets of known connections are answered: this bounds a flood of one of them.
const RESETS: u32 = 10_000;

/// So many per second, and at most so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// After a pause.
    pub burst: u32,
}

impl Rate {
    /// What one processor may do of this, by the node's settings.
    ///
    /// The burst is a tenth of a second's worth: long enough that the tokens of a tick of the
    /// clock that XDP programs read (up to 10 ms) fit several times over, and a wave of packets
    /// that arrives at once is not refused by a rate it keeps; short enough to bound what one
    /// moment can cost. Low rates get 64, a batch of a driver.
    #[inline(always)]
    #[must_use]
    pub const fn of(settings: &Settings, limit: Limit) -> Self {
        let per_second = match limit {
            Limit::FlowInsert => settings.flow_inserts,
            Limit::Icmp => settings.icmp_rate,
            Limit::Reset => RESETS,
        };
        let tenth = per_second / 10;
        Self { per_second, burst: if tenth < 64 { 64 } else { tenth } }
    }

    /// A bucket that has all it can hold.
    #[inline(always)]
    #[must_use]
    pub const fn full(self, now_ms: u32) -> Bucket {
        Bucket { millitokens: self.burst.saturating_mul(TOKEN), at_ms: now_ms }
    }

    /// Refills a bucket and takes a token: the bucket from now on, and whether there was one.
    #[inline(always)]
    #[must_use]
    pub const fn take(self, bucket: Bucket, now_ms: u32) -> (Bucket, bool) {
        let passed = now_ms.wrapping_sub(bucket.at_ms);
        let passed = if passed > u32::MAX - SKEW { 0 } else { passed };
        let most = self.burst.saturating_mul(TOKEN) as u64;
        let refilled = bucket.millitokens as u64 + passed as u64 * self.per_second as u64;
        let filled = if refilled > most { most as u32 } else { refilled as u32 };
        // A clock that is behind must not make the next refill count the same time twice.
        let at_ms = bucket.at_ms.wrapping_add(passed);
        if filled < TOKEN {
            return (Bucket { millitokens: filled, at_ms }, false);
        }
        (Bucket { millitokens: filled - TOKEN, at_ms }, true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of these moments get a token, from a full bucket on.
    fn taken(rate: Rate, moments: impl Iterator<Item = u32>, start: u32) -> u32 {
        let mut bucket = rate.full(start);
        moments.fold(0, |taken, now| {
            let (after, got) = rate.take(bucket, now);
            bucket = after;
            taken + u32::from(got)
        })
    }

    #[test]
    fn the_burst_comes_at_once_and_the_rate_in_the_long_run() {
        let rate = Rate { per_second: 10, burst: 3 };
        assert_eq!(taken(rate, [0; 100].into_iter(), 0), 3);
        assert_eq!(taken(rate, 0..10_000, 0), 3 + 99, "the last token is due at 10,000 ms");
        // Slow rates lose nothing to rounding, however often they are asked.
        let slow = Rate { per_second: 1, burst: 1 };
        assert_eq!(taken(slow, 0..5_001, 0), 6);
        assert_eq!(taken(Rate { per_second: 0, burst: 2 }, 0..5_000, 0), 2);
        assert_eq!(taken(Rate { per_second: 5, burst: 0 }, 0..5_000, 0), 0);
    }

    #[test]
    fn time_wraps_and_does_not_go_back() {
        let rate = Rate { per_second: 10, burst: 3 };
        let before = u32::MAX - 50;
        let around = (0..10_000u32).map(|ms| before.wrapping_add(ms));
        assert_eq!(taken(rate, around, before), 3 + 99);
        let late = [100, 100, 100, 99, 100, 99, 100].into_iter();
        assert_eq!(taken(rate, late, 100), 3, "an earlier clock is no year's worth of tokens");
        // Nor a way to count a moment twice.
        let zigzag = (0..10_000).map(|i| if i % 2 == 0 { 1_000 } else { 0 });
        assert_eq!(taken(rate, zigzag, 0), 3);
        let long_ago = Bucket { millitokens: 0, at_ms: 0 };
        for days in [1, 20, 30, 49] {
            assert!(rate.take(long_ago, days * 86_400_000).1, "after {days} days");
        }
    }

    #[test]
    fn a_processors_burst_is_a_tenth_of_a_second_or_a_batch() {
        let mut settings: Settings = bytemuck::Zeroable::zeroed();
        (settings.flow_inserts, settings.icmp_rate) = (50_000, 100);
        let of = |limit| Rate::of(&settings, limit);
        assert_eq!(of(Limit::FlowInsert), Rate { per_second: 50_000, burst: 5_000 });
        assert_eq!(of(Limit::Icmp), Rate { per_second: 100, burst: 64 });
        assert_eq!(of(Limit::Reset), Rate { per_second: 10_000, burst: 1_000 });
        // A map starts zeroed: as one that was empty when the clock was zero.
        let (_, got) = of(Limit::Icmp).take(Bucket::default(), 3_600_000);
        assert!(got);
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst(
            per_second in 0u32..10_000, burst in 0u32..1_000, start: u32,
            steps in prop::collection::vec(0u32..200, 1..300),
        ) {
            let rate = Rate { per_second, burst };
            let mut now = start;
            let moments: Vec<u32> = steps
                .iter()
                .map(|step| {
                    now = now.wrapping_add(*step);
                    now
                })
                .collect();
            let passed: u64 = steps.iter().map(|step| u64::from(*step)).sum();
            let most = u64::from(burst) + passed * u64::from(per_second) / 1000;
            prop_assert!(u64::from(taken(rate, moments.into_iter(), start)) <= most);
        }
    }
}
