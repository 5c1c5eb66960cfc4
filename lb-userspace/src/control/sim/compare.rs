//! The comparison: four scenarios under three designs.

use std::time::Duration;

use serde::Serialize;

use super::daemon::SECOND;
use super::oracle::Found;
use super::others::Design;
use super::site::{Kind, Scripted, Site};
use super::slots_for;
use super::world::{Plan, World};
use crate::config::model::Mode;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    scenario: &'static str,
    design: &'static str,
    connections: u64,
    packets: u64,
    /// Flow look-ups per packet before, during and after.
    lookups: [Option<f64>; 3],
    /// Per connection, those of a flood not counted.
    inserts: f64,
    /// Connections to servers that were alive all the while, sent elsewhere.
    broken: u64,
    /// Of these, silent for longer than `idle_timeout` across a change.
    silent: u64,
}

struct Scenario {
    name: &'static str,
    flows: u32,
    seconds: u64,
    script: Vec<(u64, Scripted)>,
    pause: u64,
    flood: u64,
}

const BEGIN: u64 = 40;

fn scenarios(scale: u64) -> Vec<Scenario> {
    let at = |seconds: u64| (BEGIN + seconds) * SECOND;
    let hold = 800 / scale;
    let long = Scripted::Phase;
    vec![
        Scenario {
            name: "fail, ramp back",
            flows: 200_000,
            seconds: BEGIN + hold + 60,
            script: vec![
                (at(0), long(1)),
                (at(0), Scripted::Hard),
                (at(hold), long(2)),
                (at(hold), Scripted::Up),
            ],
            pause: 0,
            flood: 0,
        },
        Scenario {
            name: "drain",
            flows: 200_000,
            seconds: BEGIN + 60,
            script: vec![(at(0), long(1)), (at(0), Scripted::Drain), (at(12), long(2))],
            pause: 0,
            flood: 0,
        },
        Scenario {
            name: "an event every 30 s, LRU of 1,500",
            flows: 1500,
            seconds: 4 * (BEGIN + 160 / scale.min(4)),
            script: vec![(2 * SECOND, long(1))],
            pause: 30 * SECOND,
            flood: 0,
        },
        Scenario {
            name: "drain under 3,000 SYN/s, LRU of 8,000",
            flows: 8000,
            seconds: BEGIN + 60,
            script: vec![(at(0), long(1)), (at(0), Scripted::Drain), (at(12), long(2))],
            pause: 0,
            flood: 3000,
        },
    ]
}

/// All of them; `scale` shortens the long one.
pub(super) fn lines(seed: u64, scale: u64) -> Vec<Line> {
    let designs = [
        (Design::Exceptions, "shadows and exceptions"),
        (Design::PerFlow, "an LRU entry per flow"),
        (Design::Rebuilt, "table rebuilt, no state"),
    ];
    let mut lines = Vec::new();
    for scenario in scenarios(scale) {
        for (design, name) in designs {
            let found = run(seed, &scenario, design);
            lines.push(line(&scenario, name, &found));
        }
    }
    lines
}

fn run(seed: u64, scenario: &Scenario, design: Design) -> Found {
    let mut site = Site::new(0, Kind::Tcp, 1, &[Mode::Dsr], 8);
    site.service.slow_start = Duration::from_secs(20);
    let rate = 200;
    let plan = Plan {
        connections: rate * scenario.seconds,
        flows: scenario.flows,
        pause: scenario.pause,
        design,
        flood: scenario.flood,
        script: scenario.script.clone(),
        refusals: false,
        calm: false,
        rate,
        seed,
    };
    World::<0>::new(plan, vec![site], slots_for).run()
}

fn line(scenario: &Scenario, design: &'static str, found: &Found) -> Line {
    let silent = found.excused.get(super::oracle::Excuse::Silent.name()).copied().unwrap_or(0);
    let lookups = found
        .phases
        .map(|phase| (phase.packets > 0).then(|| phase.lookups as f64 / phase.packets as f64));
    Line {
        scenario: scenario.name,
        design,
        connections: found.connections,
        packets: found.packets,
        lookups,
        inserts: found.inserts as f64 / found.connections.max(1) as f64,
        broken: found.misdirected + found.excused.values().sum::<u64>(),
        silent,
    }
}

/// As a table of Markdown.
pub(super) fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| scenario | design | look-ups per packet: before → during → after | inserts per connection \
         | connections to survivors broken |\n| --- | --- | --- | --- | --- |\n",
    );
    for line in lines {
        let [before, during, after] =
            line.lookups.map(|share| share.map_or("–".to_owned(), |share| format!("{share:.2}")));
        let silent = if line.silent == 0 {
            String::new()
        } else {
            format!(" ({} silent for too long)", line.silent)
        };
        text += &format!(
            "| {} | {} | {before} → {during} → {after} | {:.3} | {}{silent} |\n",
            line.scenario, line.design, line.inserts, line.broken
        );
    }
    text
}
