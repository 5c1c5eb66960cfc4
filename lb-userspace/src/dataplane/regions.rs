//! Hands out stretches of an arena: table elements, blocks of rows, single numbers.

use std::collections::BTreeMap;

/// Free stretches of `0..size`, by where they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    free: BTreeMap<u32, u32>,
}

impl Regions {
    /// An arena of `size`, all free.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self { free: if size == 0 { BTreeMap::new() } else { BTreeMap::from([(0, size)]) } }
    }

    /// Takes the first stretch of `length`, if there is one.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let (&start, &found) = self.free.iter().find(|(_, free)| **free >= length)?;
        self.free.remove(&start);
        if found > length {
            self.free.insert(start + length, found - length);
        }
        Some(start)
    }

    /// Gives a stretch back. One that is free already, wholly or in part, is left as it is.
    pub fn give(&mut self, start: u32, length: u32) {
        let end = start.saturating_add(length);
        let before = self.free.range(..end).next_back().map(|(&s, &l)| (s, l));
        if length == 0 || before.is_some_and(|(s, l)| s + l > start) {
            return;
        }
        let (mut start, mut length) = (start, length);
        if let Some((s, l)) = before
            && s + l == start
        {
            self.free.remove(&s);
            (start, length) = (s, l + length);
        }
        if let Some(l) = self.free.remove(&end) {
            length += l;
        }
        self.free.insert(start, length);
    }

    /// One past the last taken, of an arena of `size`.
    #[must_use]
    pub fn highest_taken(&self, size: u32) -> u32 {
        match self.free.last_key_value() {
            Some((start, length)) if start + length == size => *start,
            _ => size,
        }
    }

    /// All that is free.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_join_again() {
        let mut regions = Regions::new(30);
        assert_eq!([10, 10, 10].map(|n| regions.take(n)), [Some(0), Some(10), Some(20)]);
        assert_eq!(regions.take(1), None);
        regions.give(0, 10);
        assert_eq!(regions.highest_taken(30), 30);
        regions.give(20, 10);
        assert_eq!(regions.highest_taken(30), 20);
        assert_eq!(regions.take(11), None);
        regions.give(10, 10);
        assert_eq!(regions, Regions::new(30));
        regions.give(10, 10);
        assert_eq!(regions, Regions::new(30));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_never_taken_twice(sizes in prop::collection::vec(1u32..20, 1..60)) {
            let mut regions = Regions::new(200);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (i, size) in sizes.into_iter().enumerate() {
                if i % 3 == 2 && !held.is_empty() {
                    let (start, length) = held.remove(i % held.len());
                    regions.give(start, length);
                }
                if let Some(start) = regions.take(size) {
                    prop_assert!(held.iter().all(|(s, l)| start + size <= *s || s + l <= start));
                    held.push((start, size));
                }
                let taken: u32 = held.iter().map(|(_, l)| l).sum();
                prop_assert_eq!(regions.left(), 200 - taken);
            }
        }
    }
}
