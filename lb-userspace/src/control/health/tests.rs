//! Tables of events for the health machine, and properties of any sequence of them.

use proptest::prelude::*;

use super::*;

const INTERVAL: u64 = 1000;
const FAST: u64 = 100;

fn policy(rise: u32, fall: u32) -> Policy {
    Policy {
        probed: true,
        interval: Duration::from_millis(INTERVAL),
        fast_interval: Duration::from_millis(FAST),
        rise,
        fall,
        hold_down: Duration::ZERO,
        hold_down_max: Duration::from_secs(60),
    }
}

fn ok() -> ProbeResult {
    Ok(Success { latency: Duration::from_millis(1) })
}

fn failed(kind: FailureKind) -> ProbeResult {
    Err(Failure::new(kind, "test"))
}

/// `+` success, `-` refused, `!` a failure of our own.
fn result(event: char) -> ProbeResult {
    match event {
        '+' => ok(),
        '-' => failed(FailureKind::Refused),
        '!' => failed(FailureKind::Local),
        other => panic!("no such event: {other}"),
    }
}

fn letter(state: HealthState) -> char {
    match state {
        HealthState::Unknown => '?',
        HealthState::Up => 'U',
        HealthState::Down => 'D',
    }
}

/// Plays `events` from `start`; one letter of `states` and one of `next` (`n`ormal, `f`ast) each.
#[track_caller]
fn check(name: &str, start: HealthState, events: &str, states: &str, next: &str) {
    let mut now = Instant::now();
    let mut machine = HealthMachine::resume(policy(2, 3), start, now);
    let (mut seen_states, mut seen_next) = (String::new(), String::new());
    for event in events.chars() {
        let before = machine.snapshot().state;
        let transition = machine.on_result(now, now, &result(event));
        let after = machine.snapshot().state;
        assert_eq!(
            transition.map(|t| (t.from, t.to)),
            (before != after).then_some((before, after))
        );
        let wait = machine.next_probe_in().unwrap();
        seen_states.push(letter(after));
        seen_next.push(if wait == Duration::from_millis(FAST) { 'f' } else { 'n' });
        now += wait;
    }
    assert_eq!((seen_states.as_str(), seen_next.as_str()), (states, next), "{name}");
}

#[test]
fn events_move_the_state_as_drawn() {
    use HealthState::{Down, Unknown, Up};
    let rows = [
        ("unknown needs `rise` successes", Unknown, "++", "?U", "fn"),
        ("unknown needs `fall` failures", Unknown, "---", "??D", "ffn"),
        ("unknown, interrupted", Unknown, "--++", "???U", "fffn"),
        ("up, three strikes", Up, "+---", "UUUD", "nffn"),
        ("up, two strikes and back", Up, "--+--", "UUUUU", "ffnff"),
        ("a success starts the count anew", Up, "--+---", "UUUUUD", "ffnffn"),
        ("down, `rise` successes", Down, "-++", "DDU", "nfn"),
        ("down, one success is not enough", Down, "+-+-", "DDDD", "fnfn"),
        ("alternating never flips", Up, "-+-+-+-+", "UUUUUUUU", "fnfnfnfn"),
        ("fail over and back", Up, "---++", "UUDDU", "ffnfn"),
        ("our own failures are no evidence", Up, "!!!!", "UUUU", "nnnn"),
        ("nor do they break or extend a run", Up, "-!-!-", "UUUUD", "ffffn"),
    ];
    for (name, start, events, states, next) in rows {
        check(name, start, events, states, next);
    }
}

#[test]
fn transition_carries_cause_and_detection_time() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut machine = HealthMachine::resume(policy(2, 3), HealthState::Up, start);
    let refused = failed(FailureKind::Refused);
    assert_eq!(machine.on_result(at(1000), at(1001), &refused), None);
    assert_eq!(machine.on_result(at(1100), at(1101), &refused), None);
    let status = failed(FailureKind::HttpStatus);
    let down = machine.on_result(at(1200), at(1202), &status).unwrap();
    assert_eq!(down.detection(), Duration::from_millis(202));
    assert_eq!(down.failure.clone().map(|f| f.kind.is_hard()), Some(false));
    let seen = machine.snapshot();
    assert_eq!((seen.state, seen.streak, seen.since), (HealthState::Down, 3, at(1202)));
    assert_eq!(seen.failing_since, Some(at(1000)));
    assert_eq!(seen.last_failure.map(|last| last.at), Some(at(1202)));
}

#[test]
fn snapshot_keeps_the_last_failure_and_latency() {
    let start = Instant::now();
    let mut machine = HealthMachine::new(policy(1, 1), start);
    machine.on_result(start, start, &failed(FailureKind::Timeout));
    machine.on_result(start, start, &ok());
    let report = machine.snapshot().report(start + Duration::from_millis(7), None);
    assert_eq!(report.last_failure.as_deref(), Some("timeout: test"));
    assert_eq!((report.latency_ms, report.since_ms, report.streak), (Some(1.0), 7, 1));
}

