//! Starting, stopping and changing `lb run`: what stays, what goes, and who is refused.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::{Balancer, Family, Lab, Limit, Load, Mode, Report, ServiceConfig, Topology};
use serde_json::Value;

const UP: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    Lab::build(Topology::new(Mode::Nat, 2)).unwrap()
}

fn service() -> ServiceConfig {
    ServiceConfig::quick(Mode::Nat, Family::V4)
}

fn again(lab: &Lab) -> Balancer {
    let balancer = Balancer::run(lab, &Balancer::binary().unwrap()).unwrap();
    balancer.wait_until_up(UP).unwrap();
    balancer
}

fn requests(lab: &Lab) -> Report {
    let target = SocketAddr::new(Family::V4.vip(), 80);
    let load = Load::new(target, Limit::Requests(60)).threads(4);
    load.timeout(Duration::from_millis(400)).run(lab.client()).unwrap()
}

/// What the kernel says of the balancer's interface.
/// The balancer's interface, but for what it counts.
fn link(lab: &Lab) -> Value {
    let mut link = lab.balancer().link("eth0");
    link.as_object_mut().unwrap().remove("stats64");
    link
}

fn weight(balancer: &Balancer, backend: &str) -> u64 {
    balancer.backend("web", backend).unwrap()["weight"].as_u64().unwrap()
}

