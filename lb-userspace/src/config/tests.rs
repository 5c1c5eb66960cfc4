//! Every rule of a configuration, a row each: what is written, where it is wrong, what is said.

mod alerts;
mod features;
mod frontends;
mod probes;
mod tunnels;

use std::time::Duration;

use super::model::{Health, Http, Node, Probe, XdpPolicy};
use super::*;

/// A valid file to spoil: `HEAD`, then a service whose `NAT` or `DSR` line starts it.
const HEAD: &str = "[node]\ninterfaces = [\"eth0\"]\n";
const WEB: &str = "[[service]]\nname = \"web\"\nmode = \"nat\"\nlisten = [\"192.0.2.10:80/tcp\"]\n";
const ONE: &str = "backends = [{ name = \"web-01\", address = \"10.0.0.11\" }]\n";
const TWO: &str = "backends = [{ name = \"web-01\", address = \"10.0.0.11\" }, { name = \"web-02\", address = \"10.0.0.12\" }]\n";

/// Reads `source` and expects just the errors in `expect`: `LINE:COLUMN text | message | hint`,
/// where message and hint are parts of what is said.
fn check(source: &str, expect: &[&str]) {
    let error = match parse(source, "lb.toml") {
        Ok(config) => panic!("accepted:\n{source}\n{config:#?}"),
        Err(error) => error,
    };
    let found: Vec<String> = error
        .items()
        .iter()
        .map(|d| format!("{}:{} {} | {} | {}", d.line, d.column, d.text, d.message, d.hint))
        .collect();
    assert_eq!(found.len(), expect.len(), "{source}\n{error}");
    for (found, expect) in found.iter().zip(expect) {
        let (found_parts, expected): (Vec<_>, Vec<_>) =
            (found.splitn(3, " | ").collect(), expect.splitn(3, " | ").collect());
        assert_eq!(found_parts[0], expected[0], "{error}");
        for (found, part) in found_parts.iter().zip(&expected).skip(1) {
            assert!(found.contains(part), "expected '{part}' in '{found}'\n{error}");
        }
    }
    let rendered = error.render(false);
    for item in error.items() {
        assert!(rendered.contains(&format!("lb.toml:{}:{}", item.line, item.column)), "{rendered}");
        assert!(!item.hint.is_empty(), "{rendered}");
    }
}

fn node(line: &str, expect: &str) {
    check(&format!("[node]\n{line}\n{WEB}{TWO}"), &[expect]);
}

/// One line more in the service, which becomes line 7.
fn service(line: &str, expect: &str) {
    check(&format!("{HEAD}{WEB}{line}\n{TWO}"), &[expect]);
}

/// The line of backends, line 7, of a service in a mode.
fn backends(mode: &str, line: &str, expect: &str) {
    check(&format!("{HEAD}{}backends = [{line}]\n", WEB.replace("nat", mode)), &[expect]);
}

