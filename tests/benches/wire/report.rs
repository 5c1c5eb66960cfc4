//! Measurements as results.

use lb_tests::bench::{Figure, emit};
use serde_json::json;

use crate::{
    Busy, Case,
    lanes::{BACKENDS, System},
    latency::Latency,
    throughput::Arrivals,
};

/// All windows of a case.
pub(crate) struct Measured {
    pub(crate) case: Case,
    /// Nanoseconds a frame.
    pub(crate) ns: Vec<f64>,
    /// What became of the frames, those of the first look included.
    pub(crate) arrivals: Arrivals,
}

impl Measured {
    pub(crate) fn least_ns(&self) -> f64 {
        Figure::of(&self.ns).min
    }
}

/// All rounds of probes through a system.
pub(crate) struct Waits {
    pub(crate) system: System,
    pub(crate) busy: Busy,
    /// From one frame of the load to the next.
    pub(crate) ns_per_frame: f64,
    pub(crate) rounds: Vec<Latency>,
}

pub(crate) fn throughput(measured: &[Measured]) {
    for one in measured {
        let Case { system, family, flows } = one.case;
        let ns = Figure::of(&one.ns);
        let rate_of = |other: System| {
            let case = Case { system: other, ..one.case };
            let other = measured.iter().find(|other| other.case == case)?;
            Some(other.least_ns() / ns.min)
        };
        let compared = |other| if system.name() == "floor" { None } else { rate_of(other) };
        let bounce = measured
            .iter()
            .find(|other| other.case == Case { system: System::Bounce, ..one.case })
            .map(Measured::least_ns);
        let Arrivals { sent, received, wrong, backends, faults } = &one.arrivals;
        emit(&json!({
            "part": "wire",
            "case": one.case.name(),
            "system": system.name(),
            "mode": system.mode(),
            "family": family.to_string(),
            "flows": flows,
            "backends": BACKENDS,
            "pps_max": (1e9 / ns.min).round(),
            "pps_p90": (1e9 / ns.p10).round(),
            "pps_median": (1e9 / ns.median).round(),
            "ns_per_packet_min": tenths(ns.min),
            "ns_per_packet_p10": tenths(ns.p10),
            "ns_per_packet_median": tenths(ns.median),
            "ns_over_bounce": bounce.filter(|_| system.name() != "floor").map(|b| tenths(ns.min - b)),
            "ratio_to_bounce": compared(System::Bounce).map(thousandths),
            "ratio_to_nftables": compared(System::Nftables).map(thousandths),
            "sent": sent,
            "received": received,
            "lost": one.arrivals.lost(),
            "wrong": wrong,
        }));
        if *wrong > 0 {
            eprintln!(
                "wire: {}: {faults:?} frames had a wrong MAC address, address, checksum, backend \
                 of their flow, or place to arrive at",
                one.case.name()
            );
        }
        let idle = backends.iter().filter(|count| **count == 0).count();
        if idle > 0 && flows > 1 {
            eprintln!("wire: {}: {idle} backends got nothing", one.case.name());
        }
    }
}

pub(crate) fn latency(all: &[Waits]) {
    for waits in all {
        let of = |value: fn(&Latency) -> f64| {
            Figure::of(&waits.rounds.iter().map(value).collect::<Vec<_>>())
        };
        let (p50, p99) = (of(|round| round.p50_us), of(|round| round.p99_us));
        let load = waits.ns_per_frame;
        let sum = |count: fn(&Latency) -> u64| waits.rounds.iter().map(count).sum::<u64>();
        let (sent, received) = (sum(|round| round.sent), sum(|round| round.received));
        emit(&json!({
            "part": "wire",
            "case": wait_name(waits.system, waits.busy),
            "system": waits.system.name(),
            "mode": waits.system.mode(),
            "family": "IPv4",
            "flows": 1 << 16,
            "load_pps": if load.is_finite() { (1e9 / load).round() } else { 0.0 },
            "p50_us": thousandths(p50.min),
            "p99_us": thousandths(p99.min),
            "p50_us_median": thousandths(p50.median),
            "p99_us_median": thousandths(p99.median),
            "sent": sent,
            "received": received,
            "lost": sent.saturating_sub(received),
        }));
    }
}

/// As `CASE` on the command line is compared with.
pub(crate) fn wait_name(system: System, busy: Busy) -> String {
    let busy = match busy {
        Busy::Idle => "idle",
        Busy::AsNftables => "half of nftables' load",
        Busy::Half => "half load",
    };
    format!("latency {}, {busy}", system.mode())
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
