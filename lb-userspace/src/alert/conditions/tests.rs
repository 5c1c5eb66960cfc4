//! One row for each thing that can be wrong.

use super::*;
use crate::control::governor::Kept;
use crate::report::Freeze;

const NOW: u64 = 1_000_000_000;

fn name(at: usize) -> &'static str {
    ["a", "b", "c", "d", "e", "f", "g"][at]
}

/// A service of so many backends, all well.
fn service(backends: usize) -> ServiceView<'static> {
    let backends = (0..backends).map(|at| BackendView::well(name(at))).collect();
    ServiceView { name: "web", backends, ..ServiceView::default() }
}

fn down(backend: &mut BackendView<'static>) {
    backend.health = HealthState::Down;
    backend.state = BackendState::Down;
    backend.since_ms = 3_000;
    backend.last_failure = Some("refused: connection refused on 10.0.0.12:80");
    backend.by_hand = Some("nc -vz -w 5 10.0.0.12 80".into());
}

fn found(change: impl FnOnce(&mut ServiceView<'static>), backends: usize) -> Vec<String> {
    let mut service = service(backends);
    change(&mut service);
    let text = |c: &Warning| format!("{} {} {} {}", c.severity, c.kind, c.subject, c.message);
    conditions(&[], [service], NOW).conditions.iter().map(text).collect()
}

fn drain(backend: &mut BackendView<'static>, state: BackendState) {
    let reason = Some("kernel update");
    backend.drained = Some(Drained {
        actor: "uid 0",
        reason,
        at_ms: NOW - 8_000,
        until_ms: None,
        maintenance: false,
    });
    backend.state = state;
}

#[test]
fn nothing_is_wrong() {
    assert_eq!(found(|_| {}, 3), [""; 0]);
    assert_eq!(found(|_| {}, 1), [""; 0], "one of one is all there is");
    assert_eq!(found(|_| {}, 0), [""; 0]);
}

#[test]
fn a_name_gives_its_address_no_more() {
    let stale = |service: &mut ServiceView<'static>| {
        service.backends[1].stale_name = Some(StaleName {
            host: "web-01.example",
            address: [10, 0, 0, 11].into(),
            why: "does not resolve: NXDOMAIN",
            since_ms: 240_000,
            by_hand: "getent ahostsv4 web-01.example".into(),
        });
    };
    let expect = "warning stale-name web/b keeps its last address 10.0.0.11: for 4m \
                  web-01.example does not resolve: NXDOMAIN";
    assert_eq!(found(stale, 3), [expect]);
}

#[test]
fn a_backend_is_down() {
    let mut service = service(7);
    down(&mut service.backends[1]);
    service.backends[1].detection_ms = Some(204.4);
    let found = conditions(&[], [service], NOW);
    let [down, capacity] = found.conditions.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        *down,
        Warning {
            kind: Kind::BackendDown,
            severity: Severity::Warning,
            subject: "web/b".into(),
            message:
                "is down for 3s: refused: connection refused on 10.0.0.12:80; found and taken \
                      out within 204 ms of the first failing probe"
                    .into(),
            next: Some("nc -vz -w 5 10.0.0.12 80".into()),
            since_ms: Some(NOW - 3_000),
        }
    );
    assert_eq!((capacity.kind, capacity.subject.as_str()), (Kind::CapacityLow, "web"));
    assert_eq!(capacity.message, "serves with 6 of 7 backends");
}

#[test]
fn capacity() {
    let low = |capacity_warning: Option<u8>, out: usize| {
        let found = found(
            |service| {
                service.capacity_warning = capacity_warning;
                service.backends.iter_mut().take(out).for_each(down);
            },
            4,
        );
        found.into_iter().find(|text| text.contains("capacity-low")).unwrap_or_default()
    };
    for (capacity_warning, out, expect) in [
        (None, 1, "warning capacity-low web serves with 3 of 4 backends"),
        (Some(75), 1, ""),
        (Some(76), 1, "warning capacity-low web serves with 3 of 4 backends"),
        (Some(75), 2, "warning capacity-low web serves with 2 of 4 backends"),
        (Some(1), 3, ""),
        (
            None,
            3,
            "warning capacity-low web serves with 1 of 4 backends: its failure takes the service \
             down",
        ),
        (Some(1), 4, "critical capacity-low web has no backend left of 4: the service is down"),
    ] {
        assert_eq!(low(capacity_warning, out), expect, "{capacity_warning:?}, {out} out");
    }
}

