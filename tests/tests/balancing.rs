//! The whole product in a lab: real nginx, the kernel's own TCP and UDP, `lb run` in between.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::{Balancer, Family, Lab, Limit, Load, Mode, ServiceConfig, Topology};

fn target(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(), 80)
}

/// Balances 300 requests over three backends; everybody serves, nobody fails.
fn check(topology: Topology, mode: Mode, family: Family) {
    let lab = Lab::build(topology).unwrap();
    let config = lab.config(&[ServiceConfig::http(mode, family)]);
    let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
    balancer.wait_until_up(Duration::from_secs(10)).unwrap();
    let load = Load::new(target(family), Limit::Requests(300)).threads(4);
    let report = load.run(lab.client()).unwrap();
    let status = balancer.status().unwrap();
    assert_eq!(report.failures(), 0, "{:?}\n{status:#}", report.failure_kinds());
    assert_eq!(report.served_by().len(), 3, "{:?}", report.served_by());
    balancer.stop().unwrap();
}

#[test]
fn nat_v4() {
    check(Topology::new(Mode::Nat, 3), Mode::Nat, Family::V4);
}

#[test]
fn nat_v6() {
    check(Topology::new(Mode::Nat, 3), Mode::Nat, Family::V6);
}

#[test]
fn dsr_v4() {
    check(Topology::new(Mode::Dsr, 3), Mode::Dsr, Family::V4);
}

#[test]
fn dsr_v6() {
    check(Topology::new(Mode::Dsr, 3), Mode::Dsr, Family::V6);
}

#[test]
fn nat_v4_between_two_interfaces() {
    check(Topology::new(Mode::Nat, 3).two_armed(), Mode::Nat, Family::V4);
}

#[test]
fn dsr_v6_between_two_interfaces() {
    check(Topology::new(Mode::Dsr, 3).two_armed(), Mode::Dsr, Family::V6);
}
