//! What is not the usual: traffic that is not for a service, datagrams, generic XDP, an interface
//! that is taken.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, Connection, Counts, Family, Lab, Limit, Load, Mode, ServiceConfig, Topology, UdpEcho,
    ping,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(1);

fn start(mode: Mode) -> (Lab, Balancer) {
    let lab = Lab::build(Topology::new(mode, 2)).unwrap();
    let balancer = Balancer::serving(&lab, &ServiceConfig::both(mode)).unwrap();
    (lab, balancer)
}

fn grown(before: &Counts, after: &Counts, name: &str) -> u64 {
    after.of(name).unwrap() - before.of(name).unwrap()
}

fn any(family: Family) -> SocketAddr {
    match family {
        Family::V4 => ([0, 0, 0, 0], 0).into(),
        Family::V6 => ([0u16; 8], 0).into(),
    }
}

/// A service of the balancer's own host, such as ssh: it sends back what it gets.
fn echo_once(lab: &Lab, address: SocketAddr) -> thread::JoinHandle<()> {
    let listener = lab.balancer().enter(|| TcpListener::bind(address)).unwrap().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut chunk) {
            stream.write_all(&chunk[..length]).unwrap();
        }
    })
}

/// In both modes, and in `nat` above all, where replies of backends come to the same address.
fn own_address(mode: Mode) {
    let (lab, balancer) = start(mode);
    for family in Family::ALL {
        let own = lab.topology().balancer(family);
        // ARP and neighbour discovery begin anew, with the program attached.
        let mut ip = lab.client().command("ip");
        assert!(ip.args(["neigh", "flush", "all"]).status().unwrap().success());
        let before = balancer.count().unwrap();
        assert!(ping(lab.client(), own, 100).unwrap(), "{own} does not answer");

        let server = SocketAddr::new(own, 2222);
        let echo = echo_once(&lab, server);
        let text = vec![b'x'; 50_000];
        let received = lab.client().enter(|| {
            let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(&text).unwrap();
            let mut received = vec![0; text.len()];
            stream.read_exact(&mut received).unwrap();
            received
        });
        assert!(received.unwrap() == text);
        echo.join().unwrap();

        // In fragments, which the host puts together.
        let socket = lab.balancer().enter(|| UdpSocket::bind(SocketAddr::new(own, 2223))).unwrap();
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        lab.client()
            .enter(|| UdpSocket::bind(any(family))?.send_to(&[7; 4000], (own, 2223)))
            .unwrap()
            .unwrap();
        assert_eq!(socket.recv(&mut [0; 5000]).unwrap(), 4000);

        let after = balancer.count().unwrap();
        assert!(grown(&before, &after, "pass-not-vip") > 20, "what passes is counted");
        assert_eq!(grown(&before, &after, "drop-fragment"), 0);
    }
    let log = balancer.count().unwrap();
    assert!(log.of("pass-not-ip").unwrap() > 0, "ARP passed");
    balancer.stop().unwrap();
}

#[test]
fn the_hosts_own_traffic_passes_in_nat() {
    own_address(Mode::Nat);
}

#[test]
fn the_hosts_own_traffic_passes_in_dsr() {
    own_address(Mode::Dsr);
}

#[test]
fn what_is_for_a_vip_but_no_service_is_not_balanced() {
    let (lab, balancer) = start(Mode::Nat);
    for family in Family::ALL {
        let before = balancer.count().unwrap();
        let closed = SocketAddr::new(family.vip(), 81);
        let opened = lab.client().enter(|| Connection::open(closed, TIMEOUT).map(drop)).unwrap();
        assert!(opened.is_err());
        let after = balancer.count().unwrap();
        assert!(grown(&before, &after, "pass-no-service") > 0);

        lab.client()
            .enter(|| UdpSocket::bind(any(family))?.send_to(&[7; 4000], (family.vip(), 80)))
            .unwrap()
            .unwrap();
        let limit = Instant::now() + TIMEOUT;
        while grown(&after, &balancer.count().unwrap(), "drop-fragment") < 3 {
            assert!(Instant::now() < limit, "three fragments to a VIP are dropped and counted");
        }
        assert_eq!(balancer.count().unwrap().packets(), 0, "nothing reached a backend");
    }
    balancer.stop().unwrap();
}

/// 200 clients' datagrams are answered by all backends, each from where it was asked.
fn datagrams(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, 3)).unwrap();
    let balancer = Balancer::serving(&lab, &[ServiceConfig::udp(mode, family)]).unwrap();
    let vip = SocketAddr::new(family.vip(), 5353);
    let start = |(index, backend): (u8, &lb_tests::Backend)| {
        let own = SocketAddr::new(lab.topology().backend(index, family), 5353);
        let address = if mode == Mode::Dsr { vip } else { own };
        UdpEcho::start(&backend.namespace, &backend.name, &[address]).unwrap()
    };
    let echoes: Vec<UdpEcho> = (0..).zip(lab.backends()).map(start).collect();
    let names: BTreeSet<String> = lab
        .client()
        .enter(|| {
            let ask = |_| {
                // Connected: only the VIP's own answer is taken.
                let socket = UdpSocket::bind(any(family)).unwrap();
                socket.connect(vip).unwrap();
                socket.set_read_timeout(Some(TIMEOUT)).unwrap();
                let mut name = String::new();
                for _ in 0..3 {
                    socket.send(b"?").unwrap();
                    let mut answer = [0; 64];
                    let length = socket.recv(&mut answer).unwrap();
                    let said = String::from_utf8_lossy(&answer[..length]).into_owned();
                    assert!(name.is_empty() || name == said, "one flow, two backends");
                    name = said;
                }
                name
            };
            (0..200).map(ask).collect()
        })
        .unwrap();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(echoes.iter().map(UdpEcho::received).sum::<u64>(), 600);
    let counts = balancer.count().unwrap();
    assert_eq!(counts.packets(), 600);
    assert_eq!(counts.of("nat-reply").unwrap(), if mode == Mode::Nat { 600 } else { 0 });
    balancer.stop().unwrap();
}

