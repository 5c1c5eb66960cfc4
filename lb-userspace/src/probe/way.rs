//! A probe on a client's way, and the plain one beside it that tells a broken way from a dead server.
//!
//! The plain one is never waited for. It begins when the first one has been silent for half of its
//! time, or at once where the backend failed the last time. So it has mostly been answered when the
//! first one is over, and a failure is found as early as without it.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lb_common::abi::{IFINDEX_LOCAL, Server};
use lb_common::encap::overhead;
use socket2::{Protocol, Socket};
use tokio::time::{Instant, sleep};

use super::connect::failure;
use super::{Asked, Failure, FailureKind, Limit, ProbeResult, Success, Target};
use crate::config::model::Mode;
use crate::dataplane::probe_path::{Entered, Flight, ProbePath};

/// How packets of clients reach a backend, for its probes to follow.
#[derive(Clone, Debug)]
pub struct Way {
    path: Arc<ProbePath>,
    /// Number of the server's record.
    server: u32,
    vip: IpAddr,
    mode: Mode,
}

impl Way {
    #[must_use]
    pub fn new(path: Arc<ProbePath>, server: u32, vip: IpAddr, mode: Mode) -> Self {
        Self { path, server, vip, mode }
    }

    /// The server's record, if clients' packets for it leave this host at all, and probes can be led
    /// after them.
    fn record(&self, target: SocketAddr) -> Option<Server> {
        let record = self.path.server(self.server).filter(|_| self.path.is_open())?;
        let has_source =
            self.vip.is_ipv4() == target.is_ipv4() || self.path.source_for(self.vip).is_some();
        (record.ifindex != IFINDEX_LOCAL && has_source).then_some(record)
    }
}

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        let parts = |way: &Self| (way.server, way.vip, way.mode);
        parts(self) == parts(other)
    }
}

impl Eq for Way {}

/// Asks `target` once, by the way of clients' packets. `doubted`: it failed the last time.
pub async fn probe_by_way(
    way: &Way,
    target: &Target,
    asked: &Asked,
    timeout: Duration,
    doubted: bool,
) -> ProbeResult {
    let (started, address) = (Instant::now(), target.address);
    let limit = Limit { deadline: started + timeout, timeout };
    let success = || Success { latency: started.elapsed() };
    let half = started + timeout / 2;
    let mut record = way.record(address);
    if record.is_some_and(|record| record.ifindex == 0) {
        // Where the kernel has no way either, it says why.
        asked.ask(target, None, limit).await?;
        record = next_hop(way, address, half).await?;
    }
    let Some(record) = record else {
        asked.ask(target, None, limit).await?;
        return Ok(success());
    };
    // Until both sockets are closed.
    let passage = Passage::new(way, record);
    let by_way = asked.ask(target, Some(&passage), limit);
    let plain = async {
        if !doubted {
            tokio::time::sleep_until(half).await;
        }
        asked.ask(target, None, limit).await
    };
    both(by_way, plain).await.map_err(|failed| failed.explain(way, address, passage.reached()))?;
    Ok(success())
}

