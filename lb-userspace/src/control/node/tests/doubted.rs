//! Whom packets speak against, by the words that the program leaves.

use lb_common::abi::{DOUBTS, doubt_word};

use super::*;

#[test]
fn a_row_is_its_backends_also_where_it_was_before() {
    run(|| {
        let mut world = World::new(Limits::default());
        let of = |count| web(Mode::Nat, Probe::Tcp, backends("b", 0..count));
        let mut other = web(Mode::Nat, Probe::Tcp, backends("c", 200..210));
        other.name = "other".into();
        other.listen = vec!["192.0.2.11:80/tcp".parse().unwrap()];
        world.try_apply(&[of(10), other.clone()], true).unwrap();
        let row = |world: &World, name| {
            let (s, b) = world.node.locate("web", name).unwrap();
            let running = &world.node.services[s];
            running.tables.row(running.backends[b].index)
        };
        let before = row(&world, "b7");
        world.apply(&[of(60), other]);
        let after = row(&world, "b7");
        assert_ne!(before, after, "the service has other rows");
        for row in [before, after] {
            let (running, backend) = world.node.backend_of(row).unwrap();
            assert_eq!((&*running.config.name, &*backend.config.name), ("web", "b7"));
        }
        let rows: Vec<u32> = (0..1000).collect();
        let found = rows.iter().filter_map(|row| world.node.backend_of(*row));
        let mut names: Vec<&str> = found.map(|(_, backend)| &*backend.config.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 70, "each backend is found, and nobody else");
        assert!(world.node.backend_of(u32::MAX).is_none());
    });
}

#[test]
fn words_of_the_program_are_taken_once() {
    run(|| {
        let mut world = World::new(Limits::default());
        let service = web(Mode::Nat, Probe::Tcp, backends("b", 0..3));
        world.try_apply(&[service], true).unwrap();
        assert!(world.node.hears_doubts());
        let maps = Arc::clone(&world.node.arena.maps);
        assert_eq!(maps.doubts.len(), DOUBTS);
        let row = world.running().tables.row(0);
        maps.doubts.set(row % DOUBTS, doubt_word(row, 77)).unwrap();
        world.node.on_doubts();
        let again = world.node.doubts.hear([row, row + 1], Instant::now());
        assert_eq!(again, [row + 1], "the row was heard just now");
    });
}
