//! `lb decap` on a backend: clients talk to a VIP through tunnels of all kinds, and what is not to
//! be taken is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

mod kernel;
mod sender;

use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_common::abi::{KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6};
use lb_tests::{Balancer, Family, Lab, Limit, Load, Mode, Process, Topology, UdpEcho};
use serde_json::Value;

use crate::sender::Sender;

const LIMIT: Duration = Duration::from_secs(5);
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const KINDS: [u32; 4] = [KIND_IPIP4, KIND_IPIP6, KIND_GUE4, KIND_GUE6];
/// The balancer's addresses in the lab.
const FROM: &str = "10.77.0.2,fd77::2";

/// A lab of one backend.
fn lab() -> Lab {
    Lab::build(Topology::new(Mode::Dsr, 1)).unwrap()
}

/// `lb decap` on the backend's eth0, attached.
struct Decap<'a> {
    lab: &'a Lab,
    process: Process,
}

impl<'a> Decap<'a> {
    fn start(lab: &'a Lab, options: &[&str]) -> Self {
        let mut command = lab.backends()[0].namespace.command(Balancer::binary().unwrap());
        command.args(["-o", "json", "decap", "eth0"]).args(options);
        let process = Process::spawn(&mut command, &lab.path("decap.log")).unwrap();
        let decap = Self { lab, process };
        decap.wait("decapsulating");
        decap
    }

