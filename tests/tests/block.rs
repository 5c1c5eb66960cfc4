//! `lb block`: who is on the list gets nothing from any service, whatever happens to the daemon.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{Balancer, Family, Lab, Limit, Load, Mode, Report, ServiceConfig, Topology};

const UP: Duration = Duration::from_secs(10);

fn requests(lab: &Lab, family: Family) -> Report {
    let target = SocketAddr::new(family.vip(), 80);
    let load = Load::new(target, Limit::Requests(20)).threads(4);
    load.timeout(Duration::from_millis(300)).run(lab.client()).unwrap()
}

fn is_blocked(lab: &Lab, balancer: &Balancer, family: Family) -> bool {
    let dropped = || balancer.count().unwrap().of("drop-blocked").unwrap();
    let before = dropped();
    let report = requests(lab, family);
    let failures = report.failures();
    assert!(failures == 0 || failures == 20, "all or none: {:?}", report.failure_kinds());
    assert_eq!(dropped() > before, failures > 0, "drop-blocked counts what is blocked");
    failures > 0
}

fn block(balancer: &Balancer, arguments: &[&str], code: i32) -> String {
    let output = balancer.cli(&[&["block"], arguments].concat()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

fn check(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, 2)).unwrap();
    let balancer = Balancer::serving(&lab, &[ServiceConfig::quick(mode, family)]).unwrap();
    let client = lab.topology().client(family).to_string();
    assert!(!is_blocked(&lab, &balancer, family));

    let said = block(&balancer, &["add", &client, "--reason", "a test"], 0);
    assert!(said.contains("blocked"), "{said}");
    assert!(is_blocked(&lab, &balancer, family));
    let said = block(&balancer, &["add", &client], 0);
    assert!(said.contains("nothing to change"), "{said}");
    let listed = balancer.json(&["block", "list"]).unwrap();
    assert_eq!(listed[0]["prefix"], client.as_str());
    assert_eq!(listed[0]["reason"], "a test");
    assert!(block(&balancer, &["list"], 0).contains("never"));

    // Beside a change of the services, and after a restart.
    let changed = balancer.cli(&["backend", "weight", "web/web-02", "2"]).unwrap();
    assert!(changed.status.success());
    assert!(is_blocked(&lab, &balancer, family));
    balancer.stop().unwrap();
    let balancer = Balancer::run(&lab, &Balancer::binary().unwrap()).unwrap();
    balancer.wait_until_up(UP).unwrap();
    assert!(is_blocked(&lab, &balancer, family));

    block(&balancer, &["remove", &client], 0);
    assert!(!is_blocked(&lab, &balancer, family));
    assert!(block(&balancer, &["remove", &client], 0).contains("nothing to change"));
    assert!(block(&balancer, &["list"], 0).contains("nobody is blocked"));

    // A block with an end.
    let began = Instant::now();
    block(&balancer, &["add", &client, "--for", "3s"], 0);
    assert!(is_blocked(&lab, &balancer, family));
    sleep(Duration::from_millis(3_200).saturating_sub(began.elapsed()));
    assert!(!is_blocked(&lab, &balancer, family));

    // What the node needs is not blocked by mistake.
    let all = if family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
    let said = block(&balancer, &["add", all], 1);
    assert!(said.contains("--force"), "{said}");
    assert!(!is_blocked(&lab, &balancer, family));
    block(&balancer, &["add", all, "--force"], 0);
    assert!(is_blocked(&lab, &balancer, family));
    balancer.stop().unwrap();
}

#[test]
fn a_blocked_client_gets_nothing_by_nat() {
    check(Mode::Nat, Family::V4);
}

#[test]
fn a_blocked_client_gets_nothing_by_dsr() {
    check(Mode::Dsr, Family::V6);
}
