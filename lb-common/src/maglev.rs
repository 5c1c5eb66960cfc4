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
/// evenness (the paper asks for `M` ≥ 100 × backends).
#[must_use]
pub const fn slots_for(backends: usize) -> u32 {
    if backends <= 100 {
        16_381
    } else if backends <= 655 {
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
    let heaviest = order.iter().map(|entry| u32::from(entry.weight.max(1))).max().unwrap_or(1);
    let mut wishes: Vec<Wishes> = order.iter().map(|e| Wishes::new(e, slots, seed)).collect();
    let mut table = vec![None; slots as usize];
    let mut left = slots;
    loop {
        for wish in &mut wishes {
            // Smooth in time: credit grows by the weight, a turn costs the heaviest weight.
            wish.credit += wish.weight;
            if wish.credit < heaviest {
                continue;
            }
            wish.credit -= heaviest;
            wish.take(&mut table, slots);
            left -= 1;
            if left == 0 {
                return table.into_iter().flatten().collect();
            }
        }
    }
}

struct Wishes {
    next: u32,
    skip: u32,
    weight: u32,
    credit: u32,
    index: u16,
}

impl Wishes {
    fn new(entry: &Entry<'_>, slots: u32, seed: u64) -> Self {
        let h = hash::name(seed, entry.name.as_bytes());
        Self {
            next: hash::fast_range(h, slots),
            skip: 1 + hash::fast_range(h << 32, slots - 1),
            weight: u32::from(entry.weight.max(1)),
            credit: 0,
            index: entry.index,
        }
    }

    /// Takes the next free slot of the permutation; there is one while any slot is free, as
    /// `skip` and the prime number of slots have no common divisor.
    fn take(&mut self, table: &mut [Option<u16>], slots: u32) {
        loop {
            let at = self.next as usize;
            self.next += self.skip;
            if self.next >= slots {
                self.next -= slots;
            }
            if let Some(slot @ None) = table.get_mut(at) {
                *slot = Some(self.index);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
