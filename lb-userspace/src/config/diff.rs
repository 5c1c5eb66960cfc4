//! What changed between two configurations, one line a person can read for each thing.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;

use super::model::{Alert, Backend, Config, Failover, Health, Node, Service, Target};
use super::value::{format_duration, format_range, format_size};
use super::write::health_keys;

/// Lines from the old to the new: removed, added, changed.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    node(&old.node, &new.node, &mut lines);
    alerts(&old.alerts, &new.alerts, &mut lines);
    let (before, after) = (by_name(old), by_name(new));
    for service in old.services.iter().filter(|s| !after.contains_key(s.name.as_str())) {
        lines.push(format!("service {}: removed", service.name));
    }
    for service in &new.services {
        match before.get(service.name.as_str()) {
            None => lines.push(format!("service {}: added", service.name)),
            Some(previous) if *previous == service => {}
            Some(previous) => same_service(previous, service, &mut lines),
        }
    }
    if lines.is_empty() && old != new {
        lines.push("order of alerts, services, frontends, backends or list entries".into());
    }
    lines
}

fn by_name(config: &Config) -> HashMap<&str, &Arc<Service>> {
    config.services.iter().map(|service| (service.name.as_str(), service)).collect()
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

/// Targets by what they are; shown without their secrets.
fn alerts(old: &[Alert], new: &[Alert], lines: &mut Vec<String>) {
    let find = |alerts: &[Alert], alert: &Alert| {
        let identity = alert.target.identity();
        alerts.iter().find(|other| other.target.identity() == identity).cloned()
    };
    for alert in old.iter().filter(|alert| find(new, alert).is_none()) {
        lines.push(format!("alert {}: removed", alert.target.shown()));
    }
    for alert in new {
        let subject = format!("alert {}", alert.target.shown());
        let Some(before) = find(old, alert) else {
            lines.push(format!("{subject}: added"));
            continue;
        };
        let files = |alert: &Alert| match &alert.target {
            Target::Webhook { headers_file, ca_file, .. } => {
                [maybe(headers_file.as_ref()), maybe(ca_file.as_ref())]
            }
            Target::Exec { .. } => [maybe::<String>(None), maybe::<String>(None)],
        };
        let template = |alert: &Alert| match &alert.template {
            Some(template) => format!("of {} bytes", template.as_str().len()),
            None => "none".into(),
        };
        let mut line = |key: &str, a: String, b: String| changed(lines, &subject, key, &a, &b);
        let ([headers, ca], [new_headers, new_ca]) = (files(&before), files(alert));
        line("headers_file", headers, new_headers);
        line("ca_file", ca, new_ca);
        line("events", kinds(&before), kinds(alert));
        line("min_severity", before.min_severity.to_string(), alert.min_severity.to_string());
        line("timeout", format_duration(before.timeout), format_duration(alert.timeout));
        line("retries", before.retries.to_string(), alert.retries.to_string());
        line("repeat", format_duration(before.repeat), format_duration(alert.repeat));
        line("batch", format_duration(before.batch), format_duration(alert.batch));
        if template(&before) == template(alert) && before.template != alert.template {
            lines.push(format!("{subject}: another template"));
        } else {
            changed(lines, &subject, "template", &template(&before), &template(alert));
        }
    }
}

fn kinds(alert: &Alert) -> String {
    match alert.events.is_empty() {
        true => "all".into(),
        false => list(&alert.events),
    }
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
    health(&old.health, &new.health, &subject, lines);
    for (key, old, new) in [
        ("idle_timeout", old.idle_timeout, new.idle_timeout),
        ("udp_timeout", old.udp_timeout, new.udp_timeout),
        ("slow_start", old.slow_start, new.slow_start),
    ] {
        changed(lines, &subject, key, &format_duration(old), &format_duration(new));
    }
    let curve = |service: &Service| service.slow_start_curve.to_string();
    changed(lines, &subject, "slow_start_curve", &curve(old), &curve(new));
    failover(&old.failover, &new.failover, &subject, lines);
    changed(lines, &subject, "hash", &old.hash.to_string(), &new.hash.to_string());
    changed(lines, &subject, "track", &old.track.to_string(), &new.track.to_string());
    changed(lines, &subject, "udp", &old.udp.to_string(), &new.udp.to_string());
    changed(lines, &subject, "quic", &quic(old), &quic(new));
    changed(lines, &subject, "mss", &maybe(old.mss), &maybe(new.mss));
    allow(old, new, &subject, lines);
    changed(lines, &subject, "rate_limit", &rate_limit(old), &rate_limit(new));
    let capacity = |service: &Service| {
        service.capacity_warning.map_or("any".into(), |percent| format!("{percent}%"))
    };
    changed(lines, &subject, "capacity_warning", &capacity(old), &capacity(new));
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

fn failover(old: &Failover, new: &Failover, subject: &str, lines: &mut Vec<String>) {
    let mut line = |key: &str, old: String, new: String| {
        changed(lines, subject, &format!("failover.{key}"), &old, &new);
    };
    line("max_removed", old.max_removed.to_string(), new.max_removed.to_string());
    let in_window = |failover: &Failover| failover.max_removed_in_window.to_string();
    line("max_removed_in_window", in_window(old), in_window(new));
    line("window", format_duration(old.window), format_duration(new.window));
    line("on_down", old.on_down.to_string(), new.on_down.to_string());
    line("backup_below", old.backup_below.to_string(), new.backup_below.to_string());
    line("backup_return", format_duration(old.backup_return), format_duration(new.backup_return));
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
    fn by_name(service: &Service) -> HashMap<&str, &Arc<Backend>> {
        service.backends.iter().map(|backend| (backend.name.as_str(), backend)).collect()
    }
    let (before, after) = (by_name(old), by_name(new));
    for backend in old.backends.iter().filter(|b| !after.contains_key(b.name.as_str())) {
        lines.push(format!("{}/{}: removed", new.name, backend.name));
    }
    for backend in &new.backends {
        let previous = before.get(backend.name.as_str());
        if previous == Some(&backend) {
            continue;
        }
        let subject = format!("{}/{}", new.name, backend.name);
        let Some(previous) = previous else {
            let id = backend.server_id.map(|id| format!(", server id {id}")).unwrap_or_default();
            lines.push(format!(
                "{subject}: added at {}, weight {}{id}",
                backend.written(),
                backend.weight
            ));
            continue;
        };
        let port = |backend: &Backend| match backend.port {
            Some(port) => port.to_string(),
            None => "the VIP's".into(),
        };
        let address = |backend: &Backend| backend.written().to_string();
        let weight = |backend: &Backend| backend.weight.to_string();
        changed(lines, &subject, "address", &address(previous), &address(backend));
        let family = |backend: &Backend| maybe(backend.family);
        changed(lines, &subject, "family", &family(previous), &family(backend));
        changed(lines, &subject, "port", &port(previous), &port(backend));
        changed(lines, &subject, "weight", &weight(previous), &weight(backend));
        let backup = |backend: &Backend| if backend.backup { "yes" } else { "no" };
        changed(lines, &subject, "backup", backup(previous), backup(backend));
        let id = |backend: &Backend| maybe(backend.server_id);
        changed(lines, &subject, "server_id", &id(previous), &id(backend));
    }
}

/// A line for each key; a probe of another kind in one.
fn health(old: &Health, new: &Health, subject: &str, lines: &mut Vec<String>) {
    let (before, after) = (health_keys(old), health_keys(new));
    let find = |keys: &[(&'static str, String)], wanted: &str| {
        keys.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.clone())
    };
    if old.probe.key() != new.probe.key() {
        let kind = |health: &Health, keys: &[_]| {
            let kind = health.probe.key();
            format!("{kind} = {}", find(keys, kind).unwrap_or_default())
        };
        changed(lines, subject, "health", &kind(old, &before), &kind(new, &after));
    }
    let kinds = [old.probe.key(), new.probe.key()];
    let added = after.iter().filter(|(key, _)| find(&before, key).is_none());
    for (key, _) in before.iter().chain(added) {
        if old.probe.key() != new.probe.key() && kinds.contains(key) {
            continue;
        }
        let key_text = format!("health.{key}");
        let value = |keys| find(keys, key).unwrap_or_else(|| "none".into());
        changed(lines, subject, &key_text, &value(&before), &value(&after));
    }
    let ca = |health: &Health| health.probe.tls().and_then(|tls| tls.ca.clone());
    if let (Some(before), Some(after)) = (ca(old), ca(new))
        && before.path == after.path
        && before.pem != after.pem
    {
        lines.push(format!("{subject}: other certificates in {}", after.path));
    }
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
            ("capacity_warning = \"75%\"", "service web: capacity_warning any → 75%"),
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
    #[test]
    fn alerts_are_told_without_their_secrets() {
        let text = |alerts: &str| format!("[node]\ninterfaces = [\"eth0\"]\n{alerts}");
        let told = |old: &str, new: &str| {
            diff(&parse(&text(old), "old").unwrap(), &parse(&text(new), "new").unwrap()).join("; ")
        };
        let hook = "[[alert]]\nwebhook = \"https://h.example/secret\"\n";
        let exec = "[[alert]]\nexec = [\"/bin/page\", \"secret\"]\n";
        assert_eq!(told("", hook), "alert https://h.example/…: added");
        assert_eq!(
            told(hook, exec),
            "alert https://h.example/…: removed; alert exec /bin/page: added"
        );
        let both = |order: [&str; 2]| order.concat();
        assert_eq!(
            told(&both([hook, exec]), &both([exec, hook])),
            "order of alerts, services, frontends, backends or list entries"
        );
        for (line, expect) in [
            ("events = [\"panic\", \"share\"]", "events all → panic, share"),
            ("min_severity = \"info\"", "min_severity warning → info"),
            ("timeout = \"9s\"", "timeout 5s → 9s"),
            ("retries = 1", "retries 5 → 1"),
            ("repeat = \"1h\"", "repeat 4h → 1h"),
            ("batch = \"0s\"", "batch 1s → 0ms"),
            ("headers_file = \"/h\"", "headers_file none → /h"),
            ("ca_file = \"/ca\"", "ca_file none → /ca"),
            ("template = '{\"t\": 1}'", "template none → of 8 bytes"),
        ] {
            let line = format!("{hook}{line}\n");
            assert_eq!(told(hook, &line), format!("alert https://h.example/…: {expect}"));
        }
        let [one, two] = [1, 2].map(|n| format!("{hook}template = '{{\"t\": {n}}}'\n"));
        assert_eq!(told(&one, &two), "alert https://h.example/…: another template");
    }
}
