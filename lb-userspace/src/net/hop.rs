//! From the kernel's facts to a server's next hop, or to what is wrong and what to do.
//!
//! Pure: the facts are arguments.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::abi::IFINDEX_LOCAL;

use super::devices::{self, Egress, VlanProblem};
use super::facts::{Link, Links, Neighbour, Route};

/// Where a server's packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// The server is this host: its packets pass to this kernel.
    Local,
    /// It is another, reached by frames.
    Remote(Remote),
}

/// How frames reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The device they leave by, or [`lb_common::abi::IFINDEX_INGRESS`]: the one their packet came by, as
    /// they leave by a bond whose members the program runs on.
    pub ifindex: u32,
    /// Id of the 802.1Q tag to push; 0 for none.
    pub vlan: u16,
    /// What the route names: the VLAN sub-interface or the bond, where there is one.
    pub interface: String,
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Router on the way, where the server is not on-link. An IPv4 server may have an IPv6 one
    /// (RFC 8950, before that RFC 5549).
    pub via: Option<IpAddr>,
    /// The kernel's preferred source for this destination; unspecified where the host has none.
    pub source: IpAddr,
    /// Largest IP packet on the way as far as this host knows, in bytes: the least of the links it
    /// passes and the route's.
    pub mtu: u32,
}

impl NextHop {
    /// The way of frames; `None` where the server is this host.
    #[must_use]
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Local => None,
            Self::Remote(remote) => Some(remote),
        }
    }

    /// As the program takes it: an interface's, [`lb_common::abi::IFINDEX_INGRESS`] or [`IFINDEX_LOCAL`].
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.remote().map_or(IFINDEX_LOCAL, |remote| remote.ifindex)
    }

    /// Id of the 802.1Q tag to push; 0 for none.
    #[must_use]
    pub fn vlan(&self) -> u16 {
        self.remote().map_or(0, |remote| remote.vlan)
    }

    /// Destination and source MAC address as a frame begins; zero where the server is this host.
    #[must_use]
    pub fn ethernet(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        if let Some(remote) = self.remote() {
            let (destination, source) = bytes.split_at_mut(6);
            destination.copy_from_slice(&remote.destination_mac);
            source.copy_from_slice(&remote.source_mac);
        }
        bytes
    }
}

/// Why there is no next hop. The text says what to do; the server is the reader's to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HopProblem {
    NoRoute,
    /// The route leaves by an interface that is not in `interfaces`.
    WrongInterface {
        name: String,
    },
    /// The server, or the router towards it, does not answer ARP or ND.
    NoNeighbour {
        address: IpAddr,
        interface: String,
    },
    LinkDown {
        name: String,
    },
    /// In `nat`: the server is this host.
    LocalAddress,
    /// The route leaves by a VLAN sub-interface that cannot be used.
    Vlan {
        name: String,
        problem: VlanProblem,
    },
    /// The route leaves by a bond, and the program runs on an interface outside of it as well.
    BesideBond {
        bond: String,
        other: String,
    },
    NotEthernet {
        name: String,
    },
    /// In `dsr`: a router is on the way.
    Routed {
        via: IpAddr,
    },
    /// In `nat`: this host has no address to send from.
    NoSource,
}

impl fmt::Display for HopProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str(
                "no route to it: give this host an address in its subnet, or add a route",
            ),
            Self::WrongInterface { name } => write!(
                f,
                "the route leaves by {name}, where Holdfast is not attached: add \"{name}\" to \
                 `interfaces`, or route it through one of those"
            ),
            Self::NoNeighbour { address, interface } => {
                let protocol = if address.is_ipv4() { "ARP" } else { "neighbour discovery" };
                write!(
                    f,
                    "{address} does not answer {protocol} on {interface}: check that it runs, has \
                     this address, and is in the same network segment"
                )
            }
            Self::LinkDown { name } => write!(
                f,
                "interface {name} is down: `ip link set {name} up`, else check cable and switch"
            ),
            Self::LocalAddress => f.write_str(
                "the address is this host's own, which `nat` cannot reach: use `dsr`, or another \
                 server",
            ),
            Self::Vlan { name, problem } => {
                write!(f, "the route leaves by {name}, a VLAN {problem}")
            }
            Self::BesideBond { bond, other } => write!(
                f,
                "the route leaves by the bond {bond}, so Holdfast sends by the member that a packet \
                 came by, but {other} is no member: take \"{other}\" out of `interfaces`, or route \
                 it through {other}"
            ),
            Self::Routed { via } => write!(
                f,
                "it is behind router {via}, which `dsr` cannot cross: put it in this host's network \
                 segment, or use `nat`"
            ),
            Self::NoSource => f.write_str(
                "this host has no address of its family for `nat` to send from: add one, or set \
                 `nat_addresses`",
            ),
            Self::NotEthernet { name } => write!(
                f,
                "the route leaves by {name}, which is not Ethernet: route it through one that is"
            ),
        }
    }
}

