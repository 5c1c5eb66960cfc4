//! A validated desired configuration: what `lb run`, `lb apply` and every revision hold.
//!
//! Values of these types have passed every cross-check of [`super::parse`]; the rest of the
//! daemon relies on that and checks nothing again. Order is the order of the file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::alert::{Alert, Target};
pub use super::failover::{Failover, OnDown, Ramp};
pub use super::frontend::{Frontend, Ports, Protocol};
pub use super::host::{Address, Family, HostName, Location, Lookup};
pub use super::percent::Percent;
pub use super::prefix::Prefix;
pub use super::probe::{
    BodyMatch, Ca, Dns, Exec, Grpc, Health, Http, Method, Payload, Probe, Rcode, RecordType,
    Statuses, Tls, Udp, Via,
};
pub use super::server_id::ServerId;
pub use super::url::Url;

/// One whole desired configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub node: Node,
    /// Who is told when something is wrong.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    /// Shared by all that hold the configuration, former ones included, as long as they are the same.
    pub services: Vec<Arc<Service>>,
}

/// What concerns this machine alone. What a stored one lacks, an older version wrote it: the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Interfaces the program is attached to; every next hop must leave through one of them.
    pub interfaces: Vec<String>,
    /// Whether generic XDP is acceptable where the driver has no native mode.
    pub xdp: XdpPolicy,
    /// Source ports full NAT may use towards backends. Must not overlap the host's ephemeral range.
    pub nat_ports: RangeInclusive<u16>,
    /// Source addresses of full NAT; where a family is missing, the route's preferred source is used.
    pub nat_addresses: Vec<IpAddr>,
    /// Outer source addresses of tunnels, at most one block per family: the bits beyond its length
    /// come from the flow's hash. Where a family is missing, the route's preferred source is used.
    pub tunnel_sources: Vec<Prefix>,
    /// UDP port that GUE packets go to on backends.
    pub gue_port: u16,
    /// The most flows recorded per second by each processor.
    pub flow_inserts: u32,
    /// The most ICMP errors made per second by each processor.
    pub icmp_rate: u32,
    pub limits: Limits,
}

/// Sizes of the maps; fixed when the program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Frontends (VIPs, ports, protocol) of all services together.
    pub frontends: u32,
    /// Backends of all services together.
    pub backends: u32,
    /// Servers (distinct backend addresses).
    pub servers: u32,
    /// Bytes of Maglev tables of all services together; a change needs room for the old and the new.
    pub table_bytes: u32,
    /// Flow-table entries (exceptions only).
    pub flows: u32,
    /// NAT connections; each takes two map entries.
    pub nat_connections: u32,
    /// Entries of all services' allow lists and of the block list together.
    pub sources: u32,
    /// Source addresses that rate limits remember.
    pub rates: u32,
    /// QUIC server ids of all services together.
    pub server_ids: u32,
    /// Distinct VIP prefixes, single addresses included.
    pub prefixes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpPolicy {
    /// Native only; refuse to start otherwise.
    Native,
    /// Native, else generic with a warning.
    Auto,
    /// Generic only.
    Generic,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub listen: Vec<Frontend>,
    pub mode: Mode,
    pub health: Health,
    /// `T_idle`: how long a connection may stay silent across a change and still be kept.
    pub idle_timeout: Duration,
    /// The same for UDP flows, 1 second to 1 hour.
    #[serde(default = "udp_timeout")]
    pub udp_timeout: Duration,
    /// How long a backend that returns takes to grow to its full share of new flows; zero is at once.
    pub slow_start: Duration,
    /// How it grows.
    #[serde(default)]
    pub slow_start_curve: Ramp,
    #[serde(default)]
    pub failover: Failover,
    #[serde(default)]
    pub hash: HashPolicy,
    #[serde(default)]
    pub track: Track,
    #[serde(default)]
    pub udp: UdpPolicy,
    /// QUIC packets go by the server id in their connection id; `None` looks at no QUIC header.
    #[serde(default)]
    pub quic: Option<Quic>,
    /// Bytes that the MSS option of TCP handshakes is lowered to; `None` leaves it.
    #[serde(default)]
    pub mss: Option<u16>,
    /// Sources that may use the service; empty is everyone.
    #[serde(default)]
    pub allow: Vec<Prefix>,
    /// New flows that each source address may open; `None` is any number.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// Percent of the backends that must serve, 1 to 100; below, that is an alert. `None`: all.
    #[serde(default)]
    pub capacity_warning: Option<u8>,
    /// Shared as services are.
    pub backends: Vec<Arc<Backend>>,
}

