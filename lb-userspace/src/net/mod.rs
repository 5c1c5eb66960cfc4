//! What the kernel knows of the network: links, addresses, and the next hop to every server.
//!
//! All of it is read over netlink in the network namespace of the calling thread, but for path MTUs,
//! which come as ICMP messages. Nothing here changes links, addresses or routes; what is asked of the
//! kernel is to look for neighbours, and to take off the `clsact` that we put on an interface.

mod devices;
mod facts;
mod hop;
mod links;
#[cfg(test)]
mod messages;
mod netlink;
mod path_mtu;
mod resolver;
#[cfg(test)]
pub(crate) mod testbed;

pub use devices::{InterfaceProblem, VlanProblem};
pub use facts::{Link, Vlan};
pub use hop::{HopProblem, NextHop, Remote};
pub use links::{
    addresses_of, devices, first_down, ip_local_port_range, local_addresses, remove_idle_clsact,
};
pub use path_mtu::{LIFETIME as PATH_MTU_LIFETIME, PathMtuListener, PathMtus, Said, TooBig};
pub use resolver::{NextHopEvent, Resolver};

/// Where distributions keep the certificate authorities that they trust: Debian and Arch, Fedora,
/// SUSE, Alpine.
pub(crate) const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The six bytes of an Ethernet address as people write them.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
