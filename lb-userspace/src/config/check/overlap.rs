//! Which frontend has a packet: the most specific that matches, so there must always be one.
//!
//! Prefixes nest or are apart by their nature. Port ranges of one prefix and protocol must do the
//! same: two that only partly overlap would leave the ports in both to chance.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::config::model::{Config, Frontend, Prefix, Protocol};
use crate::config::place::{Place, Problem};

/// A frontend, and where it is.
type Known = (Frontend, (usize, usize));

pub(crate) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut alike: HashMap<(Prefix, Protocol), Vec<Known>> = HashMap::new();
    for (s, service) in config.services.iter().enumerate() {
        for (l, frontend) in service.listen.iter().enumerate() {
            let key = (frontend.vip, frontend.protocol);
            alike.entry(key).or_default().push((*frontend, (s, l)));
        }
    }
    let start = problems.len();
    for known in alike.into_values() {
        ranges(config, known, problems);
    }
    // A map has no order; the file has.
    problems[start..].sort_by_key(|problem| match problem.place {
        Place::Listen(s, l) => (s, l),
        _ => (usize::MAX, 0),
    });
}

/// Each range against those that are still open where it begins: one pass over the sorted ranges.
fn ranges(config: &Config, mut known: Vec<Known>, problems: &mut Vec<Problem>) {
    // Of equal ones the first of the file comes first: sorting keeps their order.
    known.sort_by_key(|(frontend, _)| (frontend.ports.first, Reverse(frontend.ports.last)));
    let mut open: Vec<Known> = Vec::new();
    for one in known {
        let ports = one.0.ports;
        while open.last().is_some_and(|(inner, _)| inner.ports.last < ports.first) {
            open.pop();
        }
        match open.last() {
            Some(other) if other.0.ports == ports => {
                problems.push(twice(config, one, *other));
                continue;
            }
            Some(other) if other.0.ports.last < ports.last => {
                problems.push(crossing(config, one, *other));
            }
            _ => {}
        }
        open.push(one);
    }
}

fn twice(config: &Config, (frontend, at): Known, (_, first): Known) -> Problem {
    let message = match owner(config, at, first) {
        Some(owner) => format!("{frontend} belongs to service '{owner}' already"),
        None => format!("{frontend} is listed twice"),
    };
    let hint = "a VIP, port and protocol can have one service: remove one of the two";
    Problem::new(place(at), message, hint).with(place(first), "first listed here")
}

fn crossing(config: &Config, one: Known, other: Known) -> Problem {
    // What the file says first stays; the other is the intruder.
    let ((other, first), (frontend, at)) =
        if one.1 < other.1 { (one, other) } else { (other, one) };
    let of = owner(config, at, first).map(|name| format!(" of service '{name}'"));
    let message = format!("{frontend} has some of the ports of {other}{}", of.unwrap_or_default());
    let hint = "keep the ranges apart, or put one wholly into the other: then the smaller one \
                has its ports";
    Problem::new(place(at), message, hint).with(place(first), "the other range")
}

/// The name of the service that the first of two places is in, if the other is in another one.
fn owner(config: &Config, (s, _): (usize, usize), (first, _): (usize, usize)) -> Option<&str> {
    if s == first {
        return None;
    }
    config.services.get(first).map(|service| service.name.as_str())
}

fn place((s, l): (usize, usize)) -> Place {
    Place::Listen(s, l)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::model::{Mode, Node, Ports, Service};

    /// By comparing all pairs: apart, or one strictly within the other.
    fn ambiguous(frontends: &[Frontend]) -> bool {
        let clash = |a: &Frontend, b: &Frontend| {
            let (a, b) = (a.ports, b.ports);
            let apart = a.last < b.first || b.last < a.first;
            let within = |a: Ports, b: Ports| b.first <= a.first && a.last <= b.last;
            a == b || !(apart || within(a, b) || within(b, a))
        };
        let alike = |a: &Frontend, b: &Frontend| (a.vip, a.protocol) == (b.vip, b.protocol);
        let later = |i: usize| frontends.iter().skip(i + 1);
        frontends.iter().enumerate().any(|(i, a)| later(i).any(|b| alike(a, b) && clash(a, b)))
    }

    fn frontend() -> impl Strategy<Value = Frontend> {
        let vip = prop::sample::select(vec!["192.0.2.0/24", "192.0.2.10"]);
        let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
        (vip, 1..20u16, 0..10u16, protocol).prop_map(|(vip, first, more, protocol)| Frontend {
            vip: vip.parse().unwrap(),
            ports: Ports { first, last: first + more },
            protocol,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn refuses_just_what_is_ambiguous(of in prop::collection::vec(frontend(), 0..8)) {
            let expect = ambiguous(&of);
            let service = Service { listen: of, ..Service::new("web", Mode::Dsr) };
            let mut problems = Vec::new();
            let (node, alerts) = (Node::default(), Vec::new());
            check(&Config { node, alerts, services: vec![service.into()] }, &mut problems);
            prop_assert_eq!(!problems.is_empty(), expect, "{:?}", problems);
        }
    }
}
