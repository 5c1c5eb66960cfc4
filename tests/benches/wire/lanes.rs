//! The systems that are compared, each in a namespace of its own on a cable of its own to the
//! generator's namespace, all with the same backends.
//!
//! Backends are permanent neighbours, each with a MAC address of its own: no frame reaches more
//! than the sink at the generator's end of the cable. The kernel's way has a second cable for what
//! it forwards, as a router that sends packets back where they came from would look for a host to
//! tell of a better way.

use std::{fmt::Write, process::Command};

use anyhow::{Context, Result, bail};
use lb_tests::{Balancer, Cables, End, Family, Mode, Namespace, bench::lb};

use crate::{
    abi::{FIRST_ADDRESS, SAME_SOURCE, TO_BACKEND, TO_VIP},
    frame::{BALANCER, GENERATOR, mac, sources},
    programs::Programs,
};

/// Backends of every system.
pub(crate) const BACKENDS: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Frames made and dropped.
    Generator,
    /// Generator, one cable, sink.
    Cable,
    /// An XDP program that swaps MAC addresses and sends back.
    Bounce,
    /// The kernel's forwarding, with `dnat` by a map of hashes.
    Nftables,
    Holdfast(Mode),
}

impl System {
    pub(crate) const ALL: [Self; 7] = [
        Self::Generator,
        Self::Cable,
        Self::Bounce,
        Self::Nftables,
        Self::Holdfast(Mode::Dsr),
        Self::Holdfast(Mode::Ipip),
        Self::Holdfast(Mode::Nat),
    ];

    /// As results name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generator | Self::Cable => "floor",
            Self::Bounce => "bounce",
            Self::Nftables => "nftables",
            Self::Holdfast(_) => "holdfast",
        }
    }

    /// What it does, in a word.
    pub(crate) fn mode(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Cable => "cable",
            Self::Bounce => "bounce",
            Self::Nftables => "dnat",
            Self::Holdfast(Mode::Dsr) => "dsr",
            Self::Holdfast(Mode::Ipip) => "ipip",
            Self::Holdfast(Mode::Gue) => "gue",
            Self::Holdfast(Mode::Nat) => "nat",
        }
    }

    /// What must be right at the far end.
    pub(crate) fn expect(self) -> u32 {
        match self {
            Self::Nftables => SAME_SOURCE | TO_BACKEND,
            Self::Holdfast(Mode::Nat) => TO_BACKEND,
            _ => SAME_SOURCE | TO_VIP,
        }
    }

    /// Which numbers of MAC addresses may be seen there.
    pub(crate) fn arrives_at(self) -> std::ops::Range<usize> {
        match self {
            Self::Generator | Self::Cable => one(BALANCER),
            Self::Bounce => one(GENERATOR),
            Self::Nftables | Self::Holdfast(_) => 0..usize::from(BACKENDS),
        }
    }
}

fn one(number: u8) -> std::ops::Range<usize> {
    usize::from(number)..usize::from(number) + 1
}

/// A system in its namespace.
pub(crate) struct Lane {
    pub(crate) system: System,
    /// Of the generator's end of its cable.
    pub(crate) interface: u32,
    _balancer: Option<Balancer>,
}

pub(crate) struct Lanes {
    // The balancers end before their namespaces do.
    pub(crate) lanes: Vec<Lane>,
    pub(crate) generator: Namespace,
    cables: Cables,
}

impl Lanes {
    pub(crate) fn new() -> Result<Self> {
        let cables = Cables::new()?;
        let generator = cables.namespace("sender")?;
        Ok(Self { lanes: Vec::new(), generator, cables })
    }

    pub(crate) fn add(&mut self, system: System, programs: &mut Programs) -> Result<()> {
        let number = self.lanes.len() as u8;
        let namespace = self.cables.namespace(system.mode())?;
        let near = format!("g{number}");
        self.connect(&near, &namespace, "eth0", programs)?;
        let backends = if system == System::Nftables {
            self.connect(&format!("s{number}"), &namespace, "eth1", programs)?;
            "eth1"
        } else {
            "eth0"
        };
        namespace.ip(&addresses(number, backends))?;
        let mut balancer = None;
        match system {
            System::Generator | System::Cable => programs.attach("sink", &namespace, "eth0")?,
            System::Bounce => programs.attach("bounce", &namespace, "eth0")?,
            System::Nftables => {
                // A cable takes what XDP sends only if a program is at its end.
                programs.attach("pass", &namespace, "eth0")?;
                forward(&namespace, number)?;
            }
            System::Holdfast(mode) => {
                let started = Balancer::start_in(
                    &namespace,
                    &self.cables.directory(system.mode()),
                    &lb(),
                    &config(number, mode),
                )?;
                started.wait_until_up(std::time::Duration::from_secs(10))?;
                balancer = Some(started);
            }
        }
        let link = self.generator.link(&near);
        let interface = link["ifindex"].as_u64().context("the cable has no index")? as u32;
        self.lanes.push(Lane { system, interface, _balancer: balancer });
        Ok(())
    }

