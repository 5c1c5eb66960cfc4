//! One combination of mode and family, from an empty lab to a clean detach.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lb_tests::{
    Balancer, ConnectionReport, Family, Lab, Limit, Load, LongConnections, Mode, RunningLoad,
    ServiceConfig, Topology,
};
use serde::Serialize;

use crate::shell::capture;

const BACKENDS: u8 = 4;
const REQUESTS: u64 = 2_000;
const VICTIM: usize = 1;
/// interval + 2 x fast interval + timeout, of the configuration below.
pub(super) const EXPECTED_DETECTION_MS: u64 = 1_000 + 2 * 100 + 500;

/// What the client saw.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) mode: Mode,
    pub(super) family: String,
    /// Requests by backend, of `REQUESTS`, all healthy.
    pub(super) spread: BTreeMap<String, u64>,
    pub(super) requests_under_load: usize,
    pub(super) detection_ms: f64,
    pub(super) expected_detection_ms: u64,
    pub(super) failed_until_detection: usize,
    pub(super) failed_after_detection: usize,
    /// Long connections to the backend that was killed: these must break.
    pub(super) broken_to_killed: usize,
    pub(super) broken_to_others: usize,
    pub(super) fail_back_ms: f64,
}

impl Measured {
    pub(super) fn passed(&self) -> bool {
        self.failed_after_detection == 0 && self.broken_to_others == 0
    }

    /// Shares of the backends in per cent, in their order.
    pub(super) fn spread_text(&self) -> String {
        let total: u64 = self.spread.values().sum();
        let share = |count: &u64| format!("{:.1}", *count as f64 * 100.0 / total.max(1) as f64);
        self.spread.values().map(share).collect::<Vec<_>>().join(" ")
    }
}

pub(super) fn run(mode: Mode, family: Family, lb: &Path) -> Result<Measured> {
    eprintln!("\n==> {mode}, {family}");
    let lab = Lab::build(Topology::new(mode, BACKENDS))?;
    let config = lab.config(&[ServiceConfig::http(mode, family)]);
    let balancer = Balancer::start(&lab, lb, &config)?;
    balancer.wait_until_up(Duration::from_secs(15))?;
    say(&format!("{BACKENDS} nginx backends are up behind {}", family.vip()));

    let target = SocketAddr::new(family.vip(), 80);
    say(&format!("curl http://{target}/ says {}", curl(&lab, target)?));
    let spread = spread(&lab, target)?;

    let connections = LongConnections::new(target, 24).start(lab.client());
    let load = Load::new(target, Limit::UntilStopped)
        .threads(8)
        .pause(Duration::from_millis(10))
        .start(lab.client());
    sleep(Duration::from_secs(1));

    let victim = lab.backend(VICTIM)?.name.clone();
    let killed = Instant::now();
    lab.kill_backend(VICTIM)?;
    let detected = balancer.wait_for_health("web", &victim, "down", Duration::from_secs(10))?;
    say(&format!("{victim}: killed, and detected after {:.0} ms", ms(killed, detected)));
    sleep(Duration::from_secs(2));

    let restarted = Instant::now();
    lab.start_backend(VICTIM)?;
    balancer.wait_for_health("web", &victim, "up", Duration::from_secs(20))?;
    let back = wait_for_request(&load, &victim, restarted)?;
    say(&format!("{victim}: restarted, and serving again after {:.0} ms", ms(restarted, back)));
    sleep(Duration::from_secs(1));

    let report = load.stop()?;
    let (killed_ones, others) = broken(&connections.stop()?, &victim);
    balancer.stop()?;
    check_detached(&lab)?;

    let measured = Measured {
        mode,
        family: family.to_string(),
        spread,
        requests_under_load: report.requests.len(),
        detection_ms: ms(killed, detected),
        expected_detection_ms: EXPECTED_DETECTION_MS,
        failed_until_detection: report.failures() - report.failures_started(detected, end()),
        failed_after_detection: report.failures_started(detected, end()),
        broken_to_killed: killed_ones,
        broken_to_others: others,
        fail_back_ms: ms(restarted, back),
    };
    say(&format!(
        "of {} requests under load {} failed until detection and {} after; broken connections: \
         {} to {victim}, {} to the others",
        measured.requests_under_load,
        measured.failed_until_detection,
        measured.failed_after_detection,
        measured.broken_to_killed,
        measured.broken_to_others
    ));
    if report.failures() > 0 {
        let kinds = report.failure_kinds();
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        say(&format!("failures by kind: {}", kinds.join(", ")));
    }
    Ok(measured)
}

fn spread(lab: &Lab, target: SocketAddr) -> Result<BTreeMap<String, u64>> {
    let report = Load::new(target, Limit::Requests(REQUESTS)).run(lab.client())?;
    if report.failures() > 0 {
        bail!("requests failed with all backends up: {:?}", report.failure_kinds());
    }
    let counts = report.served_by();
    let line: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    say(&format!("spread of {REQUESTS} requests: {}", line.join(", ")));
    if counts.len() != usize::from(BACKENDS) {
        bail!("only {} of {BACKENDS} backends got requests", counts.len());
    }
    Ok(counts)
}

fn curl(lab: &Lab, target: SocketAddr) -> Result<String> {
    let url = format!("http://{target}/");
    capture(
        lab.client()
            .command("curl")
            .args(["--silent", "--show-error", "--fail", "--globoff"])
            .args(["--max-time", "3", &url]),
    )
}

fn wait_for_request(load: &RunningLoad, backend: &str, since: Instant) -> Result<Instant> {
    let limit = since + Duration::from_secs(30);
    while Instant::now() < limit {
        if let Some(first) = load.so_far().first_served_by(backend, since) {
            return Ok(first);
        }
        sleep(Duration::from_millis(20));
    }
    bail!("{backend} is up again, but got no request in 30 s")
}

/// Connections that broke or changed their backend: those of the killed one, and the others.
fn broken(reports: &[ConnectionReport], killed: &str) -> (usize, usize) {
    let broken = reports.iter().filter(|r| r.broken.is_some() || r.moved_to.is_some());
    let (own, others): (Vec<_>, Vec<_>) =
        broken.partition(|report| report.backend.as_deref() == Some(killed));
    (own.len(), others.len())
}

/// After SIGTERM the interface must be as it was before.
fn check_detached(lab: &Lab) -> Result<()> {
    let links = capture(lab.balancer().command("ip").args(["-j", "link", "show", "eth0"]))?;
    let links: serde_json::Value = serde_json::from_str(&links).context("ip printed no JSON")?;
    if !links[0]["xdp"].is_null() {
        bail!("lb has ended, but eth0 still has an XDP program");
    }
    Ok(())
}

fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3
}

/// Later than any request.
fn end() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

fn say(text: &str) {
    eprintln!("    {text}");
}
