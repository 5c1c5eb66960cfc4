//! The node over a real program's maps: each change that once lost traffic, as a test.
//!
//! Packets are picked by the program's own code over the live maps; nothing is attached. Needs
//! root, as the program is loaded.

mod doubted;
mod governed;
mod named;
mod props;
mod watched;
mod widen;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use lb_common::abi::{ADDRESS_NAT, FEATURES_ALL, FlowEntry, FlowKey, IFINDEX_LOCAL, Word};
use lb_common::find_service::{find_address, find_service};
use lb_common::ip::{Flow, Ip, V4, ports};
use lb_common::maps::Maps;
use lb_common::pick::pick;
use lb_common::verdict::Event;

use super::*;
use crate::config::model::{Failover, Health, Limits, Percent, Probe};
use crate::control::governor::Kept;
use crate::control::health::{Failure, FailureKind, LastFailure};
use crate::dataplane::load::{Loaded, load};
use crate::dataplane::services::address;
use crate::dataplane::view::{View, monotonic_seconds};
use crate::net::Remote;
use crate::net::testbed::Namespace;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FLOWS: u32 = 1000;
const ALL: Percent = Percent::ALL;

/// A node, and what must live as long as it.
struct World {
    node: Node,
    loaded: Loaded,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self::load(limits, FEATURES_ALL)
    }

    fn load(limits: Limits, features: u32) -> Self {
        let node =
            model::Node { interfaces: vec!["eth0".into()], limits, ..model::Node::default() };
        let loaded = load(&node, 7, 1500, false, features).unwrap();
        let (prober, _) = Prober::new();
        let (resolver, _) = Resolver::start(["eth0".to_owned()]).unwrap();
        let node = Node::new(loaded.maps.clone(), node, prober, resolver);
        Self { node, loaded }
    }

    fn try_apply(&mut self, services: &[model::Service], first: bool) -> Result<()> {
        let node = self.node.config.node.clone();
        let config = Config { node, alerts: Vec::new(), services: shared(services) };
        self.node.apply(&config, &Drains::new(), first)
    }

    fn apply(&mut self, services: &[model::Service]) {
        self.try_apply(services, false).unwrap();
    }

    fn health(&mut self, name: &str, up: bool) {
        let (s, b) = self.node.locate("web", name).unwrap();
        let now = Instant::now();
        let state = if up { HealthState::Up } else { HealthState::Down };
        let mut snapshot = HealthSnapshot::initial(state, now);
        if !up {
            let failure = Failure::new(FailureKind::Refused, "refused");
            let last = LastFailure { failure, at: now, latency: Duration::ZERO };
            snapshot.last_failure = Some(last.into());
        }
        let key = self.node.services[s].backends[b].probe;
        let event =
            ProbeEvent { key, result: None, transition: None, snapshot, started: now, at: now };
        self.node.on_probe(event).unwrap();
        if self.node.wants_test() {
            self.node.on_self_test(true).unwrap();
        }
    }

    /// The row a packet of a flow goes to, if any; what the program would record is recorded.
    fn send(&self, number: u32, flags: u8) -> (Option<u32>, bool) {
        let maps = &self.node.arena.maps;
        let view = View::new(maps);
        let flow = flow(number, flags);
        let service = find_service::<V4, _>(&view, &flow).unwrap();
        let hash = V4::hash(maps.settings().seed, &flow.key);
        let row = pick(&view, &service, &flow, hash).ok().map(|picked| picked.row);
        let recorded = view.events().contains(&Event::FlowInsert);
        if recorded {
            maps.flows.set(&flow.key, view.flow(&flow.key).unwrap()).unwrap();
        }
        (row, recorded)
    }

    fn rows(&self, flags: u8) -> Vec<Option<u32>> {
        (0..FLOWS).map(|number| self.send(number, flags).0).collect()
    }

    fn sent(&self) -> usize {
        self.rows(SYN).iter().flatten().count()
    }

    fn running(&self) -> &Running {
        &self.node.services[0]
    }

    /// What the loop does between two events: a grace period, and a sweep that found nothing.
    fn rest(&mut self) {
        if let Some(resting) = self.node.take_resting() {
            self.node.rested(resting).unwrap();
        }
        self.node.nat_swept(NatFound::default(), Instant::now()).unwrap();
    }
}