    fn connect(
        &self,
        near: &str,
        namespace: &Namespace,
        far: &str,
        programs: &mut Programs,
    ) -> Result<()> {
        self.cables.connect([
            End { namespace: &self.generator, interface: near, mac: mac(GENERATOR) },
            End { namespace, interface: far, mac: mac(BALANCER) },
        ])?;
        programs.attach("sink", &self.generator, near)
    }
}

/// The balancer's address, and the backends', in a lane's network.
fn address(lane: u8, host: u8, family: Family) -> String {
    match family {
        Family::V4 => format!("10.80.{lane}.{host}"),
        Family::V6 => format!("fd80:{lane:x}::{host:x}"),
    }
}

fn backend(lane: u8, number: u8, family: Family) -> String {
    address(lane, FIRST_ADDRESS + number, family)
}

/// For `ip`: addresses, neighbours, and the way to the clients.
fn addresses(lane: u8, interface: &str) -> String {
    let mut lines = String::new();
    for (family, length) in [(Family::V4, "24"), (Family::V6, "64 nodad")] {
        let own = address(lane, 2, family);
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "address add {own}/{length} dev {interface}");
        for number in 0..BACKENDS {
            let (address, mac) = (backend(lane, number, family), hex(mac(number)));
            let _ = writeln!(
                lines,
                "neighbour add {address} lladdr {mac} dev {interface} nud permanent"
            );
        }
        let _ = writeln!(lines, "route add {} dev eth0", sources(family));
    }
    lines
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The kernel as a load balancer.
fn forward(namespace: &Namespace, lane: u8) -> Result<()> {
    namespace.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
    let rules = rules(lane);
    let output = namespace
        .command("nft")
        .arg(&rules)
        .output()
        .context("nft does not run: `apt install nftables`")?;
    if !output.status.success() {
        bail!("nft refused {rules}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // A network card checks checksums, a cable without offloads does not: leave it out here too.
    namespace.sysctl(&[("net/netfilter/nf_conntrack_checksum", "0")])
}

fn rules(lane: u8) -> String {
    let map = |family| {
        let entry = |number| format!("{number} : {}", backend(lane, number, family));
        (0..BACKENDS).map(entry).collect::<Vec<_>>().join(", ")
    };
    let (vip4, vip6) = (Family::V4.vip(), Family::V6.vip());
    format!(
        "table inet balancer {{ chain prerouting {{ \
           type nat hook prerouting priority dstnat; \
           ip daddr {vip4} tcp dport 80 \
             dnat ip to jhash ip saddr . tcp sport mod {BACKENDS} map {{ {} }}; \
           ip6 daddr {vip6} tcp dport 80 \
             dnat ip6 to jhash ip6 saddr . tcp sport mod {BACKENDS} map {{ {} }}; \
         }}; }}",
        map(Family::V4),
        map(Family::V6)
    )
}

/// `lb.toml` with a service for each family.
fn config(lane: u8, mode: Mode) -> String {
    // As many new connections a second as there are.
    let mut text = "[node]\ninterfaces = [\"eth0\"]\nflow_inserts = 10000000\n".to_owned();
    for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        let listen = std::net::SocketAddr::new(family.vip(), 80);
        let _ = writeln!(
            text,
            "[[service]]\nname = \"{name}\"\nlisten = [\"{listen}/tcp\"]\nmode = \"{mode}\"\n\
             health = {{ none = true }}\nbackends = ["
        );
        for number in 0..BACKENDS {
            let address = backend(lane, number, family);
            let _ = writeln!(text, "  {{ name = \"web-{number:02}\", address = \"{address}\" }},");
        }
        text.push_str("]\n");
    }
    text
}

/// Whether a program is there to be run.
pub(crate) fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
