//! From the kernel's facts to a server's next hop, or to what is wrong and what to do.
//!
//! Pure: the facts are arguments.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::facts::{Link, Links, Neighbour, Route};

/// How frames reach a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub ifindex: u32,
    pub interface: String,
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Router on the way, where the server is not on-link.
    pub via: Option<IpAddr>,
    /// The kernel's preferred source for this destination; unspecified where the host has none.
    pub source: IpAddr,
    /// The smaller of the link's and the route's.
    pub mtu: u32,
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
    /// The server is this host.
    LocalAddress,
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
                "the address is this host's own, which is not supported: use another server",
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

/// Where a neighbour is needed: which one, and all else of the hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) ifindex: u32,
    pub(super) interface: String,
    source_mac: [u8; 6],
    /// Whose MAC is wanted: the router's or the server's.
    pub(super) neighbour: IpAddr,
    via: Option<IpAddr>,
    source: IpAddr,
    mtu: u32,
}

impl Way {
    pub(super) fn same_neighbour(&self, other: &Self) -> bool {
        (self.ifindex, self.neighbour) == (other.ifindex, other.neighbour)
    }
}

/// All of the answer but the neighbour. `last` is the interface of the last good answer.
pub(super) fn way(
    server: IpAddr,
    route: Option<&Route>,
    links: &Links,
    allowed: &BTreeSet<String>,
    last: Option<u32>,
) -> Result<Way, HopProblem> {
    let Some(route) = route else {
        // A link that goes down takes its routes with it.
        let mut down = links.values().filter(|link| !link.up && allowed.contains(&link.name));
        let cause = down_since(links, last).or_else(|| down.next());
        return Err(cause.map_or(HopProblem::NoRoute, link_down));
    };
    if route.local {
        return Err(HopProblem::LocalAddress);
    }
    let link = links.get(&route.ifindex).ok_or(HopProblem::NoRoute)?;
    let name = || link.name.clone();
    if !allowed.contains(&link.name) {
        let cause = down_since(links, last);
        return Err(cause.map_or_else(|| HopProblem::WrongInterface { name: name() }, link_down));
    }
    if !link.up {
        return Err(link_down(link));
    }
    let source_mac = link.mac.ok_or_else(|| HopProblem::NotEthernet { name: name() })?;
    Ok(Way {
        ifindex: link.ifindex,
        interface: name(),
        source_mac,
        neighbour: route.gateway.unwrap_or(server),
        via: route.gateway,
        source: route.source.unwrap_or_else(|| unspecified(server)),
        mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
    })
}

/// The answer, given the neighbour; `None` while it is still being asked for.
pub(super) fn hop(way: &Way, neighbour: Neighbour) -> Option<Result<NextHop, HopProblem>> {
    match neighbour {
        Neighbour::Absent | Neighbour::Pending => None,
        Neighbour::Failed => Some(Err(no_neighbour(way))),
        Neighbour::Known { mac, .. } => Some(Ok(NextHop {
            ifindex: way.ifindex,
            interface: way.interface.clone(),
            source_mac: way.source_mac,
            destination_mac: mac,
            via: way.via,
            source: way.source,
            mtu: way.mtu,
        })),
    }
}

pub(super) fn no_neighbour(way: &Way) -> HopProblem {
    HopProblem::NoNeighbour { address: way.neighbour, interface: way.interface.clone() }
}

fn down_since(links: &Links, last: Option<u32>) -> Option<&Link> {
    links.get(&last?).filter(|link| !link.up)
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
        Link { ifindex, name: name.into(), mac, mtu: 1500, up: true, kind: None }
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
        match way(server, known.as_ref(), &links, &BTreeSet::from(["eth0".into()]), last) {
            Ok(way) => hop(&way, neighbour),
            Err(problem) => Some(Err(problem)),
        }
    }

    const KNOWN: Neighbour = Neighbour::Known { mac: MAC, stale: true };

    #[test]
    fn a_known_neighbour_makes_a_hop() {
        let plain = check(|_, _| {}, None, KNOWN).unwrap().unwrap();
        assert_eq!((plain.ifindex, plain.destination_mac, plain.mtu), (1, MAC, 1500));
        assert_eq!((plain.via, plain.source), (None, "10.0.0.1".parse().unwrap()));

        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let through = |_: &mut Links, route: &mut Option<Route>| {
            let route = route.as_mut().unwrap();
            (route.gateway, route.source, route.mtu) = (Some(gateway), None, Some(1400));
        };
        let routed = check(through, None, KNOWN).unwrap().unwrap();
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
        let rows: [(&str, Edit, Option<u32>, HopProblem); 9] = [
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
                "local",
                |_, route| route.as_mut().unwrap().local = true,
                None,
                HopProblem::LocalAddress,
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