#[test]
fn a_service_without_backends_says_what_may_bring_one_back() {
    let next = |change: fn(&mut ServiceView<'static>)| {
        let mut service = service(2);
        service.backends.iter_mut().for_each(down);
        change(&mut service);
        let found = conditions(&[], [service], NOW).conditions;
        assert_eq!(found[0].severity, Severity::Critical, "{found:?}");
        found[0].next.clone().unwrap_or_default()
    };
    assert_eq!(next(|_| ()), "nc -vz -w 5 10.0.0.12 80");
    assert_eq!(
        next(|s| drain(&mut s.backends[1], BackendState::Drained)),
        "lb backend ready web/b"
    );
    let by_hand = |s: &mut ServiceView<'static>| {
        s.backends.iter_mut().for_each(|b| drain(b, BackendState::Down));
    };
    assert_eq!(next(by_hand), "lb backend ready web/a");
    let held_out = |s: &mut ServiceView<'static>| {
        s.backends[1].health = HealthState::Up;
        s.frozen = Some(Freeze {
            service: None,
            reason: None,
            actor: "uid 0".into(),
            since_ms: NOW,
            until_ms: NOW + 60_000,
        });
    };
    assert_eq!(next(held_out), "lb health thaw");
}

#[test]
fn one_that_is_not_probed_yet_is_not_missing() {
    let mut service = service(2);
    service.backends[1].health = HealthState::Unknown;
    service.backends[1].state = BackendState::Down;
    let found = conditions(&[], [service], NOW);
    assert_eq!(found.conditions, []);
    assert_eq!(found.unknown, ["web".to_owned(), "web/b".to_owned()].into());
}

#[test]
fn drains() {
    let said = |state, flows| {
        let mut service = service(1);
        drain(&mut service.backends[0], state);
        service.backends[0].flows = flows;
        conditions(&[], [service], NOW).conditions
    };
    let found = said(BackendState::Draining, Some(73));
    let [capacity, drain] = found.as_slice() else { panic!("{found:?}") };
    assert!(capacity.message.starts_with("has only draining backends"), "{capacity:?}");
    assert_eq!(capacity.severity, Severity::Critical);
    assert_eq!(capacity.next.as_deref(), Some("lb backend ready web/a"));
    assert_eq!(
        drain.message,
        "is drained for 8s by uid 0 (\"kernel update\"), 73 flows left; its probes pass"
    );
    assert_eq!((drain.kind, drain.severity), (Kind::Override, Severity::Info));
    assert_eq!(drain.next.as_deref(), Some("lb backend ready web/a"));
    assert!(said(BackendState::Drained, Some(1))[1].message.contains(", 1 flow left"));
}

