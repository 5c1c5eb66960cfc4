//! Random events on random configurations, on a clock of their own: what must hold after each.
//!
//! The daemon's own code from probe results to words in maps without a kernel. What the control
//! loop does between two events is done here ([`scene`]); what must hold is said by
//! [`check`], from words, times and results that it notes by itself.
//!
//! `HOLDFAST_CASES=5000` tries more.

mod check;
mod prober;
mod random;
mod rows;
mod scene;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use self::random::{event, plan};
use self::scene::Scene;
use super::{Health, Percent, Probe};
use crate::config::model::{self, Failover, Mode, OnDown, Ramp};

/// Backends of a service are of these; those of the same number share a server.
const SERVERS: u8 = 9;
const SERVICES: u8 = 4;

/// A service as configured; times in seconds, shares in percent.
#[derive(Clone)]
struct Plan {
    backends: Vec<Planned>,
    nat: bool,
    probed: bool,
    rise: u32,
    fall: u32,
    hold_down: u64,
    max_removed: u8,
    in_window: u8,
    window: u64,
    backup_below: u8,
    backup_return: u64,
    keep: bool,
    slow_start: u64,
    exponential: bool,
    idle: u64,
    port: u16,
}

#[derive(Clone)]
struct Planned {
    server: u8,
    weight: u16,
    backup: bool,
}

/// What a probe finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Pass,
    /// Nothing answers.
    Hard,
    /// The application says no.
    Soft,
    /// It could not be made.
    Local,
}

/// One thing that happens. Services and backends are taken modulo those there are.
#[derive(Clone, Debug)]
enum Event {
    Probe {
        service: u8,
        backend: u8,
        finds: Outcome,
        times: u8,
    },
    /// All services find the same of a server.
    Server {
        server: u8,
        finds: Outcome,
        times: u8,
    },
    /// Of all backends of a service the same is found.
    All {
        service: u8,
        finds: Outcome,
        times: u8,
    },
    /// One goes down and up again, and again.
    Flap {
        service: u8,
        backend: u8,
        rounds: u8,
    },
    Wait {
        ms: u32,
    },
    Reload {
        service: u8,
        plan: Option<Plan>,
    },
    Drain {
        service: u8,
        backend: u8,
    },
    Maintenance {
        service: u8,
        backend: u8,
        seconds: Option<u32>,
    },
    Ready {
        service: u8,
        backend: u8,
    },
    /// Of one service, or of all.
    Freeze {
        service: Option<u8>,
    },
    Thaw {
        service: Option<u8>,
    },
    /// The prober tests itself, if that is wanted.
    Test {
        passes: bool,
    },
    /// Our own link to a server.
    Link {
        server: u8,
        up: bool,
    },
    /// The clock of the day is set.
    Clock {
        seconds: i64,
    },
    Restart,
    Sweep,
}

/// In one line, and what is as it mostly is left out.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ", self.backends)?;
        let numbers = [
            ("rise", u64::from(self.rise), 1),
            ("fall", u64::from(self.fall), 1),
            ("hold_down", self.hold_down, 0),
            ("max_removed", self.max_removed.into(), 50),
            ("in_window", self.in_window.into(), 50),
            ("window", self.window, 10),
            ("backup_below", self.backup_below.into(), 50),
            ("backup_return", self.backup_return, 10),
            ("slow_start", self.slow_start, 0),
            ("idle", self.idle, 5),
            ("port", self.port.into(), 80),
        ];
        for (name, value, _) in numbers.into_iter().filter(|(_, value, usual)| value != usual) {
            write!(f, "{name} {value} ")?;
        }
        let flags = [
            ("nat", self.nat),
            ("not probed", !self.probed),
            ("keep", self.keep),
            ("exponential", self.exponential),
        ];
        flags.iter().filter(|(_, is_set)| *is_set).try_for_each(|(name, _)| write!(f, "{name} "))
    }
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backup = if self.backup { " backup" } else { "" };
        write!(f, "b{} x{}{backup}", self.server, self.weight)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            backends: Vec::new(),
            nat: false,
            probed: true,
            rise: 1,
            fall: 1,
            hold_down: 0,
            max_removed: 50,
            in_window: 50,
            window: 10,
            backup_below: 50,
            backup_return: 10,
            keep: false,
            slow_start: 0,
            exponential: false,
            idle: 5,
            port: 80,
        }
    }
}

impl Plan {
    fn service(&self, number: u8) -> model::Service {
        let mut health = Health::new(if self.probed { Probe::Tcp } else { Probe::None });
        (health.rise, health.fall) = (self.rise, self.fall);
        health.hold_down = Duration::from_secs(self.hold_down);
        let percent = |share| Percent::new(share).unwrap();
        let backend = |planned: &Planned| {
            let address = IpAddr::from([10, 0, 1, planned.server]);
            let mut backend = model::Backend::new(format!("b{}", planned.server), address);
            backend.weight = planned.weight;
            backend.backup = planned.backup;
            backend.port = Some(self.port);
            backend.into()
        };
        let mode = if self.nat { Mode::Nat } else { Mode::Dsr };
        model::Service {
            listen: vec![format!("192.0.2.{number}:80/tcp").parse().unwrap()],
            health,
            failover: Failover {
                max_removed: percent(self.max_removed),
                max_removed_in_window: percent(self.in_window),
                window: Duration::from_secs(self.window),
                on_down: if self.keep { OnDown::Keep } else { OnDown::Rehash },
                backup_below: percent(self.backup_below),
                backup_return: Duration::from_secs(self.backup_return),
            },
            slow_start: Duration::from_secs(self.slow_start),
            slow_start_curve: if self.exponential { Ramp::Exponential } else { Ramp::Linear },
            idle_timeout: Duration::from_secs(self.idle),
            backends: self.backends.iter().map(backend).collect(),
            ..model::Service::new(format!("s{number}"), mode)
        }
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("HOLDFAST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { max_shrink_iters: 5_000, ..ProptestConfig::with_cases(cases.unwrap_or(128)) }
}

/// On a runtime that runs nothing but this: no probe is sent, no next hop is asked for.
fn happens(plans: &[Plan], events: &[Event]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut scene = Scene::start(plans);
        scene.check()?;
        for (at, event) in events.iter().enumerate() {
            let told = |error| TestCaseError::fail(format!("at event {at}, {event:?}: {error}"));
            scene.happens(event).map_err(told)?;
            scene.check().map_err(told)?;
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_the_rules_hold(
        plans in prop::collection::vec(plan(), 1..=usize::from(SERVICES)),
        events in prop::collection::vec(event(), 1..60),
    ) {
        happens(&plans, &events)?;
    }
}
