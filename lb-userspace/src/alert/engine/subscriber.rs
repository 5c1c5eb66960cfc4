//! One target: what it was told, and what it is to be told next.
//!
//! ```text
//!            something to tell            `batch` over            taken
//!   ┌──────┐ ─────────────────► ┌───────┐ ───────────► ┌────────┐ ─────► idle
//!   │ idle │                    │ batch │              │ trying │
//!   └──────┘ ◄───────────────── └───────┘              └────────┘ ─────► wait, 1 s, 2 s, 4 s, …
//!            nothing any more                                     failed   │ `retries` used up
//!                                                                          ▼
//!                                                         idle after a minute: what holds *then*
//! ```
//!
//! An alert is told once; again when it gets worse, or after `repeat`. It is over when its condition
//! is gone. One that comes and goes again and again is called over ever later, so that each comes
//! and goes a few times an hour at most.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Key, Present};
use crate::alert::{Kind, Severity};
use crate::report::Warning;

/// The most alerts in one message; the rest follows in the next.
pub(super) const MOST_IN_ONE: usize = 100;
/// After a message was given up.
const PAUSE_MS: u64 = 60_000;
/// The longest wait between two attempts.
const LONGEST_WAIT_MS: u64 = 64_000;
/// How long an alert that was over before must be gone to be over again, doubled each time.
const CALM_MS: u64 = 30_000;
const LONGEST_CALM_MS: u64 = 600_000;
/// An end is forgotten after this time.
const REMEMBERED_MS: u64 = 3_600_000;

/// What a target wants to know, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Empty: all.
    pub events: Vec<Kind>,
    pub min_severity: Severity,
    pub repeat_ms: u64,
    pub batch_ms: u64,
    /// Attempts after the first.
    pub retries: u32,
}

/// An alert that a target was told of and that is not over for it; kept across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    #[serde(flatten)]
    pub condition: Warning,
    /// Since when it holds.
    pub began_ms: u64,
    /// When it was last told.
    pub told_ms: u64,
    /// How often it was over, within the time that this is remembered.
    #[serde(default)]
    pub ends: u32,
    #[serde(skip)]
    gone_since: Option<u64>,
    /// It was seen to hold since the start.
    #[serde(skip)]
    is_seen: bool,
}

/// A message to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub items: Vec<Item>,
}

/// One alert in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub condition: Warning,
    pub began_ms: u64,
    /// It is over; the time it lasted.
    pub lasted_ms: Option<u64>,
    /// It was told before, and holds still.
    pub again: bool,
}

#[derive(Debug)]
enum Sending {
    Idle,
    /// Something to tell since then.
    Batch(u64),
    Trying(Message, u32),
    /// Until the next attempt.
    Wait(Message, u32, u64),
    /// Given up, until then.
    Pause(u64),
}

#[derive(Debug)]
pub struct Subscriber {
    rules: Rules,
    told: BTreeMap<Key, Told>,
    /// When alerts were last over, and how often they were.
    ended: BTreeMap<Key, (u64, u32)>,
    sending: Sending,
    pub sent: u64,
    pub failed: u64,
    pub last_sent_ms: Option<u64>,
    pub last_error: Option<String>,
}

impl Rules {
    fn want(&self, condition: &Warning) -> bool {
        self.want_kind(condition.kind) && condition.severity >= self.min_severity
    }

    fn want_kind(&self, kind: Kind) -> bool {
        self.events.is_empty() || self.events.contains(&kind)
    }
}

impl Item {
    #[must_use]
    pub fn key(&self) -> Key {
        Key { kind: self.condition.kind, subject: self.condition.subject.clone() }
    }
}

impl Subscriber {
    pub(super) fn new(rules: Rules, told: Vec<Told>) -> Self {
        let key = |told: &Told| Key {
            kind: told.condition.kind,
            subject: told.condition.subject.clone(),
        };
        let told = told.into_iter().map(|told| (key(&told), told)).collect();
        let (ended, sending) = (BTreeMap::new(), Sending::Idle);
        let (sent, failed, last_sent_ms, last_error) = (0, 0, None, None);
        Self { rules, told, ended, sending, sent, failed, last_sent_ms, last_error }
            .with_told_wanted()
    }

