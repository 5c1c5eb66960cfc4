//! The JSON that the daemon answers and `-o json` prints: one stable shape for both.
//!
//! Fields are only ever added. Times are milliseconds; shares are 0 to 1; addresses are text.

mod age;
mod alerts;

use std::fmt;
use std::net::IpAddr;

use lb_common::verdict::{Event, Kind, Verdict};
use serde::{Deserialize, Serialize};

use crate::alert::{Kind as AlertKind, Severity};
use crate::config::model::{Frontend, Mode, Prefix};

pub use age::{age, long_age};
pub use alerts::{AlertState, AlertTarget, AlertTest, Alerts};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub revision: u64,
    pub uptime_ms: u64,
    pub interfaces: Vec<Interface>,
    /// What the program was loaded for: `nat`, `tunnel4`, `tunnel6`, `prefixes`, `quic`, `filters`.
    #[serde(default)]
    pub features: Vec<String>,
    /// What is wrong and what to do, worst first.
    pub warnings: Vec<Warning>,
    pub services: Vec<Service>,
    pub counters: Counters,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// `native` or `generic`.
    pub xdp: String,
}

/// Something that is wrong now: what `lb status` warns of, and what alerts are about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    pub kind: AlertKind,
    pub severity: Severity,
    /// `SERVICE` or `SERVICE/NAME`, or the name of an interface.
    pub subject: String,
    /// What of it is wrong; a sentence whose subject is `subject`.
    pub message: String,
    /// The command to run next, if there is one.
    pub next: Option<String>,
    /// Since when, in milliseconds since the epoch, where that is known.
    pub since_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    pub mode: Mode,
    pub listen: Vec<Frontend>,
    /// Slots of its Maglev table.
    pub table_slots: u32,
    /// Slots whose flows are looked up, because a change left some of them elsewhere.
    #[serde(default)]
    pub marked_slots: u32,
    /// Slots whose previous owner still counts, as their change is fresh.
    pub shadowed_slots: u32,
    /// Recorded flows that packets would have missed, since the start: anything but 0 is a bug.
    #[serde(default)]
    pub coverage_violations: u64,
    /// More backends fail than may be out: it fails open.
    #[serde(default)]
    pub panic: Option<Panic>,
    /// Backups serve, as too few of the others are well.
    #[serde(default)]
    pub uses_backups: bool,
    /// Its backends stay as they are, whatever probes find.
    #[serde(default)]
    pub frozen: Option<Freeze>,
    pub backends_serving: u32,
    pub backends_total: u32,
    pub packets: u64,
    pub bytes: u64,
    /// New flows: TCP SYNs, and UDP flows in `nat`.
    pub new_flows: u64,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    pub name: String,
    /// `None` while its `host` has none.
    pub address: Option<IpAddr>,
    /// The host name that the address follows.
    #[serde(default)]
    pub host: Option<String>,
    pub port: Option<u16>,
    pub weight: u16,
    pub health: Health,
    /// `ready` or `drain`: what the operator wants.
    pub admin: Admin,
    /// What the dataplane does with it now: `serving`, `draining`, `drained`, `down`, `returning`.
    pub state: BackendState,
    /// In reserve until too few of the others are well.
    #[serde(default)]
    pub backup: bool,
    /// Why it takes no new flows, if it takes none.
    #[serde(default)]
    pub excluded: Option<String>,
    /// Why it takes some though its probes fail.
    #[serde(default)]
    pub kept: Option<String>,
    /// Share of its new flows it takes now, 0 to 1.
    pub admit: f64,
    /// Share of the table's slots.
    pub expected: f64,
    /// Share of the service's new flows since start.
    pub share: f64,
    pub packets: u64,
    pub bytes: u64,
    pub new_flows: u64,
    /// Live NAT connections or recorded flows to it; `None` where not known.
    pub flows: Option<u64>,
    /// Next hop as resolved: MAC, or why there is none.
    pub next_hop: NextHop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NextHop {
    pub interface: Option<String>,
    pub mac: Option<String>,
    /// Router on the way, where the server is not on-link.
    pub via: Option<IpAddr>,
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    pub state: HealthState,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Consecutive results that agree with the last one.
    pub streak: u32,
    /// Text of the last failing probe, e.g. `refused: connection refused on 10.0.0.12:80`.
    pub last_failure: Option<String>,
    /// Latency of the last successful probe.
    pub latency_ms: Option<f64>,
    /// First failing probe to the word written, of the last failure.
    pub detection_ms: Option<f64>,
    /// How often it went down without being up for long in between.
    #[serde(default)]
    pub falls: u32,
    /// How much longer it is held down, whatever its probes say: it went up and down too often.
    #[serde(default)]
    pub held_ms: Option<f64>,
    /// Failing probes since it last was up and passed; `None` while it passes.
    #[serde(default)]
    pub outage: Option<Outage>,
    /// Its probes cannot be made, so all of this is as it was before.
    #[serde(default)]
    pub unprobed: Option<Unprobed>,
}

