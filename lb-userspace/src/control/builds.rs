//! Maglev tables as they were built last: where services have the same backends, as many do that
//! run on the same servers, one build serves them all.

use std::collections::VecDeque;
use std::sync::Arc;

use lb_common::maglev::{self, Entry};

/// Tables remembered: a few, as services with the same backends tend to stand together, and none
/// of them is small.
const MOST: usize = 4;

/// The latest builds, the last one first.
#[derive(Debug, Default)]
pub(super) struct Builds(VecDeque<Build>);

#[derive(Debug)]
struct Build {
    seed: u64,
    /// All that the table follows from, but for its length and the seed.
    members: Vec<Owned>,
    slots: Arc<[u16]>,
}

#[derive(Debug)]
struct Owned {
    name: Box<str>,
    weight: u16,
    index: u16,
}

impl Builds {
    /// What [`maglev::build`] answers.
    pub(super) fn build(&mut self, members: &[Entry<'_>], count: u32, seed: u64) -> Arc<[u16]> {
        let known = self.0.iter().position(|build| build.is_of(members, count, seed));
        let build = known.and_then(|at| self.0.remove(at)).unwrap_or_else(|| Build {
            seed,
            members: members.iter().map(Owned::from).collect(),
            slots: maglev::build(members, count, seed).into(),
        });
        let slots = Arc::clone(&build.slots);
        self.0.truncate(MOST - 1);
        self.0.push_front(build);
        slots
    }

    /// Gives their memory back.
    pub(super) fn forget(&mut self) {
        self.0 = VecDeque::new();
    }
}

impl Build {
    fn is_of(&self, members: &[Entry<'_>], count: u32, seed: u64) -> bool {
        let is_alike = |(ours, theirs): (&Owned, &Entry<'_>)| {
            (&*ours.name, ours.weight, ours.index) == (theirs.name, theirs.weight, theirs.index)
        };
        self.slots.len() == count as usize
            && self.seed == seed
            && self.members.len() == members.len()
            && self.members.iter().zip(members).all(is_alike)
    }
}

impl From<&Entry<'_>> for Owned {
    fn from(entry: &Entry<'_>) -> Self {
        Self { name: entry.name.into(), weight: entry.weight, index: entry.index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_always_what_its_members_alone_would_give() {
        let entries = |names: &[&'static str], heavy: u16, first: u16| -> Vec<Entry<'static>> {
            let entry = |(&name, index)| Entry { name, weight: 1, index };
            let mut all: Vec<_> = names.iter().zip(first..).map(entry).collect();
            all[0].weight = heavy;
            all
        };
        let cases = [
            (entries(&["a", "b", "c"], 1, 0), 101, 7),
            (entries(&["a", "b", "c"], 2, 0), 101, 7),
            (entries(&["a", "b", "c"], 1, 5), 101, 7),
            (entries(&["a", "b", "c"], 1, 0), 103, 7),
            (entries(&["a", "b", "c"], 1, 0), 101, 8),
            (entries(&["a", "b"], 1, 0), 101, 7),
            (entries(&["b", "a", "c"], 1, 0), 101, 7),
            (entries(&["a", "b", "d"], 1, 0), 101, 7),
        ];
        let mut builds = Builds::default();
        // Each after each other, remembered or not, and after itself.
        for distance in 0..cases.len() {
            for at in 0..cases.len() {
                for (members, count, seed) in [&cases[at], &cases[(at + distance) % cases.len()]] {
                    let alone = maglev::build(members, *count, *seed);
                    assert_eq!(*builds.build(members, *count, *seed), *alone);
                    assert!(builds.0.len() <= MOST);
                }
            }
        }
        let (members, count, seed) = &cases[0];
        let first = builds.build(members, *count, *seed);
        let again = builds.build(members, *count, *seed);
        assert!(Arc::ptr_eq(&first, &again), "built once");
        builds.forget();
        assert!(!Arc::ptr_eq(&first, &builds.build(members, *count, *seed)));
    }
}
