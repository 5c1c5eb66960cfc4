//! A backend fails under load and comes back: who notices, and for how long.
//!
//! Real nginx, the kernel's own TCP; 4 backends, of which the second fails.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, ConnectionReport, Family, Fault, Lab, Limit, Load, LongConnections, Mode,
    QUICK_DETECTION, Report, RunningConnections, RunningLoad, ServiceConfig, Topology,
};

const VICTIM: u8 = 1;
const NAME: &str = "web-02";
/// For `lb status` to be asked and answered on a machine that is busy with the load.
const SLACK: Duration = Duration::from_secs(1);
/// `idle_timeout` of the service.
const SETTLED: Duration = Duration::from_secs(3);

/// A service under load.
struct Scene {
    lab: Lab,
    target: SocketAddr,
    balancer: Balancer,
    load: RunningLoad,
}

impl Scene {
    fn start(mode: Mode, family: Family) -> Self {
        let lab = Lab::build(Topology::new(mode, 4)).unwrap();
        let balancer = Balancer::serving(&lab, &[ServiceConfig::quick(mode, family)]).unwrap();
        let target = SocketAddr::new(family.vip(), 80);
        let load =
            Load::new(target, Limit::UntilStopped).threads(4).pause(Duration::from_millis(2));
        let load = load.start(lab.client());
        Self { lab, target, balancer, load }
    }

    fn connections(&self) -> RunningConnections {
        let mut connections = LongConnections::new(self.target, 32);
        connections.interval = Duration::from_millis(200);
        connections.start(self.lab.client())
    }

    /// Until the backend has its full share again and some time beyond.
    fn wait_for_return(&self) {
        self.balancer.wait_for_health("web", NAME, "up", SETTLED).unwrap();
        self.balancer.wait_for_state("web", NAME, "serving", SETTLED + SLACK * 3).unwrap();
        sleep(Duration::from_millis(500));
    }
}

fn served_by_victim(report: &ConnectionReport) -> bool {
    report.backend.as_deref() == Some(NAME)
}

fn broken(connections: &[ConnectionReport]) -> Vec<&ConnectionReport> {
    connections.iter().filter(|c| c.broken.is_some() || c.moved_to.is_some()).collect()
}

fn failed_from(report: &Report, from: Instant) -> usize {
    report.requests.iter().filter(|request| request.failed() && request.started >= from).count()
}

/// The server is dead: requests fail until that is noticed, and not after.
fn hard(mode: Mode, family: Family, fault: Fault) {
    let scene = Scene::start(mode, family);
    let early = scene.connections();
    sleep(Duration::from_millis(500));

    let caused = fault.cause(&scene.lab, VICTIM).unwrap();
    let limit = QUICK_DETECTION + SLACK;
    let noticed = scene.balancer.wait_for_health("web", NAME, "down", limit).unwrap();
    let health = scene.balancer.backend("web", NAME).unwrap()["health"].clone();
    // Some of these would live at the dead backend; its return must not take them there.
    let meanwhile = scene.connections();
    sleep(Duration::from_millis(500));

    let mended = Instant::now();
    fault.heal(&scene.lab, VICTIM).unwrap();
    scene.wait_for_return();

    let report = scene.load.stop().unwrap();
    let early = early.stop().unwrap();
    let meanwhile = meanwhile.stop().unwrap();
    println!(
        "{mode} {family} {fault:?}: noticed after {:?}, {} of {} requests failed ({:?}), {} after; {}",
        noticed - caused,
        report.failures(),
        report.requests.len(),
        report.failure_kinds(),
        failed_from(&report, noticed),
        health["last_failure"],
    );
    let too_early = report.requests.iter().filter(|r| r.failed() && r.ended() < caused).count();
    assert_eq!(too_early, 0, "before the fault");
    assert_eq!(failed_from(&report, noticed), 0, "{:?}", scene.balancer.log());
    assert!(health["detection_ms"].as_f64().is_some(), "{health}");
    assert!(report.first_served_by(NAME, mended).is_some(), "{:?}", report.served_by());

    let others: Vec<_> = early.into_iter().filter(|c| !served_by_victim(c)).collect();
    assert!(others.len() < 32, "no connection to the victim to begin with");
    assert_eq!(broken(&others), Vec::<&ConnectionReport>::new());
    assert_eq!(broken(&meanwhile), Vec::<&ConnectionReport>::new());
    assert!(!meanwhile.iter().any(served_by_victim), "new connections to a dead backend");
    scene.balancer.stop().unwrap();
}

/// The application says no: it gets nothing new, and finishes what it has.
fn soft(mode: Mode, family: Family) {
    let scene = Scene::start(mode, family);
    let early = scene.connections();
    sleep(Duration::from_millis(500));

    Fault::Status500.cause(&scene.lab, VICTIM).unwrap();
    scene.balancer.wait_for_health("web", NAME, "down", QUICK_DETECTION + SLACK).unwrap();
    let noticed = Instant::now();
    let meanwhile = scene.connections();
    scene.balancer.wait_for_state("web", NAME, "drained", SETTLED + SLACK).unwrap();
    sleep(Duration::from_millis(500));

    let mended = Instant::now();
    Fault::Status500.heal(&scene.lab, VICTIM).unwrap();
    scene.wait_for_return();

    let report = scene.load.stop().unwrap();
    let early = early.stop().unwrap();
    let meanwhile = meanwhile.stop().unwrap();
    println!(
        "{mode} {family} HTTP 500: {} requests, {} failed; {} connections stayed with the victim",
        report.requests.len(),
        report.failures(),
        early.iter().filter(|c| served_by_victim(c)).count(),
    );
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    let first = report.first_served_by(NAME, noticed);
    assert!(first.is_some_and(|first| first >= mended), "new requests while sick: {first:?}");
    assert!(early.iter().any(served_by_victim));
    assert_eq!(broken(&early), Vec::<&ConnectionReport>::new());
    assert_eq!(broken(&meanwhile), Vec::<&ConnectionReport>::new());
    assert!(!meanwhile.iter().any(served_by_victim), "new connections to a sick backend");
    scene.balancer.stop().unwrap();
}

macro_rules! cases {
    ($($name:ident: $check:expr;)*) => {
        $(#[test] fn $name() { $check; })*
    };
}

cases! {
    killed_nat_v4: hard(Mode::Nat, Family::V4, Fault::Killed);
    killed_nat_v6: hard(Mode::Nat, Family::V6, Fault::Killed);
    killed_dsr_v4: hard(Mode::Dsr, Family::V4, Fault::Killed);
    killed_dsr_v6: hard(Mode::Dsr, Family::V6, Fault::Killed);
    frozen_nat_v6: hard(Mode::Nat, Family::V6, Fault::Frozen);
    frozen_dsr_v4: hard(Mode::Dsr, Family::V4, Fault::Frozen);
    unplugged_nat_v4: hard(Mode::Nat, Family::V4, Fault::LinkDown);
    unplugged_dsr_v6: hard(Mode::Dsr, Family::V6, Fault::LinkDown);
    sick_nat_v6: soft(Mode::Nat, Family::V6);
    sick_dsr_v4: soft(Mode::Dsr, Family::V4);
}
