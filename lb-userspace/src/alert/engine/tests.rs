//! Tables of events, in virtual seconds: what holds from when on, and what is sent.

use super::*;
use crate::alert::Severity;

/// Targets that take everything, unless told otherwise.
struct World {
    engine: Engine,
    now: u64,
    /// What each message said, with the second it was sent in: `12 +backend-down:web/a`.
    sent: Vec<String>,
    is_down: bool,
}

const REPEAT: u64 = 4 * 3600;

fn rules() -> Rules {
    Rules {
        events: Vec::new(),
        min_severity: Severity::Warning,
        repeat_ms: REPEAT * 1000,
        batch_ms: 1000,
        retries: 3,
    }
}

fn condition(kind: Kind, subject: &str) -> Warning {
    Warning {
        kind,
        severity: Severity::Warning,
        subject: subject.into(),
        message: "is not well".into(),
        next: None,
        since_ms: None,
    }
}

fn down(subject: &str) -> Warning {
    condition(Kind::BackendDown, subject)
}

impl World {
    /// Some time after its start, so that it is settled.
    fn new(rules: Rules) -> Self {
        let mut engine = Engine::new(0);
        engine.subscribe([("t".into(), rules)], |_| Vec::new());
        Self { engine, now: 100_000, sent: Vec::new(), is_down: false }
    }

    /// So many seconds in which this is what holds.
    fn pass(&mut self, seconds: u64, conditions: &[Warning]) -> &mut Self {
        let found = Found { conditions: conditions.to_vec(), unknown: BTreeSet::new() };
        self.pass_found(seconds, &found)
    }

    fn pass_found(&mut self, seconds: u64, found: &Found) -> &mut Self {
        for _ in 0..seconds {
            self.engine.observe(found, self.now);
            for (name, message) in self.engine.step(self.now) {
                if !self.is_down {
                    let mark = |item: &Item| if item.lasted_ms.is_some() { '-' } else { '+' };
                    let id = |i: &Item| format!("{}:{}", i.condition.kind, i.condition.subject);
                    let item = |item: &Item| match item.lasted_ms {
                        Some(ms) => format!("{}{}({})", mark(item), id(item), ms / 1000),
                        None => format!("{}{}", mark(item), id(item)),
                    };
                    let items: Vec<String> = message.items.iter().map(item).collect();
                    let second = (self.now - 100_000) / 1000;
                    self.sent.push(format!("{second} {}", items.join(" ")));
                }
                let result = if self.is_down { Err("refused".into()) } else { Ok(()) };
                self.engine.done(&name, result, self.now);
            }
            self.now += 1000;
        }
        self
    }

    fn target_is(&mut self, down: bool) -> &mut Self {
        self.is_down = down;
        self
    }

    fn expect(&self, expect: &[&str]) {
        assert_eq!(self.sent, expect);
    }

    fn restart(&mut self) -> &mut Self {
        let told: Vec<Told> = self.engine.subscribers["t"].told().cloned().collect();
        // As it is kept on disk.
        let json = serde_json::to_string(&told).unwrap();
        let mut told: Vec<Told> = serde_json::from_str(&json).unwrap();
        self.engine = Engine::new(self.now);
        self.engine.subscribe([("t".into(), rules())], |_| std::mem::take(&mut told));
        self
    }
}

#[test]
fn told_once_and_again_when_it_is_over() {
    World::new(rules())
        .pass(5, &[])
        .pass(60, &[down("web/a")])
        .pass(60, &[])
        .expect(&["6 +backend-down:web/a", "66 -backend-down:web/a(60)"]);
}

#[test]
fn what_comes_together_is_one_message_worst_first() {
    let panic = Warning { severity: Severity::Critical, ..condition(Kind::Panic, "web") };
    let capacity = condition(Kind::CapacityLow, "web");
    World::new(rules())
        .pass(1, &[down("web/a")])
        .pass(9, &[panic, down("web/a"), capacity])
        .pass(5, &[])
        .expect(&[
            "1 +panic:web +backend-down:web/a +capacity-low:web",
            "11 -panic:web(9) -backend-down:web/a(10) -capacity-low:web(9)",
        ]);
}

#[test]
fn what_is_over_before_it_is_told_is_not_told() {
    let share = condition(Kind::Share, "web/a");
    World::new(rules()).pass(1, &[down("web/a")]).pass(9, &[]).expect(&[]);
    World::new(rules()).pass(30, std::slice::from_ref(&share)).pass(9, &[]).expect(&[]);
    World::new(rules()).pass(33, &[share]).expect(&["31 +share:web/a"]);
}

#[test]
fn the_states_own_time_counts() {
    let since = |ms| Warning { since_ms: Some(ms), ..condition(Kind::Latency, "web/a") };
    World::new(rules())
        .pass(5, &[since(70_000)])
        .pass(5, &[])
        .expect(&["1 +latency:web/a", "6 -latency:web/a(35)"]);
}

#[test]
fn it_is_repeated_while_it_holds() {
    World::new(rules())
        .pass(REPEAT + 10, &[down("web/a")])
        .expect(&["1 +backend-down:web/a", "14402 +backend-down:web/a"]);
}

#[test]
fn it_is_told_again_when_it_gets_worse() {
    let low = condition(Kind::CapacityLow, "web");
    let none = Warning { severity: Severity::Critical, ..low.clone() };
    World::new(rules())
        .pass(9, std::slice::from_ref(&low))
        .pass(9, std::slice::from_ref(&none))
        .pass(9, &[low])
        .pass(9, &[none])
        .pass(9, &[])
        .expect(&["1 +capacity-low:web", "10 +capacity-low:web", "37 -capacity-low:web(36)"]);
}

