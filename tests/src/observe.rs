//! What a test asks a running `lb` about, and waits for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{balancer::Balancer, process::wait_until};

impl Balancer {
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// `health.state` of a backend: `up`, `down`, `unknown`.
    pub fn health(&self, service: &str, backend: &str) -> Result<String> {
        let status = self.status()?;
        let found = backend_in(&status, service, backend)
            .with_context(|| format!("lb status shows no {service}/{backend}"))?;
        Ok(found["health"]["state"].as_str().unwrap_or("missing").to_owned())
    }

    /// Waits until a backend is in this state; returns when it was first seen so.
    pub fn wait_for_health(
        &self,
        service: &str,
        backend: &str,
        state: &str,
        limit: Duration,
    ) -> Result<Instant> {
        let reached =
            wait_until(limit, || self.health(service, backend).is_ok_and(|now| now == state));
        if !reached {
            let log = self.log();
            bail!("{service}/{backend} is not {state} after {limit:?}; lb's log:\n{log}");
        }
        Ok(Instant::now())
    }

    /// Waits until all backends of all services are up and their next hops known.
    pub fn wait_until_up(&self, limit: Duration) -> Result<()> {
        let all_up = |status: &Value| {
            let mut backends = services(status).flat_map(backends).peekable();
            let reachable = |b: &Value| b["next_hop"]["problem"].is_null();
            let ready = |b: &Value| b["health"]["state"] == "up" && reachable(b);
            backends.peek().is_some() && backends.all(ready)
        };
        if !wait_until(limit, || self.status().is_ok_and(|status| all_up(&status))) {
            bail!("not all backends are up after {limit:?}; lb's log:\n{}", self.log());
        }
        Ok(())
    }

    /// A backend as `lb status` shows it.
    pub fn backend(&self, service: &str, backend: &str) -> Result<Value> {
        let status = self.status()?;
        let found = backend_in(&status, service, backend).cloned();
        found.with_context(|| format!("lb status shows no {service}/{backend}"))
    }

    /// Waits until the dataplane does this with a backend: `serving`, `draining`, `drained`, …
    pub fn wait_for_state(
        &self,
        service: &str,
        backend: &str,
        state: &str,
        limit: Duration,
    ) -> Result<()> {
        let reached = wait_until(limit, || {
            self.backend(service, backend).is_ok_and(|found| found["state"] == state)
        });
        if !reached {
            let (found, log) = (self.backend(service, backend), self.log());
            bail!(
                "{service}/{backend} is not {state} after {limit:?}: {found:#?}\nlb's log:\n{log}"
            );
        }
        Ok(())
    }

    pub fn count(&self) -> Result<Counts> {
        Ok(Counts(self.status()?))
    }
}

/// The counters at one moment.
#[derive(Clone, Debug)]
pub struct Counts(Value);

impl Counts {
    /// A verdict or an event, by its name.
    pub fn of(&self, name: &str) -> Result<u64> {
        let counters = &self.0["counters"];
        let mut all = [&counters["verdicts"], &counters["events"]]
            .into_iter()
            .flat_map(|list| list.as_array().into_iter().flatten());
        let found = all.find(|counter| counter["name"] == name);
        found.and_then(|c| c["count"].as_u64()).with_context(|| format!("no counter {name}"))
    }

    /// What was counted at all, with how often.
    pub fn non_zero(&self) -> Vec<String> {
        let counters = &self.0["counters"];
        let all = [&counters["verdicts"], &counters["events"]];
        let all = all.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
        let counted = all.filter(|counter| counter["count"] != 0);
        counted.map(|c| format!("{} {}", c["name"].as_str().unwrap_or("?"), c["count"])).collect()
    }

    /// The ends of all packets: sent to backends, and all verdicts.
    pub fn ended(&self) -> u64 {
        let verdicts = self.0["counters"]["verdicts"].as_array().into_iter().flatten();
        self.packets() + verdicts.filter_map(|verdict| verdict["count"].as_u64()).sum::<u64>()
    }

    /// Packets sent to the backends of all services.
    pub fn packets(&self) -> u64 {
        services(&self.0).filter_map(|service| service["packets"].as_u64()).sum()
    }
}

fn services(status: &Value) -> impl Iterator<Item = &Value> {
    status["services"].as_array().into_iter().flatten()
}

fn backends(service: &Value) -> impl Iterator<Item = &Value> {
    service["backends"].as_array().into_iter().flatten()
}

fn backend_in<'a>(status: &'a Value, service: &str, backend: &str) -> Option<&'a Value> {
    let service = services(status).find(|candidate| candidate["name"] == service)?;
    backends(service).find(|candidate| candidate["name"] == backend)
}
