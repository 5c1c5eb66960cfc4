//! A UDP backend: answers each datagram with its name, from the address that was asked.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// Ends when dropped.
#[derive(Debug)]
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
}

impl UdpEcho {
    /// One socket for each address: a wildcard socket would answer for a VIP from another address.
    pub fn start(namespace: &Namespace, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let sockets = namespace.enter(|| {
            addresses
                .iter()
                .map(|a| UdpSocket::bind(a).with_context(|| format!("cannot bind {a}")))
                .collect::<Result<Vec<_>>>()
        })??;
        for socket in sockets {
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            let name = name.to_owned();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // An error is the timeout, or a client that has gone; neither ends the service.
                    let _ = answer(&socket, &name, &received);
                }
            });
        }
        Ok(Self { stop, received })
    }

    /// Datagrams received; counted before the answer leaves.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn answer(socket: &UdpSocket, name: &str, received: &AtomicU64) -> io::Result<()> {
    let (_, client) = socket.recv_from(&mut [0; 2048])?;
    received.fetch_add(1, Ordering::Relaxed);
    socket.send_to(name.as_bytes(), client).map(drop)
}
