//! `lb backend drain` and `ready` under load: nothing fails, and what is open finishes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, ConnectionReport, Family, Lab, Limit, Load, LongConnections, Mode, Outcome, Report,
    RunningConnections, ServiceConfig, Topology,
};
use serde_json::Value;

const NAME: &str = "web-03";
const BACKEND: &str = "web/web-03";
/// `idle_timeout` of the service: when a drain settles.
const SETTLED: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(3);

fn start(mode: Mode, family: Family) -> (Lab, Balancer, SocketAddr) {
    let lab = Lab::build(Topology::new(mode, 4)).unwrap();
    let balancer = Balancer::serving(&lab, &[ServiceConfig::quick(mode, family)]).unwrap();
    (lab, balancer, SocketAddr::new(family.vip(), 80))
}

/// A request on each every half second: seldom, but never silent for `idle_timeout`.
fn connections(lab: &Lab, target: SocketAddr) -> RunningConnections {
    let mut connections = LongConnections::new(target, 40);
    connections.interval = Duration::from_millis(500);
    connections.start(lab.client())
}

fn load(target: SocketAddr) -> Load {
    Load::new(target, Limit::UntilStopped).threads(4).pause(Duration::from_millis(2))
}

/// Requests that this backend answered and that were started in `from..to`.
fn served(report: &Report, from: Instant, to: Instant) -> usize {
    let by_it = |outcome: &Outcome| matches!(outcome, Outcome::Served(name) if name == NAME);
    report
        .requests
        .iter()
        .filter(|request| (from..to).contains(&request.started) && by_it(&request.outcome))
        .count()
}

fn at_it(connections: &[ConnectionReport]) -> Vec<&ConnectionReport> {
    connections.iter().filter(|c| c.backend.as_deref() == Some(NAME)).collect()
}

fn broken(connections: &[ConnectionReport]) -> Vec<&ConnectionReport> {
    connections.iter().filter(|c| c.broken.is_some() || c.moved_to.is_some()).collect()
}

/// Drains, waits until that has settled, and takes the backend back.
fn check(mode: Mode, family: Family) {
    let (lab, balancer, target) = start(mode, family);
    let load = load(target).start(lab.client());
    let before = connections(&lab, target);
    sleep(Duration::from_millis(800));

    balancer.json(&["backend", "drain", BACKEND, "--reason", "kernel update"]).unwrap();
    let drained = Instant::now();
    let during = connections(&lab, target);
    balancer.wait_for_state("web", NAME, "drained", SETTLED + SLACK).unwrap();
    // As long again: whoever was kept only by the transition would now be lost.
    sleep(SETTLED + Duration::from_millis(500));
    let status = balancer.backend("web", NAME).unwrap();

    let asked = Instant::now();
    balancer.json(&["backend", "ready", BACKEND]).unwrap();
    balancer.wait_for_state("web", NAME, "serving", SETTLED + SLACK).unwrap();
    sleep(Duration::from_millis(700));

    let report = load.stop().unwrap();
    let ended = Instant::now();
    let (before, during) = (before.stop().unwrap(), during.stop().unwrap());
    println!(
        "{mode} {family}: {} requests, {} failed; {} connections stayed on {NAME} for {:?} of drain; \
         {} requests to it since",
        report.requests.len(),
        report.failures(),
        at_it(&before).len(),
        asked - drained,
        served(&report, asked, ended),
    );
    assert_eq!(report.failures(), 0, "{:?}\n{}", report.failure_kinds(), balancer.log());
    assert_eq!(served(&report, drained, asked), 0, "new requests to a drained backend");
    assert!(served(&report, asked, ended) > 0, "{:?}", report.served_by());
    assert!(!at_it(&before).is_empty());
    assert!(at_it(&during).is_empty(), "new connections to a drained backend");
    for connections in [&before, &during] {
        assert_eq!(broken(connections), Vec::<&ConnectionReport>::new());
    }
    assert_eq!(status["admin"]["state"], "drain", "{status:#}");
    assert_eq!(status["admin"]["reason"], "kernel update");
    assert_eq!(status["admin"]["actor"], "uid 0");
    assert_eq!(status["admit"], 0.0);
    balancer.stop().unwrap();
}

#[test]
fn nat_v4() {
    check(Mode::Nat, Family::V4);
}

#[test]
fn nat_v6() {
    check(Mode::Nat, Family::V6);
}

#[test]
fn dsr_v4() {
    check(Mode::Dsr, Family::V4);
}

