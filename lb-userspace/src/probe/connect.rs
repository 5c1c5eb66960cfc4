//! A TCP connection to a backend, and what its errors mean.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use super::way::Passage;
use super::{Failure, FailureKind, Limit};

/// Connects; the connection is reset when dropped.
pub(super) async fn connect(
    target: SocketAddr,
    passage: Option<&Passage<'_>>,
    limit: Limit,
) -> Result<TcpStream, Failure> {
    let socket = open(target).map_err(|error| Failure::new(FailureKind::Local, error))?;
    if let Some(passage) = passage {
        passage.enter(&socket, target)?;
    }
    limit
        .wait(socket.connect(target), || format!("no answer from {target}"))
        .await?
        .map_err(|error| failure(&error, target))
}

fn open(target: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_zero_linger()?;
    Ok(socket)
}

/// The failure that an error on a socket to `target` stands for.
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
        Some(_) => (FailureKind::Local, format!("{error} while probing {target}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            (FailureKind::Reset, format!("connection closed by {target}"))
        }
        None => (FailureKind::Protocol, format!("{error} from {target}")),
    };
    Failure::new(kind, detail)
}
