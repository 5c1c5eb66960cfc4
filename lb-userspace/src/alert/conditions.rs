//! From the daemon's state to what is wrong now.
//!
//! The one place that decides it: `lb status` and alerts show the same list. Pure: what is known
//! comes as a [`View`], ages and times in milliseconds.

#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeSet;

use super::{Kind, Severity};
use crate::report::{BackendState, Freeze, HealthState, Interface, Warning, long_age};

pub use view::{
    BackendView, Drained, Flapping, HopProblem, LatencyOff, Panic, ServiceView, ShareOff,
    StaleName, Unprobed,
};

/// What is wrong, worst first, and whose state is not known yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub conditions: Vec<Warning>,
    /// Backends that no probe has spoken of yet, and their services: what was said of them before
    /// is neither confirmed nor over.
    pub unknown: BTreeSet<String>,
}

/// All conditions of a node at `now_ms`, in milliseconds since the epoch.
#[must_use]
pub fn conditions<'a>(
    interfaces: &[Interface],
    services: impl IntoIterator<Item = ServiceView<'a>>,
    now_ms: u64,
) -> Found {
    let mut found = Found::default();
    for service in services {
        found.add_service(&service, now_ms);
    }
    found.add_interfaces(interfaces);
    found.sort();
    found
}

impl Found {
    /// The node's own.
    pub fn add_interfaces(&mut self, interfaces: &[Interface]) {
        for interface in interfaces.iter().filter(|i| i.xdp == "generic") {
            self.conditions.push(Warning {
                kind: Kind::GenericXdp,
                severity: Severity::Info,
                subject: interface.name.clone(),
                message: "runs in generic XDP mode, several times slower than native".into(),
                next: Some(format!("ethtool -i {}", interface.name)),
                since_ms: None,
            });
        }
    }

    /// Those of a service and its backends.
    pub fn add_service(&mut self, service: &ServiceView<'_>, now_ms: u64) {
        let said = Said { subject: service.name.to_owned(), now_ms };
        self.conditions.extend(said.panic(service));
        self.conditions.extend(said.coverage(service));
        self.conditions.extend(said.capacity(service));
        self.conditions.extend(said.backups(service));
        self.conditions.extend(said.unprobed(service));
        self.conditions.extend(said.frozen(service));
        for backend in &service.backends {
            // Most backends are well: nothing is made for them.
            if !backend.is_plain() {
                self.add_backend(service, backend, now_ms);
            }
        }
    }

    /// Worst first; equally bad ones by kind, then in the order of the configuration.
    pub fn sort(&mut self) {
        self.conditions.sort_by_key(|c| (std::cmp::Reverse(c.severity), c.kind));
    }

    fn add_backend(&mut self, service: &ServiceView<'_>, backend: &BackendView<'_>, now_ms: u64) {
        let subject = format!("{}/{}", service.name, backend.name);
        if backend.health == HealthState::Unknown {
            self.unknown.insert(subject.clone());
            self.unknown.insert(service.name.to_owned());
        }
        let said = Said { subject, now_ms };
        self.conditions.extend(
            [
                said.down(backend),
                said.no_next_hop(backend),
                said.stale_name(backend),
                said.kept(backend),
                said.flapping(backend),
                said.latency(backend),
                said.share(backend),
                said.drained(backend),
            ]
            .into_iter()
            .flatten(),
        );
    }
}

/// About whom something is said, and when.
struct Said {
    subject: String,
    now_ms: u64,
}

impl Said {
    fn warning(&self, kind: Kind, message: String) -> Warning {
        let (severity, subject) = (Severity::Warning, self.subject.clone());
        Warning { kind, severity, subject, message, next: None, since_ms: None }
    }

    fn critical(&self, kind: Kind, message: String) -> Warning {
        Warning { severity: Severity::Critical, ..self.warning(kind, message) }
    }

    fn ago(&self, age_ms: u64) -> Option<u64> {
        Some(self.now_ms.saturating_sub(age_ms))
    }

    fn panic(&self, service: &ServiceView<'_>) -> Option<Warning> {
        let panic = service.panic.as_ref()?;
        let Panic { failing, counted, may_be_out, .. } = *panic;
        let message = format!(
            "PANIC: {failing} of {counted} backends fail, and at most {may_be_out} may be out: it \
             fails open, and those that are kept get traffic though they fail"
        );
        let (next, since_ms) = (service.first_check(), self.ago(panic.since_ms));
        Some(Warning { next, since_ms, ..self.critical(Kind::Panic, message) })
    }

    fn coverage(&self, service: &ServiceView<'_>) -> Option<Warning> {
        let count = service.violations;
        let (flows, they) = if count == 1 { ("flow", "it") } else { ("flows", "them") };
        (count > 0).then(|| {
            let message = format!(
                "had {count} recorded {flows} that packets would have missed: a bug that may have \
                 broken {they}; please report it with the output of `next`"
            );
            let next = Some("lb status -o json".into());
            Warning { next, ..self.critical(Kind::Coverage, message) }
        })
    }

