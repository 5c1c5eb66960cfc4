//! Where in a configuration something is, so that one check serves files and the API alike.
//!
//! A [`Place`] is resolved to a span of the source when there is one, and to words when not.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::model::Config;

/// A spot in a configuration; the numbers are positions of the service and of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    File,
    Node,
    Interfaces,
    Interface(usize),
    Xdp,
    NatPorts,
    NatAddress(usize),
    TunnelSource(usize),
    /// Another key of the node: `gue_port`, `flow_inserts`, `icmp_rate`.
    NodeKey(&'static str),
    Limits,
    Limit(&'static str),
    Alert(usize),
    /// A key of an alert: `webhook`, `exec`, `timeout`, …
    AlertKey(usize, &'static str),
    Service(usize),
    /// A key of a service: `name`, `mode`, `listen`, `backends`, `health`, `idle_timeout`, …
    ServiceKey(usize, &'static str),
    Listen(usize, usize),
    HealthKey(usize, &'static str),
    FailoverKey(usize, &'static str),
    QuicKey(usize, &'static str),
    RateLimitKey(usize, &'static str),
    Allow(usize, usize),
    Backend(usize, usize),
    /// A key of a backend: `name`, `address`, `port`, `weight`, `server_id`.
    BackendKey(usize, usize, &'static str),
}

/// Places the file got wrong already: conclusions drawn from them would be noise.
pub(crate) type Gaps = HashSet<Place>;

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: String,
    /// The other half of a contradiction, and what to say there.
    pub(crate) other: Option<(Place, &'static str)>,
    /// Clashes with something else that is there, rather than being wrong in itself.
    pub(crate) conflict: bool,
}

/// A problem at a span of a source text.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) hint: String,
    pub(crate) other: Option<(Range<usize>, &'static str)>,
}

/// The span of every place that a file mentions.
#[derive(Debug)]
pub(crate) struct Spans(Option<HashMap<Place, Range<usize>>>);

impl Place {
    /// Where to point when the file doesn't mention this place.
    fn parent(self) -> Option<Self> {
        Some(match self {
            Self::File => return None,
            Self::Node | Self::Alert(_) | Self::Service(_) => Self::File,
            Self::Interfaces
            | Self::Xdp
            | Self::NatPorts
            | Self::NatAddress(_)
            | Self::TunnelSource(_)
            | Self::NodeKey(_)
            | Self::Limits => Self::Node,
            Self::Interface(_) => Self::Interfaces,
            Self::Limit(_) => Self::Limits,
            Self::AlertKey(alert, _) => Self::Alert(alert),
            Self::ServiceKey(service, _) => Self::Service(service),
            Self::Listen(service, _) => Self::ServiceKey(service, "listen"),
            Self::HealthKey(service, _) => Self::ServiceKey(service, "health"),
            Self::FailoverKey(service, _) => Self::ServiceKey(service, "failover"),
            Self::QuicKey(service, _) => Self::ServiceKey(service, "quic"),
            Self::RateLimitKey(service, _) => Self::ServiceKey(service, "rate_limit"),
            Self::Allow(service, _) => Self::ServiceKey(service, "allow"),
            Self::Backend(service, _) => Self::ServiceKey(service, "backends"),
            Self::BackendKey(service, backend, _) => Self::Backend(service, backend),
        })
    }

    /// The place in words, for configurations that have no file.
    #[must_use]
    pub fn describe(self, config: &Config) -> String {
        let service = |s: usize| match config.services.get(s) {
            Some(service) if !service.name.is_empty() => format!("service {}", service.name),
            _ => format!("service number {}", s + 1),
        };
        let backend = |s: usize, b: usize| {
            let names = config.services.get(s).and_then(|x| Some((x, x.backends.get(b)?)));
            match names {
                Some((service, backend)) => format!("{}/{}", service.name, backend.name),
                None => format!("{}, backend number {}", service(s), b + 1),
            }
        };
        match self {
            Self::File => "configuration".into(),
            Self::Node => "node".into(),
            Self::Interfaces | Self::Interface(_) => "node, interfaces".into(),
            Self::Xdp => "node, xdp".into(),
            Self::NatPorts => "node, nat_ports".into(),
            Self::NatAddress(_) => "node, nat_addresses".into(),
            Self::TunnelSource(_) => "node, tunnel_sources".into(),
            Self::NodeKey(key) => format!("node, {key}"),
            Self::Limits => "node, limits".into(),
            Self::Limit(key) => format!("node, limits.{key}"),
            Self::Alert(a) => format!("alert number {}", a + 1),
            Self::AlertKey(a, key) => format!("alert number {}, {key}", a + 1),
            Self::Service(s) => service(s),
            Self::ServiceKey(s, key) => format!("{}, {key}", service(s)),
            Self::Listen(s, l) => match config.services.get(s).and_then(|x| x.listen.get(l)) {
                Some(frontend) => format!("{}, listen {frontend}", service(s)),
                None => format!("{}, listen", service(s)),
            },
            Self::HealthKey(s, key) => format!("{}, health.{key}", service(s)),
            Self::FailoverKey(s, key) => format!("{}, failover.{key}", service(s)),
            Self::QuicKey(s, key) => format!("{}, quic.{key}", service(s)),
            Self::RateLimitKey(s, key) => format!("{}, rate_limit.{key}", service(s)),
            Self::Allow(s, _) => format!("{}, allow", service(s)),
            Self::Backend(s, b) => backend(s, b),
            Self::BackendKey(s, b, key) => format!("{}, {key}", backend(s, b)),
        }
    }
}

impl Problem {
    pub(crate) fn new(place: Place, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: hint.into(), other: None, conflict: false }
    }

    /// Points at what it clashes with.
    pub(crate) fn with(mut self, other: Place, label: &'static str) -> Self {
        self.other = Some((other, label));
        self.conflict = true;
        self
    }
}

impl Default for Spans {
    fn default() -> Self {
        Self(Some(HashMap::new()))
    }
}

impl Spans {
    /// Of a text in which nobody will ask for places: keeps none.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn insert(&mut self, place: Place, span: Range<usize>) {
        if let Some(spans) = &mut self.0 {
            spans.insert(place, span);
        }
    }

    pub(crate) fn resolve(&self, problem: Problem) -> Finding {
        Finding {
            span: self.of(problem.place),
            message: problem.message,
            hint: problem.hint,
            other: problem.other.map(|(place, label)| (self.of(place), label)),
        }
    }

    fn of(&self, place: Place) -> Range<usize> {
        let mut at = Some(place);
        while let Some(place) = at {
            if let Some(span) = self.0.as_ref().and_then(|spans| spans.get(&place)) {
                return span.clone();
            }
            at = place.parent();
        }
        0..0
    }
}
