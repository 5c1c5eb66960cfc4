//! 10,000 flows over weights 1:1:2 land where chance would have them, as the backends count.
//!
//! The hash's secret is fixed here, and so are the flows: the same experiment every time, not one
//! that leaves three standard deviations now and then.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::{Balancer, Connection, Family, Lab, Mode, ServiceConfig, Topology, UdpEcho};

const FLOWS: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;
const SEED: &str = "0000000000000001";
const SHARES: [f64; 3] = [0.25, 0.25, 0.5];

/// `lb run` with a known secret, as a restart would find it.
fn start(lab: &Lab, mut service: ServiceConfig) -> Balancer {
    service.weights = vec![1, 1, 2];
    Balancer::serving(lab, &[service]).unwrap().stop().unwrap();
    let path = lab.path("state/state.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(state["seed"].is_string(), "{state:#}");
    state["seed"] = SEED.into();
    fs::write(&path, state.to_string()).unwrap();
    let balancer = Balancer::run(lab, &Balancer::binary().unwrap()).unwrap();
    balancer.wait_until_up(Duration::from_secs(10)).unwrap();
    balancer
}

fn judge(what: &str, counts: &[u64]) {
    let total = f64::from(FLOWS);
    assert_eq!(counts.iter().sum::<u64>(), u64::from(FLOWS), "{what}: {counts:?}");
    let deviations: Vec<f64> = counts
        .iter()
        .zip(SHARES)
        .map(|(&count, share)| {
            (count as f64 - total * share) / (total * share * (1.0 - share)).sqrt()
        })
        .collect();
    println!("{what}: {counts:?}, in standard deviations {deviations:.2?}");
    assert!(deviations.iter().all(|d| d.abs() < 3.0), "{what}: {counts:?} {deviations:.2?}");
}

/// One datagram a flow, counted by the servers that get them.
fn datagrams(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, 3)).unwrap();
    let balancer = start(&lab, ServiceConfig::udp(mode, family));
    let vip = SocketAddr::new(family.vip(), 5353);
    let echoes: Vec<UdpEcho> = (0..)
        .zip(lab.backends())
        .map(|(index, backend)| {
            let own = SocketAddr::new(lab.topology().backend(index, family), 5353);
            let address = if mode == Mode::Dsr { vip } else { own };
            UdpEcho::start(&backend.namespace, &backend.name, &[address]).unwrap()
        })
        .collect();
    let client = lab.topology().client(family);
    lab.client()
        .enter(|| {
            for port in FIRST_PORT..FIRST_PORT + FLOWS {
                let socket = UdpSocket::bind(SocketAddr::new(client, port)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                socket.send_to(b"?", vip).unwrap();
                socket.recv_from(&mut [0; 16]).unwrap();
            }
        })
        .unwrap();
    let counts: Vec<u64> = echoes.iter().map(UdpEcho::received).collect();
    judge(&format!("UDP {mode} {family}"), &counts);
    balancer.stop().unwrap();
}

/// One connection and one request a flow, counted by nginx.
fn connections(mode: Mode, family: Family) {
    let lab = Lab::build(Topology::new(mode, 3)).unwrap();
    let balancer = start(&lab, ServiceConfig::quick(mode, family));
    let vip = SocketAddr::new(family.vip(), 80);
    let client = lab.topology().client(family);
    let timeout = Duration::from_secs(2);
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|first| {
                let ports = (FIRST_PORT + first..FIRST_PORT + FLOWS).step_by(4);
                let ask = move |port| {
                    let local = SocketAddr::new(client, port);
                    Connection::open_from(local, vip, timeout)?.get_and_close("/")?.text()
                };
                let ask_all = move || ports.map(|port| ask(port).unwrap()).collect::<Vec<_>>();
                scope.spawn(|| lab.client().enter(ask_all).unwrap())
            })
            .collect();
        for thread in threads {
            thread.join().unwrap().into_iter().for_each(|name| *told.entry(name).or_default() += 1);
        }
    });
    // nginx writes its log after it has answered.
    let limit = Instant::now() + Duration::from_secs(2);
    let counted = || lab.requests().unwrap().iter().map(|n| *n as u64).collect::<Vec<u64>>();
    while counted().iter().sum::<u64>() < u64::from(FLOWS) && Instant::now() < limit {
        thread::sleep(Duration::from_millis(20));
    }
    judge(&format!("TCP {mode} {family}"), &counted());
    assert_eq!(told.into_values().collect::<Vec<_>>(), counted(), "what clients were told");
    balancer.stop().unwrap();
}

#[test]
fn datagrams_v4() {
    datagrams(Mode::Dsr, Family::V4);
}

#[test]
fn datagrams_v6() {
    datagrams(Mode::Nat, Family::V6);
}

#[test]
fn connections_v4() {
    connections(Mode::Nat, Family::V4);
}

#[test]
fn connections_v6() {
    connections(Mode::Dsr, Family::V6);
}
