//! The scheduler in virtual time against scripted servers, and the prober against a real one.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::config::model::Probe;
use crate::control::health::{Failure, FailureKind, Success};

const MS: Duration = Duration::from_millis(1);

fn health() -> Health {
    Health {
        probe: Probe::Tcp,
        port: None,
        via: None,
        interval: 1000 * MS,
        fast_interval: 100 * MS,
        timeout: 500 * MS,
        rise: 2,
        fall: 3,
    }
}

/// How a scripted server treats a probe.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers after so many milliseconds.
    Answers(u32),
    Refuses,
    Swallows,
}

impl Manner {
    async fn treat(self, timeout: Duration) -> ProbeResult {
        match self {
            Self::Answers(ms) if MS * ms < timeout => {
                tokio::time::sleep(MS * ms).await;
                Ok(Success { latency: MS * ms })
            }
            Self::Refuses => Err(Failure::new(FailureKind::Refused, "test")),
            Self::Answers(_) | Self::Swallows => {
                tokio::time::sleep(timeout).await;
                Err(Failure::new(FailureKind::Timeout, "test"))
            }
        }
    }
}

/// One backend followed in virtual time.
struct Scene {
    manner: Rc<RefCell<Manner>>,
    starts: Rc<RefCell<Vec<Instant>>>,
    plan: watch::Sender<Plan>,
    events: mpsc::Receiver<ProbeEvent>,
    task: JoinHandle<()>,
}

impl Scene {
    /// Must be called in a `LocalSet`.
    fn open(health: Health, known: HealthState, manner: Manner) -> Self {
        let manner = Rc::new(RefCell::new(manner));
        let starts = Rc::new(RefCell::new(Vec::new()));
        let machine = HealthMachine::resume(Policy::from(&health), known, now().into_std());
        let target = "192.0.2.1:80".parse().unwrap();
        let (plan, changes) = watch::channel(Plan { target, way: None, health });
        let (sender, events) = mpsc::channel(QUEUE);
        let follower = Follower::new(7, machine, changes, sender);
        let (told, noted) = (manner.clone(), starts.clone());
        let task = tokio::task::spawn_local(follower.run(move |plan: Plan, _| {
            noted.borrow_mut().push(now());
            let manner = *told.borrow();
            async move { manner.treat(plan.health.timeout).await }
        }));
        Self { manner, starts, plan, events, task }
    }

    fn becomes(&self, manner: Manner) {
        *self.manner.borrow_mut() = manner;
    }

    async fn until(&mut self, state: HealthState) -> ProbeEvent {
        loop {
            let event = self.events.recv().await.unwrap();
            if event.transition.as_ref().is_some_and(|transition| transition.to == state) {
                return event;
            }
        }
    }
}

/// Runs a scene in virtual time, several times as phases are random.
fn in_virtual_time<F: Future<Output = ()>>(scene: impl Fn(u32) -> F) {
    for round in 0..40 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, scene(round));
    }
}

#[test]
fn detection_keeps_its_promise() {
    for (manner, silence) in [(Manner::Refuses, 0), (Manner::Swallows, 500)] {
        in_virtual_time(|round| async move {
            let mut scene = Scene::open(health(), HealthState::Unknown, Manner::Answers(1));
            scene.until(HealthState::Up).await;
            tokio::time::sleep(10_000 * MS + 37 * MS * round).await;
            let broken = now();
            scene.becomes(manner);
            scene.until(HealthState::Down).await;
            let bound = (1000 + 2 * 100 + silence) * MS + 2 * MS;
            assert!(broken.elapsed() <= bound, "{:?}", broken.elapsed());
        });
    }
}

#[test]
fn return_is_noticed_within_an_interval_and_the_fast_ones() {
    in_virtual_time(|round| async move {
        let mut scene = Scene::open(health(), HealthState::Up, Manner::Refuses);
        scene.until(HealthState::Down).await;
        tokio::time::sleep(10_000 * MS + 37 * MS * round).await;
        let mended = now();
        scene.becomes(Manner::Answers(1));
        scene.until(HealthState::Up).await;
        assert!(mended.elapsed() <= 1100 * MS + 2 * MS, "{:?}", mended.elapsed());
    });
}

#[test]
fn the_interval_runs_from_start_to_start_and_never_bunches() {
    // A server that usually takes 300 ms is not asked more often for that.
    in_virtual_time(|_| async {
        let scene = Scene::open(health(), HealthState::Up, Manner::Answers(300));
        tokio::time::sleep(60_000 * MS).await;
        let starts = scene.starts.borrow();
        for pair in starts[4..].windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap >= 900 * MS && gap <= 1000 * MS + MS, "{gap:?}");
        }
    });
}

