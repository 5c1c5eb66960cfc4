//! Which devices frames pass: by configured name, and by the link that a route leaves by.
//!
//! The program runs on plain devices. A VLAN sub-interface has no native XDP, so its parent is
//! attached to and the program pushes the tag. A bond could have the program only through all its
//! members, so they are attached to, and a frame goes back out of the member it came by: which one
//! that is stays the switch's choice.
//!
//! Pure: the links are arguments.

use std::collections::BTreeSet;
use std::fmt;

use lb_common::abi::IFINDEX_INGRESS;

use super::facts::{Link, Links};
use super::hop::HopProblem;

/// Why a VLAN sub-interface cannot be used. The text completes "… is a VLAN".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlanProblem {
    /// Its tags are 802.1ad's.
    ServiceTag,
    /// Its parent is a VLAN, too.
    Stacked,
    /// Its parent is in another network namespace.
    ParentElsewhere,
}

impl fmt::Display for VlanProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceTag => {
                "tagged by 802.1ad, which is not supported: make it with `protocol 802.1Q`"
            }
            Self::Stacked => {
                "on another VLAN, and frames with two tags are not supported: use one of a single \
                 tag"
            }
            Self::ParentElsewhere => {
                "whose parent is in another network namespace: run `lb` there, or make the VLAN \
                 on a parent in this one"
            }
        })
    }
}

/// Why a name in `interfaces` stands for no device. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceProblem {
    Missing {
        name: String,
        /// Names of the interfaces there are.
        known: Vec<String>,
    },
    NoMembers {
        bond: String,
    },
    Vlan {
        name: String,
        problem: VlanProblem,
    },
}

impl std::error::Error for InterfaceProblem {}

impl fmt::Display for InterfaceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { name, known } => {
                write!(f, "there is no interface {name:?}; this host has {}", known.join(", "))
            }
            Self::NoMembers { bond } => write!(
                f,
                "the bond {bond} has no members to attach to: `ip link set eth0 master {bond}`"
            ),
            Self::Vlan { name, problem } => write!(f, "{name} is a VLAN {problem}"),
        }
    }
}

/// The devices to attach to for these names, each once, in the order of the names: a VLAN's
/// parent, a bond's members, any other interface itself.
pub(super) fn devices<'a>(
    names: impl IntoIterator<Item = &'a String>,
    links: &Links,
) -> Result<Vec<Link>, InterfaceProblem> {
    let mut found: Vec<Link> = Vec::new();
    for name in names {
        for device in named(name, links)? {
            if !found.iter().any(|link| link.ifindex == device.ifindex) {
                found.push(device.clone());
            }
        }
    }
    Ok(found)
}

/// The indices of [`devices`], of those names that stand for any just now.
pub(super) fn attached(names: &BTreeSet<String>, links: &Links) -> BTreeSet<u32> {
    let devices = names.iter().filter_map(|name| named(name, links).ok()).flatten();
    devices.map(|device| device.ifindex).collect()
}

fn named<'a>(name: &str, links: &'a Links) -> Result<Vec<&'a Link>, InterfaceProblem> {
    let Some(link) = links.values().find(|link| link.name == name) else {
        let known = links.values().map(|link| link.name.clone()).collect();
        return Err(InterfaceProblem::Missing { name: name.to_owned(), known });
    };
    let (device, _) = untagged(link, links)
        .map_err(|problem| InterfaceProblem::Vlan { name: name.to_owned(), problem })?;
    if !is_bond(device) {
        return Ok(vec![device]);
    }
    let members: Vec<_> = members(device, links).collect();
    if members.is_empty() {
        return Err(InterfaceProblem::NoMembers { bond: device.name.clone() });
    }
    Ok(members)
}

/// How a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Egress {
    /// Or [`IFINDEX_INGRESS`].
    pub(super) ifindex: u32,
    /// Id of the tag it gets; 0 for none.
    pub(super) vlan: u16,
    /// The least of all links it passes.
    pub(super) mtu: u32,
}

/// How a frame leaves that the kernel would send by `link`, where the program is on `attached`.
pub(super) fn egress(
    link: &Link,
    links: &Links,
    attached: &BTreeSet<u32>,
) -> Result<Egress, HopProblem> {
    let (device, vlan) = untagged(link, links)
        .map_err(|problem| HopProblem::Vlan { name: link.name.clone(), problem })?;
    let mtu = link.mtu.min(device.mtu);
    if attached.contains(&device.ifindex) {
        all_up([link, device])?;
        return Ok(Egress { ifindex: device.ifindex, vlan, mtu });
    }
    let ours: Vec<_> =
        members(device, links).filter(|member| attached.contains(&member.ifindex)).collect();
    let Some(first) = ours.first() else {
        return Err(HopProblem::WrongInterface { name: link.name.clone() });
    };
    // A packet that came by any other interface would go back out of that one.
    let beside = |ifindex: &&u32| !ours.iter().any(|member| member.ifindex == **ifindex);
    if let Some(other) = attached.iter().find(beside).and_then(|ifindex| links.get(ifindex)) {
        let (bond, other) = (device.name.clone(), other.name.clone());
        return Err(HopProblem::BesideBond { bond, other });
    }
    all_up([link, device])?;
    if !ours.iter().any(|member| member.up) {
        all_up([*first])?;
    }
    let mtu = ours.iter().map(|member| member.mtu).fold(mtu, u32::min);
    Ok(Egress { ifindex: IFINDEX_INGRESS, vlan, mtu })
}

/// Whether it is a member of a bond, whose being down is the bond's business.
pub(super) fn in_bond(link: &Link, links: &Links) -> bool {
    link.master.and_then(|master| links.get(&master)).is_some_and(is_bond)
}

/// The device beneath a VLAN sub-interface with the id of its tag; any other link is its own, with
/// id 0.
fn untagged<'a>(link: &'a Link, links: &'a Links) -> Result<(&'a Link, u16), VlanProblem> {
    let Some(vlan) = &link.vlan else { return Ok((link, 0)) };
    if !vlan.dot1q {
        return Err(VlanProblem::ServiceTag);
    }
    let parent = vlan.parent.and_then(|parent| links.get(&parent));
    let parent = parent.ok_or(VlanProblem::ParentElsewhere)?;
    if parent.vlan.is_some() {
        return Err(VlanProblem::Stacked);
    }
    Ok((parent, vlan.id))
}

fn is_bond(link: &Link) -> bool {
    link.kind.as_deref() == Some("bond")
}

fn members<'a>(bond: &Link, links: &'a Links) -> impl Iterator<Item = &'a Link> {
    let bond = is_bond(bond).then_some(bond.ifindex);
    links.values().filter(move |link| bond.is_some() && link.master == bond)
}

fn all_up<'a>(links: impl IntoIterator<Item = &'a Link>) -> Result<(), HopProblem> {
    match links.into_iter().find(|link| !link.up) {
        Some(down) => Err(HopProblem::LinkDown { name: down.name.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
