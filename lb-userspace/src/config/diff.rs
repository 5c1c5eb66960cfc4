//! What changed between two configurations, one line a person can read for each thing.

use std::collections::HashMap;

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
        lines.push("order of services or backends".into());
    }
    lines
}

fn node(old: &Node, new: &Node, lines: &mut Vec<String>) {
    let mut line = |key: &str, old: String, new: String| changed(lines, "node", key, &old, &new);
    let list = |addresses: &[std::net::IpAddr]| {
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        or_none(&texts.join(", "))
    };
    line("interfaces", or_none(&old.interfaces.join(", ")), or_none(&new.interfaces.join(", ")));
    line("xdp", old.xdp.to_string(), new.xdp.to_string());
    line("nat_ports", format_range(&old.nat_ports), format_range(&new.nat_ports));
    line("nat_addresses", list(&old.nat_addresses), list(&new.nat_addresses));
    let (a, b) = (old.limits, new.limits);
    line("limits.frontends", a.frontends.to_string(), b.frontends.to_string());
    line("limits.backends", a.backends.to_string(), b.backends.to_string());
    line("limits.servers", a.servers.to_string(), b.servers.to_string());
    line("limits.table_bytes", format_size(a.table_bytes), format_size(b.table_bytes));
    line("limits.flows", a.flows.to_string(), b.flows.to_string());
    line("limits.nat_connections", a.nat_connections.to_string(), b.nat_connections.to_string());
}

fn same_service(old: &Service, new: &Service, lines: &mut Vec<String>) {
    let subject = format!("service {}", new.name);
    for frontend in old.listen.iter().filter(|f| !new.listen.contains(f)) {
        lines.push(format!("{subject}: no longer listens on {frontend}"));
    }
    for frontend in new.listen.iter().filter(|f| !old.listen.contains(f)) {
        lines.push(format!("{subject}: listens on {frontend}"));
    }
    changed(lines, &subject, "mode", &old.mode.to_string(), &new.mode.to_string());
    changed(lines, &subject, "health", &health(&old.health), &health(&new.health));
    let idle = |service: &Service| format_duration(service.idle_timeout);
    changed(lines, &subject, "idle_timeout", &idle(old), &idle(new));
    let start = |service: &Service| format_duration(service.slow_start);
    changed(lines, &subject, "slow_start", &start(old), &start(new));

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
            lines.push(format!(
                "{subject}: added at {}, weight {}",
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
    format!(
        "{probe}{port} every {} (fast {}), timeout {}, rise {}, fall {}",
        format_duration(health.interval),
        format_duration(health.fast_interval),
        format_duration(health.timeout),
        health.rise,
        health.fall
    )
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".into() } else { text.into() }
}

fn changed(lines: &mut Vec<String>, subject: &str, key: &str, old: &str, new: &str) {
    if old != new {
        lines.push(format!("{subject}: {key} {old} → {new}"));
    }
}
