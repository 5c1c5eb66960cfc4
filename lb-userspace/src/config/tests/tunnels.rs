//! Tunnels: their modes, where their packets come from, and the rates of the node.

use super::*;
use crate::config::model::Mode;

#[test]
fn families_may_differ_in_tunnels() {
    for mode in ["ipip", "gue"] {
        for (vip, backend) in [
            ("192.0.2.10", "10.0.0.11"),
            ("192.0.2.10", "fd00::11"),
            ("[2001:db8::10]", "10.0.0.11"),
            ("[2001:db8::10]", "fd00::11"),
        ] {
            let source = format!("{HEAD}{WEB}{ONE}")
                .replace("\"nat\"", &format!("{mode:?}"))
                .replace("192.0.2.10", vip)
                .replace("10.0.0.11", backend);
            let config = parse(&source, "lb.toml").unwrap();
            let read = config.services[0].mode;
            assert!(read.is_tunnel() && read.is_direct());
            assert_eq!(read.to_string(), mode);
            assert_eq!(parse(&to_toml(&config), "again").unwrap(), config);
        }
    }
    assert!(!Mode::Nat.is_tunnel());
}

#[test]
fn tunnels_change_no_port() {
    let row = "{ name = \"a\", address = \"10.0.0.1\", port = 8080 }";
    backends("ipip", row, "7:56 8080 | an ipip service can't change the port | remove `port`");
    backends("gue", row, "7:56 8080 | a gue service can't change the port | mode = \"nat\"");
}

#[test]
fn one_server_one_mode() {
    let other = WEB.replace("web", "api").replace(".10:", ".11:").replace("nat", "gue");
    let web = WEB.replace("nat", "ipip");
    check(
        &format!("{HEAD}{web}{ONE}{other}{ONE}"),
        &["12:42 \"10.0.0.11\" | mode gue here and in mode ipip in service 'web' | same mode"],
    );
}

#[test]
fn replies_to_nat_are_no_tunnels() {
    let web = WEB.replace("nat", "gue").replace(":80/", ":8080/");
    check(
        &format!("{HEAD}nat_addresses = [\"192.0.2.10\"]\n{web}{ONE}"),
        &["7:11 \"192.0.2.10:8080/tcp\" | where replies to NAT come in | outside of"],
    );
}

#[test]
fn what_tunnels_come_from() {
    let eth = "interfaces = [\"eth0\"]\n";
    let line = |sources: &str| format!("{eth}tunnel_sources = [{sources}]");
    for (sources, expect) in [
        ("\"172.16.0.1/16\"", "3:19 \"172.16.0.1/16\" | bits set | did you mean 172.16.0.0/16?"),
        ("\"router\"", "3:19 \"router\" | not an address or a prefix | not resolved"),
        ("\"224.0.0.0/8\"", "3:19 \"224.0.0.0/8\" | a multicast address in it | unicast"),
        ("\"127.0.0.1\"", "3:19 \"127.0.0.1\" | is a loopback address | unicast"),
        ("\"96.0.0.0/7\"", "3:19 \"96.0.0.0/7\" | too large | /8 or longer"),
        ("\"fc00::/8\"", "3:19 \"fc00::/8\" | too large | /16 or longer"),
        (
            "\"172.16.0.0/16\", \"fd99::/64\", \"172.17.0.0/16\"",
            "3:49 \"172.17.0.0/16\" | second IPv4 prefix: tunnels use one | one for each family",
        ),
        ("\"10.0.0.0/24\"", "8:42 \"10.0.0.11\" | one of the tunnel sources 10.0.0.0/24 | choose"),
        (
            "\"192.0.2.0/24\"",
            "7:11 \"192.0.2.10:80/tcp\" | 192.0.2.10 and the tunnel sources 192.0.2.0/24 overlap | ",
        ),
    ] {
        let source =
            format!("[node]\n{}\n{WEB}{TWO}", line(sources)).replace("10.0.0.12", "10.0.1.12");
        check(&source, &[expect]);
    }
    let inside = format!("[node]\n{}\n{WEB}{ONE}", line("\"192.0.2.77\""))
        .replace("192.0.2.10:80", "192.0.2.0/24:80");
    check(&inside, &["7:11 \"192.0.2.0/24:80/tcp\" | the tunnel sources 192.0.2.77 overlap | "]);
    let fine = format!("[node]\n{}\n{WEB}{ONE}", line("\"172.16.0.0/16\", \"fd99::/64\""));
    let config = parse(&fine, "lb.toml").unwrap();
    assert_eq!(config.node.tunnel_sources.len(), 2);
}

#[test]
fn ports_and_rates_of_the_node() {
    let eth = "interfaces = [\"eth0\"]\n";
    for (line, expect) in [
        ("gue_port = 0", "3:12 0 | 0 is not a port | 6080"),
        ("gue_port = 70000", "3:12 70000 | 70000 is not a port | 1 to 65535"),
        ("flow_inserts = 0", "3:16 0 | `flow_inserts` is out of bounds | 1 to 10000000"),
        ("icmp_rate = 1000001", "3:13 1000001 | `icmp_rate` is out of bounds | per second"),
        ("icmp_rate = -1", "3:13 -1 | `icmp_rate` is out of bounds | per second"),
        ("limits = { rates = 1 }", "3:20 1 | `rates` is out of bounds | use 1024 to"),
        ("limits = { sources = 0 }", "3:22 0 | `sources` is out of bounds | use 1 to"),
        ("limits = { server_ids = 65537 }", "3:25 65537 | `server_ids` is out | use 1 to 65536"),
        ("limits = { prefixes = 65537 }", "3:23 65537 | `prefixes` is out | use 1 to 65536"),
    ] {
        node(&format!("{eth}{line}"), expect);
    }
    let source = format!(
        "{HEAD}gue_port = 6081\nflow_inserts = 9\nicmp_rate = 7\n\
         limits = {{ sources = 2048, rates = 4096, server_ids = 8, prefixes = 16 }}\n{WEB}{ONE}"
    );
    let node = parse(&source, "lb.toml").unwrap().node;
    assert_eq!((node.gue_port, node.flow_inserts, node.icmp_rate), (6081, 9, 7));
    let limits = node.limits;
    assert_eq!(
        (limits.sources, limits.rates, limits.server_ids, limits.prefixes),
        (2048, 4096, 8, 16)
    );
}
