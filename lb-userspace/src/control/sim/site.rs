//! One service of the world, and what its operator and its servers do to it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::abi::Table;

use super::daemon::{Daemon, Health, MS, SECOND};
use super::oracle::Servers;
use super::wire::{self, TCP, UDP};
use super::world::World;
use crate::config::model::{self, Frontend, Mode, Protocol, Quic, ServerId, UdpPolicy};

/// What its clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// UDP, each packet a flow of its own.
    Packet,
    /// UDP flows.
    Flow,
    /// UDP flows that name their server, every other packet.
    Quic,
}

impl Kind {
    pub(super) fn protocol(self) -> u8 {
        if self == Self::Tcp { TCP } else { UDP }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Packet => "UDP, each packet by itself",
            Self::Flow => "UDP flows",
            Self::Quic => "QUIC",
        }
    }
}

/// A backend as its operator sees it.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) number: u32,
    drained: bool,
    health: Option<Health>,
}

/// What a scenario makes happen to the first backend of the first service.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scripted {
    /// What follows counts for another column.
    Phase(usize),
    Hard,
    Up,
    Drain,
    Ready,
}

/// What is to happen later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Up(String),
    Ready(String),
    Weight(String, u16),
}

#[derive(Debug)]
pub(super) struct Site {
    pub(super) service: model::Service,
    pub(super) kind: Kind,
    pub(super) vip: Ipv4Addr,
    pub(super) backends: Vec<Backend>,
    /// Share of all connections.
    pub(super) traffic: u64,
    /// Modes it changes between.
    modes: Vec<Mode>,
    acts: BinaryHeap<Reverse<(u64, Act)>>,
    next_name: u32,
    next_number: u32,
}

impl Site {
    pub(super) fn new(at: u32, kind: Kind, traffic: u64, modes: &[Mode], backends: u32) -> Self {
        let vip = Ipv4Addr::new(192, 0, 2, 10 + at as u8);
        let mut service = model::Service::new(format!("site-{at}"), modes[0]);
        // All may fail here: that the governor would keep some is not what is simulated.
        service.failover.max_removed = model::Percent::ALL;
        service.failover.max_removed_in_window = model::Percent::ALL;
        let protocol = if kind == Kind::Tcp { Protocol::Tcp } else { Protocol::Udp };
        service.listen = vec![Frontend::single(SocketAddr::new(vip.into(), 443), protocol)];
        service.idle_timeout = Duration::from_secs(12 + 4 * u64::from(at));
        service.udp_timeout = Duration::from_secs(10);
        service.slow_start = Duration::from_secs(if at % 2 == 1 { 4 } else { 0 });
        if matches!(kind, Kind::Flow | Kind::Quic) {
            service.udp = UdpPolicy::Flow;
        }
        if kind == Kind::Quic {
            service.quic = Some(Quic { config_id: 1, server_id_length: 4 });
        }
        let mut site = Self {
            service,
            kind,
            vip,
            backends: Vec::new(),
            traffic,
            modes: modes.to_vec(),
            acts: BinaryHeap::new(),
            next_name: 0,
            next_number: (at + 1) << 16,
        };
        for _ in 0..backends {
            site.add(Some(Health::Up));
        }
        site
    }

    /// Another backend of the configuration: its number.
    fn add(&mut self, health: Option<Health>) -> u32 {
        let (name, number) = (format!("b{}", self.next_name), self.next_number);
        self.next_name += 1;
        self.next_number += 1;
        let mut backend = model::Backend::new(&name, IpAddr::from(wire::address(number)));
        backend.server_id = self.server_id(number);
        self.service.backends.push(backend.into());
        self.backends.push(Backend { name, number, drained: false, health });
        number
    }

    /// What QUIC's connection ids name a server by.
    fn server_id(&self, number: u32) -> Option<ServerId> {
        if self.kind == Kind::Quic { ServerId::new(&number.to_be_bytes()) } else { None }
    }

    /// Whether none of its servers takes new connections, or may not just now.
    pub(super) fn is_down(&self, servers: &Servers, now: u64) -> bool {
        !self
            .backends
            .iter()
            .any(|b| servers.get(b.number).is_some_and(|s| s.takes_new && now > s.since + 80 * MS))
    }

    fn later(&mut self, at: u64, act: Act) {
        self.acts.push(Reverse((at, act)));
    }
}

