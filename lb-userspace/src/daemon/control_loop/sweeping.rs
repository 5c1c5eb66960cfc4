//! Housekeeping of the flow and NAT tables, beside the loop.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::ControlLoop;
use crate::config;
use crate::control::sweep::{self, FlowsFound, NatFound};
use crate::dataplane::grace;

/// How often idle NAT connections are looked for, and settled changes swept, at the least.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// The share of time that sweeping may take: a large table is swept less often.
const SWEEP_SHARE: u32 = 20;

/// What a sweep brought home.
pub(super) struct Swept {
    began: Instant,
    /// How long the loop took to begin it, and the tables to be read.
    prepared: Duration,
    read: Duration,
    flows: Option<HashMap<String, FlowsFound>>,
    nat: NatFound,
}

impl ControlLoop {
    pub(super) fn begin_sweep(&mut self) {
        let preparing = Instant::now();
        let maps = self.node.arena.maps.clone();
        let services = self.node.to_sweep();
        let idle = self.node.idle_by_row();
        let prepared = preparing.elapsed();
        self.sweep = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            // Every packet that decided by older words has recorded what it will, or opened the NAT
            // connection that it will.
            grace::wait();
            let reading = Instant::now();
            let flows = services.map(|services| sweep::flows(&maps, &services)).transpose()?;
            let nat = sweep::nat(&maps, &idle, config::model::Service::IDLE)?;
            Ok(Swept { began, prepared, read: reading.elapsed(), flows, nat })
        }));
    }

    pub(super) fn on_swept(&mut self, swept: Result<Result<Swept>>) -> Result<()> {
        let applying = Instant::now();
        self.sweep_at = applying + SWEEP;
        let swept = swept??;
        self.sweep_at = Instant::now() + SWEEP.max(swept.began.elapsed() * SWEEP_SHARE);
        if let Some(flows) = swept.flows {
            self.node.swept(flows, swept.began)?;
        }
        self.node.nat_swept(swept.nat, swept.began)?;
        let looped = swept.prepared + applying.elapsed();
        tracing::trace!(loop_us = looped.as_micros(), read_us = swept.read.as_micros(), "swept");
        Ok(())
    }
}
