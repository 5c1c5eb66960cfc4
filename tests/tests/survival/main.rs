//! Connections outlive whatever the operator does: 2,000 of them, with traffic on each, through 50
//! random changes that overlap, and then through two failures of one backend, which end that
//! backend's connections and no other.
//!
//! One family a run, by chance. `SEED=…` repeats a run's changes, `CHANGES=…` makes more of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panic")]

mod plan;
mod random;

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{
    Balancer, ConnectionReport, Decap, Family, Lab, Limit, Load, LongConnections, Mode,
    QUICK_DETECTION, Report, RunningConnections, Topology,
};

use crate::plan::{Plan, SERVERS, other_vip};
use crate::random::Random;

const CONNECTIONS: usize = 2_000;
/// Opened in the middle of it all, several times.
const MORE: usize = 50;
/// Each connection asks this often, so that it is never silent for `idle_timeout`.
const INTERVAL: Duration = Duration::from_secs(1);
/// `idle_timeout` of the service.
const IDLE: Duration = Duration::from_secs(3);
/// For probes and clock of a busy machine.
const SLACK: Duration = Duration::from_secs(4);

struct Scene {
    /// Before the lab, which takes its namespaces away.
    _decaps: Vec<Decap>,
    lab: Lab,
    balancer: Balancer,
    plan: Plan,
    began: Instant,
    /// What was done, and when.
    done: Vec<(Instant, String)>,
}

impl Scene {
    fn start(family: Family) -> Self {
        let lab = Lab::build(Topology::new(Mode::Dsr, SERVERS)).unwrap();
        lab.configure_dsr_vips(&[family.vip(), other_vip(family)]).unwrap();
        let decaps = Decap::everywhere(&lab).unwrap();
        let plan = Plan::new(family, IDLE);
        let balancer = Balancer::serving(&lab, &[plan.service()]).unwrap();
        Self { _decaps: decaps, lab, balancer, plan, began: Instant::now(), done: Vec::new() }
    }

    fn note(&mut self, what: String) {
        let now = Instant::now();
        println!("{:6.2} s  {what}", (now - self.began).as_secs_f64());
        self.done.push((now, what));
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.plan.family.vip(), 80)
    }

    fn connections(&self, count: usize) -> RunningConnections {
        let connections = LongConnections::new(self.target(), count).interval(INTERVAL);
        connections.timeout(IDLE + SLACK).start(self.lab.client())
    }

    /// A moment, with what was done before.
    fn describe_time(&self, when: Instant) -> String {
        let before = self.done.iter().rev().filter(|(at, _)| *at <= when).take(3);
        let before: Vec<_> = before.map(|(_, what)| what).collect();
        format!("at {:.2} s, after {before:?}", (when - self.began).as_secs_f64())
    }

    fn describe(&self, connection: &ConnectionReport) -> String {
        let ConnectionReport { local, backend, moved_to, requests, slowest, broken } = connection;
        let Some((when, why)) = broken else {
            return format!("{local:?} of {backend:?} was answered by {moved_to:?}");
        };
        let when = self.describe_time(*when);
        format!(
            "{local:?} of {backend:?}: {why} {when}; {requests} requests, the slowest {slowest:?}"
        )
    }

    /// No request beside failed before a moment; one under way then may have met what came next.
    fn assert_served(&self, load: &Report, until: Instant) {
        let failed = load.requests.iter().filter(|r| r.failed() && r.ended() < until);
        let failed: Vec<_> =
            failed.map(|r| format!("{:?} {}", r.outcome, self.describe_time(r.started))).collect();
        assert!(failed.is_empty(), "requests failed:\n{}", failed.join("\n"));
    }

    fn assert_none(&self, broken: &[&ConnectionReport], what: &str) {
        let some: Vec<_> = broken.iter().take(12).map(|c| self.describe(c)).collect();
        assert!(broken.is_empty(), "{} {what}:\n{}", broken.len(), some.join("\n"));
    }
}

