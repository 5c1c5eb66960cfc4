//! Links, addresses, routes and sysctls of a lab.
//!
//! Everything is cabled to bridges in a namespace of their own (`switch`), so that the machine's own network is
//! not touched.

use std::{net::IpAddr, process::Command};

use anyhow::Result;

use crate::{
    lab::Lab,
    namespace::Namespace,
    process::{run, run_with_input},
    topology::{Arms, Family, Mode},
    xdp_pass,
};

/// One cable: a namespace's interface and the bridge's port at the other end.
struct Cable<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
    port: String,
    bridge: &'a str,
    addresses: [IpAddr; 2],
}

pub(crate) fn build(lab: &Lab) -> Result<()> {
    prepare(lab.switch())?;
    ip(lab.switch(), &bridges(lab.topology().arms))?;
    for cable in cables(lab) {
        connect(lab.switch(), &cable)?;
    }
    // Towards the balancer the ports must accept frames sent by XDP.
    xdp_pass::attach(lab.switch(), "lb0")?;
    if lab.topology().arms == Arms::Two {
        xdp_pass::attach(lab.switch(), "lb1")?;
    }
    routes(lab)?;
    if lab.topology().mode == Mode::Dsr {
        lab.configure_dsr_vips(&[Family::V4.vip(), Family::V6.vip()])?;
    }
    Ok(())
}

fn bridges(arms: Arms) -> String {
    let bridge = |name: &str| {
        format!(
            "link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {name} up\n"
        )
    };
    match arms {
        Arms::One => bridge("br0"),
        Arms::Two => bridge("br0") + &bridge("br1"),
    }
}

fn cables(lab: &Lab) -> Vec<Cable<'_>> {
    let topology = lab.topology();
    let both = |address: &dyn Fn(Family) -> IpAddr| [address(Family::V4), address(Family::V6)];
    let mut cables = vec![
        Cable {
            namespace: lab.client(),
            interface: "eth0",
            port: "client".into(),
            bridge: "br0",
            addresses: both(&|family| topology.client(family)),
        },
        Cable {
            namespace: lab.balancer(),
            interface: "eth0",
            port: "lb0".into(),
            bridge: "br0",
            addresses: both(&|family| topology.balancer(family)),
        },
    ];
    let inside = match topology.arms {
        Arms::One => "br0",
        Arms::Two => "br1",
    };
    if topology.arms == Arms::Two {
        cables.push(Cable {
            namespace: lab.balancer(),
            interface: "eth1",
            port: "lb1".into(),
            bridge: inside,
            addresses: both(&|family| topology.balancer_inside(family)),
        });
    }
    for (index, backend) in (0..).zip(lab.backends()) {
        cables.push(Cable {
            namespace: &backend.namespace,
            interface: "eth0",
            port: port(index),
            bridge: inside,
            addresses: both(&|family| topology.backend(index, family)),
        });
    }
    cables
}

/// The bridge's port of a backend.
pub(crate) fn port(index: u8) -> String {
    format!("b{}", index + 1)
}

fn connect(switch: &Namespace, cable: &Cable<'_>) -> Result<()> {
    let Cable { namespace, interface, port, bridge, addresses } = cable;
    if *interface == "eth0" {
        prepare(namespace)?;
    }
    run(Command::new("ip")
        .args(["link", "add", interface, "netns", namespace.name(), "type", "veth"])
        .args(["peer", "name", port, "netns", switch.name()]))?;
    // Packets made on this machine leave with partial checksums and as super-packets unless told otherwise;
    // a rewritten address would then end in a wrong checksum.
    for (namespace, link) in [(*namespace, *interface), (switch, port.as_str())] {
        run(namespace.command("ethtool").args([
            "-K", link, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off",
        ]))?;
    }
    ip(switch, &format!("link set {port} master {bridge}\nlink set {port} up\n"))?;
    let [v4, v6] = addresses;
    ip(
        namespace,
        &format!(
            "link set lo up\nlink set {interface} up\n\
             address add {v4}/24 dev {interface}\naddress add {v6}/64 dev {interface} nodad\n"
        ),
    )
}

/// Before the first link: what new links inherit.
fn prepare(namespace: &Namespace) -> Result<()> {
    namespace.sysctl(&[
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/dad_transmits", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ])
}

fn routes(lab: &Lab) -> Result<()> {
    let topology = lab.topology();
    let via = |address: &dyn Fn(Family) -> IpAddr, v4: &str, v6: &str| {
        let (gateway4, gateway6) = (address(Family::V4), address(Family::V6));
        format!("route add {v4} via {gateway4}\nroute add {v6} via {gateway6}\n")
    };
    ip(lab.client(), &via(&|family| topology.balancer(family), "192.0.2.0/24", "2001:db8::/64"))?;
    // One client address must be able to open many connections in a short time.
    lab.client().sysctl(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
    if topology.arms == Arms::Two {
        for backend in lab.backends() {
            ip(
                &backend.namespace,
                &via(&|family| topology.balancer_inside(family), "default", "default"),
            )?;
        }
    }
    if topology.arms == Arms::Two && topology.mode == Mode::Dsr {
        // The backends answer the client through a router; here the balancer's kernel is that router.
        lab.balancer()
            .sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    }
    Ok(())
}

/// The VIPs on `lo`, and silence about them in ARP: only the balancer answers for a VIP.
pub(crate) fn configure_dsr_vips(backend: &Namespace, vips: &[IpAddr]) -> Result<()> {
    backend.sysctl(&[
        ("net/ipv4/conf/all/arp_ignore", "1"),
        ("net/ipv4/conf/all/arp_announce", "2"),
        ("net/ipv4/conf/eth0/rp_filter", "0"),
    ])?;
    let lines: String = vips
        .iter()
        .map(|vip| match vip {
            IpAddr::V4(vip) => format!("address replace {vip}/32 dev lo\n"),
            IpAddr::V6(vip) => format!("address replace {vip}/128 dev lo nodad\n"),
        })
        .collect();
    ip(backend, &lines)
}

/// Runs `ip` commands, one a line, in a namespace.
pub(crate) fn ip(namespace: &Namespace, lines: &str) -> Result<()> {
    run_with_input(Command::new("ip").args(["-netns", namespace.name(), "-batch", "-"]), lines)
}
