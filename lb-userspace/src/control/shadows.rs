//! Previous owners of slots: what the slots of a changed table answered before, and since when.
//!
//! A connection that began before a change is recorded with its first packet after it; so a
//! slot's shadow is needed for as long as a connection may be silent. Ages are per slot and count
//! from the slot's *first* change: whoever came by a later owner was recorded at once, because
//! the slot had a shadow, so continual changes cannot keep one era open for ever.
//!
//! Pure: time is an argument.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use super::rules::{Rule, keep};

/// The shadows of one service.
#[derive(Clone, Debug, Default)]
pub struct Shadows {
    /// Of slots of the table there is now.
    slots: BTreeMap<u32, Previous>,
    /// The whole table before the number of slots changed.
    whole: Option<Whole>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Previous {
    index: u16,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Whole {
    slots: Vec<u16>,
    since: Instant,
}

impl Shadows {
    /// The table changes from `old` to `new`. Owners without connections that the table must
    /// keep (`has_flows` says no) leave no shadow.
    pub fn change(
        &mut self,
        old: &[u16],
        new: &[u16],
        has_flows: impl Fn(u16) -> bool,
        now: Instant,
    ) {
        if old.len() == new.len() {
            for (slot, (&before, after)) in (0..).zip(old.iter().zip(new)) {
                if before != *after && has_flows(before) {
                    let since = if keep(Rule::AgePerSlot) { now } else { self.oldest(now) };
                    let previous = Previous { index: before, since };
                    let first = *self.slots.entry(slot).or_insert(previous);
                    if first.index == *after && !keep(Rule::ChangedBackStays) {
                        self.slots.remove(&slot);
                    }
                }
            }
            return;
        }
        if self.whole.is_some() {
            // The first change counts: who came since then is recorded, by every slot of the table.
            self.slots.clear();
            return;
        }
        // Each slot's answer for flows without an entry, as it was.
        let mut slots = old.to_vec();
        for (slot, previous) in std::mem::take(&mut self.slots) {
            if let Some(index) = slots.get_mut(slot as usize) {
                *index = previous.index;
            }
        }
        if slots.iter().any(|index| has_flows(*index)) {
            self.whole = Some(Whole { slots, since: now });
        }
    }

    fn oldest(&self, now: Instant) -> Instant {
        self.slots.values().map(|previous| previous.since).min().unwrap_or(now)
    }

    /// Ends what has lasted for `idle`: the slots concerned; `None` stands for all of them.
    pub fn expire(&mut self, now: Instant, idle: Duration) -> Option<Vec<u32>> {
        let is_over = |since: Instant| now >= since + idle;
        let ended: Vec<u32> =
            self.slots.iter().filter(|(_, p)| is_over(p.since)).map(|(slot, _)| *slot).collect();
        self.slots.retain(|_, previous| !is_over(previous.since));
        if self.whole.as_ref().is_some_and(|whole| is_over(whole.since)) {
            self.whole = None;
            return None;
        }
        Some(ended)
    }

    /// When [`Self::expire`] next has something to do.
    #[must_use]
    pub fn ends_at(&self, idle: Duration) -> Option<Instant> {
        let slots = self.slots.values().map(|previous| previous.since);
        slots.chain(self.whole.iter().map(|whole| whole.since)).min().map(|since| since + idle)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.whole.is_none()
    }

    /// Whether a backend is some slot's previous owner.
    #[must_use]
    pub fn hold(&self, index: u16) -> bool {
        self.slots.values().any(|previous| previous.index == index)
            || self.whole.as_ref().is_some_and(|whole| whole.slots.contains(&index))
    }

    /// Every backend that is some slot's previous owner.
    #[must_use]
    pub fn owners(&self) -> HashSet<u16> {
        let slots = self.slots.values().map(|previous| previous.index);
        slots.chain(self.whole.iter().flat_map(|whole| whole.slots.iter().copied())).collect()
    }

    /// Slots of a table of `count` slots that are in transition.
    #[must_use]
    pub fn slots(&self, count: u32) -> Vec<u32> {
        match self.whole {
            Some(_) => (0..count).collect(),
            None => self.slots.keys().copied().collect(),
        }
    }

    /// The shadow as the program reads it: previous owners by slot, `none` where there is none.
    #[must_use]
    pub fn published(&self, count: u32, none: u16) -> Vec<u16> {
        if let Some(whole) = &self.whole {
            return whole.slots.clone();
        }
        let mut slots = vec![none; count as usize];
        for (slot, previous) in &self.slots {
            if let Some(place) = slots.get_mut(*slot as usize) {
                *place = previous.index;
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const NONE: u16 = 0xff;

    #[test]
    fn a_slot_keeps_its_first_owner_until_that_ones_flows_are_known() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut shadows = Shadows::default();
        shadows.change(&[0, 1, 2], &[0, 3, 2], |_| true, at(0));
        assert_eq!(shadows.published(3, NONE), [NONE, 1, NONE]);
        // Changed again, and back, and elsewhere: still the first owner, and its own age.
        shadows.change(&[0, 3, 2], &[0, 4, 5], |_| true, at(10));
        shadows.change(&[0, 4, 5], &[0, 1, 5], |_| true, at(20));
        assert_eq!(shadows.published(3, NONE), [NONE, 1, 2]);
        assert!(shadows.hold(1) && shadows.hold(2) && !shadows.hold(4));
        assert_eq!(shadows.expire(at(59), IDLE), Some(vec![]));
        assert_eq!(shadows.ends_at(IDLE), Some(at(60)));
        assert_eq!(shadows.expire(at(60), IDLE), Some(vec![1]));
        assert_eq!(shadows.published(3, NONE), [NONE, NONE, 2]);
        assert_eq!(shadows.expire(at(70), IDLE), Some(vec![2]));
        assert!(shadows.is_empty());
    }

    #[test]
    fn another_number_of_slots_shadows_the_whole_table_as_it_answered() {
        let start = Instant::now();
        let mut shadows = Shadows::default();
        shadows.change(&[0, 1, 2], &[0, 3, 2], |_| true, start);
        let later = start + Duration::from_secs(30);
        shadows.change(&[0, 3, 2], &[0, 3, 2, 3, 0], |_| true, later);
        assert_eq!(shadows.published(5, NONE), [0, 1, 2]);
        assert_eq!(shadows.slots(5), [0, 1, 2, 3, 4]);
        // A change within the new number waits behind it.
        shadows.change(&[0, 3, 2, 3, 0], &[0, 3, 2, 4, 0], |_| true, later + IDLE / 2);
        assert_eq!(shadows.published(5, NONE), [0, 1, 2]);
        assert_eq!(shadows.expire(later + IDLE, IDLE), None);
        assert_eq!(shadows.published(5, NONE), [NONE, NONE, NONE, 3, NONE]);
    }

    #[test]
    fn of_two_changes_of_the_number_of_slots_the_first_counts() {
        let start = Instant::now();
        let mut shadows = Shadows::default();
        shadows.change(&[0, 1, 2], &[0, 3, 2, 3, 0], |_| true, start);
        let later = start + IDLE / 2;
        shadows.change(&[0, 3, 2, 3, 0], &[0, 3, 4, 3, 0], |_| true, later);
        shadows.change(&[0, 3, 4, 3, 0], &[4; 7], |_| true, later);
        assert_eq!(shadows.published(7, NONE), [0, 1, 2]);
        assert_eq!(shadows.slots(7), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(shadows.expire(start + IDLE, IDLE), None);
        assert!(shadows.is_empty());
    }

    #[test]
    fn owners_without_flows_leave_nothing() {
        let now = Instant::now();
        let mut shadows = Shadows::default();
        shadows.change(&[0, 1], &[1, 0], |index| index == 1, now);
        assert_eq!(shadows.published(2, NONE), [NONE, 1]);
        let mut shadows = Shadows::default();
        shadows.change(&[0, 1], &[1, 0, 1], |_| false, now);
        assert!(shadows.is_empty());
    }
}
