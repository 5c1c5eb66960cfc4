//! A server becomes slow, dies, boots and returns, while another is out: the service goes on with the other five.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_tests::{Balancer, Family, Fault, Lab, Limit, Load, Mode, ServiceConfig, Topology};

const LIMIT: Duration = Duration::from_secs(20);
const SERVERS: u8 = 7;
/// The one that boots, and the other one that is out.
const VICTIM: u8 = 0;
const OTHER: u8 = 6;
/// Slow: it stops for so long again and again, less than probes and clients wait.
const PAUSE: Duration = Duration::from_millis(150);
const PAUSES: usize = 8;

fn serving(balancer: &Balancer) -> [u64; 2] {
    let status = balancer.status().unwrap();
    let service = &status["services"][0];
    ["backends_serving", "backends_total"].map(|field| service[field].as_u64().unwrap())
}

#[test]
fn one_of_seven_boots_while_another_is_out() {
    let lab = Lab::build(Topology::new(Mode::Dsr, SERVERS)).unwrap();
    let mut service = ServiceConfig::quick(Mode::Dsr, Family::V4);
    service.health += ", hold_down = \"0s\"";
    let balancer = Balancer::serving(&lab, &[service]).unwrap();
    let name = |server| lab.topology().backend_name(server);
    let wait_for = |server, state| {
        balancer.wait_for_health("web", &name(server), state, LIMIT).unwrap();
    };
    let target = SocketAddr::new(Family::V4.vip(), 80);
    let load = Load::new(target, Limit::UntilStopped)
        .threads(4)
        .pause(Duration::from_millis(2))
        .timeout(Duration::from_secs(5));
    let load = load.start(lab.client());

    let other_failed = Fault::Killed.cause(&lab, OTHER).unwrap();
    wait_for(OTHER, "down");
    let other_noticed = Instant::now();
    for _ in 0..PAUSES {
        Fault::Frozen.cause(&lab, VICTIM).unwrap();
        sleep(PAUSE);
        Fault::Frozen.heal(&lab, VICTIM).unwrap();
        sleep(PAUSE);
    }
    assert_eq!(serving(&balancer), [6, 7], "slow is not down");

    let failed = Fault::Killed.cause(&lab, VICTIM).unwrap();
    wait_for(VICTIM, "down");
    let noticed = Instant::now();
    Fault::LinkDown.cause(&lab, VICTIM).unwrap();
    assert_eq!(serving(&balancer), [5, 7]);
    let shown = balancer.cli(&["status"]).unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(" 5/7 "), "{shown}");
    sleep(Duration::from_secs(1));
    assert_eq!(serving(&balancer), [5, 7]);

    // Booted: first the link, then the server.
    Fault::LinkDown.heal(&lab, VICTIM).unwrap();
    Fault::Killed.heal(&lab, VICTIM).unwrap();
    wait_for(VICTIM, "up");
    Fault::Killed.heal(&lab, OTHER).unwrap();
    wait_for(OTHER, "up");
    for server in [VICTIM, OTHER] {
        balancer.wait_for_state("web", &name(server), "serving", LIMIT).unwrap();
    }
    assert_eq!(serving(&balancer), [7, 7]);
    sleep(Duration::from_millis(500));

    let report = load.stop().unwrap();
    let lost: Vec<_> = report
        .requests
        .iter()
        .filter(|request| request.failed())
        .filter(|request| {
            // What was sent to a server that was dead and not yet found so.
            let within = |from, to| request.ended() >= from && request.started <= to;
            !within(other_failed, other_noticed) && !within(failed, noticed)
        })
        .collect();
    assert!(lost.is_empty(), "{lost:?}: {}", balancer.log());
    assert_eq!(report.served_by().len(), usize::from(SERVERS), "{:?}", report.served_by());
    balancer.stop().unwrap();
}
