//! The governor over real maps: what it rules is what packets see.

use super::*;
use crate::config::model::OnDown;
use crate::control::admission::Phase;
use crate::net::NextHop;

/// A service of so many backends, with the default limits, all of them up.
fn world(count: u32, change: impl FnOnce(&mut model::Service)) -> World {
    let mut world = World::new(Limits::default());
    let mut service = web(Mode::Dsr, Probe::Tcp, backends("b", 0..count));
    service.failover = Failover::default();
    change(&mut service);
    world.try_apply(&[service], true).unwrap();
    for b in 0..count {
        world.health(&format!("b{b}"), true);
    }
    world
}

impl World {
    fn fails(&mut self, name: &str, kind: FailureKind) {
        let (s, b) = self.node.locate("web", name).unwrap();
        let now = Instant::now();
        let mut snapshot = HealthSnapshot::initial(HealthState::Down, now);
        snapshot.failing_since = Some(now);
        let failure = Failure::new(kind, "test");
        let last = LastFailure { failure, at: now, latency: Duration::ZERO };
        snapshot.last_failure = Some(last.into());
        let key = self.node.services[s].backends[b].probe;
        let event =
            ProbeEvent { key, result: None, transition: None, snapshot, started: now, at: now };
        self.node.on_probe(event).unwrap();
    }

    /// New flows that each backend gets of [`FLOWS`].
    fn shares(&self) -> Vec<usize> {
        let rows = self.rows(SYN);
        let running = self.running();
        let of = |b: &Backend| running.tables.row(b.index);
        let got = |row: u32| rows.iter().filter(|to| **to == Some(row)).count();
        running.backends.iter().map(|b| got(of(b))).collect()
    }

    fn phases(&self) -> Vec<Phase> {
        self.running().backends.iter().map(|b| b.admission.phase()).collect()
    }
}

fn on_a_runtime(test: impl FnOnce() + Send) {
    Namespace::new().run(async { test() });
}

#[test]
fn a_broken_health_page_takes_nobody_out() {
    on_a_runtime(|| {
        let mut world = world(4, |_| ());
        for b in 0..4 {
            world.fails(&format!("b{b}"), FailureKind::HttpStatus);
        }
        let running = world.running();
        assert!(running.governor.panic_since().is_some());
        assert!(running.backends.iter().all(|b| b.ruling.kept == Some(Kept::Panic)));
        assert!(world.shares().iter().all(|share| *share > 100), "{:?}", world.shares());
        for b in 0..4 {
            world.health(&format!("b{b}"), true);
        }
        assert!(world.running().governor.panic_since().is_none());
        assert!(world.running().backends.iter().all(|b| b.ruling.kept.is_none()));
    });
}

#[test]
fn nothing_answers_and_the_floor_stays() {
    on_a_runtime(|| {
        let mut world = world(5, |_| ());
        for b in 0..5 {
            world.fails(&format!("b{b}"), FailureKind::Refused);
        }
        // Two of five are not most, and were taken out; the third waits for the test.
        assert_eq!(world.shares().iter().filter(|share| **share > 0).count(), 3);
        world.node.on_self_test(false).unwrap();
        assert!(world.node.wants_test(), "it did not pass, and is wanted still");
        world.node.on_self_test(true).unwrap();
        assert!(!world.node.wants_test());
        assert_eq!(world.shares().iter().filter(|share| **share > 0).count(), 2, "the floor");
        assert_eq!(
            world.shares().iter().sum::<usize>(),
            FLOWS as usize,
            "and no packet is dropped"
        );
    });
}

#[test]
fn a_backup_stands_in_and_goes_back() {
    on_a_runtime(|| {
        let mut world = world(3, |service| {
            Arc::make_mut(&mut service.backends[2]).backup = true;
            service.failover.backup_return = Duration::from_secs(1);
        });
        assert_eq!(world.phases(), [Phase::Serving, Phase::Serving, Phase::Drained]);
        assert_eq!(world.shares()[2], 0);
        for (b, expect) in [("b0", false), ("b1", true)] {
            world.fails(b, FailureKind::Refused);
            if world.node.wants_test() {
                world.node.on_self_test(true).unwrap();
            }
            assert_eq!(world.running().governor.uses_backups(), expect);
        }
        assert_eq!(world.phases(), [Phase::Down, Phase::Down, Phase::Returning]);
        assert_eq!(world.shares(), [0, 0, FLOWS as usize]);
        world.health("b0", true);
        world.health("b1", true);
        assert!(world.running().governor.uses_backups(), "not at once");
        std::thread::sleep(Duration::from_millis(1_100));
        world.node.on_clock().unwrap();
        assert!(!world.running().governor.uses_backups());
        assert_eq!(world.phases(), [Phase::Returning, Phase::Returning, Phase::Drained]);
    });
}

#[test]
fn while_our_link_is_down_nobody_is_judged() {
    on_a_runtime(|| {
        let mut world = world(2, |_| ());
        let address = |b: usize| world.running().backends[b].config.address;
        let addresses = [address(0), address(1)];
        for address in addresses {
            let down = HopProblem::LinkDown { name: "eth0".into() };
            world.node.on_next_hop(address, Err(down)).unwrap();
        }
        world.fails("b0", FailureKind::NoNeighbour);
        world.fails("b1", FailureKind::NoNeighbour);
        assert!(world.running().backends.iter().all(|b| b.ruling.kept == Some(Kept::Uplink)));
        assert_eq!(world.phases(), [Phase::Serving; 2]);
        for address in addresses {
            world.node.on_next_hop(address, Ok(NextHop::Local)).unwrap();
        }
        assert_eq!(world.phases(), [Phase::Serving; 2], "nor just after");
        assert!(world.node.next_clock().is_some(), "but later");
    });
}