    fn capacity(&self, service: &ServiceView<'_>) -> Option<Warning> {
        let standby = service.backends.iter().filter(|b| b.is_standby).count();
        let (serving, total) = (service.serving(), service.backends.len() - standby);
        if total == 0 || service.panic.is_some() {
            return None;
        }
        if serving == 0 {
            return Some(self.no_capacity(service));
        }
        // One that was just added and not probed yet is not missing.
        let out =
            |b: &&BackendView<'_>| !b.takes() && b.health != HealthState::Unknown && !b.is_standby;
        let out = service.backends.iter().filter(out).count();
        let is_low = match service.capacity_warning {
            None => out > 0,
            Some(percent) => (total - out) * 100 < total * usize::from(percent),
        };
        is_low.then(|| {
            let last = match serving {
                1 => ": its failure takes the service down",
                _ => "",
            };
            let message = format!("serves with {serving} of {total} backends{last}");
            let next = service.first_check();
            Warning { next, ..self.warning(Kind::CapacityLow, message) }
        })
    }

    fn backups(&self, service: &ServiceView<'_>) -> Option<Warning> {
        let serves = |b: &BackendView<'_>| b.is_backup && b.takes();
        if !service.uses_backups || !service.backends.iter().any(serves) {
            return None;
        }
        let message = match service.backups_rest_in_ms {
            None => "is served by its backups: too few of the others are well".to_owned(),
            Some(left) => format!(
                "is served by its backups: enough of the others are well again, and alone in {}",
                long_age(left)
            ),
        };
        let next = service.first_check();
        Some(Warning { next, ..self.warning(Kind::CapacityLow, message) })
    }

    /// One for the service: what is short on the balancer is so for many of its backends.
    fn unprobed(&self, service: &ServiceView<'_>) -> Option<Warning> {
        let all = || service.backends.iter().filter_map(|b| b.unprobed);
        let first = all().max_by_key(|unprobed| unprobed.since_ms)?;
        let (count, total) = (all().count(), service.backends.len());
        let was_known =
            |b: &BackendView<'_>| b.unprobed.is_some() && b.health != HealthState::Unknown;
        let meanwhile = match service.backends.iter().any(was_known) {
            true => "they keep the health that they had",
            false => "they stay out until a probe passes",
        };
        let message = format!(
            "cannot be probed ({count} of {total} backends): {}; for {} {meanwhile}",
            first.why,
            long_age(first.since_ms)
        );
        let next = service.first_check();
        let since_ms = self.ago(first.since_ms);
        Some(Warning { next, since_ms, ..self.warning(Kind::NoProbe, message) })
    }

    fn frozen(&self, service: &ServiceView<'_>) -> Option<Warning> {
        let freeze = service.frozen.as_ref()?;
        let reason = freeze.reason.as_ref().map_or(String::new(), |r| format!(" (\"{r}\")"));
        let left = long_age(freeze.until_ms.saturating_sub(self.now_ms));
        let message = format!(
            "is frozen by {}{reason}, and thaws in {left}: no backend goes in or out meanwhile",
            freeze.actor
        );
        Some(Warning {
            severity: Severity::Info,
            next: Some(thaw(freeze)),
            since_ms: Some(freeze.since_ms),
            ..self.warning(Kind::Override, message)
        })
    }

    fn no_capacity(&self, service: &ServiceView<'_>) -> Warning {
        let total = service.backends.len();
        let message = match service.backends.iter().any(is_alive) {
            true => "has only draining backends: they get the new traffic too, as nothing else is \
                     left"
                .to_owned(),
            false => format!("has no backend left of {total}: the service is down"),
        };
        let next = self.way_back(service);
        Warning { next, ..self.critical(Kind::CapacityLow, message) }
    }

