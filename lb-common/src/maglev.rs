//! The Maglev table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4), weighted, keyed by backend name.
//!
//! The table follows from names, weights, `M` and seed alone: not from addresses, health or the
//! order of the configuration. So neither a failure nor a replaced server moves a slot.

use crate::hash;

/// A backend as the table sees it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its identity.
    pub name: &'a str,
    /// Relative share, at least 1.
    pub weight: u16,
    /// What its slots hold.
    pub index: u16,
}

/// `M` for a service of so many backends: small tables stay in cache, large services need the
/// evenness (the paper asks for `M` ≥ 100 × backends; from 50 on, no share is off by more than 2 %,
/// and ten times the memory would buy the rest).
#[must_use]
pub const fn slots_for(backends: usize) -> u32 {
    if backends <= 100 {
        16_381
    } else if backends <= 1_310 {
        65_537
    } else {
        655_373
    }
}

/// Builds a table of `slots` (a prime) entries, each the `index` of the backend it belongs to.
///
/// Each backend wishes for slots in the order of its own permutation. In turns, each takes the
/// next free slot it wishes for; weights set how often it has a turn: the backend with the
/// largest weight always, one with half of it every second time. No entries give no slots.
#[must_use]
pub fn build(entries: &[Entry<'_>], slots: u32, seed: u64) -> Vec<u16> {
    if entries.is_empty() || slots < 2 {
        return Vec::new();
    }
    let mut order: Vec<&Entry<'_>> = entries.iter().collect();
    order.sort_by_key(|entry| entry.name);
    let mut turns = Turns::new(order.iter().map(|entry| u32::from(entry.weight.max(1))));
    let mut wishes: Vec<Wishes> = order.iter().map(|e| Wishes::new(e, slots, seed)).collect();
    let mut table = vec![0; slots as usize];
    let mut free = Free::new(slots);
    loop {
        for at in turns.next_round() {
            let Some(wish) = wishes.get_mut(*at as usize) else { continue };
            let slot = if free.is_scarce() { wish.search(&free) } else { wish.walk(&free) };
            if let Some(owner) = table.get_mut(slot as usize) {
                *owner = wish.index;
            }
            free.remove(slot);
            if free.left == 0 {
                return table;
            }
        }
    }
}

/// Whose turn it is.
struct Turns {
    heaviest: u32,
    /// Weight and credit of each backend.
    accounts: Vec<(u32, u32)>,
    /// Those that have a turn in this round.
    round: Vec<u32>,
}

impl Turns {
    fn new(weights: impl Iterator<Item = u32>) -> Self {
        let accounts: Vec<_> = weights.map(|weight| (weight, 0)).collect();
        let heaviest = accounts.iter().map(|(weight, _)| *weight).max().unwrap_or(1);
        Self { heaviest, round: vec![0; accounts.len()], accounts }
    }

    /// Who has a turn in the next round, by number. Smooth in time: credit grows by the weight, a turn
    /// costs the heaviest weight. Counted without a branch, which no processor could foresee.
    fn next_round(&mut self) -> &[u32] {
        let mut length = 0;
        for (at, (weight, credit)) in (0..).zip(&mut self.accounts) {
            let sum = *credit + *weight;
            let has_turn = sum >= self.heaviest;
            *credit = sum - self.heaviest * u32::from(has_turn);
            if let Some(place) = self.round.get_mut(length) {
                *place = at;
            }
            length += usize::from(has_turn);
        }
        self.round.get(..length).unwrap_or_default()
    }
}

struct Wishes {
    next: u32,
    skip: u32,
    /// Of `skip`, modulo the number of slots; 0 before it is needed.
    inverse: u32,
    index: u16,
}

impl Wishes {
    fn new(entry: &Entry<'_>, slots: u32, seed: u64) -> Self {
        let h = hash::name(seed, entry.name.as_bytes());
        Self {
            next: hash::fast_range(h, slots),
            skip: 1 + hash::fast_range(h << 32, slots - 1),
            inverse: 0,
            index: entry.index,
        }
    }

    /// The next free slot of the permutation, step by step; there is one while any slot is free, as
    /// `skip` and the prime number of slots have no common divisor.
    fn walk(&mut self, free: &Free) -> u32 {
        loop {
            let slot = self.next;
            self.next = free.add(slot, self.skip);
            if free.has(slot) {
                return slot;
            }
        }
    }

    /// The same where a walk would meet many taken slots for each free one: of the free slots the
    /// one that comes first. A slot's place in the permutation is its distance from where that
    /// begins, divided by `skip` modulo the prime.
    fn search(&mut self, free: &Free) -> u32 {
        if self.inverse == 0 {
            self.inverse = inverse(self.skip, free.slots);
        }
        let inverse = u64::from(self.inverse);
        let start = free.slots - self.next;
        let place =
            |slot: &u32| u64::from(free.add(*slot, start)) * inverse % u64::from(free.slots);
        let slot = free.last.iter().copied().min_by_key(place).unwrap_or_default();
        self.next = free.add(slot, self.skip);
        slot
    }
}

/// The slots that are not taken. A bit each: the cache of a processor's first level holds the bits of
/// any but the largest tables, and nearly all time of a build is spent asking them.
struct Free {
    slots: u32,
    left: u32,
    bits: Vec<u64>,
    /// Once they are scarce: all of them, in no order.
    last: Vec<u32>,
}

impl Free {
    fn new(slots: u32) -> Self {
        let bits = vec![u64::MAX; (slots as usize).div_ceil(64)];
        Self { slots, left: slots, bits, last: Vec::new() }
    }

    fn has(&self, slot: u32) -> bool {
        self.bits.get(slot as usize / 64).is_some_and(|bits| bits >> (slot % 64) & 1 != 0)
    }

    /// Fewer than the taken ones that a walk meets for each.
    fn is_scarce(&self) -> bool {
        !self.last.is_empty()
    }

    fn remove(&mut self, slot: u32) {
        if let Some(bits) = self.bits.get_mut(slot as usize / 64) {
            *bits &= !(1 << (slot % 64));
        }
        self.left -= 1;
        if let Some(at) = self.last.iter().position(|last| *last == slot) {
            self.last.swap_remove(at);
        } else if u64::from(self.left) * u64::from(self.left) <= u64::from(self.slots) {
            self.last = (0..self.slots).filter(|slot| self.has(*slot)).collect();
        }
    }

    /// `slot + distance` modulo the number of slots; both are at most that.
    fn add(&self, slot: u32, distance: u32) -> u32 {
        let sum = slot + distance;
        if sum >= self.slots { sum - self.slots } else { sum }
    }
}

/// The inverse of a number modulo a prime: its power of `prime - 2` (Fermat).
fn inverse(number: u32, prime: u32) -> u32 {
    let prime = u64::from(prime);
    let (mut power, mut base, mut exponent) = (1 % prime, u64::from(number) % prime, prime - 2);
    while exponent > 0 {
        if exponent & 1 != 0 {
            power = power * base % prime;
        }
        base = base * base % prime;
        exponent >>= 1;
    }
    power as u32
}

#[cfg(test)]
mod tests;
