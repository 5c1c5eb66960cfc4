//! Properties, whatever happens: each alert told is called over once when it is over, and none is
//! told twice within `repeat`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::alert::Severity;

/// What a target was told of one alert.
#[derive(Default)]
struct Seen {
    is_open: bool,
    told_at: u64,
    worst: Option<Severity>,
}

const REPEAT_MS: u64 = 600_000;
const KINDS: [Kind; 4] = [Kind::BackendDown, Kind::CapacityLow, Kind::Share, Kind::NoNextHop];

/// One step: how long, which of the conditions hold, and how severe; whether the target takes it.
type Step = (u64, [Option<bool>; 4], bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let holds = prop::option::of(any::<bool>());
    let step = (1..40_000u64, [holds.clone(), holds.clone(), holds.clone(), holds], any::<bool>());
    prop::collection::vec(step, 1..80)
}

fn conditions(holds: &[Option<bool>; 4]) -> Vec<Warning> {
    let pairs = KINDS.iter().zip(holds);
    let condition = |(kind, holds): (&Kind, &Option<bool>)| {
        let severity = if (*holds)? { Severity::Critical } else { Severity::Warning };
        Some(Warning {
            kind: *kind,
            severity,
            subject: "web".into(),
            message: String::new(),
            next: None,
            since_ms: None,
        })
    };
    pairs.filter_map(condition).collect()
}

fn check(seen: &mut BTreeMap<Key, Seen>, message: &Message, now: u64) -> Result<(), TestCaseError> {
    for item in &message.items {
        let one = seen.entry(item.key()).or_default();
        if item.lasted_ms.is_some() {
            prop_assert!(one.is_open, "over, and was not told or is over already: {item:?}");
            *one = Seen::default();
            continue;
        }
        let severity = item.condition.severity;
        let is_worse = one.worst.is_some_and(|worst| severity > worst);
        let is_old = now - one.told_at >= REPEAT_MS;
        prop_assert!(!one.is_open || is_worse || is_old, "twice: {item:?}");
        *one = Seen { is_open: true, told_at: now, worst: Some(severity) };
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn told_once_and_over_once(steps in steps(), batch_ms in 0..5_000u64, retries in 0..4u32) {
        let min_severity = Severity::Warning;
        let rules = Rules { events: vec![], min_severity, repeat_ms: REPEAT_MS, batch_ms, retries };
        let mut engine = Engine::new(0);
        engine.subscribe([("t".into(), rules)], |_| Vec::new());
        let mut seen = BTreeMap::new();
        let mut now = 0;
        // In the end nothing is wrong, and the target is there: for longer than anything is damped.
        let end = std::iter::repeat_n((30_000, [None; 4], true), 80);
        for (time, holds, takes) in steps.into_iter().chain(end) {
            let found = Found { conditions: conditions(&holds), unknown: BTreeSet::new() };
            let until = now + time;
            while now < until {
                engine.observe(&found, now);
                for (name, message) in engine.step(now) {
                    if takes {
                        check(&mut seen, &message, now)?;
                    }
                    engine.done(&name, if takes { Ok(()) } else { Err("no".into()) }, now);
                }
                let next = engine.next().unwrap_or(u64::MAX);
                now = next.clamp(now + 1, now + 1_000).min(until);
            }
        }
        prop_assert!(seen.values().all(|one| !one.is_open), "told, and never called over");
        let waiting = engine.subscribers().map(|(_, s)| engine.waiting(s, now)).sum::<usize>();
        prop_assert_eq!(waiting, 0);
    }
}
