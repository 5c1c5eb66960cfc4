//! From the file's text values to the model: defaults filled in, every value's place noted.
//!
//! A value that can't be read becomes a finding, and its place a gap, so that the cross-checks
//! still run over all the rest. What the values *mean* together is `check`'s business.

mod health;

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use crate::config::model::{
    Backend, Config, Frontend, Health, Limits, Mode, Node, Probe, Protocol, Service, XdpPolicy,
};
use crate::config::place::{Finding, Gaps, Place, Spans};
use crate::config::raw::{RawBackend, RawConfig, RawLimits, RawNode, RawService, Scalar};
use crate::config::suggest::{closest, one_of};
use crate::config::value::{parse_duration, parse_range, parse_size};

pub(crate) struct Lowered {
    pub(crate) config: Config,
    pub(crate) spans: Spans,
    pub(crate) gaps: Gaps,
    pub(crate) findings: Vec<Finding>,
}

#[derive(Default)]
struct Lowering {
    spans: Spans,
    gaps: Gaps,
    findings: Vec<Finding>,
}

pub(crate) fn lower(raw: RawConfig) -> Lowered {
    let mut lowering = Lowering::default();
    let node = lowering.node(raw.node);
    let services = raw
        .service
        .into_iter()
        .enumerate()
        .map(|(s, service)| lowering.service(s, service))
        .collect();
    let Lowering { spans, gaps, findings } = lowering;
    Lowered { config: Config { node, services }, spans, gaps, findings }
}

impl Lowering {
    fn node(&mut self, raw: Option<Spanned<RawNode>>) -> Node {
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
        let policies = [
            ("native", XdpPolicy::Native),
            ("auto", XdpPolicy::Auto),
            ("generic", XdpPolicy::Generic),
        ];
        Node {
            interfaces,
            xdp: raw
                .xdp
                .and_then(|text| self.choice(Place::Xdp, text, "an XDP policy", &policies))
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
            limits: raw.limits.map_or(defaults.limits, |limits| self.limits(limits)),
            ..defaults
        }
    }

