//! What the kernel knows of the network: links, addresses, and the next hop to every server.
//!
//! All of it is read over netlink in the network namespace of the calling thread. Nothing here
//! changes links, addresses or routes; the one thing asked of the kernel is to look for neighbours.

mod facts;
mod hop;
mod links;
mod netlink;
mod resolver;
#[cfg(test)]
pub(crate) mod testbed;

pub use facts::Link;
pub use hop::{HopProblem, NextHop};
pub use links::{ip_local_port_range, link_by_name, local_addresses};
pub use resolver::{NextHopEvent, Resolver};

/// The six bytes of an Ethernet address as people write them.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
