//! What changed between two configurations, one line a person can read for each thing.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;

use super::model::{Backend, Config, Health, Node, Probe, Service};
use super::value::{format_duration, format_range, format_size};

/// Lines from the old to the new: removed, added, changed.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    node(&old.node, &new.node, &mut lines);
    let by_name = |config: &Config| -> HashMap<String, Service> {
        config.services.iter().map(|s| (s.name.clone(), s.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    for service in old.services.iter().filter(|s| !after.contains_key(&s.name)) {
        lines.push(format!("service {}: removed", service.name));
    }
    for service in &new.services {
        match before.get(&service.name) {
            None => lines.push(format!("service {}: added", service.name)),
            Some(previous) => same_service(previous, service, &mut lines),
        }
    }
    if lines.is_empty() && old != new {
        lines.push("order of services, frontends, backends or list entries".into());
    }
    lines
}

fn node(old: &Node, new: &Node, lines: &mut Vec<String>) {
    let mut line = |key: &str, old: String, new: String| changed(lines, "node", key, &old, &new);
    line("interfaces", or_none(&old.interfaces.join(", ")), or_none(&new.interfaces.join(", ")));
    line("xdp", old.xdp.to_string(), new.xdp.to_string());
    line("nat_ports", format_range(&old.nat_ports), format_range(&new.nat_ports));
    line("nat_addresses", list(&old.nat_addresses), list(&new.nat_addresses));
    line("tunnel_sources", list(&old.tunnel_sources), list(&new.tunnel_sources));
    line("gue_port", old.gue_port.to_string(), new.gue_port.to_string());
    line("flow_inserts", old.flow_inserts.to_string(), new.flow_inserts.to_string());
    line("icmp_rate", old.icmp_rate.to_string(), new.icmp_rate.to_string());
    let (a, b) = (old.limits, new.limits);
    line("limits.frontends", a.frontends.to_string(), b.frontends.to_string());
    line("limits.backends", a.backends.to_string(), b.backends.to_string());
    line("limits.servers", a.servers.to_string(), b.servers.to_string());
    line("limits.table_bytes", format_size(a.table_bytes), format_size(b.table_bytes));
    line("limits.flows", a.flows.to_string(), b.flows.to_string());
    line("limits.nat_connections", a.nat_connections.to_string(), b.nat_connections.to_string());
    line("limits.sources", a.sources.to_string(), b.sources.to_string());
    line("limits.rates", a.rates.to_string(), b.rates.to_string());
    line("limits.server_ids", a.server_ids.to_string(), b.server_ids.to_string());
    line("limits.prefixes", a.prefixes.to_string(), b.prefixes.to_string());
}

fn same_service(old: &Service, new: &Service, lines: &mut Vec<String>) {
    let subject = format!("service {}", new.name);
    for frontend in missing(&old.listen, &new.listen) {
        lines.push(format!("{subject}: no longer listens on {frontend}"));
    }
    for frontend in missing(&new.listen, &old.listen) {
        lines.push(format!("{subject}: listens on {frontend}"));
    }
    changed(lines, &subject, "mode", &old.mode.to_string(), &new.mode.to_string());
    changed(lines, &subject, "health", &health(&old.health), &health(&new.health));
    for (key, old, new) in [
        ("idle_timeout", old.idle_timeout, new.idle_timeout),
        ("udp_timeout", old.udp_timeout, new.udp_timeout),
        ("slow_start", old.slow_start, new.slow_start),
    ] {
        changed(lines, &subject, key, &format_duration(old), &format_duration(new));
    }
    changed(lines, &subject, "hash", &old.hash.to_string(), &new.hash.to_string());
    changed(lines, &subject, "track", &old.track.to_string(), &new.track.to_string());
    changed(lines, &subject, "udp", &old.udp.to_string(), &new.udp.to_string());
    changed(lines, &subject, "quic", &quic(old), &quic(new));
    changed(lines, &subject, "mss", &maybe(old.mss), &maybe(new.mss));
    allow(old, new, &subject, lines);
    changed(lines, &subject, "rate_limit", &rate_limit(old), &rate_limit(new));
    backends(old, new, lines);
}

/// Who may use a service. Without a list that is everyone, which an added first entry ends.
fn allow(old: &Service, new: &Service, subject: &str, lines: &mut Vec<String>) {
    match (old.allow.is_empty(), new.allow.is_empty()) {
        (true, false) => {
            lines.push(format!("{subject}: allow everyone → {}", list(&new.allow)));
        }
        (false, true) => {
            lines.push(format!("{subject}: allow {} → everyone", list(&old.allow)));
        }
        _ => {
            for prefix in missing(&old.allow, &new.allow) {
                lines.push(format!("{subject}: no longer allows {prefix}"));
            }
            for prefix in missing(&new.allow, &old.allow) {
                lines.push(format!("{subject}: allows {prefix}"));
            }
        }
    }
}

fn quic(service: &Service) -> String {
    service.quic.map_or("none".into(), |quic| {
        format!("config {}, server ids of {} bytes", quic.config_id, quic.server_id_length)
    })
}

fn rate_limit(service: &Service) -> String {
    service.rate_limit.map_or("none".into(), |limit| {
        format!("{} per second, {} at once", limit.per_second, limit.burst)
    })
}

fn backends(old: &Service, new: &Service, lines: &mut Vec<String>) {
    let by_name = |service: &Service| -> HashMap<String, Backend> {
        service.backends.iter().map(|b| (b.name.clone(), b.clone())).collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    for backend in old.backends.iter().filter(|b| !after.contains_key(&b.name)) {
        lines.push(format!("{}/{}: removed", new.name, backend.name));
    }
    for backend in &new.backends {
        let subject = format!("{}/{}", new.name, backend.name);
        let Some(previous) = before.get(&backend.name) else {
            let id = backend.server_id.map(|id| format!(", server id {id}")).unwrap_or_default();
            lines.push(format!(
                "{subject}: added at {}, weight {}{id}",
                backend.address, backend.weight
            ));
            continue;
        };
        let port = |backend: &Backend| match backend.port {
            Some(port) => port.to_string(),
            None => "the VIP's".into(),
        };
        let address = |backend: &Backend| backend.address.to_string();
        let weight = |backend: &Backend| backend.weight.to_string();
        changed(lines, &subject, "address", &address(previous), &address(backend));
        changed(lines, &subject, "port", &port(previous), &port(backend));
        changed(lines, &subject, "weight", &weight(previous), &weight(backend));
        let id = |backend: &Backend| maybe(backend.server_id);
        changed(lines, &subject, "server_id", &id(previous), &id(backend));
    }
}

fn health(health: &Health) -> String {
    let probe = match &health.probe {
        Probe::None => "none".to_owned(),
        Probe::Tcp => "tcp".to_owned(),
        Probe::Http { path, host, status } => {
            let host = host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
            format!("http {path}{host} {}", format_range(status))
        }
    };
    let port = health.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let via = health.via.map(|via| format!(" via {via}")).unwrap_or_default();
    format!(
        "{probe}{port}{via} every {} (fast {}), timeout {}, rise {}, fall {}",
        format_duration(health.interval),
        format_duration(health.fast_interval),
        format_duration(health.timeout),
        health.rise,
        health.fall
    )
}

/// What of the first list is not in the second.
fn missing<'a, T: Eq + Hash>(of: &'a [T], from: &[T]) -> Vec<&'a T> {
    let from: HashSet<&T> = from.iter().collect();
    of.iter().filter(|value| !from.contains(value)).collect()
}

fn list<T: Display>(values: &[T]) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    or_none(&texts.join(", "))
}