    fn limits(&mut self, raw: Spanned<RawLimits>) -> Limits {
        let raw = self.open(Place::Limits, raw);
        let defaults = Limits::default();
        let mut count = |key, value: Option<Spanned<i64>>, default| match value {
            Some(value) => to_u32(self.open(Place::Limit(key), value)),
            None => default,
        };
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
            ..defaults
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

    fn service(&mut self, s: usize, raw: Spanned<RawService>) -> Service {
        let span = raw.span();
        let raw = self.open(Place::Service(s), raw);
        let name = match raw.name {
            Some(name) => self.open(Place::ServiceKey(s, "name"), name),
            None => {
                self.missing(&span, "the service has no name", "add a line such as name = \"web\"");
                self.gaps.insert(Place::ServiceKey(s, "name"));
                String::new()
            }
        };
        let listen = self.listen(s, raw.listen);
        let mode = self.mode(s, &span, raw.mode);
        let default_probe =
            if !listen.is_empty() && listen.iter().all(|f| f.protocol == Protocol::Udp) {
                Probe::None
            } else {
                Probe::Tcp
            };
        let health = match raw.health {
            Some(health) => self.health(s, health, default_probe),
            None => Health::new(default_probe),
        };
        let idle_timeout =
            self.duration(Place::ServiceKey(s, "idle_timeout"), raw.idle_timeout, Service::IDLE);
        let slow_start =
            self.duration(Place::ServiceKey(s, "slow_start"), raw.slow_start, Duration::ZERO);
        let mut backends = Vec::new();
        if let Some(list) = raw.backends {
            let place = Place::ServiceKey(s, "backends");
            for backend in self.open(place, list) {
                match self.backend(s, backends.len(), backend) {
                    Some(backend) => backends.push(backend),
                    None => {
                        self.gaps.insert(place);
                    }
                }
            }
        }
        Service { listen, health, idle_timeout, slow_start, backends, ..Service::new(name, mode) }
    }

    fn listen(&mut self, s: usize, raw: Option<Spanned<Vec<Spanned<String>>>>) -> Vec<Frontend> {
        let mut listen = Vec::new();
        let Some(list) = raw else { return listen };
        let key = Place::ServiceKey(s, "listen");
        for text in self.open(key, list) {
            let span = text.span();
            match text.get_ref().parse::<Frontend>() {
                Ok(frontend) => {
                    self.spans.insert(Place::Listen(s, listen.len()), span);
                    listen.push(frontend);
                }
                Err(error) => {
                    self.find(span, error.message, error.hint);
                    self.gaps.insert(key);
                }
            }
        }
        listen
    }

    fn mode(&mut self, s: usize, service: &Range<usize>, raw: Option<Spanned<String>>) -> Mode {
        let place = Place::ServiceKey(s, "mode");
        let modes = [("nat", Mode::Nat), ("dsr", Mode::Dsr)];
        let mode = match raw {
            Some(text) => self.choice(place, text, "a forwarding mode", &modes),
            None => {
                self.missing(
                    service,
                    "the service has no mode",
                    "add mode = \"nat\" (backends need nothing) or mode = \"dsr\" (backends carry the VIP on lo)",
                );
                None
            }
        };
        mode.unwrap_or_else(|| {
            self.gaps.insert(place);
            Mode::Nat
        })
    }

    fn backend(&mut self, s: usize, b: usize, raw: Spanned<RawBackend>) -> Option<Backend> {
        let span = raw.span();
        let raw = self.open(Place::Backend(s, b), raw);
        let key = |key| Place::BackendKey(s, b, key);
        let name = raw.name.map(|name| self.open(key("name"), name));
        if name.is_none() {
            self.missing(
                &span,
                "the backend has no name",
                "add name = \"web-01\": the name is its identity, the address may change",
            );
        }
        let address = match raw.address {
            Some(text) => self.address(key("address"), text),
            None => {
                self.missing(&span, "the backend has no address", "add address = \"10.0.0.11\"");
                None
            }
        };
        let port = raw.port.and_then(|port| self.port(key("port"), port));
        let weight = raw.weight.map_or(1, |weight| {
            let value = self.open(key("weight"), weight).clamp(0, i64::from(u16::MAX));
            u16::try_from(value).unwrap_or(u16::MAX)
        });
        Some(Backend { port, weight, ..Backend::new(name?, address?) })
    }

    fn duration(
        &mut self,
        place: Place,
        raw: Option<Spanned<String>>,
        default: Duration,
    ) -> Duration {
        raw.and_then(|text| self.read(place, text, "a duration", parse_duration)).unwrap_or(default)
    }

    fn address(&mut self, place: Place, text: Spanned<String>) -> Option<IpAddr> {
        let read = |text: &str| {
            text.parse().map_err(|_| match text.parse::<std::net::SocketAddr>() {
                Ok(_) => "write the address alone; a port has its own key, port = 8080",
                Err(_) => {
                    "write an IPv4 or IPv6 address, such as \"10.0.0.11\"; names are not resolved"
                }
            })
        };
        self.read(place, text, "an IP address", read)
    }

    fn port(&mut self, place: Place, raw: Spanned<i64>) -> Option<u16> {
        let span = raw.span();
        let value = self.open(place, raw);
        let port = u16::try_from(value).ok();
        if port.is_none() {
            self.find(span, format!("{value} is not a port"), "write 1 to 65535".into());
        }
        port
    }

    fn choice<T: Copy>(
        &mut self,
        place: Place,
        text: Spanned<String>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        self.read(place, text, what, |text| {
            choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(
                || match closest(text, names()) {
                    Some(near) => format!("did you mean \"{near}\"? It can be {}", one_of(names())),
                    None => format!("it can be {}", one_of(names())),
                },
            )
        })
    }

    /// Reads a text value, or reports that it is not `what` with the parser's hint.
    fn read<T, E: Display>(
        &mut self,
        place: Place,
        text: Spanned<String>,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let span = text.span();
        let text = text.into_inner();
        match parse(&text) {
            Ok(value) => {
                self.spans.insert(place, span);
                Some(value)
            }
            Err(hint) => {
                self.find(span, format!("'{text}' is not {what}"), hint.to_string());
                None
            }
        }
    }

    fn open<T>(&mut self, place: Place, value: Spanned<T>) -> T {
        self.spans.insert(place, value.span());
        value.into_inner()
    }

    fn missing(&mut self, span: &Range<usize>, message: &str, hint: &str) {
        self.find(span.clone(), message.into(), hint.into());
    }

    fn find(&mut self, span: Range<usize>, message: String, hint: String) {
        self.findings.push(Finding { span, message, hint, other: None });
    }
}

/// Out of range becomes the nearest number, which the cross-checks refuse in their own words.
fn to_u32(value: i64) -> u32 {
    u32::try_from(value.clamp(0, i64::from(u32::MAX))).unwrap_or(u32::MAX)
}
