//! One name: its address, and what became of the latest answer.

use std::net::IpAddr;
use std::time::Instant;

use super::Answer;
use crate::config::model::Family;

#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) address: Option<IpAddr>,
    /// What the latest answer would have it be.
    pub(super) offered: Option<IpAddr>,
    /// That was tried, and nothing has changed since.
    pub(super) is_refused: bool,
    /// A question was answered, or has failed.
    pub(super) is_heard: bool,
    pub(super) trouble: Option<Trouble>,
}

/// Why the latest answer did not give the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A clause whose subject is the name.
    pub why: String,
    /// Since when no answer gave it.
    pub since: Instant,
}

impl Known {
    pub(super) fn take(&mut self, family: Family, answer: Answer, now: Instant) {
        self.is_heard = true;
        let refused = self.offered.take().filter(|_| self.is_refused);
        self.is_refused = false;
        let addresses = match answer {
            Ok(addresses) => addresses,
            Err(why) => return self.fail(why, now),
        };
        // Some servers say 0.0.0.0 for what they block.
        let is_one = |a: &IpAddr| Family::of(*a) == family && !a.is_unspecified();
        let fitting = || addresses.iter().copied().filter(is_one);
        match fitting().min() {
            None => self.fail(no_address(family).into(), now),
            Some(_) if fitting().any(|address| Some(address) == self.address) => {
                self.trouble = None;
            }
            lowest => (self.offered, self.is_refused) = (lowest, lowest == refused),
        }
    }

    pub(super) fn accept(&mut self, address: IpAddr) {
        *self = Self { address: Some(address), is_heard: self.is_heard, ..Self::default() };
    }

    pub(super) fn fail(&mut self, why: String, now: Instant) {
        let since = self.trouble.take().map_or(now, |before| before.since);
        self.trouble = Some(Trouble { why, since });
    }
}

/// What an answer without addresses says.
pub(super) fn no_address(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "has no IPv4 address",
        Family::Ipv6 => "has no IPv6 address",
    }
}
