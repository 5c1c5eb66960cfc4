//! What a probe asks of a backend, and which answer passes.

mod ca;
mod payload;
mod statuses;
mod words;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use ca::Ca;
pub use payload::Payload;
pub use statuses::Statuses;
pub(crate) use words::Word;

/// How a service's backends are probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub probe: Probe,
    /// Port probed; `None` is the backend's port.
    pub port: Option<u16>,
    /// Address that probes come from; `None` is the route's preferred source.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Which way probes go; `None` is the mode's and the protocol's
    /// ([`Service::probed_via`](super::model::Service::probed_via)).
    #[serde(default)]
    pub via: Option<Via>,
    pub interval: Duration,
    /// Interval from the first contrary result until the state is settled.
    pub fast_interval: Duration,
    /// Per cent of the interval by which it is shortened at random, at most.
    #[serde(default = "jitter")]
    pub jitter: u8,
    pub timeout: Duration,
    /// Consecutive successes that bring a backend up.
    pub rise: u32,
    /// Consecutive failures that take a backend down.
    pub fall: u32,
    /// How long a backend that goes down a second time stays down at least; twice as long each
    /// further time. Zero is off.
    #[serde(default = "hold_down")]
    pub hold_down: Duration,
    /// The longest of these times; a backend that was up for as long begins anew.
    #[serde(default = "hold_down_max")]
    pub hold_down_max: Duration,
}

/// Which way probes go to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// A client's: to the VIP, by the service's mode.
    Vip,
    /// Straight to the backend's own address.
    Address,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Not probed: always taken to be up.
    None,
    Tcp,
    Http(Http),
    Grpc(Grpc),
    Dns(Dns),
    Udp(Udp),
    Icmp,
    Exec(Exec),
}

/// An HTTP/1.1 request; with `tls` that is HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    pub path: String,
    #[serde(default)]
    pub method: Method,
    /// `Host` header; `None` is the address probed.
    pub host: Option<String>,
    pub status: Statuses,
    /// What the body must be like; `None` leaves it unread.
    #[serde(default)]
    pub body: Option<BodyMatch>,
    #[serde(default)]
    pub tls: Option<Tls>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    #[default]
    Get,
    Head,
    Options,
    Post,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyMatch {
    /// The body has this text in it.
    Contains(String),
    /// The body matches this regular expression somewhere.
    Regex(String),
}

/// How a server proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Name asked for (SNI) and expected; `None` is that of `host`, else the address probed.
    pub sni: Option<String>,
    /// Who must have signed the certificate; `None` is whom the system trusts.
    pub ca: Option<Ca>,
    /// Any certificate will do.
    pub insecure: bool,
}

/// `grpc.health.v1.Health/Check`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grpc {
    /// Empty asks for the server as a whole.
    pub service: String,
    /// `None` is HTTP/2 without TLS, with prior knowledge.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// One question over UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub name: String,
    pub record: RecordType,
    pub rcode: Rcode,
    /// What one of the answers must be; `None` looks at the rcode alone.
    pub answer: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordType {
    #[default]
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Rcode {
    #[default]
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
}

/// A datagram that must be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Udp {
    pub payload: Payload,
    /// Bytes that must be in the answer; `None` takes any.
    pub expect: Option<Payload>,
}

/// A program whose exit status 0 passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Absolute path.
    pub program: String,
    pub arguments: Vec<String>,
}

impl Health {
    /// The shortest interval or timeout a probe can have.
    pub const SHORTEST: Duration = Duration::from_millis(10);

    /// Per cent.
    pub const JITTER: u8 = 10;

    /// The default `hold_down`.
    pub const HOLD_DOWN: Duration = Duration::from_secs(1);
    /// The default `hold_down_max`.
    pub const HOLD_DOWN_MAX: Duration = Duration::from_secs(60);

    /// A probe with the default times.
    #[must_use]
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            port: None,
            source: None,
            via: None,
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(100),
            jitter: Self::JITTER,
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            hold_down: Self::HOLD_DOWN,
            hold_down_max: Self::HOLD_DOWN_MAX,
        }
    }
}

/// For a probe that an older version stored; so are the next two.
fn jitter() -> u8 {
    Health::JITTER
}

fn hold_down() -> Duration {
    Health::HOLD_DOWN
}

fn hold_down_max() -> Duration {
    Health::HOLD_DOWN_MAX
}

impl Probe {
    /// The key that chooses it.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http(Http { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Grpc(_) => "grpc",
            Self::Dns(_) => "dns",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
            Self::Exec(_) => "exec",
        }
    }

    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Http(http) => http.tls.as_ref(),
            Self::Grpc(grpc) => grpc.tls.as_ref(),
            _ => None,
        }
    }

    /// Whether it can be led to the VIP: what goes over TCP or UDP, from sockets of the daemon.
    #[must_use]
    pub fn can_be_led(&self) -> bool {
        !matches!(self, Self::None | Self::Icmp | Self::Exec(_))
    }

    /// Whether it goes to a port at all.
    #[must_use]
    pub fn has_port(&self) -> bool {
        !matches!(self, Self::None | Self::Icmp)
    }
}

impl Http {
    /// `GET` of `path`, with the status codes that pass by default.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            method: Method::Get,
            host: None,
            status: Statuses::default(),
            body: None,
            tls: None,
        }
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}
