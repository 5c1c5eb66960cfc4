//! How long a real failure takes to be found: `lb run` in a lab, one service of two backends.
//!
//! From the failure to the log's line that the backend's traffic moved, which is written right after the word. What
//! is expected at the most is `interval + (fall - 1) × fast_interval + timeout`, where a server that refuses needs no
//! timeout.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_tests::bench::{Figure, Options, emit, progress, progress_ends};
use lb_tests::{Balancer, Family, Lab, Mode, ServiceConfig, Topology};
use serde_json::json;

#[derive(Clone, Copy)]
struct Times {
    name: &'static str,
    probe: &'static str,
    interval_ms: u32,
    fast_interval_ms: u32,
    timeout_ms: u32,
}

const FALL: u32 = 3;
const TIMES: [Times; 2] = [
    Times {
        name: "tcp",
        probe: "tcp = true",
        interval_ms: 1_000,
        fast_interval_ms: 100,
        timeout_ms: 500,
    },
    Times {
        name: "http",
        probe: "http = \"/healthz\"",
        interval_ms: 300,
        fast_interval_ms: 100,
        timeout_ms: 500,
    },
];
/// The backend that fails.
const VICTIM: u8 = 1;
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// `kill -9`: the server's kernel refuses.
    Killed,
    /// The cable is out: silence.
    Unplugged,
}

struct Case {
    times: Times,
    fault: Fault,
    /// Failure to word.
    whole_ms: Vec<f64>,
    /// First failing probe to word, as `lb status` says it.
    reported_ms: Vec<f64>,
}

pub(crate) fn run(options: &Options) {
    let mut cases: Vec<Case> = TIMES
        .into_iter()
        .flat_map(|times| [Fault::Killed, Fault::Unplugged].map(|fault| Case::new(times, fault)))
        .filter(|case| options.wants(&case.name()))
        .collect();
    let mut scenes: Vec<(&str, Lab, Balancer)> = Vec::new();
    for times in TIMES.iter().filter(|t| cases.iter().any(|case| case.times.name == t.name)) {
        let lab = Lab::build(Topology::new(Mode::Dsr, 2)).expect("a lab");
        let balancer = Balancer::serving(&lab, &[times.service()]).expect("lb runs");
        scenes.push((times.name, lab, balancer));
    }
    for round in 0..options.rounds {
        for case in &mut cases {
            progress(&format!("round {} of {}: {}", round + 1, options.rounds, case.name()));
            let scene = scenes.iter().find(|(name, ..)| *name == case.times.name);
            let (_, lab, balancer) = scene.expect("each has a lab");
            case.measure(lab, balancer);
        }
    }
    progress_ends();
    cases.iter().for_each(Case::emit);
}

impl Times {
    fn service(&self) -> ServiceConfig {
        let Self { probe, interval_ms, fast_interval_ms, timeout_ms, .. } = self;
        let health = format!(
            "{probe}, port = 80, interval = \"{interval_ms}ms\", fast_interval = \
             \"{fast_interval_ms}ms\", timeout = \"{timeout_ms}ms\", rise = 2, fall = {FALL}"
        );
        ServiceConfig { health, ..ServiceConfig::quick(Mode::Dsr, Family::V4) }
    }
}

impl Case {
    fn new(times: Times, fault: Fault) -> Self {
        Self { times, fault, whole_ms: Vec::new(), reported_ms: Vec::new() }
    }

    fn name(&self) -> String {
        format!("detection, {}, {}", self.times.name, self.fault.name())
    }

    fn bound_ms(&self) -> u32 {
        let timeout = if self.fault == Fault::Killed { 0 } else { self.times.timeout_ms };
        self.times.interval_ms + (FALL - 1) * self.times.fast_interval_ms + timeout
    }

    fn measure(&mut self, lab: &Lab, balancer: &Balancer) {
        let name = lab.topology().backend_name(VICTIM);
        let said = balancer.log().len();
        let failed = SystemTime::now();
        match self.fault {
            Fault::Killed => lab.kill_backend(VICTIM.into()),
            Fault::Unplugged => lab.link_down(VICTIM),
        }
        .expect("it fails");
        balancer.wait_for_health("web", &name, "down", LIMIT).expect("it is found");
        let log = balancer.log();
        let line = log[said..].lines().find(|line| line.contains("its traffic moved"));
        let moved = time_of_day(line.expect("lb logs the failure")).expect("with its time");
        let failed = failed.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() % DAY;
        self.whole_ms.push((moved - failed).rem_euclid(DAY) * 1e3);
        let backend = balancer.backend("web", &name).expect("lb status");
        self.reported_ms.push(backend["health"]["detection_ms"].as_f64().unwrap_or_default());
        match self.fault {
            Fault::Killed => lab.start_backend(VICTIM.into()),
            Fault::Unplugged => lab.link_up(VICTIM),
        }
        .expect("it returns");
        balancer.wait_for_state("web", &name, "serving", LIMIT).expect("it serves again");
    }

    fn emit(&self) {
        let most = self.whole_ms.iter().copied().fold(0.0, f64::max);
        emit(&json!({
            "part": "failover",
            "case": "detection",
            "fault": self.fault.name(),
            "probe": self.times.name,
            "interval_ms": self.times.interval_ms,
            "fast_interval_ms": self.times.fast_interval_ms,
            "timeout_ms": self.times.timeout_ms,
            "fall": FALL,
            "detection_ms": Figure::of(&self.whole_ms),
            "detection_ms_most": most,
            "from_first_probe_ms": Figure::of(&self.reported_ms),
            "bound_ms": self.bound_ms(),
        }));
    }
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Unplugged => "unplugged",
        }
    }
}

const DAY: f64 = 86_400.0;

/// Seconds since midnight, of a line that begins with a time as in 2026-01-31T12:34:56.789012Z.
fn time_of_day(line: &str) -> Option<f64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}
