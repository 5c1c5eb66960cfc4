//! The `health` table: how often a probe is sent, from where, and when it settles something.

use toml::Spanned;

use super::{Lowering, to_u32};
use crate::config::model::{Health, Probe, Via};
use crate::config::place::Place;
use crate::config::raw::RawHealth;
use crate::config::value::parse_percent;

const WAYS: [(&str, Via); 2] = [("vip", Via::Vip), ("address", Via::Address)];

impl Lowering {
    pub(super) fn health(
        &mut self,
        s: usize,
        raw: Spanned<RawHealth>,
        default_probe: Probe,
    ) -> Health {
        let mut raw = self.open(Place::ServiceKey(s, "health"), raw);
        let key = |key| Place::HealthKey(s, key);
        let default = Health::new(default_probe);
        let interval = self.duration(key("interval"), raw.interval.take(), default.interval);
        let fast = default.fast_interval.min(interval).max(Health::SHORTEST);
        let jitter = raw.jitter.take();
        let jitter =
            jitter.and_then(|text| self.read(key("jitter"), text, "a percentage", parse_percent));
        Health {
            port: raw.port.take().and_then(|port| self.port(key("port"), port)),
            source: raw.source.take().and_then(|text| self.address(key("source"), text)),
            via: raw
                .via
                .take()
                .and_then(|via| self.choice(key("via"), via, "a way of probes", &WAYS)),
            interval,
            fast_interval: self.duration(key("fast_interval"), raw.fast_interval.take(), fast),
            jitter: jitter.unwrap_or(default.jitter),
            timeout: self.duration(key("timeout"), raw.timeout.take(), default.timeout),
            rise: raw.rise.take().map_or(default.rise, |n| to_u32(self.open(key("rise"), n))),
            fall: raw.fall.take().map_or(default.fall, |n| to_u32(self.open(key("fall"), n))),
            hold_down: self.duration(key("hold_down"), raw.hold_down.take(), default.hold_down),
            hold_down_max: self.duration(
                key("hold_down_max"),
                raw.hold_down_max.take(),
                default.hold_down_max,
            ),
            probe: self.probe(s, raw, &default.probe),
        }
    }
}