#[test]
fn a_dead_server_is_asked_one_probe_at_a_time() {
    in_virtual_time(|_| async {
        let slow = Health { interval: 200 * MS, ..health() };
        let mut scene = Scene::open(slow, HealthState::Up, Manner::Swallows);
        scene.until(HealthState::Down).await;
        tokio::time::sleep(2000 * MS).await;
        let from = scene.starts.borrow().len();
        tokio::time::sleep(20_000 * MS).await;
        for pair in scene.starts.borrow()[from..].windows(2) {
            assert!(pair[1] - pair[0] >= 500 * MS);
        }
    });
}

#[test]
fn phases_spread_over_the_interval() {
    in_virtual_time(|_| async {
        let begun = now();
        let scenes: Vec<_> = (0..200)
            .map(|_| Scene::open(health(), HealthState::Unknown, Manner::Answers(1)))
            .collect();
        tokio::time::sleep(5000 * MS).await;
        let mut tenths = [0; 10];
        for scene in &scenes {
            let starts = scene.starts.borrow();
            assert!(starts[0] - begun <= 101 * MS, "the first answer comes soon");
            let at = starts.iter().map(|start| *start - begun).find(|at| *at >= 3000 * MS).unwrap();
            tenths[usize::try_from((at.as_millis() - 3000) / 100).unwrap().min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| *count < 60), "{tenths:?}");
    });
}

#[test]
fn a_new_target_starts_from_unknown_and_a_new_policy_does_not() {
    in_virtual_time(|_| async {
        let mut scene = Scene::open(health(), HealthState::Up, Manner::Refuses);
        scene.until(HealthState::Down).await;
        scene.plan.send_modify(|plan| plan.health.interval = 2000 * MS);
        let event = scene.events.recv().await.unwrap();
        assert_eq!(event.snapshot.state, HealthState::Down);
        scene.becomes(Manner::Swallows);
        scene.plan.send_modify(|plan| plan.target = "192.0.2.2:80".parse().unwrap());
        let event = scene.until(HealthState::Unknown).await;
        assert!(event.result.is_none());
        scene.plan.send_modify(|plan| plan.health.probe = Probe::None);
        scene.until(HealthState::Up).await;
        assert!(tokio::time::timeout(60_000 * MS, scene.events.recv()).await.is_err());
    });
}

#[test]
fn the_task_ends_when_nobody_listens() {
    in_virtual_time(|_| async {
        let scene = Scene::open(health(), HealthState::Up, Manner::Answers(1));
        drop(scene.events);
        scene.task.await.unwrap();
    });
}

#[tokio::test]
async fn a_real_server_is_probed_until_it_is_removed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let quick = Health { interval: 20 * MS, fast_interval: 5 * MS, ..health() };
    let (mut prober, mut events) = Prober::new();
    let start = prober.spawn(1, target, None, quick.clone(), HealthState::Unknown);
    assert_eq!(start.state, HealthState::Unknown);
    let event = events.recv().await.unwrap();
    assert_eq!((event.key, event.snapshot.state), (1, HealthState::Up));
    drop(listener);
    let down = loop {
        let event = events.recv().await.unwrap();
        if let Some(transition) = event.transition {
            break transition;
        }
    };
    let text = format!("refused: connection refused on {target}");
    assert_eq!(down.failure.map(|failure| failure.text), Some(text));
    prober.update(1, target, None, Health { probe: Probe::None, ..quick });
    while events.recv().await.unwrap().snapshot.state != HealthState::Up {}
    prober.remove(1);
    drop(prober);
    assert!(events.recv().await.is_none(), "no sender is left");
}

#[tokio::test]
async fn silent_servers_delay_no_other() {
    // Connected by the backlog, never answered.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lively = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = lively.local_addr().unwrap();
    tokio::spawn(async move { while lively.accept().await.is_ok() {} });
    let asked = Health {
        probe: Probe::Http { path: "/".into(), host: None, status: 200..=200 },
        timeout: 5000 * MS,
        interval: 100 * MS,
        ..health()
    };
    let (mut prober, mut events) = Prober::new();
    for key in 0..100 {
        prober.spawn(key, silent.local_addr().unwrap(), None, asked.clone(), HealthState::Unknown);
    }
    for key in 100..300 {
        prober.spawn(
            key,
            target,
            None,
            Health { probe: Probe::Tcp, ..asked.clone() },
            HealthState::Up,
        );
    }
    let mut rounds = HashMap::new();
    while rounds.len() < 200 || rounds.values().any(|round| *round < 5) {
        let event = events.recv().await.unwrap();
        assert!(event.key >= 100, "a silent server was given up before others were asked 5 times");
        *rounds.entry(event.key).or_insert(0) += 1;
    }
}
