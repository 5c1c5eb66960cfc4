//! The text an operator sees, letter by letter, and its width whatever the names.

use std::time::Duration;

use super::*;
use crate::report::{Absence, Admin, Status, sample};

#[test]
fn status_opens_with_what_is_wrong() {
    let expect = "\
! web/web-02 is down for 4m 12s: connection refused on 10.0.0.12:80
    next: curl -v -m 5 http://10.0.0.12:80/healthz

on eth0 (native XDP), revision 14, up 1h 2m, lb 0.1.0

SERVICE  MODE  LISTEN             UP   NEW    PACKETS  BYTES
web      dsr   192.0.2.10:80/tcp  1/3  1,204  81.2 k   46 M

BACKEND     ADDRESS    HEALTH           ADMIT  WEIGHT  SHARE  EXPECTED  NEW
web/web-01  10.0.0.11  up 31d           100 %  1       50 %   50 %      602
web/web-02  10.0.0.12  down 4m refused  0 %    2       50 %   50 %      602
web/web-03  10.0.0.13  up 31d drained   0 %    1       50 %   50 %      602

DROPPED
      3  drop-no-backend: No backend takes traffic: bring one up.
";
    assert_eq!(status(&drained(), None, WIDTH), expect);
    let note = "\nweb/web-03 was drained 9d ago by uid 1000: kernel test, 12 flows left\n";
    assert_eq!(notes(&drained(), Some("web"), WIDTH), note);
    assert_eq!(notes(&drained(), Some("api"), WIDTH), "");
}

#[test]
fn who_is_a_backup_and_who_in_maintenance_is_told() {
    let mut status = drained();
    let service = &mut status.services[0];
    let Admin::Drain(absence) = service.backends[2].admin.clone() else { panic!("drained") };
    service.backends[0].backup = true;
    service.backends[1].admin = Admin::Maintenance(Absence { ends_in_ms: Some(60_000), ..absence });
    (service.backends[2].admin, service.backends[2].backup) = (Admin::Ready, true);
    let table = backends(&status, Some("web"), None, WIDTH);
    for part in ["up 31d backup ", "down 4m refused maintenance ", "up 31d reserve "] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    status.services[0].backends[1].flows = Some(1);
    let note = "\nweb/web-02 was put in maintenance 9d ago by uid 1000: kernel test, to end in 1m, \
                1 flow left\n";
    assert_eq!(notes(&status, Some("web"), WIDTH), note);
    status.warnings.clear();
    let well = "ok nothing is wrong; 1 of 2 backends are serving, 1 in reserve\n";
    assert!(super::status(&status, None, WIDTH).starts_with(well));
}

fn drained() -> Status {
    let mut status = sample();
    status.services[0].backends[2].admin = Admin::Drain(Absence {
        reason: Some("kernel test".into()),
        actor: "uid 1000".into(),
        since_ms: 9 * 86_400_000,
        ends_in_ms: None,
    });
    status
}

#[test]
fn watching_shows_rates() {
    let before = sample();
    let mut now = sample();
    now.services[0].new_flows += 2_408;
    now.services[0].packets += 20_000;
    now.services[0].bytes += 2_000_000;
    now.services[0].backends[0].new_flows += 2_408;
    let since = Since { status: &before, elapsed: Duration::from_secs(2) };
    let expect = "\
SERVICE  MODE  LISTEN             UP   NEW/s  PPS   BITS/s
web      dsr   192.0.2.10:80/tcp  1/3  1,204  10 k  8 M
";
    assert_eq!(services(&now, Some(since), WIDTH), expect);
    assert!(backends(&now, Some("web"), Some(since), WIDTH).contains("50 %      1,204\n"));
    assert!(!backends(&now, Some("api"), Some(since), WIDTH).contains("web-01"));
}

#[test]
fn all_is_well_says_so() {
    let mut calm = sample();
    calm.warnings.clear();
    assert!(
        status(&calm, None, WIDTH)
            .starts_with("ok nothing is wrong; 1 of 3 backends are serving\n")
    );
    calm.services.clear();
    assert!(status(&calm, None, WIDTH).starts_with("ok nothing to balance"));
}

#[test]
fn nothing_is_wider_than_the_terminal() {
    let mut wide = drained();
    let long = "x".repeat(63);
    wide.services[0].name.clone_from(&long);
    let frontend = "[2001:db8:85a3:8d3:1319:8a2e:370:7348]:65535/tcp".parse().unwrap();
    wide.services[0].listen = vec![frontend; 12];
    wide.services[0].new_flows = u64::MAX;
    wide.services[0].packets = u64::MAX;
    for backend in &mut wide.services[0].backends {
        backend.name.clone_from(&long);
        backend.address = "2001:db8:85a3:8d3:1319:8a2e:370:7348".parse().ok();
        backend.host = Some(format!("{}.example", "h".repeat(240)));
        backend.port = Some(65_535);
        backend.weight = 1000;
        backend.new_flows = 999_400_000;
        backend.health.last_failure = Some("unreachable".repeat(30));
        backend.next_hop.problem = Some("no neighbour ".repeat(30));
    }
    wide.warnings[0].message = "word ".repeat(100) + &"w".repeat(300);
    wide.counters.verdicts[1].help = "sentence ".repeat(50);
    wide.interfaces = vec![wide.interfaces[0].clone(); 20];
    let text = status(&wide, None, WIDTH);
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{} columns: {line}", line.chars().count());
    }
    assert!(text.contains("2001:db8:") && text.contains(":65535 "), "both ends stay:\n{text}");
}

#[test]
fn what_comes_from_outside_cannot_drive_the_terminal() {
    let mut evil = drained();
    evil.warnings[0].message = "\u{1b}[2Jgone".into();
    evil.services[0].backends[0].health.last_failure = Some("\u{1b}]0;x\u{7}".into());
    evil.services[0].name = "\u{1b}[31m".into();
    evil.services[0].backends[2].next_hop.problem = Some("a\rb".into());
    let text = status(&evil, None, WIDTH);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn changes_and_explanations() {
    let mut answer = Changed {
        revision: 15,
        changes: vec!["web/web-02: weight 1 → 2".into()],
        warnings: vec![],
    };
    assert_eq!(changed(&answer, false), "web/web-02: weight 1 → 2\nrevision 15\n");
    assert!(changed(&answer, true).ends_with("not applied; still at revision 15\n"));
    answer.changes.clear();
    assert_eq!(changed(&answer, false), "nothing to change; revision 15\n");

    let mut flow = Explanation {
        service: Some("web".into()),
        backend: Some("web-01".into()),
        verdict: "sent".into(),
        existing_backend: Some("web-02".into()),
        hash: "0x1234".into(),
        slot: Some(7),
        steps: vec!["192.0.2.10:80/tcp is a frontend of web".into()],
    };
    let expect = "\
goes to web/web-01
an existing flow stays with web/web-02
hash 0x1234, slot 7
  1. 192.0.2.10:80/tcp is a frontend of web
";
    assert_eq!(explanation(&flow), expect);
    flow.backend = None;
    flow.verdict = "drop-no-backend".into();
    assert!(explanation(&flow).starts_with("goes to no backend: drop-no-backend\n"));
}

#[test]
fn colour_marks_what_matters() {
    assert_eq!(
        paint("! bad\nplain\nok fine\n"),
        "\u{1b}[1;31m! bad\u{1b}[0m\nplain\n\u{1b}[32mok fine\u{1b}[0m\n"
    );
}
