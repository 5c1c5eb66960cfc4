//! `cargo xtask bench compare`: two results side by side.
//!
//! Measurements are matched by all that says what was measured. A change counts as more than noise if it exceeds what
//! the two results vary by themselves: the 10th percentile beside the least value, where a figure has both.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{
    fields::{Better, Kind, kind, place, rounded, shown},
    machine,
    results::{self, Line},
    table::{self, Column},
};
use crate::Output;

/// The least change that is more than noise, in percent.
const LEAST: f64 = 3.0;
/// The same of a figure that does not say how it varies.
const UNKNOWN: f64 = 10.0;

/// One figure of one measurement, old and new.
#[derive(Debug, PartialEq)]
struct Change {
    /// What was measured.
    case: Vec<(String, String)>,
    figure: String,
    old: f64,
    new: f64,
    noise_percent: f64,
    better: Better,
}

pub(super) fn run(old: &Path, new: &Path, output: Output) -> Result<()> {
    let (old, new) = (results::read(old)?, results::read(new)?);
    let parts = results::parts(&new);
    let mut found = false;
    if matches!(output, Output::Text) {
        print!("{}", machines(&old, &new));
    }
    for part in parts {
        let (old, new) = (of_part(&old, part), of_part(&new, part));
        let changes = changes(&old, &new);
        found |= !changes.is_empty();
        match output {
            Output::Json => {
                changes.iter().for_each(|change| println!("{}", change.to_json(part)));
            }
            Output::Text => print!("==> {part}\n\n{}", text(part, &changes, &old, &new)),
        }
    }
    if !found {
        bail!("the two have no measurement in common");
    }
    Ok(())
}

fn of_part<'a>(lines: &'a [Line], part: &str) -> Vec<&'a Line> {
    lines.iter().filter(|line| line.part == part).collect()
}

/// Where the machines differ: then so may everything else.
fn machines(old: &[Line], new: &[Line]) -> String {
    let machine = |lines: &[Line]| lines.iter().find(|line| line.part == machine::PART).cloned();
    let (Some(old), Some(new)) = (machine(old), machine(new)) else { return String::new() };
    let names: BTreeSet<&String> = old.fields.keys().chain(new.fields.keys()).collect();
    let field = |line: &Line, name: &str| line.fields.get(name).map_or("-".into(), shown);
    let differ: Vec<String> = names
        .into_iter()
        .filter(|name| old.fields.get(*name) != new.fields.get(*name))
        .map(|name| {
            format!("{}: {} → {}", name.replace('_', " "), field(&old, name), field(&new, name))
        })
        .collect();
    differ.iter().map(|line| table::folded(line, table::WIDTH)).collect::<String>() + "\n"
}

fn changes(old: &[&Line], new: &[&Line]) -> Vec<Change> {
    let mut changes = Vec::new();
    for after in new {
        let Some(before) = old.iter().find(|line| case(line) == case(after)) else { continue };
        for (name, value) in &after.fields {
            let (Kind::Figure(better), Some(old)) = (kind(name, value), before.number(name)) else {
                continue;
            };
            // Of a figure over rounds, the least value is what can be compared.
            let is_repeated = ["_p10", "_median"].iter().any(|end| {
                name.strip_suffix(end)
                    .is_some_and(|of| after.fields.contains_key(&format!("{of}_min")))
            });
            if is_repeated {
                continue;
            }
            let noise = [*before, *after].map(|line| noise_percent(line, name));
            changes.push(Change {
                case: case(after),
                figure: name.clone(),
                old,
                new: value.as_f64().unwrap_or_default(),
                noise_percent: noise.into_iter().fold(LEAST, f64::max),
                better,
            });
        }
    }
    changes
}

/// What was measured: names and values.
fn case(line: &Line) -> Vec<(String, String)> {
    let mut case: Vec<_> = line
        .fields
        .iter()
        .filter(|(name, value)| kind(name, value) == Kind::Identity)
        .map(|(name, value)| (name.clone(), shown(value)))
        .collect();
    case.sort_by_key(|(name, _)| place(&line.part, name));
    case
}

/// How far a figure varies within one result.
fn noise_percent(line: &Line, name: &str) -> f64 {
    let spread = name.strip_suffix("_min").and_then(|of| {
        let (least, p10) = (line.number(name)?, line.number(&format!("{of}_p10"))?);
        (least > 0.0).then(|| (p10 - least) / least * 100.0)
    });
    spread.unwrap_or(UNKNOWN)
}

impl Change {
    /// `None` where there was nothing before.
    fn percent(&self) -> Option<f64> {
        if self.old == self.new {
            return Some(0.0);
        }
        (self.old != 0.0).then(|| (self.new - self.old) / self.old * 100.0)
    }

    /// Empty within noise.
    fn verdict(&self) -> &'static str {
        if self.percent().is_some_and(|percent| percent.abs() <= self.noise_percent) {
            return "";
        }
        match self.better {
            Better::Less if self.new < self.old => "better",
            Better::More if self.new > self.old => "better",
            Better::Unknown => "differs",
            Better::Less | Better::More => "WORSE",
        }
    }

    fn to_json(&self, part: &str) -> Value {
        let case: serde_json::Map<String, Value> =
            self.case.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        json!({
            "part": part,
            "case": case,
            "figure": self.figure,
            "old": self.old,
            "new": self.new,
            "change_percent": self.percent(),
            "noise_percent": self.noise_percent,
            "verdict": self.verdict(),
        })
    }
}

