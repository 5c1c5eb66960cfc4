//! Whether a service can spare a backend: that the operator takes out, or whose name moves.

use std::collections::HashMap;

use super::backend::Backend;
use super::governor::most;
use super::health::HealthState;
use super::node::Node;
use super::service::Running;
use crate::config::model::Lookup;

/// Refuses to take out a backend that serves where that would leave none to spare, or less than
/// `max_removed` would leave. What is wrong, if anything is.
#[must_use]
pub fn missed(running: &Running, name: &str) -> Option<String> {
    // One that fails and is kept carries traffic like any other: then there is less to spare, not more.
    let is_well = |b: &Backend| {
        let waits = b.ruling.is_standby && b.drain.is_none();
        let fails = b.health.state == HealthState::Down && b.ruling.kept.is_none();
        !fails && (b.admission.phase().takes_new() || waits)
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

/// Which backends may be left for another address of their name: those that serve nobody or fail, the
/// only one of a service, and of others as many as may fail. The rest wait until the new ones are up.
pub struct Leave<'a> {
    node: &'a Node,
    /// How many more, by service.
    left: HashMap<&'a str, usize>,
}

impl<'a> Leave<'a> {
    #[must_use]
    pub fn of(node: &'a Node) -> Self {
        Self { node, left: HashMap::new() }
    }

    /// Whether all backends of a name may be left, or why not.
    pub fn may(&mut self, lookup: &Lookup) -> Result<(), String> {
        for running in &self.node.services {
            let has_name = |b: &&Backend| running.config.lookup(&b.config).as_ref() == Some(lookup);
            let is_needed = |b: &&Backend| {
                b.admission.phase().takes_new() && b.health.state != HealthState::Down
            };
            let needed = running.backends.iter().filter(has_name).filter(is_needed).count();
            if needed == 0 || running.backends.len() == 1 {
                continue;
            }
            let service = running.config.name.as_str();
            if running.is_frozen() {
                return Err(format!("health of {service} is frozen"));
            }
            let left = self.left.entry(service).or_insert_with(|| spare(running));
            *left = left.checked_sub(needed).ok_or_else(|| {
                format!("as many backends of {service} as may fail are not up yet")
            })?;
        }
        Ok(())
    }
}

/// How many more backends of a service may fail, of those that the operator has not taken out and that
/// are no backups in reserve.
fn spare(running: &Running) -> usize {
    let counted = || running.backends.iter().filter(|b| b.drain.is_none() && !b.ruling.is_standby);
    let not_up = counted().filter(|b| b.health.state != HealthState::Up).count();
    most(running.config.failover.max_removed, counted().count()).saturating_sub(not_up)
}
