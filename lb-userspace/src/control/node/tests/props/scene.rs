//! A node on a simulated clock, and what happens to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::check::Noted;
use super::prober::Probed;
use super::{Event, Outcome, Plan};
use crate::alert::Clock;
use crate::config::model;
use crate::control::clock::{Jumps, simulated};
use crate::control::node::tests::{
    Backend, Config, Drain, Drains, HopProblem, NatFound, NextHop, Node, Prober, Resolver,
};
use crate::dataplane::maps::LiveMaps;
use crate::dataplane::memory;

/// A day in 2026.
const DAY_MS: u64 = 1_780_000_000_000;
pub(super) struct Scene {
    pub(super) node: Node,
    pub(super) plans: BTreeMap<u8, Plan>,
    pub(super) drains: Drains,
    /// Frozen services; `None` is all.
    pub(super) frozen: BTreeSet<Option<u8>>,
    pub(super) noted: Noted,
    /// When drained backends were to be back, whatever the clock of the day says.
    pub(super) ends: HashMap<(String, String), Instant>,
    pub(super) clock: Clock,
    jumps: Jumps,
    pub(super) probed: HashMap<u64, Probed>,
    began: Instant,
    pub(super) now: Instant,
    epoch_ms: u64,
}

fn node() -> Node {
    let maps = Arc::new(LiveMaps::in_memory(memory::settings(1), 16, 16).unwrap());
    let (prober, _) = Prober::new();
    let (resolver, _) = Resolver::start(["eth0".to_owned()]).unwrap();
    let mut node = Node::new(maps, model::Node::default(), prober, resolver);
    node.arena.slots_for = |_| 1021;
    node
}

pub(super) fn service_name(number: u8) -> String {
    format!("s{number}")
}

fn address(server: u8) -> IpAddr {
    [10, 0, 1, server].into()
}

impl Scene {
    pub(super) fn start(plans: &[Plan]) -> Self {
        let now = Instant::now();
        let mut scene = Self {
            node: node(),
            plans: (0..).zip(plans.iter().cloned()).collect(),
            drains: Drains::new(),
            frozen: BTreeSet::new(),
            noted: Noted::default(),
            ends: HashMap::new(),
            clock: Clock::new(),
            jumps: Jumps::new(),
            probed: HashMap::new(),
            began: now,
            now,
            epoch_ms: DAY_MS,
        };
        scene.set_clock(now);
        (scene.clock, scene.jumps) = (Clock::new(), Jumps::new());
        scene.apply(true).unwrap();
        scene
    }

    fn set_clock(&mut self, now: Instant) {
        self.epoch_ms += u64::try_from((now - self.now).as_millis()).unwrap();
        self.now = now;
        simulated::set(now, self.epoch_ms);
        memory::set_clock(now - self.began);
    }

    /// Somebody sets the clock of the day.
    fn set_day(&mut self, seconds: i64) {
        self.epoch_ms = self.epoch_ms.checked_add_signed(seconds * 1000).unwrap();
        simulated::set(self.now, self.epoch_ms);
        if let Some(by_ms) = self.jumps.take() {
            self.node.move_along(by_ms);
            self.drains.values_mut().for_each(|drain| drain.move_along(by_ms));
        }
    }

    /// Time passes, and the node is woken when it wants to be.
    fn pass(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let until = self.now + time;
        while let Some(due) = self.node.next_clock().filter(|due| *due <= until) {
            self.set_clock(due.max(self.now));
            self.node.on_clock().unwrap();
            let next = self.node.next_clock();
            prop_assert!(
                next.is_none_or(|next| next > self.now),
                "woken without end: settles what is due, and is due again at once"
            );
            self.check()?;
        }
        self.set_clock(until);
        Ok(())
    }

    fn config(&self) -> Config {
        let services = self.plans.iter().map(|(number, plan)| plan.service(*number).into());
        Config { node: model::Node::default(), alerts: Vec::new(), services: services.collect() }
    }

    fn apply(&mut self, first: bool) -> Result<(), TestCaseError> {
        let config = self.config();
        self.drains.retain(|(service, backend), _| {
            let of = |s: &Arc<model::Service>| {
                s.name == *service && s.backends.iter().any(|b| b.name == *backend)
            };
            config.services.iter().any(of)
        });
        self.node.apply(&config, &self.drains, first).unwrap();
        self.note();
        self.set_frozen();
        self.note();
        self.follow()
    }

    /// The places of backends.
    fn places(&self, is_it: impl Fn(usize, &Backend) -> bool) -> Vec<(usize, usize)> {
        let services = self.node.services.iter().enumerate();
        let of =
            services.flat_map(|(s, r)| r.backends.iter().enumerate().map(move |(b, x)| (s, b, x)));
        of.filter(|(s, _, x)| is_it(*s, x)).map(|(s, b, _)| (s, b)).collect()
    }