#[test]
fn what_could_not_be_asked_changes_nothing_and_is_told() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    for known in [HealthState::Unknown, HealthState::Up, HealthState::Down] {
        let mut machine = HealthMachine::resume(policy(2, 2), known, start);
        machine.on_result(
            start,
            at(1),
            &match known {
                HealthState::Down => failed(FailureKind::Refused),
                _ => ok(),
            },
        );
        let before = machine.snapshot();
        for ms in [100, 200] {
            assert_eq!(machine.on_result(at(ms), at(ms + 5), &failed(FailureKind::Local)), None);
        }
        let after = machine.snapshot();
        let unprobed = after.unprobed.clone().unwrap();
        assert_eq!((unprobed.since, unprobed.failure.detail()), (at(105), "test"));
        assert_eq!(
            HealthSnapshot { unprobed: None, ..after.clone() },
            before,
            "and how it is down"
        );
        let report = after.report(at(305), None).unprobed.unwrap();
        assert_eq!((report.text.as_str(), report.since_ms), ("test", 200));
        machine.on_result(at(400), at(401), &ok());
        assert_eq!(machine.snapshot().unprobed, None);
    }
}

#[test]
fn an_outage_keeps_its_first_failure() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut machine = HealthMachine::resume(policy(2, 3), HealthState::Up, start);
    let mut outage = |from, to, result: ProbeResult| {
        machine.on_result(at(from), at(to), &result);
        let report = machine.snapshot().report(at(2000), None).outage;
        report.map(|outage| (outage.first, outage.last)).map(|(first, last)| {
            assert_eq!(first.text, format!("{}: test", first.kind));
            let ms = |ms: f64| ms.round() as u64;
            (first.kind, ms(first.latency_ms), last.kind, ms(last.latency_ms), last.ago_ms)
        })
    };
    let seen = |first: &str, a, last: &str, b, ago| Some((first.into(), a, last.into(), b, ago));
    assert_eq!(outage(0, 1, ok()), None);
    // A failure of our own begins none.
    assert_eq!(outage(100, 101, failed(FailureKind::Local)), None);
    let refused = failed(FailureKind::Refused);
    assert_eq!(outage(200, 203, refused.clone()), seen("refused", 3, "refused", 3, 1797));
    // It was none.
    assert_eq!(outage(300, 301, ok()), None);
    assert_eq!(outage(400, 402, refused), seen("refused", 2, "refused", 2, 1598));
    for (from, ago) in [(500, 1000), (600, 900), (700, 800)] {
        let timeout = failed(FailureKind::Timeout);
        assert_eq!(outage(from, from + 500, timeout), seen("refused", 2, "timeout", 500, ago));
    }
    // Down still, then up.
    assert_eq!(outage(1300, 1301, ok()), seen("refused", 2, "timeout", 500, 800));
    assert_eq!(outage(1400, 1401, ok()), None);
    assert_eq!(outage(1500, 1507, failed(FailureKind::Tls)), seen("tls", 7, "tls", 7, 493));
}

#[test]
fn names_of_layers_are_stable() {
    use FailureKind::*;
    let kinds = [
        Local,
        NoNeighbour,
        Unreachable,
        Refused,
        Timeout,
        Reset,
        Tls,
        HttpStatus,
        Body,
        Protocol,
        Exec,
    ];
    assert_eq!(
        kinds.map(FailureKind::name).join(","),
        "local,no neighbour,unreachable,refused,timeout,reset,tls,status,body,protocol,exec"
    );
    assert!(kinds.is_sorted());
}

#[test]
fn unprobed_is_up() {
    let now = Instant::now();
    let unprobed = Policy { probed: false, ..policy(2, 3) };
    for state in [HealthState::Unknown, HealthState::Down] {
        assert_eq!(HealthMachine::resume(unprobed, state, now).snapshot().state, HealthState::Up);
        let mut machine = HealthMachine::resume(policy(2, 3), state, now);
        let up = machine.reconfigure(unprobed, true, now).unwrap();
        assert_eq!((up.to, machine.next_probe_in()), (HealthState::Up, None));
    }
}

#[test]
fn reconfiguring_keeps_the_state_of_the_same_server_only() {
    let now = Instant::now();
    let mut machine = HealthMachine::resume(policy(2, 3), HealthState::Down, now);
    assert_eq!(machine.reconfigure(policy(1, 1), true, now), None);
    assert_eq!(machine.snapshot().state, HealthState::Down);
    let fresh = machine.reconfigure(policy(1, 1), false, now).unwrap();
    assert_eq!((fresh.from, fresh.to), (HealthState::Down, HealthState::Unknown));
}

