//! `lb explain` against the truth: 1,000 random flows of each family and mode, each explained and
//! then sent, with one backend down and one drained.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lb_tests::{
    Balancer, Connection, Family, Lab, LongConnections, Mode, QUICK_DETECTION, ServiceConfig,
    Topology, UdpEcho,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(2);
const DATAGRAMS: u64 = 800;
const CONNECTIONS: u64 = 200;
const DOWN: &str = "web-02";
const DRAINED: &str = "web-03";
/// Clients, beside the lab's own.
const CLIENTS: u64 = 4;

struct Scene {
    lab: Lab,
    balancer: Balancer,
    mode: Mode,
    family: Family,
    /// Where the clients' ports begin, by chance, and how many were used.
    first_port: u64,
    clients: AtomicU64,
    _echoes: Vec<UdpEcho>,
}

/// One flow, explained and sent.
struct Seen {
    client: SocketAddr,
    explained: String,
    went_to: String,
}

impl Scene {
    /// Four backends that serve TCP port 80 and UDP port 5353 of one VIP.
    fn start(mode: Mode, family: Family) -> Self {
        let lab = Lab::build(Topology::new(mode, 4)).unwrap();
        for number in 0..CLIENTS {
            let address = match client_address(family, number) {
                IpAddr::V4(v4) => format!("{v4}/24"),
                IpAddr::V6(v6) => format!("{v6}/64"),
            };
            let mut ip = lab.client().command("ip");
            ip.args(["address", "add", &address, "dev", "eth0"]);
            assert!(ip.status().unwrap().success(), "{address}");
        }
        let mut service = ServiceConfig::quick(mode, family);
        service.listen.push(format!("{}/udp", SocketAddr::new(family.vip(), 5353)));
        let balancer = Balancer::serving(&lab, &[service]).unwrap();
        let vip = SocketAddr::new(family.vip(), 5353);
        let echoes = (0..)
            .zip(lab.backends())
            .map(|(index, backend)| {
                let own = SocketAddr::new(lab.topology().backend(index, family), 5353);
                let address = if mode == Mode::Dsr { vip } else { own };
                UdpEcho::start(&backend.namespace, &backend.name, &[address]).unwrap()
            })
            .collect();
        let (first_port, clients) = (random() >> 32, AtomicU64::new(0));
        Self { lab, balancer, mode, family, first_port, clients, _echoes: echoes }
    }

    fn explain(&self, protocol: &str, client: SocketAddr, port: u16) -> Value {
        let vip = SocketAddr::new(self.family.vip(), port).to_string();
        self.balancer.json(&["explain", protocol, &client.to_string(), &vip]).unwrap()
    }

