//! Servers: addresses with their next hops, shared by the backends of all services.
//!
//! A server's record is one cache line of the maps. Until its next hop is known its interface is
//! zero, and packets for it are dropped and counted, never sent on a guess.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lb_common::abi::{KIND_DSR, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_NAT, Server};

use super::clock;
use crate::config::model::Prefix;
use crate::config::model::{Mode, Node};
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::regions::Regions;
use crate::dataplane::services::address;
use crate::net::{HopProblem, NextHop, PathMtus, Remote, TooBig};

/// All servers of the node.
#[derive(Debug)]
pub struct Servers {
    maps: Arc<LiveMaps>,
    known: HashMap<(IpAddr, Mode), Known>,
    hops: HashMap<IpAddr, Hop>,
    ids: Regions,
    /// Configured sources of full NAT.
    nat_addresses: Vec<IpAddr>,
    /// Configured sources of tunnels.
    tunnel_sources: Vec<Prefix>,
    /// What the network said of the ways of tunnels.
    path_mtus: PathMtus,
}

/// An address reached in one way.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: u32,
}

/// What the resolver says of an address.
#[derive(Debug, Default)]
struct Hop {
    hop: Option<Result<NextHop, HopProblem>>,
    /// The kernel's preferred source, as last known: a next hop that is lost for a moment does
    /// not change what replies are addressed to.
    source: Option<IpAddr>,
}

