//! Few NAT ports and many short connections: every port is taken again soon after it was given
//! back, and housekeeping must not take a new connection for the old one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::{Balancer, Family, Lab, Limit, Load, Mode, ServiceConfig, Topology};

fn check(family: Family) {
    let lab = Lab::build(Topology::new(Mode::Nat, 4)).unwrap();
    let config = lab.config(&[ServiceConfig::quick(Mode::Nat, family)]);
    let config = config.replacen("[node]\n", "[node]\nnat_ports = \"2000-16000\"\n", 1);
    let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
    balancer.wait_until_up(Duration::from_secs(10)).unwrap();

    let target = SocketAddr::new(family.vip(), 80);
    let load = Load::new(target, Limit::For(Duration::from_secs(10))).threads(8);
    let report = load.pause(Duration::from_millis(4)).run(lab.client()).unwrap();
    let counts = balancer.count().unwrap();
    let (opened, taken) = (counts.of("nat-insert").unwrap(), counts.of("nat-port-taken").unwrap());
    println!(
        "{family}: {} requests, {} failed; {opened} connections, {taken} ports were taken",
        report.requests.len(),
        report.failures(),
    );
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    assert!(taken > 0, "ports were not scarce");
    for drop in ["drop-nat-no-port", "drop-nat-full", "drop-nat-no-connection"] {
        assert_eq!(counts.of(drop).unwrap(), 0, "{drop}");
    }
    balancer.stop().unwrap();
}

#[test]
fn ports_come_back_v4() {
    check(Family::V4);
}

#[test]
fn ports_come_back_v6() {
    check(Family::V6);
}