    pub(super) fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }.with_told_wanted()
    }

    /// Nobody is told the end of what is no longer to be told at all.
    fn with_told_wanted(mut self) -> Self {
        self.told.retain(|key, _| self.rules.want_kind(key.kind));
        self
    }

    /// What it was told and is not over for it.
    pub fn told(&self) -> impl Iterator<Item = &Told> {
        self.told.values()
    }

    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.told.contains_key(key)
    }

    pub(super) fn observe(&mut self, present: &Present, now: u64) {
        self.ended.retain(|_, (at, _)| now.saturating_sub(*at) < REMEMBERED_MS);
        for (key, told) in &mut self.told {
            let holds =
                present.holding.get(key).filter(|holding| self.rules.want(&holding.condition));
            match holds {
                Some(holding) => {
                    told.gone_since = None;
                    told.is_seen = true;
                    // What is said at its end, and after a restart, is what was last true.
                    let severity = told.condition.severity;
                    told.condition = Warning { severity, ..holding.condition.clone() };
                }
                None if present.is_undecided(key, told.is_seen, now) => {}
                None => {
                    told.gone_since.get_or_insert(now);
                }
            }
        }
    }

    /// What it is yet to be told.
    pub(super) fn due<'a>(
        &'a self,
        present: &'a Present,
        now: u64,
    ) -> impl Iterator<Item = Item> + 'a {
        let over = self.told.values().filter_map(move |told| {
            let gone = told.gone_since?;
            let lasted_ms = Some(gone.saturating_sub(told.began_ms));
            let is_over = now.saturating_sub(gone) >= calm_ms(told.ends);
            is_over.then(|| told.item(lasted_ms))
        });
        let wanted = present.holding.iter().filter(|(_, h)| self.rules.want(&h.condition));
        let firing = wanted.filter_map(move |(key, holding)| {
            let kind = holding.condition.kind;
            let held = u128::from(now.saturating_sub(holding.since_ms));
            let (is_due, again, began_ms) = match self.told.get(key) {
                None => (held >= kind.holds_for().as_millis(), false, holding.since_ms),
                Some(told) => {
                    let worse = holding.condition.severity > told.condition.severity;
                    let repeat = now.saturating_sub(told.told_ms) >= self.rules.repeat_ms;
                    (worse || repeat, true, told.began_ms)
                }
            };
            let condition = || holding.condition.clone();
            is_due.then(|| Item { condition: condition(), began_ms, lasted_ms: None, again })
        });
        over.chain(firing)
    }

    /// The message to send now, if it is time for one.
    pub(super) fn step(&mut self, present: &Present, now: u64) -> Option<Message> {
        match &self.sending {
            Sending::Trying(..) => return None,
            Sending::Wait(message, attempt, at) => {
                if now < *at {
                    return None;
                }
                let message = message.clone();
                self.sending = Sending::Trying(message.clone(), attempt + 1);
                return Some(message);
            }
            Sending::Pause(until) if now < *until => return None,
            Sending::Idle | Sending::Batch(_) | Sending::Pause(_) => {}
        }
        let mut items: Vec<Item> = self.due(present, now).collect();
        if items.is_empty() {
            self.sending = Sending::Idle;
            return None;
        }
        let since = match self.sending {
            Sending::Batch(since) => since,
            _ => now,
        };
        if now.saturating_sub(since) < self.rules.batch_ms {
            self.sending = Sending::Batch(since);
            return None;
        }
        // What is worst is told first, and what is over last.
        items.sort_by_key(|item| {
            let Warning { severity, kind, .. } = item.condition;
            (item.lasted_ms.is_some(), std::cmp::Reverse(severity), kind)
        });
        items.truncate(MOST_IN_ONE);
        let message = Message { items };
        self.sending = Sending::Trying(message.clone(), 0);
        Some(message)
    }

    /// When [`Self::step`] has something to do that no observation brings.
    pub(super) fn next(&self) -> Option<u64> {
        match &self.sending {
            Sending::Idle | Sending::Trying(..) => None,
            Sending::Batch(since) => Some(since + self.rules.batch_ms),
            Sending::Wait(_, _, at) | Sending::Pause(at) => Some(*at),
        }
    }

    /// What became of the last message. Whether it was given up.
    pub(super) fn done(&mut self, result: Result<(), String>, now: u64) -> bool {
        let Sending::Trying(message, attempt) = std::mem::replace(&mut self.sending, Sending::Idle)
        else {
            return false;
        };
        let Err(error) = result else {
            self.sent += 1;
            self.last_sent_ms = Some(now);
            self.last_error = None;
            message.items.into_iter().for_each(|item| self.note(item, now));
            return false;
        };
        self.last_error = Some(error);
        let is_last = attempt >= self.rules.retries;
        if is_last {
            self.failed += 1;
            self.sending = Sending::Pause(now + PAUSE_MS);
        } else {
            let wait = (1000u64 << attempt.min(20)).min(LONGEST_WAIT_MS);
            self.sending = Sending::Wait(message, attempt, now + wait);
        }
        is_last
    }

    /// The target knows this now.
    fn note(&mut self, item: Item, now: u64) {
        let key = item.key();
        if item.lasted_ms.is_some() {
            let ends = self.told.remove(&key).map_or(0, |told| told.ends);
            self.ended.insert(key, (now, ends + 1));
            return;
        }
        let before = self.told.get(&key);
        let ended = || self.ended.get(&key).map_or(0, |(_, ends)| *ends);
        let told = Told {
            ends: before.map_or_else(ended, |told| told.ends),
            gone_since: before.and_then(|told| told.gone_since),
            condition: item.condition,
            began_ms: item.began_ms,
            told_ms: now,
            is_seen: true,
        };
        self.told.insert(key, told);
    }
}

impl Told {
    fn item(&self, lasted_ms: Option<u64>) -> Item {
        let (condition, began_ms) = (self.condition.clone(), self.began_ms);
        Item { condition, began_ms, lasted_ms, again: true }
    }
}

impl Present {
    /// Whether nobody can say yet that it is over.
    fn is_undecided(&self, key: &Key, is_seen: bool, now: u64) -> bool {
        (!is_seen && now < self.quiet_until)
            || (key.kind.follows_from_probes() && self.unknown.contains(&key.subject))
    }
}

/// How long it must be gone, by how often it was over before.
fn calm_ms(ends: u32) -> u64 {
    match ends {
        0 => 0,
        n => (CALM_MS << (n - 1).min(10)).min(LONGEST_CALM_MS),
    }
}
