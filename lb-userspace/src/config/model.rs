//! A validated desired configuration: what `lb run`, `lb apply` and every revision hold.
//!
//! Values of these types have passed every cross-check of [`super::parse`]; the rest of the
//! daemon relies on that and checks nothing again. Order is the order of the file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One whole desired configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub node: Node,
    pub services: Vec<Service>,
}

/// What concerns this machine alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Interfaces the program is attached to; every next hop must leave through one of them.
    pub interfaces: Vec<String>,
    /// Whether generic XDP is acceptable where the driver has no native mode.
    pub xdp: XdpPolicy,
    /// Source ports full NAT may use towards backends. Must not overlap the host's ephemeral range.
    pub nat_ports: RangeInclusive<u16>,
    /// Source addresses of full NAT; where a family is missing, the route's preferred source is used.
    pub nat_addresses: Vec<IpAddr>,
    pub limits: Limits,
}

/// Sizes of the maps; fixed when the program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Frontends (address, port, protocol) of all services together.
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
    /// How long a backend that returns takes to grow to its full share of new flows; zero is at once.
    pub slow_start: Duration,
    pub backends: Vec<Backend>,
}

/// A VIP, port and protocol, written `192.0.2.10:80/tcp`, `[2001:db8::10]:53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frontend {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Full NAT: both addresses rewritten, replies come back through the balancer.
    Nat,
    /// Layer-2 direct server return: only the MAC addresses are rewritten.
    Dsr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Identity within its service; the Maglev table is keyed by it.
    pub name: String,
    pub address: IpAddr,
    /// Port on the backend; `None` is the frontend's own. Always `None` in `dsr`.
    pub port: Option<u16>,
    /// Relative share of new flows, 1 to 1000.
    pub weight: u16,
}

/// How a service's backends are probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub probe: Probe,
    /// Port probed; `None` is the backend's port.
    pub port: Option<u16>,
    pub interval: Duration,
    /// Interval from the first contrary result until the state is settled.
    pub fast_interval: Duration,
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Not probed: always taken to be up.
    None,
    Tcp,
    Http {
        path: String,
        /// `Host` header; `None` is the address probed.
        host: Option<String>,
        /// Accepted status codes, inclusive.
        status: RangeInclusive<u16>,
    },
}

impl Default for Node {
    /// Everything but the interfaces, which have no sensible default.
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            xdp: XdpPolicy::Native,
            nat_ports: 1024..=32767,
            nat_addresses: Vec::new(),
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
        }
    }
}

impl Service {
    /// The default `idle_timeout`.
    pub const IDLE: Duration = Duration::from_secs(300);

    /// Where a backend of it is probed.
    #[must_use]
    pub fn probed_at(&self, backend: &Backend) -> SocketAddr {
        let listen = self.listen.first().map_or(0, |frontend| frontend.port);
        SocketAddr::new(backend.address, self.health.port.or(backend.port).unwrap_or(listen))
    }
}

impl Health {
    /// The status codes an HTTP probe accepts by default.
    pub const STATUS: RangeInclusive<u16> = 200..=399;

    /// The shortest interval or timeout a probe can have.
    pub const SHORTEST: Duration = Duration::from_millis(10);

    /// A probe with the default times.
    #[must_use]
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(100),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
        }
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

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
        })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = SocketAddr::new(self.address, self.port);
        write!(f, "{socket}/{}", self.protocol)
    }
}

impl From<Frontend> for String {
    fn from(frontend: Frontend) -> Self {
        frontend.to_string()
    }
}

impl TryFrom<String> for Frontend {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Frontend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted =
            "expected ADDRESS:PORT/tcp or /udp, such as 192.0.2.10:80/tcp or [2001:db8::10]:80/tcp";
        // A zone would be dropped silently: it has no meaning for a VIP.
        if text.contains('%') {
            return Err(format!("'{text}' has a zone: {wanted}"));
        }
        let (socket, protocol) =
            text.rsplit_once('/').ok_or_else(|| format!("'{text}' has no protocol: {wanted}"))?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(format!("'{other}' is not a protocol: {wanted}")),
        };
        let socket: SocketAddr = socket
            .parse()
            .map_err(|_| format!("'{socket}' is not an address and port: {wanted}"))?;
        Ok(Self { address: socket.ip(), port: socket.port(), protocol })
    }
}