#[test]
fn a_target_hears_what_it_asked_for() {
    let info = Warning { severity: Severity::Info, ..condition(Kind::Override, "web/a") };
    let all = [down("web/a"), info];
    World::new(rules()).pass(9, &all).expect(&["1 +backend-down:web/a"]);
    World::new(Rules { events: vec![Kind::Panic], ..rules() }).pass(9, &all).expect(&[]);
    World::new(Rules { min_severity: Severity::Info, ..rules() })
        .pass(9, &all)
        .expect(&["1 +backend-down:web/a +override:web/a"]);
    World::new(Rules { min_severity: Severity::Critical, ..rules() }).pass(9, &all).expect(&[]);
}

#[test]
fn one_that_comes_and_goes_is_damped() {
    let mut world = World::new(rules());
    for _ in 0..360 {
        world.pass(5, &[down("web/a")]).pass(5, &[]);
    }
    // An hour of it, which undamped would be 720 messages.
    world.expect(&["1 +backend-down:web/a", "6 -backend-down:web/a(5)", "11 +backend-down:web/a"]);
    world.sent.clear();
    world.pass(120, &[]).expect(&["3626 -backend-down:web/a(3585)"]);
    world.sent.clear();
    // Each further time it must be gone for longer.
    for _ in 0..3 {
        world.pass(9, &[down("web/a")]).pass(100, &[]);
    }
    world.expect(&[
        "3721 +backend-down:web/a",
        "3790 -backend-down:web/a(9)",
        "3830 +backend-down:web/a",
    ]);
}

#[test]
fn a_restart_repeats_nothing_and_forgets_nothing() {
    let unknown = Found { conditions: Vec::new(), unknown: ["web/a".into()].into() };
    World::new(rules())
        .pass(9, &[down("web/a"), down("web/b")])
        .restart()
        // No probe has spoken yet, for longer than the quiet after a start.
        .pass_found(60, &unknown)
        .pass(9, &[down("web/a")])
        .pass(9, &[])
        .expect(&[
            "1 +backend-down:web/a +backend-down:web/b",
            "40 -backend-down:web/b(39)",
            "79 -backend-down:web/a(78)",
        ]);
}

#[test]
fn a_target_that_is_down_for_an_hour_gets_what_still_holds() {
    let mut world = World::new(rules());
    world.pass(9, &[down("web/old")]).target_is(true);
    for n in 0..360 {
        world.pass(10, &[down(&format!("web/{n}"))]);
    }
    let subscriber = &world.engine.subscribers["t"];
    assert_eq!(subscriber.last_error.as_deref(), Some("refused"));
    // Four attempts within 7 s, and a minute's rest: each is a message given up.
    assert!((50..=60).contains(&subscriber.failed), "{}", subscriber.failed);
    world.target_is(false).pass(70, &[down("web/last")]);
    assert_eq!(world.engine.subscribers["t"].last_error, None);
    // One message may have been waiting for its next attempt; none of the 360 is a backlog.
    let told: Vec<&str> = world.sent.iter().flat_map(|s| s.split(' ').skip(1)).collect();
    assert!(told.len() <= 5, "{told:?}");
    assert!(told.contains(&"+backend-down:web/last"), "{told:?}");
    assert!(told.iter().any(|t| t.starts_with("-backend-down:web/old")), "{told:?}");
}

#[test]
fn attempts_are_ever_farther_apart() {
    let mut world = World::new(rules());
    world.target_is(true);
    let mut attempts = Vec::new();
    let found = Found { conditions: vec![down("web/a")], unknown: BTreeSet::new() };
    for tenth in 0..800 {
        let now = 100_000 + tenth * 100;
        world.engine.observe(&found, now);
        for (name, _) in world.engine.step(now) {
            attempts.push(tenth);
            world.engine.done(&name, Err("no".into()), now);
        }
    }
    assert_eq!(attempts, [10, 20, 40, 80, 690, 700, 720, 760]);
}

#[test]
fn ten_thousand_at_once_are_told_in_messages_of_a_bounded_size() {
    let mut world = World::new(Rules { batch_ms: 0, ..rules() });
    let many: Vec<Warning> = (0..10_100).map(|n| down(&format!("web/b-{n:05}"))).collect();
    world.pass(101, &many);
    assert_eq!(world.engine.left_out(), 100, "no more are followed than there is room for");
    assert_eq!(world.sent.len(), MOST / subscriber::MOST_IN_ONE);
    let told: BTreeSet<String> =
        world.sent.iter().flat_map(|s| s.split(' ').skip(1)).map(Into::into).collect();
    assert_eq!(told.len(), MOST, "each once");
    // Those left out are told when there is room.
    world.pass(2, &many[50..]);
    let told = world.sent.iter().flat_map(|s| s.split(' ').skip(1));
    assert_eq!(told.filter(|t| t.starts_with('+')).collect::<BTreeSet<_>>().len(), MOST + 50);
}

#[test]
fn targets_come_go_and_change() {
    let mut world = World::new(rules());
    world.pass(9, &[down("web/a")]);
    let panic = Rules { events: vec![Kind::Panic], ..rules() };
    world.engine.subscribe([("t".into(), panic), ("new".into(), rules())], |_| Vec::new());
    // The one hears no more of what it no longer asks for; the other hears what holds.
    world.pass(9, &[down("web/a")]).pass(9, &[]);
    world.expect(&[
        "1 +backend-down:web/a",
        "10 +backend-down:web/a",
        "19 -backend-down:web/a(18)",
    ]);
}
