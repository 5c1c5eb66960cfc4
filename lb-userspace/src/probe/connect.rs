//! Sockets towards a backend, and what their errors mean.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};

use super::cause::{self, Cause, What};
use super::way::Passage;
use super::{Failure, FailureKind, Limit, Target};

/// How libraries say that the server has ended a connection.
const ENDS: [io::ErrorKind; 3] =
    [io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];

/// Connects, through `passage` if there is one; the connection is reset when dropped.
pub(super) async fn connect(
    target: &Target,
    passage: Option<&Passage<'_>>,
    limit: Limit,
) -> Result<TcpStream, Failure> {
    let address = target.address;
    let socket = open(target, passage, Type::STREAM, Protocol::TCP)?;
    let begun = socket.set_linger(Some(Duration::ZERO)).and_then(|()| begin(&socket, address));
    begun.map_err(|error| failure(&error, address))?;
    let stream = TcpStream::from_std(socket.into()).map_err(|error| failure(&error, address))?;
    let connected = stream.async_io(Interest::WRITABLE, || match stream.take_error()? {
        Some(error) => Err(error),
        // Woken by something else: not connected yet.
        None => stream.peer_addr().map(drop).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTCONN) => io::ErrorKind::WouldBlock.into(),
            _ => error,
        }),
    });
    let silence = || format!("no answer from {address} while connecting");
    match limit.wait(connected, silence).await? {
        Ok(()) => {
            if let Some(passage) = passage {
                passage.note_connected();
            }
            Ok(stream)
        }
        Err(error) => Err(explain(&error, address, cause::take(&stream))),
    }
}

/// A datagram socket of any kind that hears `target` alone.
pub(super) fn datagrams(
    target: &Target,
    passage: Option<&Passage<'_>>,
    kind: Type,
    protocol: Protocol,
) -> Result<UdpSocket, Failure> {
    let socket = open(target, passage, kind, protocol)?;
    socket
        .connect(&target.address.into())
        .and_then(|()| UdpSocket::from_std(socket.into()))
        .map_err(|error| failure(&error, target.address))
}

/// What an error on a connected datagram socket stands for.
pub(super) fn datagram_failure(error: &io::Error, socket: &UdpSocket, target: &Target) -> Failure {
    explain(error, target.address, cause::take(socket))
}

fn open(
    target: &Target,
    passage: Option<&Passage<'_>>,
    kind: Type,
    protocol: Protocol,
) -> Result<Socket, Failure> {
    let ipv6 = target.address.is_ipv6();
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))
        .map_err(|error| local(&error, "a socket"))?;
    cause::keep(&socket, ipv6).map_err(|error| local(&error, "a socket"))?;
    if let Some(mark) = target.mark {
        socket.set_mark(mark).map_err(|error| local(&error, "a socket with a mark"))?;
    }
    if let Some(source) = target.source {
        let bound = socket.bind(&SocketAddr::new(source, 0).into());
        bound.map_err(|error| local(&error, &format!("a socket from {source}")))?;
    }
    if let Some(passage) = passage {
        passage.enter(&socket, target, protocol)?;
    }
    Ok(socket)
}

fn begin(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        result => result,
    }
}

fn local(error: &io::Error, wanted: &str) -> Failure {
    let next = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ": the daemon lacks a capability (pings need CAP_NET_RAW)"
        }
        Some(libc::EADDRNOTAVAIL) => ": no interface has this address; add it to one",
        Some(libc::EMFILE) => ": raise the daemon's limit of open files (LimitNOFILE)",
        Some(libc::ENFILE) => ": raise fs.file-max",
        _ => "",
    };
    Failure::new(FailureKind::Local, format!("cannot open {wanted} ({error}){next}"))
}

/// The failure that an error on a socket to `target` stands for, as far as its number tells.
pub(super) fn failure(error: &io::Error, target: SocketAddr) -> Failure {
    let server = target.ip();
    let (kind, detail) = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => {
            (FailureKind::Refused, format!("connection refused on {target}"))
        }
        // The kernel says this when ARP or ND got no answer, and relays it from a router's ICMP.
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => {
            (FailureKind::NoNeighbour, format!("{server} or the router towards it does not answer"))
        }
        Some(libc::ENETUNREACH | libc::ENETDOWN) => {
            (FailureKind::Unreachable, format!("no route to {server}"))
        }
        Some(libc::EACCES | libc::EPERM | libc::ENOPROTOOPT | libc::EPROTO) => {
            (FailureKind::Unreachable, format!("a firewall or route forbids {target} ({error})"))
        }
        Some(libc::ETIMEDOUT) => (FailureKind::Timeout, format!("no answer from {target}")),
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => {
            (FailureKind::Reset, format!("connection reset by {target}"))
        }
        Some(libc::EADDRNOTAVAIL) => {
            let next = "widen net.ipv4.ip_local_port_range";
            (FailureKind::Local, format!("no port is left to probe {target} from: {next}"))
        }
        Some(_) => (FailureKind::Local, format!("{error} while probing {target}")),
        None if ENDS.contains(&error.kind()) => {
            (FailureKind::Reset, format!("connection closed by {target}"))
        }
        None => (FailureKind::Protocol, format!("{error} from {target}")),
    };
    Failure::new(kind, detail)
}

/// The same with the ICMP error that caused it, if there was one.
fn explain(error: &io::Error, target: SocketAddr, cause: Option<Cause>) -> Failure {
    let Some(Cause { from, what }) = cause else { return failure(error, target) };
    // Our own stack tells itself that ARP or ND got no answer.
    if what == What::Host && is_ours(from) {
        let server = target.ip();
        let detail = format!("{server} or the router towards it does not answer ARP");
        let detail =
            if target.is_ipv6() { detail.replace("ARP", "neighbour discovery") } else { detail };
        return Failure::new(FailureKind::NoNeighbour, detail);
    }
    let kind = if what == What::Port { FailureKind::Refused } else { FailureKind::Unreachable };
    Failure::new(kind, format!("{what} for {target}, says {from} by ICMP"))
}

/// Whether an interface of this host has the address: only then can a socket.
fn is_ours(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}
