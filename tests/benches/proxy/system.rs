//! The load balancers that are compared, each in a lab of its own: the same client, the same two
//! servers, the same cables, and the same address to ask.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lb_tests::{
    Balancer, Connection, Family, Lab, Mode, Process, ServiceConfig, Topology, bench::lb,
    of_ended_children,
};

use crate::wrk::{Answers, Wrk};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// No balancer: the client asks a server.
    Direct,
    Haproxy,
    /// `stream` of nginx.
    Nginx,
    /// The kernel's forwarding, with `dnat` by a map of hashes.
    Nftables,
    Holdfast(Mode),
}

const SERVERS: u8 = 2;
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// An error that names what is missing, and how to install it.
pub(crate) fn need_programs() -> Result<()> {
    let programs = [
        ("haproxy", "-v", "haproxy"),
        ("nginx", "-v", "nginx-light"),
        ("nft", "--version", "nftables"),
        ("wrk", "-v", "wrk"),
    ];
    let runs = |program, option| std::process::Command::new(program).arg(option).output().is_ok();
    let mut missing: Vec<&str> = programs
        .into_iter()
        .filter(|(program, option, _)| !runs(*program, *option))
        .map(|(.., package)| package)
        .collect();
    if !Path::new(STREAM_MODULE).exists() {
        missing.push("libnginx-mod-stream");
    }
    if !missing.is_empty() {
        bail!(
            "{} not installed: `cargo xtask setup --bench` does that, or `apt install {}`",
            missing.join(", "),
            missing.join(" ")
        );
    }
    Ok(())
}

impl System {
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Haproxy,
        Self::Nginx,
        Self::Nftables,
        Self::Holdfast(Mode::Nat),
        Self::Holdfast(Mode::Dsr),
    ];

    /// As results name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Nftables => "nftables",
            Self::Holdfast(_) => "holdfast",
        }
    }

    /// What it does, in a word.
    pub(crate) fn mode(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Nftables => "dnat",
            Self::Holdfast(Mode::Dsr) => "dsr",
            Self::Holdfast(Mode::Ipip) => "ipip",
            Self::Holdfast(Mode::Gue) => "gue",
            Self::Holdfast(Mode::Nat) => "nat",
        }
    }
}

/// A system in its lab.
pub(crate) struct Site {
    pub(crate) system: System,
    target: SocketAddr,
    // They end before the lab does.
    _balancer: Option<Balancer>,
    _proxy: Option<Process>,
    lab: Lab,
}

/// One run of the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) answers: Answers,
    /// Of client, balancer and servers, the kernel's work for them included.
    pub(crate) processors: Duration,
    /// Of the balancer's processes alone.
    pub(crate) balancer: Duration,
}

impl Site {
    pub(crate) fn build(system: System) -> Result<Self> {
        let mode = match system {
            System::Holdfast(mode) => mode,
            _ => Mode::Nat,
        };
        let lab = Lab::build(Topology::new(mode, SERVERS))?;
        let vip = Family::V4.vip();
        let (mut balancer, mut proxy) = (None, None);
        match system {
            System::Direct => {}
            System::Haproxy => {
                listen_on(&lab, vip)?;
                let path = lab.path("haproxy.cfg");
                fs::write(&path, haproxy(&lab, vip))?;
                let mut command = lab.balancer().command("haproxy");
                let command = command.arg("-db").arg("-f").arg(path);
                proxy = Some(Process::spawn(command, &lab.path("haproxy.log"))?);
            }
            System::Nginx => {
                listen_on(&lab, vip)?;
                let path = lab.path("stream.conf");
                fs::write(&path, nginx(&lab, vip))?;
                let mut command = lab.balancer().command("nginx");
                let command = command.arg("-c").arg(path).arg("-e").arg(lab.path("stream.err"));
                proxy = Some(Process::spawn(command, &lab.path("stream.log"))?);
            }
            System::Nftables => forward(&lab, vip)?,
            System::Holdfast(mode) => {
                let services = [ServiceConfig::http(mode, Family::V4)];
                let started = Balancer::start(&lab, &lb(), &lab.config(&services))?;
                started.wait_until_up(Duration::from_secs(10))?;
                balancer = Some(started);
            }
        }
        let address =
            if system == System::Direct { lab.topology().backend(0, Family::V4) } else { vip };
        let target = SocketAddr::new(address, 80);
        wait_for_answer(&lab, target)
            .with_context(|| format!("{} does not answer", system.mode()))?;
        Ok(Self { system, target, _balancer: balancer, _proxy: proxy, lab })
    }

