//! The two clocks that the control plane goes by.
//!
//! [`now`] never jumps: all that health, hold-downs, ramps and windows wait for is measured by it.
//! [`epoch_ms`] is the clock of the day, which anybody may set: it is in what is shown and stored
//! alone, and [`Jumps`] moves what is stored along with it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::status::milliseconds;

/// The clock that never jumps.
#[must_use]
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some((now, _)) = simulated::get() {
        return now;
    }
    Instant::now()
}

/// The clock of the day: milliseconds since 1970.
#[must_use]
pub fn epoch_ms() -> u64 {
    #[cfg(test)]
    if let Some((_, epoch_ms)) = simulated::get() {
        return epoch_ms;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, milliseconds)
}

/// Less than this is no jump: both clocks are read one after the other, and slewed.
pub const JUMP: i64 = 1_000;

/// Notes when the clock of the day is set.
#[derive(Clone, Copy, Debug)]
pub struct Jumps {
    began: Instant,
    /// What the clock of the day said then.
    began_ms: u64,
}

impl Jumps {
    #[must_use]
    pub fn new() -> Self {
        Self { began: now(), began_ms: epoch_ms() }
    }

    /// By how many milliseconds the clock of the day was set since the last time; mostly none.
    pub fn take(&mut self) -> Option<i64> {
        let passed = milliseconds(now().saturating_duration_since(self.began));
        let by = difference(epoch_ms(), self.began_ms.saturating_add(passed));
        (by.abs() >= JUMP).then(|| {
            *self = Self::new();
            by
        })
    }
}

impl Default for Jumps {
    fn default() -> Self {
        Self::new()
    }
}

/// `a - b`, in milliseconds.
#[must_use]
pub fn difference(a: u64, b: u64) -> i64 {
    let size = i64::try_from(a.abs_diff(b)).unwrap_or(i64::MAX);
    if a < b { -size } else { size }
}

/// Moves a stored time along with the clock of the day, that was set by so many milliseconds.
pub fn move_along(time_ms: &mut u64, by_ms: i64) {
    *time_ms = time_ms.saturating_add_signed(by_ms);
}

/// Both clocks of this thread, set by a test.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;
    use std::time::Instant;

    thread_local! {
        static CLOCKS: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    }

    pub(super) fn get() -> Option<(Instant, u64)> {
        CLOCKS.get()
    }

    pub(crate) fn set(now: Instant, epoch_ms: u64) {
        CLOCKS.set(Some((now, epoch_ms)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_once() {
        const DAY: u64 = 86_400_000;
        let begin = Instant::now();
        let at = |passed_ms: u64, day_ms: u64| {
            simulated::set(begin + Duration::from_millis(passed_ms), day_ms);
        };
        at(0, 10 * DAY);
        let mut jumps = Jumps::new();
        for (passed_ms, day_ms, expect) in [
            (500, 10 * DAY + 500, None),
            (1_000, 10 * DAY + 1_999, None),
            (2_000, 11 * DAY + 2_000, Some(DAY as i64)),
            (3_000, 11 * DAY + 3_000, None),
            (4_000, 10 * DAY + 4_000, Some(-(DAY as i64))),
            (5_000, 1_000, Some(-(10 * DAY as i64 + 4_000))),
            (6_000, 2_000, None),
        ] {
            at(passed_ms, day_ms);
            assert_eq!(jumps.take(), expect, "after {passed_ms} ms, at {day_ms}");
        }
    }
}
