//! Probes against real sockets and real servers.

mod dns;
mod exec;
mod garbage;
mod grpc;
mod http;
mod network;
mod nginx;
mod tls;

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::config::model::{Health, Http, Probe};

const TIMEOUT: Duration = Duration::from_millis(300);
/// For answers that do come: a busy machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// A backend `a` of a service `web`.
pub(in crate::probe) fn target(address: SocketAddr) -> Target {
    Target { address, source: None, mark: None, service: "web".into(), backend: "a".into() }
}

async fn ask(address: SocketAddr, probe: &Probe, timeout: Duration) -> ProbeResult {
    let asked = Asked::new(probe, &mut Configs::default());
    super::probe(&target(address), &asked, timeout).await
}

/// The probe that a line of a configuration asks for.
fn read(health: &str) -> Probe {
    read_health(health).probe
}

fn read_health(health: &str) -> Health {
    let source = format!(
        "[node]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nmode = \"nat\"\n\
         listen = [\"192.0.2.10:80/tcp\"]\nhealth = {{ {health} }}\n\
         backends = [{{ name = \"a\", address = \"10.0.0.11\" }}]\n"
    );
    let config = crate::config::parse(&source, "lb.toml");
    config.unwrap_or_else(|error| panic!("{error}")).services[0].health.clone()
}

/// What a result says: the failure's text, or `ok`.
fn text(result: ProbeResult) -> String {
    result.map_or_else(|failure| failure.text, |_| "ok".into())
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
    /// The same, then closes.
    SaysAndCloses(&'static str),
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
        Server::Says(text) | Server::SaysAndCloses(text) => {
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        Server::Resets => stream.set_zero_linger().unwrap(),
        Server::Absent | Server::Silent | Server::Closes => {}
    }
    matches!(server, Server::Says(_)).then_some(stream)
}

/// `expected`: `None` for success, else the kind and the text, `{}` standing for the target.
async fn check(name: &str, probed: Probe, server: Server, expected: Option<(FailureKind, &str)>) {
    for address in ["127.0.0.1", "::1"] {
        let (target, task) = serve(address.parse().unwrap(), server).await;
        let result = ask(target, &probed, TIMEOUT).await;
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
async fn a_tcp_probe_ends_with_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    ask(target, &Probe::Tcp, TIMEOUT).await.unwrap();
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
async fn a_probe_comes_from_the_source_that_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = Asked::new(&Probe::Tcp, &mut Configs::default());
    let from = |source: &str| Target {
        source: Some(source.parse().unwrap()),
        ..target(listener.local_addr().unwrap())
    };
    probe(&from("127.0.0.77"), &asked, TIMEOUT).await.unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.ip().to_string(), "127.0.0.77");
    let failure = probe(&from("192.0.2.77"), &asked, TIMEOUT).await.unwrap_err();
    assert!(!failure.kind.blames_backend());
    assert!(failure.text.contains("192.0.2.77"), "{}", failure.text);
    assert!(
        failure.text.ends_with("no interface has this address; add it to one"),
        "{}",
        failure.text
    );
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
