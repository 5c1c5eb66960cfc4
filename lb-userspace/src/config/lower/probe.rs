//! Which probe the `health` table chooses, and the keys that belong to it.

use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;

use super::Lowering;
use crate::config::malformed::Malformed;
use crate::config::model::{
    BodyMatch, Ca, Dns, Exec, Grpc, Http, Payload, Probe, Statuses, Tls, Udp,
};
use crate::config::place::Place;
use crate::config::probe::Word;
use crate::config::raw::{RawHealth, Scalar};
use crate::config::suggest::one_of;

/// How each kind that has keys of its own is asked for.
const EXAMPLES: [(&str, &str); 5] = [
    ("http", "http = \"/healthz\""),
    ("https", "https = \"/healthz\""),
    ("grpc", "grpc = \"\", tls = true"),
    ("dns", "dns = \"example.org\""),
    ("udp", "udp = \"ping\""),
];

impl Lowering {
    /// The probe; `raw` has no other keys left than a probe's own.
    pub(super) fn probe(&mut self, s: usize, raw: RawHealth, default: &Probe) -> Probe {
        let kind = self.kind(&raw, default.key());
        self.strays(&raw, kind);
        let key = |key| Place::HealthKey(s, key);
        match kind {
            "none" => Probe::None,
            "icmp" => Probe::Icmp,
            "http" | "https" => self.http(s, raw),
            "grpc" => {
                let service = raw.grpc.map(|text| self.open(key("grpc"), text)).unwrap_or_default();
                let tls = raw.tls.is_some_and(|tls| self.open(key("tls"), tls));
                let tls = tls.then(|| self.tls(s, raw.sni, raw.ca, raw.insecure));
                Probe::Grpc(Grpc { service, tls })
            }
            "dns" => Probe::Dns(Dns {
                name: raw.dns.map(|name| self.open(key("dns"), name)).unwrap_or_default(),
                record: self.word(key("type"), raw.r#type, "a type of DNS records"),
                rcode: self.word(key("rcode"), raw.rcode, "a DNS response code"),
                answer: raw.answer.map(|text| self.open(key("answer"), text)),
            }),
            "udp" => Probe::Udp(Udp {
                // What can't be read has been reported, and is not empty besides.
                payload: self.text(key("udp"), raw.udp).unwrap_or_else(|| Payload::new(b"?")),
                expect: self.text::<Payload>(key("expect"), raw.expect),
            }),
            "exec" => {
                let words = raw.exec.map(|words| self.open(key("exec"), words)).unwrap_or_default();
                let mut words = words.into_iter();
                let program = words.next().unwrap_or_default();
                Probe::Exec(Exec { program, arguments: words.collect() })
            }
            _ => Probe::Tcp,
        }
    }

    /// The one kind that is chosen, or the default.
    fn kind(&mut self, raw: &RawHealth, default: &'static str) -> &'static str {
        let flags = [("none", &raw.none), ("tcp", &raw.tcp), ("icmp", &raw.icmp)];
        let texts = [
            ("http", &raw.http),
            ("https", &raw.https),
            ("grpc", &raw.grpc),
            ("dns", &raw.dns),
            ("udp", &raw.udp),
        ];
        let given: Vec<(&str, Range<usize>)> = flags
            .iter()
            .filter_map(|(name, flag)| Some((*name, flag.as_ref()?.span())))
            .chain(texts.iter().filter_map(|(name, text)| Some((*name, text.as_ref()?.span()))))
            .chain(raw.exec.as_ref().map(|words| ("exec", words.span())))
            .collect();
        if let [(first, _), (second, span), ..] = given.as_slice() {
            let message = format!("`{first}` and `{second}` are two ways to probe");
            self.find(span.clone(), message, format!("keep one of them: `{first}` or `{second}`"));
        }
        for flag in flags.iter().filter_map(|(_, flag)| flag.as_ref()) {
            if !flag.get_ref() {
                let hint = "write true, or leave the key out";
                self.find(flag.span(), "false chooses no probe".into(), hint.into());
            }
        }
        given.last().map_or(default, |(kind, _)| kind)
    }

    /// Keys that belong to another kind of probe.
    fn strays(&mut self, raw: &RawHealth, kind: &str) {
        fn at<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
            value.map(Spanned::span)
        }
        type Kinds = &'static [&'static str];
        const HTTP: Kinds = &["http", "https"];
        const TLS: Kinds = &["https", "grpc"];
        let keys: [(&str, Option<Range<usize>>, Kinds); 13] = [
            ("method", at(raw.method.as_ref()), HTTP),
            ("host", at(raw.host.as_ref()), HTTP),
            ("status", at(raw.status.as_ref()), HTTP),
            ("body", at(raw.body.as_ref()), HTTP),
            ("body_regex", at(raw.body_regex.as_ref()), HTTP),
            ("tls", at(raw.tls.as_ref()), &["grpc"]),
            ("sni", at(raw.sni.as_ref()), TLS),
            ("ca", at(raw.ca.as_ref()), TLS),
            ("insecure", at(raw.insecure.as_ref()), TLS),
            ("type", at(raw.r#type.as_ref()), &["dns"]),
            ("rcode", at(raw.rcode.as_ref()), &["dns"]),
            ("answer", at(raw.answer.as_ref()), &["dns"]),
            ("expect", at(raw.expect.as_ref()), &["udp"]),
        ];
        let encrypted = raw.tls.as_ref().is_some_and(|tls| *tls.get_ref());
        for (key, span, kinds) in keys {
            let Some(span) = span else { continue };
            if !kinds.contains(&kind) {
                let first = kinds.first().copied().unwrap_or_default();
                let example = EXAMPLES.iter().find(|(kind, _)| *kind == first);
                let example = example.map_or("", |(_, example)| example);
                let message = format!("`{key}` is for probes by {}", one_of(kinds.iter().copied()));
                self.find(span, message, format!("add {example}, or remove this key"));
            } else if kind == "grpc" && kinds == TLS && !encrypted {
                let message = format!("`{key}` is about TLS, which this probe doesn't use");
                self.find(span, message, "add tls = true, or remove this key".into());
            }
        }
        if let (Some(_), Some(regex)) = (&raw.body, &raw.body_regex) {
            let message = "`body` and `body_regex` are two ways to look at the body".into();
            self.find(regex.span(), message, "keep one of them".into());
        }
    }

    fn http(&mut self, s: usize, raw: RawHealth) -> Probe {
        let key = |key| Place::HealthKey(s, key);
        let tls = raw.https.is_some().then(|| self.tls(s, raw.sni, raw.ca, raw.insecure));
        let body = match (raw.body, raw.body_regex) {
            (Some(text), _) => Some(BodyMatch::Contains(self.open(key("body"), text))),
            (None, Some(regex)) => Some(BodyMatch::Regex(self.open(key("body_regex"), regex))),
            (None, None) => None,
        };
        let path = match (raw.https, raw.http) {
            (Some(path), _) => self.open(key("https"), path),
            (None, Some(path)) => self.open(key("http"), path),
            (None, None) => String::new(),
        };
        Probe::Http(Http {
            path,
            method: self.word(key("method"), raw.method, "an HTTP method for probes"),
            host: raw.host.map(|host| self.open(key("host"), host)),
            status: self.status(s, raw.status).unwrap_or_default(),
            body,
            tls,
        })
    }

    fn status(&mut self, s: usize, raw: Option<Spanned<Scalar>>) -> Option<Statuses> {
        let raw = raw?;
        let span = raw.span();
        let text = match raw.into_inner() {
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text,
        };
        self.text(Place::HealthKey(s, "status"), Some(Spanned::new(span, text)))
    }

    fn tls(
        &mut self,
        s: usize,
        sni: Option<Spanned<String>>,
        ca: Option<Spanned<String>>,
        insecure: Option<Spanned<bool>>,
    ) -> Tls {
        let key = |key| Place::HealthKey(s, key);
        Tls {
            sni: sni.map(|name| self.open(key("sni"), name)),
            ca: ca.and_then(|path| self.ca(key("ca"), &path)),
            insecure: insecure.is_some_and(|flag| self.open(key("insecure"), flag)),
        }
    }

    /// Reads the file that is named.
    fn ca(&mut self, place: Place, path: &Spanned<String>) -> Option<Ca> {
        match Ca::read(path.get_ref()) {
            Ok(ca) => {
                self.spans.insert(place, path.span());
                Some(ca)
            }
            Err(error) => {
                self.find(path.span(), error.message, error.hint);
                None
            }
        }
    }

    fn text<T: FromStr<Err = Malformed>>(
        &mut self,
        place: Place,
        text: Option<Spanned<String>>,
    ) -> Option<T> {
        text.and_then(|text| self.parse(place, &text))
    }

    fn word<T: Word + Default>(
        &mut self,
        place: Place,
        text: Option<Spanned<String>>,
        what: &str,
    ) -> T {
        text.and_then(|text| self.choice(place, text, what, T::ALL)).unwrap_or_default()
    }
}
