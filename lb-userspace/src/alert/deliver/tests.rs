//! Real servers and real programs as targets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::alert::Template;

/// An HTTP server that keeps what it is sent as it came, and answers what it is told to.
#[derive(Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<String>>>,
    /// Status lines; then 204.
    answers: Arc<Mutex<VecDeque<&'static str>>>,
}

impl Server {
    async fn start(&self, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, server) = (listener.local_addr().unwrap(), self.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => server.serve(stream).await,
                            Err(_) => None,
                        },
                    }
                });
            }
        });
        address
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut request = Vec::new();
        let whole = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            (body.len() == length.parse::<usize>().ok()?).then_some(text.clone())
        };
        let text = loop {
            if let Some(text) = whole(&request) {
                break text;
            }
            stream.read_buf(&mut request).await.ok().filter(|read| *read > 0)?;
        };
        self.requests.lock().unwrap().push(text);
        let status = self.answers.lock().unwrap().pop_front().unwrap_or("204 No Content");
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()
    }

    fn last(&self) -> String {
        self.requests.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn webhook(url: &str) -> Alert {
    let url = url.parse().unwrap();
    Alert::new(Target::Webhook { url, headers_file: None, ca_file: None })
}

fn body() -> Body {
    Body::test("lb-1", 5_000)
}

async fn error(alert: &Alert) -> String {
    deliver(alert, &body()).await.unwrap_err()
}

#[tokio::test]
async fn a_webhook_gets_a_post() {
    let server = Server::default();
    let address = server.start(None).await;
    let url = format!("http://{address}/hook?key=secret");
    deliver(&webhook(&url), &body()).await.unwrap();
    let request = server.last();
    let (head, sent) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hook?key=secret HTTP/1.1\r\n"), "{head}");
    for line in [format!("host: {address}"), "content-type: application/json".into()] {
        assert!(head.lines().any(|l| l == line), "{line} in {head}");
    }
    let sent: serde_json::Value = serde_json::from_str(sent).unwrap();
    assert_eq!((&sent["status"], &sent["node"]), (&"test".into(), &"lb-1".into()));

    let mut shaped = webhook(&url);
    shaped.template = Some(Template::read(r#"{"text": "{{title}}"}"#).unwrap());
    deliver(&shaped, &body()).await.unwrap();
    assert!(server.last().ends_with("\r\n\r\n{\"text\": \"lb-1: test\"}"), "{}", server.last());
}

#[tokio::test]
async fn only_2xx_is_success_and_no_error_tells_a_secret() {
    let server = Server::default();
    let address = server.start(None).await;
    let alert = webhook(&format!("http://{address}/secret?key=secret"));
    for (status, code) in
        [("500 Oops", 500), ("404 Not Found", 404), ("302 Found", 302), ("199 Odd", 199)]
    {
        server.answers.lock().unwrap().push_back(status);
        let error = error(&alert).await;
        if code >= 200 {
            assert_eq!(error, format!("http://{address}/… answered HTTP {code}"));
        }
        assert!(!error.contains("secret"), "{error}");
    }
    for status in ["200 OK", "201 Created", "299 Fine"] {
        server.answers.lock().unwrap().push_back(status);
        deliver(&alert, &body()).await.unwrap();
    }
}

#[tokio::test]
async fn headers_come_from_a_file_that_may_change() {
    let server = Server::default();
    let address = server.start(None).await;
    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory, "headers", "Authorization: Bearer secret-1\n", 0o600);
    let mut alert = webhook(&format!("http://{address}/"));
    let Target::Webhook { headers_file, .. } = &mut alert.target else { panic!() };
    *headers_file = Some(file.clone());
    for secret in ["secret-1", "secret-2"] {
        write(&directory, "headers", &format!("Authorization: Bearer {secret}\n"), 0o600);
        deliver(&alert, &body()).await.unwrap();
        assert!(server.last().contains(&format!("authorization: Bearer {secret}\r\n")));
    }
    write(&directory, "headers", "Authorization Bearer secret\n", 0o600);
    assert_eq!(error(&alert).await, format!("{file}:1: write it as `Name: value`"));
    std::fs::remove_file(&file).unwrap();
    assert!(error(&alert).await.contains("can't read"));
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_given_up_in_time() {
    // Accepts by the kernel's backlog, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut alert = webhook(&format!("http://{}/secret", silent.local_addr().unwrap()));
    alert.timeout = Duration::from_millis(50);
    let began = Instant::now();
    let said = error(&alert).await;
    assert!(said.contains("/… within 50ms") && said.starts_with("no answer from"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let closed = silent.local_addr().unwrap();
    drop(silent);
    let refused = error(&webhook(&format!("http://{closed}/secret"))).await;
    assert!(refused.starts_with(&format!("cannot connect to {closed}: ")), "{refused}");
}

/// A server's TLS for `localhost`, and the file of the authority that vouches for it.
fn tls(directory: &TempDir) -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = write(directory, "ca.pem", &made.cert.pem(), 0o644);
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test]
async fn tls_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let (acceptor, authority) = tls(&directory);
    let server = Server::default();
    let port = server.start(Some(acceptor)).await.port();
    let secure = |host: &str, file: Option<&str>| {
        let url = format!("https://{host}:{port}/secret").parse().unwrap();
        Alert::new(Target::Webhook { url, headers_file: None, ca_file: file.map(Into::into) })
    };
    deliver(&secure("localhost", Some(&authority)), &body()).await.unwrap();
    assert!(server.last().starts_with("POST /secret "));
    assert_eq!(server.requests.lock().unwrap().len(), 1);
    let empty = write(&directory, "empty.pem", "", 0o644);
    let none = directory.path().join("none.pem").display().to_string();
    for (host, file, expect) in [
        ("127.0.0.1", Some(&authority), "TLS with 127.0.0.1: invalid peer certificate"),
        ("localhost", Some(&empty), "has no certificate"),
        ("localhost", Some(&none), "can't read certificates from"),
        ("localhost", None, ""),
    ] {
        let said = error(&secure(host, file.map(String::as_str))).await;
        assert!(said.contains(expect) && !said.contains("secret"), "{said}");
    }
    assert_eq!(server.requests.lock().unwrap().len(), 1, "nobody else gets the message");
}

fn write(directory: &TempDir, name: &str, text: &str, mode: u32) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

fn shell(script: &str, arguments: &[&str]) -> Alert {
    let command = [&["/bin/sh", "-c", script, "page"], arguments].concat();
    Alert::new(Target::Exec { command: command.into_iter().map(Into::into).collect() })
}

#[tokio::test]
async fn a_program_gets_the_message_and_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out").display().to_string();
    let script = "{ cat; echo; echo \"$HOLDFAST_STATUS|$HOLDFAST_NODE|$HOLDFAST_TITLE|$2\"; } > $1";
    deliver(&shell(script, &[&out, "a b"]), &body()).await.unwrap();
    let text = std::fs::read_to_string(&out).unwrap();
    let (input, rest) = text.split_once('\n').unwrap();
    assert_eq!(input, body().render(None));
    assert_eq!(rest, "test|lb-1|lb-1: test|a b\n");
}

#[tokio::test]
async fn a_program_that_fails_says_why() {
    for (script, expect) in [
        ("echo cannot page >&2; exit 3", "/bin/sh failed: exit status: 3: cannot page"),
        ("exit 1", "/bin/sh failed: exit status: 1"),
        ("kill -9 $$", "/bin/sh failed: signal: 9"),
        // It need not read, and may talk.
        ("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 1", "exit status: 1"),
    ] {
        let said = error(&shell(script, &[])).await;
        assert!(said.contains(expect), "{said}");
    }
    let none = Alert::new(Target::Exec { command: vec!["/nowhere/page".into()] });
    assert!(error(&none).await.starts_with("cannot run /nowhere/page: "));
}

#[tokio::test]
async fn a_program_ends_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    for (name, script, late) in [
        ("slow", "sleep 1000 & echo $! > $1; exec sleep 1000", true),
        ("left", "sleep 1000 & echo $! > $1", false),
    ] {
        let out = directory.path().join(name);
        let mut alert = shell(script, &[&out.display().to_string()]);
        alert.timeout = Duration::from_secs(1);
        let said = deliver(&alert, &body()).await;
        assert_eq!(said.is_err(), late, "{name}: {said:?}");
        let pid: u32 = std::fs::read_to_string(&out).unwrap().trim().parse().unwrap();
        let limit = Instant::now() + Duration::from_secs(5);
        while is_alive(pid) {
            assert!(Instant::now() < limit, "{name}: {pid} lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Neither gone nor waiting for somebody to take note of it.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
