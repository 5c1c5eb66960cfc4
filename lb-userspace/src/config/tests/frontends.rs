//! Prefixes, port ranges, and which of several frontends has a packet.

use super::*;
use crate::config::model::{Frontend, Ports, Protocol};

/// A file whose service `web` listens on these; backends as the mode needs.
fn listening(listen: &str, mode: &str) -> String {
    let port = if listen.contains('*') { "health = { tcp = true, port = 80 }\n" } else { "" };
    let web = WEB.replace("nat", mode).replace("\"192.0.2.10:80/tcp\"", listen);
    format!("{HEAD}{web}{port}{ONE}")
}

fn accepted(listen: &str, mode: &str) {
    if let Err(error) = parse(&listening(listen, mode), "lb.toml") {
        panic!("{listen} {mode}\n{error}");
    }
}

#[test]
fn every_form_is_read_and_written() {
    for (text, vip, first, last) in [
        ("192.0.2.10:80/tcp", "192.0.2.10", 80, 80),
        ("192.0.2.10:8000-8999/udp", "192.0.2.10", 8000, 8999),
        ("192.0.2.10:*/tcp", "192.0.2.10", 0, 65_535),
        ("192.0.2.0/24:80/tcp", "192.0.2.0/24", 80, 80),
        ("[2001:db8::10]:80/tcp", "2001:db8::10", 80, 80),
        ("[2001:db8::/64]:*/udp", "2001:db8::/64", 0, 65_535),
    ] {
        let frontend: Frontend = text.parse().unwrap();
        assert_eq!(frontend.vip.to_string(), vip);
        assert_eq!(frontend.ports, Ports { first, last });
        assert_eq!(frontend.to_string(), text);
        let json = serde_json::to_string(&frontend).unwrap();
        assert_eq!(serde_json::from_str::<Frontend>(&json).unwrap(), frontend);
        accepted(&format!("{text:?}"), "dsr");
    }
    for (other, canonical) in [
        ("192.0.2.10:1-65535/tcp", "192.0.2.10:*/tcp"),
        ("192.0.2.10:80-80/tcp", "192.0.2.10:80/tcp"),
        ("192.0.2.10/32:80/tcp", "192.0.2.10:80/tcp"),
        ("[2001:DB8::10/128]:80/tcp", "[2001:db8::10]:80/tcp"),
    ] {
        assert_eq!(other.parse::<Frontend>().unwrap().to_string(), canonical);
    }
    accepted("\"192.0.2.0/24:*/tcp\"", "nat");
}

#[test]
fn what_is_no_frontend() {
    for (listen, message) in [
        ("192.0.2.10/24:80/tcp", "has bits set beyond | did you mean 192.0.2.0/24?"),
        ("192.0.2.0/33:80/tcp", "longer than an IPv4 address | 0 to 32"),
        ("192.0.2.0/24", "has no protocol | 192.0.2.0/24:8000-8999/tcp"),
        ("192.0.2.0/24:80", "has no protocol | "),
        ("192.0.2.0/24/tcp", "is not an address and port | "),
        ("web.example.org:80/tcp", "is not an address or a prefix | names are not resolved"),
        ("192.0.2.10:http/tcp", "'http' is not a port | or * for all"),
        ("192.0.2.10:/tcp", "'' is not a port | "),
        ("192.0.2.10:80-/tcp", "'' is not a port | "),
        ("192.0.2.10:90-80/tcp", "90-80 ends before it begins | lower port first"),
        ("192.0.2.10:0-80/tcp", "0 is not a port to listen on | or * for all"),
        ("[192.0.2.10]:80/tcp", "is not an address and port | "),
        ("2001:db8::10:80/tcp", "is not an address and port | [2001:db8::10]:80/tcp"),
        ("[2001:db8::]/64:80/tcp", "is not an address and port | [2001:db8::/64]:*/udp"),
        ("0.0.0.0/0:80/tcp", "too large a block | /8 or longer"),
        ("0.0.0.0/8:80/tcp", "has the unspecified address in it, not a VIP | unicast"),
        ("96.0.0.0/4:80/tcp", "too large a block | /8 or longer"),
        ("127.0.0.0/8:80/tcp", "a loopback address in it | unicast"),
        ("224.0.0.0/8:80/tcp", "a multicast address in it | unicast"),
        ("169.0.0.0/8:80/tcp", "a link-local address in it | routed"),
        ("255.255.255.0/24:80/tcp", "the broadcast address in it | unicast"),
    ] {
        let expect = format!("6:11 {listen:?} | {message}");
        check(&listening(&format!("{listen:?}"), "nat"), &[&expect]);
    }
    for (listen, message) in [
        ("[::/16]:80/tcp", "the unspecified address in it | unicast"),
        ("[2000::/4]:80/tcp", "too large a block | /16 or longer"),
        ("[fe80::/64]:80/tcp", "a link-local address in it | routed"),
        ("[ff00::/16]:80/tcp", "a multicast address in it | unicast"),
        ("[::ffff:0.0.0.0/96]:80/tcp", "IPv4-mapped IPv6 address in it | without ::ffff:"),
        ("[2001:db8::1/64]:80/tcp", "has bits set beyond | did you mean 2001:db8::/64?"),
    ] {
        let expect = format!("6:11 {listen:?} | {message}");
        check(&listening(&format!("{listen:?}"), "dsr"), &[&expect]);
    }
}

