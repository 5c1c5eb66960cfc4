//! Probes over UDP and DNS on the way of clients' packets, and what a small MTU on it looks like.

use std::net::{IpAddr, SocketAddr};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{Backend, Balancer, Decap, Family, Lab, Mode, ServiceConfig, Topology, UdpEcho};

use crate::{LIMIT, down, service, up, ways};

const TIMES: &str = "interval = \"300ms\", fast_interval = \"100ms\", timeout = \"500ms\", \
                     rise = 2, fall = 3";

/// What answers on a backend, at these addresses alone; ends when dropped.
trait Server: Sized {
    const PORT: u16;
    const PROBE: &'static str;

    fn start(backend: &Backend, addresses: &[IpAddr]) -> Self;
}

impl Server for UdpEcho {
    const PORT: u16 = 5353;
    const PROBE: &'static str = "udp = 'who?', expect = 'web-0'";

    fn start(backend: &Backend, addresses: &[IpAddr]) -> Self {
        let addresses: Vec<_> = addresses.iter().map(|a| SocketAddr::new(*a, Self::PORT)).collect();
        let limit = Instant::now() + LIMIT;
        loop {
            // One that was dropped holds its port for a moment yet.
            match Self::start(&backend.namespace, &backend.name, &addresses) {
                Ok(server) => return server,
                Err(error) => assert!(Instant::now() < limit, "{error:#}"),
            }
            sleep(Duration::from_millis(10));
        }
    }
}

/// dnsmasq, which answers from the address that it was asked at.
struct Dns(Child);

impl Server for Dns {
    const PORT: u16 = 53;
    const PROBE: &'static str = "dns = \"lab.example\", answer = \"192.0.2.77\"";

    fn start(backend: &Backend, addresses: &[IpAddr]) -> Self {
        let mut command = backend.namespace.command("dnsmasq");
        command.args([
            "-k",
            "-u",
            "root",
            "-R",
            "-h",
            "-x",
            "",
            "--bind-interfaces",
            "-C/dev/null",
        ]);
        command.arg("--address=/lab.example/192.0.2.77");
        command.args(addresses.iter().map(|address| format!("--listen-address={address}")));
        Self(command.spawn().expect("dnsmasq (dnsmasq-base)"))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // Both fail where it has ended, and that is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check<S: Server>(mode: Mode) {
    for (servers, vip) in ways(mode) {
        let told = format!("{} by {mode}, {vip} VIP, {servers} backends", S::PROBE);
        let lab = Lab::build(Topology::new(mode, 2)).unwrap();
        let _decaps = Decap::if_needed(&lab).unwrap();
        let own = |server: u8| lab.topology().backend(server, servers);
        let start = |server: u8, addresses: &[IpAddr]| {
            S::start(lab.backend(usize::from(server)).unwrap(), addresses)
        };
        let well = start(0, &[own(0), vip.vip()]);
        let _other = start(1, &[own(1), vip.vip()]);
        let service = ServiceConfig {
            listen: vec![format!("{}/udp", SocketAddr::new(vip.vip(), S::PORT))],
            health: format!("{}, via = \"vip\", {TIMES}", S::PROBE),
            ..service(mode, servers, vip)
        };
        let balancer = Balancer::serving(&lab, &[service]).unwrap();

        // At its own address alone.
        drop(well);
        let own_alone = start(0, &[own(0)]);
        let reason = down(&balancer);
        println!("{told}: {reason}");
        let at = SocketAddr::new(own(0), S::PORT);
        let wanted = format!("path broken: {at} answers, but not for the VIP {}", vip.vip());
        assert!(
            reason.starts_with(&wanted) && reason.contains("does the server listen on it"),
            "{told}: {reason}"
        );
        assert_eq!(balancer.health("web", "web-02").unwrap(), "up", "{told}");

        // For the VIP alone: what clients ask, and all that counts.
        drop(own_alone);
        let _for_the_vip = start(0, &[vip.vip()]);
        up(&balancer);
        assert_eq!(balancer.health("web", "web-02").unwrap(), "up", "{told}");
        balancer.stop().unwrap();
    }
}

#[test]
fn datagrams_take_the_way_of_dsr() {
    check::<UdpEcho>(Mode::Dsr);
}

#[test]
fn datagrams_take_the_way_of_ipip() {
    check::<UdpEcho>(Mode::Ipip);
}

#[test]
fn datagrams_take_the_way_of_gue() {
    check::<UdpEcho>(Mode::Gue);
}

#[test]
fn dns_takes_the_way_of_dsr() {
    check::<Dns>(Mode::Dsr);
}

#[test]
fn dns_takes_the_way_of_tunnels() {
    check::<Dns>(Mode::Ipip);
    check::<Dns>(Mode::Gue);
}

#[test]
fn large_packets_that_vanish_are_no_missing_vip() {
    let family = Family::V4;
    let lab = Lab::build(Topology::new(Mode::Dsr, 2)).unwrap();
    let balancer = Balancer::serving(&lab, &[service(Mode::Dsr, family, family)]).unwrap();
    // Whatever it sends to the VIP that is more than a handshake is lost, as if it did not fit.
    let rules = "table inet narrow { chain input { type filter hook input priority 0; \
                 ip daddr 192.0.2.10 ip length > 120 drop; }; }";
    let nft = |arguments: &[&str]| {
        let status = lab.backend(0).unwrap().namespace.command("nft").args(arguments).status();
        assert!(status.unwrap().success(), "nft {arguments:?}");
    };
    assert_eq!(family.vip().to_string(), "192.0.2.10");
    nft(&[rules]);
    let reason = down(&balancer);
    let wanted = "it only accepts the connection: small packets pass, and large ones may not";
    assert!(reason.starts_with("path broken: ") && reason.contains(wanted), "{reason}");
    nft(&["delete table inet narrow"]);
    balancer.wait_for_health("web", "web-01", "up", LIMIT).unwrap();
    balancer.stop().unwrap();
}
