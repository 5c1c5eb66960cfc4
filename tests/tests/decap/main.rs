//! `lb decap` on a backend: clients talk to a VIP through tunnels of all kinds, and what is not to
//! be taken is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

mod kernel;
mod sender;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_common::abi::{KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6};
use lb_tests::{Balancer, Decap, Family, Lab, Limit, Load, Mode, Topology, UdpEcho};
use serde_json::Value;

use crate::sender::Sender;

const KINDS: [u32; 4] = [KIND_IPIP4, KIND_IPIP6, KIND_GUE4, KIND_GUE6];
/// The balancer's addresses in the lab.
const FROM: &str = "10.77.0.2,fd77::2";

/// A lab of one backend.
fn lab() -> Lab {
    Lab::build(Topology::new(Mode::Dsr, 1)).unwrap()
}

fn start(lab: &Lab, options: &[&str]) -> Decap {
    Decap::start(lab, &lab.backends()[0], options).unwrap()
}

/// What the kernel says of an XDP program on the backend's eth0.
fn xdp(lab: &Lab) -> Value {
    lab.backends()[0].namespace.link("eth0")["xdp"].clone()
}

#[test]
fn clients_are_served_through_every_tunnel() {
    let lab = lab();
    let decap = start(&lab, &["--from", FROM]);
    let mut before = 0;
    for kind in KINDS {
        let sender = Sender::start(&lab, kind);
        for family in Family::ALL {
            let target = SocketAddr::new(family.vip(), 80);
            let report = Load::new(target, Limit::Requests(20)).run(lab.client()).unwrap();
            assert_eq!(report.failures(), 0, "{kind} {family}: {:?}", report.failure_kinds());
        }
        let sent = sender.stop();
        let taken = decap.counts().unwrap().of("pass-decapsulated").unwrap() - before;
        before += taken;
        println!("kind {kind}: {sent} packets in tunnels, {taken} taken out");
        assert!(taken >= 2 * 20 * 4, "a connection takes more than {taken} packets");
        assert_eq!(taken, sent);
    }
    let counts = decap.stop().unwrap();
    assert_eq!(counts.of("pass-decapsulated").unwrap(), before);
    for name in ["drop-tunnel-source", "drop-tunnel-inner", "drop-tunnel-ecn", "drop-internal"] {
        assert_eq!(counts.of(name).unwrap(), 0, "{name}");
    }
    assert!(
        counts.of("pass-not-ip").unwrap() + counts.of("pass-no-tunnel").unwrap() > 0,
        "ARP, if nothing else"
    );
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
    let vips = Family::ALL.map(|family| SocketAddr::new(family.vip(), 5353));
    let echo = UdpEcho::start(&backend.namespace, &backend.name, &vips).unwrap();
    // The balancer's IPv4 address alone, and a neighbour of its IPv6 address.
    let decap = start(&lab, &["--from", "10.77.0.2", "--from", "fd77::3", "--xdp", "generic"]);
    for (kind, served) in
        [(KIND_IPIP4, true), (KIND_GUE4, true), (KIND_IPIP6, false), (KIND_GUE6, false)]
    {
        let sender = Sender::start(&lab, kind);
        for family in Family::ALL {
            assert_eq!(
                ask(&lab, family),
                served,
                "kind {kind} {family}: {:?}",
                decap.counts().unwrap()
            );
        }
        sender.stop();
    }
    assert_eq!(echo.received(), 4);
    let counts = decap.stop().unwrap();
    assert_eq!(counts.of("pass-decapsulated").unwrap(), 4);
    assert_eq!(counts.of("drop-tunnel-source").unwrap(), 4);
    assert_eq!(counts.0["interfaces"][0]["xdp"], "generic");
}

#[test]
fn another_gue_port_is_another_tunnel() {
    let lab = lab();
    let backend = &lab.backends()[0];
    let vip = SocketAddr::new(Family::V4.vip(), 5353);
    let _echo = UdpEcho::start(&backend.namespace, &backend.name, &[vip]).unwrap();
    let decap = start(&lab, &["--from", "10.77.0.0/24", "--gue-port", "6081"]);
    let sender = Sender::start(&lab, KIND_GUE4);
    assert!(!ask(&lab, Family::V4), "port 6080 is not taken");
    assert_eq!(sender.stop(), 1);
    let counts = decap.stop().unwrap();
    assert_eq!(
        (counts.of("pass-decapsulated").unwrap(), counts.0["gue_port"].as_u64()),
        (0, Some(6081))
    );
    assert!(counts.of("pass-no-tunnel").unwrap() > 0);
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
    let decap = start(&lab, &["--from", "10.77.0.2"]);
    refused(&["eth0", "--from", "10.77.0.2"], 1, "already serves eth0");
    assert!(xdp(&lab).is_object(), "the first one is still there");
    let counts = decap.stop().unwrap();
    assert_eq!(counts.of("pass-decapsulated").unwrap(), 0);
}