#[test]
fn a_backend_may_have_a_name() {
    let lines = r#"{ name = "a", address = "Web-01.Example", family = "ipv4" },
  { name = "b", address = "web-02.example" }, { name = "c", address = "10.0.0.3" }"#;
    let config = parse(&format!("{HEAD}{WEB}backends = [{lines}]\n"), "lb.toml").unwrap();
    let service = &config.services[0];
    let shown: Vec<_> = service.backends.iter().map(|b| service.location(b).to_string()).collect();
    assert_eq!(shown, ["web-01.example", "web-02.example", "10.0.0.3"]);
    let text = to_toml(&config);
    assert!(text.contains(r#"address = "web-01.example", family = "ipv4""#), "{text}");
    assert_eq!(parse(&text, "lb.toml").unwrap(), config);
    let json = serde_json::to_string(&config).unwrap();
    assert!(json.contains(r#"{"name":"b","host":"web-02.example","port":null"#), "{json}");
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}

#[test]
fn names_of_backends_are_checked() {
    for (mode, line, expect) in [
        (
            "nat",
            r#"{ name = "a", address = "web-01", family = "ipv6" }"#,
            r#"7:37 "web-01" | an IPv6 backend can't serve an IPv4 VIP in mode nat | two services"#,
        ),
        (
            "dsr",
            r#"{ name = "a", address = "web-01", family = "v6" }"#,
            r#"7:56 "v6" | 'v6' is no family of addresses | "ipv6""#,
        ),
        (
            "dsr",
            r#"{ name = "a", address = "10.0.0.1", family = "ipv4" }"#,
            r#"7:58 "ipv4" | 10.0.0.1 is of one family alone | remove `family`"#,
        ),
        (
            "dsr",
            r#"{ name = "a", address = "web-01" }, { name = "b", address = "WEB-01." }"#,
            r#"7:73 "WEB-01." | web-01 is in this service twice | remove one"#,
        ),
    ] {
        backends(mode, line, expect);
    }
}

#[test]
fn a_small_file_gets_the_defaults() {
    let config = parse(&format!("{HEAD}{WEB}{ONE}"), "lb.toml").unwrap();
    assert_eq!(config.node, Node { interfaces: vec!["eth0".into()], ..Node::default() });
    let service = &config.services[0];
    assert_eq!(service.health, Health::new(Probe::Tcp));
    assert_eq!(service.idle_timeout, Duration::from_secs(300));
    assert_eq!((service.backends[0].weight, service.backends[0].port), (1, None));
}

#[test]
fn every_value_is_read() {
    let source = r#"
[node]
interfaces = ["eth0", "eth1"]
xdp = "auto"
nat_ports = "2048-9999"
nat_addresses = ["10.0.0.2", "fd00::2"]
limits = { frontends = 8, backends = 16, servers = 12, table_bytes = "1MiB", flows = 4096, nat_connections = 8192 }

[[service]]
name = "web"
listen = ["192.0.2.10:80/tcp", "[2001:db8::10]:80/tcp"]
mode = "dsr"
idle_timeout = "90s"
slow_start = "30s"
health = { http = "/healthz", host = "example.org", status = 204, port = 8081, interval = "2s", fast_interval = "50ms", timeout = "1s", rise = 1, fall = 5 }

[[service.backends]]
name = "web-01"
address = "10.0.0.11"
weight = 2

[[service]]
name = "dns"
listen = ["192.0.2.53:53/udp"]
mode = "dsr"
backends = [{ name = "dns-01", address = "fd00::53" }]
"#;
    let config = parse(source, "lb.toml").unwrap();
    assert_eq!(config.node.xdp, XdpPolicy::Auto);
    assert_eq!(config.node.nat_ports, 2048..=9999);
    assert_eq!(config.node.limits.table_bytes, 1 << 20);
    let probe = Probe::Http(Http {
        host: Some("example.org".into()),
        status: "204".parse().unwrap(),
        ..Http::get("/healthz")
    });
    assert_eq!(config.services[0].health.probe, probe);
    assert_eq!(config.services[0].health.port, Some(8081));
    assert_eq!(config.services[0].idle_timeout, Duration::from_secs(90));
    assert_eq!(config.services[0].slow_start, Duration::from_secs(30));
    assert_eq!(config.services[1].slow_start, Duration::ZERO);
    assert_eq!(config.services[1].health.probe, Probe::None, "udp is not probed by default");
    assert_eq!(parse(&to_toml(&config), "again").unwrap(), config);
}

#[test]
fn keys_and_types() {
    check("[nod]\n", &["1:2 nod | unknown key | did you mean `node`?"]);
    node("interfacs = []", "2:1 interfacs | unknown key | did you mean `interfaces`?");
    node("interfaces = \"eth0\"", "2:14 \"eth0\" | invalid type | write a list");
    service("colour = 1", "7:1 colour | unknown key | remove it; known here: name, listen");
    service(
        "health = { intervall = \"1s\" }",
        "7:12 intervall | unknown | did you mean `interval`?",
    );
    service("idle_timeout = 5", "7:16 5 | invalid type | double quotes");
    backends("nat", "{ nam = \"a\" }", "7:15 nam | unknown key | did you mean `name`?");
    backends("nat", "\"10.0.0.1\"", "7:13 \"10.0.0.1\" | invalid type | write a table");
    let spare = "{ name = \"a\", address = \"10.0.0.1\", spare = true }";
    backends("nat", spare, "7:49 spare | unknown key | remove it");
    check("[service]\nname = \"web\"\n", &["1:1 [service] | invalid type | [[service]]"]);
    check(&format!("{HEAD}[[service]]\nname = \n"), &["4:8  | must be quoted | double quotes"]);
    check(&format!("{HEAD}interfaces = []\n"), &["3:1 interfaces | duplicate key | remove one"]);
    check(&format!("{HEAD}xdp = native\n"), &["3:7 native | invalid | double quotes"]);
    check("a = ", &["1:5  | must be quoted | double quotes"]);
}

#[test]
fn what_concerns_the_node() {
    let eth = "interfaces = [\"eth0\"]\n";
    node("", "1:1 [node] | no interface | interfaces = [\"eth0\"]");
    node("interfaces = []", "2:14 [] | no interface | interfaces = [\"eth0\"]");
    check(&format!("{WEB}{TWO}"), &["1:1  | no interface | [node]"]);
    node("interfaces = [\"a\", \"a\"]", "2:20 \"a\" | listed twice | remove one");
    for bad in ["", "a b", "a/b", "..", "interface-number-1"] {
        let line = format!("interfaces = [{bad:?}]");
        let expect = format!("2:15 {bad:?} | interface | `ip link`");
        node(&line, &expect);
    }
    for (line, at, message) in [
        ("xdp = \"nativ\"", "3:7 \"nativ\"", "is not an XDP policy | did you mean \"native\"?"),
        ("nat_ports = \"many\"", "3:13 \"many\"", "is not a range of ports | \"1024-32767\""),
        ("nat_ports = \"80-9000\"", "3:13 \"80-9000\"", "below 1024 | 32767"),
        ("nat_ports = \"9000-8000\"", "3:13 \"9000-8000\"", "ends before it begins | lower"),
        ("nat_ports = \"2000-2254\"", "3:13 \"2000-2254\"", "255 ports are too few | leave room"),
        ("nat_addresses = [\"::\"]", "3:18 \"::\"", "unspecified | unicast"),
        (
            "nat_addresses = [\"host\"]",
            "3:18 \"host\"",
            "not an IP address | names are not resolved",
        ),
        (
            "nat_addresses = [\"10.0.0.2\", \"fd00::2\", \"10.0.0.3\"]",
            "3:41 \"10.0.0.3\"",
            "second IPv4 address: NAT uses one | widen `nat_ports`",
        ),
        (
            "nat_addresses = [\"fd00::2\", \"fd00::2\"]",
            "3:29 \"fd00::2\"",
            "second IPv6 address: NAT uses one | keep one",
        ),
        ("nat_addresses = [\"10.0.0.11\"]", "8:42 \"10.0.0.11\"", "NAT source address | correct"),
        ("limits = { flows = 1 }", "3:20 1", "`flows` is out of bounds | use 1024 to"),
        ("limits = { flows = -1 }", "3:20 -1", "out of bounds | use"),
        ("limits = { table_bytes = \"16MB\" }", "3:26 \"16MB\"", "not a size | MiB"),
        ("limits = { table_bytes = 1 }", "3:26 1", "out of bounds | use 65536"),
        (
            "limits = { backends = 1 }",
            "3:23 1",
            "there are 2 backends, and room for 1 | backends = 2",
        ),
        ("limits = { servers = 1 }", "3:22 1", "there are 2 servers, and room for 1 | raise"),
    ] {
        node(&format!("{eth}{line}"), &format!("{at} | {message}"));
    }
    let two = "listen = [\"192.0.2.10:80/tcp\", \"192.0.2.10:81/tcp\"]";
    let source = format!("[node]\n{eth}limits = {{ frontends = 1 }}\n{WEB}{ONE}")
        .replace("listen = [\"192.0.2.10:80/tcp\"]", two);
    check(&source, &["3:24 1 | there are 2 frontends, and room for 1 | frontends = 2"]);
}

#[test]
fn where_a_service_listens() {
    for (listen, message) in [
        ("192.0.2.10", "has no protocol | ADDRESS:PORT/tcp"),
        ("192.0.2.10/tcp", "is not an address and port | ADDRESS:PORT/tcp"),
        ("192.0.2.10:80/sctp", "is not a protocol | /udp"),
        ("192.0.2.10:99999/tcp", "'99999' is not a port | a range such as 8000-8999, or *"),
        ("[fe80::1%eth0]:80/tcp", "has a zone | "),
        ("192.0.2.10:0/tcp", "0 is not a port to listen on | 1 to 65535"),
        ("0.0.0.0:80/tcp", "unspecified | unicast"),
        ("127.0.0.1:80/tcp", "loopback | unicast"),
        ("224.0.0.1:80/tcp", "multicast | unicast"),
        ("169.254.0.1:80/tcp", "link-local | routed"),
        ("255.255.255.255:80/tcp", "broadcast | unicast"),
    ] {
        let source = format!("{HEAD}{WEB}{ONE}").replace("192.0.2.10:80/tcp", listen);
        check(&source, &[&format!("6:11 {listen:?} | {message}")]);
    }
    for (listen, message) in [
        ("[::]:80/tcp", "unspecified | unicast"),
        ("[::1]:80/tcp", "loopback | unicast"),
        ("[ff02::1]:80/tcp", "multicast | unicast"),
        ("[fe80::1]:80/tcp", "link-local | routed"),
        ("[::ffff:192.0.2.10]:80/tcp", "IPv4-mapped | without ::ffff:"),
    ] {
        let source = format!("{HEAD}{WEB}{ONE}")
            .replace("192.0.2.10:80/tcp", listen)
            .replace("10.0.0.11", "fd00::11");
        check(&source, &[&format!("6:11 {listen:?} | {message}")]);
    }
    let twice = "\"192.0.2.10:80/tcp\", \"192.0.2.10:80/tcp\"";
    let source = format!("{HEAD}{WEB}{ONE}").replace("\"192.0.2.10:80/tcp\"", twice);
    check(&source, &["6:32 \"192.0.2.10:80/tcp\" | is listed twice | remove one"]);
    let other = WEB.replace("web", "api");
    check(
        &format!("{HEAD}{WEB}{ONE}{other}{ONE}"),
        &["11:11 \"192.0.2.10:80/tcp\" | belongs to service 'web' already | remove one"],
    );
    let udp = other.replace("tcp", "udp");
    assert!(parse(&format!("{HEAD}{WEB}{ONE}{udp}{ONE}"), "lb.toml").is_ok(), "tcp and udp");
}

#[test]
fn what_a_service_must_have() {
    check(
        &format!("{HEAD}[[service]]\n"),
        &[
            "3:1 [[service]] | has no name | add",
            "3:1 [[service]] | has no mode | add mode",
            "3:1 [[service]] | listens nowhere | add listen",
            "3:1 [[service]] | has no backends | add backends",
        ],
    );
    service("idle_timeout = \"soon\"", "7:16 \"soon\" | is not a duration | \"500ms\"");
    service("idle_timeout = \"500ms\"", "7:16 \"500ms\" | must be 1s to 24h | 5m");
    service("idle_timeout = \"25h\"", "7:16 \"25h\" | must be 1s to 24h | 5m");
    service("udp_timeout = \"2h\"", "7:15 \"2h\" | must be 1s to 1h | 1m");
    service("udp_timeout = \"0s\"", "7:15 \"0s\" | must be 1s to 1h | 1m");
    service("slow_start = \"2h\"", "7:14 \"2h\" | must be 0s to 1h | 30s");
    for bad in ["", "Web", "-web", "web.", "web/1", "wéb", "a b", &"x".repeat(64)] {
        let source = format!("{HEAD}{WEB}{ONE}").replace("\"web\"", &format!("{bad:?}"));
        check(&source, &[&format!("4:8 {bad:?} | name | beginning and ending")]);
    }
    let source = format!("{HEAD}{WEB}{ONE}").replace("nat", "tunnel");
    check(
        &source,
        &["5:8 \"tunnel\" | is not a forwarding mode | it can be nat, dsr, ipip or gue"],
    );
    let other = WEB.replace(".10:", ".11:");
    check(
        &format!("{HEAD}{WEB}{ONE}{other}{ONE}"),
        &["9:8 \"web\" | two services are named 'web' | another name"],
    );
}

#[test]
fn backends_of_a_service() {
    let row = |b: &str| format!("{{ name = \"a\", {b} }}");
    let at = |b: &str| row(&format!("address = \"10.0.0.1\", {b}"));
    backends("nat", "", "7:12 [] | has no backends | add backends");
    backends(
        "nat",
        "{ address = \"10.0.0.1\" }",
        "7:13 { address = \"10.0.0.1\" } | no name | add",
    );
    backends("nat", "{ name = \"a\" }", "7:13 { name = \"a\" } | no address | add");
    for (address, message) in [
        ("10.0.0.1:80", "has a port in it | port = 8080"),
        ("web-01.example.org:80", "has a port in it | port = 8080"),
        ("web_01.example.org", "neither an address nor a host name | RFC 1123"),
        ("web..example.org", "is no host name | RFC 1123"),
        ("10.0.0.256", "is not an IP address | 10.0.0.11"),
        ("127.0.0.1", "loopback | unicast"),
        ("0.0.0.0", "unspecified | unicast"),
        ("224.1.1.1", "multicast | unicast"),
        ("255.255.255.255", "broadcast | unicast"),
        ("169.254.1.1", "link-local | routed"),
    ] {
        let expect = format!("7:37 {address:?} | {message}");
        backends("nat", &row(&format!("address = {address:?}")), &expect);
    }
    for address in ["::ffff:10.0.0.1", "fe80::1", "::1", "::", "ff02::1"] {
        let expect = format!("7:37 {address:?} | address, not a server | ");
        backends("dsr", &row(&format!("address = {address:?}")), &expect);
    }
    backends("nat", &at("weight = 0"), "7:58 0 | 1 to 1000 | `lb backend drain`");
    backends("nat", &at("weight = -1"), "7:58 -1 | 1 to 1000 | `lb backend drain`");
    backends("nat", &at("weight = 1001"), "7:58 1001 | 1 to 1000 | divide");
    backends("nat", &at("weight = 99999"), "7:58 99999 | 1 to 1000 | divide");
    backends("nat", &at("port = 0"), "7:56 0 | not a port | 1 to 65535");
    backends("nat", &at("port = 65536"), "7:56 65536 | is not a port | 1 to 65535");
    backends("dsr", &at("port = 8080"), "7:56 8080 | can't change the port | remove `port`");
    let (a, b) = (at("weight = 1"), "{ name = \"a\", address = \"10.0.0.2\" }");
    backends("nat", &format!("{a}, {b}"), "7:72 \"a\" | two backends named 'a' | another name");
    let b = "{ name = \"b\", address = \"10.0.0.1\" }";
    backends("nat", &format!("{a}, {b}"), "7:87 \"10.0.0.1\" | in this service twice | weight");
    let b = "{ name = \"b\", address = \"10.0.0.1\", port = 80 }";
    backends("nat", &format!("{a}, {b}"), "7:87 \"10.0.0.1\" | in this service twice | weight");
    let ok = format!("{a}, {}", b.replace("port = 80", "port = 81"));
    assert!(parse(&format!("{HEAD}{WEB}backends = [{ok}]\n"), "lb.toml").is_ok(), "other port");
}

#[test]
fn addresses_between_services() {
    let v6 = "{ name = \"a\", address = \"fd00::1\" }";
    backends("nat", v6, "7:37 \"fd00::1\" | IPv6 backend can't serve an IPv4 VIP | two services");
    let dsr = format!("{HEAD}{}backends = [{v6}]\n", WEB.replace("nat", "dsr"));
    assert!(parse(&dsr, "lb.toml").is_ok(), "in dsr only the MAC address is used");
    let vip = "{ name = \"a\", address = \"192.0.2.10\" }";
    backends("nat", vip, "7:37 \"192.0.2.10\" | is a VIP | server's own address");
    let other = WEB.replace("web", "api").replace(".10:", ".11:").replace("nat", "dsr");
    check(
        &format!("{HEAD}{WEB}{ONE}{other}{ONE}"),
        &["12:42 \"10.0.0.11\" | mode dsr here and in mode nat in service 'web' | same mode"],
    );
}

#[test]
fn replies_to_nat_are_no_clients_packets() {
    let nat = |port: u16, mode: &str| {
        let listen = format!("192.0.2.10:{port}");
        let service = WEB.replace("192.0.2.10:80", &listen).replace("nat", mode);
        format!("{HEAD}nat_addresses = [\"192.0.2.10\"]\n{service}{ONE}")
    };
    for port in [1024, 8080, 32_767] {
        let expect = format!(
            "7:11 \"192.0.2.10:{port}/tcp\" | where replies to NAT come in | outside of `nat_ports`"
        );
        check(&nat(port, "dsr"), &[&expect]);
    }
    for (port, mode) in [(1023, "dsr"), (32_768, "dsr"), (8080, "nat")] {
        assert!(parse(&nat(port, mode), "lb.toml").is_ok(), "{port} {mode}");
    }
}

#[test]
fn a_clients_way_to_a_backend() {
    use crate::config::model::Via;

    let way = |mode: &str, listen: &str, health: &str, backend: &str| {
        let service = format!(
            "{HEAD}[[service]]\nname = \"web\"\nmode = \"{mode}\"\nlisten = [{listen}]\n\
             health = {{ {health} }}\n\
             backends = [{{ name = \"web-01\", address = \"{backend}\" }}]\n"
        );
        let config = parse(&service, "lb.toml").unwrap();
        assert_eq!(parse(&to_toml(&config), "lb.toml").unwrap(), config);
        let service = &config.services[0];
        let vip = service.probed_vip(service.backends[0].address);
        (service.probed_via(), vip.map(|vip| vip.to_string()))
    };
    let vip = |text: &str| Some(text.to_owned());
    let (v4, v6) = ("\"192.0.2.10:80/tcp\"", "\"[2001:db8::10]:80/tcp\"");
    let rows = [
        ("dsr", v4, "tcp = true", "10.0.0.1", Via::Vip, vip("192.0.2.10")),
        ("dsr", v4, "tcp = true, via = \"address\"", "10.0.0.1", Via::Address, vip("192.0.2.10")),
        ("nat", v4, "tcp = true", "10.0.0.1", Via::Address, vip("192.0.2.10")),
        // Of the backend's family where there is one, of the other in tunnels where there is none.
        ("gue", &format!("{v6}, {v4}"), "tcp = true", "10.0.0.1", Via::Vip, vip("192.0.2.10")),
        ("ipip", v6, "tcp = true", "10.0.0.1", Via::Vip, vip("2001:db8::10")),
        // TCP before the family, and anything before nothing.
        (
            "ipip",
            &format!("\"192.0.2.9:80/udp\", {v6}"),
            "tcp = true",
            "10.0.0.1",
            Via::Vip,
            vip("2001:db8::10"),
        ),
        ("dsr", "\"192.0.2.9:80/udp\"", "tcp = true", "10.0.0.1", Via::Vip, vip("192.0.2.9")),
        // A probe over UDP prefers UDP; one over neither is led nowhere.
        (
            "dsr",
            &format!("{v4}, \"192.0.2.9:53/udp\""),
            "dns = \"a.example\"",
            "10.0.0.1",
            Via::Vip,
            vip("192.0.2.9"),
        ),
        ("dsr", v4, "udp = \"x\"", "10.0.0.1", Via::Vip, vip("192.0.2.10")),
        ("dsr", v4, "icmp = true", "10.0.0.1", Via::Address, vip("192.0.2.10")),
        ("gue", v4, "exec = [\"/bin/true\"]", "10.0.0.1", Via::Address, vip("192.0.2.10")),
        ("dsr", "\"192.0.2.0/24:80/tcp\"", "tcp = true", "10.0.0.1", Via::Vip, vip("192.0.2.1")),
        ("dsr", "\"192.0.2.6/31:80/tcp\"", "tcp = true", "10.0.0.1", Via::Vip, vip("192.0.2.6")),
        (
            "dsr",
            "\"[2001:db8::/64]:80/tcp\"",
            "tcp = true",
            "fd00::1",
            Via::Vip,
            vip("2001:db8::1"),
        ),
    ];
    for (mode, listen, health, backend, via, vip) in rows {
        assert_eq!(way(mode, listen, health, backend), (via, vip), "{mode} {listen} {health}");
    }
}

#[test]
fn probes() {
    for (health, at, message) in [
        ("tcp = true, http = \"/\"", "7:31 \"/\"", "two ways to probe | keep one"),
        ("none = true, tcp = true", "7:31 true", "two ways to probe | keep one"),
        ("tcp = false", "7:18 false", "chooses no probe | write true"),
        ("htpp = \"/\"", "7:12 htpp", "unknown key | did you mean `http`"),
        ("host = \"a\"", "7:19 \"a\"", "for probes by http or https | add http"),
        ("http = \"healthz\"", "7:19 \"healthz\"", "begin with '/' | \"/healthz\""),
        ("http = \"/a b\"", "7:19 \"/a b\"", "can't be sent | percent-encode"),
        ("http = \"/\", host = \"a b\"", "7:31 \"a b\"", "Host header | example.org"),
        ("http = \"/\", status = \"ok\"", "7:33 \"ok\"", "not an HTTP status | 204"),
        ("http = \"/\", status = \"399-200\"", "7:33 \"399-200\"", "no range | 100 to 599"),
        ("http = \"/\", status = 20", "7:33 20", "no range | 100 to 599"),
        ("http = \"/\", status = -200", "7:33 -200", "not an HTTP status | 204"),
        ("http = \"/\", status = true", "7:33 true", "invalid type | double quotes"),
        ("interval = \"1ms\"", "7:23 \"1ms\"", "must be 10ms to 1h | choose"),
        ("interval = \"2h\"", "7:23 \"2h\"", "must be 10ms to 1h | choose"),
        ("interval = \"1 s\"", "7:23 \"1 s\"", "not a duration | \"500ms\""),
        ("timeout = \"2m\"", "7:22 \"2m\"", "must be 10ms to 1m | choose"),
        ("fast_interval = \"2s\"", "7:28 \"2s\"", "longer than `interval` (1s) | shorten"),
        ("rise = 0", "7:19 0", "must be 1 to 100 | 2 or 3"),
        ("fall = 101", "7:19 101", "must be 1 to 100 | 2 or 3"),
        ("port = 0", "7:19 0", "0 is not a port | backend's"),
        ("port = 70000", "7:19 70000", "is not a port | 1 to 65535"),
        ("via = \"vlp\"", "7:18 \"vlp\"", "not a way of probes | did you mean \"vip\"?"),
        ("via = \"vip\"", "7:18 \"vip\"", "never asked for the VIP | via = \"address\""),
        ("icmp = true, via = \"vip\"", "7:31 \"vip\"", "an icmp probe can't be sent to the VIP"),
        (
            "none = true, via = \"vip\"",
            "7:31 \"vip\"",
            "nothing is probed, so nothing is sent to the VIP",
        ),
        (
            "exec = [\"/a\"], via = \"vip\"",
            "7:33 \"vip\"",
            "an exec probe can't be sent to the VIP",
        ),
    ] {
        service(&format!("health = {{ {health} }}"), &format!("{at} | {message}"));
    }
    let quick = format!("{HEAD}{WEB}health = {{ interval = \"50ms\" }}\n{ONE}");
    let quick = parse(&quick, "lb.toml").unwrap();
    assert_eq!(quick.services[0].health.fast_interval, Duration::from_millis(50));
}

#[test]
fn all_errors_at_once_in_the_order_of_the_file() {
    let source = "[node]\nxdp = \"fast\"\n[[service]]\nname = \"Web\"\nmode = \"nat\"\nlisten = [\"x\"]\n\
        health = { rise = 0 }\nbackends = [{ name = \"a\", address = \"10.0.0.1\", weight = 0 }, { name = \"b\" }]\n";
    check(
        source,
        &[
            "1:1 [node] | no interface | ",
            "2:7 \"fast\" | XDP policy | native, auto or generic",
            "4:8 \"Web\" | can't be a name | ",
            "6:11 \"x\" | has no protocol | ",
            "7:19 0 | `rise` | ",
            "8:58 0 | weight | ",
            "8:63 { name = \"b\" } | no address | ",
        ],
    );
}

#[test]
fn files_that_are_no_configuration() {
    let error = parse_bytes(b"[node]\nxdp = \"\xff\"\n", "lb.toml").unwrap_err();
    assert_eq!((error.items()[0].line, error.items()[0].column), (2, 8));
    assert!(error.to_string().contains("not UTF-8"));
    let error = parse(&" ".repeat(MAX_BYTES + 1), "lb.toml").unwrap_err();
    assert!(error.to_string().contains("at most 67108864"));
    assert!(matches!(load(Path::new("/nonexistent/lb.toml")), Err(LoadError::Unreadable(_))));
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(parse(&deep, "lb.toml").unwrap_err().to_string().contains("recurs"));
    let wide = format!("{HEAD}{WEB}backends = [{}]\n", "{ name = \"a\" }, ".repeat(10_000));
    let error = parse(&wide, "lb.toml").unwrap_err();
    assert!(
        error.to_string().starts_with("lb.toml:7:13: the backend has no address"),
        "no snippet"
    );
    let many = format!("{HEAD}{WEB}backends = [{}]\n", "{},".repeat(1000));
    let error = parse(&many, "lb.toml").unwrap_err();
    assert_eq!(error.count(), 2000);
    assert!(error.to_string().ends_with("and 1950 more errors\n"));
}

#[test]
fn an_error_shows_the_text_and_both_sides_of_a_contradiction() {
    let other = WEB.replace("web", "api");
    let error = parse(&format!("{HEAD}{WEB}{ONE}{other}{ONE}"), "lb.toml").unwrap_err();
    let expect = r#"error: 192.0.2.10:80/tcp belongs to service 'web' already
  --> lb.toml:11:11
   |
 6 | listen = ["192.0.2.10:80/tcp"]
   |           ------------------- first listed here
...
11 | listen = ["192.0.2.10:80/tcp"]
   |           ^^^^^^^^^^^^^^^^^^^
   |
   = help: a VIP, port and protocol can have one service: remove one of the two
"#;
    assert_eq!(error.render(false), expect);
    assert!(error.render(true).contains("\u{1b}["), "colour when asked for");
    assert_eq!(error.lines().len(), 1);
}

#[test]
fn failover() {
    let table = |keys: &str| format!("failover = {{ {keys} }}");
    for (keys, expect) in [
        ("max_removed = \"50\"", "7:28 \"50\" | '50' is not a share | such as \"50%\""),
        ("max_removed = \"101%\"", "7:28 \"101%\" | is not a share | 0% to 100%"),
        ("max_removed = 50", "7:28 50 | expected a string | put the value in double quotes"),
        ("max_remove = \"50%\"", "7:14 max_remove | unknown key | did you mean `max_removed`"),
        ("window = \"0s\"", "7:23 \"0s\" | `window` must be 1s to 24h | 10s"),
        ("backup_return = \"25h\"", "7:30 \"25h\" | `backup_return` must be 1s to 24h | 10s"),
        (
            "on_down = \"rest\"",
            "7:24 \"rest\" | what becomes of connections | did you mean \"reset\"",
        ),
        ("on_down = \"kep\"", "7:24 \"kep\" | what becomes of connections | did you mean \"keep\""),
    ] {
        service(&table(keys), expect);
    }
    service("failover = true", "7:12 true | expected a failover table | max_removed");
    service("slow_start_curve = \"log\"", "7:20 \"log\" | is not a curve | linear");
    let health = "health = { hold_down = \"2m\" }";
    service(health, "7:24 \"2m\" | is longer than `hold_down_max` (1m) | shorten it");
    let health = "health = { hold_down_max = \"25h\" }";
    service(health, "7:28 \"25h\" | `hold_down_max` must be 0s to 24h | 0s is off");
    let only = "{ name = \"a\", address = \"10.0.0.1\", backup = true }";
    backends(
        "nat",
        only,
        "7:12 [{ name = \"a\", address = \"10.0.0.1\", backup = true }] | all backends are backups | remove `backup`",
    );
}
