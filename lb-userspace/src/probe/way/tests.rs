use std::net::SocketAddr;

use socket2::{Domain, Type};

use super::*;
use crate::config::model::{Node, Probe};
use crate::probe::Configs;
use crate::probe::tests::target as to;

const MS: Duration = Duration::from_millis(1);

fn maps() -> Arc<crate::dataplane::maps::LiveMaps> {
    let settings = lb_common::abi::Settings {
        service_mask: 63,
        backend_rows: 16,
        ..bytemuck::Zeroable::zeroed()
    };
    Arc::new(crate::dataplane::maps::LiveMaps::in_memory(settings, 16, 16).unwrap())
}

/// A way that is open, to server 3.
fn way(mode: Mode, ifindex: u32) -> Way {
    let maps = maps();
    let record = Server { ifindex, ..bytemuck::Zeroable::zeroed() };
    maps.servers.set(3, record).unwrap();
    let path = Arc::new(ProbePath::new(maps, Node::default().interfaces));
    path.open_in_memory();
    Way::new(path, 3, "192.0.2.10".parse().unwrap(), mode)
}

fn target() -> SocketAddr {
    "10.0.0.11:80".parse().unwrap()
}

fn failed(kind: FailureKind) -> Failure {
    Failure::new(kind, "by the way")
}

/// An answer after a time; `None`: never.
async fn after<T>(wait: Option<Duration>, answer: T) -> T {
    match wait {
        Some(wait) => sleep(wait).await,
        None => std::future::pending().await,
    }
    answer
}

#[test]
fn a_failure_says_what_is_broken() {
    use FailureKind::{
        HttpStatus, Local, PathBroken, Protocol, Refused, Reset, Timeout, Unreachable,
    };
    let plain_refused = Failure::new(Refused, "plain");
    let ok = || Some(Ok(()));
    let broken = "path broken: 10.0.0.11:80 answers, but not for the VIP 192.0.2.10";
    type Plain = Option<Result<(), Failure>>;
    let rows: [(Mode, FailureKind, Plain, FailureKind, &str); 13] = [
        (Mode::Dsr, Timeout, ok(), PathBroken, &format!("{broken}: is the VIP on its `lo`?")),
        (
            Mode::Ipip,
            Timeout,
            ok(),
            PathBroken,
            &format!(
                "{broken} through ipip: is the VIP on its `lo`, is the tunnel (`lb decap`) up?"
            ),
        ),
        (
            Mode::Gue,
            Unreachable,
            ok(),
            PathBroken,
            &format!(
                "{broken} through gue: is the VIP on its `lo`, is the tunnel (`lb decap`) up?"
            ),
        ),
        (
            Mode::Dsr,
            Refused,
            ok(),
            PathBroken,
            "path broken: 10.0.0.11:80 answers, but for the VIP 192.0.2.10 the connection is refused: \
             does the server listen on the VIP, too?",
        ),
        (
            Mode::Dsr,
            Reset,
            ok(),
            PathBroken,
            "path broken: 10.0.0.11:80 answers, but for the VIP 192.0.2.10 the connection is reset: \
             does the server listen on the VIP, too?",
        ),
        // The application answered.
        (Mode::Dsr, HttpStatus, ok(), HttpStatus, "status: by the way"),
        (Mode::Dsr, Protocol, ok(), Protocol, "protocol: by the way"),
        // Nothing is said about the backend.
        (Mode::Dsr, Local, ok(), Local, "local: by the way"),
        // Dead by any way.
        (Mode::Dsr, Timeout, Some(Err(plain_refused.clone())), Refused, "refused: plain"),
        (Mode::Dsr, Refused, Some(Err(plain_refused)), Refused, "refused: by the way"),
        // Not asked in time.
        (Mode::Dsr, Timeout, None, Timeout, "timeout: by the way"),
        (Mode::Dsr, Refused, None, Refused, "refused: by the way"),
        (Mode::Dsr, Unreachable, None, Unreachable, "unreachable: by the way"),
    ];
    for (mode, kind, plain, expected, text) in rows {
        let said = Failed { by_way: failed(kind), plain }.explain(
            &way(mode, 2),
            target(),
            Reached::Nothing,
        );
        assert_eq!((said.kind, said.text.as_str()), (expected, text));
    }
}

#[test]
fn silence_says_how_far_the_probe_came() {
    use FailureKind::{HttpStatus, PathBroken, Refused, Timeout};
    use Reached::{Connection, Datagrams};
    let rows = [
        (
            Connection,
            Timeout,
            Some(Ok(())),
            PathBroken,
            "path broken: 10.0.0.11:80 answers, but for the VIP 192.0.2.10 through gue it only \
             accepts the connection: small packets pass, and large ones may not: is an MTU on the \
             way too small?",
        ),
        (
            Datagrams,
            Timeout,
            Some(Ok(())),
            PathBroken,
            "path broken: 10.0.0.11:80 answers, but not for the VIP 192.0.2.10 through gue: is the \
             VIP on its `lo`, does the server listen on it, is the tunnel (`lb decap`) up?",
        ),
        (Connection, Timeout, None, Timeout, "timeout: by the way"),
        (Connection, Timeout, Some(Err(Failure::new(Refused, "plain"))), Refused, "refused: plain"),
        (Connection, HttpStatus, Some(Ok(())), HttpStatus, "status: by the way"),
    ];
    for (reached, kind, plain, expected, text) in rows {
        let failed = Failed { by_way: failed(kind), plain };
        let said = failed.explain(&way(Mode::Gue, 2), target(), reached);
        assert_eq!((said.kind, said.text.as_str()), (expected, text));
    }
}

