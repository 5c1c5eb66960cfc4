//! What clients' packets meet brings the next probe forward: a dead backend is found long before it
//! would be asked by itself. Without clients it is not.
//!
//! Probes are an hour apart, so that none comes by itself while a test runs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{Balancer, Connection, Failure, Family, Fault, Lab, Mode, ServiceConfig, Topology};

const VICTIM: u8 = 1;
const NAME: &str = "web-02";
/// Far longer than it takes, and far shorter than the interval.
const LIMIT: Duration = Duration::from_secs(20);

struct Scene {
    lab: Lab,
    balancer: Balancer,
    target: SocketAddr,
}

impl Scene {
    fn start(family: Family) -> Self {
        let lab = Lab::build(Topology::new(Mode::Nat, 3)).unwrap();
        let mut service = ServiceConfig::http(Mode::Nat, family);
        service.health = "http = \"/healthz\", interval = \"1h\", fast_interval = \"100ms\", \
                          timeout = \"500ms\", rise = 1, fall = 2"
            .into();
        let balancer = Balancer::serving(&lab, &[service]).unwrap();
        Self { lab, balancer, target: SocketAddr::new(family.vip(), 80) }
    }

    /// Breaks the victim, and shows that nobody notices as long as there are no clients.
    fn break_unnoticed(&self, fault: Fault) {
        fault.cause(&self.lab, VICTIM).unwrap();
        sleep(Duration::from_secs(2));
        assert_eq!(self.balancer.health("web", NAME).unwrap(), "up");
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