fn flow(number: u32, tcp_flags: u8) -> Flow {
    Flow {
        key: FlowKey {
            source: [(0xc633_6400 + number / 500).to_be(), 0, 0, 0],
            destination: address("192.0.2.10".parse().unwrap()),
            ports: ports(20_000 + (number % 500) as u16, 80),
            kind: FlowKey::kind_of(4, 6),
        },
        tcp_flags,
        length: 40,
    }
}

fn backends(prefix: &str, numbers: std::ops::Range<u32>) -> Vec<model::Backend> {
    let one = |n: u32| {
        let address = IpAddr::from((0x0a00_0100 + n).to_be_bytes());
        model::Backend::new(format!("{prefix}{n}"), address)
    };
    numbers.map(one).collect()
}

fn shared<T: Clone>(values: &[T]) -> Vec<Arc<T>> {
    values.iter().cloned().map(Arc::new).collect()
}

fn web(mode: Mode, probe: Probe, backends: Vec<model::Backend>) -> model::Service {
    model::Service {
        listen: vec!["192.0.2.10:80/tcp".parse().unwrap()],
        health: Health::new(probe),
        // What is tested here is what becomes of traffic; the governor has tests of its own.
        failover: Failover { max_removed: ALL, max_removed_in_window: ALL, ..Failover::default() },
        backends: backends.into_iter().map(Arc::new).collect(),
        ..model::Service::new("web", mode)
    }
}

/// Runs a test in a namespace of its own, on a runtime.
fn run(test: impl FnOnce() + Send) {
    Namespace::new().run(async { test() });
}

#[test]
fn all_backends_may_change_at_once_and_back() {
    run(|| {
        let mut world = World::new(Limits::default());
        let old = [web(Mode::Dsr, Probe::None, backends("b", 0..8))];
        let new = [web(Mode::Dsr, Probe::None, backends("c", 20..32))];
        world.try_apply(&old, true).unwrap();
        assert_eq!(world.sent(), 1000);
        for services in [&new, &old, &new, &old] {
            world.apply(services);
            assert_eq!(world.sent(), 1000, "{}", services[0].backends.len());
            world.rest();
        }
    });
}

#[test]
fn a_service_that_grows_keeps_serving_and_its_flows() {
    for mode in [Mode::Dsr, Mode::Nat] {
        run(|| {
            let mut world = World::new(Limits::default());
            world.try_apply(&[web(mode, Probe::Tcp, backends("b", 0..8))], true).unwrap();
            (0..8).for_each(|n| world.health(&format!("b{n}"), true));
            let before = world.rows(SYN);
            let first = world.running().tables.row(0);
            world.apply(&[web(mode, Probe::Tcp, backends("b", 0..40))]);
            assert_eq!(world.running().serving(), 8, "the new ones wait for their probes");
            assert_ne!(world.running().tables.row(0), first, "it has other rows now");
            let after = world.rows(ACK);
            assert_eq!(after.iter().flatten().count(), 1000);
            // A word is one store for both rows: what points to the former one is not forgotten.
            world.health("b3", false);
            let maps = &world.node.arena.maps;
            for row in world.running().tables.rows(3) {
                assert!(!Word(maps.words.get(row).unwrap()).serving(), "row {row}");
            }
            assert_eq!(world.running().tables.rows(3).count(), 2);
            assert!(before.iter().all(Option::is_some));
        });
    }
}

