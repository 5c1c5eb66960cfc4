//! Things that are as asked but look unwise: few, and each with its consequence.

use super::model::{Config, Mode, OnDown, Prefix, Probe, Service, Track, UdpPolicy};
use super::nets::Nets;
use super::value::format_duration;

/// Every IPv4 path carries packets with this much TCP data.
const SMALL_MSS: u16 = 536;

/// Linux's default `net.ipv4.ip_local_port_range` begins here.
const FIRST_EPHEMERAL: u16 = 32_768;

#[must_use]
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.services.is_empty() {
        warnings.push("there are no services: nothing is balanced".to_owned());
    }
    if *config.node.nat_ports.end() >= FIRST_EPHEMERAL {
        warnings.push(format!(
            "nat_ports reaches into {FIRST_EPHEMERAL}-60999, from which Linux takes its own by \
             default: `lb run` refuses to start unless net.ipv4.ip_local_port_range is narrowed"
        ));
    }
    for service in &config.services {
        let name = &service.name;
        let health = &service.health;
        if let [only] = service.backends.as_slice() {
            warnings.push(format!("{name}: {} is its only backend; nothing takes over", only.name));
        }
        features(service, &mut warnings);
        if health.probe == Probe::None {
            warnings.push(format!("{name}: not probed; a dead backend keeps its share of traffic"));
            continue;
        }
        if health.timeout > health.interval {
            warnings.push(format!(
                "{name}: a probe may take longer ({}) than the interval ({}), which delays detection",
                format_duration(health.timeout),
                format_duration(health.interval)
            ));
        }
        if health.fall == 1 {
            warnings.push(format!("{name}: fall = 1 takes a backend out for one lost probe"));
        }
    }
    warnings
}

fn features(service: &Service, warnings: &mut Vec<String>) {
    let name = &service.name;
    if service.mode == Mode::Nat {
        let rows = [
            ("track = \"always\"", service.track == Track::Always),
            ("udp = \"flow\"", service.udp == UdpPolicy::Flow),
        ];
        for (key, _) in rows.iter().filter(|(_, set)| *set) {
            warnings.push(format!(
                "{name}: {key} changes nothing in mode nat, which records every flow"
            ));
        }
    }
    if service.failover.on_down == OnDown::Reset && service.mode != Mode::Nat {
        warnings.push(format!(
            "{name}: on_down = \"reset\" is as \"rehash\" in mode {}: other backends reset the connections",
            service.mode
        ));
    }
    if let Some(mss) = service.mss.filter(|mss| *mss < SMALL_MSS) {
        warnings.push(format!(
            "{name}: mss = {mss} makes many small packets: all IPv4 paths carry {SMALL_MSS}"
        ));
    }
    if !service.allow.is_empty() {
        allow(service, warnings);
    }
}