#[test]
fn datagrams_nat() {
    Family::ALL.into_iter().for_each(|family| datagrams(Mode::Nat, family));
}

#[test]
fn datagrams_dsr() {
    Family::ALL.into_iter().for_each(|family| datagrams(Mode::Dsr, family));
}

/// Frames the program was given on eth0, by the driver's own counters.
fn frames(lab: &Lab) -> u64 {
    let output = lab.balancer().command("ethtool").args(["-S", "eth0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let queues = text.lines().filter_map(|line| line.trim().split_once(": "));
    let rx = queues.filter(|(name, _)| name.starts_with("rx_") && name.ends_with("xdp_packets"));
    rx.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
}

#[test]
fn every_frame_ends_in_one_counter() {
    for mode in [Mode::Nat, Mode::Dsr] {
        let (lab, balancer) = start(mode);
        for family in Family::ALL {
            let target = SocketAddr::new(family.vip(), 80);
            let report = Load::new(target, Limit::Requests(200)).run(lab.client()).unwrap();
            assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
            assert!(ping(lab.client(), lab.topology().balancer(family), 100).unwrap());
        }
        // Probes go on; a moment in which no frame came is needed to compare.
        let limit = Instant::now() + Duration::from_secs(10);
        let (frames, ended) = loop {
            let before = frames(&lab);
            let ended = balancer.count().unwrap().ended();
            if frames(&lab) == before {
                break (before, ended);
            }
            assert!(Instant::now() < limit, "frames keep coming");
        };
        println!("{mode}: {frames} frames, {ended} counted");
        assert!(frames > 800);
        assert_eq!(frames, ended);
        balancer.stop().unwrap();
    }
}

fn xdp(lab: &Lab) -> Value {
    lab.balancer().link("eth0")["xdp"].clone()
}

/// `lb.toml` with another XDP policy.
fn with_policy(lab: &Lab, service: ServiceConfig, policy: &str) -> String {
    let config = lab.config(&[service]);
    config.replacen("[node]\n", &format!("[node]\nxdp = \"{policy}\"\n"), 1)
}

fn generic(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, 3)).unwrap();
    let config = with_policy(&lab, ServiceConfig::quick(mode, family), "generic");
    let balancer = Balancer::start(&lab, &Balancer::binary().unwrap(), &config).unwrap();
    balancer.wait_until_up(Duration::from_secs(10)).unwrap();
    let status = balancer.status().unwrap();
    assert_eq!(status["interfaces"][0]["xdp"], "generic", "{status:#}");
    let warning = &status["warnings"][0];
    assert_eq!(warning["subject"], "eth0", "{warning:#}");
    assert!(warning["message"].as_str().is_some_and(|text| text.contains("slower")), "{warning:#}");
    assert_eq!(xdp(&lab)["mode"], 2, "{:#}", xdp(&lab));

    let load = Load::new(SocketAddr::new(family.vip(), 80), Limit::Requests(200));
    let report = load.run(lab.client()).unwrap();
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    assert_eq!(report.served_by().len(), 3, "{:?}", report.served_by());
    balancer.stop().unwrap();
    assert!(xdp(&lab).is_null());
}

#[test]
fn generic_xdp_works_and_is_warned_of() {
    generic(Mode::Nat, Family::V4);
    generic(Mode::Dsr, Family::V6);
}

#[test]
fn an_occupied_interface_is_refused_with_the_way_out() {
    let lab = Lab::build(Topology::new(Mode::Nat, 2)).unwrap();
    lab.occupy().unwrap();
    let foreign = xdp(&lab);
    assert!(foreign.is_object());
    let binary = Balancer::binary().unwrap();
    let path = |name: &str| lab.path(name).display().to_string();
    let arguments =
        ["-c", &path("lb.toml"), "--socket", &path("lb.sock"), "--state-dir", &path("state")];
    for policy in ["native", "auto", "generic"] {
        let service = ServiceConfig::quick(Mode::Nat, Family::V4);
        std::fs::write(lab.path("lb.toml"), with_policy(&lab, service, policy)).unwrap();
        let (code, said) = Balancer::refused(&lab, &binary, &arguments).unwrap();
        println!("{policy}: {code}: {}", said.trim());
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("eth0 already has an XDP program"), "{said}");
        assert!(said.contains("ip link set eth0 xdp off"), "{said}");
        assert_eq!(xdp(&lab), foreign, "the other program stays");
    }
    let mut ip = lab.balancer().command("ip");
    assert!(ip.args("link set eth0 xdp off".split(' ')).status().unwrap().success());
    Balancer::serving(&lab, &[ServiceConfig::quick(Mode::Nat, Family::V4)])
        .unwrap()
        .stop()
        .unwrap();
}