#[test]
fn dsr_v6() {
    check(Mode::Dsr, Family::V6);
}

/// Somebody changes their mind, again and again, at every stage of a transition.
fn hasty(mode: Mode, family: Family) {
    let (lab, balancer, target) = start(mode, family);
    let load = load(target).start(lab.client());
    let mut all = vec![connections(&lab, target)];
    for pause in [0, 50, 400, 1500] {
        sleep(Duration::from_millis(300));
        balancer.json(&["backend", "drain", BACKEND]).unwrap();
        all.push(connections(&lab, target));
        sleep(Duration::from_millis(pause));
        balancer.json(&["backend", "ready", BACKEND]).unwrap();
        all.push(connections(&lab, target));
    }
    balancer.wait_for_state("web", NAME, "serving", SETTLED + SLACK).unwrap();
    sleep(SETTLED);
    let report = load.stop().unwrap();
    let connections: Vec<_> = all.into_iter().flat_map(|c| c.stop().unwrap()).collect();
    println!(
        "{mode} {family}: {} requests, {} failed; {} connections, {} broken",
        report.requests.len(),
        report.failures(),
        connections.len(),
        broken(&connections).len(),
    );
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    assert_eq!(broken(&connections), Vec::<&ConnectionReport>::new());
    assert_eq!(balancer.backend("web", NAME).unwrap()["admin"]["state"], "ready");
    balancer.stop().unwrap();
}

#[test]
fn changing_ones_mind_nat() {
    hasty(Mode::Nat, Family::V6);
}

#[test]
fn changing_ones_mind_dsr() {
    hasty(Mode::Dsr, Family::V4);
}

/// A drain is a wish; a service that answers is worth more.
#[test]
fn where_all_are_drained_they_serve_on_and_status_says_so() {
    let (lab, balancer, target) = start(Mode::Dsr, Family::V6);
    let open = connections(&lab, target);
    sleep(Duration::from_millis(800));
    let mut warnings = Value::Null;
    for name in ["web/web-01", "web/web-02", "web/web-03", "web/web-04"] {
        warnings =
            balancer.json(&["backend", "drain", name, "--force"]).unwrap()["warnings"].clone();
    }
    let said = warnings[0].as_str().unwrap_or_default();
    assert!(said.contains("no backend left that is ready"), "{warnings}");
    balancer.wait_for_state("web", "web-04", "drained", SETTLED + SLACK).unwrap();

    let report = Load::new(target, Limit::Requests(200)).run(lab.client()).unwrap();
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    assert_eq!(report.served_by().len(), 4, "{:?}", report.served_by());
    let status = balancer.status().unwrap();
    assert_eq!(status["services"][0]["backends_serving"], 0);
    let first = &status["warnings"][0];
    assert_eq!(first["subject"], "web", "{first:#}");
    assert!(first["message"].as_str().is_some_and(|m| m.contains("draining")), "{first:#}");
    assert_eq!(broken(&open.stop().unwrap()), Vec::<&ConnectionReport>::new());
    balancer.stop().unwrap();
}

#[test]
fn a_drain_survives_a_restart() {
    let (lab, balancer, target) = start(Mode::Nat, Family::V4);
    balancer.json(&["backend", "drain", BACKEND, "--reason", "new disk"]).unwrap();
    balancer.stop().unwrap();

    let balancer = Balancer::run(&lab, &Balancer::binary().unwrap()).unwrap();
    balancer.wait_until_up(Duration::from_secs(10)).unwrap();
    let status = balancer.backend("web", NAME).unwrap();
    // Drained moments ago: what it still has may finish.
    assert_eq!(status["state"], "draining", "{status:#}");
    assert_eq!(status["admin"]["reason"], "new disk");
    assert_eq!(status["admin"]["actor"], "uid 0");
    let text = String::from_utf8(balancer.cli(&["status"]).unwrap().stdout).unwrap();
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains(r#"by uid 0 ("new disk")"#), "{text}");
    assert!(said.contains("next: lb backend ready web/web-03"), "{text}");

    let report = Load::new(target, Limit::Requests(400)).run(lab.client()).unwrap();
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    assert_eq!(report.served_by().len(), 3, "{:?}", report.served_by());
    assert!(!report.served_by().contains_key(NAME));
    balancer.json(&["backend", "ready", BACKEND]).unwrap();
    let report = Load::new(target, Limit::Requests(400)).run(lab.client()).unwrap();
    assert_eq!(report.served_by().len(), 4, "{:?}", report.served_by());
    balancer.stop().unwrap();
}
