//! New connections on their way from the balancer to one server, as they cross its cable.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context, Result};
use lb_tests::{Lab, packet_socket};
use socket2::SockFilter;

use super::contenders::Contender;

/// A SYN, and the contender that sent it.
pub(super) type Syn = (usize, Instant);

/// Watches until it is dropped.
pub(super) struct Syns {
    seen: Arc<Mutex<Vec<Syn>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Syns {
    pub(super) fn watch(lab: &Lab, server: u8, contenders: Vec<Contender>) -> Result<Self> {
        let link = lab.backend(server.into())?.namespace.link("eth0");
        let mac = mac(link["address"].as_str().unwrap_or_default()).context("a server's MAC")?;
        let mut socket = lab.switch().enter(|| packet_socket("lb0"))??;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.attach_filter(&FILTER)?;
        let seen = Arc::<Mutex<Vec<Syn>>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 256];
            while !stopped.load(Ordering::Relaxed) {
                // Reading ends after 20 ms without a packet.
                let Ok(length) = socket.read(&mut buffer) else { continue };
                let now = Instant::now();
                let Some((from, to)) = addresses(&buffer[..length], mac) else { continue };
                if let Some(at) = contenders.iter().position(|c| c.sent(from, to)) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push((at, now));
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Those since it was asked last.
    pub(super) fn take(&self) -> Vec<Syn> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Syns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It has nothing to say, and panics are shown where they happen.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Where source, destination and its port are in a frame of Ethernet, IPv4 without options and TCP.
fn addresses(frame: &[u8], to_mac: [u8; 6]) -> Option<([u8; 4], SocketAddr)> {
    if frame.get(..6)? != to_mac || frame.get(12..15)? != [0x08, 0x00, 0x45] {
        return None;
    }
    let from = frame.get(26..30)?.try_into().ok()?;
    let to: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
    let port = frame.get(36..38)?.try_into().ok()?;
    Some((from, SocketAddr::new(Ipv4Addr::from(to).into(), u16::from_be_bytes(port))))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// Of TCP over IPv4, SYNs without ACK (classic BPF).
const FILTER: [SockFilter; 7] = [
    step(0x30, 0, 0, 23),   // load the protocol
    step(0x15, 0, 3, 6),    // TCP?
    step(0x30, 0, 0, 47),   // load the flags
    step(0x54, 0, 0, 0x12), // of which SYN and ACK
    step(0x15, 1, 0, 0x02), // SYN alone?
    step(0x06, 0, 0, 0),    // no
    step(0x06, 0, 0, 128),  // so many bytes of it
];

const fn step(code: u16, if_true: u8, if_false: u8, constant: u32) -> SockFilter {
    SockFilter::new(code, if_true, if_false, constant)
}
