//! From what is wrong to who is told of it, and when.
//!
//! Level-triggered: [`Engine::observe`] takes all that is wrong now; each [`Subscriber`] compares
//! it with what its target was told, and [`Engine::step`] says what to send. There is no queue of
//! past events: what began and ended while a target was away is never sent to it, what still holds
//! is, and so nothing grows while a target is down.
//!
//! Pure: time is an argument, in milliseconds since the epoch.

#[cfg(test)]
mod props;
mod subscriber;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Kind;
use super::conditions::Found;
use crate::report::Warning;

pub use subscriber::{Item, Message, Rules, Subscriber, Told};

/// The most conditions followed: as many as anybody may still want to be told of one by one.
pub const MOST: usize = 10_000;
/// For so long after a start nothing that was told before it is called over: next hops and probes
/// are learnt anew.
pub const QUIET_MS: u64 = 30_000;

/// What makes two conditions one alert.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub kind: Kind,
    pub subject: String,
}

/// A condition, and since when it holds.
#[derive(Clone, Debug)]
pub struct Holding {
    pub condition: Warning,
    pub since_ms: u64,
}

/// What holds now, for all subscribers alike.
#[derive(Debug, Default)]
pub struct Present {
    holding: BTreeMap<Key, Holding>,
    unknown: BTreeSet<String>,
    quiet_until: u64,
}

/// All alerts, and their subscribers by the name of their target.
#[derive(Debug)]
pub struct Engine {
    present: Present,
    left_out: usize,
    subscribers: BTreeMap<String, Subscriber>,
}

impl Engine {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(now: u64) -> Self {
        let present = Present { quiet_until: now + QUIET_MS, ..Present::default() };
        Self { present, left_out: 0, subscribers: BTreeMap::new() }
    }

    /// From now on these are told, by these rules. Who stays knows what it was told; of a new one
    /// that is `told`.
    pub fn subscribe(
        &mut self,
        targets: impl IntoIterator<Item = (String, Rules)>,
        mut told: impl FnMut(&str) -> Vec<Told>,
    ) {
        let mut before = std::mem::take(&mut self.subscribers);
        for (name, rules) in targets {
            let subscriber = match before.remove(&name) {
                Some(known) => known.with_rules(rules),
                None => Subscriber::new(rules, told(&name)),
            };
            self.subscribers.insert(name, subscriber);
        }
    }

    /// Takes all that is wrong now. How many conditions there is no room for, if that changed.
    pub fn observe(&mut self, found: &Found, now: u64) -> Option<usize> {
        let mut before = std::mem::take(&mut self.present.holding);
        // The worst come first, so that what is left out is the least bad.
        for condition in found.conditions.iter().take(MOST) {
            let key = Key { kind: condition.kind, subject: condition.subject.clone() };
            let first_seen = before.remove(&key).map_or(now, |holding| holding.since_ms);
            let since_ms = condition.since_ms.map_or(first_seen, |since| since.min(first_seen));
            let holding = Holding { condition: condition.clone(), since_ms };
            self.present.holding.insert(key, holding);
        }
        self.present.unknown.clone_from(&found.unknown);
        let left_out = found.conditions.len().saturating_sub(MOST);
        let changed = left_out != self.left_out;
        self.left_out = left_out;
        for subscriber in self.subscribers.values_mut() {
            subscriber.observe(&self.present, now);
        }
        changed.then_some(left_out)
    }

    /// What is to be sent now, to whom. Each is followed by one [`Self::done`].
    pub fn step(&mut self, now: u64) -> Vec<(String, Message)> {
        let present = &self.present;
        self.subscribers
            .iter_mut()
            .filter_map(|(name, s)| Some((name.clone(), s.step(present, now)?)))
            .collect()
    }

    /// What became of a message. Whether it was given up.
    pub fn done(&mut self, name: &str, result: Result<(), String>, now: u64) -> bool {
        // It may no longer be subscribed.
        self.subscribers.get_mut(name).is_some_and(|s| s.done(result, now))
    }

    /// When [`Self::step`] has something to send, as far as that is known now.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.subscribers.values().filter_map(Subscriber::next).min()
    }

    /// What holds, worst first.
    #[must_use]
    pub fn holding(&self) -> Vec<(&Key, &Holding)> {
        let mut holding: Vec<_> = self.present.holding.iter().collect();
        holding.sort_by_key(|(key, h)| (std::cmp::Reverse(h.condition.severity), key.kind));
        holding
    }

    /// How many conditions there is no room for.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    #[must_use]
    pub fn subscriber(&self, name: &str) -> Option<&Subscriber> {
        self.subscribers.get(name)
    }

    pub fn subscribers(&self) -> impl Iterator<Item = (&String, &Subscriber)> {
        self.subscribers.iter()
    }

    /// Alerts that a subscriber has yet to be told of.
    #[must_use]
    pub fn waiting(&self, subscriber: &Subscriber, now: u64) -> usize {
        subscriber.due(&self.present, now).count()
    }
}
