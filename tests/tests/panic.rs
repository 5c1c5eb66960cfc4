//! The page that probes ask for breaks on all servers at once: they serve on, and so does the service.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_tests::{Balancer, Family, Fault, Lab, Limit, Load, Mode, ServiceConfig, Topology};

const LIMIT: Duration = Duration::from_secs(20);
const SERVERS: u8 = 4;

fn panics(balancer: &Balancer) -> bool {
    !balancer.status().unwrap()["services"][0]["panic"].is_null()
}

fn wait_for_panic(balancer: &Balancer, expect: bool) {
    let end = Instant::now() + LIMIT;
    while panics(balancer) != expect {
        assert!(Instant::now() < end, "panic is not {expect}: {}", balancer.log());
        sleep(Duration::from_millis(50));
    }
}

fn check(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, SERVERS)).unwrap();
    let balancer = Balancer::serving(&lab, &[ServiceConfig::quick(mode, family)]).unwrap();
    let target = SocketAddr::new(family.vip(), 80);
    let load = Load::new(target, Limit::UntilStopped).threads(4).pause(Duration::from_millis(2));
    let load = load.start(lab.client());

    for server in 0..SERVERS {
        Fault::Status500.cause(&lab, server).unwrap();
    }
    wait_for_panic(&balancer, true);
    let panicked = Instant::now();
    let panic = balancer.status().unwrap()["services"][0]["panic"].clone();
    assert_eq!(panic["counted"], SERVERS, "{panic}");
    sleep(Duration::from_secs(2));
    assert!(panics(&balancer), "for as long as it lasts: {}", balancer.log());
    let mended = Instant::now();
    for server in 0..SERVERS {
        Fault::Status500.heal(&lab, server).unwrap();
    }
    wait_for_panic(&balancer, false);
    for backend in lab.backends() {
        balancer.wait_for_health("web", &backend.name, "up", LIMIT).unwrap();
    }

    let report = load.stop().unwrap();
    assert_eq!(report.failures(), 0, "{:?}: {}", report.failure_kinds(), balancer.log());
    for backend in lab.backends() {
        let first = report.first_served_by(&backend.name, panicked);
        assert!(first.is_some_and(|first| first < mended), "{} is out", backend.name);
    }
    balancer.stop().unwrap();
}

#[test]
fn nat_v4() {
    check(Mode::Nat, Family::V4);
}

#[test]
fn dsr_v6() {
    check(Mode::Dsr, Family::V6);
}
