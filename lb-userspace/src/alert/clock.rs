//! The time that alerts are measured in.

use std::time::Instant;

use crate::control::status::{epoch_ms, milliseconds};

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
        Self { began_ms: epoch_ms(), began: Instant::now() }
    }

    #[must_use]
    pub fn now(&self) -> u64 {
        let passed = milliseconds(self.began.elapsed());
        self.began_ms.saturating_add(passed)
    }

    /// A time of this clock by the clock of the day, as it is set now. To the second: less is
    /// no jump, and a time that is shown twice is shown as the same.
    #[must_use]
    pub fn epoch_of(&self, time: u64) -> u64 {
        let (day, own) = (epoch_ms(), self.now());
        match day.abs_diff(own) {
            0..1000 => time,
            ahead if day > own => time.saturating_add(ahead),
            behind => time.saturating_sub(behind),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