fn text(part: &str, changes: &[Change], old: &[&Line], new: &[&Line]) -> String {
    let mut text = String::new();
    if !changes.is_empty() {
        text += &table::rendered(&columns(changes));
        let beyond = changes.iter().filter(|change| !change.verdict().is_empty()).count();
        text += &format!("\n{beyond} of {} figures changed by more than noise.\n", changes.len());
    }
    let missing = |of: &[&Line], from: &[&Line]| {
        of.iter().filter(|line| !from.iter().any(|other| case(other) == case(line))).count()
    };
    for (count, where_) in [(missing(new, old), "new"), (missing(old, new), "old")] {
        if count > 0 {
            text += &format!("{count} results of {part} are in the {where_} file only.\n");
        }
    }
    text + "\n"
}

fn columns(changes: &[Change]) -> Vec<Column> {
    // What is the same in all rows tells nothing.
    let value = |change: &Change, name: &str| {
        change.case.iter().find(|(of, _)| of == name).map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in changes.iter().flat_map(|change| &change.case) {
        let first = changes.first().and_then(|change| value(change, name));
        if !names.contains(&name) && changes.iter().any(|change| value(change, name) != first) {
            names.push(name);
        }
    }
    let cells = |cell: &dyn Fn(&Change) -> String| changes.iter().map(cell).collect::<Vec<_>>();
    let mut columns: Vec<Column> = names
        .into_iter()
        .map(|name| {
            let all = cells(&|change| value(change, name).unwrap_or_else(|| "-".into()));
            let is_number = all.iter().all(|cell| cell.starts_with(|c: char| c.is_ascii_digit()));
            Column::new(name, all, is_number)
        })
        .collect();
    let percent = |change: &Change| {
        change.percent().map_or_else(|| "-".into(), |percent| format!("{percent:+.1}"))
    };
    columns.extend([
        Column::new("figure", cells(&|change| change.figure.clone()), false),
        Column::new("old", cells(&|change| compared(change.old)), true),
        Column::new("new", cells(&|change| compared(change.new)), true),
        Column::new("change_%", cells(&percent), true),
        Column::new("noise_%", cells(&|change| format!("{:.1}", change.noise_percent)), true),
        Column::new("", cells(&|change| change.verdict().into()), false),
    ]);
    columns
}

/// Counts stay whole.
fn compared(value: f64) -> String {
    if value.fract() == 0.0 && value >= 0.0 { shown(&json!(value as u64)) } else { rounded(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(mode: &str, ns: [f64; 2], pps: f64) -> Line {
        let line = json!({
            "part": "prog", "mode": mode, "family": "IPv4", "ns_min": ns[0], "ns_p10": ns[1],
            "ns_median": 99.0, "pps_max": pps, "target_ns": 1,
        });
        line.try_into().unwrap()
    }

    #[test]
    fn changes_beyond_noise_are_told() {
        let old = [line("dsr", [100.0, 101.0], 1e6), line("nat", [100.0, 120.0], 1e6)];
        let new = [
            line("dsr", [90.0, 91.0], 0.5e6),
            line("nat", [110.0, 115.0], 1.05e6),
            line("gue", [1.0, 1.0], 1.0),
        ];
        let (old, new): (Vec<_>, Vec<_>) = (old.iter().collect(), new.iter().collect());
        let all = changes(&old, &new);
        let verdicts: Vec<_> = all
            .iter()
            .map(|c| (c.case[0].1.as_str(), c.figure.as_str(), c.percent(), c.verdict()))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("dsr", "ns_min", Some(-10.0), "better"),
                ("dsr", "pps_max", Some(-50.0), "WORSE"),
                ("nat", "ns_min", Some(10.0), ""),
                ("nat", "pps_max", Some(5.0), ""),
            ]
        );
        let text = text("prog", &all, &old, &new);
        assert_eq!(
            text,
            "                                     CHANGE  NOISE
MODE  FIGURE         OLD        NEW       %      %
dsr   ns_min         100         90   -10.0    3.0  better
dsr   pps_max  1,000,000    500,000   -50.0   10.0  WORSE
nat   ns_min         100        110   +10.0   20.0
nat   pps_max  1,000,000  1,050,000    +5.0   10.0

2 of 4 figures changed by more than noise.
1 results of prog are in the new file only.

"
        );
    }

    #[test]
    fn zero_can_be_compared() {
        let change = |old, new| Change {
            case: Vec::new(),
            figure: "lost".into(),
            old,
            new,
            noise_percent: 3.0,
            better: Better::Less,
        };
        assert_eq!((change(0.0, 0.0).percent(), change(0.0, 0.0).verdict()), (Some(0.0), ""));
        assert_eq!((change(0.0, 5.0).percent(), change(0.0, 5.0).verdict()), (None, "WORSE"));
    }
}
