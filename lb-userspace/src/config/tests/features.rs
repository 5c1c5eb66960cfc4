//! What a service does beside forwarding, and the ids of its backends.

use super::*;
use crate::config::model::{HashPolicy, Mode, Quic, RateLimit, Track, UdpPolicy};

const QUIC: &str = "quic = { config_id = 0, server_id_length = 4 }";

/// The service on UDP instead, with a line more, the seventh, and these backends.
fn udp(line: &str, backends: &str) -> String {
    let web = WEB.replace(":80/tcp", ":443/udp");
    format!("{HEAD}{web}{line}\nbackends = [{backends}]\n")
}

fn with_id(name: &str, last: u8, id: &str) -> String {
    format!("{{ name = \"{name}\", address = \"10.0.0.{last}\", server_id = \"{id}\" }}")
}

#[test]
fn every_feature_is_read() {
    let lines = "udp_timeout = \"90s\"\nhash = \"source\"\ntrack = \"always\"\nudp = \"flow\"\nmss = 1400\n\
        allow = [\"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.7\"]\nrate_limit = { per_second = 100, burst = 150 }\n";
    let both = "listen = [\"192.0.2.10:80/tcp\", \"192.0.2.10:443/udp\"]";
    let web = WEB.replace("listen = [\"192.0.2.10:80/tcp\"]", both).replace("nat", "dsr");
    let id = with_id("a", 1, "0A0b0c0d");
    let source = format!("{HEAD}{web}{lines}{QUIC}\nbackends = [{id}]\n");
    let config = parse(&source, "lb.toml").unwrap();
    let service = &config.services[0];
    assert_eq!(service.udp_timeout, Duration::from_secs(90));
    assert_eq!((service.hash, service.track), (HashPolicy::Source, Track::Always));
    assert_eq!((service.udp, service.mss), (UdpPolicy::Flow, Some(1400)));
    assert_eq!(service.quic, Some(Quic { config_id: 0, server_id_length: 4 }));
    assert_eq!(service.rate_limit, Some(RateLimit { per_second: 100, burst: 150 }));
    let allowed: Vec<String> = service.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]);
    let id = service.backends[0].server_id.unwrap();
    assert_eq!((id.to_string().as_str(), id.as_bytes()), ("0a0b0c0d", &[10, 11, 12, 13][..]));
    assert_eq!(parse(&to_toml(&config), "again").unwrap(), config);

    let config =
        parse(&format!("{HEAD}{WEB}rate_limit = {{ per_second = 7 }}\n{ONE}"), "").unwrap();
    let service = &config.services[0];
    assert_eq!(service.rate_limit, Some(RateLimit { per_second: 7, burst: 14 }), "two seconds'");
    assert_eq!(
        (service.hash, service.track, service.udp, service.udp_timeout),
        (HashPolicy::Flow, Track::Exceptions, UdpPolicy::Packet, Duration::from_secs(60))
    );
    assert_eq!((service.quic, service.mss, service.allow.len()), (None, None, 0));
}

#[test]
fn policies() {
    service("hash = \"sorce\"", "7:8 \"sorce\" | is not a hash policy | did you mean \"source\"?");
    service("track = \"all\"", "7:9 \"all\" | not a way to track | exceptions or always");
    service("udp = \"stream\"", "7:7 \"stream\" | not a policy for UDP | packet or flow");
    service("udp = \"flow\"", "7:7 \"flow\" | `udp` is about UDP | listen on a /udp frontend");
    service("mss = 87", "7:7 87 | `mss` must be 88 to 65495 | such as 1400");
    service("mss = 65496", "7:7 65496 | must be 88 to 65495 | such as 1400");
    service("mss = -1", "7:7 -1 | must be 88 to 65495 | such as 1400");
    service("mss = \"1400\"", "7:7 \"1400\" | invalid type | without quotes");
    let row = "{ name = \"a\", address = \"10.0.0.1\" }";
    check(&udp("mss = 1400", row), &["7:7 1400 | `mss` is about TCP | /tcp frontend"]);
    // What it listens on is unknown: no error follows from that.
    check(
        &udp("mss = 1400", row).replace("443/udp", "443"),
        &["6:11 \"192.0.2.10:443\" | has no protocol | "],
    );
}

