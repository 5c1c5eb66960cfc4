//! Probes take the way of clients' packets: to the VIP, through the tunnel. A backend that answers at
//! its own address alone is found down, and the reason says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

mod datagrams;
mod places;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::{Backend, Balancer, Decap, Family, Lab, Mode, Namespace, ServiceConfig, Topology};

const LIMIT: Duration = Duration::from_secs(20);

/// Modes with the families of backends and VIP.
fn ways(mode: Mode) -> Vec<(Family, Family)> {
    let all = Family::ALL.map(|servers| Family::ALL.map(|vip| (servers, vip)));
    let all = all.into_iter().flatten();
    all.filter(|(servers, vip)| mode.is_tunnel() || servers == vip).collect()
}

fn service(mode: Mode, servers: Family, vip: Family) -> ServiceConfig {
    ServiceConfig::quick(mode, vip).over(servers)
}

/// `ip address add` or `del` of the family's VIP on `lo`.
fn vip_on_lo(namespace: &Namespace, action: &str, family: Family) {
    let vip = format!("{}/{}", family.vip(), if family == Family::V4 { 32 } else { 128 });
    let mut ip = namespace.command("ip");
    ip.args(["address", action, &vip, "dev", "lo"]);
    if family == Family::V6 && action == "add" {
        ip.arg("nodad");
    }
    assert!(ip.status().unwrap().success(), "ip address {action} {vip}");
}

fn take_vip(backend: &Backend, family: Family) {
    vip_on_lo(&backend.namespace, "del", family);
}

fn give_vip(backend: &Backend, family: Family) {
    vip_on_lo(&backend.namespace, "add", family);
}

/// Waits until the first backend is down; why it is, by `lb status`.
fn down(balancer: &Balancer) -> String {
    balancer.wait_for_health("web", "web-01", "down", LIMIT).unwrap();
    let backend = balancer.backend("web", "web-01").unwrap();
    backend["health"]["last_failure"].as_str().expect("a reason").to_owned()
}

fn up(balancer: &Balancer) {
    balancer.wait_for_health("web", "web-01", "up", LIMIT).unwrap();
}

fn check(mode: Mode) {
    for (servers, vip) in ways(mode) {
        let told = format!("{mode}, {vip} VIP, {servers} backends");
        let lab = Lab::build(Topology::new(mode, 2)).unwrap();
        let mut decaps = Decap::if_needed(&lab).unwrap();
        let services = [service(mode, servers, vip)];
        let balancer = Balancer::serving(&lab, &services).unwrap();
        assert!(balancer.log().contains("probes take the way"), "{}", balancer.log());
        let first = lab.backend(0).unwrap();
        let target = SocketAddr::new(lab.topology().backend(0, servers), 80);

        take_vip(first, vip);
        let reason = down(&balancer);
        println!("{told}: {reason}");
        let wanted = format!("path broken: {target} answers, but not for the VIP {}", vip.vip());
        assert!(reason.starts_with(&wanted), "{told}: {reason}");
        assert_eq!(balancer.health("web", "web-02").unwrap(), "up", "{told}");
        give_vip(first, vip);
        up(&balancer);

        if mode.is_tunnel() {
            decaps.remove(0).stop().unwrap();
            let reason = down(&balancer);
            assert!(reason.starts_with(&wanted), "{told}: {reason}");
            assert!(reason.contains("`lb decap`"), "{told}: {reason}");
            let from = Family::ALL.map(|f| lab.topology().balancer_inside(f).to_string()).join(",");
            decaps.push(Decap::start(&lab, first, &["--from", &from]).unwrap());
            up(&balancer);
        }

        lab.kill_backend(0).unwrap();
        let reason = down(&balancer);
        assert_eq!(reason, format!("refused: connection refused on {target}"), "{told}");
        balancer.stop().unwrap();
    }
}

#[test]
fn a_broken_path_of_dsr_is_found() {
    check(Mode::Dsr);
}

#[test]
fn a_broken_path_of_ipip_is_found() {
    check(Mode::Ipip);
}

#[test]
fn a_broken_path_of_gue_is_found() {
    check(Mode::Gue);
}
