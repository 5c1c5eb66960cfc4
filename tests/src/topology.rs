//! What a lab looks like: how many backends, which addresses, one or two sides of the balancer.
//!
//! One-armed: client .1, balancer .2 and backends .11, .12, … share 10.77.0.0/24 and fd77::/64. Two-armed: the
//! backends are in 10.78.0.0/24 and fd78::/64 instead, behind the balancer's eth1. The VIPs (192.0.2.0/24,
//! 2001:db8::/64) are routed to the balancer.
//!
//! Far: the client is .1 of 10.76.0.0/24 and fd76::/64, behind two routers. `near` has .2 there and .1 of 10.75.0.0/24,
//! the link between them, whose MTU may be smaller than all others; `core` has .2 of that and 10.77.0.3, fd77::3.
//!
//! Behind: the backends are in 10.79.0.0/24 and fd79::/64, behind two routers. `front` has 10.77.0.4, fd77::4 and .1 of
//! 10.74.0.0/24, the link between them, which may be narrow; `rack` has .2 of that and .2 of the backends' network.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

pub const VIP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// How the backends are reached, as in the product's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Nat,
    /// Direct server return: the backends have the VIPs on `lo`.
    Dsr,
    /// As `dsr`, through IP in IP: the backends decapsulate.
    Ipip,
    /// As `ipip`, through UDP.
    Gue,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Nat, Self::Dsr, Self::Ipip, Self::Gue];

    /// Packets reach the backends in tunnels.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Backends answer clients themselves, from the VIP.
    pub fn is_direct(self) -> bool {
        self != Self::Nat
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "nat" => Ok(Self::Nat),
            "dsr" => Ok(Self::Dsr),
            "ipip" => Ok(Self::Ipip),
            "gue" => Ok(Self::Gue),
            _ => bail!("no mode {text:?}: nat, dsr, ipip or gue"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP4.into(),
            Self::V6 => VIP6.into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Interfaces of the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arms {
    /// eth0, towards everybody.
    One,
    /// eth0 towards the client, eth1 towards the backends.
    Two,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// At most 200.
    pub backends: u8,
    pub mode: Mode,
    pub arms: Arms,
    /// Start nginx in every backend.
    pub nginx: bool,
    /// The client is behind two routers; the MTU of the link between them.
    pub far: Option<u16>,
    /// The backends of a one-armed balancer are behind two routers; the MTU of the link between them.
    pub behind: Option<u16>,
}

impl Topology {
    /// One-armed, with nginx in every backend.
    pub fn new(mode: Mode, backends: u8) -> Self {
        Self { backends, mode, arms: Arms::One, nginx: true, far: None, behind: None }
    }

    pub fn two_armed(mut self) -> Self {
        self.arms = Arms::Two;
        self
    }

    pub fn without_nginx(mut self) -> Self {
        self.nginx = false;
        self
    }

    /// Puts two routers between client and balancer, and a link of this MTU between the routers.
    pub fn far(mut self, mtu: u16) -> Self {
        self.far = Some(mtu);
        self
    }

    /// Puts two routers between balancer and backends, and a link of this MTU between the routers.
    pub fn behind(mut self, mtu: u16) -> Self {
        self.behind = Some(mtu);
        self
    }

    pub fn client(&self, family: Family) -> IpAddr {
        address(if self.far.is_some() { 76 } else { 77 }, 1, family)
    }

    /// The routers' addresses on the client's side of each: `near`, then `core`.
    pub fn routers(&self, family: Family) -> [IpAddr; 2] {
        [address(76, 2, family), address(75, 2, family)]
    }

    /// The address of `near` on the link to `core`.
    pub(crate) fn near_inside(&self, family: Family) -> IpAddr {
        address(75, 1, family)
    }

    /// The address of `core` where the balancer is.
    pub(crate) fn core_inside(&self, family: Family) -> IpAddr {
        address(77, 3, family)
    }

    /// The address of `front` where the balancer is.
    pub(crate) fn front_outside(&self, family: Family) -> IpAddr {
        address(77, 4, family)
    }

    /// The addresses of `front` and `rack` on the link between them.
    pub(crate) fn between(&self, family: Family) -> [IpAddr; 2] {
        [address(74, 1, family), address(74, 2, family)]
    }

    /// The address of `rack` where the backends are.
    pub(crate) fn rack_inside(&self, family: Family) -> IpAddr {
        address(79, 2, family)
    }

    /// The balancer's address on the clients' side.
    pub fn balancer(&self, family: Family) -> IpAddr {
        address(77, 2, family)
    }

    /// The balancer's address on the backends' side.
    pub fn balancer_inside(&self, family: Family) -> IpAddr {
        address(if self.arms == Arms::Two { 78 } else { 77 }, 2, family)
    }

    pub fn backend(&self, index: u8, family: Family) -> IpAddr {
        address(self.inside(), 11 + index, family)
    }

    /// `web-01`, `web-02`, …
    pub fn backend_name(&self, index: u8) -> String {
        format!("web-{:02}", index + 1)
    }

    /// The network of the backends.
    fn inside(&self) -> u8 {
        match (self.arms, self.behind) {
            (_, Some(_)) => 79,
            (Arms::One, None) => 77,
            (Arms::Two, None) => 78,
        }
    }
}

/// The host's number reads the same in both families: 10.77.0.12 and fd77::12.
fn address(network: u8, host: u8, family: Family) -> IpAddr {
    let digits = |n: u8| u16::from(n / 100) << 8 | u16::from(n / 10 % 10) << 4 | u16::from(n % 10);
    match family {
        Family::V4 => Ipv4Addr::new(10, network, 0, host).into(),
        Family::V6 => {
            Ipv6Addr::new(0xfd00 | digits(network), 0, 0, 0, 0, 0, 0, digits(host)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_host_number() {
        let one = Topology::new(Mode::Nat, 3);
        assert_eq!(one.backend(1, Family::V4).to_string(), "10.77.0.12");
        assert_eq!(one.backend(1, Family::V6).to_string(), "fd77::12");
        let two = one.two_armed();
        assert_eq!(two.backend(0, Family::V4).to_string(), "10.78.0.11");
        assert_eq!(two.balancer_inside(Family::V6).to_string(), "fd78::2");
        assert_eq!(two.balancer(Family::V4).to_string(), "10.77.0.2");
        let behind = Topology::new(Mode::Gue, 1).behind(1400);
        assert_eq!(behind.backend(0, Family::V6).to_string(), "fd79::11");
        assert_eq!(behind.balancer_inside(Family::V4).to_string(), "10.77.0.2");
    }
}
