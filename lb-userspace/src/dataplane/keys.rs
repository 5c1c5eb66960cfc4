//! What records of the service table are found by, in the daemon's terms and in the program's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::abi::{
    Address, AddressKey, KEY_PREFIX, PORT_EXACT, PORT_FRAGMENTS, ServiceRecord, list_word, port_key,
};
use lb_common::find_service::prefix_name;
use lb_common::ip::{Ip, V4, V6};

use crate::config::model::Prefix;

/// What a record is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub vip: Prefix,
    /// Zero for the address alone.
    pub protocol: u8,
    /// The first of its block, host order.
    pub port: u16,
    /// Bits of the port that count, or [`PORT_FRAGMENTS`].
    pub bits: u32,
}

impl Key {
    /// What the node does with an address, or all of a prefix, apart from any port.
    #[must_use]
    pub const fn alone(vip: Prefix) -> Self {
        Self { vip, protocol: 0, port: 0, bits: PORT_EXACT }
    }

    /// One address, one port.
    #[must_use]
    pub fn exact(address: IpAddr, port: u16, protocol: u8) -> Self {
        Self::range(Prefix::host(address), port, PORT_EXACT, protocol)
    }

    /// All ports that share their first `bits` bits with this one, whose others are zero.
    #[must_use]
    pub const fn range(vip: Prefix, port: u16, bits: u32, protocol: u8) -> Self {
        Self { vip, protocol, port, bits }
    }

    /// Fragments, which have no ports.
    #[must_use]
    pub const fn fragments(vip: Prefix, protocol: u8) -> Self {
        Self { vip, protocol, port: 0, bits: PORT_FRAGMENTS }
    }

    /// Whether it stands for the address alone.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.protocol == 0
    }

    /// The least is the most specific; what an address alone has comes before its ports.
    pub(super) fn rank(&self) -> (Reverse<u8>, Prefix, Reverse<bool>, Reverse<u32>, Self) {
        (Reverse(self.vip.length), self.vip, Reverse(self.is_alone()), Reverse(self.bits), *self)
    }

    /// Address and key word, as the program has them.
    #[must_use]
    pub fn words(&self) -> (Address, u32) {
        let (address, family) = (address(self.vip.address), family(self.vip.address));
        let (address, space) = if self.vip.is_host() {
            (address, 0)
        } else {
            (prefix_name(&address, u32::from(self.vip.length), family), KEY_PREFIX)
        };
        (address, port_key(self.port.to_be(), self.bits, self.protocol | space, family))
    }
}

/// What the service table shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Records but for their keys and addresses. Of addresses alone: those that are VIPs.
    pub records: BTreeMap<Key, ServiceRecord>,
    /// VIPs that are more than one address.
    pub prefixes: BTreeSet<Prefix>,
}

/// An address as the program has it.
#[must_use]
pub fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => bytemuck::cast(v6.octets()),
    }
}

/// The family of an address, as the program has it.
#[must_use]
pub fn family(address: IpAddr) -> u32 {
    if address.is_ipv4() { V4::FAMILY } else { V6::FAMILY }
}

/// The key of a prefix in a longest-match map, on the list of a number.
#[must_use]
pub fn prefix_key(list: u32, prefix: Prefix) -> AddressKey {
    AddressKey {
        bits: 32 + u32::from(prefix.length),
        list: list_word(list, family(prefix.address)),
        address: address(prefix.address),
    }
}