    pub(crate) fn run(&self, wrk: &Wrk) -> Result<Run> {
        let now = || {
            let balancer = self.lab.balancer().processor_time();
            (self.lab.processor_time() + of_ended_children(), balancer)
        };
        let before = now();
        let answers = wrk.run(&self.lab, self.target)?;
        // What still is on its way is of this run.
        thread::sleep(Duration::from_millis(20));
        let after = now();
        Ok(Run { answers, processors: after.0 - before.0, balancer: after.1 - before.1 })
    }
}

fn wait_for_answer(lab: &Lab, target: SocketAddr) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let answer = lab.client().enter(|| {
            let mut connection = Connection::open(target, Duration::from_secs(1))?;
            connection.get("/")?.text()
        })?;
        match answer {
            Ok(_) => return Ok(()),
            Err(why) if Instant::now() > end => bail!("{target}: {why}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The address is the balancer host's own.
fn listen_on(lab: &Lab, vip: IpAddr) -> Result<()> {
    lab.balancer().sysctl(&[("net/ipv4/ip_local_port_range", "1024 65535")])?;
    lab.balancer().ip(&format!("address add {vip}/32 dev lo\n"))
}

/// Each server's name and address.
fn servers(lab: &Lab) -> impl Iterator<Item = (String, IpAddr)> {
    let topology = lab.topology();
    (0..SERVERS).map(|index| (topology.backend_name(index), topology.backend(index, Family::V4)))
}

/// One thread, as the client has one and each server; else as it comes.
fn haproxy(lab: &Lab, vip: IpAddr) -> String {
    let servers: String =
        servers(lab).map(|(name, address)| format!("  server {name} {address}:80\n")).collect();
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen web\n  bind {vip}:80 backlog 4096\n  balance roundrobin\n{servers}"
    )
}

fn nginx(lab: &Lab, vip: IpAddr) -> String {
    let directory = lab.directory();
    let directory = directory.display();
    let servers: String =
        servers(lab).map(|(_, address)| format!("    server {address}:80;\n")).collect();
    format!(
        "load_module {STREAM_MODULE};\nuser root;\ndaemon off;\nworker_processes 1;\n\
         pid {directory}/stream.pid;\nevents {{ worker_connections 8192; }}\n\
         stream {{\n  upstream web {{\n{servers}  }}\n  server {{\n    \
         listen {vip}:80 backlog=4096;\n    proxy_pass web;\n  }}\n}}\n"
    )
}

/// The kernel as a load balancer: both addresses of each connection are translated, as in `nat`.
fn forward(lab: &Lab, vip: IpAddr) -> Result<()> {
    let balancer = lab.balancer();
    balancer.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
    ])?;
    let map: Vec<_> =
        servers(lab).enumerate().map(|(n, (_, address))| format!("{n} : {address}")).collect();
    let rules = format!(
        "table ip balancer {{ \
           chain prerouting {{ type nat hook prerouting priority dstnat; \
             ip daddr {vip} tcp dport 80 \
               dnat to jhash ip saddr . tcp sport mod {SERVERS} map {{ {} }}; }}; \
           chain postrouting {{ type nat hook postrouting priority srcnat; \
             tcp dport 80 masquerade; }}; }}",
        map.join(", ")
    );
    let output = balancer.command("nft").arg(&rules).output().context("nft does not run")?;
    if !output.status.success() {
        bail!("nft refused {rules}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
