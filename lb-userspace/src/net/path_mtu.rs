//! What the network says of the path to tunnelled servers: ICMP "too big" and "unreachable".
//!
//! A tunnel's packets are sent from addresses that need not be this host's, so its kernel does not
//! keep these messages. [`PathMtuListener`] hears them on packet sockets and tells
//! ([`Said`]); [`PathMtus`] remembers the MTUs. Both leave to their owner what a server is:
//!
//! 1. [`PathMtuListener::start`] once, in the network namespace of the interfaces, with
//!    `gue_port`.
//! 2. For each [`TooBig`] from its channel: if `server` is reached by a tunnel and has a next hop,
//!    [`PathMtus::learn`] with that hop's MTU. If it answers `true`, write the server's record
//!    anew. A message about any other address is not for us, or a lie: drop it.
//! 3. The MTU to write is the smaller of the next hop's and [`PathMtus::lookup`]'s.
//! 4. When [`PathMtus::next_expiry`] is due, [`PathMtus::expire`], and write the records of the
//!    servers it names anew.
//! 5. [`PathMtus::forget`] a server that is removed, or whose next hop is another.
//!
//! That a server is unreachable is no more than a reason to look.
//!
//! The messages are not authenticated: whoever can send to the tunnel's source address can claim
//! an MTU. So it lowers one server's MTU only, no further than the minimum of the family, and for
//! no longer than [`LIFETIME`].

mod filter;
mod listener;
mod message;
#[cfg(test)]
mod packets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub use listener::PathMtuListener;

#[cfg(test)]
mod tests;

/// How long a learned MTU counts after the last message (RFC 1191 and RFC 8201 advise 10 minutes).
pub const LIFETIME: Duration = Duration::from_secs(600);

/// What was said of a tunnel's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It was too large.
    TooBig(TooBig),
    /// It did not reach this address, or nobody there takes it. Not checked to be a server's.
    Unreachable(IpAddr),
}

/// A router on the way to a server had no room for a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Where the packet was going: the outer destination. Not checked to be a server.
    pub server: IpAddr,
    /// Largest IP packet it would forward, in bytes, the tunnel's headers included; at least 576
    /// (IPv4) or 1280 (IPv6).
    pub mtu: u32,
}

/// MTUs learned, by server. Pure: the time is an argument.
#[derive(Debug, Default)]
pub struct PathMtus {
    known: BTreeMap<IpAddr, Learned>,
}

#[derive(Debug)]
struct Learned {
    mtu: u32,
    until: Instant,
}

impl PathMtus {
    /// Takes a message about a server whose next hop has `link_mtu`. Whether [`Self::lookup`] now
    /// says something else.
    ///
    /// A value that the link does not exceed is ignored. So is one above what is known already: a
    /// path is as wide as its narrowest link, until that is forgotten.
    pub fn learn(&mut self, message: TooBig, link_mtu: u32, now: Instant) -> bool {
        let TooBig { server, mtu } = message;
        let known = self.lookup(server, now);
        if mtu >= link_mtu || known.is_some_and(|known| known < mtu) {
            return false;
        }
        self.known.insert(server, Learned { mtu, until: now + LIFETIME });
        known != Some(mtu)
    }

    /// What was learned of the way to a server, in bytes as [`TooBig::mtu`].
    #[must_use]
    pub fn lookup(&self, server: IpAddr, now: Instant) -> Option<u32> {
        self.known.get(&server).filter(|learned| now < learned.until).map(|learned| learned.mtu)
    }

    /// Forgets what is out of date; whose it was.
    pub fn expire(&mut self, now: Instant) -> Vec<IpAddr> {
        let old = self.known.extract_if(.., |_, learned| learned.until <= now);
        old.map(|(server, _)| server).collect()
    }

    /// When [`Self::expire`] has something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.known.values().map(|learned| learned.until).min()
    }

    /// Forgets what was learned of one server.
    pub fn forget(&mut self, server: IpAddr) {
        self.known.remove(&server);
    }
}
