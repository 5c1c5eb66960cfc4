//! What packets say against backends: which of them are to be asked at once. They decide nothing.
//!
//! The program leaves the last row spoken against in one of a few places ([`doubt_word`]), so that
//! reading all of them costs the same whether there are ten backends or a million. A packet can be
//! forged, and a refused connection may be a client that tries ports: so no backend is asked early
//! more often than once in [`REST`], whatever is said. Pure: the time is an argument.
//!
//! [`doubt_word`]: lb_common::abi::doubt_word

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    /// Until when nothing is heard.
    rests: HashMap<u32, Instant>,
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
        if !self.rests.is_empty() {
            self.rests.retain(|_, until| *until > now);
        }
        let mut is_heard = |row: &u32| match self.rests.entry(*row) {
            // What is said meanwhile makes it no longer.
            Entry::Occupied(_) => false,
            Entry::Vacant(rest) => {
                rest.insert(now + REST);
                true
            }
        };
        rows.into_iter().filter(|row| is_heard(row)).collect()
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
        assert!(doubts.rests.is_empty(), "nothing is kept of who is quiet");
    }
}
