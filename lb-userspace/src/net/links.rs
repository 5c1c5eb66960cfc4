//! One-time questions about this host: its interfaces, addresses and ephemeral ports.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use super::facts::Link;
use super::netlink::Netlink;

/// The devices to attach to for the names in `interfaces`, each once: a VLAN sub-interface stands
/// for its parent, as the program pushes the tag, and a bond for its members, as XDP runs on them.
///
/// Fails for a name there is no interface of, a bond without members, and a VLAN that cannot be
/// used.
pub async fn devices(names: &[String]) -> Result<Vec<Link>> {
    let links = Netlink::open()?.links().await.context("cannot list the network interfaces")?;
    Ok(super::devices::devices(names, &links)?)
}

/// The first of these interfaces that is down or has no carrier, if one is.
pub async fn first_down(names: &[String]) -> Result<Option<String>> {
    let links = Netlink::open()?.links().await.context("cannot list the network interfaces")?;
    let is_down = |name: &&String| links.values().any(|link| link.name == **name && !link.up);
    Ok(names.iter().find(is_down).cloned())
}

/// All addresses of this host, of every interface.
pub async fn local_addresses() -> Result<BTreeSet<IpAddr>> {
    let addresses = Netlink::open()?.addresses().await;
    Ok(addresses.context("cannot list this host's addresses")?.into_iter().collect())
}

/// Addresses by which hosts elsewhere reach these interfaces: none of a link alone.
pub fn addresses_of(interfaces: &[String]) -> io::Result<Vec<IpAddr>> {
    let mut first = std::ptr::null_mut();
    // SAFETY: the list is written on success only, and freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (mut found, mut next) = (Vec::new(), first);
    // SAFETY: the elements are the list's, whole, until it is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        // SAFETY: the name ends with a zero byte.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        if interfaces.iter().any(|wanted| wanted.as_bytes() == name.to_bytes()) {
            // SAFETY: null, or an address of the family that it says.
            found.extend(unsafe { address_at(entry.ifa_addr) }.filter(is_for_others));
        }
    }
    // SAFETY: made above, and nothing points into it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// The address, if it is of a family we know.
///
/// # Safety
///
/// The pointer is null, or to a socket address of the size that its family has.
unsafe fn address_at(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

fn is_for_others(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    }
}

/// Takes the `clsact` of an interface off, unless somebody's filters are in it, or it is gone.
pub async fn remove_idle_clsact(ifindex: u32) -> Result<()> {
    let removed = Netlink::open()?.remove_idle_clsact(ifindex).await;
    match removed {
        Err(error) if !is_gone(&error) => Err(error).context("cannot take the clsact off"),
        _ => Ok(()),
    }
}

/// The interface, or what was on it, is no longer there.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

/// Ports the host takes for its own outgoing connections.
pub fn ip_local_port_range() -> Result<RangeInclusive<u16>> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_port_range(&text).with_context(|| format!("{path} holds {text:?}, not two ports"))
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) if low <= high => Some(low..=high),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testbed::Namespace;
    use super::*;

    #[test]
    fn port_ranges() {
        let rows = [
            ("32768\t60999\n", Some(32768..=60999)),
            ("1 65535", Some(1..=65535)),
            ("2 1", None),
            ("1 2 3", None),
            ("1 70000", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_port_range(text), expected, "{text:?}");
        }
        assert!(ip_local_port_range().is_ok());
    }

    #[test]
    fn links_and_addresses_of_this_namespace() {
        let here = Namespace::new();
        here.ip("link add eth0 address 02:00:00:00:00:01 mtu 1400 type veth peer name eth1");
        here.ip("addr add 10.0.0.1/24 dev eth0");
        here.run(async {
            let found = devices(&["eth0".into(), "lo".into()]).await.unwrap();
            let [link, lo] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((link.mac, link.mtu), (Some([2, 0, 0, 0, 0, 1]), 1400));
            assert_eq!((link.up, link.kind.as_deref()), (false, Some("veth")));
            // The other end is below a veth, as a parent is below a VLAN.
            assert_eq!((link.master, &link.vlan), (None, &None));
            assert_eq!((lo.mac, &lo.kind), (None, &None));
            let error = devices(&["eht0".into()]).await.unwrap_err().to_string();
            assert_eq!(error, "there is no interface \"eht0\"; this host has lo, eth1, eth0");
            let addresses = local_addresses().await.unwrap();
            assert!(addresses.contains(&"10.0.0.1".parse().unwrap()), "{addresses:?}");
            let of = |name: &str| addresses_of(&[name.to_owned()]).unwrap();
            assert_eq!(of("eth0"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
            assert!(of("lo").is_empty() && of("eth1").is_empty());
        });
    }
}
