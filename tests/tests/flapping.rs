//! A backend that goes up and down again and again is kept out, each time for longer.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use lb_tests::{Balancer, Family, Fault, Lab, Mode, ServiceConfig, Topology};

const LIMIT: Duration = Duration::from_secs(30);
const VICTIM: u8 = 2;
const NAME: &str = "web-03";
const HOLD_DOWN_MS: f64 = 3_000.0;
const RISE: u64 = 2;

#[test]
fn each_fall_is_held_down_for_longer() {
    let lab = Lab::build(Topology::new(Mode::Nat, 3)).unwrap();
    let mut service = ServiceConfig::quick(Mode::Nat, Family::V4);
    service.health += ", hold_down = \"3s\", hold_down_max = \"1m\"";
    let balancer = Balancer::serving(&lab, &[service]).unwrap();
    let health = || balancer.backend("web", NAME).unwrap()["health"].clone();

    let mut held = Vec::new();
    for falls in 1..=3 {
        Fault::Killed.cause(&lab, VICTIM).unwrap();
        balancer.wait_for_health("web", NAME, "down", LIMIT).unwrap();
        let backend = balancer.backend("web", NAME).unwrap();
        let down = &backend["health"];
        assert_eq!(down["falls"], falls, "{down}");
        assert_eq!(backend["admit"].as_f64(), Some(0.0), "{backend}");
        held.push(down["held_ms"].as_f64());
        Fault::Killed.heal(&lab, VICTIM).unwrap();
        if held.last().is_some_and(Option::is_some) {
            // Its probes pass, and it is held all the same.
            let end = Instant::now() + LIMIT;
            loop {
                let now = health();
                assert!(now["state"] == "down" && now["held_ms"].is_number(), "{now}");
                if now["latency_ms"].is_number() && now["streak"].as_u64() > Some(RISE) {
                    break;
                }
                assert!(Instant::now() < end, "its probes do not pass: {now}");
                sleep(Duration::from_millis(20));
            }
        }
        balancer.wait_for_health("web", NAME, "up", LIMIT).unwrap();
        assert!(health()["held_ms"].is_null(), "{}", health());
    }
    let [first, second, third] = held[..] else { unreachable!("three falls: {held:?}") };
    assert_eq!(first, None, "everybody may fail once");
    let (second, third) = (second.unwrap(), third.unwrap());
    assert!(second <= HOLD_DOWN_MS, "{second}");
    assert!(third > HOLD_DOWN_MS && third <= 2.0 * HOLD_DOWN_MS, "{third}");
    balancer.stop().unwrap();
}
