//! The API over a real socket, with a stand-in for the control loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::*;
use crate::config::model::{Config, Ports};
use crate::config::{apply_backend_change, parse};
use crate::control::handle::{Handle, Request};
use crate::report::{AlertTest, Alerts, Changed, Error, ErrorKind, Explanation};

const SAMPLE: &str = r#"
[node]
interfaces = ["eth0"]
[[service]]
name = "web"
mode = "nat"
listen = ["192.0.2.10:80/tcp"]
backends = [{ name = "web-01", address = "10.0.0.11" }, { name = "web-02", address = "10.0.0.12" }]
"#;

struct Daemon {
    socket: PathBuf,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
    _directory: TempDir,
}

impl Daemon {
    fn start(only_readers: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/lb.sock");
        let mut listener = bind(&socket).unwrap();
        if only_readers {
            listener.writers.clear();
        }
        let (handle, mut requests) = Handle::new();
        tokio::spawn(async move {
            let mut config = parse(SAMPLE, "lb.toml").unwrap();
            while let Some(request) = requests.recv().await {
                answer(&mut config, request);
            }
        });
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, handle, async {
            let _ = stopped.await;
        }));
        Self { socket, stop, served, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The answer's status, and its body if that is an error.
    async fn send(&self, method: &str, path: &str, body: &[u8]) -> (u16, Option<Error>) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: lb\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = self.raw(&[head.as_bytes(), body].concat()).await;
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, serde_json::from_str(body).ok())
    }
}