#[test]
fn frozen_health_does_not_act_and_thawed_it_does() {
    on_a_runtime(|| {
        let mut world = world(3, |_| ());
        world.node.set_frozen(|service| service == "web").unwrap();
        world.fails("b0", FailureKind::Refused);
        assert_eq!(world.phases(), [Phase::Serving; 3]);
        world.node.set_frozen(|_| false).unwrap();
        assert_eq!(world.phases(), [Phase::Down, Phase::Serving, Phase::Serving]);
        world.node.set_frozen(|_| true).unwrap();
        world.health("b0", true);
        assert_eq!(world.phases()[0], Phase::Down, "nor does anybody return");
        world.node.set_frozen(|_| false).unwrap();
        assert_eq!(world.phases()[0], Phase::Returning);
    });
}

#[test]
fn connections_of_a_dead_backend_move_or_stay() {
    on_a_runtime(|| {
        for (on_down, phase) in [
            (OnDown::Rehash, Phase::Down),
            (OnDown::Keep, Phase::Draining),
            (OnDown::Reset, Phase::Down),
        ] {
            let mut world = world(3, |service| service.failover.on_down = on_down);
            let before = world.rows(ACK);
            world.fails("b0", FailureKind::Timeout);
            assert_eq!(world.phases()[0], phase);
            let row = Some(world.running().tables.row(world.running().backends[0].index));
            let stayed =
                world.rows(ACK).iter().zip(&before).filter(|(now, was)| now == was).count();
            let had = before.iter().filter(|to| **to == row).count();
            let expect =
                if on_down == OnDown::Keep { FLOWS as usize } else { FLOWS as usize - had };
            assert_eq!(stayed, expect, "{on_down}");
            let admit = world.running().backends[0].word().admit();
            assert_eq!(admit, 0, "no new ones in either case");
        }
    });
}

#[test]
fn what_cannot_be_spared_is_not_taken_out() {
    on_a_runtime(|| {
        let missed = |world: &World, name| crate::control::capacity::missed(world.running(), name);
        let mut world = world(3, |_| ());
        assert_eq!(missed(&world, "b0"), None);
        world.fails("b1", FailureKind::Refused);
        let said = missed(&world, "b0").unwrap();
        assert_eq!(said, "this leaves 1 of 3 backends of web: the next failure would take it down");
        assert_eq!(missed(&world, "b1"), None, "who is out already is no loss");
        world.fails("b2", FailureKind::Refused);
        world.node.on_self_test(true).unwrap();
        assert!(missed(&world, "b0").unwrap().contains("leaves 0 of 3 backends of web: nothing"));
    });
}

#[test]
fn no_more_are_taken_out_by_hand_than_may_fail() {
    on_a_runtime(|| {
        let missed = |world: &World, name| crate::control::capacity::missed(world.running(), name);
        let mut world = world(6, |_| ());
        for name in ["b0", "b1", "b2"] {
            assert_eq!(missed(&world, name), None, "{name}");
            world.node.set_drain("web", name, Some(by_hand())).unwrap();
        }
        let said = missed(&world, "b3").unwrap();
        assert_eq!(
            said,
            "this leaves 2 of 6 backends of web: that is less than `max_removed` would leave"
        );
    });
}

/// The operator's drain.
fn by_hand() -> Drain {
    Drain { reason: None, actor: "test".into(), at_ms: 0, until_ms: None, maintenance: false }
}

#[test]
fn those_that_fail_and_are_kept_are_not_more_to_spare() {
    on_a_runtime(|| {
        let missed = |world: &World, name| crate::control::capacity::missed(world.running(), name);
        let mut world = world(3, |_| ());
        for name in ["b0", "b1", "b2"] {
            world.health(name, false);
        }
        world.node.on_self_test(true).unwrap();
        let kept: Vec<String> = world
            .running()
            .backends
            .iter()
            .filter(|b| b.ruling.kept.is_some())
            .map(|b| b.config.name.clone())
            .collect();
        assert_eq!(kept.len(), 1, "of three that are dead one is kept");
        let said = missed(&world, &kept[0]).unwrap();
        assert_eq!(said, "this leaves 0 of 3 backends of web: nothing would be left to serve it");
    });
}

#[test]
fn a_name_moves_where_its_backend_can_be_spared() {
    on_a_runtime(|| {
        let mut world = world(3, |service| {
            for backend in &mut service.backends {
                let host = format!("{}.example", backend.name);
                Arc::make_mut(backend).host = Some(host.parse().unwrap());
            }
        });
        ["b0", "b1", "b2"].into_iter().for_each(|name| world.health(name, true));
        let lookup = |world: &World, at: usize| {
            let running = world.running();
            running.config.lookup(&running.backends[at].config).unwrap()
        };
        let may = |world: &World| {
            let mut leave = crate::control::capacity::Leave::of(&world.node);
            [0, 1, 2].map(|at| leave.may(&lookup(world, at)).err().unwrap_or_default())
        };
        let waits = "as many backends of web as may fail are not up yet";
        assert_eq!(may(&world), ["", "", waits], "half of three is two");
        world.health("b0", false);
        assert_eq!(may(&world), ["", "", waits], "one is out: its own may move");
        world.health("b1", false);
        assert_eq!(may(&world), ["", "", waits]);
        ["b0", "b1"].into_iter().for_each(|name| world.health(name, true));
        world.node.set_frozen(|_| true).unwrap();
        assert_eq!(may(&world), ["health of web is frozen"; 3], "nobody goes in or out");
        world.node.set_drain("web", "b2", Some(by_hand())).unwrap();
        assert_eq!(may(&world)[2], "", "it serves nobody");
    });
}
