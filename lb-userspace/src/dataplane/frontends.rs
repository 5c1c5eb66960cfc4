//! All frontends of a node as the records that the program looks up: pure.
//!
//! A packet belongs to the most specific frontend: the longest prefix first, then the fewest
//! ports. The program looks for its port first, then for aligned powers of two of ports around it
//! from the smallest on, first of the address itself, then of the longest prefix around it. So:
//!
//! - A range of ports is cut into such blocks: at most [`MOST_BLOCKS`]. One range within another
//!   needs no hole in that: its blocks lie in the other's, are smaller, and so are found first.
//!   Of two that overlap otherwise the wider one loses its end.
//! - A prefix gets records of all ports that prefixes around it listen on and it does not, since
//!   the program looks at one prefix only. An address inherits by missing, so it needs none.
//! - Fragments have no ports. They have a record where every frontend they could be for is of one
//!   service, and that one chooses its backend without looking at ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::abi::{ADDRESS_VIP, PORT_EXACT, ServiceRecord};
use lb_common::ip::{TCP, UDP};

use super::keys::{Key, Wanted};
use crate::config::model::{Frontend, Ports, Prefix, Protocol};

/// The most records that one range of ports takes, at one address or prefix: 1 to 65,534 would
/// be 15 blocks on either side of the middle.
pub const MOST_BLOCKS: usize = 30;

/// A frontend and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub frontend: Frontend,
    /// The service, by its place in the configuration.
    pub service: usize,
    /// Whether the service takes fragments: ports do not choose its backend.
    pub keeps_fragments: bool,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What matches is this service's.
    Service(usize),
    /// Fragments are nobody's, whatever the prefix around says.
    NoFragments,
    /// The address is a VIP, or all of the prefix are; [`ServiceRecord::ports`].
    Vip { ports: u32 },
}

/// All records of all frontends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    records: BTreeMap<Key, Role>,
    /// VIPs that are more than one address.
    prefixes: BTreeSet<Prefix>,
}

impl Plan {
    /// The records of these frontends. Of two that are alike the first wins.
    #[must_use]
    pub fn of(listeners: &[Listener]) -> Self {
        let mut plan = Self::default();
        // Nobody is asked for port 0.
        let mut ordered: Vec<&Listener> =
            listeners.iter().filter(|l| l.frontend.ports.last != 0).collect();
        ordered.sort_by_key(|listener| std::cmp::Reverse(listener.frontend.specificity()));
        let vips: BTreeSet<Prefix> = ordered.iter().map(|l| l.frontend.vip).collect();
        // From the shortest prefix on: an address asks whether the one around it has fragments.
        let mut vips: Vec<Prefix> = vips.into_iter().collect();
        vips.sort_by_key(|vip| vip.length);
        plan.prefixes = vips.iter().copied().filter(|vip| !vip.is_host()).collect();
        for vip in vips {
            let ports = [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| plan.listen(vip, protocol, &ordered))
                .into_iter()
                .fold(0, std::ops::BitOr::bitor);
            plan.records.insert(Key::alone(vip), Role::Vip { ports });
        }
        plan
    }

    /// Adds the records of one address or prefix and protocol, and says which lengths they have.
    fn listen(&mut self, vip: Prefix, protocol: Protocol, ordered: &[&Listener]) -> u32 {
        let around = |l: &&&Listener| {
            l.frontend.protocol == protocol
                && l.frontend.vip.length <= vip.length
                && l.frontend.vip.contains(vip.address)
        };
        let here: Vec<&Listener> = ordered.iter().filter(around).copied().collect();
        let own: Vec<&Listener> = here.iter().filter(|l| l.frontend.vip == vip).copied().collect();
        if vip.is_host() && own.is_empty() {
            return 0;
        }
        let number = number(protocol);
        let mut lengths = 0;
        for (range, service) in carve(if vip.is_host() { &own } else { &here }) {
            for (port, bits) in blocks(range) {
                let key = Key::range(vip, port, bits, number);
                // The more specific came first.
                self.records.entry(key).or_insert(Role::Service(service));
                if bits != PORT_EXACT {
                    lengths |= 1 << bits;
                }
            }
        }
        let shared: BTreeSet<usize> =
            carve(&here).into_iter().map(|(_, service)| service).collect();
        let keeps = here.iter().all(|l| l.keeps_fragments || !shared.contains(&l.service));
        let fragments = match (shared.len(), shared.first()) {
            (1, Some(service)) if keeps => Some(Role::Service(*service)),
            _ => {
                let around = self.prefix_around(vip.address).filter(|_| vip.is_host());
                let around = around.and_then(|p| self.records.get(&Key::fragments(p, number)));
                around.map(|_| Role::NoFragments)
            }
        };
        if let Some(role) = fragments {
            self.records.insert(Key::fragments(vip, number), role);
        }
        if protocol == Protocol::Udp { lengths << 16 } else { lengths }
    }