#[tokio::test(start_paused = true)]
async fn the_plain_answer_is_never_waited_for() {
    for (by_way, plain, took, has_plain) in [
        (5, None, 5, false),
        (5, Some(50), 5, false),
        (50, Some(5), 50, true),
        // Both at once: it was there.
        (50, Some(50), 50, true),
    ] {
        let began = Instant::now();
        let ask = after(Some(by_way * MS), Err(failed(FailureKind::Timeout)));
        let result = both(ask, after(plain.map(|ms| ms * MS), Ok(()))).await.unwrap_err();
        assert_eq!(began.elapsed(), took * MS);
        assert_eq!(result.plain.is_some(), has_plain, "{by_way} {plain:?}");
    }
    let began = Instant::now();
    both(after(Some(5 * MS), Ok(())), after(None, Ok(()))).await.unwrap();
    assert_eq!(began.elapsed(), 5 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_next_hop_is_no_way() {
    let way = way(Mode::Dsr, 0);
    let until = Instant::now() + 250 * MS;
    let failure = next_hop(&way, target(), until).await.unwrap_err();
    assert_eq!(Instant::now(), until);
    assert_eq!(failure.kind, FailureKind::PathBroken);
    assert!(failure.text.contains("no next hop"), "{}", failure.text);

    // It may come in time.
    let record = Server { ifindex: 7, ..bytemuck::Zeroable::zeroed() };
    let learn = async {
        sleep(100 * MS).await;
        way.path.set_server_in_memory(3, record);
    };
    let until = Instant::now() + 250 * MS;
    let (found, ()) = tokio::join!(next_hop(&way, target(), until), learn);
    assert_eq!(found.unwrap().map(|server| server.ifindex), Some(7));
    assert!(Instant::now() < until);
}

#[tokio::test]
async fn what_clients_packets_do_not_take_is_probed_plainly() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = to(listener.local_addr().unwrap());
    let asked = Asked::new(&Probe::Tcp, &mut Configs::default());
    let closed = {
        let path = Arc::new(ProbePath::new(maps(), Vec::new()));
        Way::new(path, 3, "192.0.2.10".parse().unwrap(), Mode::Dsr)
    };
    let no_source = Way { vip: "2001:db8::10".parse().unwrap(), ..way(Mode::Ipip, 2) };
    let rows = [
        ("the programs do not run", closed),
        ("the server is this host", way(Mode::Dsr, IFINDEX_LOCAL)),
        ("this host has no address of the VIP's family", no_source),
    ];
    for (row, way) in rows {
        assert!(way.record(target.address).is_none(), "{row}");
        let result = probe_by_way(&way, &target, &asked, Duration::from_secs(5), false).await;
        assert!(result.is_ok(), "{row}: {result:?}");
    }
}

#[tokio::test]
async fn a_socket_enters_with_a_port_of_its_own_and_leaves() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = to(listener.local_addr().unwrap());
    let asked = Asked::new(&Probe::Tcp, &mut Configs::default());
    let way = way(Mode::Dsr, 2);
    let in_flight = || way.path.in_memory();
    for _ in 0..3 {
        // In memory nothing leads it anywhere, so the server's own address answers.
        let result = probe_by_way(&way, &target, &asked, Duration::from_secs(5), false).await;
        assert!(result.is_ok(), "{result:?}");
        assert!(in_flight().is_empty());
    }
    let record = way.record(target.address).unwrap();
    let passage = Passage::new(&way, record);
    let sockets: Vec<_> =
        (0..2).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect();
    for socket in &sockets {
        passage.enter(socket, &target, Protocol::TCP).unwrap();
    }
    let mut ports: Vec<u16> = sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap().as_socket().unwrap().port())
        .collect();
    ports.sort_unstable();
    let mut entries = in_flight();
    entries.sort_by_key(|(key, _)| u16::from_be(*key as u16));
    let keys: Vec<u16> = entries.iter().map(|(key, _)| u16::from_be(*key as u16)).collect();
    assert_eq!(keys, ports);
    for (_, entry) in entries {
        assert_eq!(entry.vip, crate::dataplane::keys::address(way.vip));
        assert_eq!(entry.local, crate::dataplane::keys::address("127.0.0.1".parse().unwrap()));
        assert_eq!(u16::from_be(entry.port as u16), target.address.port());
    }
    drop(passage);
    assert!(in_flight().is_empty());
}

#[tokio::test]
async fn a_datagram_socket_keeps_its_source_on_the_way() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = "127.0.0.9".parse().unwrap();
    let target = Target { source: Some(source), ..to(server.local_addr().unwrap()) };
    let way = way(Mode::Dsr, 2);
    let record = way.record(target.address).unwrap();
    let passage = Passage::new(&way, record);
    let kind = Type::DGRAM;
    let socket =
        crate::probe::connect::datagrams(&target, Some(&passage), kind, Protocol::UDP).unwrap();
    let own = socket.local_addr().unwrap();
    assert_eq!(own.ip(), source);
    let entries = way.path.in_memory();
    let key = lb_common::abi::probe_key(4, 17, own.port().to_be());
    assert_eq!(entries.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key]);
    assert_eq!(entries[0].1.local, crate::dataplane::keys::address(source));
}
