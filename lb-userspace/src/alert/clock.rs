//! The time that alerts are measured in.

use std::time::Instant;

use crate::control::clock::{JUMP, difference, epoch_ms, now};
use crate::control::status::milliseconds;

/// Milliseconds since the epoch as the clock of the day said at the start, counted on without its
/// jumps: or a clock that is set would hold messages back, or repeat them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began_ms: u64,
    began: Instant,
}

impl Clock {
    #[must_use]
    pub fn new() -> Self {
        Self { began_ms: epoch_ms(), began: now() }
    }

    #[must_use]
    pub fn now(&self) -> u64 {
        let passed = milliseconds(now().saturating_duration_since(self.began));
        self.began_ms.saturating_add(passed)
    }

    /// A time of this clock by the clock of the day, as it is set now.
    #[must_use]
    pub fn epoch_of(&self, time: u64) -> u64 {
        time.saturating_add_signed(self.ahead())
    }

    /// A time of the clock of the day, as it is set now, by this one.
    #[must_use]
    pub fn of_epoch(&self, time: u64) -> u64 {
        time.saturating_sub_signed(self.ahead())
    }

    /// How far the clock of the day is ahead. To the second: less is no jump, and a time that is
    /// shown twice is shown as the same.
    fn ahead(&self) -> i64 {
        let ahead = difference(epoch_ms(), self.now());
        if ahead.abs() < JUMP { 0 } else { ahead }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
