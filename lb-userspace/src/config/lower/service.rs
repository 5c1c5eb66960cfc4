//! A `[[service]]`: where it listens, how it forwards, whom it lets in.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use super::{Lowering, to_u8, to_u16};
use crate::config::model::{
    Backend, Failover, Frontend, HashPolicy, Health, Mode, Probe, Protocol, Quic, Ramp, RateLimit,
    Service, Track, UdpPolicy,
};
use crate::config::place::Place;
use crate::config::raw::{RawBackend, RawQuic, RawRateLimit, RawService};
use crate::config::value::parse_percent;

const MODES: [(&str, Mode); 4] =
    [("nat", Mode::Nat), ("dsr", Mode::Dsr), ("ipip", Mode::Ipip), ("gue", Mode::Gue)];
const HASHES: [(&str, HashPolicy); 3] = [
    ("flow", HashPolicy::Flow),
    ("source", HashPolicy::Source),
    ("addresses", HashPolicy::Addresses),
];
const TRACKS: [(&str, Track); 2] = [("exceptions", Track::Exceptions), ("always", Track::Always)];
const RAMPS: [(&str, Ramp); 2] = [("linear", Ramp::Linear), ("exponential", Ramp::Exponential)];
const UDP_POLICIES: [(&str, UdpPolicy); 2] =
    [("packet", UdpPolicy::Packet), ("flow", UdpPolicy::Flow)];

impl Lowering {
    pub(super) fn service(&mut self, s: usize, raw: Spanned<RawService>) -> Service {
        let span = raw.span();
        let raw = self.open(Place::Service(s), raw);
        let key = |key| Place::ServiceKey(s, key);
        let name = match raw.name {
            Some(name) => self.open(key("name"), name),
            None => {
                self.missing(&span, "the service has no name", "add a line such as name = \"web\"");
                self.gaps.insert(key("name"));
                String::new()
            }
        };
        let listen = self.listen(s, raw.listen);
        let mode = self.mode(s, &span, raw.mode);
        let udp_only = !listen.is_empty() && listen.iter().all(|f| f.protocol == Protocol::Udp);
        let probe = if udp_only { Probe::None } else { Probe::Tcp };
        let health = match raw.health {
            Some(health) => self.health(s, health, probe),
            None => Health::new(probe),
        };
        let allow = raw.allow.map(|list| self.open(key("allow"), list)).unwrap_or_default();
        Service {
            name,
            listen,
            mode,
            health,
            idle_timeout: self.duration(key("idle_timeout"), raw.idle_timeout, Service::IDLE),
            udp_timeout: self.duration(key("udp_timeout"), raw.udp_timeout, Service::UDP_IDLE),
            slow_start: self.duration(key("slow_start"), raw.slow_start, Duration::ZERO),
            slow_start_curve: self.policy(
                key("slow_start_curve"),
                raw.slow_start_curve,
                "a curve",
                &RAMPS,
            ),
            failover: match raw.failover {
                Some(failover) => self.failover(s, failover),
                None => Failover::default(),
            },
            hash: self.policy(key("hash"), raw.hash, "a hash policy", &HASHES),
            track: self.policy(key("track"), raw.track, "a way to track flows", &TRACKS),
            udp: self.policy(key("udp"), raw.udp, "a policy for UDP", &UDP_POLICIES),
            quic: raw.quic.and_then(|quic| self.quic(s, quic)),
            mss: raw.mss.map(|mss| to_u16(self.open(key("mss"), mss))),
            allow: self.prefixes(allow, |a| Place::Allow(s, a)),
            rate_limit: raw.rate_limit.and_then(|limit| self.rate_limit(s, limit)),
            capacity_warning: raw.capacity_warning.and_then(|text| {
                self.read(key("capacity_warning"), text, "a part of the backends", parse_percent)
            }),
            backends: self.backends(s, raw.backends),
        }
    }

    fn listen(&mut self, s: usize, raw: Option<Spanned<Vec<Spanned<String>>>>) -> Vec<Frontend> {
        let mut listen = Vec::new();
        let Some(list) = raw else { return listen };
        let key = Place::ServiceKey(s, "listen");
        for text in self.open(key, list) {
            match self.parse(Place::Listen(s, listen.len()), &text) {
                Some(frontend) => listen.push(frontend),
                None => {
                    self.gaps.insert(key);
                }
            }
        }
        listen
    }

    fn mode(&mut self, s: usize, service: &Range<usize>, raw: Option<Spanned<String>>) -> Mode {
        let place = Place::ServiceKey(s, "mode");
        let mode = match raw {
            Some(text) => self.choice(place, text, "a forwarding mode", &MODES),
            None => {
                self.missing(
                    service,
                    "the service has no mode",
                    "add mode = \"nat\" (backends need nothing) or mode = \"dsr\" (backends carry \
                     the VIP on lo); \"ipip\" and \"gue\" are tunnels to other networks",
                );
                None
            }
        };
        mode.unwrap_or_else(|| {
            self.gaps.insert(place);
            Mode::Nat
        })
    }

    pub(super) fn policy<T: Copy + Default>(
        &mut self,
        place: Place,
        raw: Option<Spanned<String>>,
        what: &str,
        choices: &[(&str, T)],
    ) -> T {
        raw.and_then(|text| self.choice(place, text, what, choices)).unwrap_or_default()
    }

    fn quic(&mut self, s: usize, raw: Spanned<RawQuic>) -> Option<Quic> {
        let span = raw.span();
        let raw = self.open(Place::ServiceKey(s, "quic"), raw);
        let mut required = |key: &'static str, value: Option<Spanned<i64>>| {
            if value.is_none() {
                let hint =
                    "write quic = { config_id = 0, server_id_length = 4 }, as the servers do";
                self.missing(&span, &format!("`quic` has no {key}"), hint);
                // Whether backends need ids is not known.
                self.gaps.insert(Place::ServiceKey(s, "quic"));
            }
            value.map(|value| to_u8(self.open(Place::QuicKey(s, key), value)))
        };
        let config_id = required("config_id", raw.config_id);
        let server_id_length = required("server_id_length", raw.server_id_length);
        Some(Quic { config_id: config_id?, server_id_length: server_id_length? })
    }

    fn rate_limit(&mut self, s: usize, raw: Spanned<RawRateLimit>) -> Option<RateLimit> {
        let span = raw.span();
        let raw = self.open(Place::ServiceKey(s, "rate_limit"), raw);
        let key = |key| Place::RateLimitKey(s, key);
        let Some(per_second) = raw.per_second else {
            let hint = "write rate_limit = { per_second = 100, burst = 200 }";
            self.missing(&span, "`rate_limit` has no per_second", hint);
            return None;
        };
        let per_second = self.number(key("per_second"), Some(per_second), 0);
        let burst = self.number(key("burst"), raw.burst, RateLimit::burst_of(per_second));
        Some(RateLimit { per_second, burst })
    }

    fn backends(
        &mut self,
        s: usize,
        raw: Option<Spanned<Vec<Spanned<RawBackend>>>>,
    ) -> Vec<Arc<Backend>> {
        let mut backends = Vec::new();
        let Some(list) = raw else { return backends };
        let place = Place::ServiceKey(s, "backends");
        for backend in self.open(place, list) {
            match self.backend(s, backends.len(), backend) {
                Some(backend) => backends.push(Arc::new(backend)),
                None => {
                    self.gaps.insert(place);
                    // The next one takes its place, with a server id or without.
                    self.gaps.remove(&Place::BackendKey(s, backends.len(), "server_id"));
                }
            }
        }
        backends
    }
}
