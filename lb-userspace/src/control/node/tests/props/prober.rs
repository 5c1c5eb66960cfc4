//! The prober's half: what it tells the node of each backend, by the machine that it has for it.

use std::time::Duration;

use proptest::prelude::*;

use super::Outcome;
use super::scene::Scene;
use crate::control::health::{Failure, FailureKind, HealthMachine, Policy, ProbeResult, Success};
use crate::control::node::tests::{HealthState, ProbeEvent};
use crate::control::service::is_probed;

/// From the start of a probe to its end.
const PROBE: Duration = Duration::from_millis(5);

/// The prober's half of a backend, and what is noted of it beside.
pub(super) struct Probed {
    machine: HealthMachine,
    policy: Policy,
    port: Option<u16>,
    /// Successes in a row, counted here.
    passed: u32,
}

impl Scene {
    /// What the prober does when a configuration is applied.
    pub(super) fn follow(&mut self) -> Result<(), TestCaseError> {
        let now = self.now;
        let mut events = Vec::new();
        for running in &self.node.services {
            let policy = Policy::from(&running.config.health);
            for backend in &running.backends {
                let port = backend.config.port;
                match self.probed.get_mut(&backend.probe) {
                    Some(known) if known.policy != policy || known.port != port => {
                        let same_server = known.port == port;
                        let moved = known.machine.reconfigure(policy, same_server, now);
                        (known.policy, known.port, known.passed) = (policy, port, 0);
                        events.extend(moved.map(|t| (backend.probe, t, known.machine.snapshot())));
                    }
                    Some(_) => {}
                    None => {
                        let state = backend.health.state;
                        let machine = HealthMachine::resume(policy, state, backend.health.since);
                        self.probed
                            .insert(backend.probe, Probed { machine, policy, port, passed: 0 });
                    }
                }
            }
        }
        for (key, transition, snapshot) in events {
            let (result, transition) = (None, Some(transition));
            let event = ProbeEvent { key, result, transition, snapshot, started: now, at: now };
            self.node.on_probe(event).unwrap();
            self.note();
        }
        Ok(())
    }

    /// A probe of a backend has ended.
    pub(super) fn found(
        &mut self,
        s: usize,
        b: usize,
        finds: Outcome,
    ) -> Result<(), TestCaseError> {
        let running = &self.node.services[s];
        let key = running.backends[b].probe;
        let Some(known) = self.probed.get_mut(&key).filter(|_| is_probed(&running.config)) else {
            return Ok(());
        };
        let failed = |kind| Err(Failure::new(kind, "as the test says"));
        let result: ProbeResult = match finds {
            Outcome::Pass => Ok(Success { latency: PROBE }),
            Outcome::Hard => failed(FailureKind::Refused),
            Outcome::Soft => failed(FailureKind::HttpStatus),
            Outcome::Local => failed(FailureKind::Local),
        };
        match finds {
            Outcome::Pass => known.passed += 1,
            Outcome::Hard | Outcome::Soft => known.passed = 0,
            Outcome::Local => {}
        }
        let started = self.now.checked_sub(PROBE).unwrap();
        let before = known.machine.snapshot();
        let transition = known.machine.on_result(started, self.now, &result);
        let snapshot = known.machine.snapshot();
        if before.state != HealthState::Up && snapshot.state == HealthState::Up {
            let (passed, rise) = (known.passed, known.policy.rise);
            prop_assert!(passed >= rise, "up after {passed} successes, and rise is {rise}");
            let is_held = before.held_until.is_some_and(|until| self.now < until);
            prop_assert!(!is_held, "up while it is held down");
        }
        prop_assert!(known.machine.next_probe_in().is_some(), "it is never probed again");
        let result = Some(result);
        let event = ProbeEvent { key, result, transition, snapshot, started, at: self.now };
        self.node.on_probe(event).unwrap();
        let is_told =
            self.node.services[s].backends[b].health == self.probed[&key].machine.snapshot();
        prop_assert!(is_told, "what the prober knows is not what the node does");
        Ok(())
    }
}