/// Why probes cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unprobed {
    pub text: String,
    /// Milliseconds since the first that could not.
    pub since_ms: u64,
}

/// How an outage began and how it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    pub first: FailedProbe,
    pub last: FailedProbe,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedProbe {
    /// The layer it failed at, a name of `FailureKind`.
    pub kind: String,
    pub text: String,
    /// Since it ended.
    pub ago_ms: u64,
    /// From its start to its end.
    pub latency_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    Unknown,
    Up,
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Admin {
    Ready,
    Drain(Absence),
    Maintenance(Absence),
}

/// By whom and why a backend is taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    pub reason: Option<String>,
    pub actor: String,
    /// Milliseconds since it was asked for.
    pub since_ms: u64,
    /// Milliseconds until it is to be taken back; negative where that is past.
    #[serde(default)]
    pub ends_in_ms: Option<i64>,
}

/// A service that fails open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    pub since_ms: u64,
    /// Backends that count: ready, and once found up.
    pub counted: u32,
    /// Those of them that fail.
    pub failing: u32,
    /// How many of them may be out.
    pub may_be_out: u32,
}

/// Health that does not act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// All services if none.
    pub service: Option<String>,
    pub reason: Option<String>,
    pub actor: String,
    /// Since the epoch, as is the next.
    pub since_ms: u64,
    /// When it ends by itself.
    pub until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    Serving,
    Draining,
    Drained,
    Down,
    Returning,
}

/// Node-wide counters: `received = sent + passed + Σ drops`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets sent to backends, and replies sent to clients.
    pub sent: u64,
    pub verdicts: Vec<NamedCount>,
    /// Not verdicts: flow-table look-ups, inserts, port collisions and the like.
    pub events: Vec<NamedCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCount {
    pub name: String,
    /// `pass`, `drop`, `send` or `event`.
    pub kind: String,
    pub count: u64,
    /// What it means and what to do, one sentence.
    pub help: String,
}

impl NamedCount {
    /// The count of a verdict.
    #[must_use]
    pub fn of_verdict(verdict: Verdict, count: u64) -> Self {
        let kind = match verdict.kind() {
            Kind::Send => "send",
            Kind::Pass => "pass",
            Kind::Drop => "drop",
            Kind::Event => "event",
        };
        Self { name: verdict.name().into(), kind: kind.into(), count, help: verdict.help().into() }
    }

    /// The count of an event.
    #[must_use]
    pub fn of_event(event: Event, count: u64) -> Self {
        let (name, kind) = (event.name().into(), "event".into());
        Self { name, kind, count, help: event.help().into() }
    }
}

/// What `lb decap` prints: where it runs, and what became of the packets it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decap {
    pub interfaces: Vec<Interface>,
    /// Sources that tunnels are taken from.
    pub from: Vec<Prefix>,
    pub gue_port: u16,
    pub verdicts: Vec<NamedCount>,
}

/// Answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub revision: u64,
    /// One line for each thing that changed; empty when nothing did.
    pub changes: Vec<String>,
    /// Things that are as asked but look unwise.
    pub warnings: Vec<String>,
}

/// A prefix of sources that no service takes packets from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub prefix: Prefix,
    pub reason: Option<String>,
    pub actor: String,
    /// Since the epoch, as is the next.
    pub since_ms: u64,
    /// When it ends by itself.
    pub until_ms: Option<u64>,
}

