//! The `health` table: which probe, and how often.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::{Lowering, to_u32};
use crate::config::model::{Health, Probe, Via};
use crate::config::place::Place;
use crate::config::raw::{RawHealth, Scalar};
use crate::config::value::parse_range;

const WAYS: [(&str, Via); 2] = [("vip", Via::Vip), ("address", Via::Address)];

/// The keys that choose a probe.
struct ProbeKeys {
    none: Option<Spanned<bool>>,
    tcp: Option<Spanned<bool>>,
    http: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    status: Option<Spanned<Scalar>>,
}

impl Lowering {
    pub(super) fn health(
        &mut self,
        s: usize,
        raw: Spanned<RawHealth>,
        default_probe: Probe,
    ) -> Health {
        let raw = self.open(Place::ServiceKey(s, "health"), raw);
        let key = |key| Place::HealthKey(s, key);
        let default = Health::new(default_probe);
        let keys = ProbeKeys {
            none: raw.none,
            tcp: raw.tcp,
            http: raw.http,
            host: raw.host,
            status: raw.status,
        };
        let interval = self.duration(key("interval"), raw.interval, default.interval);
        let fast = default.fast_interval.min(interval).max(Health::SHORTEST);
        Health {
            port: raw.port.and_then(|port| self.port(key("port"), port)),
            via: raw.via.and_then(|via| self.choice(key("via"), via, "a way of probes", &WAYS)),
            interval,
            fast_interval: self.duration(key("fast_interval"), raw.fast_interval, fast),
            timeout: self.duration(key("timeout"), raw.timeout, default.timeout),
            rise: raw.rise.map_or(default.rise, |n| to_u32(self.open(key("rise"), n))),
            fall: raw.fall.map_or(default.fall, |n| to_u32(self.open(key("fall"), n))),
            probe: self.probe(s, keys, default.probe),
        }
    }

    fn probe(&mut self, s: usize, keys: ProbeKeys, default: Probe) -> Probe {
        let ProbeKeys { none, tcp, http, host, status } = keys;
        let kinds = [
            ("none", none.as_ref().map(Spanned::span)),
            ("tcp", tcp.as_ref().map(Spanned::span)),
            ("http", http.as_ref().map(Spanned::span)),
        ];
        let given: Vec<_> =
            kinds.iter().filter_map(|(name, span)| Some((*name, span.clone()?))).collect();
        if let [(first, _), (second, span), ..] = given.as_slice() {
            let message = format!("`{first}` and `{second}` are two ways to probe");
            self.find(span.clone(), message, format!("keep one of them: `{first}` or `{second}`"));
        }
        for flag in [none.as_ref(), tcp.as_ref()].into_iter().flatten() {
            if !flag.get_ref() {
                let hint = "write true, or leave the key out";
                self.find(flag.span(), "false chooses no probe".into(), hint.into());
            }
        }
        if http.is_none() {
            let only = [host.as_ref().map(Spanned::span), status.as_ref().map(Spanned::span)];
            for span in only.into_iter().flatten() {
                let hint = "add http = \"/healthz\", or remove this key";
                self.find(
                    span,
                    "this belongs to an http probe, and there is none".into(),
                    hint.into(),
                );
            }
        }
        match http {
            Some(path) => Probe::Http {
                path: self.open(Place::HealthKey(s, "http"), path),
                host: host.map(|host| self.open(Place::HealthKey(s, "host"), host)),
                status: self.status(s, status),
            },
            None if none.is_some() => Probe::None,
            None if tcp.is_some() => Probe::Tcp,
            None => default,
        }
    }

    fn status(&mut self, s: usize, raw: Option<Spanned<Scalar>>) -> RangeInclusive<u16> {
        let Some(value) = raw else { return Health::STATUS };
        let span = value.span();
        let text = match self.open(Place::HealthKey(s, "status"), value) {
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text,
        };
        parse_range(&text, true).unwrap_or_else(|| {
            let hint = "write a code or a range of codes, such as 204 or \"200-399\"";
            self.find(span, format!("'{text}' is not an HTTP status"), hint.into());
            Health::STATUS
        })
    }
}
