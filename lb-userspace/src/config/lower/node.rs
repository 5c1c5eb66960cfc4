//! The `[node]` table.

use toml::Spanned;

use super::{Lowering, to_u32};
use crate::config::model::{Limits, Node, XdpPolicy};
use crate::config::place::Place;
use crate::config::raw::{RawLimits, RawNode, Scalar};
use crate::config::value::{parse_range, parse_size};

const POLICIES: [(&str, XdpPolicy); 3] =
    [("native", XdpPolicy::Native), ("auto", XdpPolicy::Auto), ("generic", XdpPolicy::Generic)];

impl Lowering {
    pub(super) fn node(&mut self, raw: Option<Spanned<RawNode>>) -> Node {
        let raw = raw.map(|raw| self.open(Place::Node, raw)).unwrap_or_default();
        let mut interfaces = Vec::new();
        if let Some(list) = raw.interfaces {
            for (i, name) in self.open(Place::Interfaces, list).into_iter().enumerate() {
                interfaces.push(self.open(Place::Interface(i), name));
            }
        }
        let mut nat_addresses = Vec::new();
        for text in raw.nat_addresses {
            let place = Place::NatAddress(nat_addresses.len());
            nat_addresses.extend(self.address(place, text));
        }
        let defaults = Node::default();
        let key = Place::NodeKey;
        Node {
            interfaces,
            xdp: raw
                .xdp
                .and_then(|text| self.choice(Place::Xdp, text, "an XDP policy", &POLICIES))
                .unwrap_or(defaults.xdp),
            nat_ports: raw
                .nat_ports
                .and_then(|text| {
                    let read = |text: &str| {
                        parse_range(text, false)
                            .ok_or("write the first and the last port, such as \"1024-32767\"")
                    };
                    self.read(Place::NatPorts, text, "a range of ports", read)
                })
                .unwrap_or(defaults.nat_ports),
            nat_addresses,
            tunnel_sources: self.prefixes(raw.tunnel_sources, Place::TunnelSource),
            gue_port: raw
                .gue_port
                .and_then(|port| self.port(key("gue_port"), port))
                .unwrap_or(defaults.gue_port),
            flow_inserts: self.number(key("flow_inserts"), raw.flow_inserts, defaults.flow_inserts),
            icmp_rate: self.number(key("icmp_rate"), raw.icmp_rate, defaults.icmp_rate),
            limits: raw.limits.map_or(defaults.limits, |limits| self.limits(limits)),
        }
    }

    fn limits(&mut self, raw: Spanned<RawLimits>) -> Limits {
        let raw = self.open(Place::Limits, raw);
        let defaults = Limits::default();
        let mut count = |key, value, default| self.number(Place::Limit(key), value, default);
        let mut limits = Limits {
            frontends: count("frontends", raw.frontends, defaults.frontends),
            backends: count("backends", raw.backends, defaults.backends),
            servers: count("servers", raw.servers, defaults.servers),
            table_bytes: defaults.table_bytes,
            flows: count("flows", raw.flows, defaults.flows),
            nat_connections: count(
                "nat_connections",
                raw.nat_connections,
                defaults.nat_connections,
            ),
            sources: count("sources", raw.sources, defaults.sources),
            rates: count("rates", raw.rates, defaults.rates),
            server_ids: count("server_ids", raw.server_ids, defaults.server_ids),
            prefixes: count("prefixes", raw.prefixes, defaults.prefixes),
        };
        if let Some(value) = raw.table_bytes {
            let place = Place::Limit("table_bytes");
            let span = value.span();
            match self.open(place, value) {
                Scalar::Number(bytes) => limits.table_bytes = to_u32(bytes),
                Scalar::Text(text) => match parse_size(&text) {
                    Ok(bytes) => limits.table_bytes = bytes,
                    Err(hint) => self.find(span, format!("'{text}' is not a size"), hint),
                },
            }
        }
        limits
    }
}
