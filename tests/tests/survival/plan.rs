//! What is wanted of the balancer, and how it is changed: one random step at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lb_tests::{BackendConfig, Balancer, Family, Lab, Mode, ServiceConfig};

use crate::random::Random;

/// Servers of the lab, more than are ever configured at once.
pub(crate) const SERVERS: u8 = 8;
/// Backends that take new connections: never fewer, nor more configured.
const LEAST: usize = 3;
const MOST: usize = 6;
/// A second VIP, which comes and goes.
pub(crate) fn other_vip(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 11).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11).into(),
    }
}

const KINDS: [Kind; 9] = [
    Kind::Add,
    Kind::Remove,
    Kind::Weight,
    Kind::Replace,
    Kind::Drain,
    Kind::Ready,
    Kind::SlowStart,
    Kind::Vip,
    Kind::Mode,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Add,
    Remove,
    Weight,
    /// The address of a name.
    Replace,
    Drain,
    Ready,
    SlowStart,
    Vip,
    Mode,
}

#[derive(Clone)]
struct Member {
    config: BackendConfig,
    is_drained: bool,
}

/// The service as the operator wants it.
pub(crate) struct Plan {
    pub(crate) family: Family,
    pub(crate) mode: Mode,
    members: Vec<Member>,
    has_slow_start: bool,
    pub(crate) has_other_vip: bool,
    /// Of backends ever configured: each new one has a name of its own.
    named: usize,
    idle_timeout: String,
}

impl Plan {
    pub(crate) fn new(family: Family, idle_timeout: Duration) -> Self {
        let mut plan = Self {
            family,
            mode: Mode::Dsr,
            members: Vec::new(),
            has_slow_start: false,
            has_other_vip: false,
            named: 0,
            idle_timeout: format!("{}s", idle_timeout.as_secs()),
        };
        (0..4).for_each(|server| plan.add(server));
        plan
    }

    fn add(&mut self, server: u8) {
        self.named += 1;
        let config = BackendConfig { name: format!("b-{}", self.named), server, weight: 1 };
        self.members.push(Member { config, is_drained: false });
    }

    pub(crate) fn service(&self) -> ServiceConfig {
        let mut service = ServiceConfig::quick(self.mode, self.family);
        service.idle_timeout.clone_from(&self.idle_timeout);
        service.backends = Some(self.members.iter().map(|m| m.config.clone()).collect());
        if self.has_other_vip {
            service.listen.push(format!("{}/tcp", SocketAddr::new(other_vip(self.family), 80)));
        }
        if self.has_slow_start {
            service.more = "slow_start = \"2s\"\n".into();
        }
        service
    }

    /// Those that take new connections: name and server.
    pub(crate) fn ready(&self) -> Vec<(String, u8)> {
        let ready = self.members.iter().filter(|member| !member.is_drained);
        ready.map(|member| (member.config.name.clone(), member.config.server)).collect()
    }

    fn unused(&self) -> Vec<u8> {
        let used = |server: &u8| self.members.iter().any(|m| m.config.server == *server);
        (0..SERVERS).filter(|server| !used(server)).collect()
    }

    /// Makes a random change; what it was.
    pub(crate) fn step(&mut self, random: &mut Random, lab: &Lab, balancer: &Balancer) -> String {
        loop {
            let kind = KINDS[random.below(KINDS.len())];
            if let Some(what) = self.try_step(kind, random, lab, balancer) {
                return format!("{kind:?} {what}");
            }
        }
    }

    /// `None`: there is nothing to change in this way.
    fn try_step(
        &mut self,
        kind: Kind,
        random: &mut Random,
        lab: &Lab,
        balancer: &Balancer,
    ) -> Option<String> {
        let at = random.below(self.members.len());
        let spares_one = self.ready().len() > LEAST || self.members[at].is_drained;
        let name = self.members[at].config.name.clone();
        let what = match kind {
            Kind::Add if self.members.len() < MOST => {
                let server = random.one_of(&self.unused())?;
                self.add(server);
                format!("b-{} on {server}", self.named)
            }
            Kind::Remove if spares_one => {
                self.members.remove(at);
                name
            }
            Kind::Weight => {
                let weight = random.below(5) as u16 + 1;
                self.members[at].config.weight = weight;
                format!("{name} {weight}")
            }
            Kind::Replace => {
                let server = random.one_of(&self.unused())?;
                self.members[at].config.server = server;
                format!("{name} on {server}")
            }
            Kind::Drain if spares_one && !self.members[at].is_drained => {
                self.members[at].is_drained = true;
                balancer.json(&["backend", "drain", &format!("web/{name}"), "--force"]).unwrap();
                return Some(name);
            }
            Kind::Ready if self.members[at].is_drained => {
                self.members[at].is_drained = false;
                balancer.json(&["backend", "ready", &format!("web/{name}")]).unwrap();
                return Some(name);
            }
            Kind::SlowStart => {
                self.has_slow_start = !self.has_slow_start;
                self.has_slow_start.to_string()
            }
            Kind::Vip => {
                self.has_other_vip = !self.has_other_vip;
                self.has_other_vip.to_string()
            }
            Kind::Mode => {
                let others = Mode::ALL.into_iter().filter(|mode| *mode != self.mode);
                self.mode = random.one_of(&others.collect::<Vec<_>>())?;
                self.mode.to_string()
            }
            _ => return None,
        };
        balancer.apply(lab, &[self.service()]).unwrap();
        Some(what)
    }
}
