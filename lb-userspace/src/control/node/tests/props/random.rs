//! Configurations and events at random; they shrink to the plainest.

use proptest::prelude::*;

use super::{Event, Outcome, Plan, Planned, SERVERS, SERVICES};

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let weight = prop::sample::select(vec![1u16, 2, 10]);
    let backend = (weight, prop::bool::weighted(0.15));
    let servers = prop::sample::subsequence((0..SERVERS).collect::<Vec<u8>>(), 1..=9);
    let backends = (servers, prop::collection::vec(backend, usize::from(SERVERS)));
    let backends = backends.prop_map(|(servers, roles)| {
        let planned = |(server, (weight, backup))| Planned { server, weight, backup };
        servers.into_iter().zip(roles).map(planned).collect()
    });
    let seconds = |all: &'static [u64]| prop::sample::select(all);
    let share = || prop::sample::select(&[50u8, 0, 20, 99, 100][..]);
    let probing = (prop::bool::weighted(0.1), 1u32..4, 1u32..4, seconds(&[0, 2, 10]));
    let removing = (share(), share(), seconds(&[10, 1, 60]));
    let backing = (share(), seconds(&[10, 0, 60]), any::<bool>());
    let pacing = (seconds(&[0, 5, 30]), any::<bool>(), seconds(&[5, 60]));
    let rest = (prop::bool::weighted(0.2), prop::sample::select(&[80u16, 8080][..]));
    (backends, probing, removing, backing, pacing, rest).prop_map(
        |(backends, probing, removing, backing, pacing, rest)| {
            let (is_unprobed, rise, fall, hold_down) = probing;
            let (max_removed, in_window, window) = removing;
            let (backup_below, backup_return, keep) = backing;
            let (slow_start, exponential, idle) = pacing;
            let (nat, port) = rest;
            Plan {
                backends,
                nat,
                probed: !is_unprobed,
                rise,
                fall,
                hold_down,
                max_removed,
                in_window,
                window,
                backup_below,
                backup_return,
                keep,
                slow_start,
                exponential,
                idle,
                port,
            }
        },
    )
}

/// What happens, more often what fails and waits than what an operator does.
pub(super) fn event() -> impl Strategy<Value = Event> {
    use Outcome::{Hard, Local, Pass, Soft};
    let service = || 0..SERVICES;
    let some = || (service(), 0..SERVERS);
    let finds = || prop_oneof![5 => Just(Pass), 3 => Just(Hard), 2 => Just(Soft), 1 => Just(Local)];
    let found = || (finds(), 1u8..4);
    let wait = prop_oneof![0u32..1_000, 1_000u32..12_000, 12_000u32..100_000];
    prop_oneof![
        8 => (some(), found()).prop_map(|((service, backend), (finds, times))| {
            Event::Probe { service, backend, finds, times }
        }),
        4 => (0..SERVERS, found())
            .prop_map(|(server, (finds, times))| Event::Server { server, finds, times }),
        4 => (service(), found())
            .prop_map(|(service, (finds, times))| Event::All { service, finds, times }),
        2 => (some(), 2u8..4).prop_map(|((service, backend), rounds)| Event::Flap {
            service,
            backend,
            rounds,
        }),
        6 => wait.prop_map(|ms| Event::Wait { ms }),
        2 => (service(), prop::option::weighted(0.85, plan()))
            .prop_map(|(service, plan)| Event::Reload { service, plan }),
        1 => some().prop_map(|(service, backend)| Event::Drain { service, backend }),
        1 => (some(), prop::option::of(1u32..60)).prop_map(|((service, backend), seconds)| {
            Event::Maintenance { service, backend, seconds }
        }),
        2 => some().prop_map(|(service, backend)| Event::Ready { service, backend }),
        1 => prop::option::of(service()).prop_map(|service| Event::Freeze { service }),
        2 => prop::option::of(service()).prop_map(|service| Event::Thaw { service }),
        2 => prop::bool::weighted(0.8).prop_map(|passes| Event::Test { passes }),
        2 => (0..SERVERS, any::<bool>()).prop_map(|(server, up)| Event::Link { server, up }),
        1 => prop::sample::select(&[86_400, -86_400, 30, -3][..])
            .prop_map(|seconds| Event::Clock { seconds }),
        1 => Just(Event::Restart),
        1 => Just(Event::Sweep),
    ]
}
