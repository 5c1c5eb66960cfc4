//! Where a service listens: addresses, ports and a protocol, `192.0.2.10:80/tcp`.
//!
//! Where several match a packet, the most specific one has it: first by the longer prefix, then by
//! the fewer ports. The checks see to it that this always names one.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::malformed::Malformed;
use super::prefix::Prefix;

/// VIPs, ports and protocol: `192.0.2.10:80/tcp`, `192.0.2.0/24:8000-8999/udp`,
/// `[2001:db8::/64]:*/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frontend {
    pub vip: Prefix,
    pub ports: Ports,
    pub protocol: Protocol,
}

/// Ports from the first to the last. Port 0 is never matched, so 0–65535 and 1–65535 mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    pub first: u16,
    /// Included.
    pub last: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Frontend {
    /// One address and one port.
    #[must_use]
    pub fn single(vip: SocketAddr, protocol: Protocol) -> Self {
        Self { vip: Prefix::host(vip.ip()), ports: Ports::single(vip.port()), protocol }
    }

    /// Its address and port, if it has one of each.
    #[must_use]
    pub fn as_single(&self) -> Option<SocketAddr> {
        let single = self.vip.is_host() && self.ports.is_single();
        single.then_some(SocketAddr::new(self.vip.address, self.ports.first))
    }

    /// Whether a packet to this address and port is for it; more specific ones may win.
    #[must_use]
    pub fn matches(&self, vip: SocketAddr, protocol: Protocol) -> bool {
        self.protocol == protocol && self.ports.contains(vip.port()) && self.vip.contains(vip.ip())
    }

    /// Greater is more specific, and has the packet where several match.
    #[must_use]
    pub fn specificity(&self) -> (u8, Reverse<u16>) {
        (self.vip.length, Reverse(self.ports.last.saturating_sub(self.ports.first)))
    }
}

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    #[must_use]
    pub const fn is_single(&self) -> bool {
        self.first == self.last
    }

    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.first <= 1 && self.last == u16::MAX
    }

    /// Whether a packet to this port is meant; port 0 never is.
    #[must_use]
    pub const fn contains(&self, port: u16) -> bool {
        port != 0 && self.first <= port && port <= self.last
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

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            f.write_str("*")
        } else if self.is_single() {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, ports, protocol } = self;
        match vip.address {
            IpAddr::V4(_) => write!(f, "{vip}:{ports}/{protocol}"),
            IpAddr::V6(_) => write!(f, "[{vip}]:{ports}/{protocol}"),
        }
    }
}

impl From<Frontend> for String {
    fn from(frontend: Frontend) -> Self {
        frontend.to_string()
    }
}

impl TryFrom<String> for Frontend {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

const WANTED: &str = "expected ADDRESS:PORT/tcp or /udp, such as 192.0.2.10:80/tcp or \
                      [2001:db8::10]:80/tcp; the address may be a prefix, and the port a range or \
                      *: 192.0.2.0/24:8000-8999/tcp, [2001:db8::/64]:*/udp";

impl FromStr for Ports {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let wanted = "write a port, a range such as 8000-8999, or * for all";
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten().ok_or_else(|| {
                let message = format!("'{}' is not a port", text.escape_debug());
                Malformed::new(message, wanted)
            })
        };
        if text == "*" {
            return Ok(Self::ALL);
        }
        let ports = match text.split_once('-') {
            Some((first, last)) => Self { first: number(first)?, last: number(last)? },
            None => Self::single(number(text)?),
        };
        if ports.first > ports.last {
            let message = format!("the range {text} ends before it begins");
            return Err(Malformed::new(message, "write the lower port first"));
        }
        // One form for what means the same.
        Ok(if ports.is_all() { Self::ALL } else { ports })
    }
}

impl FromStr for Frontend {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let shown = text.escape_debug();
        let wrong = |message: String| Malformed::new(message, WANTED);
        // A zone would be dropped silently: it has no meaning for a VIP.
        if text.contains('%') {
            return Err(wrong(format!("'{shown}' has a zone")));
        }
        let no_protocol = || wrong(format!("'{shown}' has no protocol"));
        let (socket, protocol) = text.rsplit_once('/').ok_or_else(no_protocol)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            // What follows the slash is a prefix's length.
            other if other.starts_with(|c: char| c.is_ascii_digit()) => return Err(no_protocol()),
            other => return Err(wrong(format!("'{}' is not a protocol", other.escape_debug()))),
        };
        let no_socket = || wrong(format!("'{}' is not an address and port", socket.escape_debug()));
        let (vip, ports) = socket.rsplit_once(':').ok_or_else(no_socket)?;
        let vip = match vip.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inner)) if inner.contains(':') => inner,
            None if !vip.contains(':') => vip,
            _ => return Err(no_socket()),
        };
        let vip = vip.parse::<Prefix>()?;
        Ok(Self { vip, ports: ports.parse()?, protocol })
    }
}
