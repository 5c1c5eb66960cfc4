//! What a packet costs once nothing changes any more, by the program's own counters.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Counts, Decap, Family, Lab, Limit, Load, LongConnections, Mode, QUICK_DETECTION,
    ServiceConfig, Topology,
};

const NAME: &str = "web-02";
/// `idle_timeout` of the service, and how late a connection's last packet may be noted.
const IDLE: Duration = Duration::from_secs(3 + 2);
/// Housekeeping comes by every second, on a busy machine a little later.
const SLACK: Duration = Duration::from_secs(5);

struct Scene {
    /// Of tunnels; before the lab, which takes its namespaces away.
    _decaps: Vec<Decap>,
    lab: Lab,
    balancer: Balancer,
    target: SocketAddr,
}

impl Scene {
    fn start(service: &ServiceConfig) -> Self {
        let lab = Lab::build(Topology::new(service.mode, 4)).unwrap();
        let decaps = Decap::if_needed(&lab).unwrap();
        let target = SocketAddr::new(service.family.vip(), 80);
        let balancer = Balancer::serving(&lab, std::slice::from_ref(service)).unwrap();
        Self { _decaps: decaps, lab, balancer, target }
    }

    /// Sends some 400 new connections; what that was counted as.
    fn burst(&self) -> Cost {
        let before = self.balancer.count().unwrap();
        let load = Load::new(self.target, Limit::Requests(400)).threads(4);
        let report = load.run(self.lab.client()).unwrap();
        assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
        // What is still under way when the last answer is in: final acknowledgements.
        sleep(Duration::from_millis(50));
        let cost = Cost::between(&before, &self.balancer.count().unwrap());
        println!("{cost:?}");
        assert!(cost.packets >= 400 * 4, "{cost:?}");
        cost
    }
}

#[derive(Debug)]
struct Cost {
    /// Sent to backends.
    packets: u64,
    replies: u64,
    flow_lookups: u64,
    flow_inserts: u64,
    nat_lookups: u64,
    rehashes: u64,
}

impl Cost {
    fn between(before: &Counts, after: &Counts) -> Self {
        let grown = |name| after.of(name).unwrap() - before.of(name).unwrap();
        Self {
            packets: after.packets() - before.packets(),
            replies: grown("nat-reply"),
            flow_lookups: grown("flow-lookup"),
            flow_inserts: grown("flow-insert"),
            nat_lookups: grown("nat-lookup"),
            rehashes: grown("rehash"),
        }
    }

    fn assert_stateless(&self) {
        let state = (self.flow_lookups, self.flow_inserts, self.nat_lookups, self.replies);
        assert_eq!(state, (0, 0, 0, 0), "{self:?}");
    }
}

/// A service whose VIP is of one family, and whose backends' addresses are of another perhaps.
fn service(mode: Mode, family: Family, servers: Family) -> ServiceConfig {
    ServiceConfig::quick(mode, family).over(servers)
}

fn failure(service: &ServiceConfig) {
    let scene = Scene::start(service);
    let steady = scene.burst();
    steady.assert_stateless();
    assert_eq!(steady.rehashes, 0);

    scene.lab.kill_backend(1).unwrap();
    let limit = QUICK_DETECTION + Duration::from_secs(1);
    scene.balancer.wait_for_health("web", NAME, "down", limit).unwrap();
    let failed = scene.burst();
    failed.assert_stateless();
    assert!(failed.rehashes > 0, "a quarter of the flows leave their home: {failed:?}");

    // Its return is a change; so the counters do count, and come to rest again.
    scene.lab.start_backend(1).unwrap();
    scene.balancer.wait_for_state("web", NAME, "returning", SLACK).unwrap();
    let returning = scene.burst();
    assert!(returning.flow_lookups > 0 && returning.flow_inserts > 0, "{returning:?}");
    scene.balancer.wait_for_state("web", NAME, "serving", IDLE + SLACK).unwrap();
    until_stateless(&scene);
    scene.balancer.stop().unwrap();
}

fn marked_slots(scene: &Scene) -> u64 {
    scene.balancer.status().unwrap()["services"][0]["marked_slots"].as_u64().unwrap()
}

