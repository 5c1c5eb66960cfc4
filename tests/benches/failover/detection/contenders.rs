//! What is compared: load balancers, each with two settings of its probes, all in one balancer of one lab.
//!
//! They balance over the same servers and probe the same page of them, so that one failure is there for all of them at
//! once. What one of them learns from the kernel, that a neighbour does not answer say, the others may learn, too.

use std::{fmt::Write, fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use lb_tests::{Balancer, Family, Lab, Mode, Process, ServiceConfig, bench::lb};

/// How servers are probed, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) interval_ms: u32,
    pub(super) fast_interval_ms: u32,
    pub(super) timeout_ms: u32,
}

pub(super) const RISE: u32 = 2;
pub(super) const FALL: u32 = 3;

/// Holdfast's defaults, and ten times as often. HAProxy waits no longer than its interval for a connection, so there
/// the timeout is the interval for both.
pub(super) const SETTINGS: [Setting; 2] = [
    Setting { interval_ms: 1_000, fast_interval_ms: 100, timeout_ms: 500 },
    Setting { interval_ms: 100, fast_interval_ms: 100, timeout_ms: 100 },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    Holdfast,
    Haproxy,
    /// It learns from the connections of clients, too.
    HaproxyObserve,
}

impl System {
    const ALL: [Self; 3] = [Self::Holdfast, Self::Haproxy, Self::HaproxyObserve];

    /// As results name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Holdfast => "holdfast",
            Self::Haproxy => "haproxy",
            Self::HaproxyObserve => "haproxy, observe layer4",
        }
    }
}

/// One system with one setting: a service with an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) system: System,
    pub(super) setting: Setting,
    number: u8,
}

/// The page that is asked for health, on a port that clients don't use.
const PROBED_PORT: u16 = 8080;

impl Contender {
    pub(super) fn all() -> Vec<Self> {
        let systems = SETTINGS.into_iter().flat_map(|s| System::ALL.map(|system| (system, s)));
        (0..)
            .zip(systems)
            .map(|(number, (system, setting))| Self { system, setting, number })
            .collect()
    }

    /// Of its service.
    fn name(self) -> String {
        format!("web{}", self.number)
    }

    /// Where clients ask: a VIP of Holdfast, or an address of the balancer's host.
    pub(super) fn target(self) -> SocketAddr {
        let host = match self.system {
            System::Holdfast => 40,
            System::Haproxy | System::HaproxyObserve => 60,
        };
        SocketAddr::new([192, 0, 2, host + self.number].into(), 80)
    }

    /// The address whose connections to servers are its own: a client's, or one of HAProxy's.
    fn source(self) -> [u8; 4] {
        [10, 77, 0, 100 + self.number]
    }

    /// Whether a SYN on its way to a server, from and to these addresses, is of a client of this one.
    pub(super) fn sent(self, from: [u8; 4], to: SocketAddr) -> bool {
        match self.system {
            System::Holdfast => to == self.target(),
            _ => from == self.source() && to.port() == self.target().port(),
        }
    }

    /// What a line of its system's log says of a server: `Some(true)` where it is up from now on.
    pub(super) fn said(self, line: &str, server: &str) -> Option<bool> {
        let says = |parts: [&str; 3]| parts.iter().all(|part| line.contains(part));
        let name = self.name();
        match self.system {
            System::Holdfast => {
                let (service, backend) = (format!("service={name} "), format!("backend={server}"));
                let is = |what| says([what, service.as_str(), backend.as_str()]);
                is("backend is up").then_some(true).or(is("its traffic moved").then_some(false))
            }
            _ => {
                let name = format!("{name}/{server} is ");
                let is = |what| says(["Server", format!("{name}{what}").as_str(), ""]);
                is("UP").then_some(true).or(is("DOWN").then_some(false))
            }
        }
    }
}

/// All contenders at work.
pub(super) struct Running {
    // They end before the lab does.
    holdfast: Balancer,
    haproxy: Process,
}

impl Running {
    pub(super) fn start(lab: &Lab, all: &[Contender]) -> Result<Self> {
        let (ours, theirs): (Vec<&Contender>, Vec<_>) =
            all.iter().partition(|contender| contender.system == System::Holdfast);
        let vips: Vec<_> = ours.iter().map(|contender| contender.target().ip()).collect();
        lab.configure_dsr_vips(&vips)?;
        let services: Vec<_> = ours.into_iter().map(|contender| holdfast(*contender)).collect();
        let holdfast = Balancer::start(lab, &lb(), &lab.config(&services))?;
        holdfast.wait_until_up(Duration::from_secs(10))?;
        let path = lab.path("haproxy.cfg");
        fs::write(&path, haproxy(lab, &theirs)?)?;
        let mut command = lab.balancer().command("haproxy");
        let haproxy =
            Process::spawn(command.arg("-db").arg("-f").arg(path), &lab.path("haproxy.log"));
        let haproxy = haproxy.context("`cargo xtask setup --bench` installs what is missing")?;
        Ok(Self { holdfast, haproxy })
    }

    /// Where they say what they find.
    pub(super) fn logs(&self) -> [&Path; 2] {
        [self.holdfast.log_path(), self.haproxy.log_path()]
    }
}

fn holdfast(contender: Contender) -> ServiceConfig {
    let Setting { interval_ms, fast_interval_ms, timeout_ms } = contender.setting;
    ServiceConfig {
        name: contender.name(),
        listen: vec![format!("{}/tcp", contender.target())],
        // A server that fails a hundred times is not to be kept out for it.
        health: format!(
            "http = \"/healthz\", port = {PROBED_PORT}, interval = \"{interval_ms}ms\", \
             fast_interval = \"{fast_interval_ms}ms\", timeout = \"{timeout_ms}ms\", \
             rise = {RISE}, fall = {FALL}, hold_down = \"0s\""
        ),
        ..ServiceConfig::quick(Mode::Dsr, Family::V4)
    }
}

/// Its fastest sensible checks; addresses for it, and connections tried elsewhere if one is refused.
fn haproxy(lab: &Lab, all: &[&Contender]) -> Result<String> {
    let mut text = String::from(
        "global\n  nbthread 1\n  maxconn 8192\n  log stdout format raw local0 notice\n\
         defaults\n  mode tcp\n  log global\n  option redispatch 1\n  retries 3\n  \
         balance roundrobin\n  timeout client 10s\n  timeout server 10s\n",
    );
    for contender in all {
        let Setting { interval_ms, fast_interval_ms, timeout_ms } = contender.setting;
        let [a, b, c, d] = contender.source();
        let source = format!("{a}.{b}.{c}.{d}");
        let target = contender.target();
        lab.balancer().ip(&format!(
            "address add {}/32 dev lo\naddress add {source}/24 dev eth0\n",
            target.ip()
        ))?;
        let observe = match contender.system {
            System::HaproxyObserve => " observe layer4 error-limit 3 on-error mark-down",
            _ => "",
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "listen {}\n  bind {target}\n  source {source}\n  timeout connect {timeout_ms}ms\n  \
             timeout check {timeout_ms}ms\n  option httpchk GET /healthz\n  \
             default-server check port {PROBED_PORT} inter {interval_ms}ms fastinter \
             {fast_interval_ms}ms downinter {fast_interval_ms}ms rise {RISE} fall {FALL}{observe}\n",
            contender.name(),
        );
        for (index, backend) in (0..).zip(lab.backends()) {
            let address = lab.topology().backend(index, Family::V4);
            let _ = writeln!(text, "  server {} {address}:80", backend.name);
        }
    }
    Ok(text)
}
