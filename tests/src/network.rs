//! Links, addresses, routes and sysctls of a lab.
//!
//! Everything is cabled to bridges in a namespace of their own (`switch`), so that the machine's own network is
//! not touched.

use std::{
    net::IpAddr, num::NonZero, process::Command, thread::available_parallelism, time::Duration,
};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{
    lab::Lab,
    namespace::Namespace,
    process::{run, run_with_input, wait_until},
    topology::{Arms, Family, Topology},
    xdp,
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
    ip(lab.switch(), &bridges(lab.topology()))?;
    for cable in cables(lab) {
        connect(lab.switch(), &cable)?;
    }
    for backend in lab.backends() {
        one_processor_for_a_flow(&backend.namespace, "eth0")?;
    }
    for cable in cables(lab) {
        wait_for_link(cable.namespace, cable.interface, lab.switch(), &cable.port)?;
    }
    // Towards the balancer the ports must accept frames sent by XDP.
    xdp::attach(lab.switch(), "lb0", xdp::PASS)?;
    if lab.topology().arms == Arms::Two {
        xdp::attach(lab.switch(), "lb1", xdp::PASS)?;
    }
    link_routers(lab)?;
    routes(lab)?;
    if lab.topology().mode.is_direct() {
        lab.configure_dsr_vips(&[Family::V4.vip(), Family::V6.vip()])?;
    }
    Ok(())
}

fn bridges(topology: &Topology) -> String {
    let bridge = |name: &str| {
        format!(
            "link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
             link set {name} up\n"
        )
    };
    let inside = if inside_bridge(topology) == "br1" { bridge("br1") } else { String::new() };
    let outside = if topology.far.is_some() { bridge("br2") } else { String::new() };
    bridge("br0") + &inside + &outside
}

/// The bridge that the backends are at.
fn inside_bridge(topology: &Topology) -> &'static str {
    if topology.arms == Arms::Two || topology.behind.is_some() { "br1" } else { "br0" }
}

