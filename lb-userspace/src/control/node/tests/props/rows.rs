//! What random events once found, as rows; and that the clock of the day changes nothing.

use super::Event::{
    All, Clock, Drain, Freeze, Link, Maintenance, Probe, Reload, Restart, Thaw, Wait,
};
use super::Outcome::{Hard, Pass, Soft};
use super::scene::Scene;
use super::{Event, Plan, Planned, happens};
use crate::report::{BackendState, Status};

/// So many backends, the last so many of them backups.
fn backends(all: u8, backups: u8) -> Plan {
    let planned = |server| Planned { server, weight: 1, backup: server >= all - backups };
    Plan { backends: (0..all).map(planned).collect(), ..Plan::default() }
}

fn one(backend: u8, finds: super::Outcome) -> Event {
    Probe { service: 0, backend, finds, times: 1 }
}

fn all(finds: super::Outcome) -> Event {
    All { service: 0, finds, times: 1 }
}

#[test]
fn what_was_found_once() {
    let reload = |plan| Reload { service: 0, plan: Some(plan) };
    let rows: Vec<(&str, Plan, Vec<Event>)> = vec![
        (
            "a place in the window is waited for by who is kept, and his own state stays",
            backends(2, 0),
            vec![one(1, Soft), all(Pass), Wait { ms: 1 }, all(Hard)],
        ),
        (
            "one that fails makes it a panic, and others return, growing",
            Plan { slow_start: 30, max_removed: 20, in_window: 100, ..backends(4, 0) },
            vec![all(Pass), one(0, Soft), Wait { ms: 60_000 }, one(1, Soft), Wait { ms: 1_000 }],
        ),
        (
            "who is drained makes it most that fail",
            Plan { max_removed: 99, in_window: 100, ..backends(5, 0) },
            vec![
                all(Pass),
                Freeze { service: None },
                one(0, Hard),
                one(1, Hard),
                Drain { service: 0, backend: 4 },
                Thaw { service: None },
                Drain { service: 0, backend: 3 },
            ],
        ),
        (
            "the link is back, and most fail",
            Plan { max_removed: 99, in_window: 100, ..backends(2, 0) },
            vec![
                all(Pass),
                Link { server: 0, up: false },
                Link { server: 1, up: false },
                all(Hard),
                Link { server: 0, up: true },
                Link { server: 1, up: true },
                Wait { ms: 60_000 },
            ],
        ),
        (
            "a freeze while backups wait to go back",
            backends(2, 1),
            vec![
                one(0, Hard),
                Wait { ms: 1_000 },
                one(0, Pass),
                Freeze { service: None },
                Wait { ms: 60_000 },
                Thaw { service: None },
                Wait { ms: 60_000 },
            ],
        ),
        (
            "a backup becomes one of the others while health is frozen",
            backends(2, 1),
            vec![all(Pass), Freeze { service: None }, reload(backends(2, 0))],
        ),
        (
            "another slow start",
            Plan { slow_start: 30, in_window: 100, ..backends(2, 0) },
            vec![
                all(Pass),
                one(0, Hard),
                Wait { ms: 60_000 },
                one(0, Pass),
                Wait { ms: 900 },
                reload(Plan { slow_start: 1, ..backends(2, 0) }),
            ],
        ),
        ("who was down is kept if all were", backends(2, 0), vec![all(Hard), Restart]),
    ];
    for (what, plan, events) in rows {
        happens(&[plan], &events).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

const DAY: i64 = 86_400;

/// Of a service in which one backend is held down, one grows, one is in maintenance for 40 s, one
/// drains, and one is frozen out; then the clock is set.
fn around_a_jump(seconds: i64) -> [Status; 2] {
    let plan = Plan {
        hold_down: 10,
        max_removed: 100,
        in_window: 100,
        slow_start: 30,
        idle: 60,
        ..backends(6, 0)
    };
    let mut scene = Scene::start(&[plan]);
    let mut happens = |event: &Event| {
        scene.happens(event).and_then(|()| scene.check()).unwrap();
    };
    happens(&all(Pass));
    for outcome in [Hard, Pass, Hard] {
        happens(&one(0, outcome));
    }
    happens(&one(1, Hard));
    happens(&Wait { ms: 2_000 });
    happens(&one(1, Pass));
    happens(&Maintenance { service: 0, backend: 2, seconds: Some(40) });
    happens(&Drain { service: 0, backend: 3 });
    happens(&Wait { ms: 5_000 });
    let before = scene.status();
    let next = scene.node.next_clock();
    scene.happens(&Clock { seconds }).unwrap();
    scene.check().unwrap();
    assert_eq!(scene.node.next_clock(), next, "what is to happen by itself happens as before");
    let after = scene.status();
    // Its end, and nothing else of it, has come.
    scene.happens(&Wait { ms: 36_000 }).unwrap();
    scene.check().unwrap();
    let service = &scene.status().services[0];
    assert_ne!(service.backends[2].state, BackendState::Serving, "nobody put it back");
    [before, after]
}

#[test]
fn a_clock_that_is_set_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for seconds in [DAY, -DAY, 20 * 365 * DAY, -20 * 365 * DAY] {
        let [before, after] = runtime.block_on(async { around_a_jump(seconds) });
        assert_eq!(before.services, after.services, "by {seconds} s");
        let held = before.services[0].backends[0].health.held_ms.unwrap();
        assert!(held > 0.0 && before.services[0].backends[1].admit < 1.0, "{before:?}");
        let said = |status: &Status| -> Vec<String> {
            status.warnings.iter().map(|w| format!("{} {}", w.subject, w.message)).collect()
        };
        assert_eq!(said(&before), said(&after));
        for (before, after) in before.warnings.iter().zip(&after.warnings) {
            let moved = before.since_ms.map(|ms| ms.checked_add_signed(seconds * 1000).unwrap());
            assert_eq!(moved, after.since_ms, "by the clock as it is set: {before:?}");
        }
    }
}
