//! Netlink messages reduced to the facts that next hops depend on.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// `None` where it has no Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up and with a carrier.
    pub up: bool,
    /// As `ip -d link` says: `veth`, `bridge`…; `None` for most hardware.
    pub kind: Option<String>,
    /// Index of the bond, bridge… that it is a member of.
    pub master: Option<u32>,
    /// What a VLAN sub-interface adds to its parent's frames.
    pub vlan: Option<Vlan>,
}

/// The tag of a VLAN sub-interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Index of the interface that carries the tagged frames; `None` where that one is in another
    /// network namespace.
    pub parent: Option<u32>,
    pub id: u16,
    /// Tagged as 802.1Q says; otherwise as 802.1ad does.
    pub dot1q: bool,
}

pub(super) type Links = BTreeMap<u32, Link>;

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            kind: None,
            master: None,
            vlan: None,
        };
        let (mut below, mut abroad) = (None, false);
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) if ethernet => {
                    link.mac = bytes.as_slice().try_into().ok();
                }
                LinkAttribute::Link(ifindex) => below = Some(*ifindex),
                LinkAttribute::LinkNetNsId(_) => abroad = true,
                LinkAttribute::Controller(ifindex) => {
                    link.master = Some(*ifindex).filter(|ifindex| *ifindex != 0);
                }
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Vlan(data)) => link.vlan = tag(data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(vlan) = &mut link.vlan {
            vlan.parent = below.filter(|_| !abroad);
        }
        link
    }
}

/// The parent is told outside of this data.
fn tag(data: &[InfoVlan]) -> Option<Vlan> {
    let id = data.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let other = |info: &InfoVlan| match info {
        InfoVlan::Protocol(protocol) => *protocol != VlanProtocol::Ieee8021Q,
        _ => false,
    };
    Some(Vlan { parent: None, id, dot1q: !data.iter().any(other) })
}

/// The kernel's answer to "how would you reach it?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) local: bool,
    pub(super) ifindex: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
}

impl Route {
    /// `None` where the answer leads nowhere (blackhole, multicast and the like).
    pub(super) fn read(message: &RouteMessage) -> Option<Self> {
        let local = match message.header.kind {
            RouteType::Local | RouteType::Anycast => true,
            RouteType::Unicast => false,
            _ => return None,
        };
        let mut route = Self { local, ifindex: 0, gateway: None, source: None, mtu: None };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
                RouteAttribute::Gateway(gateway) => route.gateway = route_address(gateway),
                // An IPv4 route may have an IPv6 gateway (RFC 8950).
                RouteAttribute::Via(RouteVia::Inet(v4)) => route.gateway = Some((*v4).into()),
                RouteAttribute::Via(RouteVia::Inet6(v6)) => route.gateway = Some((*v6).into()),
                RouteAttribute::PrefSource(source) => route.source = route_address(source),
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(route)
    }
}

/// Whether `address` lies in the prefix of a route that was added or removed.
pub(super) fn route_covers(message: &RouteMessage, address: IpAddr) -> bool {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(destination) => route_address(destination),
        _ => None,
    });
    let bits = u32::from(message.header.destination_prefix_length);
    match (destination, address) {
        (Some(IpAddr::V4(prefix)), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            (prefix.to_bits() ^ address.to_bits()) & mask == 0
        }
        (Some(IpAddr::V6(prefix)), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            (prefix.to_bits() ^ address.to_bits()) & mask == 0
        }
        (Some(_), _) => false,
        (None, _) => true,
    }
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => known(*v4),
        RouteAddress::Inet6(v6) => (*v6 != Ipv6Addr::UNSPECIFIED).then_some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn known(v4: Ipv4Addr) -> Option<IpAddr> {
    (v4 != Ipv4Addr::UNSPECIFIED).then_some(IpAddr::V4(v4))
}

/// What the neighbour table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// Nobody asked yet.
    Absent,
    /// Being asked for.
    Pending,
    /// Asked for in vain.
    Failed,
    /// Known; `stale` when the kernel would confirm it at the next use.
    Known { mac: [u8; 6], stale: bool },
}

impl Neighbour {
    pub(super) fn read(message: &NeighbourMessage) -> Self {
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        });
        match (message.header.state, mac) {
            (NeighbourState::Failed, _) => Self::Failed,
            (NeighbourState::Incomplete, _) => Self::Pending,
            (NeighbourState::None, _) | (_, None) => Self::Absent,
            (state, Some(mac)) => Self::Known { mac, stale: state == NeighbourState::Stale },
        }
    }
}

/// Interface and address of an entry of the neighbour table; `None` if it is not of IP.
pub(super) fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
            Some((message.header.ifindex, IpAddr::V4(*v4)))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
            Some((message.header.ifindex, IpAddr::V6(*v6)))
        }
        _ => None,
    })
}

/// The host's own address in an address message: `IFA_LOCAL` where a peer is set, else `IFA_ADDRESS`.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(plain) => address = Some(*plain),
            _ => {}
        }
    }
    address
}
