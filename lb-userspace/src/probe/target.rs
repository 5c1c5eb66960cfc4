//! Where a probe goes, and in whose name.

use std::net::{IpAddr, SocketAddr};

use crate::config::model::{Backend, Service};

/// One backend to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where packets are sent, which need not be the backend's own address.
    pub address: SocketAddr,
    /// Where packets come from; `None` is the route's preferred source.
    pub source: Option<IpAddr>,
    /// `SO_MARK` of the sockets.
    pub mark: Option<u32>,
    /// Names of the service and the backend: what programs are told.
    pub service: String,
    pub backend: String,
}

impl Target {
    /// Where the configuration has a backend probed.
    #[must_use]
    pub fn new(service: &Service, backend: &Backend) -> Self {
        Self {
            address: service.probed_at(backend),
            source: service.health.source,
            mark: None,
            service: service.name.clone(),
            backend: backend.name.clone(),
        }
    }

    /// Whether answers come from the same place, so that what is known of it still holds.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.address == other.address && self.mark == other.mark
    }
}