#[test]
fn allow_lists_and_rate_limits() {
    service(
        "allow = [\"10.0.0.1/8\"]",
        "7:10 \"10.0.0.1/8\" | bits set | did you mean 10.0.0.0/8?",
    );
    service("allow = [\"office\"]", "7:10 \"office\" | not an address or a prefix | not resolved");
    service("allow = \"10.0.0.0/8\"", "7:9 \"10.0.0.0/8\" | invalid type | in square brackets");
    service("allow = [\"::ffff:10.0.0.1\"]", "7:10 \"::ffff:10.0.0.1\" | IPv4-mapped | as IPv4");
    service(
        "rate_limit = { burst = 1 }",
        "7:14 { burst = 1 } | has no per_second | per_second = 100",
    );
    service("rate_limit = 5", "7:14 5 | invalid type | { per_second = 100, burst = 200 }");
    for (limit, at) in [
        ("per_second = 0", "7:29 0 | `per_second` must be"),
        ("per_second = 1000001", "7:29 1000001 | `per_second` must be"),
        ("per_second = 1, burst = 0", "7:40 0 | `burst` must be"),
        ("per_second = 1, burst = -5", "7:40 -5 | `burst` must be"),
    ] {
        // Of a burst that follows from the rate nothing is said besides.
        let expect = format!("{at} 1 to 1000000 | use `allow`");
        let limit = if limit.contains("burst") || limit.contains("1000001") {
            limit.to_owned()
        } else {
            format!("{limit}, burst = 1")
        };
        service(&format!("rate_limit = {{ {limit} }}"), &expect);
    }
    let limit = "limits = { sources = 1 }\n";
    check(
        &format!("{HEAD}{limit}{WEB}allow = [\"10.0.0.0/8\", \"fd00::/8\"]\n{ONE}"),
        &["3:22 1 | there are 2 entries of allow lists, and room for 1 | sources = 2"],
    );
}

#[test]
fn quic_and_server_ids() {
    let (a, b) = (with_id("a", 1, "0a0b0c0d"), with_id("b", 2, "0a0b0c0e"));
    let fine = udp(QUIC, &format!("{a}, {b}"));
    for more in ["hash = \"source\"", "udp = \"flow\"", ""] {
        let source = fine.replace(QUIC, &format!("{QUIC}\n{more}"));
        assert!(parse(&source, "lb.toml").is_ok(), "{more}");
    }
    check(
        &fine.replace(":443/udp", ":443/tcp"),
        &["7:8 { config_id = 0, server_id_length = 4 } | `quic` is about UDP | /udp"],
    );
    for (line, expect) in [
        ("quic = { server_id_length = 4 }", "7:8 { server_id_length = 4 } | no config_id | write"),
        ("quic = { config_id = 0 }", "7:8 { config_id = 0 } | no server_id_length | write quic"),
        ("quic = true", "7:8 true | invalid type | { config_id = 0"),
        ("quic = { config_id = 7, server_id_length = 4 }", "7:22 7 | 0 to 6 | no server id"),
        ("quic = { config_id = -1, server_id_length = 4 }", "7:22 -1 | 0 to 6 | "),
        ("quic = { config_id = 0, server_id_length = 9 }", "7:44 9 | must be 1 to 8 | bytes"),
        ("quic = { config_id = 0, server_id_length = 0 }", "7:44 0 | must be 1 to 8 | bytes"),
        ("quic = { config_id = 0, id_length = 4 }", "7:25 id_length | unknown key | known here"),
    ] {
        check(&fine.replace(QUIC, line), &[expect]);
    }
    let none = "{ name = \"c\", address = \"10.0.0.3\" }";
    for (backends, expect) in [
        (
            none.to_owned(),
            "8:13 { name = \"c\", address = \"10.0.0.3\" } | no server id | server_id = \"0a0a0a0a\"",
        ),
        (with_id("c", 3, "0a0b"), "8:61 \"0a0b\" | has 2 bytes, and `quic` says 4 bytes | correct"),
        (with_id("c", 3, "0a"), "8:61 \"0a\" | has 1 byte, | `server_id_length`"),
        (with_id("c", 3, "xy"), "8:61 \"xy\" | is not a server id | hexadecimal"),
        (format!("{a}, {}", with_id("c", 3, "0A0B0C0D")), "server id 0a0b0c0d | an id of its own"),
    ] {
        let source = udp(QUIC, &backends);
        if expect.starts_with('8') {
            check(&source, &[expect]);
        } else {
            let at = format!("8:{} \"0A0B0C0D\" | {expect}", 63 + a.len());
            check(&source, &[&at]);
        }
    }
    check(&udp("", &a), &["8:61 \"0a0b0c0d\" | has no `quic` | add quic ="]);
    // A backend that can't be read takes no later one's errors with it.
    let source =
        udp(QUIC, "{ name = \"x\", server_id = \"zz\" }, { name = \"y\", address = \"10.0.0.9\" }");
    check(
        &source,
        &[
            "8:13 { name = \"x\", server_id = \"zz\" } | no address | ",
            "8:39 \"zz\" | not a server id | ",
            "8:47 { name = \"y\", address = \"10.0.0.9\" } | no server id | ",
        ],
    );
    let limit = "limits = { server_ids = 1 }\n";
    check(
        &fine.replace(HEAD, &format!("{HEAD}{limit}")),
        &["3:25 1 | there are 2 server ids, and room for 1 | server_ids = 2"],
    );
}

