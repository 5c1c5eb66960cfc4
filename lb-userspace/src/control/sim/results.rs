//! What a run says: as text, and as JSON where `HOLDFAST_RESULTS` names a file.

use std::fmt::Debug;

use serde::Serialize;

use super::compare::{self, Line};
use super::oracle::{Found, Sent};
use super::world::CPUS;

/// All of a run.
#[derive(Debug, Serialize)]
pub(super) struct Results<'f> {
    pub(super) seed: u64,
    pub(super) worlds: u64,
    pub(super) found: &'f Found,
    pub(super) without: Vec<Broken>,
    pub(super) comparison: Vec<Line>,
}

/// What breaks without a rule.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Broken {
    rule: String,
    /// Connections sent elsewhere, and new ones to servers that shall get none.
    misdirected: u64,
    misplaced: u64,
    /// Entries that packets would have missed, over all checks.
    uncovered: u64,
    connections: u64,
}

impl Broken {
    pub(super) fn new(rule: &impl Debug, found: &Found) -> Self {
        Self {
            rule: format!("{rule:?}"),
            misdirected: found.misdirected,
            misplaced: found.misplaced,
            uncovered: found.uncovered,
            connections: found.connections,
        }
    }

    /// Whether the simulation noticed.
    pub(super) fn is_caught(&self) -> bool {
        self.misdirected + self.misplaced + self.uncovered > 0
    }
}

impl Results<'_> {
    pub(super) fn write(&self) {
        if let Ok(path) = std::env::var("HOLDFAST_RESULTS") {
            std::fs::write(path, serde_json::to_string_pretty(self).unwrap()).unwrap();
        }
        let found = self.found;
        println!("seeds {} to {}", self.seed, self.seed + self.worlds - 1);
        println!(
            "{} connections, {} packets on {CPUS} processors ({} begun before a change), {} events, \
             {} sweeps",
            found.connections,
            found.packets,
            found.stale,
            found.events_total(),
            found.sweeps
        );
        println!("\n| clients speak | connections | packets | begun before a change |");
        println!("| --- | --- | --- | --- |");
        for (name, Sent { connections, packets, stale }) in &found.kinds {
            println!("| {name} | {connections} | {packets} | {stale} |");
        }
        println!("\n| packets | |\n| --- | --- |");
        for (name, count) in &found.ways {
            println!("| {name} | {count} |");
        }
        println!("\n| events | |\n| --- | --- |");
        for (name, count) in &found.events {
            println!("| {name} | {count} |");
        }
        println!("\nchanges of M:                 {}", found.sizes);
        println!("look-ups, inserts:            {}, {}", found.lookups, found.inserts);
        println!("entries evicted:              {}", found.evictions);
        println!("inserts refused:              {}", found.refused);
        println!("walks that nobody took:       {}", found.exhausted);
        println!("packets that nobody served:   {}", found.unserved);
        println!("misdirected without a reason: {}", found.misdirected);
        println!("new connections misplaced:    {}", found.misplaced);
        println!("entries not covered:          {}", found.uncovered + found.uncovered_live);
        println!("ended with their server:      {}", found.died);
        for (name, count) in &found.excused {
            println!("lost, {name}: {count}");
        }
        println!("\n| rule broken | misdirected | misplaced | not covered | of connections |");
        println!("| --- | --- | --- | --- | --- |");
        for broken in &self.without {
            let missed = if broken.is_caught() { "" } else { " (not noticed)" };
            println!(
                "| {}{missed} | {} | {} | {} | {} |",
                broken.rule,
                broken.misdirected,
                broken.misplaced,
                broken.uncovered,
                broken.connections
            );
        }
        println!("\n{}", compare::table(&self.comparison));
        for told in &found.told {
            println!("{told}");
        }
    }
}