#[test]
fn a_service_that_changes_its_mode_goes_on_serving() {
    run(|| {
        let mut world = World::new(Limits::default());
        world.try_apply(&[web(Mode::Nat, Probe::Tcp, backends("b", 0..4))], true).unwrap();
        (0..4).for_each(|n| world.health(&format!("b{n}"), true));
        world.health("b1", false);
        world.apply(&[web(Mode::Dsr, Probe::Tcp, backends("b", 0..4))]);
        assert_eq!(world.running().serving(), 3, "health is kept");
        assert_eq!(world.sent(), 1000);
        world.health("b2", false);
        assert_eq!(world.running().serving(), 2, "and goes on being watched");
    });
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let small = Limits { table_bytes: 200 << 10, ..Limits::default() };
    let few = Limits { servers: 6, ..Limits::default() };
    let rows: [(Limits, Vec<model::Backend>, Vec<model::Backend>, &str); 2] = [
        (small, backends("b", 0..230), backends("b", 0..5), "limits.table_bytes"),
        (few, backends("b", 0..4), backends("c", 10..14), "limits.servers"),
    ];
    for (limits, old, new, remedy) in rows {
        run(|| {
            let mut world = World::new(limits);
            let old = [web(Mode::Dsr, Probe::None, old)];
            world.try_apply(&old, true).unwrap();
            let before = world.rows(SYN);
            let new = [web(Mode::Dsr, Probe::None, new)];
            let error = format!("{:#}", world.try_apply(&new, false).unwrap_err());
            assert!(error.contains(remedy), "{error}");
            assert_eq!(world.rows(SYN), before);
            assert_eq!(world.node.config.services, shared(&old));
            world.apply(&old);
            assert_eq!(world.rows(SYN), before);
        });
    }
}

#[test]
fn flows_recorded_by_exhausted_walks_survive_a_new_table() {
    run(|| {
        let mut all = backends("b", 0..3);
        all[0].weight = 1000;
        let mut world = World::new(Limits::default());
        world.try_apply(&[web(Mode::Dsr, Probe::Tcp, all.clone())], true).unwrap();
        ["b1", "b2"].iter().for_each(|name| world.health(name, true));
        world.health("b0", false);
        let first: Vec<_> = (0..FLOWS).map(|number| world.send(number, SYN)).collect();
        assert!(first.iter().filter(|(_, recorded)| *recorded).count() > 500);
        assert!(world.running().needs_sweep());
        all[1].weight = 1000;
        all[2].weight = 1000;
        world.apply(&[web(Mode::Dsr, Probe::Tcp, all)]);
        for (number, (row, recorded)) in (0..).zip(first) {
            if recorded {
                assert_eq!(world.send(number, ACK).0, row, "flow {number}");
            }
        }
    });
}

#[test]
fn a_removed_services_backends_are_never_followed() {
    run(|| {
        let mut world = World::new(Limits::default());
        world.try_apply(&[web(Mode::Dsr, Probe::None, backends("b", 0..4))], true).unwrap();
        let row = world.running().tables.row(3);
        let maps = world.node.arena.maps.clone();
        let generation = Word(maps.words.get(row).unwrap()).generation();
        let entry = FlowEntry { row, generation, last_seen: monotonic_seconds(), state: 0 };
        maps.flows.set(&flow(1, SYN).key, entry).unwrap();
        world.apply(&[]);
        world.rest();
        world.apply(&[web(Mode::Dsr, Probe::Tcp, backends("n", 100..102))]);
        world.health("n100", true);
        let own: Vec<u32> = (0..2).map(|index| world.running().tables.row(index)).collect();
        assert!(world.send(1, SYN).0.is_some_and(|row| own.contains(&row)), "not {row}");
    });
}