/// The record with a next hop. At a start, and of a backend just added, it may take a moment.
async fn next_hop(
    way: &Way,
    target: SocketAddr,
    until: Instant,
) -> Result<Option<Server>, Failure> {
    loop {
        match way.record(target) {
            Some(record) if record.ifindex == 0 => {}
            other => return Ok(other),
        }
        if Instant::now() >= until {
            let detail = format!(
                "{target} answers, but Holdfast has no next hop for packets to it: `lb status` \
                 says why"
            );
            return Err(Failure::new(FailureKind::PathBroken, detail));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A failure by the way of clients, and what the plain probe had found by then.
#[derive(Debug)]
struct Failed {
    by_way: Failure,
    plain: Option<Result<(), Failure>>,
}

/// Runs both, until the first one is over.
async fn both(
    by_way: impl Future<Output = Result<(), Failure>>,
    plain: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failed> {
    let (mut by_way, mut plain) = (pin!(by_way), pin!(plain));
    let mut found = None;
    loop {
        tokio::select! {
            biased;
            result = &mut plain, if found.is_none() => found = Some(result),
            result = &mut by_way => {
                return result.map_err(|by_way| Failed { by_way, plain: found });
            }
        }
    }
}

impl Failed {
    fn explain(self, way: &Way, target: SocketAddr, reached: Reached) -> Failure {
        use FailureKind::{NoNeighbour, Refused, Reset, Timeout, Unreachable};
        let Self { by_way, plain } = self;
        let Way { vip, mode, .. } = way;
        let through = if mode.is_tunnel() { format!(" through {mode}") } else { String::new() };
        let broken = match (by_way.kind, plain) {
            (Refused | Reset, Some(Ok(()))) => format!(
                "{target} answers, but for the VIP {vip}{through} the connection is {}: does the \
                 server listen on the VIP, too?",
                if by_way.kind == Refused { "refused" } else { "reset" },
            ),
            (Timeout, Some(Ok(()))) if reached == Reached::Connection => format!(
                "{target} answers, but for the VIP {vip}{through} it only accepts the connection: \
                 small packets pass, and large ones may not: is an MTU on the way too small?"
            ),
            (NoNeighbour | Unreachable | Timeout, Some(Ok(()))) => {
                let listens = match reached {
                    Reached::Datagrams => ", does the server listen on it",
                    Reached::Nothing | Reached::Connection => "",
                };
                let tunnel = if mode.is_tunnel() { ", is the tunnel (`lb decap`) up" } else { "" };
                format!(
                    "{target} answers, but not for the VIP {vip}{through}: is the VIP on its \
                     `lo`{listens}{tunnel}?"
                )
            }
            // Nothing but silence by the way: the plain answer says more.
            (Timeout, Some(Err(plain))) => return plain,
            _ => return by_way,
        };
        Failure::new(FailureKind::PathBroken, broken)
    }
}

/// The way for the sockets of one probe, which are closed before this is dropped.
#[derive(Debug)]
pub(super) struct Passage<'w> {
    way: &'w Way,
    record: Server,
    entered: Mutex<Vec<Entered>>,
    reached: Mutex<Reached>,
}

/// How far a probe came by the way of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Nothing,
    /// The TCP handshake came to its end.
    Connection,
    /// Whoever does not listen says so by ICMP at best, which is not led back.
    Datagrams,
}

impl<'w> Passage<'w> {
    fn new(way: &'w Way, record: Server) -> Self {
        Self { way, record, entered: Mutex::default(), reached: Mutex::new(Reached::Nothing) }
    }

    /// A TCP connection has come about on it.
    pub(super) fn note_connected(&self) {
        self.note(Reached::Connection);
    }

    fn note(&self, reached: Reached) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = reached;
    }

    fn reached(&self) -> Reached {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a TCP or UDP socket, not connected yet, a port of its own, and leads what it will send
    /// to `target` along the way. Where the target has a source, it is bound already.
    pub(super) fn enter(
        &self,
        socket: &Socket,
        target: &Target,
        protocol: Protocol,
    ) -> Result<(), Failure> {
        let address = target.address;
        if protocol == Protocol::UDP {
            self.note(Reached::Datagrams);
        }
        if target.source.is_none() {
            let own = own_address(address).map_err(|error| failure(&error, address))?;
            let bound = socket.bind(&SocketAddr::new(own, 0).into());
            bound.map_err(|error| not_led(address, &error))?;
        }
        self.lead(socket, address, protocol).map_err(|error| not_led(address, &error))
    }

    fn lead(&self, socket: &Socket, target: SocketAddr, protocol: Protocol) -> io::Result<()> {
        let Way { path, vip, .. } = self.way;
        if let Some(mss) = self.segment().filter(|_| protocol == Protocol::TCP) {
            socket.set_tcp_mss(mss)?;
        }
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let source = if vip.is_ipv4() == target.is_ipv4() {
            local.ip()
        } else {
            path.source_for(*vip).ok_or(io::ErrorKind::AddrNotAvailable)?
        };
        let protocol = u8::try_from(i32::from(protocol)).map_err(io::Error::other)?;
        let flight = Flight { protocol, local, server: target, vip: *vip, source };
        let entered = path.enter(&flight, self.record).map_err(io::Error::other)?;
        let entered = entered.ok_or(io::ErrorKind::AddrInUse)?;
        if let Ok(mut all) = self.entered.lock() {
            all.push(entered);
        }
        Ok(())
    }

    /// Bytes of a segment that fit into the tunnel: the socket thinks of its link alone.
    fn segment(&self) -> Option<u32> {
        let added = overhead(self.record.kind);
        let headers = if self.way.vip.is_ipv4() { 20 + 20 } else { 40 + 20 };
        (added > 0).then(|| self.record.mtu.saturating_sub(added + headers).max(LEAST_SEGMENT))
    }
}

fn not_led(target: SocketAddr, error: &io::Error) -> Failure {
    let detail = format!("cannot lead a probe of {target} to the VIP ({error})");
    Failure::new(FailureKind::Local, detail)
}

/// What every host takes (RFC 9293, section 3.7.1).
const LEAST_SEGMENT: u32 = 536;

/// What this host sends from to an address: asked of the routes, no packet is sent.
fn own_address(target: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests;