fn maybe<T: Display>(value: Option<T>) -> String {
    value.map_or("none".into(), |value| value.to_string())
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".into() } else { text.into() }
}

fn changed(lines: &mut Vec<String>, subject: &str, key: &str, old: &str, new: &str) {
    if old != new {
        lines.push(format!("{subject}: {key} {old} → {new}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn every_new_key_is_told_in_words() {
        let text = |node: &str, service: &str, id: &str| {
            format!(
                "[node]\ninterfaces = [\"eth0\"]\n{node}\n[[service]]\nname = \"web\"\nmode = \"gue\"\n\
                 listen = [\"192.0.2.10:443/udp\", \"192.0.2.10:443/tcp\"]\n{service}\n\
                 backends = [{{ name = \"a\", address = \"10.0.0.1\"{id} }}]\n"
            )
        };
        let quic = "quic = { config_id = 1, server_id_length = 2 }";
        let id = ", server_id = \"0a0b\"";
        let told = |old: &str, new: &str| {
            diff(&parse(old, "old").unwrap(), &parse(new, "new").unwrap()).join("; ")
        };
        let plain = text("", "", "");
        for (node, expect) in [
            ("gue_port = 6081", "node: gue_port 6080 → 6081"),
            ("icmp_rate = 5", "node: icmp_rate 1000 → 5"),
            ("flow_inserts = 5", "node: flow_inserts 50000 → 5"),
            ("tunnel_sources = [\"172.16.0.0/16\"]", "node: tunnel_sources none → 172.16.0.0/16"),
            ("limits = { sources = 9 }", "node: limits.sources 65536 → 9"),
            ("limits = { rates = 2048 }", "node: limits.rates 65536 → 2048"),
            ("limits = { server_ids = 9 }", "node: limits.server_ids 4096 → 9"),
            ("limits = { prefixes = 9 }", "node: limits.prefixes 1024 → 9"),
        ] {
            assert_eq!(told(&plain, &text(node, "", "")), expect);
        }
        for (service, expect) in [
            ("udp_timeout = \"2m\"", "service web: udp_timeout 1m → 2m"),
            ("hash = \"source\"", "service web: hash flow → source"),
            ("track = \"always\"", "service web: track exceptions → always"),
            ("udp = \"flow\"", "service web: udp packet → flow"),
            ("mss = 1400", "service web: mss none → 1400"),
            ("allow = [\"10.0.0.0/8\"]", "service web: allow everyone → 10.0.0.0/8"),
            (
                "rate_limit = { per_second = 5, burst = 9 }",
                "service web: rate_limit none → 5 per second, 9 at once",
            ),
        ] {
            assert_eq!(told(&plain, &text("", service, "")), expect);
        }
        assert_eq!(
            told(&plain, &text("", quic, id)),
            "service web: quic none → config 1, server ids of 2 bytes; web/a: server_id none → 0a0b"
        );
        let (one, two) = ("allow = [\"10.0.0.0/8\"]", "allow = [\"10.0.0.1\", \"fd00::/8\"]");
        assert_eq!(
            told(&text("", one, ""), &text("", two, "")),
            "service web: no longer allows 10.0.0.0/8; service web: allows 10.0.0.1; \
             service web: allows fd00::/8"
        );
        assert_eq!(told(&text("", one, ""), &plain), "service web: allow 10.0.0.0/8 → everyone");
        let moved = plain.replace("192.0.2.10:443/udp", "192.0.2.0/24:1-99/udp");
        assert_eq!(
            told(&plain, &moved),
            "service web: no longer listens on 192.0.2.10:443/udp; \
             service web: listens on 192.0.2.0/24:1-99/udp"
        );
    }
}
