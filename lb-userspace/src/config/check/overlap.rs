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