impl Servers {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>, node: &Node) -> Self {
        Self {
            known: HashMap::new(),
            hops: HashMap::new(),
            ids: Regions::new(maps.servers.len()),
            nat_addresses: node.nat_addresses.clone(),
            tunnel_sources: node.tunnel_sources.clone(),
            path_mtus: PathMtus::default(),
            maps,
        }
    }

    /// Refuses servers there would be no room for, beside those that are there.
    pub fn check_room(&self, servers: impl Iterator<Item = (IpAddr, Mode)>) -> Result<()> {
        let new: BTreeSet<(IpAddr, Mode)> =
            servers.filter(|s| !self.known.contains_key(s)).collect();
        let left = self.ids.left() as usize;
        ensure!(new.len() <= left, "{} new servers, but room for {left}: {NO_SERVERS}", new.len());
        Ok(())
    }

    /// The server's element; made if it is new. The second value tells whether the address is.
    pub fn id(&mut self, address: IpAddr, mode: Mode) -> Result<(u32, bool)> {
        if let Some(known) = self.known.get(&(address, mode)) {
            return Ok((known.id, false));
        }
        let id = self.ids.take(1).context(NO_SERVERS)?;
        self.known.insert((address, mode), Known { id });
        let new = !self.hops.contains_key(&address);
        self.hops.entry(address).or_default();
        self.write(address, mode)?;
        Ok((id, new))
    }

    /// Takes what the resolver says. Whether it is about a server we know.
    pub fn set_hop(&mut self, address: IpAddr, hop: Result<NextHop, HopProblem>) -> Result<bool> {
        let Some(known) = self.hops.get_mut(&address) else { return Ok(false) };
        if let Ok(NextHop::Remote(hop)) = &hop
            && !hop.source.is_unspecified()
        {
            known.source = Some(hop.source);
        }
        known.hop = Some(hop);
        self.write_all(address)?;
        Ok(true)
    }

    /// Whether packets to an address go by a tunnel.
    #[must_use]
    pub fn is_tunnelled(&self, address: IpAddr) -> bool {
        [Mode::Ipip, Mode::Gue].iter().any(|mode| self.known.contains_key(&(address, *mode)))
    }

    /// Takes a router's message about a packet to a server. Only tunnels use it: other packets
    /// are their clients', who are told themselves.
    pub fn set_path_mtu(&mut self, message: TooBig, now: Instant) -> Result<()> {
        let TooBig { server, .. } = message;
        for mode in [Mode::Ipip, Mode::Gue] {
            let Some(Ok(NextHop::Remote(hop))) = self.hop(server, mode) else { continue };
            let mtu = hop.mtu;
            if self.known.contains_key(&(server, mode)) && self.path_mtus.learn(message, mtu, now) {
                tracing::info!(%server, mtu = message.mtu, "a router on the way has a smaller MTU");
            }
        }
        self.write_all(server)
    }

    /// Forgets what was said long ago.
    pub fn expire_path_mtus(&mut self, now: Instant) -> Result<()> {
        let expired = self.path_mtus.expire(now);
        expired.into_iter().try_for_each(|server| self.write_all(server))
    }

    /// When [`Self::expire_path_mtus`] has something to do.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.path_mtus.next_expiry()
    }

    /// Servers of which the resolver has said nothing yet. That of backends whose name has no
    /// address is not waited for.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        let is_asked = |address: &IpAddr| !address.is_unspecified();
        self.hops.iter().filter(|(server, hop)| is_asked(server) && hop.hop.is_none()).count()
    }

    /// The way to a server in a mode, or why there is none; `None` while the resolver is silent.
    #[must_use]
    pub fn hop(&self, address: IpAddr, mode: Mode) -> Option<Result<&NextHop, HopProblem>> {
        let known = self.hops.get(&address)?;
        Some(match known.hop.as_ref()? {
            Err(problem) => Err(problem.clone()),
            Ok(hop) => match (mode, hop) {
                (Mode::Nat, NextHop::Local) => Err(HopProblem::LocalAddress),
                (_, NextHop::Local) => Ok(hop),
                // The router would send a packet for the VIP back here.
                (Mode::Dsr, NextHop::Remote(Remote { via: Some(via), .. })) => {
                    Err(HopProblem::Routed { via: *via })
                }
                (Mode::Dsr, _) => Ok(hop),
                _ if self.source(address, mode, known).is_none() => Err(HopProblem::NoSource),
                _ => Ok(hop),
            },
        })
    }

    /// Forgets all servers but those with these elements; says which addresses are gone. Their
    /// elements may be taken again at once, so a grace period must have passed since their last
    /// use.
    pub fn keep(&mut self, ids: &BTreeSet<u32>) -> Vec<IpAddr> {
        self.known.retain(|_, known| {
            let stays = ids.contains(&known.id);
            if !stays {
                self.ids.give(known.id, 1);
            }
            stays
        });
        let used: BTreeSet<IpAddr> = self.known.keys().map(|(address, _)| *address).collect();
        let gone: Vec<IpAddr> = self.hops.keys().copied().filter(|a| !used.contains(a)).collect();
        gone.iter().for_each(|address| self.path_mtus.forget(*address));
        self.hops.retain(|address, _| used.contains(address));
        gone
    }

    /// The addresses from which NAT may get replies.
    #[must_use]
    pub fn nat_sources(&self) -> BTreeSet<IpAddr> {
        let nat = self.known.keys().filter(|(_, mode)| *mode == Mode::Nat);
        nat.flat_map(|(server, mode)| {
            let learned = self.hops.get(server).and_then(|hop| hop.source);
            [self.configured_source(*server, *mode).map(|p| p.address), learned]
        })
        .flatten()
        .collect()
    }

    fn configured_source(&self, server: IpAddr, mode: Mode) -> Option<Prefix> {
        let fits = |a: &IpAddr| a.is_ipv4() == server.is_ipv4();
        match mode {
            Mode::Nat => self.nat_addresses.iter().copied().find(fits).map(Prefix::host),
            Mode::Dsr => None,
            Mode::Ipip | Mode::Gue => {
                self.tunnel_sources.iter().copied().find(|prefix| fits(&prefix.address))
            }
        }
    }

    /// What packets to a server come from.
    fn source(&self, server: IpAddr, mode: Mode, hop: &Hop) -> Option<Prefix> {
        self.configured_source(server, mode).or(hop.source.map(Prefix::host))
    }

    /// The largest IP packet that the way takes.
    fn mtu(&self, server: IpAddr, mode: Mode, hop: &Remote) -> u32 {
        let learned = match mode {
            Mode::Ipip | Mode::Gue => self.path_mtus.lookup(server, clock::now()),
            Mode::Nat | Mode::Dsr => None,
        };
        learned.map_or(hop.mtu, |learned| learned.min(hop.mtu))
    }

    fn write_all(&self, server: IpAddr) -> Result<()> {
        let modes = self.known.keys().filter(|(address, _)| *address == server);
        modes.copied().try_for_each(|(_, mode)| self.write(server, mode))
    }

    fn write(&self, server: IpAddr, mode: Mode) -> Result<()> {
        let Some(known) = self.known.get(&(server, mode)) else { return Ok(()) };
        let hop = self.hop(server, mode).and_then(Result::ok);
        let remote = hop.and_then(NextHop::remote);
        let source = self.hops.get(&server).and_then(|hop| self.source(server, mode, hop));
        let record = Server {
            ethernet: hop.map_or([0; 3], |hop| bytemuck::cast(hop.ethernet())),
            ifindex: hop.map_or(0, NextHop::ifindex),
            address: address(server),
            source: source.map(|prefix| address(prefix.address)).unwrap_or_default(),
            kind: kind(mode, server),
            mtu: remote.map_or(0, |remote| self.mtu(server, mode, remote)),
            vlan: hop.map_or(0, |hop| hop.vlan().into()),
            entropy: source.map_or(0, entropy),
        };
        self.maps.servers.set(known.id, record)
    }
}

/// How packets are sent to a server.
fn kind(mode: Mode, server: IpAddr) -> u32 {
    match (mode, server) {
        (Mode::Dsr, _) => KIND_DSR,
        (Mode::Nat, _) => KIND_NAT,
        (Mode::Ipip, IpAddr::V4(_)) => KIND_IPIP4,
        (Mode::Ipip, IpAddr::V6(_)) => KIND_IPIP6,
        (Mode::Gue, IpAddr::V4(_)) => KIND_GUE4,
        (Mode::Gue, IpAddr::V6(_)) => KIND_GUE6,
    }
}

/// The host bits of a prefix, at most the last 32, as in a packet.
fn entropy(prefix: Prefix) -> u32 {
    let bits = if prefix.address.is_ipv4() { 32 } else { 128 } - u32::from(prefix.length);
    u32::MAX.checked_shr(32 - bits.min(32)).unwrap_or(0).to_be()
}

const NO_SERVERS: &str = "raise `limits.servers` and restart";
