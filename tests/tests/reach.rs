//! What administrators try first: ping and traceroute, to a VIP.
//!
//! The balancer answers pings itself, so they say that it is reached, not that a backend is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

use std::net::IpAddr;
use std::time::Duration;

use lb_tests::{
    Balancer, Decap, Family, Lab, Mode, Probe, ServiceConfig, Topology, ping, traceroute,
};

struct Scene {
    /// Of tunnels; before the lab, which takes its namespaces away.
    _decaps: Vec<Decap>,
    lab: Lab,
    balancer: Balancer,
}

impl Scene {
    /// A client behind two routers.
    fn start(mode: Mode) -> Self {
        let lab = Lab::build(Topology::new(mode, 2).far(1500)).unwrap();
        let decaps = Decap::if_needed(&lab).unwrap();
        let balancer = Balancer::serving(&lab, &ServiceConfig::both(mode)).unwrap();
        Self { _decaps: decaps, lab, balancer }
    }

    fn count(&self, name: &str) -> u64 {
        self.balancer.count().unwrap().of(name).unwrap()
    }
}

fn check(mode: Mode) {
    let scene = Scene::start(mode);
    let client = scene.lab.client();
    for family in Family::ALL {
        let vip = family.vip();
        // The smallest, a usual one, and as much as the path takes.
        for bytes in [48, 100, 1500] {
            assert!(ping(client, vip, bytes).unwrap(), "{mode}: {vip} with {bytes} bytes");
        }
        let [near, core] = scene.lab.topology().routers(family).map(Some);
        let arrived = Some(vip);
        // Pings end at the balancer.
        let hops = traceroute(client, vip, Probe::Echo).unwrap();
        assert_eq!(hops, [near, core, arrived], "{mode} {family}");
        assert!(scene.count("echo-reply") > 3);
        // A connection's packets end at the backend: in `dsr` the balancer is no hop, else it is
        // one, and says so in the VIP's name.
        let told = scene.count("time-exceeded-sent");
        let hops = traceroute(client, vip, Probe::Tcp(80)).unwrap();
        println!("{mode} {family}: {hops:?}");
        let expect: &[Option<IpAddr>] = match mode {
            Mode::Dsr => &[near, core, arrived],
            _ => &[near, core, arrived, arrived],
        };
        assert_eq!(hops, expect, "{mode} {family}");
        let told = scene.count("time-exceeded-sent") - told;
        assert_eq!(told > 0, mode != Mode::Dsr, "{mode} {family}");
    }
    assert_eq!(scene.balancer.count().unwrap().of("drop-internal").unwrap(), 0);
    scene.balancer.stop().unwrap();
}

#[test]
fn nat() {
    check(Mode::Nat);
}

#[test]
fn dsr() {
    check(Mode::Dsr);
}

#[test]
fn ipip() {
    check(Mode::Ipip);
}

#[test]
fn gue() {
    check(Mode::Gue);
}

/// A VIP is there as long as its balancer is, whatever its backends do.
#[test]
fn a_vip_answers_without_backends() {
    let scene = Scene::start(Mode::Dsr);
    for backend in 0..2 {
        scene.lab.kill_backend(backend).unwrap();
    }
    for (service, backend) in [("ipv4", "web-01"), ("ipv6", "web-02")] {
        let limit = Duration::from_secs(5);
        scene.balancer.wait_for_health(service, backend, "down", limit).unwrap();
    }
    for family in Family::ALL {
        assert!(ping(scene.lab.client(), family.vip(), 100).unwrap());
    }
    scene.balancer.stop().unwrap();
}
