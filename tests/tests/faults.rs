//! A backend fails in each of the ways there are: what is said of it names the layer, and it comes back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::time::Duration;

use lb_tests::{Balancer, Family, Fault, Lab, Mode, ServiceConfig, Topology};

const LIMIT: Duration = Duration::from_secs(20);
const VICTIM: u8 = 1;
const NAME: &str = "web-02";

/// How the reason may begin.
fn reasons(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::Killed => &["refused: "],
        // The kernel may still believe in its neighbour.
        Fault::LinkDown => &["no neighbour: ", "timeout: no answer"],
        Fault::Dropped => &["timeout: no answer"],
        Fault::Frozen => &["timeout: connected, but no HTTP answer"],
        Fault::Status500 => &["status: HTTP 500"],
    }
}

fn check(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, 3)).unwrap();
    let mut service = ServiceConfig::quick(mode, family);
    // It fails again and again here.
    service.health += ", hold_down = \"0s\"";
    let balancer = Balancer::serving(&lab, &[service]).unwrap();
    for fault in Fault::ALL {
        fault.cause(&lab, VICTIM).unwrap();
        balancer.wait_for_health("web", NAME, "down", LIMIT).unwrap();
        let backend = balancer.backend("web", NAME).unwrap();
        let reason = backend["health"]["last_failure"].as_str().unwrap();
        let is_right = reasons(fault).iter().any(|start| reason.starts_with(start));
        assert!(is_right, "{} {mode} {family}: {reason}", fault.name());
        assert_eq!(backend["admit"].as_f64(), Some(0.0), "{}: {backend}", fault.name());

        fault.heal(&lab, VICTIM).unwrap();
        balancer.wait_for_health("web", NAME, "up", LIMIT).unwrap();
        balancer.wait_for_state("web", NAME, "serving", LIMIT).unwrap();
    }
    balancer.stop().unwrap();
}

#[test]
fn nat_v6() {
    check(Mode::Nat, Family::V6);
}

#[test]
fn dsr_v4() {
    check(Mode::Dsr, Family::V4);
}
