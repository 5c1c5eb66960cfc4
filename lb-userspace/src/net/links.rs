//! One-time questions about this host: its interfaces, addresses and ephemeral ports.

use std::collections::BTreeSet;
use std::net::IpAddr;
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
        });
    }
}