/// Where the kernel's answer leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Towards {
    /// To this host itself.
    Here,
    /// To a neighbour, whose MAC address is wanted.
    Neighbour(Way),
}

/// Where a neighbour is needed: which one, and all else of the hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Whose neighbour it is: the route's interface, not the device beneath it.
    pub(super) ifindex: u32,
    pub(super) interface: String,
    egress: Egress,
    source_mac: [u8; 6],
    /// Whose MAC is wanted: the router's or the server's.
    pub(super) neighbour: IpAddr,
    via: Option<IpAddr>,
    source: IpAddr,
}

impl Way {
    pub(super) fn same_neighbour(&self, other: &Self) -> bool {
        (self.ifindex, self.neighbour) == (other.ifindex, other.neighbour)
    }
}

/// All of the answer but the neighbour. `attached` are the devices the program runs on, `last` the
/// route's interface of the last good answer.
pub(super) fn towards(
    server: IpAddr,
    route: Option<&Route>,
    links: &Links,
    attached: &BTreeSet<u32>,
    last: Option<u32>,
) -> Result<Towards, HopProblem> {
    let Some(route) = route else {
        // A link that goes down takes its routes with it.
        let cause = down_since(links, last).or_else(|| any_down(links, attached));
        return Err(cause.unwrap_or(HopProblem::NoRoute));
    };
    if route.local {
        return Ok(Towards::Here);
    }
    let link = links.get(&route.ifindex).ok_or(HopProblem::NoRoute)?;
    let egress = devices::egress(link, links, attached).map_err(|problem| match problem {
        // While our interface is down, the default route of another takes over.
        HopProblem::WrongInterface { .. } => down_since(links, last).unwrap_or(problem),
        _ => problem,
    })?;
    let name = || link.name.clone();
    let source_mac = link.mac.ok_or_else(|| HopProblem::NotEthernet { name: name() })?;
    Ok(Towards::Neighbour(Way {
        ifindex: link.ifindex,
        interface: name(),
        egress: Egress { mtu: route.mtu.unwrap_or(u32::MAX).min(egress.mtu), ..egress },
        source_mac,
        neighbour: route.gateway.unwrap_or(server),
        via: route.gateway,
        source: route.source.unwrap_or_else(|| unspecified(server)),
    }))
}

/// The answer, given the neighbour; `None` while it is still being asked for.
pub(super) fn hop(way: &Way, neighbour: Neighbour) -> Option<Result<NextHop, HopProblem>> {
    match neighbour {
        Neighbour::Absent | Neighbour::Pending => None,
        Neighbour::Failed => Some(Err(no_neighbour(way))),
        Neighbour::Known { mac, .. } => Some(Ok(NextHop::Remote(Remote {
            ifindex: way.egress.ifindex,
            vlan: way.egress.vlan,
            interface: way.interface.clone(),
            source_mac: way.source_mac,
            destination_mac: mac,
            via: way.via,
            source: way.source,
            mtu: way.egress.mtu,
        }))),
    }
}

pub(super) fn no_neighbour(way: &Way) -> HopProblem {
    HopProblem::NoNeighbour { address: way.neighbour, interface: way.interface.clone() }
}

fn down_since(links: &Links, last: Option<u32>) -> Option<HopProblem> {
    links.get(&last?).filter(|link| !link.up).map(link_down)
}

/// Any interface that a server could be reached by, and is down.
fn any_down(links: &Links, attached: &BTreeSet<u32>) -> Option<HopProblem> {
    let alone = links.values().filter(|link| !devices::in_bond(link, links));
    alone.map(|link| devices::egress(link, links, attached)).find_map(|egress| match egress {
        Err(down @ HopProblem::LinkDown { .. }) => Some(down),
        _ => None,
    })
}