fn edit(lab: &Lab, from: &str, to: &str) {
    let path = lab.path("lb.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// SIGHUP, and what was logged about it.
fn reload(balancer: &mut Balancer, expect: &str) {
    let before = balancer.log().len();
    balancer.process().signal(libc::SIGHUP);
    let limit = Instant::now() + UP;
    while !balancer.log()[before..].contains(expect) {
        assert!(Instant::now() < limit, "no '{expect}' in:\n{}", &balancer.log()[before..]);
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_stop_leaves_the_interface_as_it_was() {
    let lab = lab();
    let before = link(&lab);
    assert!(before.get("xdp").is_none(), "{before:#}");
    let balancer = Balancer::serving(&lab, &[service()]).unwrap();
    assert!(link(&lab).get("xdp").is_some());
    assert_eq!(requests(&lab).failures(), 0);
    balancer.stop().unwrap();
    assert_eq!(link(&lab), before);
    assert_eq!(requests(&lab).served_by().len(), 0, "nobody balances any more");
    assert!(!lab.path("lb.sock").exists(), "the socket goes with its daemon");
}

#[test]
fn a_second_daemon_is_refused() {
    let lab = lab();
    let balancer = Balancer::serving(&lab, &[service()]).unwrap();
    let path = |name: &str| lab.path(name).display().to_string();
    let (config, socket, state) = (path("lb.toml"), path("lb.sock"), path("state"));
    let (other_socket, other_state) = (path("other.sock"), path("other"));
    for (socket, state, part) in [
        (&socket, &state, "another `lb run` uses the state directory"),
        (&socket, &other_state, "lb.sock"),
        (&other_socket, &state, "another `lb run` uses the state directory"),
        (&other_socket, &other_state, "another `lb run` or `lb decap` already serves eth0"),
    ] {
        let arguments = ["-c", &config, "--socket", socket, "--state-dir", state];
        let refused = Balancer::refused(&lab, &Balancer::binary().unwrap(), &arguments);
        let (code, said) = refused.unwrap();
        println!("{code}: {}", said.trim());
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(part), "no '{part}' in: {said}");
        assert!(!said.contains("panicked"), "{said}");
        // Whoever it was that could not start did no harm.
        assert_eq!(requests(&lab).failures(), 0);
        assert!(balancer.status().is_ok());
    }
    balancer.stop().unwrap();
}

#[test]
fn a_reload_applies_an_edited_file_and_refuses_a_broken_one() {
    let lab = lab();
    let mut balancer = Balancer::serving(&lab, &[service()]).unwrap();
    edit(&lab, "10.77.0.12\", weight = 1", "10.77.0.12\", weight = 3");
    reload(&mut balancer, "web/web-02: weight 1 → 3");
    assert_eq!(weight(&balancer, "web-02"), 3);
    let expected = balancer.backend("web", "web-02").unwrap()["expected"].as_f64().unwrap();
    assert!((expected - 0.75).abs() < 0.01, "{expected}");
    reload(&mut balancer, "no changes");

    let good = fs::read_to_string(lab.path("lb.toml")).unwrap();
    let config = balancer.json(&["config"]).unwrap();
    for (from, to, part) in [
        ("weight = 3", "weight = 0", "the weight must be 1 to 1000"),
        ("mode = \"nat\"", "mode = \"tunnel\"", "is not a forwarding mode"),
        ("[node]", "[node", "lb.toml:1"),
        ("10.77.0.12", "10.77.0.11", "twice"),
        ("eth0", "eth9", "[node] is fixed while the daemon runs"),
    ] {
        fs::write(lab.path("lb.toml"), good.replace(from, to)).unwrap();
        // A changed [node] is warned of, and the rest of the file is taken.
        let expect = if from == "eth0" { "takes a restart" } else { "the configuration stays" };
        reload(&mut balancer, expect);
        let log = balancer.log();
        assert!(from == "eth0" || log.contains(part), "no '{part}' in:\n{log}");
        assert_eq!(balancer.json(&["config"]).unwrap(), config, "{to}");
    }
    fs::remove_file(lab.path("lb.toml")).unwrap();
    reload(&mut balancer, "the configuration stays");
    assert_eq!(balancer.json(&["config"]).unwrap(), config);
    assert_eq!(requests(&lab).failures(), 0);
    balancer.stop().unwrap();
}

#[test]
fn what_the_command_line_changed_survives_until_the_file_is_edited() {
    let lab = Lab::build(Topology::new(Mode::Nat, 3)).unwrap();
    let balancer = Balancer::serving(&lab, &[service()]).unwrap();
    for line in [
        "backend weight web/web-01 7",
        "backend remove web/web-02",
        "backend add web/extra --address 10.77.0.12 --port 8080 --weight 2",
        "backend drain web/web-03 --reason dust --force",
    ] {
        balancer.json(&line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let changed = balancer.json(&["config"]).unwrap();
    let revision = balancer.status().unwrap()["revision"].clone();
    assert_eq!(revision, 4, "a drain is no change of the configuration");
    balancer.wait_for_health("web", "extra", "up", UP).unwrap();
    balancer.stop().unwrap();

    let balancer = again(&lab);
    assert_eq!(balancer.json(&["config"]).unwrap(), changed);
    assert_eq!(balancer.status().unwrap()["revision"], revision);
    assert_eq!(balancer.backend("web", "web-03").unwrap()["admin"]["reason"], "dust");
    let served = requests(&lab).served_by();
    // `extra` is the second server, by its other port.
    assert_eq!(served.keys().collect::<Vec<_>>(), ["web-01", "web-02"], "{served:?}");
    balancer.stop().unwrap();

    edit(&lab, "10.77.0.11\", weight = 1", "10.77.0.11\", weight = 5");
    let balancer = again(&lab);
    assert_eq!(weight(&balancer, "web-01"), 5);
    assert!(balancer.backend("web", "extra").is_err(), "the edited file wins");
    assert!(balancer.backend("web", "web-02").is_ok());
    assert!(balancer.log().contains("changed since the last run, and wins"), "{}", balancer.log());
    let admin = balancer.backend("web", "web-03").unwrap()["admin"].clone();
    assert_eq!(admin["state"], "drain", "the operator's wish outlasts the edit");
    balancer.stop().unwrap();
}

#[test]
fn a_killed_daemon_starts_again() {
    let lab = lab();
    let mut balancer = Balancer::serving(&lab, &[service()]).unwrap();
    balancer.json(&["backend", "weight", "web/web-02", "9"]).unwrap();
    balancer.process().kill();
    let limit = Instant::now() + UP;
    while link(&lab).get("xdp").is_some() {
        assert!(Instant::now() < limit, "the program outlives its daemon");
        sleep(Duration::from_millis(10));
    }
    assert!(lab.path("lb.sock").exists(), "nobody removed it");
    drop(balancer);
    let balancer = again(&lab);
    assert_eq!(weight(&balancer, "web-02"), 9);
    let report = requests(&lab);
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    balancer.stop().unwrap();
}

#[test]
fn a_damaged_state_is_refused_and_kept() {
    let lab = lab();
    Balancer::serving(&lab, &[service()]).unwrap().stop().unwrap();
    let state = lab.path("state/state.json");
    fs::write(&state, "{ \"version\": 1").unwrap();
    let path = |name: &str| lab.path(name).display().to_string();
    let arguments =
        ["-c", &path("lb.toml"), "--socket", &path("lb.sock"), "--state-dir", &path("state")];
    let (code, said) = Balancer::refused(&lab, &Balancer::binary().unwrap(), &arguments).unwrap();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("state.json is damaged; move it away"), "{said}");
    assert_eq!(fs::read_to_string(&state).unwrap(), "{ \"version\": 1");
    assert!(link(&lab).get("xdp").is_none());
    fs::remove_file(state).unwrap();
    again(&lab).stop().unwrap();
}

#[test]
fn who_was_down_is_down_after_a_restart_and_who_was_up_is_not() {
    let lab = Lab::build(Topology::new(Mode::Nat, 3)).unwrap();
    let balancer = Balancer::serving(&lab, &[service()]).unwrap();
    lab.kill_backend(1).unwrap();
    balancer.wait_for_health("web", "web-02", "down", UP).unwrap();
    balancer.stop().unwrap();
    let balancer = Balancer::run(&lab, &Balancer::binary().unwrap()).unwrap();
    // Before any probe can have said so: `fall` failures take longer than this.
    let backend = balancer.backend("web", "web-02").unwrap();
    assert_eq!(backend["health"]["state"], "down", "{backend:#}");
    assert_eq!(backend["admit"], 0.0, "{backend:#}");
    assert!(backend["excluded"].as_str().unwrap().starts_with("refused"), "{backend:#}");
    let report = requests(&lab);
    assert_eq!(report.failures(), 0, "{:?}", report.failure_kinds());
    lab.start_backend(1).unwrap();
    balancer.wait_until_up(UP).unwrap();
    balancer.stop().unwrap();
}
