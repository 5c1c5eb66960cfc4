//! DNS against dnsmasq, and UDP against whatever answers.

use std::process::{Child, Command};

use tokio::net::UdpSocket;

use super::*;
use crate::net::testbed::Namespace;

struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(namespace: &Namespace) -> Self {
        let options = "--keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --no-resolv \
            --no-hosts --bind-interfaces --listen-address=127.0.0.1,::1 --local=/example/ \
            --host-record=web.example,192.0.2.1,2001:db8::1 --cname=www.example,web.example \
            --txt-record=txt.example,all-well --mx-host=example,mail.example,10 \
            --srv-host=_x._tcp.example,web.example,80 --ptr-record=1.2.0.192.in-addr.arpa,web.example";
        let command = || Command::new("/usr/sbin/dnsmasq").args(options.split_whitespace()).spawn();
        Self(namespace.inside(command).expect("dnsmasq (dnsmasq-base)"))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_name_server_is_asked() {
    let namespace = Namespace::new();
    let _server = Dnsmasq::start(&namespace);
    let ask = |address: &str, health: &str| {
        text(namespace.run(ask(address.parse().unwrap(), &read(health), PATIENCE)))
    };
    let begun = std::time::Instant::now();
    while ask("127.0.0.1:53", "dns = \"web.example\"") != "ok" {
        assert!(begun.elapsed() < PATIENCE, "dnsmasq doesn't answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    let rows = [
        ("dns = \"web.example\", answer = \"192.0.2.1\"", "ok"),
        ("dns = \"WEB.Example.\", type = \"AAAA\", answer = \"2001:db8:0::1\"", "ok"),
        ("dns = \"www.example\", type = \"CNAME\", answer = \"Web.example.\"", "ok"),
        ("dns = \"txt.example\", type = \"TXT\", answer = \"all-well\"", "ok"),
        ("dns = \"example\", type = \"MX\", answer = \"mail.example\"", "ok"),
        ("dns = \"_x._tcp.example\", type = \"SRV\", answer = \"web.example\"", "ok"),
        ("dns = \"1.2.0.192.in-addr.arpa\", type = \"PTR\", answer = \"web.example\"", "ok"),
        ("dns = \"none.example\", rcode = \"NXDOMAIN\"", "ok"),
        ("dns = \"elsewhere.test\", rcode = \"REFUSED\"", "ok"),
        ("dns = \"none.example\"", "status: NXDOMAIN instead of NOERROR from {} (none.example A)"),
        (
            "dns = \"web.example\", answer = \"192.0.2.9\"",
            "body: \"192.0.2.1\" instead of \"192.0.2.9\" from {} (web.example A)",
        ),
        (
            "dns = \"web.example\", type = \"TXT\", answer = \"x\"",
            "body: no such record instead of \"x\" from {} (web.example TXT)",
        ),
    ];
    for at in ["127.0.0.1:53", "[::1]:53"] {
        for (health, expect) in rows {
            assert_eq!(ask(at, health), expect.replace("{}", at), "{health}");
        }
    }
    let refused = ask("127.0.0.1:54", "dns = \"web.example\"");
    assert_eq!(refused, "refused: port unreachable for 127.0.0.1:54, says 127.0.0.1 by ICMP");
}

#[tokio::test]
async fn datagrams_are_answered_or_not() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = server.local_addr().unwrap();
    // Says what it was told, after a zero; keeps silent where it was told to.
    let echo = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = server.recv_from(&mut buffer[1..]).await.unwrap();
            if !buffer[1..].starts_with(b"hush") {
                server.send_to(&buffer[..=length], from).await.unwrap();
            }
        }
    });
    let rows = [
        ("udp = 'ping'", "ok"),
        (r"udp = '\xff\x01', expect = '\x00\xff\x01'", "ok"),
        ("udp = 'ping', expect = 'ping'", "ok"),
        ("udp = 'ping', expect = 'pong'", r#"body: "pong" is not in "\0ping" from {}"#),
    ];
    for (health, expect) in rows {
        let result = ask(at, &read(health), PATIENCE).await;
        assert_eq!(text(result), expect.replace("{}", &at.to_string()), "{health}");
    }
    let silent = text(ask(at, &read("udp = 'hush'"), TIMEOUT).await);
    assert_eq!(silent, format!("timeout: no UDP answer from {at} within 300 ms"));
    let silent = text(ask(at, &read("dns = 'x'"), Duration::from_millis(1)).await);
    assert!(silent == format!("timeout: no DNS answer from {at} within 1 ms"), "{silent}");
    echo.abort();
}

#[tokio::test]
async fn late_answers_to_other_questions_are_passed_over() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = server.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).await.unwrap();
        // A response, no error, without answers (RFC 1035 section 4.1.1).
        buffer[2] |= 0x80;
        let mut other = buffer;
        other[0] ^= 0xff;
        server.send_to(&other[..length], from).await.unwrap();
        server.send_to(b"x", from).await.unwrap();
        server.send_to(&buffer[..length], from).await.unwrap();
    });
    assert_eq!(text(ask(at, &read("dns = 'example.org'"), PATIENCE).await), "ok");
    answering.await.unwrap();
}
