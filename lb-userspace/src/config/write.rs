//! A configuration as TOML: complete, in one canonical form, and read back as the same.

use std::fmt::{Display, Write};

use super::model::{
    Alert, Backend, BodyMatch, Config, Failover, Health, Node, Probe, Service, Target,
};
use super::value::{format_duration, format_range, format_size};

/// Everything, defaults included, so that it means the same to a later version.
#[must_use]
pub fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    node(&mut out, &config.node);
    for alert in &config.alerts {
        out.push('\n');
        write_alert(&mut out, alert);
    }
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

fn write_alert(out: &mut String, alert: &Alert) {
    out.push_str("[[alert]]\n");
    match &alert.target {
        Target::Webhook { url, headers_file, ca_file } => {
            line(out, "webhook", quote(url));
            for (key, file) in [("headers_file", headers_file), ("ca_file", ca_file)] {
                file.iter().for_each(|file| line(out, key, quote(file)));
            }
        }
        Target::Exec { command } => line(out, "exec", list(command)),
    }
    line(out, "events", list(&alert.events));
    line(out, "min_severity", quote(&alert.min_severity));
    line(out, "timeout", quote(&format_duration(alert.timeout)));
    line(out, "retries", alert.retries);
    line(out, "repeat", quote(&format_duration(alert.repeat)));
    line(out, "batch", quote(&format_duration(alert.batch)));
    if let Some(template) = &alert.template {
        line(out, "template", quote(template));
    }
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
    line(out, "slow_start_curve", quote(&service.slow_start_curve));
    line(out, "failover", failover(&service.failover));
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
    if let Some(percent) = service.capacity_warning {
        line(out, "capacity_warning", quote(&format!("{percent}%")));
    }
    let backends: String =
        service.backends.iter().map(|backend| format!("  {},\n", write_backend(backend))).collect();
    line(out, "backends", format!("[\n{backends}]"));
}

fn write_backend(backend: &Backend) -> String {
    let mut keys = vec![("name", quote(&backend.name)), ("address", quote(&backend.written()))];
    keys.extend(backend.family.map(|family| ("family", quote(&family))));
    keys.extend(backend.port.map(|port| ("port", port.to_string())));
    keys.push(("weight", backend.weight.to_string()));
    if backend.backup {
        keys.push(("backup", "true".to_owned()));
    }
    keys.extend(backend.server_id.map(|id| ("server_id", quote(&id))));
    table(&keys)
}

fn health(health: &Health) -> String {
    // The times of a probe that is never sent are noise, unless they were set.
    if *health == Health::new(Probe::None) {
        return table(&probe_keys(&health.probe));
    }
    table(&health_keys(health))
}

/// All keys that say the same as `health`.
pub(super) fn health_keys(health: &Health) -> Vec<(&'static str, String)> {
    let mut keys = probe_keys(&health.probe);
    keys.extend(health.port.map(|port| ("port", port.to_string())));
    keys.extend(health.source.map(|source| ("source", quote(&source))));
    keys.extend(health.via.map(|via| ("via", quote(&via))));
    keys.push(("interval", quote(&format_duration(health.interval))));
    keys.push(("fast_interval", quote(&format_duration(health.fast_interval))));
    keys.push(("jitter", quote(&format!("{}%", health.jitter))));
    keys.push(("timeout", quote(&format_duration(health.timeout))));
    keys.push(("rise", health.rise.to_string()));
    keys.push(("fall", health.fall.to_string()));
    keys.push(("hold_down", quote(&format_duration(health.hold_down))));
    keys.push(("hold_down_max", quote(&format_duration(health.hold_down_max))));
    keys
}

fn probe_keys(probe: &Probe) -> Vec<(&'static str, String)> {
    let mut keys = Vec::new();
    let kind = probe.key();
    match probe {
        Probe::None | Probe::Tcp | Probe::Icmp => keys.push((kind, "true".to_owned())),
        Probe::Http(http) => {
            keys.push((kind, quote(&http.path)));
            keys.push(("method", quote(&http.method)));
            keys.extend(http.host.as_ref().map(|host| ("host", quote(host))));
            keys.push(("status", quote(&http.status)));
            keys.extend(http.body.as_ref().map(|body| match body {
                BodyMatch::Contains(text) => ("body", quote(text)),
                BodyMatch::Regex(text) => ("body_regex", quote(text)),
            }));
        }
        Probe::Grpc(grpc) => {
            keys.push((kind, quote(&grpc.service)));
            keys.extend(grpc.tls.as_ref().map(|_| ("tls", "true".to_owned())));
        }
        Probe::Dns(dns) => {
            keys.push((kind, quote(&dns.name)));
            keys.push(("type", quote(&dns.record)));
            keys.push(("rcode", quote(&dns.rcode)));
            keys.extend(dns.answer.as_ref().map(|answer| ("answer", quote(answer))));
        }
        Probe::Udp(udp) => {
            keys.push((kind, quote(&udp.payload)));
            keys.extend(udp.expect.as_ref().map(|expect| ("expect", quote(expect))));
        }
        Probe::Exec(exec) => {
            let words: Vec<&String> =
                std::iter::once(&exec.program).chain(&exec.arguments).collect();
            keys.push((kind, list(&words)));
        }
    }
    if let Some(tls) = probe.tls() {
        keys.extend(tls.sni.as_ref().map(|name| ("sni", quote(name))));
        keys.extend(tls.ca.as_ref().map(|ca| ("ca", quote(&ca.path))));
        if tls.insecure {
            keys.push(("insecure", "true".to_owned()));
        }
    }
    keys
}

fn failover(failover: &Failover) -> String {
    table(&[
        ("max_removed", quote(&failover.max_removed)),
        ("max_removed_in_window", quote(&failover.max_removed_in_window)),
        ("window", quote(&format_duration(failover.window))),
        ("on_down", quote(&failover.on_down)),
        ("backup_below", quote(&failover.backup_below)),
        ("backup_return", quote(&format_duration(failover.backup_return))),
    ])
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
