//! How long a packet is on its way while other packets keep a system half busy.
//!
//! Probes are sent from another core than the load, at times of their own. The time is in the
//! probe, put there by the program that makes it and read by the sink: no process and no socket is
//! on the way. The load comes in bursts of 64 frames, as a network card delivers them; a probe
//! waits for what is left of one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use lb_tests::pin;

use crate::{
    PROBED,
    abi::{BUCKET_SHIFT, BURST, LOAD, PROBE},
    frame::{Segment, job},
    lanes::Lane,
    programs::Programs,
    throughput::{expect, open},
};

/// How busy a lane is kept.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// From one frame to the next, on average; infinite for none.
    pub(crate) ns_per_frame: f64,
    pub(crate) time: Duration,
}

/// Percentiles of one round, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Latency {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

pub(crate) fn measure(
    programs: &mut Programs,
    lane: &Lane,
    load: Load,
    probe_core: usize,
) -> Result<Latency> {
    open(programs, lane, PROBED)?;
    let (mut busy, busy_frame) = job(PROBED.family, PROBED.flows, Segment::Ack);
    busy.gap_ns = (load.ns_per_frame * BURST as f64) as u64;
    let (probe, probe_frame) = job(PROBED.family, 1, Segment::Probe);
    programs.set_job(LOAD, busy)?;
    programs.set_job(PROBE, probe)?;
    programs.expect(expect(lane.system, PROBED.family, 0, 1))?;

    let before = programs.latency()?;
    let is_over = AtomicBool::new(false);
    let shared = &*programs;
    let sent = thread::scope(|scope| {
        let prober = scope.spawn(|| -> Result<u64> {
            pin(&[probe_core])?;
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                shared.send(PROBE, &probe_frame, lane.interface, 1)?;
                sent += 1;
                thread::sleep(Duration::from_micros(250));
            }
            Ok(sent)
        });
        let loaded = if load.ns_per_frame.is_finite() {
            let frames = (load.time.as_nanos() as f64 / load.ns_per_frame) as u32;
            shared.send(LOAD, &busy_frame, lane.interface, frames).map(drop)
        } else {
            thread::sleep(load.time);
            Ok(())
        };
        is_over.store(true, Ordering::Relaxed);
        let probed = prober.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        loaded.and(probed)
    })?;
    let after = programs.latency()?;
    Ok(percentiles(sent, &after.iter().zip(&before).map(|(a, b)| a - b).collect::<Vec<_>>()))
}

fn percentiles(sent: u64, buckets: &[u64]) -> Latency {
    let received: u64 = buckets.iter().sum();
    let at = |share: f64| {
        let rank = (received as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = buckets.iter().position(|count| {
            below += count;
            below >= rank
        });
        let middle = bucket.unwrap_or_default() as f64 + 0.5;
        middle * f64::from(1 << BUCKET_SHIFT) / 1000.0
    };
    Latency { sent, received, p50_us: at(0.5), p99_us: at(0.99) }
}
