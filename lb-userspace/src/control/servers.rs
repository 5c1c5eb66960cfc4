//! Servers: addresses with their next hops, shared by the backends of all services.
//!
//! A server's record is one cache line of the maps. Until its next hop is known its interface is
//! zero, and packets for it are dropped and counted, never sent on a guess.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lb_common::abi::{ADDRESS_NAT, ADDRESS_VIP, Server, Table};

use crate::config::model::Mode;
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::regions::Regions;
use crate::dataplane::services::{Key, ServiceTable, address};
use crate::net::{HopProblem, NextHop, Remote};

/// All servers of the node.
#[derive(Debug)]
pub struct Servers {
    maps: Arc<LiveMaps>,
    known: HashMap<IpAddr, Known>,
    ids: Regions,
    /// Configured sources of full NAT.
    nat_addresses: Vec<IpAddr>,
    /// `ADDRESS_*` bits written for each address.
    addresses: HashMap<IpAddr, u32>,
}

#[derive(Debug)]
struct Known {
    id: u32,
    mode: Mode,
    hop: Option<Result<NextHop, HopProblem>>,
    /// The kernel's preferred source, as last known: a next hop that is lost for a moment does
    /// not change what replies are addressed to.
    source: Option<IpAddr>,
}

impl Servers {
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>, nat_addresses: Vec<IpAddr>) -> Self {
        let ids = Regions::new(maps.servers.len());
        Self { maps, known: HashMap::new(), ids, nat_addresses, addresses: HashMap::new() }
    }

    /// Refuses servers there would be no room for, beside those that are there.
    pub fn check_room(&self, servers: impl Iterator<Item = IpAddr>) -> Result<()> {
        let new: BTreeSet<IpAddr> = servers.filter(|s| !self.known.contains_key(s)).collect();
        let left = self.ids.left() as usize;
        ensure!(new.len() <= left, "{} new servers, but room for {left}: {NO_SERVERS}", new.len());
        Ok(())
    }

    /// The server's element; made if it is new, which the second value tells.
    pub fn id(&mut self, server: IpAddr, mode: Mode) -> Result<(u32, bool)> {
        if let Some(known) = self.known.get_mut(&server) {
            known.mode = mode;
            return Ok((known.id, false));
        }
        let id = self.ids.take(1).context(NO_SERVERS)?;
        self.known.insert(server, Known { id, mode, hop: None, source: None });
        self.write(server)?;
        Ok((id, true))
    }

    /// Takes what the resolver says. Whether it is about a server we know.
    pub fn set_hop(&mut self, server: IpAddr, hop: Result<NextHop, HopProblem>) -> Result<bool> {
        let configured = self.configured_source(server);
        let Some(known) = self.known.get_mut(&server) else { return Ok(false) };
        if let Ok(NextHop::Remote(hop)) = &hop
            && !hop.source.is_unspecified()
        {
            known.source = Some(hop.source);
        }
        known.hop = Some(hop.and_then(|hop| match (known.mode, &hop) {
            (Mode::Nat, NextHop::Local) => Err(HopProblem::LocalAddress),
            // The router would send a packet for the VIP back here.
            (Mode::Dsr, NextHop::Remote(Remote { via: Some(via), .. })) => {
                Err(HopProblem::Routed { via: *via })
            }
            (Mode::Nat, _) if configured.or(known.source).is_none() => Err(HopProblem::NoSource),
            _ => Ok(hop),
        }));
        self.write(server)?;
        Ok(true)
    }

    /// Servers of which the resolver has said nothing yet.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.known.values().filter(|known| known.hop.is_none()).count()
    }

    /// The next hop as resolved last.
    #[must_use]
    pub fn hop(&self, server: IpAddr) -> Option<&Result<NextHop, HopProblem>> {
        self.known.get(&server)?.hop.as_ref()
    }

    /// Forgets all servers but those with these elements; says which are gone. Their elements
    /// may be taken again at once, so a grace period must have passed since their last use.
    pub fn keep(&mut self, ids: &BTreeSet<u32>) -> Vec<IpAddr> {
        let gone: Vec<IpAddr> = self
            .known
            .iter()
            .filter(|(_, known)| !ids.contains(&known.id))
            .map(|(server, _)| *server)
            .collect();
        for server in &gone {
            if let Some(known) = self.known.remove(server) {
                self.ids.give(known.id, 1);
            }
        }
        gone
    }

    /// Tells the program which addresses are VIPs, and from which NAT may get replies.
    pub fn mark_addresses(
        &mut self,
        records: &mut ServiceTable,
        vips: &BTreeSet<IpAddr>,
    ) -> Result<()> {
        let mut wanted: HashMap<IpAddr, u32> = HashMap::new();
        for vip in vips {
            *wanted.entry(*vip).or_default() |= ADDRESS_VIP;
        }
        for (server, known) in self.known.iter().filter(|(_, known)| known.mode == Mode::Nat) {
            let sources = [self.configured_source(*server), known.source];
            for source in sources.into_iter().flatten() {
                *wanted.entry(source).or_default() |= ADDRESS_NAT;
            }
        }
        for address in self.addresses.keys().copied().collect::<Vec<_>>() {
            if !wanted.contains_key(&address) {
                records.remove(address_key(address))?;
                self.addresses.remove(&address);
            }
        }
        for (address, bits) in wanted {
            if self.addresses.get(&address) != Some(&bits) {
                records.put(address_key(address), 0, bits, Table(0))?;
                self.addresses.insert(address, bits);
            }
        }
        Ok(())
    }

    fn configured_source(&self, server: IpAddr) -> Option<IpAddr> {
        self.nat_addresses.iter().find(|a| a.is_ipv4() == server.is_ipv4()).copied()
    }

    fn write(&self, server: IpAddr) -> Result<()> {
        let Some(known) = self.known.get(&server) else { return Ok(()) };
        let (ethernet, ifindex) = match &known.hop {
            Some(Ok(hop)) => (bytemuck::cast(hop.ethernet()), hop.ifindex()),
            _ => ([0; 3], 0),
        };
        let nat_address = self.configured_source(server).or(known.source);
        let nat_address = nat_address.map(address).unwrap_or_default();
        let record =
            Server { ethernet, ifindex, address: address(server), nat_address, padding: [0; 4] };
        self.maps.servers.set(known.id, record)
    }
}

const NO_SERVERS: &str = "raise `limits.servers` and restart";

/// The key of an address apart from any port.
#[must_use]
pub fn address_key(address: IpAddr) -> Key {
    Key { address, port: 0, protocol: 0 }
}
