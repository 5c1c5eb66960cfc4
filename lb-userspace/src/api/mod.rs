//! The daemon's HTTP/JSON interface on a Unix socket, and its client.
//!
//! Who may connect is the socket file's business; who may *change* something is decided by the
//! peer's uid, which the kernel vouches for. Bodies are [`crate::report`]'s types both ways, and
//! every refusal is a [`crate::report::Error`]. Nothing a client sends can panic the daemon.

mod client;
mod routes;
mod server;
mod socket;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::model::{Address, Family, Prefix, Protocol, ServerId};

pub use client::{Client, Failure};
pub use server::serve;
pub use socket::{Listener, bind};

/// The largest configuration read, as JSON: there a backend has up to three times the bytes that it
/// has in a file.
const MAX_CONFIG: usize = 3 * crate::config::MAX_BYTES;
/// The largest of all other bodies: anybody who may look can send one.
const MAX_BODY: usize = 16 << 10;

/// `POST /v1/backends/{service}/{name}`; the name is in the path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    pub address: Address,
    /// Which addresses of a host name.
    #[serde(default)]
    pub family: Option<Family>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default = "one")]
    pub weight: u16,
    /// In reserve until too few of the others are well.
    #[serde(default)]
    pub backup: bool,
    /// Hexadecimal; for services with `quic`.
    #[serde(default)]
    pub server_id: Option<ServerId>,
}

/// `PUT /v1/backends/{service}/{name}/weight`
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWeight {
    pub weight: u16,
}

/// `POST /v1/backends/{service}/{name}/drain` and `…/maint`; an empty body will do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    #[serde(default)]
    pub reason: Option<String>,
    /// When it is to be taken back, from now; it is then warned of.
    #[serde(default)]
    pub for_ms: Option<u64>,
    /// Even if too few would be left.
    #[serde(default)]
    pub force: bool,
}

/// `DELETE /v1/backends/{service}/{name}`; an empty body will do.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Even if too few would be left.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/health/freeze`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewFreeze {
    /// All services if not given.
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub reason: Option<String>,
    /// It ends by itself after this time.
    pub for_ms: u64,
}

/// `POST /v1/health/thaw`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thaw {
    /// All services if not given.
    #[serde(default)]
    pub service: Option<String>,
}

/// `POST /v1/blocks`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBlock {
    pub prefix: Prefix,
    #[serde(default)]
    pub reason: Option<String>,
    /// How long; for good if not given.
    #[serde(default)]
    pub for_ms: Option<u64>,
    /// Even if it holds a backend's address or this host's.
    #[serde(default)]
    pub force: bool,
}

/// `DELETE /v1/blocks`
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OldBlock {
    pub prefix: Prefix,
}

/// `POST /v1/explain`
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub vip: SocketAddr,
}

fn one() -> u16 {
    1
}
