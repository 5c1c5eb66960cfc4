//! The balancer's own link is down for a while: that is not the backends' failure.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_tests::{
    Balancer, Family, Lab, Limit, Load, Mode, Namespace, ServiceConfig, Topology, ping,
};

const LIMIT: Duration = Duration::from_secs(20);
const OUTAGE: Duration = Duration::from_secs(3);
const REQUESTS: u64 = 60;

fn check(mode: Mode, end: fn(&Lab) -> (&Namespace, &'static str)) {
    let lab = Lab::build(Topology::new(mode, 3)).unwrap();
    let balancer = Balancer::serving(&lab, &[ServiceConfig::quick(mode, Family::V4)]).unwrap();
    let (namespace, link) = end(&lab);
    let vip = Family::V4.vip();
    // A lost SYN is sent again after a second, and that is not the balancer's doing.
    let requests = Load::new(SocketAddr::new(vip, 80), Limit::Requests(REQUESTS)).timeout(LIMIT);
    assert_eq!(requests.clone().run(lab.client()).unwrap().failures(), 0);

    namespace.ip(&format!("link set {link} down\n")).unwrap();
    let began = Instant::now();
    while began.elapsed() < OUTAGE {
        let status = balancer.status().unwrap();
        assert_eq!(status["services"][0]["backends_serving"], 3, "{status:#}");
        sleep(Duration::from_millis(100));
    }
    namespace.ip(&format!("link set {link} up\n")).unwrap();
    while !ping(lab.client(), vip, 100).unwrap() {
        assert!(began.elapsed() < LIMIT + OUTAGE, "the balancer is not back");
    }

    let report = requests.run(lab.client()).unwrap();
    assert_eq!(report.failures(), 0, "{:?}: {}", report.failure_kinds(), balancer.log());
    assert_eq!(report.served_by().len(), 3, "{:?}", report.served_by());
    let log = balancer.log();
    assert!(!log.contains("its traffic moved"), "{log}");
    balancer.wait_until_up(LIMIT).unwrap();
    balancer.stop().unwrap();
}

/// The switch's end.
#[test]
fn pulled_nat() {
    check(Mode::Nat, |lab| (lab.switch(), "lb0"));
}

#[test]
fn pulled_dsr() {
    check(Mode::Dsr, |lab| (lab.switch(), "lb0"));
}

/// Its own end, by an administrator.
#[test]
fn set_down_dsr() {
    check(Mode::Dsr, |lab| (lab.balancer(), "eth0"));
}
