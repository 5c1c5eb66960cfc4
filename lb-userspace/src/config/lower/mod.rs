//! From the file's text values to the model: defaults filled in, every value's place noted.
//!
//! A value that can't be read becomes a finding, and its place a gap, so that the cross-checks
//! still run over all the rest. What the values *mean* together is `check`'s business.

mod backend;
mod health;
mod node;
mod service;

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;

use crate::config::malformed::Malformed;
use crate::config::model::{Config, Node, Prefix, Service};
use crate::config::place::{Finding, Gaps, Place, Spans};
use crate::config::raw::{RawConfig, RawService};
use crate::config::suggest::{closest, one_of};
use crate::config::value::parse_duration;

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
    let services = lowering.services(raw.service);
    let Lowering { spans, gaps, findings } = lowering;
    Lowered { config: Config { node, services }, spans, gaps, findings }
}

/// A part of a file, with [node] if that is in it; `None` if a value cannot be read. Where each is,
/// which takes more memory than what it says, is not noted.
pub(crate) fn lower_sound(raw: RawConfig) -> Option<(Option<Node>, Vec<Arc<Service>>)> {
    let mut lowering = Lowering { spans: Spans::none(), ..Lowering::default() };
    let node = raw.node.map(|node| lowering.node(Some(node)));
    let services = lowering.services(raw.service);
    lowering.findings.is_empty().then_some((node, services))
}

impl Lowering {
    fn services(&mut self, raw: Option<Vec<Spanned<RawService>>>) -> Vec<Arc<Service>> {
        let services = raw.unwrap_or_default().into_iter().enumerate();
        services.map(|(s, service)| Arc::new(self.service(s, service))).collect()
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

    /// A list of addresses and prefixes; `place` makes the place of each one that can be read.
    fn prefixes(
        &mut self,
        list: Vec<Spanned<String>>,
        place: impl Fn(usize) -> Place,
    ) -> Vec<Prefix> {
        let mut prefixes = Vec::new();
        for text in list {
            let place = place(prefixes.len());
            prefixes.extend(self.parse::<Prefix>(place, &text));
        }
        prefixes
    }

    /// Reads a value that says by itself what is wrong with it.
    fn parse<T: FromStr<Err = Malformed>>(
        &mut self,
        place: Place,
        text: &Spanned<String>,
    ) -> Option<T> {
        match text.get_ref().parse() {
            Ok(value) => {
                self.spans.insert(place, text.span());
                Some(value)
            }
            Err(error) => {
                self.find(text.span(), error.message, error.hint);
                None
            }
        }
    }

    /// A whole number; out of bounds is the checks' business.
    fn number(&mut self, place: Place, raw: Option<Spanned<i64>>, default: u32) -> u32 {
        raw.map_or(default, |value| to_u32(self.open(place, value)))
    }

    fn port(&mut self, place: Place, raw: Spanned<i64>) -> Option<u16> {
        let span = raw.span();
        let value = self.open(place, raw);
        let port = u16::try_from(value).ok();
        if port.is_none() {
            self.gaps.insert(place);
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

/// The same for a smaller number.
fn to_u16(value: i64) -> u16 {
    u16::try_from(value.clamp(0, i64::from(u16::MAX))).unwrap_or(u16::MAX)
}

/// Out of range becomes the largest: the nearest to -1 would be 0, which can be right.
fn to_u8(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}
