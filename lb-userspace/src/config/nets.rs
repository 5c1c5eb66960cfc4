//! What is known of blocks of addresses, found by an address: the longest block that holds it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::model::Prefix;

/// A look-up costs one hash per length in use, however many blocks there are.
pub(crate) struct Nets<T> {
    known: HashMap<Prefix, T>,
    lengths: BTreeSet<Reverse<u8>>,
}

impl<T> Default for Nets<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), lengths: BTreeSet::new() }
    }
}

impl<T> Nets<T> {
    /// Keeps the first value of each block.
    pub(crate) fn insert(&mut self, prefix: Prefix, value: T) {
        self.lengths.insert(Reverse(prefix.length));
        self.known.entry(prefix).or_insert(value);
    }

    /// The longest block that an address lies in.
    pub(crate) fn find(&self, address: IpAddr) -> Option<(Prefix, &T)> {
        self.find_within(Prefix::host(address))
    }

    /// The longest block that a block lies in, itself included.
    pub(crate) fn find_within(&self, prefix: Prefix) -> Option<(Prefix, &T)> {
        self.lengths.iter().filter(|Reverse(length)| *length <= prefix.length).find_map(
            |Reverse(length)| {
                let around = Prefix::around(prefix.address, *length);
                self.known.get(&around).map(|value| (around, value))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_block_is_found() {
        let mut nets = Nets::default();
        for text in ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.1", "::/0", "0.0.0.0/0"] {
            nets.insert(text.parse().unwrap(), text);
        }
        nets.insert("10.0.0.0/8".parse().unwrap(), "the second");
        for (address, expect) in [
            ("10.1.0.1", "10.1.0.1"),
            ("10.1.0.2", "10.1.0.0/16"),
            ("10.2.0.1", "10.0.0.0/8"),
            ("11.0.0.1", "0.0.0.0/0"),
            ("2001:db8::1", "::/0"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(nets.find(address).map(|(_, found)| *found), Some(expect), "{address}");
        }
        let within =
            |text: &str| nets.find_within(text.parse().unwrap()).map(|(net, _)| net.to_string());
        assert_eq!(within("10.1.0.0/16").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(within("10.2.0.0/15").as_deref(), Some("10.0.0.0/8"));
        assert!(Nets::<()>::default().find([10, 0, 0, 1].into()).is_none());
    }
}