fn broken(connection: &&ConnectionReport) -> bool {
    connection.broken.is_some() || connection.moved_to.is_some()
}

fn by_backend(connections: &[ConnectionReport]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for connection in connections {
        *counts.entry(connection.backend.as_deref().unwrap_or("nobody")).or_default() += 1;
    }
    counts
}

/// 50, or what `CHANGES` says.
fn changes() -> usize {
    env::var("CHANGES").map_or(50, |text| text.parse().expect("CHANGES is a number"))
}

#[test]
fn connections_outlive_changes_and_others_failures() {
    let mut random = Random::new();
    let mut scene = Scene::start(random.one_of(&Family::ALL).unwrap());
    scene.note(format!("{}", scene.plan.family));
    let load = Load::new(scene.target(), Limit::UntilStopped).threads(2);
    let load =
        load.pause(Duration::from_millis(10)).timeout(IDLE + SLACK).start(scene.lab.client());
    let mut running = vec![scene.connections(CONNECTIONS)];
    sleep(2 * INTERVAL);

    for change in 1..=changes() {
        let what = scene.plan.step(&mut random, &scene.lab, &scene.balancer);
        scene.note(format!("{change}: {what}"));
        sleep(random.between(Duration::from_millis(200), Duration::from_millis(800)));
        if change % 10 == 0 {
            running.push(scene.connections(MORE));
        }
        if scene.plan.has_other_vip && change % 5 == 0 {
            let other = SocketAddr::new(other_vip(scene.plan.family), 80);
            let report = Load::new(other, Limit::Requests(20)).run(scene.lab.client()).unwrap();
            assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
        }
    }
    // Until the last change has settled, and as long again.
    sleep(2 * IDLE);
    let settled = Instant::now();

    let (name, server) = scene.plan.ready()[0].clone();
    let victim = scene.lab.backends()[usize::from(server)].name.clone();
    for _ in 0..2 {
        scene.note(format!("kill {name} on {victim}"));
        scene.lab.kill_backend(server.into()).unwrap();
        let limit = QUICK_DETECTION + SLACK;
        scene.balancer.wait_for_health("web", &name, "down", limit).unwrap();
        sleep(INTERVAL);
        scene.note(format!("start {name}"));
        scene.lab.start_backend(server.into()).unwrap();
        scene.balancer.wait_for_health("web", &name, "up", SLACK).unwrap();
        running.push(scene.connections(4 * MORE));
        sleep(2 * INTERVAL);
    }
    running.iter().for_each(RunningConnections::end);
    let load = load.stop().unwrap();
    let connections: Vec<_> = running.into_iter().flat_map(|r| r.stop().unwrap()).collect();

    let slowest = connections.iter().map(|c| c.slowest).max().unwrap_or_default();
    println!(
        "{} connections on {:?}; {} requests beside, {} failed; slowest answer {slowest:?}",
        connections.len(),
        by_backend(&connections),
        load.requests.len(),
        load.failures(),
    );
    let ended: Vec<_> = connections.iter().filter(broken).collect();
    let is_early = |c: &&ConnectionReport| c.broken.as_ref().is_none_or(|(at, _)| *at < settled);
    let (early, late): (Vec<_>, Vec<_>) = ended.into_iter().partition(is_early);
    println!("broken: {} by changes, {} by two failures", early.len(), late.len());
    scene.assert_none(&early, "connections broken though their server runs");
    let others: Vec<_> =
        late.iter().copied().filter(|c| c.backend.as_deref() != Some(&victim)).collect();
    scene.assert_none(&others, "connections of other backends broken by a failure");
    assert!(!late.is_empty(), "{victim} had connections");
    // Only what was sent to the victim before it was found dead.
    let counts = scene.balancer.count().unwrap();
    println!("{}", counts.non_zero().join(", "));
    scene.assert_served(&load, settled);
    for name in ["drop-internal", "flow-insert-failed", "flow-insert-limited"] {
        assert_eq!(counts.of(name).unwrap(), 0, "{name}");
    }
    scene.balancer.stop().unwrap();
}
