//! The scheduler in virtual time against scripted servers, and the prober against a real one.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::config::model::{Grpc, Http, Payload, Probe, Tls, Udp};
use crate::control::health::{Failure, FailureKind, Success};
use crate::probe::tests::target;

const MS: Duration = Duration::from_millis(1);

fn health() -> Health {
    Health {
        hold_down: Duration::ZERO,
        interval: 1000 * MS,
        fast_interval: 100 * MS,
        timeout: 500 * MS,
        ..Health::new(Probe::Tcp)
    }
}

/// How a scripted server treats a probe.
#[derive(Clone, Copy, Debug)]
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
    hurry: Arc<Notify>,
    events: mpsc::Receiver<ProbeEvent>,
    task: JoinHandle<()>,
}

impl Scene {
    /// Must be called in a `LocalSet`.
    fn open(health: Health, known: HealthState, manner: Manner) -> Self {
        let manner = Rc::new(RefCell::new(manner));
        let starts = Rc::new(RefCell::new(Vec::new()));
        let machine = HealthMachine::resume(Policy::from(&health), known, now().into_std());
        let target = target("192.0.2.1:80".parse().unwrap());
        let plan = Plan::new(target, None, health, &mut Configs::default());
        let (plan, changes) = watch::channel(plan);
        let (sender, events) = mpsc::channel(QUEUE);
        let hurry = Arc::new(Notify::new());
        let follower = Follower::new(7, machine, (changes, Arc::clone(&hurry)), sender);
        let (told, noted) = (manner.clone(), starts.clone());
        let task = tokio::task::spawn_local(follower.run(move |plan: Plan, _| {
            noted.borrow_mut().push(now());
            let manner = *told.borrow();
            async move { manner.treat(plan.health.timeout).await }
        }));
        Self { manner, starts, plan, hurry, events, task }
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
fn other_signals_bring_the_next_probe_forward_and_decide_nothing() {
    in_virtual_time(|round| async move {
        let mut scene = Scene::open(health(), HealthState::Unknown, Manner::Answers(1));
        scene.until(HealthState::Up).await;
        tokio::time::sleep(10_000 * MS + 37 * MS * round).await;
        while scene.events.try_recv().is_ok() {}
        let said = now();
        let before = scene.starts.borrow().len();
        // However often it is said.
        for _ in 0..10 {
            scene.hurry.notify_one();
            tokio::time::sleep(MS).await;
        }
        let event = scene.events.recv().await.unwrap();
        assert_eq!((event.transition, event.snapshot.state), (None, HealthState::Up));
        assert!(said.elapsed() <= 102 * MS, "{:?}", said.elapsed());
        tokio::time::sleep_until(said + 95 * MS).await;
        let starts = scene.starts.borrow().len() - before;
        assert!(starts <= 2, "no more often than `fast_interval`: {starts}");
    });
}

#[test]
fn a_flood_of_signals_is_no_flood_of_probes() {
    for manner in [Manner::Answers(1), Manner::Answers(300), Manner::Refuses] {
        in_virtual_time(|_| async move {
            let rarely = Health { interval: 600_000 * MS, jitter: 0, ..health() };
            let scene = Scene::open(rarely, HealthState::Up, manner);
            for _ in 0..10_000 {
                scene.hurry.notify_one();
                tokio::time::sleep(MS).await;
            }
            for pair in scene.starts.borrow().windows(2) {
                assert!(pair[1] - pair[0] >= 100 * MS, "{:?}", pair[1] - pair[0]);
            }
            let before = scene.starts.borrow().len();
            tokio::time::sleep(60_000 * MS).await;
            let more = scene.starts.borrow().len() - before;
            assert!(more <= 1, "what was said before is not said again: {more}");
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
fn jitter_is_as_wide_as_asked_for() {
    for jitter in [0, 50] {
        in_virtual_time(|_| async move {
            let even = Health { jitter, ..health() };
            let scene = Scene::open(even, HealthState::Up, Manner::Answers(1));
            tokio::time::sleep(100_000 * MS).await;
            let starts = scene.starts.borrow();
            let gaps = || starts[4..].windows(2).map(|pair| pair[1] - pair[0]);
            let (shortest, longest) = (gaps().min().unwrap(), gaps().max().unwrap());
            assert!(longest <= 1001 * MS, "{longest:?}");
            match jitter {
                0 => assert!(shortest >= 1000 * MS, "{shortest:?}"),
                // That none of a hundred is in the lower half of the range has a chance of 2^-100.
                _ => assert!(shortest >= 500 * MS && shortest < 750 * MS, "{shortest:?}"),
            }
        });
    }
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
        scene.plan.send_modify(|plan| plan.target.address = "192.0.2.2:80".parse().unwrap());
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
    let address = listener.local_addr().unwrap();
    let target = target(address);
    let quick = Health { interval: 20 * MS, fast_interval: 5 * MS, ..health() };
    let (mut prober, mut events) = Prober::new();
    let start = prober.spawn(1, target.clone(), None, quick.clone(), HealthState::Unknown);
    assert_eq!(start.state, HealthState::Unknown);
    let event = events.recv().await.unwrap();
    assert_eq!((event.key, event.snapshot.state), (1, HealthState::Unknown));
    assert_eq!(events.recv().await.unwrap().snapshot.state, HealthState::Up, "at the second");
    drop(listener);
    let down = loop {
        let event = events.recv().await.unwrap();
        if let Some(transition) = event.transition {
            break transition;
        }
    };
    let text = format!("refused: connection refused on {address}");
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
    let (answering, mute) = (lively.local_addr().unwrap(), silent.local_addr().unwrap());
    // Every probe that waits, in turn.
    let waiting = [
        Probe::Http(Http::get("/")),
        Probe::Http(Http { tls: Some(Tls::default()), ..Http::get("/") }),
        Probe::Grpc(Grpc { service: String::new(), tls: None }),
        Probe::Udp(Udp { payload: Payload::new(b"x"), expect: None }),
    ];
    // Silent by UDP, too.
    let _mute = tokio::net::UdpSocket::bind(mute).await.unwrap();
    tokio::spawn(async move { while lively.accept().await.is_ok() {} });
    let asked = Health { timeout: 5000 * MS, interval: 100 * MS, ..health() };
    let (mut prober, mut events) = Prober::new();
    for key in 0..100 {
        let probe = waiting[key as usize % waiting.len()].clone();
        let asked = Health { probe, ..asked.clone() };
        prober.spawn(key, target(mute), None, asked, HealthState::Unknown);
    }
    for key in 100..300 {
        prober.spawn(key, target(answering), None, asked.clone(), HealthState::Up);
    }
    let mut rounds = HashMap::new();
    while rounds.len() < 200 || rounds.values().any(|round| *round < 5) {
        let event = events.recv().await.unwrap();
        assert!(event.key >= 100, "a silent server was given up before others were asked 5 times");
        *rounds.entry(event.key).or_insert(0) += 1;
    }
}

/// What happens to a backend that is followed.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Becomes(Manner),
    Hurry,
    /// Another interval, in milliseconds.
    Interval(u64),
}

fn happens() -> impl proptest::strategy::Strategy<Value = (Happens, u64)> {
    use proptest::prelude::*;
    let what = prop_oneof![
        (1u32..400).prop_map(|ms| Happens::Becomes(Manner::Answers(ms))),
        Just(Happens::Becomes(Manner::Refuses)),
        Just(Happens::Becomes(Manner::Swallows)),
        Just(Happens::Hurry),
        (100u64..2_000).prop_map(Happens::Interval),
    ];
    (what, 0u64..3_000)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(60))]

    /// Whatever happens in whatever order: the next probe comes in time, and none too soon; nobody
    /// is up without `rise` successes, or down without `fall` failures, since the last change.
    #[test]
    fn no_wake_up_is_lost(events in proptest::collection::vec(happens(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut scene = Scene::open(health(), HealthState::Unknown, Manner::Answers(1));
            let mut longest = health().interval;
            let (mut results, mut states) = (Vec::new(), Vec::new());
            for (what, wait) in events {
                match what {
                    Happens::Becomes(manner) => scene.becomes(manner),
                    Happens::Hurry => scene.hurry.notify_one(),
                    Happens::Interval(ms) => {
                        let interval = Duration::from_millis(ms);
                        longest = longest.max(interval);
                        scene.plan.send_modify(|plan| plan.health.interval = interval);
                    }
                }
                tokio::time::sleep(Duration::from_millis(wait)).await;
                while let Ok(event) = scene.events.try_recv() {
                    results.extend(event.result.as_ref().map(Result::is_ok));
                    if let Some(transition) = event.transition {
                        states.push((transition.to, results.clone()));
                    }
                }
            }
            let starts = scene.starts.borrow().clone();
            let most = longest + health().timeout + 2 * MS;
            for (at, next) in starts.iter().zip(starts.iter().skip(1).chain([&now()])) {
                assert!(*next - *at <= most, "{:?} without a probe", *next - *at);
            }
            for (state, results) in states {
                let (last, count) = match state {
                    HealthState::Up => (true, health().rise),
                    _ => (false, health().fall),
                };
                let run = results.iter().rev().take_while(|ok| **ok == last).count();
                assert!(run >= count as usize, "{state:?} after {run}");
            }
        });
    }
}
