//! `slow_start`: a backend that returns grows to its share, and nobody notices but it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Family, Lab, Limit, Load, Mode, Outcome, Report, ServiceConfig, Topology,
};

const LIMIT: Duration = Duration::from_secs(10);

fn admit(balancer: &Balancer) -> f64 {
    let status = balancer.status().unwrap();
    status["services"][0]["backends"][0]["admit"].as_f64().unwrap()
}

/// In each quarter of the time its peers share what the backend does not take yet, evenly.
fn nobody_is_flooded(report: &Report, began: Instant, ended: Instant) {
    let share = |quarter: u32, name: &str| {
        let length = (ended - began) / 4;
        let from = began + length * quarter;
        let within = report.requests.iter().filter(|r| (from..from + length).contains(&r.started));
        let served: Vec<_> = within.map(|request| &request.outcome).collect();
        let own = served.iter().filter(|outcome| ***outcome == Outcome::Served(name.into()));
        own.count() as f64 / served.len() as f64
    };
    let returning: Vec<f64> = (0..4).map(|quarter| share(quarter, "web-01")).collect();
    // Not up to a third: clients use their ports again, and what is recorded stays where it is.
    assert!(returning[0] < 0.15 && returning[3] > 2.0 * returning[0], "{returning:?}");
    for peer in ["web-02", "web-03"] {
        let shares: Vec<f64> = (0..4).map(|quarter| share(quarter, peer)).collect();
        assert!(shares.iter().all(|share| (0.25..0.6).contains(share)), "{peer}: {shares:?}");
    }
}

#[test]
fn a_returning_backend_grows_to_its_full_share() {
    let lab = Lab::build(Topology::new(Mode::Dsr, 3)).unwrap();
    let config = lab.config(&[ServiceConfig::http(Mode::Dsr, Family::V4)]);
    let config = config.replace("idle_timeout", "slow_start = \"4s\"\nidle_timeout");
    let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
    balancer.wait_until_up(LIMIT).unwrap();
    assert!((admit(&balancer) - 1.0).abs() < f64::EPSILON, "at start there is nothing to warm up");

    lab.kill_backend(0).unwrap();
    balancer.wait_for_health("web", "web-01", "down", LIMIT).unwrap();
    let target = SocketAddr::new(Family::V4.vip(), 80);
    let load = Load::new(target, Limit::UntilStopped).threads(2).start(lab.client());
    lab.start_backend(0).unwrap();
    balancer.wait_for_health("web", "web-01", "up", LIMIT).unwrap();

    let began = Instant::now();
    let mut shares = vec![admit(&balancer)];
    while shares.last().is_some_and(|share| *share < 1.0) && began.elapsed() < LIMIT {
        sleep(Duration::from_millis(100));
        shares.push(admit(&balancer));
    }
    let ended = Instant::now();
    let report = load.stop().unwrap();
    nobody_is_flooded(&report, began, ended);
    assert!(shares[0] < 0.5, "{shares:?}");
    assert!(shares.is_sorted(), "{shares:?}");
    assert!((shares.last().unwrap() - 1.0).abs() < f64::EPSILON, "{shares:?}");
    assert!(shares.len() > 8, "steps, not a jump: {shares:?}");
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
}