/// What of a packet chooses the backend: flows that are alike in it stay together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashPolicy {
    /// Both addresses, both ports and the protocol: each connection by itself.
    #[default]
    Flow,
    /// The source address alone: a client stays on its backend, whatever it asks for.
    Source,
    /// Both addresses: as `Source`, for each VIP by itself.
    Addresses,
}

/// Which flows are recorded in the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// Only those that the table alone would send elsewhere, during changes.
    #[default]
    Exceptions,
    /// All of them.
    Always,
}

/// What a UDP datagram is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpPolicy {
    /// Nothing: each goes where the table says now.
    #[default]
    Packet,
    /// A flow: it stays on its backend across changes, as a TCP connection does.
    Flow,
}

/// How the server id is found in a QUIC connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quic {
    /// The configuration that connection ids name in their first three bits: 0 to 6.
    pub config_id: u8,
    /// Bytes of every backend's server id: 1 to 8.
    pub server_id_length: u8,
}

/// A token bucket for each source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// New flows per second in the long run.
    pub per_second: u32,
    /// New flows at once after a pause.
    pub burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Full NAT: both addresses rewritten, replies come back through the balancer.
    Nat,
    /// Layer-2 direct server return: only the MAC addresses are rewritten.
    Dsr,
    /// Direct server return through a tunnel: the packet inside an IP header of its own.
    Ipip,
    /// The same inside UDP (generic UDP encapsulation).
    Gue,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Identity within its service; the Maglev table is keyed by it.
    pub name: String,
    /// Of one with a `host` unspecified until the name's address is known: as configured always.
    #[serde(default = "unplaced", skip_serializing_if = "IpAddr::is_unspecified")]
    pub address: IpAddr,
    /// The name whose address it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Which of the name's addresses; `None` is the family of the service's first frontend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Port on the backend; `None` is the frontend's own. Only `nat` can change it.
    pub port: Option<u16>,
    /// Relative share of new flows, 1 to 1000.
    pub weight: u16,
    /// In reserve until too few of the others are well.
    #[serde(default)]
    pub backup: bool,
    /// What the server puts into its QUIC connection ids; there just if the service has `quic`.
    #[serde(default)]
    pub server_id: Option<ServerId>,
}

impl Default for Node {
    /// Everything but the interfaces, which have no sensible default.
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            xdp: XdpPolicy::Native,
            nat_ports: 1024..=32767,
            nat_addresses: Vec::new(),
            tunnel_sources: Vec::new(),
            gue_port: 6080,
            flow_inserts: 50_000,
            icmp_rate: 1_000,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends: 1024,
            backends: 16_384,
            servers: 4096,
            table_bytes: 16 << 20,
            flows: 262_144,
            nat_connections: 262_144,
            sources: 65_536,
            rates: 65_536,
            server_ids: 4_096,
            prefixes: 1_024,
        }
    }
}

impl Service {
    /// The default `idle_timeout`.
    pub const IDLE: Duration = Duration::from_secs(300);
    /// The default `udp_timeout`.
    pub const UDP_IDLE: Duration = Duration::from_secs(60);

    /// A service with all defaults, that listens nowhere and has no backends yet.
    #[must_use]
    pub fn new(name: impl Into<String>, mode: Mode) -> Self {
        Self {
            name: name.into(),
            listen: Vec::new(),
            mode,
            health: Health::new(Probe::Tcp),
            idle_timeout: Self::IDLE,
            udp_timeout: Self::UDP_IDLE,
            slow_start: Duration::ZERO,
            slow_start_curve: Ramp::default(),
            failover: Failover::default(),
            hash: HashPolicy::default(),
            track: Track::default(),
            udp: UdpPolicy::default(),
            quic: None,
            mss: None,
            allow: Vec::new(),
            rate_limit: None,
            capacity_warning: None,
            backends: Vec::new(),
        }
    }

    /// Whether any of its frontends has this protocol.
    #[must_use]
    pub fn speaks(&self, protocol: Protocol) -> bool {
        self.listen.iter().any(|frontend| frontend.protocol == protocol)
    }

    /// Where a backend of it is probed. Port 0 if nothing names one: no valid service is like that.
    #[must_use]
    pub fn probed_at(&self, backend: &Backend) -> SocketAddr {
        let listen = self.listen.first().map_or(0, |frontend| frontend.ports.first);
        SocketAddr::new(backend.address, self.health.port.or(backend.port).unwrap_or(listen))
    }
}