    fn all_find(
        &mut self,
        places: &[(usize, usize)],
        finds: Outcome,
        times: u8,
    ) -> Result<(), TestCaseError> {
        for _ in 0..times {
            self.pass(Duration::from_millis(50))?;
            for (s, b) in places {
                self.found(*s, *b, finds)?;
                self.check()?;
            }
        }
        Ok(())
    }

    fn service_at(&self, number: u8) -> Option<usize> {
        usize::from(number).checked_rem(self.node.services.len())
    }

    fn names(&self, service: u8, backend: u8) -> Option<(usize, usize, String, String)> {
        let s = self.service_at(service)?;
        let running = &self.node.services[s];
        let b = usize::from(backend).checked_rem(running.backends.len())?;
        Some((s, b, running.config.name.clone(), running.backends[b].config.name.clone()))
    }

    fn set_drain(&mut self, (service, backend): (u8, u8), drain: Option<Drain>) {
        let Some((_, _, service, backend)) = self.names(service, backend) else { return };
        self.node.set_drain(&service, &backend, drain.clone()).unwrap();
        let names = (service, backend);
        self.ends.remove(&names);
        let Some(drain) = drain else { return drop(self.drains.remove(&names)) };
        if let Some(until_ms) = drain.until_ms {
            let lasts = Duration::from_millis(until_ms - drain.at_ms);
            self.ends.insert(names.clone(), self.now + lasts);
        }
        self.drains.insert(names, drain);
    }

    fn absence(&self, maintenance: bool, seconds: Option<u32>) -> Drain {
        let at_ms = self.epoch_ms;
        let until_ms = seconds.map(|seconds| at_ms + u64::from(seconds) * 1000);
        Drain { reason: None, actor: "somebody".into(), at_ms, until_ms, maintenance }
    }

    fn set_frozen(&mut self) {
        let frozen = self.frozen.clone();
        let is_it =
            |name: &str| frozen.iter().any(|f| f.is_none_or(|number| service_name(number) == name));
        self.node.set_frozen(is_it).unwrap();
    }

    fn restart(&mut self) -> Result<(), TestCaseError> {
        let down = self.node.who_is_down();
        self.node = node();
        self.node.inherit(down);
        self.probed.clear();
        self.noted = Noted::default();
        (self.clock, self.jumps) = (Clock::new(), Jumps::new());
        self.apply(true)
    }

    pub(super) fn happens(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Probe { service, backend, finds, times } => {
                if let Some((s, b, ..)) = self.names(*service, *backend) {
                    self.all_find(&[(s, b)], *finds, *times)?;
                }
            }
            Event::Server { server, finds, times } => {
                let places = self.places(|_, b| b.config.address == address(*server));
                self.all_find(&places, *finds, *times)?;
            }
            Event::All { service, finds, times } => {
                let at = self.service_at(*service);
                let places = self.places(|s, _| Some(s) == at);
                self.all_find(&places, *finds, *times)?;
            }
            Event::Flap { service, backend, rounds } => {
                let Some((s, b, ..)) = self.names(*service, *backend) else { return Ok(()) };
                for _ in 0..*rounds {
                    self.all_find(&[(s, b)], Outcome::Hard, 3)?;
                    self.all_find(&[(s, b)], Outcome::Pass, 3)?;
                }
            }
            Event::Wait { ms } => self.pass(Duration::from_millis(u64::from(*ms)))?,
            Event::Reload { service, plan } => {
                match plan {
                    Some(plan) => self.plans.insert(*service, plan.clone()),
                    None => self.plans.remove(service),
                };
                self.apply(false)?;
            }
            Event::Drain { service, backend } => {
                let drain = self.absence(false, None);
                self.set_drain((*service, *backend), Some(drain));
            }
            Event::Maintenance { service, backend, seconds } => {
                let drain = self.absence(true, *seconds);
                self.set_drain((*service, *backend), Some(drain));
            }
            Event::Ready { service, backend } => self.set_drain((*service, *backend), None),
            Event::Freeze { service } => {
                self.frozen.insert(*service);
                self.set_frozen();
            }
            Event::Thaw { service } => {
                self.frozen.remove(service);
                self.set_frozen();
            }
            Event::Test { passes } => {
                if self.node.wants_test() {
                    self.node.on_self_test(*passes).unwrap();
                }
            }
            Event::Link { server, up } => {
                let down = || HopProblem::LinkDown { name: "eth0".into() };
                let hop = if *up { Ok(NextHop::Local) } else { Err(down()) };
                let has = !self.places(|_, b| b.config.address == address(*server)).is_empty();
                if has {
                    self.node.on_next_hop(address(*server), hop).unwrap();
                }
            }
            Event::Clock { seconds } => self.set_day(*seconds),
            Event::Restart => self.restart()?,
            Event::Sweep => {
                self.pass(Duration::from_millis(1))?;
                self.node.nat_swept(NatFound::default(), self.now).unwrap();
            }
        }
        if let Some(resting) = self.node.take_resting() {
            self.node.rested(resting).unwrap();
        }
        self.node.arena.maps.forget_history();
        Ok(())
    }
}
