//! What is found over all failures of a kind, as results.

use std::time::Duration;

use lb_tests::{
    Fault,
    bench::{Spread, emit},
};
use serde_json::json;

use super::{
    clients::PERIOD,
    contenders::{Contender, FALL, RISE, SETTINGS, Setting, System},
};

/// At the short interval a killed server is to be out of the table before that.
const TARGET_MS: u32 = 350;

/// One failure, and what it did to a contender.
pub(super) struct Loss {
    /// Until the contender said so; `None`: it did not.
    pub(super) detection: Option<Duration>,
    /// Until its last new connection left for the server.
    pub(super) failover: Duration,
    /// Until the last request began that failed.
    pub(super) last_failed: Duration,
    /// Requests that failed, those under way included.
    pub(super) failed: usize,
}

/// All failures of one kind, for one contender.
pub(super) struct Measured {
    fault: Fault,
    contender: Contender,
    losses: Vec<Loss>,
}

impl Measured {
    pub(super) fn new(fault: Fault, contender: Contender) -> Self {
        Self { fault, contender, losses: Vec::new() }
    }

    pub(super) fn add(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    /// `false_alarms`: how often the contender took out a server that was well, in the whole run.
    pub(super) fn emit(&self, false_alarms: u32) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let spread = |of: &dyn Fn(&Loss) -> Option<f64>| {
            Spread::of(&self.losses.iter().filter_map(of).collect::<Vec<_>>())
        };
        let Setting { interval_ms, fast_interval_ms, timeout_ms } = self.contender.setting;
        let is_ours = self.contender.system == System::Holdfast;
        let has_target = is_ours
            && self.fault == Fault::Killed
            && self.contender.setting == SETTINGS[SETTINGS.len() - 1];
        emit(&json!({
            "part": "failover",
            "case": "detection",
            "fault": self.fault.name(),
            "system": self.contender.system.name(),
            "interval_ms": interval_ms,
            "fast_interval_ms": fast_interval_ms,
            "timeout_ms": timeout_ms,
            "rise": RISE,
            "fall": FALL,
            "request_every_ms": ms(PERIOD),
            "detection_ms": spread(&|loss| loss.detection.map(ms)),
            "failover_ms": spread(&|loss| Some(ms(loss.failover))),
            "last_failed_ms": spread(&|loss| Some(ms(loss.last_failed))),
            "failed_requests": spread(&|loss| Some(loss.failed as f64)),
            "not_detected": self.losses.iter().filter(|loss| loss.detection.is_none()).count(),
            "false_alarms": false_alarms,
            "failures": self.losses.len(),
            "bound_ms": is_ours.then(|| self.bound_ms()),
            "target_ms": has_target.then_some(TARGET_MS),
        }));
    }

    /// What Holdfast promises: `interval + (fall - 1) × fast_interval + timeout`, where only a silent server needs the
    /// timeout.
    fn bound_ms(&self) -> u32 {
        let Setting { interval_ms, fast_interval_ms, timeout_ms } = self.contender.setting;
        let is_silent = matches!(self.fault, Fault::LinkDown | Fault::Dropped | Fault::Frozen);
        interval_ms + (FALL - 1) * fast_interval_ms + if is_silent { timeout_ms } else { 0 }
    }
}