impl Service {
    /// Which way its backends are probed.
    #[must_use]
    pub fn probed_via(&self) -> Via {
        let to_vip = self.mode.is_direct() && self.health.probe.can_be_led();
        self.health.via.unwrap_or(if to_vip { Via::Vip } else { Via::Address })
    }

    /// The VIP that a backend is asked at where probes go a client's way: of the first frontend of
    /// the probe's protocol and the backend's family, else of the first that leads there at all. Of a
    /// prefix the first address after that of the prefix itself, which some kernels take for a
    /// broadcast.
    #[must_use]
    pub fn probed_vip(&self, backend: IpAddr) -> Option<IpAddr> {
        let other = |frontend: &Frontend| frontend.vip.address.is_ipv4() != backend.is_ipv4();
        let leads = |frontend: &&Frontend| self.mode.is_tunnel() || !other(frontend);
        let found = self.listen.iter().filter(leads);
        let by_udp = matches!(self.health.probe, Probe::Dns(_) | Probe::Udp(_));
        let protocol = if by_udp { Protocol::Udp } else { Protocol::Tcp };
        let best = found.min_by_key(|f| (f.protocol != protocol, other(f)))?;
        Some(match best.vip.address {
            IpAddr::V4(v4) if best.vip.length < 31 => Ipv4Addr::from_bits(v4.to_bits() | 1).into(),
            IpAddr::V6(v6) if best.vip.length < 127 => Ipv6Addr::from_bits(v6.to_bits() | 1).into(),
            only => only,
        })
    }
}

impl Service {
    /// What the DNS is asked for a backend of it, if that has a name.
    #[must_use]
    pub fn lookup(&self, backend: &Backend) -> Option<Lookup> {
        let host = backend.host.clone()?;
        Some(Lookup { host, family: self.family_of(backend) })
    }

    /// The family that a backend's address has, or will have.
    #[must_use]
    pub fn family_of(&self, backend: &Backend) -> Family {
        let listen = || self.listen.first().map(|frontend| Family::of(frontend.vip.address));
        let named = backend.host.as_ref().and_then(|_| backend.family.or_else(listen));
        named.unwrap_or_else(|| Family::of(backend.address))
    }

    /// Where a backend of it is.
    #[must_use]
    pub fn location<'a>(&self, backend: &'a Backend) -> Location<'a> {
        match &backend.host {
            Some(host) if !backend.is_placed() => Location::Named(host, self.family_of(backend)),
            _ => Location::At(backend.address),
        }
    }
}

/// The address of a backend whose name has none.
fn unplaced() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

/// For a service that an older version stored.
fn udp_timeout() -> Duration {
    Service::UDP_IDLE
}

impl Backend {
    /// A backend of weight 1, on the VIP's port.
    #[must_use]
    pub fn new(name: impl Into<String>, address: impl Into<Address>) -> Self {
        let (address, host) = match address.into() {
            Address::Ip(address) => (address, None),
            Address::Name(host) => (unplaced(), Some(host)),
        };
        Self {
            name: name.into(),
            address,
            host,
            family: None,
            port: None,
            weight: 1,
            backup: false,
            server_id: None,
        }
    }

    /// Whether its address is known.
    #[must_use]
    pub fn is_placed(&self) -> bool {
        self.host.is_none() || !self.address.is_unspecified()
    }

    /// Its address as it was written.
    #[must_use]
    pub fn written(&self) -> Address {
        match &self.host {
            Some(host) => Address::Name(host.clone()),
            None => Address::Ip(self.address),
        }
    }
}

impl RateLimit {
    /// The most that either of its numbers can be.
    pub const MOST: u32 = 1_000_000;

    /// The burst where none is given: what two seconds allow.
    #[must_use]
    pub fn burst_of(per_second: u32) -> u32 {
        per_second.saturating_mul(2).min(Self::MOST)
    }
}

impl Mode {
    /// Whether backends answer clients themselves, past the balancer: all but `nat`.
    #[must_use]
    pub const fn is_direct(self) -> bool {
        !matches!(self, Self::Nat)
    }

    /// Whether packets to backends travel inside others: they may be of another family than the
    /// VIP, and routers may lie on the way.
    #[must_use]
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }
}

impl fmt::Display for XdpPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Auto => "auto",
            Self::Generic => "generic",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vip => "vip",
            Self::Address => "address",
        })
    }
}

impl fmt::Display for HashPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flow => "flow",
            Self::Source => "source",
            Self::Addresses => "addresses",
        })
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exceptions => "exceptions",
            Self::Always => "always",
        })
    }
}

impl fmt::Display for UdpPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packet => "packet",
            Self::Flow => "flow",
        })
    }
}
