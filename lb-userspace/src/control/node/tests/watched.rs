//! What is wrong with a node, looked at in turns.

use std::time::Duration;

use super::*;
use crate::alert::{Clock, Kind};
use crate::control::freezes::Freezes;
use crate::control::watch::{Scene, Watch};
use crate::names::Names;
use crate::probe::{ProbeResult, Success};
use crate::report::Warning;

/// Four services of as many backends as two turns have room for.
fn services() -> Vec<model::Service> {
    let name = |n: u32| match n {
        3 => "web".to_owned(),
        n => format!("other-{n}"),
    };
    let service = |n: u32| {
        let backends = backends(&format!("b{n}"), n * 1000..(n + 1) * 1000);
        let mut service = web(Mode::Dsr, Probe::Tcp, backends);
        service.name = name(n);
        service.listen = vec![format!("192.0.2.{}:80/tcp", n + 1).parse().unwrap()];
        service
    };
    (0..4).map(service).collect()
}

fn scene<'a>(node: &'a Node, freezes: &'a Freezes) -> Scene<'a> {
    static NONE: Names = Names::none();
    Scene { node, interfaces: &[], freezes, names: &NONE }
}

fn said(conditions: &[Warning]) -> Vec<(Kind, &str)> {
    conditions.iter().map(|c| (c.kind, c.subject.as_str())).collect()
}

#[test]
fn turns_find_what_one_look_finds() {
    run(|| {
        let mut world = World::new(Limits { backends: 65_536, ..Limits::default() });
        world.try_apply(&services(), true).unwrap();
        let victim = services()[3].backends[999].name.clone();
        let (mut watch, none) = (Watch::new(Clock::new()), Freezes::default());
        // The first pass is interrupted by a change of the configuration, and begins anew.
        assert!(watch.turn(scene(&world.node, &none), 1).is_none());
        world.health(&victim, false);
        let turns = (0..9).find_map(|turn| Some((turn, watch.turn(scene(&world.node, &none), 2)?)));
        let (turn, found) = turns.unwrap();
        assert!(turn > 0, "not in one turn");
        let down = (Kind::BackendDown, format!("web/{victim}"));
        let at_once = watch.now(scene(&world.node, &none));
        assert_eq!(said(&found.conditions), said(&at_once.conditions));
        assert_eq!(found.unknown, at_once.unknown);
        assert!(said(&found.conditions).contains(&(down.0, down.1.as_str())));
        assert!(said(&found.conditions).contains(&(Kind::CapacityLow, "web")));
        assert_eq!(found.unknown.len(), 3999 + 4, "no probe has spoken of the rest");
    });
}

#[test]
fn a_backend_that_answers_far_slower_than_usual_is_found() {
    run(|| {
        let mut world = World::new(Limits::default());
        world.apply(&[web(Mode::Dsr, Probe::Tcp, backends("b", 0..2))]);
        let (mut watch, none) = (Watch::new(Clock::new()), Freezes::default());
        let at = Instant::now();
        for backend in &world.node.services[0].backends {
            let is_slow = backend.index == 1;
            for second in 0..100 {
                let ms = if is_slow && second >= 90 { 300 } else { 2 };
                let result: ProbeResult = Ok(Success { latency: Duration::from_millis(ms) });
                watch.on_probe(backend.probe, Some(&result), at + Duration::from_secs(second));
            }
        }
        for backend in backends("b", 0..2) {
            world.health(&backend.name, true);
        }
        let found = watch.now(scene(&world.node, &none)).conditions;
        let slow: Vec<_> = found.iter().filter(|c| c.kind == Kind::Latency).collect();
        let [slow] = slow.as_slice() else { panic!("{found:?}") };
        let backend = &world.node.services[0].backends[1];
        assert_eq!(slow.subject, format!("web/{}", backend.config.name));
        assert!(slow.message.contains("300.0 ms") && slow.next.is_some(), "{slow:?}");
    });
}
