//! No answer, whatever is in it, panics a probe or keeps it beyond its timeout.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::net::UdpSocket;

use super::*;

/// Beginnings that lead further into a protocol than chance would.
const BEGINNINGS: [&[u8]; 6] = [
    b"",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    // HTTP/2: SETTINGS, then the beginning of HEADERS for stream 1.
    b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88",
    // TLS 1.2: a ServerHello record.
    b"\x16\x03\x03\0\x31\x02\0\0\x2d\x03\x03",
    b"\x15\x03\x03\0\x02\x02",
];

fn answers() -> impl Strategy<Value = Vec<u8>> {
    let rest = prop::collection::vec(any::<u8>(), 0..300);
    (prop::sample::select(&BEGINNINGS[..]), rest)
        .prop_map(|(beginning, rest)| [beginning, &rest].concat())
}

fn run(cases: impl Fn(&tokio::runtime::Runtime, Vec<u8>)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config::with_cases(200));
    let result = runner.run(&answers(), |answer| {
        cases(&runtime, answer);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn over_tcp() {
    let probes = [
        read("http = '/', body_regex = 'x'"),
        read("https = '/', insecure = true"),
        read("grpc = 'x'"),
        read("grpc = 'x', tls = true, insecure = true"),
    ];
    run(|runtime, answer| {
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            for probe in &probes {
                let serving = async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.shutdown().await;
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                };
                let (result, ()) = tokio::join!(ask(at, probe, PATIENCE), serving);
                drop(result);
            }
        });
    });
}

#[test]
fn over_udp() {
    let probes = [read("dns = 'x.example', answer = '192.0.2.1'"), read("udp = 'x', expect = 'y'")];
    run(|runtime, answer| {
        runtime.block_on(async {
            let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let at = server.local_addr().unwrap();
            for probe in &probes {
                let serving = async {
                    let mut question = [0; 512];
                    let (_, from) = server.recv_from(&mut question).await.unwrap();
                    let told = [&question[..2], &answer].concat();
                    server.send_to(&told, from).await.unwrap();
                };
                let (result, ()) = tokio::join!(ask(at, probe, PATIENCE), serving);
                drop(result);
            }
        });
    });
}