/// Entries that let nobody else in, and VIPs that let nobody in at all.
fn allow(service: &Service, warnings: &mut Vec<String>) {
    let name = &service.name;
    // Shorter prefixes first, so that each entry meets those that it may lie in.
    let mut sorted: Vec<Prefix> = service.allow.clone();
    sorted.sort_by_key(|prefix| prefix.length);
    let mut nets = Nets::default();
    let mut needless = Vec::new();
    for prefix in sorted {
        match nets.find_within(prefix) {
            Some((around, ())) if around == prefix => needless.push(format!("{prefix} twice")),
            Some((around, ())) => needless.push(format!("{prefix}, which lies in {around}")),
            None => nets.insert(prefix, ()),
        }
    }
    if let [first, rest @ ..] = needless.as_slice() {
        let more = match rest.len() {
            0 => String::new(),
            n => format!(" (and {n} more such)"),
        };
        warnings.push(format!("{name}: allow lists {first}{more}; once is enough"));
    }
    for (family, ipv4) in [("IPv4", true), ("IPv6", false)] {
        let listens = service.listen.iter().any(|frontend| frontend.vip.is_ipv4() == ipv4);
        if listens && service.allow.iter().all(|prefix| prefix.is_ipv4() != ipv4) {
            warnings.push(format!(
                "{name}: allow lists no {family} source, so its {family} VIPs take no packet"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn warns_of_what_will_hurt() {
        let web = "[[service]]\nname = \"web\"\nmode = \"nat\"\nlisten = [\"192.0.2.10:80/tcp\"]\n";
        let one = "backends = [{ name = \"a\", address = \"10.0.0.1\" }]\n";
        let two = "backends = [{ name = \"a\", address = \"10.0.0.1\" }, { name = \"b\", address = \"10.0.0.2\" }]\n";
        for (node, services, expect) in [
            ("", format!("{web}{two}"), None),
            ("", String::new(), Some("nothing is balanced")),
            (
                "nat_ports = \"1024-40000\"\n",
                format!("{web}{two}"),
                Some("ip_local_port_range is narrowed"),
            ),
            ("", format!("{web}{one}"), Some("web: a is its only backend")),
            ("", format!("{web}health = {{ none = true }}\n{two}"), Some("web: not probed")),
            ("", format!("{web}health = {{ timeout = \"2s\" }}\n{two}"), Some("delays detection")),
            ("", format!("{web}health = {{ fall = 1 }}\n{two}"), Some("one lost probe")),
        ] {
            let source = format!("[node]\ninterfaces = [\"eth0\"]\n{node}{services}");
            let found = warnings(&parse(&source, "lb.toml").unwrap());
            assert_eq!(found.len(), usize::from(expect.is_some()), "{found:?}");
            assert!(
                found.iter().all(|text| text.contains(expect.unwrap_or_default())),
                "{found:?}"
            );
        }
    }

    #[test]
    fn warns_of_features_that_do_not_do_what_they_say() {
        let head = "[node]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\n";
        let two = "backends = [{ name = \"a\", address = \"10.0.0.1\" }, { name = \"b\", address = \"10.0.0.2\" }]\n";
        let both = "listen = [\"192.0.2.10:80/tcp\", \"192.0.2.10:80/udp\"]\n";
        let dual = "listen = [\"192.0.2.10:80/tcp\", \"[2001:db8::10]:80/tcp\"]\n";
        for (mode, listen, line, expect) in [
            (
                "nat",
                both,
                "track = \"always\"",
                Some("track = \"always\" changes nothing in mode nat"),
            ),
            ("nat", both, "udp = \"flow\"", Some("udp = \"flow\" changes nothing in mode nat")),
            (
                "gue",
                dual,
                "failover = { on_down = \"reset\" }",
                Some("on_down = \"reset\" is as \"rehash\" in mode gue"),
            ),
            ("nat", both, "failover = { on_down = \"reset\" }", None),
            ("dsr", both, "udp = \"flow\"\ntrack = \"always\"", None),
            ("dsr", both, "mss = 535", Some("makes many small packets")),
            ("dsr", both, "mss = 536", None),
            (
                "dsr",
                both,
                "allow = [\"10.0.0.0/8\", \"192.0.2.7\", \"10.0.0.0/8\"]",
                Some("allow lists 10.0.0.0/8 twice; once is enough"),
            ),
            (
                "dsr",
                both,
                "allow = [\"10.1.0.0/16\", \"10.0.0.0/8\", \"10.1.2.3\"]",
                Some("allow lists 10.1.0.0/16, which lies in 10.0.0.0/8 (and 1 more such)"),
            ),
            ("gue", dual, "allow = [\"10.0.0.0/8\", \"::/0\"]", None),
            (
                "gue",
                dual,
                "allow = [\"0.0.0.0/0\"]",
                Some("lists no IPv6 source, so its IPv6 VIPs take no packet"),
            ),
        ] {
            let source = format!("{head}mode = \"{mode}\"\n{listen}{line}\n{two}");
            let found = warnings(&parse(&source, "lb.toml").unwrap());
            assert_eq!(found.len(), usize::from(expect.is_some()), "{found:?}");
            let expect = expect.unwrap_or_default();
            assert!(found.iter().all(|text| text.contains(expect)), "{found:?}");
        }
    }
}