/// Plays results at seconds and tells when the state changed.
fn damped(policy: Policy, events: impl IntoIterator<Item = (u64, char)>) -> Vec<(u64, char)> {
    let start = Instant::now();
    let mut machine = HealthMachine::resume(policy, HealthState::Up, start);
    let mut changes = Vec::new();
    for (second, event) in events {
        let now = start + Duration::from_secs(second);
        let transition = machine.on_result(now, now, &result(event));
        changes.extend(transition.map(|t| (second, letter(t.to))));
    }
    changes
}

#[test]
fn who_goes_down_again_is_held_down_longer_each_time() {
    let policy = Policy {
        hold_down: Duration::from_secs(10),
        hold_down_max: Duration::from_secs(60),
        ..policy(1, 1)
    };
    // Fails once whenever it came up two seconds ago.
    let mut up_since = Some(0);
    let mut machine = HealthMachine::resume(policy, HealthState::Up, Instant::now());
    let start = machine.snapshot().since;
    let (mut lengths, mut down_since) = (Vec::new(), 0);
    for second in 1..400 {
        let now = start + Duration::from_secs(second);
        let fails = up_since.is_some_and(|up| second == up + 2);
        let event = if fails { '-' } else { '+' };
        match machine.on_result(now, now, &result(event)).map(|t| t.to) {
            Some(HealthState::Down) => (up_since, down_since) = (None, second),
            Some(_) => {
                up_since = Some(second);
                lengths.push(second - down_since);
            }
            None => {}
        }
    }
    assert_eq!(lengths, [1, 10, 20, 40, 60, 60, 60, 60, 60], "seconds down");
    assert!(machine.snapshot().falls > 9);
}

#[test]
fn who_was_up_for_long_begins_anew() {
    let policy = Policy {
        hold_down: Duration::from_secs(10),
        hold_down_max: Duration::from_secs(60),
        ..policy(1, 1)
    };
    let changes =
        damped(policy, [(1, '-'), (2, '+'), (62, '-'), (63, '+'), (70, '-'), (71, '+'), (80, '+')]);
    assert_eq!(changes, [(1, 'D'), (2, 'U'), (62, 'D'), (63, 'U'), (70, 'D'), (80, 'U')]);
}

#[test]
fn ten_thousand_alternating_results_change_little() {
    let policy = Policy {
        hold_down: Duration::from_secs(1),
        hold_down_max: Duration::from_secs(60),
        ..policy(1, 1)
    };
    let events = (1..=10_000).map(|second| (second, if second % 2 == 0 { '+' } else { '-' }));
    let changes = damped(policy, events);
    // 1, 2, 4, … 60 seconds and then one change each way a minute; undamped it would be 10,000.
    assert!((300..=350).contains(&changes.len()), "{}", changes.len());
}

proptest! {
    /// An oracle that counts backwards over the history instead of keeping a run.
    #[test]
    fn never_flips_without_the_evidence(
        rise in 1u32..5,
        fall in 1u32..5,
        events in prop::collection::vec(prop::sample::select(vec!['+', '-', '!']), 0..200),
    ) {
        let now = Instant::now();
        let mut machine = HealthMachine::new(policy(rise, fall), now);
        let mut history = Vec::new();
        for event in events {
            if event != '!' {
                history.push(event);
            }
            let transition = machine.on_result(now, now, &result(event));
            let last = |n: u32, wanted: char| {
                history.len() >= n as usize && history.iter().rev().take(n as usize).all(|e| *e == wanted)
            };
            if let Some(transition) = &transition {
                match transition.to {
                    HealthState::Up => prop_assert!(last(rise, '+')),
                    HealthState::Down => prop_assert!(last(fall, '-')),
                    HealthState::Unknown => prop_assert!(false, "nothing leads back to unknown"),
                }
            }
            // And it never stays against the evidence.
            match machine.snapshot().state {
                HealthState::Up => prop_assert!(!last(fall, '-')),
                HealthState::Down => prop_assert!(!last(rise, '+')),
                HealthState::Unknown => prop_assert!(!last(rise, '+') && !last(fall, '-')),
            }
            let wait = machine.next_probe_in();
            let settled = machine.is_settled() || history.is_empty();
            prop_assert_eq!(wait == Some(Duration::from_millis(INTERVAL)), settled);
        }
    }

    #[test]
    fn alternating_results_never_flip(rise in 2u32..6, fall in 2u32..6, up: bool, rounds in 1usize..100) {
        let now = Instant::now();
        let start = if up { HealthState::Up } else { HealthState::Down };
        let mut machine = HealthMachine::resume(policy(rise, fall), start, now);
        for event in ['-', '+'].into_iter().cycle().take(rounds) {
            prop_assert_eq!(machine.on_result(now, now, &result(event)), None);
        }
    }
}
