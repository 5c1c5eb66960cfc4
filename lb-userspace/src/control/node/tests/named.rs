//! Backends whose names have no address yet, get one, and get another.

use super::*;
use crate::report::BackendState;

/// `b0` and `b1`, of which the first has a name, with this address if any.
fn service(mode: Mode, address: Option<[u8; 4]>) -> model::Service {
    let mut backends = backends("b", 0..2);
    backends[0].host = Some("b0.example".parse().unwrap());
    backends[0].address = address.unwrap_or_default().into();
    web(mode, Probe::Tcp, backends)
}

fn state(world: &World) -> BackendState {
    world.running().backends[0].state()
}

#[test]
fn one_without_an_address_gets_nothing_until_it_is_up() {
    for mode in [Mode::Nat, Mode::Dsr] {
        run(|| {
            let mut world = World::new(Limits::default());
            world.try_apply(&[service(mode, None)], true).unwrap();
            assert_eq!(world.node.servers.unresolved(), 1, "no next hop of nowhere is waited for");
            assert_eq!(state(&world), BackendState::Down);
            let other = Some(world.running().tables.row(1));
            assert!(world.rows(SYN).iter().all(|row| *row == other), "the service serves on");
            world.node.explain_nowhere(|lookup| {
                Failure::new(FailureKind::Name, format!("{} does not resolve", lookup.host))
            });
            let failure = world.running().backends[0].health.last_failure.clone().unwrap();
            assert_eq!(failure.failure.text, "name: b0.example does not resolve");
            assert_eq!(world.node.who_is_down(), [], "a restart asks again");
            // Nor when there is nobody else.
            world.health("b1", false);
            assert_eq!(state(&world), BackendState::Down);
            world.health("b1", true);

            world.apply(&[service(mode, Some([10, 0, 1, 7]))]);
            assert!(world.rows(SYN).iter().all(|row| *row == other), "its probes come first");
            world.health("b0", true);
            assert_ne!(state(&world), BackendState::Down);
            // Those that were sent while it was nowhere may stay.
            let mut new = (FLOWS..2 * FLOWS).map(|number| world.send(number, SYN).0);
            assert!(new.any(|row| row != other));
        });
    }
}

#[test]
fn one_that_loses_its_address_by_a_change_of_name_goes_out_at_once() {
    run(|| {
        let mut world = World::new(Limits::default());
        world.try_apply(&[service(Mode::Dsr, Some([10, 0, 1, 7]))], true).unwrap();
        world.health("b0", true);
        world.apply(&[service(Mode::Dsr, None)]);
        let other = Some(world.running().tables.row(1));
        assert!((FLOWS..2 * FLOWS).all(|number| world.send(number, SYN).0 == other));
        world.node.nat_swept(NatFound::default(), Instant::now()).unwrap();
    });
}

#[test]
fn one_that_is_given_the_name_of_its_address_stays_as_it_is() {
    run(|| {
        let mut world = World::new(Limits::default());
        let named = service(Mode::Nat, Some([10, 0, 1, 7]));
        let mut plain = named.clone();
        Arc::make_mut(&mut plain.backends[0]).host = None;
        world.try_apply(&[plain], true).unwrap();
        world.health("b0", true);
        let before = (world.running().backends[0].probe, world.rows(SYN));
        world.apply(&[named]);
        let backend = &world.running().backends[0];
        assert!(backend.config.host.is_some());
        assert_eq!((backend.probe, backend.health.state), (before.0, HealthState::Up));
        assert_eq!(world.rows(SYN), before.1);
    });
}
