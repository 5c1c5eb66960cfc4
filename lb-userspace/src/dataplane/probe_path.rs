//! A client's way for probes, from the prober's side: probes in flight, as the tc programs find them.
//!
//! A probe enters with the server's record as it is then, so it is sent as packets of clients are
//! sent in that moment. It leaves when its socket is closed: then no other packet is taken for its.

mod tc;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_common::abi::{ProbeEntry, Server, Settings, probe_key};

use super::entries::Entries;
use super::keys::{address, family};
use super::maps::LiveMaps;
use crate::net;

pub use tc::{Means, Programs};

/// The probes in flight. Closed, and no way for any, until [`Programs`] run.
#[derive(Debug)]
pub struct ProbePath {
    maps: Arc<LiveMaps>,
    /// Where an address of another family than a server's is looked for.
    interfaces: Vec<String>,
    probes: OnceLock<Entries<u32, ProbeEntry>>,
    own: Mutex<Option<(Instant, BTreeSet<IpAddr>)>>,
}

/// How long the host's addresses, once asked for, are taken to be the same.
const OWN_ADDRESSES_HOLD: Duration = Duration::from_secs(1);

/// A probe on its way: the protocol (6, 17), and the addresses between which its socket sends.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub protocol: u8,
    /// The socket's own.
    pub local: SocketAddr,
    /// The server's own.
    pub server: SocketAddr,
    pub vip: IpAddr,
    /// An address of this host in the VIP's family.
    pub source: IpAddr,
}

/// A probe whose packets take a client's way until this is dropped, which must be after its socket
/// was closed.
#[derive(Debug)]
pub struct Entered {
    path: Arc<ProbePath>,
    keys: Vec<u32>,
}

impl ProbePath {
    /// A way over these maps' servers that nothing leads along yet.
    #[must_use]
    pub fn new(maps: Arc<LiveMaps>, interfaces: Vec<String>) -> Self {
        Self { maps, interfaces, probes: OnceLock::new(), own: Mutex::default() }
    }

    /// What the balancer's program was loaded with.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.maps.settings()
    }

    /// Whether probes can take it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.probes.get().is_some()
    }

    /// A server as packets of clients find it now.
    #[must_use]
    pub fn server(&self, number: u32) -> Option<Server> {
        self.maps.servers.get(number)
    }

    /// An address of this host that a server can answer to where the VIP is of another family than
    /// the server; the first that `interfaces` have and that is no link's own.
    #[must_use]
    pub fn source_for(&self, vip: IpAddr) -> Option<IpAddr> {
        let mut own = self.own.lock().ok()?;
        let fresh = own.as_ref().filter(|(at, _)| at.elapsed() < OWN_ADDRESSES_HOLD);
        if fresh.is_none() {
            let addresses = net::addresses_of(&self.interfaces).unwrap_or_default();
            *own = Some((Instant::now(), addresses.into_iter().collect()));
        }
        let (_, addresses) = own.as_ref()?;
        addresses.iter().copied().find(|a| a.is_ipv4() == vip.is_ipv4() && *a != vip)
    }

    /// Leads a probe along the way. `None`: its port is another probe's in the other family; it takes
    /// another port.
    pub fn enter(self: &Arc<Self>, flight: &Flight, server: Server) -> Result<Option<Entered>> {
        let probes = self.probes.get().context("the programs for probes do not run")?;
        let entry = ProbeEntry {
            server,
            vip: address(flight.vip),
            local: address(flight.local.ip()),
            source: address(flight.source),
            port: flight.server.port().to_be().into(),
            server_family: family(flight.server.ip()),
            vip_family: family(flight.vip),
            padding: 0,
        };
        let families = BTreeSet::from([entry.server_family, entry.vip_family]);
        let port = flight.local.port().to_be();
        let mut entered = Entered { path: Arc::clone(self), keys: Vec::with_capacity(2) };
        for key in families.into_iter().map(|family| probe_key(family, flight.protocol, port)) {
            if !probes.add(&key, entry)? {
                return Ok(None);
            }
            entered.keys.push(key);
        }
        Ok(Some(entered))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(probes) = self.path.probes.get() else { return };
        for key in &self.keys {
            if let Err(error) = probes.remove(key) {
                tracing::error!(error = format!("{error:#}"), "a probe's entry stays");
            }
        }
    }
}
