//! What clients' packets meet brings the next probe forward: a dead backend is found long before it
//! would be asked by itself. Without clients it is not.
//!
//! Probes are an hour apart, so that none comes by itself while a test runs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Connection, Decap, Failure, Family, Fault, Lab, Mode, ServiceConfig, Topology,
};

const VICTIM: u8 = 1;
const NAME: &str = "web-02";
/// Far longer than it takes, and far shorter than the interval.
const LIMIT: Duration = Duration::from_secs(20);

struct Scene {
    /// Of tunnels; before the lab, which takes its namespaces away.
    _decaps: Vec<Decap>,
    lab: Lab,
    balancer: Balancer,
    target: SocketAddr,
}

impl Scene {
    fn start(family: Family) -> Self {
        Self::of(Topology::new(Mode::Nat, 3), family)
    }

    fn of(topology: Topology, family: Family) -> Self {
        let mode = topology.mode;
        let lab = Lab::build(topology).unwrap();
        let decaps = Decap::if_needed(&lab).unwrap();
        let mut service = ServiceConfig::http(mode, family);
        service.health = "http = \"/healthz\", interval = \"1h\", fast_interval = \"100ms\", \
                          timeout = \"500ms\", rise = 1, fall = 2"
            .into();
        let balancer = Balancer::serving(&lab, &[service]).unwrap();
        let target = SocketAddr::new(family.vip(), 80);
        Self { _decaps: decaps, lab, balancer, target }
    }

    /// Nobody notices, as long as there are no clients.
    fn goes_unnoticed(&self) {
        sleep(Duration::from_secs(2));
        assert_eq!(self.balancer.health("web", NAME).unwrap(), "up");
    }

    fn break_unnoticed(&self, fault: Fault) {
        fault.cause(&self.lab, VICTIM).unwrap();
        self.goes_unnoticed();
    }

    fn count(&self, name: &str) -> u64 {
        self.balancer.count().unwrap().of(name).unwrap()
    }

    /// Connects until the victim is known to be down; how that took, and how connections failed.
    fn connect_until_down(&self) -> (Duration, Vec<Failure>) {
        let (began, target) = (Instant::now(), self.target);
        let mut failures = Vec::new();
        while self.balancer.health("web", NAME).unwrap() == "up" {
            assert!(began.elapsed() < LIMIT, "{failures:?}\n{}", self.balancer.log());
            let opened = self
                .lab
                .client()
                .enter(move || Connection::open(target, Duration::from_millis(300)).map(|_| ()));
            failures.extend(opened.unwrap().err());
        }
        (began.elapsed(), failures)
    }
}

#[test]
fn a_refused_client_has_the_backend_probed() {
    for family in Family::ALL {
        let scene = Scene::start(family);
        scene.break_unnoticed(Fault::Killed);
        let (took, failures) = scene.connect_until_down();
        println!("{family}: found after {took:?} and {} refused", failures.len());
        assert!(failures.contains(&Failure::Refused), "{failures:?}");
        assert!(scene.count("nat-refused") > 0);
        scene.balancer.stop().unwrap();
    }
}

#[test]
fn a_client_without_an_answer_has_the_backend_probed() {
    let scene = Scene::start(Family::V4);
    scene.break_unnoticed(Fault::Dropped);
    let (took, failures) = scene.connect_until_down();
    println!("found after {took:?} and {} unanswered", failures.len());
    assert!(failures.contains(&Failure::Timeout), "{failures:?}");
    assert_eq!(scene.count("nat-refused"), 0);
    scene.balancer.stop().unwrap();
}

/// A router on the way has no route to the victim any more, and says so: to the balancer, as what it
/// is about is from there.
fn out_of_reach(mode: Mode, family: Family) {
    let scene = Scene::of(Topology::new(mode, 3).behind(1500), family);
    let victim = scene.lab.topology().backend(VICTIM, family).to_string();
    let front = &scene.lab.routers_behind()[0];
    let mut route = front.command("ip");
    let done = route.args(["route", "add", "unreachable", &victim]).status().unwrap();
    assert!(done.success());
    scene.goes_unnoticed();
    let (took, failures) = scene.connect_until_down();
    println!("{mode} {family}: found after {took:?} and {} failures", failures.len());
    assert!(!failures.is_empty());
    assert_eq!(scene.count("nat-unreachable") > 0, mode == Mode::Nat);
    scene.balancer.stop().unwrap();
}

#[test]
fn a_router_that_knows_no_way_has_the_backend_probed_in_nat() {
    out_of_reach(Mode::Nat, Family::V4);
    out_of_reach(Mode::Nat, Family::V6);
}

#[test]
fn a_router_that_knows_no_way_has_the_backend_probed_in_ipip() {
    out_of_reach(Mode::Ipip, Family::V4);
}

#[test]
fn a_router_that_knows_no_way_has_the_backend_probed_in_gue() {
    out_of_reach(Mode::Gue, Family::V6);
}