fn link_down(link: &Link) -> HopProblem {
    HopProblem::LinkDown { name: link.name.clone() }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn link(ifindex: u32, name: &str) -> Link {
        let mac = Some([2, 0, 0, 0, 0, 1]);
        let (kind, master, vlan) = (None, None, None);
        Link { ifindex, name: name.into(), mac, mtu: 1500, up: true, kind, master, vlan }
    }

    fn route(ifindex: u32) -> Route {
        let source = Some("10.0.0.1".parse().unwrap());
        Route { local: false, ifindex, gateway: None, source, mtu: None }
    }

    /// Interface 1 (`eth0`) is allowed, 2 (`eth1`) is not; `edit` spoils the good case.
    fn check(
        edit: impl Fn(&mut Links, &mut Option<Route>),
        last: Option<u32>,
        neighbour: Neighbour,
    ) -> Option<Result<NextHop, HopProblem>> {
        let mut links = Links::from([(1, link(1, "eth0")), (2, link(2, "eth1"))]);
        let mut known = Some(route(1));
        edit(&mut links, &mut known);
        let server = "10.0.0.11".parse().unwrap();
        match towards(server, known.as_ref(), &links, &BTreeSet::from([1]), last) {
            Ok(Towards::Here) => Some(Ok(NextHop::Local)),
            Ok(Towards::Neighbour(way)) => hop(&way, neighbour),
            Err(problem) => Some(Err(problem)),
        }
    }

    const KNOWN: Neighbour = Neighbour::Known { mac: MAC, stale: true };

    fn remote(answer: Option<Result<NextHop, HopProblem>>) -> Remote {
        match answer {
            Some(Ok(NextHop::Remote(remote))) => remote,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_smallest_mtu_counts() {
        for (link, route, expected) in
            [(1500, None, 1500), (1500, Some(1400), 1400), (1400, Some(9000), 1400)]
        {
            let edit = |links: &mut Links, known: &mut Option<Route>| {
                links.get_mut(&1).unwrap().mtu = link;
                known.as_mut().unwrap().mtu = route;
            };
            assert_eq!(remote(check(edit, None, KNOWN)).mtu, expected, "{link} {route:?}");
        }
    }

    #[test]
    fn an_own_address_stays_here() {
        let local = |_: &mut Links, route: &mut Option<Route>| {
            let route = route.as_mut().unwrap();
            // The kernel names `lo`, which is no interface of ours.
            (route.local, route.ifindex) = (true, 7);
        };
        let hop = check(local, None, Neighbour::Absent).unwrap().unwrap();
        assert_eq!(hop, NextHop::Local);
        assert_eq!((hop.ifindex(), hop.vlan(), hop.ethernet()), (IFINDEX_LOCAL, 0, [0; 12]));
        let other = NextHop::Remote(remote(check(|_, _| {}, None, KNOWN)));
        assert_eq!(other.ethernet(), [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_known_neighbour_makes_a_hop() {
        let plain = remote(check(|_, _| {}, None, KNOWN));
        assert_eq!(
            (plain.ifindex, plain.vlan, plain.destination_mac, plain.mtu),
            (1, 0, MAC, 1500)
        );
        assert_eq!((plain.via, plain.source), (None, "10.0.0.1".parse().unwrap()));

        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let through = |_: &mut Links, route: &mut Option<Route>| {
            let route = route.as_mut().unwrap();
            (route.gateway, route.source, route.mtu) = (Some(gateway), None, Some(1400));
        };
        let routed = remote(check(through, None, KNOWN));
        assert_eq!((routed.via, routed.mtu), (Some(gateway), 1400));
        assert!(routed.source.is_unspecified());
        let failed = check(through, None, Neighbour::Failed).unwrap().unwrap_err();
        let interface = "eth0".to_owned();
        assert_eq!(failed, HopProblem::NoNeighbour { address: gateway, interface });
    }

    #[test]
    fn an_unanswered_question_is_no_answer() {
        assert_eq!(check(|_, _| {}, None, Neighbour::Absent), None);
        assert_eq!(check(|_, _| {}, None, Neighbour::Pending), None);
    }

    #[test]
    fn problems_are_told_apart() {
        type Edit = fn(&mut Links, &mut Option<Route>);
        let name = |name: &str| name.to_owned();
        let down: Edit = |links, _| links.get_mut(&1).unwrap().up = false;
        let rows: [(&str, Edit, Option<u32>, HopProblem); 8] = [
            ("no route", |_, route| *route = None, None, HopProblem::NoRoute),
            ("link down", down, None, HopProblem::LinkDown { name: name("eth0") }),
            (
                "down, and the route with it",
                |links, route| {
                    links.get_mut(&1).unwrap().up = false;
                    *route = None;
                },
                None,
                HopProblem::LinkDown { name: name("eth0") },
            ),
            (
                "an interface not ours is down",
                |links, route| {
                    links.get_mut(&2).unwrap().up = false;
                    *route = None;
                },
                None,
                HopProblem::NoRoute,
            ),
            (
                "wrong interface",
                |_, known| *known = Some(route(2)),
                Some(1),
                HopProblem::WrongInterface { name: name("eth1") },
            ),
            (
                "down, and the default route takes over",
                |links, known| {
                    links.get_mut(&1).unwrap().up = false;
                    *known = Some(route(2));
                },
                Some(1),
                HopProblem::LinkDown { name: name("eth0") },
            ),
            (
                "not Ethernet",
                |links, _| links.get_mut(&1).unwrap().mac = None,
                None,
                HopProblem::NotEthernet { name: name("eth0") },
            ),
            (
                "interface gone meanwhile",
                |_, known| *known = Some(route(9)),
                None,
                HopProblem::NoRoute,
            ),
        ];
        for (row, edit, last, expected) in rows {
            assert_eq!(check(edit, last, KNOWN), Some(Err(expected)), "{row}");
        }
    }

    #[test]
    fn texts_say_what_to_do() {
        let wrong = HopProblem::WrongInterface { name: "eth1".into() }.to_string();
        assert!(wrong.contains("add \"eth1\" to `interfaces`"), "{wrong}");
        let down = HopProblem::LinkDown { name: "eth0".into() }.to_string();
        assert!(down.contains("ip link set eth0 up"), "{down}");
    }
}