#[test]
fn a_lost_next_hop_does_not_lose_the_nat_address() {
    run(|| {
        let mut world = World::new(Limits::default());
        world.try_apply(&[web(Mode::Nat, Probe::None, backends("b", 0..1))], true).unwrap();
        let server = world.running().backends[0].config.address;
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let hop = Remote {
            ifindex: 2,
            vlan: 0,
            interface: "eth0".into(),
            source_mac: [2; 6],
            destination_mac: [4; 6],
            via: None,
            source,
            mtu: 1500,
        };
        let is_known = |world: &World| {
            let view = View::new(&world.node.arena.maps);
            find_address::<V4, _>(&view, &address(source)) & ADDRESS_NAT != 0
        };
        world.node.on_next_hop(server, Ok(NextHop::Remote(hop))).unwrap();
        assert!(is_known(&world));
        let down = HopProblem::LinkDown { name: "eth0".into() };
        world.node.on_next_hop(server, Err(down)).unwrap();
        assert!(is_known(&world), "replies under way are still ours");
    });
}

#[test]
fn a_hop_that_the_mode_cannot_use_is_a_problem() {
    for (mode, source, via, expect) in [
        (Mode::Dsr, "10.0.0.1", Some("10.0.0.254"), Some("router 10.0.0.254")),
        (Mode::Nat, "0.0.0.0", None, Some("no address of its family")),
        (Mode::Nat, "10.0.0.1", Some("10.0.0.254"), None),
    ] {
        run(|| {
            let mut world = World::new(Limits::default());
            world.try_apply(&[web(mode, Probe::None, backends("b", 0..1))], true).unwrap();
            let server = world.running().backends[0].config.address;
            let hop = Remote {
                ifindex: 2,
                vlan: 0,
                interface: "eth0".into(),
                source_mac: [2; 6],
                destination_mac: [4; 6],
                via: via.map(|via| via.parse().unwrap()),
                source: source.parse().unwrap(),
                mtu: 1500,
            };
            world.node.on_next_hop(server, Ok(NextHop::Remote(hop))).unwrap();
            let said = world.node.servers.hop(server, mode).unwrap().err().map(|e| e.to_string());
            match expect {
                None => assert_eq!(said, None),
                Some(expect) => {
                    assert!(said.as_ref().is_some_and(|s| s.contains(expect)), "{said:?}");
                }
            }
            let ifindex = world.node.arena.maps.servers.get(0).unwrap().ifindex;
            assert_eq!(ifindex == 0, expect.is_some());
        });
    }
}

#[test]
fn a_replaced_server_waits_for_its_probe() {
    run(|| {
        let mut all = backends("b", 0..2);
        let mut world = World::new(Limits::default());
        world.try_apply(&[web(Mode::Dsr, Probe::Tcp, all.clone())], true).unwrap();
        ["b0", "b1"].iter().for_each(|name| world.health(name, true));
        all[0].address = "10.0.9.9".parse().unwrap();
        let before = world.rows(ACK);
        world.apply(&[web(Mode::Dsr, Probe::Tcp, all)]);
        assert_eq!(world.rows(ACK), before, "what it has stays on the old server");
        let other = world.running().tables.row(1);
        assert!(world.rows(SYN).iter().all(|row| *row == Some(other)));
        world.health("b0", true);
        let mut new = (FLOWS..2 * FLOWS).map(|number| world.send(number, SYN).0);
        assert!(new.any(|row| row != Some(other)), "flows begin there once it is up");
    });
}

#[test]
fn a_server_that_is_this_host_is_local_except_in_nat() {
    for (mode, expected) in [(Mode::Dsr, Ok(IFINDEX_LOCAL)), (Mode::Nat, Err("use `dsr`"))] {
        run(|| {
            let mut world = World::new(Limits::default());
            world.try_apply(&[web(mode, Probe::None, backends("b", 0..1))], true).unwrap();
            let server = world.running().backends[0].config.address;
            world.node.on_next_hop(server, Ok(NextHop::Local)).unwrap();
            let record = world.node.arena.maps.servers.get(0).unwrap();
            assert_eq!((record.ifindex, record.ethernet), (expected.unwrap_or(0), [0; 3]));
            let hop = world.node.servers.hop(server, mode).unwrap();
            match expected {
                Ok(_) => assert_eq!(hop, Ok(&NextHop::Local)),
                Err(text) => assert!(hop.as_ref().unwrap_err().to_string().contains(text)),
            }
        });
    }
}