#[test]
fn ranges_nest_or_are_apart() {
    for listen in [
        "\"192.0.2.10:80/tcp\", \"192.0.2.10:1-1023/tcp\", \"192.0.2.10:*/tcp\"",
        "\"192.0.2.10:80-90/tcp\", \"192.0.2.10:91-99/tcp\"",
        "\"192.0.2.10:80-90/tcp\", \"192.0.2.10:85-99/udp\"",
        "\"192.0.2.10:80-90/tcp\", \"192.0.2.0/24:85-99/tcp\", \"192.0.2.11:85-99/tcp\"",
        "\"192.0.2.10:10-20/tcp\", \"192.0.2.10:20/tcp\", \"192.0.2.10:10/tcp\"",
    ] {
        accepted(listen, "dsr");
    }
    let at = |column: usize, text: &str, rest: &str| format!("6:{column} {text:?} | {rest}");
    let (a, b) = ("192.0.2.10:80-90/tcp", "192.0.2.10:85-99/tcp");
    let crossing = at(35, b, &format!("some of the ports of {a} | keep the ranges apart"));
    check(&listening(&format!("{a:?}, {b:?}"), "dsr"), &[&crossing]);
    // The later one is at fault, wherever it begins.
    let crossing = at(35, a, &format!("some of the ports of {b} | keep"));
    check(&listening(&format!("{b:?}, {a:?}"), "dsr"), &[&crossing]);
    for same in ["192.0.2.10:*/tcp", "192.0.2.0/24:80-90/tcp"] {
        let expect = at(11 + same.len() + 4, same, "is listed twice | remove one");
        check(&listening(&format!("{same:?}, {same:?}"), "dsr"), &[&expect]);
    }
    let other = WEB.replace("web", "api").replace("192.0.2.10:80/", "192.0.2.10:85-99/");
    check(
        &format!("{}{other}{ONE}", listening("\"192.0.2.10:80-90/tcp\"", "nat")),
        &["11:11 \"192.0.2.10:85-99/tcp\" | 192.0.2.10:80-90/tcp of service 'web' | apart"],
    );
}

#[test]
fn the_most_specific_has_the_packet() {
    let mut frontends: Vec<Frontend> =
        ["192.0.2.0/24:*/tcp", "192.0.2.0/24:80/tcp", "192.0.2.10:*/tcp", "192.0.2.10:1-99/tcp"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
    frontends.sort_by_key(Frontend::specificity);
    let best = |to: &str| {
        let to = to.parse().unwrap();
        let matches = |f: &&Frontend| f.matches(to, Protocol::Tcp);
        frontends.iter().rev().find(matches).map(ToString::to_string)
    };
    assert_eq!(best("192.0.2.10:80").as_deref(), Some("192.0.2.10:1-99/tcp"));
    assert_eq!(best("192.0.2.10:100").as_deref(), Some("192.0.2.10:*/tcp"));
    assert_eq!(best("192.0.2.11:80").as_deref(), Some("192.0.2.0/24:80/tcp"));
    assert_eq!(best("192.0.2.11:81").as_deref(), Some("192.0.2.0/24:*/tcp"));
    assert_eq!((best("192.0.3.1:80"), best("192.0.2.10:0")), (None, None), "port 0 is none");
}

#[test]
fn a_prefix_of_vips_is_many_vips() {
    let source = listening("\"10.0.0.0/24:80/tcp\"", "nat");
    check(&source, &["7:42 \"10.0.0.11\" | is one of the VIPs 10.0.0.0/24 | own address"]);
    let source = listening("\"192.0.2.0/24:*/tcp\"", "dsr")
        .replace(HEAD, &format!("{HEAD}nat_addresses = [\"192.0.2.77\"]\n"));
    check(&source, &["7:11 \"192.0.2.0/24:*/tcp\" | where replies to NAT come in | outside of"]);
    let limit = format!("{HEAD}limits = {{ prefixes = 1 }}\n");
    let source = listening("\"192.0.2.0/24:80/tcp\", \"192.0.2.1:80/tcp\"", "dsr");
    let expect = "3:23 1 | there are 2 VIP prefixes, and room for 1 | prefixes = 2";
    check(&source.replace(HEAD, &limit), &[expect]);
}

#[test]
fn all_ports_are_none_to_probe() {
    let web = WEB.replace(":80/", ":*/");
    let bare = format!("{HEAD}{web}{ONE}");
    check(&bare, &["3:1 [[service]] | none to probe | port = 80"]);
    let health = format!("{HEAD}{web}health = {{ tcp = true }}\n{ONE}");
    check(&health, &["7:10 { tcp = true } | none to probe | none = true"]);
    for fine in ["health = { none = true }\n", "health = { tcp = true, port = 80 }\n"] {
        assert!(parse(&format!("{HEAD}{web}{fine}{ONE}"), "lb.toml").is_ok(), "{fine}");
    }
    let port = ONE.replace("10.0.0.11\"", "10.0.0.11\", port = 80");
    assert!(parse(&format!("{HEAD}{web}{port}"), "lb.toml").is_ok(), "the backends name one");
    let range = parse(&listening("\"192.0.2.10:8000-8999/tcp\"", "nat"), "lb.toml").unwrap();
    let service = &range.services[0];
    assert_eq!(service.probed_at(&service.backends[0]).port(), 8000, "the first of a range");
}

/// Quadratic work would take minutes here.
#[test]
fn many_frontends_are_checked_in_time() {
    let ports: Vec<String> =
        (1..60_000).map(|port| format!("\"192.0.2.10:{port}-60000/tcp\"")).collect();
    let limit = format!("{HEAD}limits = {{ frontends = 65536 }}\n");
    let source = listening(&ports.join(", "), "dsr").replace(HEAD, &limit);
    let started = std::time::Instant::now();
    assert!(parse(&source, "lb.toml").is_ok());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
