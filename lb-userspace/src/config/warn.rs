//! Things that are as asked but look unwise: few, and each with its consequence.

use super::model::{Config, Probe};
use super::value::format_duration;

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
}
