//! What packets say against backends: which of them are to be asked at once. They decide nothing.
//!
//! The program leaves the last row spoken against in one of a few places ([`doubt_word`]), so that
//! reading all of them costs the same whether there are ten backends or a million. A packet can be
//! forged, and a refused connection may be a client that tries ports: so no backend is asked early
//! more often than once in [`REST`], whatever is said. Pure: the time is an argument.
//!
//! [`doubt_word`]: lb_common::abi::doubt_word

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::abi::{DOUBTS, doubted_row};

/// How long nothing is heard against a row after something was: as often as backends are asked by
/// default.
pub const REST: Duration = Duration::from_secs(1);

/// What was said, and what was heard.
#[derive(Debug, Default)]
pub struct Doubts {
    /// The words that were read last.
    read: Vec<u64>,
    rows: Rests<u32>,
    servers: Rests<IpAddr>,
    /// Servers that were said to be unreachable, until they are taken: finding the backends of one
    /// takes a look at all there are, so it is one look for all servers.
    unreachable: BTreeSet<IpAddr>,
}

/// Until when nothing more is heard against whom.
#[derive(Debug)]
struct Rests<K>(HashMap<K, Instant>);

impl<K> Default for Rests<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Rests<K> {
    /// Of those that something speaks against, those that are to be heard.
    fn hear(&mut self, keys: impl IntoIterator<Item = K>, now: Instant) -> Vec<K> {
        if !self.0.is_empty() {
            self.0.retain(|_, until| *until > now);
        }
        let mut is_heard = |key: &K| match self.0.entry(*key) {
            // What is said meanwhile makes it no longer.
            Entry::Occupied(_) => false,
            Entry::Vacant(rest) => {
                rest.insert(now + REST);
                true
            }
        };
        keys.into_iter().filter(|key| is_heard(key)).collect()
    }
}

impl Doubts {
    /// Takes the words as they are now: the rows that packets spoke against since the last time, and
    /// that are to be heard.
    pub fn read(&mut self, words: impl Iterator<Item = u64>, now: Instant) -> Vec<u32> {
        // None at first.
        self.read.resize(DOUBTS as usize, 0);
        let places = self.read.iter_mut().zip(words);
        let news = places.filter_map(|(read, word)| {
            (std::mem::replace(read, word) != word).then(|| doubted_row(word))
        });
        let rows: Vec<u32> = news.collect();
        self.hear(rows, now)
    }

    /// Of rows that something speaks against, those that are to be heard.
    pub fn hear(&mut self, rows: impl IntoIterator<Item = u32>, now: Instant) -> Vec<u32> {
        self.rows.hear(rows, now)
    }

    /// The network says that packets do not reach a server.
    pub fn note_unreachable(&mut self, server: IpAddr, now: Instant) {
        self.unreachable.extend(self.servers.hear([server], now));
    }

    /// Whether [`Self::take_unreachable`] would find any.
    #[must_use]
    pub fn has_unreachable(&self) -> bool {
        !self.unreachable.is_empty()
    }

    /// The servers that were said to be unreachable and are to be heard.
    pub fn take_unreachable(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.unreachable)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::doubt_word;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_word_is_read_once() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        let mut words = vec![0; DOUBTS as usize];
        assert!(doubts.read(words.iter().copied(), now).is_empty());
        words[7] = doubt_word(7, 5);
        words[9] = doubt_word(9 + DOUBTS, 5);
        assert_eq!(doubts.read(words.iter().copied(), now), [7, 9 + DOUBTS]);
        assert!(doubts.read(words.iter().copied(), now + 2 * REST).is_empty());
        // Another row of that place, and the first one again.
        words[9] = doubt_word(9, 6);
        assert_eq!(doubts.read(words.iter().copied(), now + 2 * REST), [9]);
        words[9] = doubt_word(9 + DOUBTS, 7);
        assert_eq!(doubts.read(words.iter().copied(), now + 4 * REST), [9 + DOUBTS]);
    }

    #[test]
    fn a_flood_is_heard_once_in_a_while() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let mut heard = HashMap::new();
        for ms in 0..10_000u32 {
            // Two rows, by packets; a third by what the sweep found.
            let words = [doubt_word(0, ms), doubt_word(1, ms)];
            let now = start + ms * MS;
            let rows = [doubts.read(words.into_iter(), now), doubts.hear([2], now)].concat();
            rows.into_iter().for_each(|row| heard.entry(row).or_insert_with(Vec::new).push(ms));
        }
        assert_eq!(heard.len(), 3);
        for (row, at) in heard {
            // The word of row 0 at the clock's beginning is what was there before.
            let first = u32::from(row == 0);
            assert_eq!(at, (0..10).map(|i| first + 1000 * i).collect::<Vec<_>>(), "{row}");
        }
        assert!(doubts.hear([], start + 60 * REST).is_empty());
        assert!(doubts.rows.0.is_empty(), "nothing is kept of who is quiet");
    }

    #[test]
    fn a_server_that_is_out_of_reach_is_looked_at_once_in_a_while() {
        let (mut doubts, start) = (Doubts::default(), Instant::now());
        let servers = ["10.9.0.5", "fd09::5"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut taken = Vec::new();
        for ms in 0..3_000 {
            let now = start + ms * MS;
            servers.iter().for_each(|server| doubts.note_unreachable(*server, now));
            if ms % 100 == 99 && doubts.has_unreachable() {
                taken.push((ms, doubts.take_unreachable().len()));
            }
        }
        assert_eq!(taken, [(99, 2), (1099, 2), (2099, 2)]);
    }
}