impl<const BROKEN: usize> World<BROKEN> {
    /// When something planned is due.
    pub(super) fn next_act(&self) -> u64 {
        let acts = self.sites.iter().filter_map(|site| site.acts.peek());
        acts.map(|Reverse((at, _))| *at).min().unwrap_or(u64::MAX)
    }

    pub(super) fn act_due(&mut self) {
        let now = self.now;
        for at in 0..self.sites.len() {
            let site = &mut self.sites[at];
            if site.acts.peek().is_none_or(|Reverse((due, _))| *due > now) {
                continue;
            }
            let Some(Reverse((_, act))) = site.acts.pop() else { continue };
            match act {
                Act::Up(name) => {
                    self.count("recover");
                    self.health(at, &name, Health::Up);
                }
                Act::Ready(name) => {
                    self.count("ready");
                    self.drain(at, &name, false);
                    if self.random.permille(500) {
                        // What was recorded meanwhile matters to a sweep that begins at once.
                        self.daemon.sweep_by(now);
                        self.burst(20);
                    }
                }
                Act::Weight(name, weight) => self.weight(at, &name, weight),
            }
            return;
        }
    }

    pub(super) fn follow(&mut self, what: Scripted) {
        let name = self.sites[0].backends[0].name.clone();
        match what {
            Scripted::Phase(phase) => self.phase = phase,
            Scripted::Hard => self.health(0, &name, Health::Hard),
            Scripted::Up => self.health(0, &name, Health::Up),
            Scripted::Drain => {
                self.count("drain");
                self.drain(0, &name, true);
            }
            Scripted::Ready => {
                self.count("ready");
                self.drain(0, &name, false);
                self.daemon.sweep_by(self.now);
                self.burst(100);
            }
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.found.events.entry(name).or_default() += 1;
    }

    /// Something happens.
    pub(super) fn event(&mut self) {
        let at = self.random.below(self.sites.len() as u64) as usize;
        let count = self.sites[at].backends.len() as u64;
        let pick = self.random.below(count) as usize;
        let name = self.sites[at].backends[pick].name.clone();
        let soon = self.now + self.random.between(20, 3000) * MS;
        let late = self.now + self.random.between(200, 30_000) * MS;
        match self.random.below(100) {
            0..14 => {
                self.count("hard failure");
                self.health(at, &name, Health::Hard);
                self.sites[at]
                    .later(if pick.is_multiple_of(2) { soon } else { late }, Act::Up(name));
            }
            14..22 => {
                self.count("soft failure");
                self.health(at, &name, Health::Soft);
                self.sites[at].later(late, Act::Up(name));
            }
            22..33 => {
                self.count("drain");
                self.drain(at, &name, true);
                self.sites[at].later(late, Act::Ready(name));
            }
            33..38 => {
                self.count("drain");
                self.drain(at, &name, true);
                self.sites[at].later(soon, Act::Ready(name));
            }
            38..48 if count < 12 => {
                self.count("add");
                self.add(at, 1);
            }
            38..58 if count > 4 => {
                self.count("remove");
                self.remove(at, pick);
            }
            58..67 => {
                let weight = self.random.between(1, 4) as u16;
                self.weight(at, &name, weight);
            }
            67..75 => {
                // There, and back again.
                let weight = self.random.between(2, 5) as u16;
                self.weight(at, &name, weight);
                self.sites[at].later(soon, Act::Weight(name, 1));
            }
            75..85 => {
                self.count("replace");
                self.replace(at, pick);
            }
            85..90 => {
                let modes = self.sites[at].modes.clone();
                if modes.len() > 1 {
                    self.count("mode");
                    let mode = modes[self.random.below(modes.len() as u64) as usize];
                    self.sites[at].service.mode = mode;
                    self.apply(at);
                }
            }
            90..92 if count <= 14 => {
                self.count("grow");
                let by = self.random.between(5, 9) as u32;
                self.add(at, by);
            }
            92..94 => {
                self.count("all down");
                let names: Vec<String> =
                    self.sites[at].backends.iter().map(|b| b.name.clone()).collect();
                for name in names {
                    self.health(at, &name, Health::Hard);
                    let back = self.now + self.random.between(500, 5000) * MS;
                    self.sites[at].later(back, Act::Up(name));
                }
            }
            94..96 => {
                // Nobody takes anything new, and all serve what they have.
                let drains = self.random.permille(500);
                self.count(if drains { "all drained" } else { "all unwell" });
                let names: Vec<String> =
                    self.sites[at].backends.iter().map(|b| b.name.clone()).collect();
                for name in names {
                    let back = self.now + self.random.between(500, 30_000) * MS;
                    if drains {
                        self.drain(at, &name, true);
                        self.sites[at].later(back, Act::Ready(name));
                    } else {
                        self.health(at, &name, Health::Soft);
                        self.sites[at].later(back, Act::Up(name));
                    }
                }
            }
            96..99 if self.may_refuse() => {
                self.count("no records");
                self.refuses_until = self.now + self.random.between(2, 8) * SECOND;
            }
            _ => {}
        }
    }

    fn health(&mut self, at: usize, name: &str, health: Health) {
        let now = self.now;
        super::world::tell(|| format!("{now} µs: site {at}: {name} {health:?}"));
        let Some(backend) = self.sites[at].backends.iter_mut().find(|b| b.name == name) else {
            return;
        };
        backend.health = Some(health);
        let (number, takes) = (backend.number, health == Health::Up && !backend.drained);
        self.daemon.probe(at, name, health, now);
        match health {
            Health::Hard => self.servers.die(number, now),
            Health::Up | Health::Soft => self.servers.live(number),
        }
        self.servers.takes_new(number, takes, now);
    }

    fn drain(&mut self, at: usize, name: &str, drained: bool) {
        let now = self.now;
        super::world::tell(|| format!("{now} µs: site {at}: {name} drained: {drained}"));
        let Some(backend) = self.sites[at].backends.iter_mut().find(|b| b.name == name) else {
            return;
        };
        backend.drained = drained;
        let takes = !drained && backend.health == Some(Health::Up);
        let number = backend.number;
        self.daemon.drain(at, name, drained, now);
        self.servers.takes_new(number, takes, now);
    }

    fn weight(&mut self, at: usize, name: &str, weight: u16) {
        let backends = &mut self.sites[at].service.backends;
        let Some(backend) = backends.iter_mut().find(|b| b.name == name) else { return };
        Arc::make_mut(backend).weight = weight;
        self.count("weight");
        self.apply(at);
    }

    fn add(&mut self, at: usize, count: u32) {
        for _ in 0..count {
            let number = self.sites[at].add(None);
            self.servers.add(number, false, self.now);
            let up = self.now + self.random.between(50, 1500) * MS;
            let name = self.sites[at].backends.last().map(|b| b.name.clone()).unwrap_or_default();
            self.sites[at].later(up, Act::Up(name));
        }
        self.apply(at);
    }

    fn remove(&mut self, at: usize, which: usize) {
        let gone = self.sites[at].backends.remove(which);
        self.sites[at].service.backends.retain(|b| b.name != gone.name);
        self.apply(at);
        self.servers.takes_new(gone.number, false, self.now);
    }

    /// The name gets another server.
    fn replace(&mut self, at: usize, which: usize) {
        let now = self.now;
        let site = &mut self.sites[at];
        let number = site.next_number;
        site.next_number += 1;
        let backend = &mut site.backends[which];
        let old = std::mem::replace(&mut backend.number, number);
        (backend.health, backend.drained) = (None, false);
        let name = backend.name.clone();
        let server_id = site.server_id(number);
        if let Some(wanted) = site.service.backends.iter_mut().find(|b| b.name == name) {
            let wanted = Arc::make_mut(wanted);
            wanted.address = wire::address(number).into();
            wanted.server_id = server_id;
        }
        site.later(now + 300 * MS, Act::Up(name.clone()));
        self.daemon.drain(at, &name, false, now);
        self.servers.add(number, false, now);
        self.apply(at);
        self.servers.takes_new(old, false, now);
    }

    fn apply(&mut self, at: usize) {
        let service = self.sites[at].service.clone();
        let now = self.now;
        super::world::tell(|| {
            format!(
                "{now} µs: site {at}: {:?} {:?}",
                service.mode,
                service.backends.iter().map(|b| (&b.name, b.address, b.weight)).collect::<Vec<_>>()
            )
        });
        let slots = |daemon: &Daemon| Table(daemon.services[at].tables.record().table).slots();
        let before = slots(&self.daemon);
        self.daemon.apply(at, &service, self.now);
        self.found.sizes += u64::from(slots(&self.daemon) != before);
    }
}