/// What version 0.1.0 stored is read, with the defaults for what it did not know.
#[test]
fn an_older_state_is_read() {
    let old = r#"{
      "node": {
        "interfaces": ["eth0"], "xdp": "native", "nat_ports": {"start": 1024, "end": 32767},
        "nat_addresses": [],
        "limits": {"frontends": 1024, "backends": 16384, "servers": 4096,
          "table_bytes": 16777216, "flows": 262144, "nat_connections": 262144}
      },
      "services": [{
        "name": "web", "listen": ["192.0.2.10:80/tcp"], "mode": "nat",
        "health": {"probe": "tcp", "port": null, "interval": {"secs": 1, "nanos": 0},
          "fast_interval": {"secs": 0, "nanos": 100000000},
          "timeout": {"secs": 0, "nanos": 500000000}, "rise": 2, "fall": 3},
        "idle_timeout": {"secs": 300, "nanos": 0}, "slow_start": {"secs": 0, "nanos": 0},
        "backends": [{"name": "web-01", "address": "10.0.0.11", "port": null, "weight": 1}]
      }]
    }"#;
    let config: Config = serde_json::from_str(old).unwrap();
    assert_eq!(config, parse(&format!("{HEAD}{WEB}{ONE}"), "lb.toml").unwrap());
    assert_eq!(validate(&config), Ok(()));
    assert!(!Mode::Nat.is_direct() && Mode::Dsr.is_direct() && !Mode::Dsr.is_tunnel());
}

#[test]
fn a_stored_value_is_held_to_the_same_forms() {
    let config = parse(&format!("{HEAD}{WEB}{ONE}"), "lb.toml").unwrap();
    let json = serde_json::to_value(&config).unwrap();
    for (pointer, value, message) in [
        ("/services/0/allow", serde_json::json!(["10.0.0.1/8"]), "did you mean 10.0.0.0/8"),
        ("/services/0/backends/0/server_id", serde_json::json!("xyz"), "not a server id"),
        ("/services/0/listen/0", serde_json::json!("192.0.2.1/24:80/tcp"), "did you mean"),
        ("/node/tunnel_sources", serde_json::json!(["10.0.0.0/40"]), "longer than"),
    ] {
        let mut spoilt = json.clone();
        *spoilt.pointer_mut(pointer).unwrap() = value;
        let error = serde_json::from_value::<Config>(spoilt).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