    /// The keys of all records.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.records.keys().copied()
    }

    /// All records, and what each says.
    pub fn records(&self) -> impl Iterator<Item = (Key, Role)> {
        self.records.iter().map(|(key, role)| (*key, *role))
    }

    /// VIPs that are more than one address.
    #[must_use]
    pub fn prefixes(&self) -> &BTreeSet<Prefix> {
        &self.prefixes
    }

    /// What the service table shall hold; `template` is a service's record but for its key and
    /// address.
    #[must_use]
    pub fn wanted(&self, template: impl Fn(usize) -> ServiceRecord) -> Wanted {
        let none: ServiceRecord = bytemuck::Zeroable::zeroed();
        let record = |role: &Role| match *role {
            Role::Service(service) => template(service),
            Role::NoFragments => none,
            Role::Vip { ports } => ServiceRecord { flags: ADDRESS_VIP, ports, ..none },
        };
        Wanted {
            records: self.records.iter().map(|(key, role)| (*key, record(role))).collect(),
            prefixes: self.prefixes.clone(),
        }
    }

    /// Whose a packet is, as the program finds it, by its place in the configuration.
    #[must_use]
    pub fn find(&self, address: IpAddr, port: u16, protocol: u8) -> Option<usize> {
        if port == 0 {
            return None;
        }
        let vips = [Some(Prefix::host(address)), self.prefix_around(address)];
        vips.into_iter().flatten().find_map(|vip| {
            let Some(Role::Vip { ports }) = self.records.get(&Key::alone(vip)) else { return None };
            let ports = if protocol == UDP { ports >> 16 } else { ports & 0xffff };
            let mut lengths =
                (0..=PORT_EXACT).rev().filter(|n| *n == PORT_EXACT || ports >> n & 1 != 0);
            lengths.find_map(|bits| {
                let first = port & block_mask(bits);
                match self.records.get(&Key::range(vip, first, bits, protocol)) {
                    Some(Role::Service(service)) => Some(*service),
                    _ => None,
                }
            })
        })
    }

    fn prefix_around(&self, address: IpAddr) -> Option<Prefix> {
        let most = Prefix::host(address).length;
        let mut around = (0..most).rev().map(|length| Prefix::around(address, length));
        around.find(|prefix| self.prefixes.contains(prefix))
    }
}

/// The protocol's number.
#[must_use]
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    }
}

/// First and last port of a range, and whose it is.
type Range = ((u16, u16), usize);

/// Ranges of which each is apart from, or around, those before it, so that cutting them into
/// blocks is enough; given the most specific first. What one loses others before it have.
fn carve(ordered: &[&Listener]) -> Vec<Range> {
    let mut kept: Vec<Range> = Vec::new();
    'next: for listener in ordered {
        let Ports { mut first, mut last } = listener.frontend.ports;
        if first == 1 && last > 1 {
            // Nobody is asked for port 0, and a range from 0 on has fewer blocks.
            first = 0;
        }
        loop {
            let before = (first, last);
            for &((from, to), _) in &kept {
                if from <= first && last <= to {
                    continue 'next;
                }
                // No overflow: the other end reaches beyond.
                if from <= first && first <= to {
                    first = to + 1;
                } else if from <= last && last <= to {
                    last = from - 1;
                }
            }
            if before == (first, last) {
                break;
            }
        }
        kept.push(((first, last), listener.service));
    }
    kept
}

/// The fewest aligned blocks that a range consists of: first port, and bits they share.
fn blocks((first, last): (u16, u16)) -> Vec<(u16, u32)> {
    let (mut at, end) = (u32::from(first), u32::from(last) + 1);
    let mut blocks = Vec::new();
    while at < end {
        let aligned = if at == 0 { 16 } else { at.trailing_zeros() };
        let fits = (end - at).ilog2();
        let size = aligned.min(fits);
        blocks.push((at as u16, PORT_EXACT - size));
        at += 1 << size;
    }
    blocks
}

/// The bits of a port that its block of this length shares.
fn block_mask(bits: u32) -> u16 {
    !(0xffff_u32 >> bits) as u16
}

#[cfg(test)]
mod tests;