/// Look-ups end once what was recorded has been idle for long enough and housekeeping has seen it.
fn until_stateless(scene: &Scene) {
    await_unmarked(scene);
    scene.burst().assert_stateless();
}

fn await_unmarked(scene: &Scene) {
    let limit = Instant::now() + IDLE + 2 * SLACK;
    while marked_slots(scene) > 0 {
        assert!(Instant::now() < limit, "slots stay marked");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn dsr_v4_is_stateless_through_a_failure() {
    failure(&service(Mode::Dsr, Family::V4, Family::V4));
}

#[test]
fn dsr_v6_is_stateless_through_a_failure() {
    failure(&service(Mode::Dsr, Family::V6, Family::V6));
}

#[test]
fn ipip_is_stateless_through_a_failure() {
    failure(&service(Mode::Ipip, Family::V6, Family::V4));
}

#[test]
fn gue_is_stateless_through_a_failure() {
    failure(&service(Mode::Gue, Family::V4, Family::V6));
}

fn drain(service: &ServiceConfig) {
    let scene = Scene::start(service);
    let connections = LongConnections::new(scene.target, 40).start(scene.lab.client());
    sleep(Duration::from_millis(300));
    scene.balancer.json(&["backend", "drain", "web/web-02"]).unwrap();
    let draining = scene.burst();
    assert!(draining.flow_lookups > 0 && draining.flow_inserts > 0, "{draining:?}");

    scene.balancer.wait_for_state("web", NAME, "drained", IDLE + SLACK).unwrap();
    // Its open connections are exceptions now: known, and nothing new is.
    let drained = scene.balancer.count().unwrap();
    sleep(Duration::from_millis(500));
    let cost = Cost::between(&drained, &scene.balancer.count().unwrap());
    assert!(cost.flow_lookups > 0 && cost.flow_inserts == 0, "{cost:?}");
    assert!(cost.flow_lookups < cost.packets, "only where it is needed: {cost:?}");

    for connection in connections.stop().unwrap() {
        assert_eq!((connection.broken, connection.moved_to), (None, None));
    }
    until_stateless(&scene);
    scene.balancer.stop().unwrap();
}

#[test]
fn dsr_is_stateless_after_a_drain() {
    drain(&service(Mode::Dsr, Family::V4, Family::V6));
}

#[test]
fn ipip_is_stateless_after_a_drain() {
    drain(&service(Mode::Ipip, Family::V4, Family::V4));
}

#[test]
fn gue_is_stateless_after_a_drain() {
    drain(&service(Mode::Gue, Family::V6, Family::V6));
}

/// Without probes: their replies come to the address NAT uses, and are looked up as well.
fn nat_costs_one_lookup(family: Family) {
    let mut service = ServiceConfig::quick(Mode::Nat, family);
    service.health = "none = true".into();
    let scene = Scene::start(&service);
    let steady = scene.burst();
    assert!(steady.replies >= 400 * 3, "{steady:?}");
    scene.balancer.json(&["backend", "drain", "web/web-02"]).unwrap();
    let draining = scene.burst();
    // A new connection whose home drains may be one that is recorded, from another mode perhaps.
    assert_eq!(draining.flow_lookups, draining.rehashes, "{draining:?}");
    assert!(draining.flow_lookups < 400, "once for a connection at most: {draining:?}");
    scene.balancer.wait_for_state("web", NAME, "drained", IDLE + SLACK).unwrap();
    await_unmarked(&scene);
    let drained = scene.burst();
    assert_eq!((steady.flow_lookups, drained.flow_lookups), (0, 0));
    for cost in [steady, draining, drained] {
        assert_eq!(cost.nat_lookups, cost.packets + cost.replies, "{cost:?}");
        assert_eq!(cost.flow_inserts, 0, "NAT's own table is its record: {cost:?}");
    }
    scene.balancer.stop().unwrap();
}

#[test]
fn nat_v4_looks_up_once_per_packet() {
    nat_costs_one_lookup(Family::V4);
}

#[test]
fn nat_v6_looks_up_once_per_packet() {
    nat_costs_one_lookup(Family::V6);
}
