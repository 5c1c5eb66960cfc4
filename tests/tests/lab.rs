//! The lab itself, without the product: what the other tests stand on.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use lb_tests::{
    Connection, Failure, Family, Lab, Limit, Load, LongConnections, Mode, Topology, UdpEcho,
};

const TIMEOUT: Duration = Duration::from_millis(500);

fn http(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 80)
}

#[test]
fn client_reaches_every_backend_in_both_families() {
    let lab = Lab::build(Topology::new(Mode::Nat, 3)).unwrap();
    for family in [Family::V4, Family::V6] {
        for (index, backend) in (0..).zip(lab.backends()) {
            let target = http(lab.topology().backend(index, family));
            let report = Load::new(target, Limit::Requests(50)).run(lab.client()).unwrap();
            assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
            assert_eq!(report.served_by()[&backend.name], 50);
        }
    }
    assert_eq!(lab.requests().unwrap(), [100, 100, 100]);
    let big = lab
        .client()
        .enter(|| {
            Connection::open(http(lab.topology().backend(0, Family::V4)), TIMEOUT)?.get("/big")
        })
        .unwrap()
        .unwrap();
    assert_eq!(big.body.len(), 100 * 1024);
}

#[test]
fn two_armed_backends_are_behind_the_balancer() {
    let lab = Lab::build(Topology::new(Mode::Dsr, 1).two_armed()).unwrap();
    for family in [Family::V4, Family::V6] {
        // The VIP is on the backend's lo, and its answer takes the way back through the balancer's kernel.
        let vip = http(family.vip());
        let from_balancer =
            lab.balancer().enter(|| Connection::open(vip, TIMEOUT).map(drop)).unwrap();
        assert!(from_balancer.is_err(), "the balancer has no route to the VIP itself");
        let inside = http(lab.topology().backend(0, family));
        let body =
            lab.balancer().enter(|| Connection::open(inside, TIMEOUT)?.get("/")?.text()).unwrap();
        assert_eq!(body.as_deref(), Ok("web-01"));
    }
}

#[test]
fn a_killed_backend_refuses_and_a_frozen_one_is_silent() {
    let lab = Lab::build(Topology::new(Mode::Nat, 2)).unwrap();
    let target = http(lab.topology().backend(0, Family::V4));
    let ask =
        || lab.client().enter(|| Connection::open(target, TIMEOUT)?.get("/")?.text()).unwrap();
    assert_eq!(ask().as_deref(), Ok("web-01"));
    lab.kill_backend(0).unwrap();
    assert_eq!(ask(), Err(Failure::Refused));
    lab.start_backend(0).unwrap();
    assert_eq!(ask().as_deref(), Ok("web-01"));
    lab.backend(0).unwrap().nginx.freeze().unwrap();
    assert_eq!(ask(), Err(Failure::Timeout));
    lab.backend(0).unwrap().nginx.thaw().unwrap();
    lab.link_down(0).unwrap();
    assert_eq!(ask(), Err(Failure::Timeout));
    lab.link_up(0).unwrap();
    assert_eq!(ask().as_deref(), Ok("web-01"));
    lab.stop_backend(0).unwrap();
    assert!(lab.kill_backend(0).is_err(), "nothing runs there");
}

#[test]
fn long_connections_report_the_break_and_who_served() {
    let lab = Lab::build(Topology::new(Mode::Nat, 1)).unwrap();
    let target = http(lab.topology().backend(0, Family::V6));
    let load = Load::new(target, Limit::UntilStopped).threads(2).start(lab.client());
    let connections = LongConnections::new(target, 5).start(lab.client());
    thread::sleep(Duration::from_millis(300));
    let killed = Instant::now();
    lab.kill_backend(0).unwrap();
    thread::sleep(Duration::from_millis(200));
    for report in connections.stop().unwrap() {
        assert_eq!(report.backend.as_deref(), Some("web-01"));
        assert!(report.requests > 1);
        assert_eq!(report.moved_to, None);
        assert!(report.broken.is_some_and(|(when, _)| when >= killed));
    }
    let report = load.stop().unwrap();
    assert!(report.failures_started(killed, Instant::now()) > 0);
    assert!(report.served_by()["web-01"] > 0);
}

#[test]
fn udp_backends_answer_from_the_address_asked() {
    let lab = Lab::build(Topology::new(Mode::Dsr, 1).without_nginx()).unwrap();
    for family in [Family::V4, Family::V6] {
        let own = lab.topology().backend(0, family);
        // In place of the balancer: the client sends the VIP's packets to the backend itself.
        let mut route = lab.client().command("ip");
        route.args(["route", "replace", &family.vip().to_string(), "via", &own.to_string()]);
        assert!(route.status().unwrap().success());
        let addresses = [own, family.vip()].map(|address| SocketAddr::new(address, 5353));
        let backend = &lab.backend(0).unwrap().namespace;
        let echo = UdpEcho::start(backend, "web-01", &addresses).unwrap();
        for address in addresses {
            // A connected socket takes answers from this address alone.
            assert_eq!(lab.client().enter(|| ask_udp(address)).unwrap(), b"web-01", "{address}");
        }
        assert_eq!(echo.received(), 2);
    }
}

fn ask_udp(server: SocketAddr) -> Vec<u8> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.send(b"?").unwrap();
    let mut answer = [0; 16];
    let length = socket.recv(&mut answer).unwrap();
    answer[..length].to_vec()
}

#[test]
fn nothing_is_left_behind() {
    let lab = Lab::build(Topology::new(Mode::Nat, 1)).unwrap();
    let directory = lab.directory();
    let names: Vec<_> = [lab.client(), lab.balancer(), lab.switch()]
        .map(|namespace| Path::new("/run/netns").join(namespace.name()))
        .into();
    let nginx = lab.backend(0).unwrap().nginx.pid().unwrap();
    assert!(directory.is_dir() && names.iter().all(|name| name.exists()));
    drop(lab);
    assert!(!directory.exists() && names.iter().all(|name| !name.exists()));
    // A process that has ended has no namespace, even before its parent has collected it.
    assert!(!Path::new(&format!("/proc/{nginx}/ns/net")).exists());
}