    /// What brings a service without backends back soonest.
    fn way_back(&self, service: &ServiceView<'_>) -> Option<String> {
        let find = |is_it: fn(&BackendView<'_>) -> bool| service.backends.iter().find(|b| is_it(b));
        let ready = |b: &BackendView<'_>| format!("lb backend ready {}/{}", self.subject, b.name);
        let waits = |b: &BackendView<'_>| b.health == HealthState::Up && b.drained.is_none();
        if let Some(drained) = find(|b| is_alive(b) && b.drained.is_some()) {
            return Some(ready(drained));
        }
        let thawed = service.frozen.as_ref().filter(|_| find(waits).is_some()).map(thaw);
        thawed
            .or_else(|| service.first_check())
            .or_else(|| find(|b| b.drained.is_some()).map(ready))
            .or_else(|| service.backends.iter().find_map(|b| b.by_hand.clone()))
    }

    fn down(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let is_expected = backend.drained.is_some_and(|drained| drained.maintenance);
        if backend.health != HealthState::Down || is_expected {
            return None;
        }
        let since = long_age(backend.since_ms);
        let reason = backend.last_failure.unwrap_or("its probes fail");
        let found = backend.detection_ms.map_or(String::new(), |ms| {
            format!("; found and taken out within {ms:.0} ms of the first failing probe")
        });
        let began = backend.first_failure.filter(|first| *first != reason);
        let began = began.map_or(String::new(), |first| format!("; it began with {first}"));
        let message = format!("is down for {since}: {reason}{began}{found}");
        let (next, since_ms) = (backend.by_hand.clone(), self.ago(backend.since_ms));
        Some(Warning { next, since_ms, ..self.warning(Kind::BackendDown, message) })
    }

    fn no_next_hop(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let HopProblem { why, by_hand } = backend.hop_problem.as_ref()?;
        let message = format!("has no next hop: {why}");
        Some(Warning { next: Some(by_hand.clone()), ..self.warning(Kind::NoNextHop, message) })
    }

    fn stale_name(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let StaleName { host, address, why, since_ms, by_hand } = backend.stale_name.as_ref()?;
        let since = long_age(*since_ms);
        let message = format!("keeps its last address {address}: for {since} {host} {why}");
        let (next, since_ms) = (Some(by_hand.clone()), self.ago(*since_ms));
        Some(Warning { next, since_ms, ..self.warning(Kind::StaleName, message) })
    }

    fn kept(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let kept = backend.kept?;
        let message = format!("is kept in service though it fails: {kept}");
        let maint = format!("lb backend maint {}", self.subject);
        let (next, since_ms) = (Some(maint), self.ago(backend.since_ms));
        Some(Warning { next, since_ms, ..self.warning(Kind::Governor, message) })
    }

    fn flapping(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let flapping = backend.flapping.as_ref()?;
        let held = match flapping.held_ms {
            0 => String::new(),
            ms => format!("; it is held down for another {}", long_age(ms)),
        };
        let falls = flapping.falls;
        let message =
            format!("is flapping: it went down {falls} times, never up for long between{held}");
        let next = backend.by_hand.clone();
        Some(Warning { next, ..self.warning(Kind::Flapping, message) })
    }

    fn latency(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let off = backend.latency.as_ref()?;
        let message = format!(
            "answers its probes within {:.1} ms for {}, where {:.1} ms are usual",
            off.recent_ms,
            long_age(off.since_ms),
            off.usual_ms
        );
        let (next, since_ms) = (backend.by_hand.clone(), self.ago(off.since_ms));
        Some(Warning { next, since_ms, ..self.warning(Kind::Latency, message) })
    }

    fn share(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let off = backend.share.as_ref()?;
        let message = format!(
            "gets {:.1} % of the last {} new flows, where its weight says {:.1} %",
            off.share * 100.0,
            off.flows,
            off.expected * 100.0
        );
        let since_ms = self.ago(off.since_ms);
        Some(Warning { since_ms, ..self.warning(Kind::Share, message) })
    }

    fn drained(&self, backend: &BackendView<'_>) -> Option<Warning> {
        let drained = backend.drained.as_ref()?;
        let reason = drained.reason.map_or(String::new(), |reason| format!(" (\"{reason}\")"));
        let flows = backend.flows.map_or(String::new(), |flows| {
            format!(", {flows} {} left", if flows == 1 { "flow" } else { "flows" })
        });
        let passes = match backend.health {
            HealthState::Up => "; its probes pass",
            HealthState::Unknown | HealthState::Down => "",
        };
        let (actor, what) = (drained.actor, drained.what());
        let next = Some(format!("lb backend ready {}", self.subject));
        if let Some(until) = drained.until_ms.filter(|until| *until <= self.now_ms) {
            let past = long_age(self.now_ms - until);
            let message =
                format!("is still {what} by {actor}{reason}, {past} past its end{flows}{passes}");
            let warning = self.warning(Kind::OverrideExpired, message);
            return Some(Warning { next, since_ms: Some(until), ..warning });
        }
        let end = drained.until_ms.map_or(String::new(), |until| {
            format!(", to end in {}", long_age(until - self.now_ms))
        });
        let since = long_age(self.now_ms.saturating_sub(drained.at_ms));
        let message = format!("is {what} for {since} by {actor}{reason}{end}{flows}{passes}");
        Some(Warning {
            severity: Severity::Info,
            next,
            since_ms: Some(drained.at_ms),
            ..self.warning(Kind::Override, message)
        })
    }
}

/// Whether it can take traffic if nothing else is left.
fn is_alive(backend: &BackendView<'_>) -> bool {
    backend.state != BackendState::Down
}

/// The command that ends a freeze.
fn thaw(freeze: &Freeze) -> String {
    let service = freeze.service.as_ref().map_or(String::new(), |service| format!(" {service}"));
    format!("lb health thaw{service}")
}
