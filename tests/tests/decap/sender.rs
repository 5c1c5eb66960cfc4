//! A balancer of the simplest kind, in the balancer's namespace: each packet to a VIP goes into a
//! tunnel to the lab's only backend.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytemuck::Zeroable;
use lb_common::abi::{Address, FEATURES_ALL, KIND_GUE4, KIND_IPIP4, Server, Settings};
use lb_common::encap::encapsulate;
use lb_common::frame::{Frame, HostFrame};
use lb_common::hash::fmix64;
use lb_common::ip::{V4, V6};
use lb_tests::{Family, Lab, Namespace, packet_socket};

const GUE_PORT: u32 = 6080;

/// Ends when stopped or dropped.
pub(crate) struct Sender {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    /// Tunnels of this kind, from the balancer's address to the backend's.
    pub(crate) fn start(lab: &Lab, kind: u32) -> Self {
        let backend = mac(&lab.backends()[0].namespace);
        let own = mac(lab.balancer());
        let family = if kind == KIND_IPIP4 || kind == KIND_GUE4 { Family::V4 } else { Family::V6 };
        let word = |b: &[u8]| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        let ethernet = [backend, own].concat();
        let server = Server {
            ethernet: [word(&ethernet), word(&ethernet[4..]), word(&ethernet[8..])],
            ifindex: 1,
            address: address(lab.topology().backend(0, family)),
            source: address(lab.topology().balancer(family)),
            kind,
            mtu: 1500,
            vlan: 0,
            entropy: 0,
        };
        quiet(lab.balancer());
        let socket = lab.balancer().enter(|| packet_socket("eth0")).unwrap().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (ends, counts) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ends.load(Ordering::Relaxed) {
                let Ok(length) = (&socket).read(&mut buffer) else { continue };
                let bytes = &buffer[..length];
                if length < 42 || bytes[..6] != own || !is_for_vip(bytes) {
                    continue;
                }
                let frame = tunnelled(bytes, &server);
                (&socket).write_all(frame.bytes()).unwrap();
                counts.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Packets put into tunnels. The last of them have arrived.
    pub(crate) fn stop(mut self) -> u64 {
        // A client's last ACK may still be under way.
        thread::sleep(Duration::from_millis(100));
        self.end();
        thread::sleep(Duration::from_millis(50));
        self.sent.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end();
    }
}

/// The frame in a tunnel to the server. Any hash will do that differs between flows.
pub(crate) fn tunnelled(bytes: &[u8], server: &Server) -> HostFrame {
    let settings = Settings { gue_port: GUE_PORT, features: FEATURES_ALL, ..Settings::zeroed() };
    let mut frame = HostFrame::new(bytes);
    let done = if bytes[12..14] == [8, 0] {
        let ports = u32::from_ne_bytes([bytes[34], bytes[35], bytes[36], bytes[37]]);
        encapsulate::<V4, _>(&mut frame, server, fmix64(u64::from(ports)), &settings)
    } else {
        let ports = u32::from_ne_bytes([bytes[54], bytes[55], bytes[56], bytes[57]]);
        encapsulate::<V6, _>(&mut frame, server, fmix64(u64::from(ports)), &settings)
    };
    done.unwrap();
    assert!(!frame.packet().is_empty());
    frame
}

/// To 192.0.2.0/24 or 2001:db8::/64.
fn is_for_vip(bytes: &[u8]) -> bool {
    match bytes[12..14] {
        [8, 0] => bytes[30..33] == [192, 0, 2],
        [0x86, 0xdd] if bytes.len() >= 62 => bytes[38..46] == [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0],
        _ => false,
    }
}

fn address(address: IpAddr) -> Address {
    let mut words = [0; 4];
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for (word, b) in words.iter_mut().zip(octets.chunks(4)) {
        *word = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    }
    words
}

/// MAC address of a namespace's eth0.
fn mac(namespace: &Namespace) -> [u8; 6] {
    let link = namespace.link("eth0");
    let text = link["address"].as_str().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// The namespace's own kernel sees each packet to a VIP as well: it is not to answer that there is
/// no route.
fn quiet(balancer: &Namespace) {
    for prefix in ["192.0.2.0/24", "2001:db8::/64"] {
        let mut ip = balancer.command("ip");
        assert!(ip.args(["route", "replace", "blackhole", prefix]).status().unwrap().success());
    }
}
