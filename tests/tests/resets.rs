//! `on_down = "reset"`: real clients of a dead backend learn at once that their connections are over,
//! from the balancer, and with `rehash` they do not.
//!
//! The backend's cable is out, so that nobody but the balancer can tell them: a server that is killed
//! has its kernel close its connections.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, ConnectionReport, Failure, Family, Fault, Lab, LongConnections, Mode,
    QUICK_DETECTION, RunningConnections, ServiceConfig, Topology,
};

const VICTIM: u8 = 1;
const NAME: &str = "web-02";
/// For a machine that is busy with other tests.
const SLACK: Duration = Duration::from_secs(3);
/// How long clients wait for an answer: far longer than a reset takes.
const PATIENCE: Duration = Duration::from_secs(12);

struct Scene {
    lab: Lab,
    balancer: Balancer,
    target: SocketAddr,
}

impl Scene {
    fn start(family: Family, on_down: &str) -> Self {
        let lab = Lab::build(Topology::new(Mode::Nat, 3)).unwrap();
        let mut service = ServiceConfig::quick(Mode::Nat, family);
        service.idle_timeout = "300s".into();
        service.more = format!("failover = {{ on_down = \"{on_down}\" }}\n");
        let balancer = Balancer::serving(&lab, &[service]).unwrap();
        Self { lab, balancer, target: SocketAddr::new(family.vip(), 80) }
    }

    fn connect(&self) -> RunningConnections {
        let mut connections = LongConnections::new(self.target, 24).timeout(PATIENCE);
        connections.interval = Duration::from_millis(100);
        let connections = connections.start(self.lab.client());
        sleep(Duration::from_secs(1));
        connections
    }

    /// Takes the victim's cable out. When it was well for the last time, and when it is down.
    fn unplug(&self) -> (Instant, Instant) {
        let caused = Fault::LinkDown.cause(&self.lab, VICTIM).unwrap();
        let limit = QUICK_DETECTION + SLACK;
        let noticed = self.balancer.wait_for_health("web", NAME, "down", limit).unwrap();
        (caused, noticed)
    }

    fn count(&self, name: &str) -> u64 {
        self.balancer.count().unwrap().of(name).unwrap()
    }
}

/// Those of the victim and those of the others, of which nothing may break.
fn of_victim(reports: Vec<ConnectionReport>) -> Vec<ConnectionReport> {
    let (victims, others): (Vec<_>, Vec<_>) =
        reports.into_iter().partition(|c| c.backend.as_deref() == Some(NAME));
    assert!(!victims.is_empty() && !others.is_empty());
    for other in others {
        assert!(other.broken.is_none() && other.moved_to.is_none(), "{other:?}");
    }
    victims
}

fn reset(family: Family) {
    let scene = Scene::start(family, "reset");
    let connections = scene.connect();
    let (caused, noticed) = scene.unplug();
    // Whoever is silent for a while is told at its next segment, be it minutes later.
    sleep(QUICK_DETECTION + SLACK);
    let victims = of_victim(connections.stop().unwrap());
    let mut longest = Duration::ZERO;
    for victim in &victims {
        let Some((when, Failure::Reset)) = &victim.broken else { panic!("{victim:?}") };
        assert!(*when > caused, "{victim:?}");
        longest = longest.max(when.saturating_duration_since(noticed));
    }
    let made = scene.count("reset-sent");
    println!("{family}: {} reset, the last {longest:?} after the decision", victims.len());
    // The client's own timer decides when it sends again: 200 ms, and twice as long each time.
    assert!(longest < QUICK_DETECTION + SLACK, "{longest:?}");
    assert!(made >= victims.len() as u64, "{made} resets");
    assert_eq!(scene.count("drop-nat-backend-down"), 0);
    scene.balancer.stop().unwrap();
}

#[test]
fn clients_of_a_dead_backend_are_reset_over_ipv4() {
    reset(Family::V4);
}

#[test]
fn clients_of_a_dead_backend_are_reset_over_ipv6() {
    reset(Family::V6);
}

#[test]
fn with_rehash_clients_of_a_dead_backend_wait() {
    let scene = Scene::start(Family::V4, "rehash");
    let connections = scene.connect();
    scene.unplug();
    let victims = of_victim(connections.stop().unwrap());
    for victim in &victims {
        assert!(matches!(&victim.broken, Some((_, Failure::Timeout))), "{victim:?}");
    }
    assert_eq!(scene.count("reset-sent"), 0);
    assert!(scene.count("drop-nat-backend-down") > 0);
    scene.balancer.stop().unwrap();
}
