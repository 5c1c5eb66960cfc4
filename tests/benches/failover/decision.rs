//! How long the control loop takes from the deciding probe results to the last word.
//!
//! Each service probes its servers itself, so a failure that all services share arrives as one result for each. They
//! are handled as the loop does it: one after the other, and what follows from all of them after that.

use std::time::{Duration, Instant};

use lb_common::abi::FEATURES_ALL;
use lb_tests::bench::{Figure, Options, emit, progress, progress_ends};
use lb_userspace::config::model::{self, Backend, Config, Health, Mode, Probe, Service};
use lb_userspace::control::health::{
    Failure, FailureKind, HealthMachine, HealthState, Policy, Success,
};
use lb_userspace::control::node::{Drains, Node};
use lb_userspace::dataplane::load::load;
use lb_userspace::net::Resolver;
use lb_userspace::probe::{BATCH, ProbeEvent, Prober};
use serde_json::json;

/// Services, and backends of each.
const SIZES: [(usize, usize); 5] = [(1, 10), (100, 10), (1_000, 10), (1, 100), (1_000, 100)];
/// What the target is for, in microseconds.
const TARGET: (usize, usize, f64) = (1_000, 10, 1_000.0);

pub(crate) fn run(options: &Options) {
    let name = |(services, backends): &(usize, usize)| {
        format!("decision, {services} services, {backends} backends")
    };
    let sizes: Vec<_> = SIZES.into_iter().filter(|size| options.wants(&name(size))).collect();
    let sizes = if options.quick {
        sizes.into_iter().filter(|(s, b)| s * b <= 10_000).collect()
    } else {
        sizes
    };
    if sizes.is_empty() {
        return;
    }
    leave_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let mut all: Vec<(Scene, Vec<[f64; 2]>)> =
            sizes.iter().map(|size| (Scene::new(*size), Vec::new())).collect();
        for round in 0..options.rounds {
            for (scene, times) in &mut all {
                progress(&format!("round {} of {}: {}", round + 1, options.rounds, name(&scene.size)));
                times.push(scene.fail());
                scene.mend();
            }
        }
        progress_ends();
        for (scene, times) in &all {
            let of = |at: usize| {
                Figure::of(&times.iter().map(|times| times[at]).collect::<Vec<_>>())
            };
            emit(&json!({
                "part": "failover",
                "case": "decision",
                "services": scene.size.0,
                "backends": scene.size.1,
                "decision_us": of(0),
                "loop_us": of(1),
                "target_us": ((scene.size.0, scene.size.1) == (TARGET.0, TARGET.1)).then_some(TARGET.2),
            }));
        }
    });
}

/// Addresses of servers here are anybody's: nothing of this may reach a network.
fn leave_network() {
    // SAFETY: moves this thread, the only one so far, to a network namespace of its own.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "failover needs root");
}

/// A node with services that share their servers, the first of which fails.
struct Scene {
    size: (usize, usize),
    node: Node,
    /// Keys of the probes of the failing server, with what they know.
    probes: Vec<(u64, HealthMachine)>,
    /// The program and what its daemon holds.
    _loaded: lb_userspace::dataplane::load::Loaded,
    _channels: Box<dyn std::any::Any>,
}

impl Scene {
    fn new(size: (usize, usize)) -> Self {
        let (services, backends) = size;
        let rows = u32::try_from(services * backends).expect("so many rows");
        let node = model::Node {
            interfaces: vec!["lo".into()],
            limits: model::Limits {
                backends: rows.max(16),
                table_bytes: u32::try_from(services * 20_000 + (1 << 20)).expect("so many bytes"),
                ..model::Limits::default()
            },
            ..model::Node::default()
        };
        let loaded = load(&node, 1, 1500, false, FEATURES_ALL).expect("the program loads");
        let (prober, results) = Prober::new();
        let (resolver, hops) = Resolver::start(node.interfaces.clone()).expect("netlink");
        let services = (0..services).map(|number| service(number, backends).into()).collect();
        let config = Config { node: node.clone(), alerts: Vec::new(), services };
        let mut node = Node::new(loaded.maps.clone(), node, prober, resolver);
        node.apply(&config, &Drains::new(), true).expect("the configuration fits");
        // It fails again and again, and is to return at once.
        let health = Health { hold_down: Duration::ZERO, ..Health::new(Probe::Tcp) };
        let known = HealthMachine::resume(Policy::from(&health), HealthState::Up, Instant::now());
        let probes = node.services.iter().map(|s| (s.backends[0].probe, known.clone())).collect();
        Self { size, node, probes, _loaded: loaded, _channels: Box::new((results, hops)) }
    }