#[test]
fn everything_else() {
    let since_ms = 61_000;
    type Change = fn(&mut ServiceView<'static>);
    let rows: [(Change, &str); 12] = [
        (
            |s| {
                let (failing, counted, may_be_out, since_ms) = (3, 3, 2, 61_000);
                s.panic = Some(Panic { failing, counted, may_be_out, since_ms });
            },
            "critical panic web PANIC: 3 of 3 backends fail, and at most 2 may be out: it fails \
             open, and those that are kept get traffic though they fail",
        ),
        (
            |s| (s.uses_backups, s.backends[2].is_backup) = (true, true),
            "warning capacity-low web is served by its backups: too few of the others are well",
        ),
        (
            |s| {
                (s.uses_backups, s.backends[2].is_backup) = (true, true);
                s.backups_rest_in_ms = Some(9_000);
            },
            "warning capacity-low web is served by its backups: enough of the others are well \
             again, and alone in 9s",
        ),
        (|s| s.uses_backups = true, ""),
        (
            |s| s.violations = 2,
            "critical coverage web had 2 recorded flows that packets would have missed: a bug that \
             may have broken them; please report it with the output of `next`",
        ),
        (
            |s| {
                s.backends[0].hop_problem = Some(HopProblem {
                    why: "10.0.0.11 does not answer ARP".into(),
                    by_hand: "ip route get 10.0.0.11".into(),
                });
            },
            "warning no-next-hop web/a has no next hop: 10.0.0.11 does not answer ARP",
        ),
        (
            |s| {
                for (backend, since_ms) in s.backends.iter_mut().zip([61_000, 60_000]) {
                    let why = "no interface has the address 10.0.0.9";
                    backend.unprobed = Some(Unprobed { why, since_ms });
                }
            },
            "warning no-probe web cannot be probed (2 of 3 backends): no interface has the address \
             10.0.0.9; for 1m 1s they keep the health that they had",
        ),
        (
            |s| {
                s.backends[0].kept = Some(Kept::Untested);
                s.backends[0].since_ms = 61_000;
            },
            "warning governor web/a is kept in service though it fails: most fail at once, and the \
             prober's test of itself has not passed",
        ),
        (
            |s| {
                s.backends[0].flapping = Some(Flapping { falls: 6, held_ms: 30_000 });
            },
            "warning flapping web/a is flapping: it went down 6 times, never up for long between; \
             it is held down for another 30s",
        ),
        (
            |s| {
                let (recent_ms, usual_ms, since_ms) = (81.26, 2.0, 61_000);
                s.backends[0].latency = Some(LatencyOff { recent_ms, usual_ms, since_ms });
            },
            "warning latency web/a answers its probes within 81.3 ms for 1m 1s, where 2.0 ms are \
             usual",
        ),
        (
            |s| {
                let (share, expected, flows, since_ms) = (0.5, 0.25, 4_000, 61_000);
                s.backends[0].share = Some(ShareOff { share, expected, flows, since_ms });
            },
            "warning share web/a gets 50.0 % of the last 4000 new flows, where its weight says \
             25.0 %",
        ),
        (|_| {}, ""),
    ];
    for (change, expect) in rows {
        assert_eq!(found(change, 3).first().map_or("", String::as_str), expect);
        let mut service = service(3);
        change(&mut service);
        for condition in conditions(&[], [service], NOW).conditions {
            assert!(condition.since_ms.is_none_or(|since| since == NOW - since_ms));
        }
    }
    for (until_ms, expect) in [
        (None, "info override web/a is in maintenance for 2m by uid 0 (\"disk\"); its probes pass"),
        (
            Some(NOW + 3_600_000),
            "info override web/a is in maintenance for 2m by uid 0 (\"disk\"), to end in 1h; its \
             probes pass",
        ),
        (
            Some(NOW - 61_000),
            "warning override-expired web/a is still in maintenance by uid 0 (\"disk\"), 1m 1s past \
             its end; its probes pass",
        ),
    ] {
        let found = found(
            |s| {
                let (at_ms, maintenance) = (NOW - 120_000, true);
                let reason = Some("disk");
                s.backends[0].drained =
                    Some(Drained { actor: "uid 0", reason, at_ms, until_ms, maintenance });
            },
            3,
        );
        assert_eq!(found[0], expect, "{found:?}");
    }
}

#[test]
fn maintenance_and_freezes() {
    let mut service = service(3);
    down(&mut service.backends[0]);
    drain(&mut service.backends[0], BackendState::Down);
    let drained = service.backends[0].drained.unwrap();
    service.backends[0].drained = Some(Drained { maintenance: true, ..drained });
    let freeze = Freeze {
        service: Some("web".into()),
        reason: Some("network".into()),
        actor: "uid 0".into(),
        since_ms: NOW - 1_000,
        until_ms: NOW + 60_000,
    };
    service.frozen = Some(freeze);
    let found = conditions(&[], [service], NOW).conditions;
    let said: Vec<_> = found.iter().map(|c| (c.kind, c.message.as_str())).collect();
    let expect = [
        (Kind::CapacityLow, "serves with 2 of 3 backends"),
        (
            Kind::Override,
            "is frozen by uid 0 (\"network\"), and thaws in 1m: no backend goes in or out \
             meanwhile",
        ),
        (Kind::Override, "is in maintenance for 8s by uid 0 (\"kernel update\")"),
    ];
    assert_eq!(said, expect, "that it fails is no news");
    assert_eq!(found[1].next.as_deref(), Some("lb health thaw web"));
}

#[test]
fn the_worst_comes_first() {
    let interfaces = [Interface { name: "eth0".into(), index: 2, xdp: "generic".into() }];
    let mut first = service(3);
    drain(&mut first.backends[0], BackendState::Drained);
    down(&mut first.backends[1]);
    let mut second = ServiceView { name: "api", ..service(1) };
    down(&mut second.backends[0]);
    let found = conditions(&interfaces, [first, second], NOW).conditions;
    let order: Vec<String> = found.iter().map(|c| format!("{} {}", c.kind, c.subject)).collect();
    assert_eq!(
        order,
        [
            "capacity-low api",
            "backend-down web/b",
            "backend-down api/a",
            "capacity-low web",
            "override web/a",
            "generic-xdp eth0",
        ]
    );
}