    /// Explains and sends so many flows of each protocol, on two threads.
    fn check(&self, what: &str, datagrams: u64, connections: u64) -> BTreeMap<String, u64> {
        let half = |first: u64| {
            move || {
                let datagrams = (first..datagrams).step_by(2).filter_map(|n| self.datagram(n));
                let connections =
                    (first..connections).step_by(2).filter_map(|n| self.connection(n));
                datagrams.chain(connections).collect::<Vec<Seen>>()
            }
        };
        let seen: Vec<Seen> = thread::scope(|scope| {
            let threads = [0, 1]
                .map(|first| scope.spawn(move || self.lab.client().enter(half(first)).unwrap()));
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let wrong: Vec<String> = seen
            .iter()
            .filter(|s| s.explained != s.went_to)
            .map(|s| format!("{}: explained {}, went to {}", s.client, s.explained, s.went_to))
            .collect();
        let mut counts = BTreeMap::new();
        seen.iter().for_each(|s| *counts.entry(s.went_to.clone()).or_default() += 1);
        println!(
            "{} {}, {what}: {} flows, {} explained wrongly, {counts:?}",
            self.mode,
            self.family,
            seen.len(),
            wrong.len()
        );
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
        assert!(
            seen.len() as u64 > (datagrams + connections) * 95 / 100,
            "too few ports were free"
        );
        counts
    }

    /// `None` if the port happens to be in use.
    fn datagram(&self, number: u64) -> Option<Seen> {
        let client = self.random_client(number);
        let socket = match UdpSocket::bind(client) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => return None,
            bound => bound.unwrap(),
        };
        let explained = backend(&self.explain("udp", client, 5353));
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.send_to(b"?", SocketAddr::new(self.family.vip(), 5353)).unwrap();
        let mut answer = [0; 64];
        let (length, _) = socket.recv_from(&mut answer).unwrap();
        let went_to = String::from_utf8_lossy(&answer[..length]).into_owned();
        Some(Seen { client, explained, went_to })
    }

    fn connection(&self, number: u64) -> Option<Seen> {
        let client = self.random_client(number);
        let explained = backend(&self.explain("tcp", client, 80));
        let server = SocketAddr::new(self.family.vip(), 80);
        let connection = match Connection::open_from(client, server, TIMEOUT) {
            Err(failure) if failure.to_string().contains("in use") => return None,
            opened => opened.unwrap(),
        };
        let went_to = connection.get_and_close("/").unwrap().text().unwrap();
        Some(Seen { client, explained, went_to })
    }

    /// A random client, never the same twice: a datagram from an earlier one's port would follow
    /// its `nat` connection, to a backend that takes nothing new.
    fn random_client(&self, number: u64) -> SocketAddr {
        const PORTS: u64 = 65_536 - 1024;
        // Has no divisor in common with `PORTS`, so that no port comes again before all did.
        const STEP: u64 = 48_271;
        let turn = self.clients.fetch_add(1, Ordering::Relaxed);
        let port = 1024 + (self.first_port + turn * STEP) % PORTS;
        SocketAddr::new(client_address(self.family, number % CLIENTS), port as u16)
    }
}

fn client_address(family: Family, number: u64) -> IpAddr {
    let host = 0x40 + number as u16;
    match family {
        Family::V4 => Ipv4Addr::new(10, 77, 0, host as u8).into(),
        Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0x5eed, 0, 0, host).into(),
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

fn backend(explanation: &Value) -> String {
    assert_eq!(explanation["service"], "web", "{explanation:#}");
    assert_eq!(explanation["verdict"], "sent", "{explanation:#}");
    explanation["backend"].as_str().unwrap_or("none").to_owned()
}

fn check(mode: Mode, family: Family) {
    let scene = Scene::start(mode, family);
    assert_eq!(scene.check("all serving", 250, 50).len(), 4);

    let open = LongConnections::new(SocketAddr::new(family.vip(), 80), 24);
    let open = open.start(scene.lab.client());
    scene.lab.kill_backend(1).unwrap();
    let limit = QUICK_DETECTION + Duration::from_secs(1);
    scene.balancer.wait_for_health("web", DOWN, "down", limit).unwrap();
    scene.balancer.json(&["backend", "drain", "web/web-03"]).unwrap();
    let draining = scene.check("one down, one draining", 100, 50);
    assert_eq!(draining.into_keys().collect::<Vec<_>>(), ["web-01", "web-04"]);

    let settled = Duration::from_secs(6);
    scene.balancer.wait_for_state("web", DRAINED, "drained", settled).unwrap();
    let left = scene.check("one down, one drained", DATAGRAMS, CONNECTIONS);
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["web-01", "web-04"]);

    // Open connections are told apart from new ones.
    let mut stayed = 0;
    for connection in open.stop().unwrap().into_iter().filter(|c| c.broken.is_none()) {
        let explanation = scene.explain("tcp", connection.local.unwrap(), 80);
        let existing = match explanation["existing_backend"].as_str() {
            Some(existing) => existing.to_owned(),
            None => backend(&explanation),
        };
        assert_eq!(connection.backend, Some(existing), "{explanation:#}");
        stayed += u32::from(connection.backend.as_deref() == Some(DRAINED));
    }
    assert!(stayed > 0, "no connection was open to the drained backend");
    scene.balancer.stop().unwrap();
}

#[test]
fn nat_v4() {
    check(Mode::Nat, Family::V4);
}

#[test]
fn nat_v6() {
    check(Mode::Nat, Family::V6);
}

#[test]
fn dsr_v4() {
    check(Mode::Dsr, Family::V4);
}

#[test]
fn dsr_v6() {
    check(Mode::Dsr, Family::V6);
}