/// Which backend a flow goes to, and every step of why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub service: Option<String>,
    pub backend: Option<String>,
    /// `sent`, or the verdict's name.
    pub verdict: String,
    /// What a first packet (SYN) and what a packet of an existing flow would get, where they differ.
    pub existing_backend: Option<String>,
    pub hash: String,
    pub slot: Option<u32>,
    pub steps: Vec<String>,
}

/// Every error of the API, and of `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// `invalid`, `not-found`, `conflict`, `refused`, `unreachable`, `internal`.
    pub kind: ErrorKind,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    Invalid,
    NotFound,
    Conflict,
    Refused,
    /// No daemon answered; never said by one.
    Unreachable,
    Internal,
}

impl Error {
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: Some(hint.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// A status as an operator meets it: one service of two backends, one of them down.
#[cfg(test)]
pub(crate) fn sample() -> Status {
    let backend = |name: &str, address: [u8; 4]| Backend {
        name: name.into(),
        address: Some(address.into()),
        host: None,
        port: None,
        weight: 1,
        health: Health {
            state: HealthState::Up,
            since_ms: 31 * 86_400_000,
            streak: 9,
            last_failure: None,
            latency_ms: Some(0.4),
            detection_ms: None,
            falls: 0,
            held_ms: None,
            outage: None,
            unprobed: None,
        },
        admin: Admin::Ready,
        state: BackendState::Serving,
        backup: false,
        excluded: None,
        kept: None,
        admit: 1.0,
        expected: 0.5,
        share: 0.5,
        packets: 81_200,
        bytes: 46_000_000,
        new_flows: 602,
        flows: Some(12),
        next_hop: NextHop {
            interface: Some("eth0".into()),
            mac: Some("02:00:00:00:00:0b".into()),
            via: None,
            problem: None,
        },
    };
    let mut down = backend("web-02", [10, 0, 0, 12]);
    down.health.state = HealthState::Down;
    down.health.since_ms = 252_000;
    down.health.last_failure = Some("refused: connection refused on 10.0.0.12:80".into());
    (down.state, down.admit, down.weight) = (BackendState::Down, 0.0, 2);
    let mut drained = backend("web-03", [10, 0, 0, 13]);
    drained.state = BackendState::Drained;
    drained.admit = 0.0;
    let count = |name: &str, kind: &str, count, help: &str| NamedCount {
        name: name.into(),
        kind: kind.into(),
        count,
        help: help.into(),
    };
    Status {
        version: "0.1.0".into(),
        revision: 14,
        uptime_ms: 3_723_000,
        interfaces: vec![Interface { name: "eth0".into(), index: 2, xdp: "native".into() }],
        features: vec!["nat".into()],
        warnings: vec![Warning {
            kind: AlertKind::BackendDown,
            severity: Severity::Warning,
            subject: "web/web-02".into(),
            message: "is down for 4m 12s: connection refused on 10.0.0.12:80".into(),
            next: Some("curl -v -m 5 http://10.0.0.12:80/healthz".into()),
            since_ms: None,
        }],
        services: vec![Service {
            name: "web".into(),
            mode: Mode::Dsr,
            listen: "192.0.2.10:80/tcp".parse().into_iter().collect(),
            table_slots: 16_381,
            marked_slots: 0,
            shadowed_slots: 0,
            coverage_violations: 0,
            panic: None,
            uses_backups: false,
            frozen: None,
            backends_serving: 1,
            backends_total: 3,
            packets: 81_234,
            bytes: 46_000_000,
            new_flows: 1_204,
            backends: vec![backend("web-01", [10, 0, 0, 11]), down, drained],
        }],
        counters: Counters {
            sent: 81_234,
            verdicts: vec![
                count("pass-not-vip", "pass", 70, "Not for a VIP: left to the host."),
                count("drop-no-backend", "drop", 3, "No backend takes traffic: bring one up."),
                count("drop-malformed", "drop", 0, "Truncated or contradictory headers."),
            ],
            events: vec![count("flow-lookup", "event", 5, "Flow-table look-ups.")],
        },
    }
}
