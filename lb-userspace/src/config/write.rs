//! A configuration as TOML: complete, in one canonical form, and read back as the same.

use std::fmt::{Display, Write};

use super::model::{Backend, Config, Health, Node, Probe, Service};
use super::value::{format_duration, format_range, format_size};

/// Everything, defaults included, so that it means the same to a later version.
#[must_use]
pub fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    node(&mut out, &config.node);
    for service in &config.services {
        out.push('\n');
        write_service(&mut out, service);
    }
    out
}

fn node(out: &mut String, node: &Node) {
    let limits = &node.limits;
    out.push_str("[node]\n");
    line(out, "interfaces", list(&node.interfaces));
    line(out, "xdp", quote(&node.xdp));
    line(out, "nat_ports", quote(&format_range(&node.nat_ports)));
    line(out, "nat_addresses", list(&node.nat_addresses));
    line(out, "tunnel_sources", list(&node.tunnel_sources));
    line(out, "gue_port", node.gue_port);
    line(out, "flow_inserts", node.flow_inserts);
    line(out, "icmp_rate", node.icmp_rate);
    let limits = [
        ("frontends", limits.frontends.to_string()),
        ("backends", limits.backends.to_string()),
        ("servers", limits.servers.to_string()),
        ("table_bytes", quote(&format_size(limits.table_bytes))),
        ("flows", limits.flows.to_string()),
        ("nat_connections", limits.nat_connections.to_string()),
        ("sources", limits.sources.to_string()),
        ("rates", limits.rates.to_string()),
        ("server_ids", limits.server_ids.to_string()),
        ("prefixes", limits.prefixes.to_string()),
    ];
    line(out, "limits", table(&limits));
}

fn write_service(out: &mut String, service: &Service) {
    out.push_str("[[service]]\n");
    line(out, "name", quote(&service.name));
    line(out, "listen", list(&service.listen));
    line(out, "mode", quote(&service.mode));
    line(out, "health", health(&service.health));
    line(out, "idle_timeout", quote(&format_duration(service.idle_timeout)));
    line(out, "udp_timeout", quote(&format_duration(service.udp_timeout)));
    line(out, "slow_start", quote(&format_duration(service.slow_start)));
    line(out, "hash", quote(&service.hash));
    line(out, "track", quote(&service.track));
    line(out, "udp", quote(&service.udp));
    if let Some(quic) = service.quic {
        let keys = [
            ("config_id", quic.config_id.to_string()),
            ("server_id_length", quic.server_id_length.to_string()),
        ];
        line(out, "quic", table(&keys));
    }
    if let Some(mss) = service.mss {
        line(out, "mss", mss);
    }
    line(out, "allow", list(&service.allow));
    if let Some(limit) = service.rate_limit {
        let keys =
            [("per_second", limit.per_second.to_string()), ("burst", limit.burst.to_string())];
        line(out, "rate_limit", table(&keys));
    }
    let backends: String =
        service.backends.iter().map(|backend| format!("  {},\n", write_backend(backend))).collect();
    line(out, "backends", format!("[\n{backends}]"));
}

fn write_backend(backend: &Backend) -> String {
    let mut keys = vec![("name", quote(&backend.name)), ("address", quote(&backend.address))];
    keys.extend(backend.port.map(|port| ("port", port.to_string())));
    keys.push(("weight", backend.weight.to_string()));
    keys.extend(backend.server_id.map(|id| ("server_id", quote(&id))));
    table(&keys)
}

fn health(health: &Health) -> String {
    let mut keys = match &health.probe {
        Probe::None => vec![("none", "true".to_owned())],
        Probe::Tcp => vec![("tcp", "true".to_owned())],
        Probe::Http { path, host, status } => {
            let mut keys = vec![("http", quote(path))];
            keys.extend(host.as_ref().map(|host| ("host", quote(host))));
            keys.push(("status", quote(&format_range(status))));
            keys
        }
    };
    // The times of a probe that is never sent are noise, unless they were set.
    if health.probe == Probe::None && *health == Health::new(Probe::None) {
        return table(&keys);
    }
    keys.extend(health.port.map(|port| ("port", port.to_string())));
    keys.extend(health.via.map(|via| ("via", quote(&via))));
    keys.push(("interval", quote(&format_duration(health.interval))));
    keys.push(("fast_interval", quote(&format_duration(health.fast_interval))));
    keys.push(("timeout", quote(&format_duration(health.timeout))));
    keys.push(("rise", health.rise.to_string()));
    keys.push(("fall", health.fall.to_string()));
    table(&keys)
}

fn line(out: &mut String, key: &str, value: impl Display) {
    // Writing to a String doesn't fail.
    let _ = writeln!(out, "{key} = {value}");
}

fn quote(value: &(impl ToString + ?Sized)) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn list<T: ToString>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(|value| quote(value)).collect();
    format!("[{}]", values.join(", "))
}

fn table(keys: &[(&str, String)]) -> String {
    let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{{ {} }}", keys.join(", "))
}