fn answer(config: &mut Config, request: Request) {
    let changed = |changes: Vec<String>| Changed { revision: 2, changes, warnings: vec![] };
    match request {
        Request::Status(reply) => {
            let _ = reply.send(Ok(crate::report::sample()));
        }
        Request::Config(reply) => {
            let _ = reply.send(Ok(config.clone()));
        }
        Request::Apply { config: new, actor, reply } => {
            *config = *new;
            let _ = reply.send(Ok(changed(vec![actor])));
        }
        Request::Reload { actor, reply } => {
            let _ = reply.send(Ok(changed(vec![actor])));
        }
        Request::Backend { service, change, force, actor, reply } => {
            let result = apply_backend_change(config, &service, &change);
            let _ = reply.send(result.map(|new| {
                *config = new;
                let force = if force { " by force" } else { "" };
                changed(vec![format!("{actor}: {change:?}{force}")])
            }));
        }
        Request::Freeze { service, reason, lasts, actor, reply } => {
            let what = format!("{actor}: frozen {service:?} {reason:?} {lasts:?}");
            let _ = reply.send(Ok(changed(vec![what])));
        }
        Request::Thaw { service, actor, reply } => {
            let _ = reply.send(Ok(changed(vec![format!("{actor}: thawed {service:?}")])));
        }
        Request::Blocks(reply) => {
            let _ = reply.send(Ok(vec![]));
        }
        Request::Block { change, actor, reply } => {
            let _ = reply.send(Ok(changed(vec![format!("{actor}: {change:?}")])));
        }
        Request::Alerts(reply) => {
            let _ = reply.send(Ok(Alerts::default()));
        }
        Request::AlertTest(reply) => {
            let test = |target: &str, error: Option<&str>| AlertTest {
                target: target.into(),
                error: error.map(Into::into),
                took_ms: 7,
            };
            let tests = [test("https://h/…", None), test("exec /bin/page", Some("exit 1"))];
            let _ = reply.send(Ok(tests.to_vec()));
        }
        Request::Explain { vip, reply, .. } => {
            let _ = reply.send(Ok(Explanation {
                service: Some("web".into()),
                backend: None,
                verdict: vip.to_string(),
                existing_backend: None,
                hash: "0x0".into(),
                slot: None,
                steps: vec![],
            }));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn new_backend(address: [u8; 4]) -> NewBackend {
    let (address, family) = (Address::Ip(address.into()), None);
    NewBackend { address, family, port: None, weight: 1, backup: false, server_id: None }
}

fn refused(kind: ErrorKind, failure: &Failure) -> &Error {
    match failure {
        Failure::Refused(error) if error.kind == kind => error,
        other => panic!("expected {kind:?}, got {other:?}"),
    }
}

#[test]
fn a_client_reads_and_changes() {
    runtime().block_on(async {
        let daemon = Daemon::start(false);
        let client = daemon.client();
        assert_eq!(client.status().await.unwrap(), crate::report::sample());
        let config = client.config().await.unwrap();
        assert_eq!(config, parse(SAMPLE, "lb.toml").unwrap());

        let backend = NewBackend { port: Some(8080), weight: 2, ..new_backend([10, 0, 0, 13]) };
        let changed = client.add("web/web-03", &backend).await.unwrap();
        assert!(changed.changes[0].starts_with("uid 0: Add"), "{changed:?}");
        client.weight("web/web-03", NewWeight { weight: 9 }).await.unwrap();
        assert_eq!(client.config().await.unwrap().services[0].backends[2].weight, 9);
        let removed = client.remove("web/web-03", Removal { force: true }).await.unwrap();
        assert!(removed.changes[0].ends_with("by force"), "{removed:?}");
        let reason = Some("kernel test".to_owned());
        let drain = Drain { reason: reason.clone(), for_ms: Some(90_000), force: false };
        let changed = client.drain("web/web-01", &drain).await.unwrap();
        let said = &changed.changes[0];
        assert!(said.contains("kernel test") && said.contains("maintenance: false"), "{said}");
        let changed = client.maint("web/web-01", &Drain { force: true, ..drain }).await.unwrap();
        let said = &changed.changes[0];
        assert!(said.contains("lasts: Some(90s), maintenance: true") && said.ends_with("by force"));
        let freeze = NewFreeze { service: Some("web".into()), reason, for_ms: 5_000 };
        let changed = client.freeze(&freeze).await.unwrap();
        assert_eq!(changed.changes[0], "uid 0: frozen Some(\"web\") Some(\"kernel test\") 5s");
        let changed = client.thaw(&Thaw { service: None }).await.unwrap();
        assert_eq!(changed.changes[0], "uid 0: thawed None");
        let never = client.freeze(&NewFreeze { for_ms: 0, ..freeze }).await.unwrap_err();
        refused(ErrorKind::Invalid, &never);
        client.ready("web/web-01").await.unwrap();
        client.reload().await.unwrap();
        client.apply(&config).await.unwrap();

        let flow = Flow {
            protocol: Protocol::Tcp,
            client: "198.51.100.7:40000".parse().unwrap(),
            vip: "192.0.2.10:80".parse().unwrap(),
        };
        assert_eq!(client.alerts().await.unwrap(), Alerts::default());
        assert_eq!(client.alert_test().await.unwrap().len(), 2);
        assert_eq!(client.explain(&flow).await.unwrap().verdict, "192.0.2.10:80");

        daemon.stop.send(()).unwrap();
        daemon.served.await.unwrap();
        assert!(!daemon.socket.exists(), "removed on the way out");
        let gone = client.status().await.unwrap_err();
        assert!(
            matches!(&gone, Failure::Unreachable(e) if e.message.contains("no socket")),
            "{gone:?}"
        );
    });
}

#[test]
fn refusals_say_what_to_do() {
    runtime().block_on(async {
        let daemon = Daemon::start(false);
        let client = daemon.client();
        let missing = client.ready("web/web-1").await.unwrap_err();
        assert!(
            refused(ErrorKind::NotFound, &missing).hint.as_ref().unwrap().contains("web/web-01")
        );
        let zero = client.weight("web/web-01", NewWeight { weight: 0 }).await.unwrap_err();
        refused(ErrorKind::Invalid, &zero);
        let twice = new_backend([10, 0, 0, 11]);
        refused(ErrorKind::Conflict, &client.add("web/web-09", &twice).await.unwrap_err());
        let escape = Drain { reason: Some("\u{1b}[2J".into()), ..Drain::default() };
        refused(ErrorKind::Invalid, &client.drain("web/web-01", &escape).await.unwrap_err());

        // What the client would never send: the server doesn't trust it.
        let mut config = client.config().await.unwrap();
        let service = Arc::make_mut(&mut config.services[0]);
        Arc::make_mut(&mut service.backends[0]).weight = 0;
        service.listen[0].ports = Ports::single(0);
        let error = client.apply(&config).await.unwrap_err();
        let error = refused(ErrorKind::Invalid, &error);
        assert!(error.message.contains("0 is not a port") && error.message.contains("weight"));
        assert_eq!(client.config().await.unwrap(), parse(SAMPLE, "lb.toml").unwrap(), "unchanged");
    });
}

#[test]
fn readers_change_nothing() {
    runtime().block_on(async {
        let daemon = Daemon::start(true);
        daemon.client().status().await.unwrap();
        let error = daemon.client().reload().await.unwrap_err();
        assert!(refused(ErrorKind::Refused, &error).message.contains("may look but not change"));
        for (method, path) in ROUTES.iter().filter(|(method, _)| *method != "GET") {
            let status = daemon.send(method, path, b"{}").await.0;
            assert_eq!(status, if *path == "/v1/explain" { 400 } else { 403 }, "{path}");
        }
    });
}

const ROUTES: [(&str, &str); 12] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/config"),
    ("POST", "/v1/apply"),
    ("POST", "/v1/reload"),
    ("POST", "/v1/backends/web/web-09"),
    ("DELETE", "/v1/backends/web/web-09"),
    ("PUT", "/v1/backends/web/web-01/weight"),
    ("POST", "/v1/backends/web/web-01/drain"),
    ("POST", "/v1/backends/web/web-01/ready"),
    ("GET", "/v1/alerts"),
    ("POST", "/v1/alerts/test"),
    ("POST", "/v1/explain"),
];

#[test]
fn malformed_requests_get_an_error_in_json() {
    runtime().block_on(async {
        let daemon = Daemon::start(false);
        for (method, path, body, expect) in [
            ("GET", "/", "", 404),
            ("GET", "/v2/status", "", 404),
            ("DELETE", "/v1/status", "", 405),
            ("BREW", "/v1/status", "", 405),
            ("POST", "/v1/apply", "", 400),
            ("POST", "/v1/apply", "{}", 400),
            ("POST", "/v1/apply", "[1, 2", 400),
            ("POST", "/v1/backends/web/%ff", "{}", 400),
            ("POST", "/v1/backends/web/a%2Fb", "{\"address\": \"10.0.0.9\"}", 400),
            ("POST", "/v1/backends/web/x", "{\"address\": \"some where\"}", 400),
            ("POST", "/v1/backends/web/x", "{\"address\": \"10.0.0.9\", \"wieght\": 1}", 400),
            ("PUT", "/v1/backends/web/web-01/weight", "{\"weight\": 70000}", 400),
            ("PUT", "/v1/backends/web/web-01/weight", "{\"weight\": -1}", 400),
            ("POST", "/v1/explain", "{\"protocol\": \"icmp\"}", 400),
        ] {
            let (status, error) = daemon.send(method, path, body.as_bytes()).await;
            assert_eq!(status, expect, "{method} {path} {body}");
            assert!(error.is_some_and(|error| error.hint.is_some()), "{method} {path} {body}");
        }
        let deep = "[".repeat(1 << 20);
        assert_eq!(daemon.send("POST", "/v1/apply", deep.as_bytes()).await.0, 400);
        for (path, limit) in [("/v1/apply", MAX_CONFIG), ("/v1/explain", MAX_BODY)] {
            let (status, error) = daemon.send("POST", path, &vec![b' '; limit + 1]).await;
            assert_eq!(status, 413, "{path}");
            assert!(error.is_some(), "{path}");
            assert_eq!(daemon.send("POST", path, &vec![b' '; limit]).await.0, 400, "{path}");
        }
        daemon.raw(b"\x16\x03\x01 nonsense\r\n\r\n").await;
        daemon.client().status().await.unwrap();
    });
}

#[test]
fn random_bodies_never_hurt() {
    let runtime = runtime();
    let daemon = runtime.block_on(async { Daemon::start(false) });
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    let text = "[\\[{]?\"(address|weight|reason|protocol|node)\": ?[\\PC]{0,20}[}\\]]?";
    let body = prop_oneof![bytes, text.prop_map(String::into_bytes)];
    let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
    runner
        .run(&(prop::sample::select(&ROUTES[..]), body), |((method, path), body)| {
            let (status, error) = runtime.block_on(daemon.send(method, path, &body));
            prop_assert!(status == 200 || error.is_some(), "{method} {path}: {status}");
            prop_assert_ne!(status, 500);
            Ok(())
        })
        .unwrap();
    runtime.block_on(daemon.client().status()).unwrap();
}

#[test]
fn one_daemon_for_a_socket() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.sock");
        let first = bind(&path).unwrap();
        let second = bind(&path).unwrap_err();
        assert_eq!(second.kind, ErrorKind::Conflict);
        assert!(second.message.contains("another lb run is serving"), "{second}");
        drop(first);
        assert!(path.exists(), "a daemon that died leaves its file");
        drop(bind(&path).unwrap());

        let other = directory.path().join("other.sock");
        let _foreign = std::os::unix::net::UnixListener::bind(&other).unwrap();
        assert_eq!(bind(&other).unwrap_err().kind, ErrorKind::Conflict, "alive, if not ours");
        let file = directory.path().join("file");
        std::fs::write(&file, "keep me").unwrap();
        assert!(bind(&file).unwrap_err().message.contains("is no socket"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep me");
    });
}

#[test]
fn the_socket_is_for_its_owner_and_group() {
    use std::os::unix::fs::PermissionsExt;
    runtime().block_on(async {
        let daemon = Daemon::start(false);
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&daemon.socket) & 0o777, 0o660);
        assert_eq!(mode(daemon.socket.parent().unwrap()) & 0o777, 0o755);
    });
}

#[test]
fn silent_clients_do_not_keep_others_out_for_ever() {
    runtime().block_on(async {
        let daemon = Daemon::start(false);
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(UnixStream::connect(&daemon.socket).await.unwrap());
        }
        let client = daemon.client();
        let answer = client.status();
        tokio::time::timeout(Duration::from_secs(8), answer).await.unwrap().unwrap();
    });
}

#[test]
fn a_dead_socket_is_told_apart() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lb.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let failure = Client::new(&path).status().await.unwrap_err();
        let Failure::Unreachable(error) = failure else { panic!("{failure:?}") };
        assert!(error.message.contains("nobody answers"), "{error}");
        assert!(error.hint.unwrap().contains("is `lb run` running?"));
    });
}
