//! HTTP answers of every kind.

use super::*;

fn http() -> Probe {
    Probe::Http(Http::get("/healthz"))
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
    let failure = ask(target, &http(), PATIENCE).await.unwrap_err();
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
    let asked = read("http = \"/ready?x=1\", host = \"shop.test\", status = 204");
    ask(target, &asked, TIMEOUT).await.unwrap();
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
async fn a_bad_request_of_ours_blames_no_backend() {
    let (target, task) = serve("127.0.0.1".parse().unwrap(), Server::Silent).await;
    let asked = Probe::Http(Http::get("no slash \n"));
    let failure = ask(target, &asked, TIMEOUT).await.unwrap_err();
    assert!(!failure.kind.blames_backend(), "{failure:?}");
    task.abort();
}

#[tokio::test]
async fn bodies_are_judged() {
    use FailureKind::{Body, HttpStatus, Reset, Timeout};
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nstatus: warm";
    let endless = "HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nstatus: warm";
    let rows = [
        ("found", "body = \"warm\"", Server::Says(ok), None),
        ("found before the end", "body = \"warm\"", Server::Says(endless), None),
        ("matches", "body_regex = \"^status: (warm|hot)$\"", Server::Says(ok), None),
        (
            "not found",
            "body = \"hot\"",
            Server::Says(ok),
            Some((Body, "body: \"hot\" is not in \"status: warm\" from http://{}/")),
        ),
        (
            "no match",
            "body_regex = \"^warm\"",
            Server::Says(ok),
            Some((Body, "body: nothing matches \"^warm\" in \"status: warm\" from http://{}/")),
        ),
        (
            "the status comes first",
            "body = \"hot\", status = \"204,300-399\"",
            Server::Says(ok),
            Some((HttpStatus, "status: HTTP 200 from http://{}/ (wanted 204,300-399)")),
        ),
        (
            "never ends",
            "body_regex = \"hot\"",
            Server::Says(endless),
            Some((
                Timeout,
                "timeout: HTTP 200 from http://{}/, but no end of the body within 300 ms",
            )),
        ),
        (
            "cut",
            "body = \"hot\"",
            Server::SaysAndCloses(endless),
            Some((Reset, "reset: {} closed the connection before the end of its answer")),
        ),
    ];
    for (name, wanted, server, expected) in rows {
        check(name, read(&format!("http = \"/\", {wanted}")), server, expected).await;
    }
}

#[tokio::test]
async fn no_more_than_64_kib_of_a_body_are_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 1000]).await.is_ok() {}
    });
    let failure = ask(target, &read("http = \"/\", body = \"y\""), PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Body);
    let expect = "\"y\" is not in the first 64 KiB of \"xxxx";
    assert!(failure.text.contains(expect), "{}", failure.text);
}

#[tokio::test]
async fn every_method_is_sent() {
    for method in ["GET", "HEAD", "OPTIONS", "POST"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let seen = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let asked = read(&format!("http = \"/x\", method = \"{method}\""));
        ask(target, &asked, PATIENCE).await.unwrap();
        let request = seen.await.unwrap();
        assert!(request.starts_with(&format!("{method} /x HTTP/1.1\r\n")), "{request}");
        assert_eq!(request.contains("content-length: 0"), method == "POST", "{request}");
    }
}
