//! Who is kept out of every service: the operator's list, with reasons and ends; pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::clock::move_along;
use crate::config::model::Prefix;
use crate::report::{Block, Error, ErrorKind};

/// The block list, by prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Blocks(Vec<Block>);

impl Blocks {
    /// All entries, in the order of their prefixes.
    #[must_use]
    pub fn entries(&self) -> &[Block] {
        &self.0
    }

    /// The prefixes alone.
    #[must_use]
    pub fn prefixes(&self) -> BTreeSet<Prefix> {
        self.0.iter().map(|block| block.prefix).collect()
    }

    /// Adds an entry, or gives one another reason or end. Whether that changed anything: an entry
    /// without a reason leaves the one that is known.
    pub fn add(&mut self, new: Block) -> bool {
        let Some(known) = self.0.iter_mut().find(|block| block.prefix == new.prefix) else {
            let at = self.0.partition_point(|block| block.prefix < new.prefix);
            self.0.insert(at, new);
            return true;
        };
        let reason = new.reason.clone().or_else(|| known.reason.clone());
        if known.reason == reason && known.until_ms == new.until_ms {
            return false;
        }
        *known = Block { reason, since_ms: known.since_ms, ..new };
        true
    }

    /// Removes an entry. Whether there was one.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let before = self.0.len();
        self.0.retain(|block| block.prefix != prefix);
        self.0.len() != before
    }

    /// Another entry that holds all of a prefix.
    #[must_use]
    pub fn around(&self, prefix: Prefix) -> Option<&Block> {
        self.0.iter().find(|block| {
            block.prefix != prefix
                && block.prefix.length <= prefix.length
                && block.prefix.contains(prefix.address)
        })
    }

    /// Removes what has ended by a time, in milliseconds since the epoch; says what that was.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Block> {
        let (ended, rest) =
            self.0.drain(..).partition(|block| block.until_ms.is_some_and(|end| end <= now_ms));
        self.0 = rest;
        ended
    }

    /// The clock of the day was set.
    pub fn move_along(&mut self, by_ms: i64) {
        for block in &mut self.0 {
            move_along(&mut block.since_ms, by_ms);
            block.until_ms.iter_mut().for_each(|end| move_along(end, by_ms));
        }
    }

    /// When the next entry ends, in milliseconds since the epoch.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        self.0.iter().filter_map(|block| block.until_ms).min()
    }
}

/// Refuses to block those the node needs: its backends and itself.
pub fn check_harmless(
    prefix: Prefix,
    backends: &[(String, IpAddr)],
    local: &BTreeSet<IpAddr>,
) -> Result<(), Error> {
    let refused = |address: IpAddr, what: &str| {
        let (message, hint) = match prefix.is_host() {
            true => (format!("{prefix} is {what}"), "if it is meant, say --force"),
            false => (
                format!("{prefix} holds {address}, {what}"),
                "block narrower prefixes; if it is meant, say --force",
            ),
        };
        Err(Error::new(ErrorKind::Refused, message, hint))
    };
    if let Some((name, address)) = backends.iter().find(|(_, address)| prefix.contains(*address)) {
        return refused(*address, &format!("the backend {name}"));
    }
    match local.iter().find(|address| prefix.contains(**address)) {
        Some(address) => refused(*address, "an address of this host"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(prefix: &str, reason: Option<&str>, until_ms: Option<u64>) -> Block {
        Block {
            prefix: prefix.parse().unwrap(),
            reason: reason.map(Into::into),
            actor: "uid 0".into(),
            since_ms: 7,
            until_ms,
        }
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let mut blocks = Blocks::default();
        assert!(blocks.add(block("10.0.0.0/8", Some("scan"), None)));
        assert!(!blocks.add(block("10.0.0.0/8", Some("scan"), None)));
        assert!(!blocks.add(block("10.0.0.0/8", None, None)));
        assert!(blocks.add(block("10.0.0.0/8", Some("flood"), Some(9))));
        assert!(blocks.add(block("10.0.0.0/8", None, Some(10))));
        assert_eq!(blocks.entries(), [block("10.0.0.0/8", Some("flood"), Some(10))]);
        assert!(blocks.remove("10.0.0.0/8".parse().unwrap()));
        assert!(!blocks.remove("10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn entries_end_and_lie_in_each_other() {
        let mut blocks = Blocks::default();
        for (prefix, until) in
            [("10.1.0.0/16", Some(50)), ("10.0.0.0/8", None), ("2001:db8::/32", Some(40))]
        {
            blocks.add(block(prefix, None, until));
        }
        let order: Vec<String> = blocks.prefixes().iter().map(Prefix::to_string).collect();
        let listed: Vec<String> = blocks.entries().iter().map(|b| b.prefix.to_string()).collect();
        assert_eq!(listed, order);
        let around =
            |text: &str| blocks.around(text.parse().unwrap()).map(|block| block.prefix.to_string());
        assert_eq!(around("10.1.0.0/16").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(around("10.0.0.0/8"), None);
        assert_eq!(blocks.next_end(), Some(40));
        assert!(blocks.expire(39).is_empty());
        assert_eq!(blocks.expire(40).len(), 1);
        assert_eq!((blocks.next_end(), blocks.expire(1000).len()), (Some(50), 1));
        assert_eq!((blocks.entries().len(), blocks.next_end()), (1, None));
    }

    #[test]
    fn nobody_blocks_what_the_node_needs() {
        let backends = [("web/web-01".to_owned(), IpAddr::from([10, 0, 0, 11]))];
        let local = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        let check = |text: &str| check_harmless(text.parse().unwrap(), &backends, &local);
        let said = check("10.0.0.0/24").unwrap_err();
        assert!(said.message.contains("the backend web/web-01"), "{said}");
        assert!(check("0.0.0.0/0").is_err());
        let said = check("192.0.2.1").unwrap_err();
        assert_eq!(said.message, "192.0.2.1 is an address of this host");
        assert_eq!(check("198.51.100.0/24"), Ok(()));
        assert_eq!(check("::/0"), Ok(()), "another family");
    }
}
