//! What a configuration needs of the packet path. The rest is left out when the program is loaded:
//! the verifier sees a constant, and prunes what hangs on it.

use lb_common::abi::{
    FEATURE_FILTERS, FEATURE_NAT, FEATURE_PREFIXES, FEATURE_QUIC, FEATURE_TUNNEL4, FEATURE_TUNNEL6,
};

use crate::config::model::{Config, Mode, Service};

/// Every feature and its name.
const NAMES: [(u32, &str); 6] = [
    (FEATURE_NAT, "nat"),
    (FEATURE_TUNNEL4, "tunnel4"),
    (FEATURE_TUNNEL6, "tunnel6"),
    (FEATURE_PREFIXES, "prefixes"),
    (FEATURE_QUIC, "quic"),
    (FEATURE_FILTERS, "filters"),
];

/// The `FEATURE_*` bits a configuration needs. The block list is no part of it: who blocks needs
/// [`FEATURE_FILTERS`].
#[must_use]
pub fn needed(config: &Config) -> u32 {
    config.services.iter().map(|service| of_service(service)).fold(0, std::ops::BitOr::bitor)
}

fn of_service(service: &Service) -> u32 {
    let tunnelled = |v6: bool| {
        service.mode.is_tunnel() && service.backends.iter().any(|b| b.address.is_ipv6() == v6)
    };
    [
        (FEATURE_NAT, service.mode == Mode::Nat),
        (FEATURE_TUNNEL4, tunnelled(false)),
        (FEATURE_TUNNEL6, tunnelled(true)),
        (FEATURE_PREFIXES, service.listen.iter().any(|frontend| !frontend.vip.is_host())),
        (FEATURE_QUIC, service.quic.is_some()),
        (FEATURE_FILTERS, !service.allow.is_empty() || service.rate_limit.is_some()),
    ]
    .into_iter()
    .filter(|(_, is_needed)| *is_needed)
    .fold(0, |features, (feature, _)| features | feature)
}

/// The names of features.
pub fn names(features: u32) -> impl Iterator<Item = &'static str> {
    NAMES.iter().filter(move |(feature, _)| features & feature != 0).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::FEATURES_ALL;

    use super::*;
    use crate::config::parse;

    const DSR: &str = "mode = \"dsr\"";
    const VIP: &str = "192.0.2.10:80/tcp";
    const V4: &str = "{ name = \"a\", address = \"10.0.0.11\" }";
    const OTHER: &str = "{ name = \"a\", address = \"10.0.0.12\" }";
    const V6: &str = "{ name = \"b\", address = \"fd00::11\" }";

    fn service(name: &str, settings: &str, vip: &str, backends: &str) -> String {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = [\"{vip}\"]\n{settings}\n\
             backends = [{backends}]\n"
        )
    }

    fn config(services: &[String]) -> Config {
        let source = format!("[node]\ninterfaces = [\"eth0\"]\n{}", services.concat());
        parse(&source, "lb.toml").unwrap_or_else(|error| panic!("{error}\n{source}"))
    }

    #[test]
    fn a_configuration_needs_what_its_services_use() {
        let probe = "health = { tcp = true, port = 80 }\n";
        let both = format!("{V4}, {V6}");
        let (ipip, gue) = ("mode = \"ipip\"", "mode = \"gue\"");
        let quic = format!("{DSR}\n{probe}quic = {{ server_id_length = 1, config_id = 0 }}");
        let allow = format!("{DSR}\nallow = [\"10.0.0.0/8\"]");
        let rate = format!("{DSR}\nrate_limit = {{ per_second = 10, burst = 20 }}");
        let server = "{ name = \"a\", address = \"10.0.0.11\", server_id = \"01\" }";
        let rows: &[(&str, &str, &str, u32)] = &[
            (DSR, VIP, V4, 0),
            (DSR, "[2001:db8::1]:80/tcp", V6, 0),
            (DSR, "192.0.2.10:1-1000/tcp", V4, 0),
            ("mode = \"nat\"", VIP, V4, FEATURE_NAT),
            (ipip, VIP, V4, FEATURE_TUNNEL4),
            (gue, VIP, V6, FEATURE_TUNNEL6),
            (gue, VIP, &both, FEATURE_TUNNEL4 | FEATURE_TUNNEL6),
            (DSR, "192.0.2.0/24:80/tcp", V4, FEATURE_PREFIXES),
            (DSR, "192.0.2.10/32:80/tcp", V4, 0),
            (&quic, "192.0.2.10:443/udp", server, FEATURE_QUIC),
            (&allow, VIP, V4, FEATURE_FILTERS),
            (&rate, VIP, V4, FEATURE_FILTERS),
        ];
        for (settings, vip, backends, expect) in rows {
            let config = config(&[service("web", settings, vip, backends)]);
            assert_eq!(needed(&config), *expect, "{settings} {vip} {backends}");
        }
        let two = [
            service("web", ipip, VIP, V4),
            service("dns", DSR, "192.0.3.0/24:53/udp\", \"192.0.3.0/24:53/tcp", OTHER),
        ];
        assert_eq!(needed(&config(&two)), FEATURE_TUNNEL4 | FEATURE_PREFIXES);
        assert_eq!(needed(&config(&[])), 0);
    }

    #[test]
    fn every_feature_has_a_name() {
        assert_eq!(NAMES.iter().fold(0, |all, (feature, _)| all | feature), FEATURES_ALL);
        let some: Vec<&str> = names(FEATURE_NAT | FEATURE_QUIC).collect();
        assert_eq!(some, ["nat", "quic"]);
    }
}
