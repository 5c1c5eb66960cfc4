//! Measurements as results.

use lb_tests::bench::{Figure, emit};
use serde_json::json;

use crate::{
    Case, name,
    system::{Run, System},
};

/// All rounds of a case through a system.
pub(crate) struct Measured {
    case: Case,
    system: System,
    rounds: Vec<Run>,
}

impl Measured {
    pub(crate) fn new(case: Case, system: System) -> Self {
        Self { case, system, rounds: Vec::new() }
    }

    pub(crate) fn add(&mut self, run: &Run) {
        self.rounds.push(*run);
    }

    fn figure(&self, value: impl Fn(&Run) -> f64) -> Figure {
        Figure::of(&self.rounds.iter().map(value).collect::<Vec<_>>())
    }

    /// Microseconds of all processors for a request.
    fn processors(&self) -> Figure {
        self.figure(|run| per_request(run, run.processors))
    }

    /// Microseconds for a request, the least.
    fn time(&self) -> Figure {
        self.figure(|run| run.answers.duration_us / run.answers.requests as f64)
    }
}

fn per_request(run: &Run, time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e6 / run.answers.requests as f64
}

pub(crate) fn all(measured: &[Measured]) {
    for one in measured {
        let of = |system: System| {
            measured.iter().find(|other| other.case == one.case && other.system == system)
        };
        let (direct, haproxy) = (of(System::Direct), of(System::Haproxy));
        let is_balancer = one.system != System::Direct;
        // What the balancer adds to what client and servers need anyway.
        let added =
            |one: &Measured| direct.map(|direct| one.processors().min - direct.processors().min);
        let own = added(one).filter(|_| is_balancer);
        let ratio = own.zip(haproxy.and_then(added)).map(|(own, other)| own / other);
        let time = one.time();
        let rate = |time_us: f64| (1e6 / time_us).round();
        let only = |wanted: bool, value: f64| wanted.then_some(value);
        let runs = || one.rounds.iter().map(|run| run.answers);
        let bits = one.figure(|run| run.answers.duration_us / (8 * run.answers.bytes) as f64);
        emit(&json!({
            "part": "proxy",
            "case": name(one.case, one.system),
            "system": one.system.name(),
            "mode": one.system.mode(),
            "connections": one.case.connections,
            "connections_per_s": only(one.case.closes, rate(time.min)),
            "requests_per_s": only(!one.case.closes, rate(time.min)),
            "requests_per_s_median": rate(time.median),
            "gigabits_per_s": only(one.case.is_bulk(), tenths(1e-3 / bits.min)),
            "p50_us": tenths(one.figure(|run| run.answers.p50_us).min),
            "p99_us": tenths(one.figure(|run| run.answers.p99_us).min),
            "p99_us_median": tenths(one.figure(|run| run.answers.p99_us).median),
            "cpu_us_per_request": own.map(tenths),
            "process_cpu_us_per_request":
                only(is_balancer, tenths(one.figure(|run| per_request(run, run.balancer)).min)),
            "total_cpu_us_per_request": tenths(one.processors().min),
            "total_cpu_us_per_request_median": tenths(one.processors().median),
            "ratio_to_haproxy": ratio.map(|ratio| (ratio * 1000.0).round() / 1000.0),
            "received": runs().map(|answers| answers.requests).sum::<u64>(),
            "errors": runs().map(|answers| answers.errors).sum::<u64>(),
        }));
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