    /// The deciding results arrive: microseconds until the last word, and until the loop waits again.
    fn fail(&mut self) -> [f64; 2] {
        let failure = Failure::new(FailureKind::Refused, "10.1.0.1:80");
        let events = self.events(&Err(failure));
        let handled = events.len();
        let words = self.words();
        let start = Instant::now();
        let (mut decided, mut moved) = (Duration::ZERO, 0);
        let mut events = events.into_iter();
        while events.len() > 0 {
            for event in events.by_ref().take(BATCH) {
                moved +=
                    usize::from(self.node.on_probe(event).expect("a word is written").is_some());
            }
            decided = start.elapsed();
            std::hint::black_box((self.node.next_clock(), self.node.take_resting()));
        }
        let looped = start.elapsed();
        assert_eq!(moved, handled, "every service takes its backend out");
        assert!(self.words().iter().zip(&words).all(|(now, before)| now != before));
        [decided, looped].map(|time| time.as_secs_f64() * 1e6)
    }

    fn mend(&mut self) {
        let success = Success { latency: Duration::from_millis(1) };
        for event in self.events(&Ok(success)) {
            self.node.on_probe(event).expect("a word is written");
        }
        // A backend that returns is in transition for a while; this one has no flows to wait for.
        let drains = Drains::new();
        let config = self.node.config.clone();
        let none = Config { services: Vec::new(), ..config.clone() };
        self.node.apply(&none, &drains, true).expect("all services go");
        while let Some(resting) = self.node.take_resting() {
            self.node.rested(resting).expect("places are free");
        }
        self.node.apply(&config, &drains, true).expect("all services return");
        for (service, (key, _)) in self.node.services.iter().zip(&mut self.probes) {
            *key = service.backends[0].probe;
        }
    }

    /// As many equal results as decide, for each service; the last one's event.
    fn events(&mut self, result: &Result<Success, Failure>) -> Vec<ProbeEvent> {
        let last = |(key, machine): &mut (u64, HealthMachine)| {
            let now = Instant::now();
            let mut transition = None;
            while transition.is_none() {
                transition = machine.on_result(now, now, result);
            }
            let snapshot = machine.snapshot();
            let result = Some(result.clone());
            ProbeEvent { key: *key, result, transition, snapshot, started: now, at: now }
        };
        self.probes.iter_mut().map(last).collect()
    }

    fn words(&self) -> Vec<u64> {
        let maps = &self.node.arena.maps;
        let row = |service: &lb_userspace::control::service::Running| {
            service.tables.row(service.backends[0].index)
        };
        self.node.services.iter().filter_map(|service| maps.words.get(row(service))).collect()
    }
}

fn service(number: usize, backends: usize) -> Service {
    let port = 1 + number;
    let listen = format!("192.0.2.10:{port}/tcp").parse().expect("a frontend");
    let backends = (0..backends)
        .map(|at| {
            let address = [10, 1, (at / 250) as u8, (at % 250) as u8 + 1];
            Backend::new(format!("web-{at:03}"), std::net::IpAddr::from(address)).into()
        })
        .collect();
    Service {
        listen: vec![listen],
        // The results come from here, not from probes.
        health: Health::new(Probe::None),
        backends,
        ..Service::new(format!("service-{number:04}"), Mode::Dsr)
    }
}