    fn wait(&self, text: &str) {
        let end = Instant::now() + LIMIT;
        while !self.process.log().contains(text) {
            assert!(Instant::now() < end, "no '{text}' in:\n{}", self.process.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// The reports it printed so far.
    fn reports(&self) -> Vec<Value> {
        let log = self.process.log();
        let lines = log.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asks a running one for its counters.
    fn counts(&self) -> Counts {
        let before = self.reports().len();
        self.process.signal(libc::SIGUSR1);
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(report) = self.reports().get(before) {
                return Counts(report.clone());
            }
            assert!(Instant::now() < end, "no counters in:\n{}", self.process.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// Ends it; its last counters.
    fn stop(mut self) -> Counts {
        let status = self.process.terminate(LIMIT).unwrap();
        assert!(status.success(), "{status}:\n{}", self.process.log());
        assert!(xdp(self.lab).is_null(), "the interface is as it was: {:#}", xdp(self.lab));
        Counts(self.reports().pop().unwrap())
    }
}

#[derive(Clone, Debug)]
struct Counts(Value);

impl Counts {
    fn of(&self, name: &str) -> u64 {
        let verdicts = self.0["verdicts"].as_array().unwrap();
        verdicts.iter().find(|v| v["name"] == name).unwrap()["count"].as_u64().unwrap()
    }
}

/// What the kernel says of an XDP program on the backend's eth0.
fn xdp(lab: &Lab) -> Value {
    let mut ip = lab.backends()[0].namespace.command("ip");
    let output = ip.args(["-json", "link", "show", "eth0"]).output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0]["xdp"].clone()
}

#[test]
fn clients_are_served_through_every_tunnel() {
    let lab = lab();
    let decap = Decap::start(&lab, &["--from", FROM]);
    let mut before = 0;
    for kind in KINDS {
        let sender = Sender::start(&lab, kind);
        for family in FAMILIES {
            let target = SocketAddr::new(family.vip(), 80);
            let report = Load::new(target, Limit::Requests(20)).run(lab.client()).unwrap();
            assert_eq!(report.failures(), 0, "{kind} {family}: {:?}", report.failure_kinds());
        }
        let sent = sender.stop();
        let taken = decap.counts().of("pass-decapsulated") - before;
        before += taken;
        println!("kind {kind}: {sent} packets in tunnels, {taken} taken out");
        assert!(taken >= 2 * 20 * 4, "a connection takes more than {taken} packets");
        assert_eq!(taken, sent);
    }
    let counts = decap.stop();
    assert_eq!(counts.of("pass-decapsulated"), before);
    for name in ["drop-tunnel-source", "drop-tunnel-inner", "drop-tunnel-ecn", "drop-internal"] {
        assert_eq!(counts.of(name), 0, "{name}");
    }
    assert!(counts.of("pass-not-ip") + counts.of("pass-no-tunnel") > 0, "ARP, if nothing else");
    assert_eq!(counts.0["interfaces"][0]["xdp"], "native");
    assert_eq!(counts.0["from"][1], "fd77::2");
}

/// Asks the VIP once by UDP, as a client; whether it answered.
fn ask(lab: &Lab, family: Family) -> bool {
    let client = lab.topology().client(family);
    let asked = lab.client().enter(|| {
        let socket = UdpSocket::bind((client, 0))?;
        socket.connect((family.vip(), 5353))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 64])
    });
    asked.unwrap().is_ok()
}

#[test]
fn sources_that_are_not_listed_reach_nobody() {
    let lab = lab();
    let backend = &lab.backends()[0];
    let vips = FAMILIES.map(|family| SocketAddr::new(family.vip(), 5353));
    let echo = UdpEcho::start(&backend.namespace, &backend.name, &vips).unwrap();
    // The balancer's IPv4 address alone, and a neighbour of its IPv6 address.
    let decap =
        Decap::start(&lab, &["--from", "10.77.0.2", "--from", "fd77::3", "--xdp", "generic"]);
    for (kind, served) in
        [(KIND_IPIP4, true), (KIND_GUE4, true), (KIND_IPIP6, false), (KIND_GUE6, false)]
    {
        let sender = Sender::start(&lab, kind);
        for family in FAMILIES {
            assert_eq!(ask(&lab, family), served, "kind {kind} {family}: {:?}", decap.counts());
        }
        sender.stop();
    }
    assert_eq!(echo.received(), 4);
    let counts = decap.stop();
    assert_eq!(counts.of("pass-decapsulated"), 4);
    assert_eq!(counts.of("drop-tunnel-source"), 4);
    assert_eq!(counts.0["interfaces"][0]["xdp"], "generic");
}

#[test]
fn another_gue_port_is_another_tunnel() {
    let lab = lab();
    let backend = &lab.backends()[0];
    let vip = SocketAddr::new(Family::V4.vip(), 5353);
    let _echo = UdpEcho::start(&backend.namespace, &backend.name, &[vip]).unwrap();
    let decap = Decap::start(&lab, &["--from", "10.77.0.0/24", "--gue-port", "6081"]);
    let sender = Sender::start(&lab, KIND_GUE4);
    assert!(!ask(&lab, Family::V4), "port 6080 is not taken");
    assert_eq!(sender.stop(), 1);
    let counts = decap.stop();
    assert_eq!((counts.of("pass-decapsulated"), counts.0["gue_port"].as_u64()), (0, Some(6081)));
    assert!(counts.of("pass-no-tunnel") > 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let lab = lab();
    let refused = |options: &[&str], code: i32, part: &str| {
        let mut command = lab.backends()[0].namespace.command(Balancer::binary().unwrap());
        let output = command.arg("decap").args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{options:?}\n{said}");
        assert!(said.contains(part) && !said.contains("panicked"), "{options:?}\n{said}");
    };
    refused(&["eth0"], 2, "whoever may send tunnels can send as any client");
    refused(&[], 2, "required");
    refused(&["eth0", "--from", "10.77.0.2/24"], 2, "did you mean 10.77.0.0/24?");
    refused(&["eth0", "--from", "balancer"], 2, "names are not resolved");
    refused(&["eth0", "--from", ""], 2, "not an address or a prefix");
    refused(&["eth0", "--from", "10.77.0.2", "--gue-port", "0"], 2, "0 is not in 1..=65535");
    refused(&["eth0", "--from", "10.77.0.2", "--xdp", "fast"], 2, "fast");
    refused(&["eth7", "--from", "10.77.0.2"], 1, "this host has ");
    let decap = Decap::start(&lab, &["--from", "10.77.0.2"]);
    refused(&["eth0", "--from", "10.77.0.2"], 1, "already serves eth0");
    assert!(xdp(&lab).is_object(), "the first one is still there");
    let counts = decap.stop();
    assert_eq!(counts.of("pass-decapsulated"), 0);
}
