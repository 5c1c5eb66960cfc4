//! Whether a service can spare a backend that the operator takes out.

use super::admission::Phase;
use super::governor::most;
use super::health::HealthState;
use super::service::Running;

/// Refuses to take out a backend that serves where that would leave none to spare, or less than
/// `max_removed` would leave. What is wrong, if anything is.
#[must_use]
pub fn missed(running: &Running, name: &str) -> Option<String> {
    let is_well = |b: &super::backend::Backend| {
        let takes = matches!(b.admission.phase(), Phase::Serving | Phase::Returning);
        let waits = b.ruling.is_standby && b.drain.is_none();
        b.health.state != HealthState::Down && (takes || waits)
    };
    let all = running.backends.len();
    let well = running.backends.iter().filter(|b| is_well(b)).count();
    if !running.backends.iter().any(|b| b.config.name == name && is_well(b)) {
        return None;
    }
    let left = well - 1;
    let floor = all - most(running.config.failover.max_removed, all);
    let service = &running.config.name;
    let why = match left {
        0 => "nothing would be left to serve it",
        1 => "the next failure would take it down",
        _ if left < floor => "that is less than `max_removed` would leave",
        _ => return None,
    };
    Some(format!("this leaves {left} of {all} backends of {service}: {why}"))
}
