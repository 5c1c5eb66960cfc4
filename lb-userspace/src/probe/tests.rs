//! Probes against real sockets on loopback.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::net::testbed::Namespace;

const TIMEOUT: Duration = Duration::from_millis(300);

fn http() -> Probe {
    Probe::Http { path: "/healthz".into(), host: None, status: 200..=399 }
}

/// What a server does with a connection.
#[derive(Clone, Copy)]
enum Server {
    /// Closes the listener before anyone connects.
    Absent,
    /// Accepts and never says anything.
    Silent,
    /// Reads the request, says this, and keeps the connection.
    Says(&'static str),
    /// Reads the request and closes.
    Closes,
    /// Reads the request and resets.
    Resets,
}

async fn serve(address: IpAddr, server: Server) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let target = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        if matches!(server, Server::Absent) {
            return;
        }
        let mut kept = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            kept.extend(treat(stream, server).await);
        }
    });
    tokio::task::yield_now().await;
    (target, task)
}

async fn treat(mut stream: TcpStream, server: Server) -> Option<TcpStream> {
    if matches!(server, Server::Silent) {
        return Some(stream);
    }
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await;
    match server {
        Server::Says(text) => stream.write_all(text.as_bytes()).await.unwrap(),
        Server::Resets => stream.set_zero_linger().unwrap(),
        Server::Absent | Server::Silent | Server::Closes => {}
    }
    matches!(server, Server::Says(_)).then_some(stream)
}

/// `expected`: `None` for success, else the kind and the text, `{}` standing for the target.
async fn check(name: &str, probed: Probe, server: Server, expected: Option<(FailureKind, &str)>) {
    for address in ["127.0.0.1", "::1"] {
        let (target, task) = serve(address.parse().unwrap(), server).await;
        let result = probe(target, &probed, TIMEOUT).await;
        let expected = expected
            .map(|(kind, text)| Failure { kind, text: text.replace("{}", &target.to_string()) });
        assert_eq!(result.err(), expected, "{name} on {address}");
        task.abort();
    }
}

#[tokio::test]
async fn tcp() {
    use FailureKind::Refused;
    let refused = (Refused, "refused: connection refused on {}");
    check("accepts", Probe::Tcp, Server::Silent, None).await;
    check("nothing listens", Probe::Tcp, Server::Absent, Some(refused)).await;
}

#[tokio::test]
async fn http_answers() {
    use FailureKind::{HttpStatus, Protocol, Refused, Reset, Timeout};
    let rows = [
        ("200", Server::Says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None),
        ("redirect", Server::Says("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n"), None),
        ("body never comes", Server::Says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), None),
        ("http 1.0", Server::Says("HTTP/1.0 200 OK\r\n\r\nhello"), None),
        (
            "500",
            Server::Says("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"),
            Some((HttpStatus, "status: HTTP 500 from http://{}/healthz (wanted 200-399)")),
        ),
        (
            "garbage",
            Server::Says("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
            Some((
                Protocol,
                "protocol: no HTTP/1 answer from http://{}/healthz (invalid HTTP version parsed)",
            )),
        ),
        (
            "half a head",
            Server::Says("HTTP/1.1 200 OK\r\n"),
            Some((
                Timeout,
                "timeout: connected, but no HTTP answer from http://{}/healthz within 300 ms",
            )),
        ),
        (
            "silent",
            Server::Silent,
            Some((
                Timeout,
                "timeout: connected, but no HTTP answer from http://{}/healthz within 300 ms",
            )),
        ),
        (
            "closes",
            Server::Closes,
            Some((Reset, "reset: {} closed the connection before answering")),
        ),
        ("resets", Server::Resets, Some((Reset, "reset: connection reset by {}"))),
        ("refuses", Server::Absent, Some((Refused, "refused: connection refused on {}"))),
    ];
    for (name, server, expected) in rows {
        check(name, http(), server, expected).await;
    }
}

#[tokio::test]
async fn an_endless_head_is_garbage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"x-more: and more and more and more\r\n").await.is_ok() {}
    });
    let failure = probe(target, &http(), Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Protocol, "{failure:?}");
}

#[tokio::test]
async fn the_request_is_as_documented() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let asked = Probe::Http {
        path: "/ready?x=1".into(),
        host: Some("shop.test".into()),
        status: 204..=204,
    };
    probe(target, &asked, TIMEOUT).await.unwrap();
    let request = seen.await.unwrap();
    let agent = format!("user-agent: holdfast/{}\r\n", env!("CARGO_PKG_VERSION"));
    for wanted in
        ["GET /ready?x=1 HTTP/1.1\r\n", "host: shop.test\r\n", "connection: close\r\n", &agent]
    {
        assert!(request.contains(wanted), "{wanted:?} in {request}");
    }
    assert!(!time_wait(target.port()), "a probe leaves no TIME_WAIT");
}

#[tokio::test]
async fn a_tcp_probe_ends_with_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    probe(target, &Probe::Tcp, TIMEOUT).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let end = stream.read(&mut [0; 1]).await;
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    assert!(!time_wait(target.port()));
}

/// Whether a connection of this port is in `TIME_WAIT` (06).
fn time_wait(port: u16) -> bool {
    let port = format!(":{port:04X}");
    std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap().lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[3] == "06" && (fields[1].ends_with(&port) || fields[2].ends_with(&port))
    })
}

#[tokio::test]
async fn a_bad_request_of_ours_blames_no_backend() {
    let (target, task) = serve("127.0.0.1".parse().unwrap(), Server::Silent).await;
    let asked = Probe::Http { path: "no slash \n".into(), host: None, status: 200..=200 };
    let failure = probe(target, &asked, TIMEOUT).await.unwrap_err();
    assert!(!failure.kind.blames_backend(), "{failure:?}");
    task.abort();
}

#[test]
fn a_lonely_host_tells_no_neighbour_from_no_route() {
    let host = Namespace::new();
    host.ip("link add eth0 type veth peer name eth1");
    host.ip("link set eth1 up");
    host.ip("link set eth0 up");
    host.ip("addr add 10.0.0.1/24 dev eth0");
    let rows = [
        ("10.0.0.12:80", FailureKind::NoNeighbour),
        ("192.0.2.1:80", FailureKind::Unreachable),
        ("[2001:db8::1]:80", FailureKind::Unreachable),
    ];
    for (target, kind) in rows {
        let patience = Duration::from_secs(20);
        let result = host.run(probe(target.parse().unwrap(), &Probe::Tcp, patience));
        assert_eq!(result.unwrap_err().kind, kind, "{target}");
    }
}

#[test]
fn errors_of_the_kernel_name_the_layer() {
    let target = "192.0.2.1:80".parse().unwrap();
    let rows = [
        (libc::ECONNREFUSED, FailureKind::Refused),
        (libc::EHOSTUNREACH, FailureKind::NoNeighbour),
        (libc::ENETUNREACH, FailureKind::Unreachable),
        (libc::EACCES, FailureKind::Unreachable),
        (libc::ETIMEDOUT, FailureKind::Timeout),
        (libc::ECONNRESET, FailureKind::Reset),
        (libc::EMFILE, FailureKind::Local),
        (libc::EADDRNOTAVAIL, FailureKind::Local),
        (libc::ENOBUFS, FailureKind::Local),
    ];
    for (code, kind) in rows {
        let failure = connect::failure(&std::io::Error::from_raw_os_error(code), target);
        assert_eq!(failure.kind, kind, "{}", failure.text);
    }
}