fn cables(lab: &Lab) -> Vec<Cable<'_>> {
    let topology = lab.topology();
    let both = |address: &dyn Fn(Family) -> IpAddr| [address(Family::V4), address(Family::V6)];
    let mut cables = vec![
        Cable {
            namespace: lab.client(),
            interface: "eth0",
            port: "client".into(),
            bridge: if topology.far.is_some() { "br2" } else { "br0" },
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
    let inside = inside_bridge(topology);
    if topology.arms == Arms::Two {
        cables.push(Cable {
            namespace: lab.balancer(),
            interface: "eth1",
            port: "lb1".into(),
            bridge: inside,
            addresses: both(&|family| topology.balancer_inside(family)),
        });
    }
    if let [near, core] = lab.routers() {
        cables.push(Cable {
            namespace: near,
            interface: "eth0",
            port: "near".into(),
            bridge: "br2",
            addresses: both(&|family| topology.routers(family)[0]),
        });
        cables.push(Cable {
            namespace: core,
            interface: "eth0",
            port: "core".into(),
            bridge: "br0",
            addresses: both(&|family| topology.core_inside(family)),
        });
    }
    if let [front, rack] = lab.routers_behind() {
        cables.push(Cable {
            namespace: front,
            interface: "eth0",
            port: "front".into(),
            bridge: "br0",
            addresses: both(&|family| topology.front_outside(family)),
        });
        cables.push(Cable {
            namespace: rack,
            interface: "eth0",
            port: "rack".into(),
            bridge: inside,
            addresses: both(&|family| topology.rack_inside(family)),
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
    offloads_off(namespace, interface)?;
    offloads_off(switch, port)?;
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

pub(crate) fn offloads_off(namespace: &Namespace, link: &str) -> Result<()> {
    run(namespace
        .command("ethtool")
        .args(["-K", link, "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"]))
}

/// As a NIC's receive queues do: all packets of a flow are taken by one processor (receive packet steering).
///
/// A veth's packets are taken by whichever processor sent them. With two at work, a request just behind the last
/// packet of its handshake may find neither the half-open socket nor the new one, and is reset: `inet_ehash_insert()`
/// of the kernel takes the one out of the hash table before it puts the other in.
fn one_processor_for_a_flow(namespace: &Namespace, interface: &str) -> Result<()> {
    let processors = available_parallelism().map_or(1, NonZero::get);
    let mask = format!("{:x}", u32::MAX >> 32_usize.saturating_sub(processors));
    let write = format!("echo {mask} | tee /sys/class/net/{interface}/queues/rx-*/rps_cpus");
    // Unlike `setns` alone, it mounts the namespace's own /sys.
    let netns = ["netns", "exec", namespace.name(), "sh", "-c", &write];
    run(Command::new("ip").args(netns))
}

/// Before the first link: what new links inherit.
pub(crate) fn prepare(namespace: &Namespace) -> Result<()> {
    namespace.sysctl(&[
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/dad_transmits", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ])
}

const VIPS: (&str, &str) = ("192.0.2.0/24", "2001:db8::/64");
/// Where a far client is.
const CLIENTS: (&str, &str) = ("10.76.0.0/24", "fd76::/64");
/// Where backends behind routers are.
const BACKENDS: (&str, &str) = ("10.79.0.0/24", "fd79::/64");

/// Routes to a network of each family.
fn via(gateway: &dyn Fn(Family) -> IpAddr, v4: &str, v6: &str) -> String {
    let (gateway4, gateway6) = (gateway(Family::V4), gateway(Family::V6));
    format!("route add {v4} via {gateway4}\nroute add {v6} via {gateway6}\n")
}

/// The links between routers.
fn link_routers(lab: &Lab) -> Result<()> {
    let topology = lab.topology();
    if let ([near, core], Some(mtu)) = (lab.routers(), topology.far) {
        let inside: [&dyn Fn(Family) -> IpAddr; 2] =
            [&|family| topology.near_inside(family), &|family| topology.routers(family)[1]];
        link([near, core], inside, mtu)?;
    }
    if let ([front, rack], Some(mtu)) = (lab.routers_behind(), topology.behind) {
        let between: [&dyn Fn(Family) -> IpAddr; 2] =
            [&|family| topology.between(family)[0], &|family| topology.between(family)[1]];
        link([front, rack], between, mtu)?;
    }
    Ok(())
}

/// Links two routers without a bridge: no end knows of another MTU.
fn link(
    [near, core]: [&Namespace; 2],
    addresses: [&dyn Fn(Family) -> IpAddr; 2],
    mtu: u16,
) -> Result<()> {
    run(Command::new("ip")
        .args(["link", "add", "eth1", "mtu", &mtu.to_string(), "netns", near.name()])
        .args(["type", "veth", "peer", "name", "eth1", "mtu", &mtu.to_string()])
        .args(["netns", core.name()]))?;
    for (router, address) in [near, core].into_iter().zip(addresses) {
        offloads_off(router, "eth1")?;
        router.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Errors are part of the test: not only so many a second.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
            // They are to come from the link where a packet came in, as a traceroute shows it.
            ("net/ipv4/icmp_errors_use_inbound_ifaddr", "1"),
        ])?;
        let (v4, v6) = (address(Family::V4), address(Family::V6));
        ip(
            router,
            &format!(
                "link set eth1 up\naddress add {v4}/24 dev eth1\naddress add {v6}/64 dev eth1 nodad\n"
            ),
        )?;
    }
    Ok(())
}

/// Rules by which routers drop what ICMP they would send or forward; or none, where it is allowed.
pub(crate) fn set_icmp(lab: &Lab, allowed: bool) -> Result<()> {
    let topology = lab.topology();
    let verb = if allowed { "del" } else { "add" };
    let rules = |to: &[String], protocol: &str| -> String {
        let rule = |to| format!("rule {verb} to {to} ipproto {protocol} blackhole\n");
        to.iter().map(rule).collect()
    };
    let [client, balancer] = [Topology::client, Topology::balancer]
        .map(|address| Family::ALL.map(|family| address(topology, family).to_string()));
    let [[client4, client6], [balancer4, balancer6]] = [client, balancer];
    let outside = ([client4, VIPS.0.into()], [client6, VIPS.1.into()]);
    let behind = ([balancer4, BACKENDS.0.into()], [balancer6, BACKENDS.1.into()]);
    for router in lab.routers().iter().chain(lab.routers_behind()) {
        ip(router, &rules(&outside.0, "icmp"))?;
        ip6(router, &rules(&outside.1, "ipv6-icmp"))?;
    }
    for router in lab.routers_behind() {
        ip(router, &rules(&behind.0, "icmp"))?;
        ip6(router, &rules(&behind.1, "ipv6-icmp"))?;
    }
    Ok(())
}

/// What a backend's route to a far client says of segments.
pub(crate) fn announce_mss(backend: &Namespace, topology: &Topology, bytes: u16) -> Result<()> {
    let home = via(&|family| topology.core_inside(family), CLIENTS.0, CLIENTS.1);
    let home =
        home.replace("route add", "route replace").replace('\n', &format!(" advmss {bytes}\n"));
    ip(backend, &home)
}

/// Forgets path MTUs.
pub(crate) fn flush_routes_learned(namespace: &Namespace) -> Result<()> {
    ip(namespace, "route flush cache\n")?;
    ip6(namespace, "route flush cache\n")
}

fn routes(lab: &Lab) -> Result<()> {
    let topology = lab.topology();
    match lab.routers() {
        [near, core] => {
            ip(lab.client(), &via(&|family| topology.routers(family)[0], "default", "default"))?;
            ip(near, &via(&|family| topology.routers(family)[1], "default", "default"))?;
            ip(core, &via(&|family| topology.balancer(family), VIPS.0, VIPS.1))?;
            ip(core, &via(&|family| topology.near_inside(family), CLIENTS.0, CLIENTS.1))?;
            let home = via(&|family| topology.core_inside(family), CLIENTS.0, CLIENTS.1);
            let at_home = lab.backends().iter().map(|backend| &backend.namespace);
            at_home.chain([lab.balancer()]).try_for_each(|namespace| ip(namespace, &home))?;
        }
        _ => ip(lab.client(), &via(&|family| topology.balancer(family), VIPS.0, VIPS.1))?,
    }
    if let [front, rack] = lab.routers_behind() {
        ip(front, &via(&|family| topology.balancer(family), VIPS.0, VIPS.1))?;
        ip(front, &via(&|family| topology.between(family)[1], BACKENDS.0, BACKENDS.1))?;
        ip(rack, &via(&|family| topology.between(family)[0], "default", "default"))?;
        let there = via(&|family| topology.front_outside(family), BACKENDS.0, BACKENDS.1);
        ip(lab.balancer(), &there)?;
        let out = via(&|family| topology.rack_inside(family), "default", "default");
        lab.backends().iter().try_for_each(|backend| ip(&backend.namespace, &out))?;
    }
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
    if topology.arms == Arms::Two && topology.mode.is_direct() {
        // The backends answer the client through a router; here the balancer's kernel is that router.
        lab.balancer()
            .sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    }
    Ok(())
}

/// The kernel reports a new carrier from a work queue, up to a second later; until then both ends drop packets.
pub(crate) fn wait_for_link(
    namespace: &Namespace,
    interface: &str,
    switch: &Namespace,
    port: &str,
) -> Result<()> {
    let up = || {
        let ends = [(namespace, interface), (switch, port)].map(|(ns, name)| ns.link(name));
        ends.iter().all(|end| end["operstate"] == "UP")
            && ends[1]["linkinfo"]["info_slave_data"]["state"] == "forwarding"
    };
    if !wait_until(Duration::from_secs(5), up) {
        bail!("{interface} of {} has no carrier", namespace.name());
    }
    Ok(())
}

impl Namespace {
    /// What `ip` says about a link; null if it says nothing.
    pub fn link(&self, name: &str) -> Value {
        let mut ip = Command::new("ip");
        ip.args([
            "-netns",
            self.name(),
            "-json",
            "-details",
            "-statistics",
            "link",
            "show",
            "dev",
            name,
        ]);
        let text = ip.output().map(|output| output.stdout).unwrap_or_default();
        let links: Value = serde_json::from_slice(&text).unwrap_or_default();
        links[0].clone()
    }

    /// Frames that XDP programs sent back by a link and the driver did not take (`xdp_tx_errors`).
    pub fn frames_not_transmitted(&self, link: &str) -> Result<u64> {
        let output = self.command("ethtool").args(["-S", link]).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let counters = said.lines().filter_map(|line| line.split_once("xdp_tx_errors: "));
        Ok(counters.filter_map(|(_, count)| count.parse::<u64>().ok()).sum())
    }
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

/// The same for what `ip` takes for IPv4 unless told otherwise.
fn ip6(namespace: &Namespace, lines: &str) -> Result<()> {
    let mut ip = Command::new("ip");
    run_with_input(ip.args(["-6", "-netns", namespace.name(), "-batch", "-"]), lines)
}
