//! Results as tables that fit a terminal of 100 columns.
//!
//! Knows no part: columns are the fields there are. What is the same in every row is said once, above the table; what
//! does not fit is left out, and that is said, too.

use std::{collections::BTreeSet, fmt::Write};

use serde_json::Value;

use super::{
    fields::{Kind, is_named, kind, place, shown},
    results::Line,
};

/// Columns of the narrowest terminal that a table must fit.
pub(super) const WIDTH: usize = 100;
const GAP: usize = 2;

/// All results of one part: a table for each kind of result.
pub(super) fn tables(lines: &[Line]) -> String {
    groups(lines).iter().map(|group| table(group)).collect()
}

/// Results that share at least half of their figures, in the order they came.
pub(super) fn groups(lines: &[Line]) -> Vec<Vec<&Line>> {
    let mut groups: Vec<(BTreeSet<&str>, Vec<&Line>)> = Vec::new();
    for line in lines {
        let own: BTreeSet<&str> = figures(line).collect();
        let fits = |known: &BTreeSet<&str>| own.intersection(known).count() * 2 >= own.len();
        match groups.iter_mut().find(|(known, _)| fits(known)) {
            Some((known, group)) => {
                known.extend(own);
                group.push(line);
            }
            None => groups.push((own, vec![line])),
        }
    }
    groups.into_iter().map(|(_, lines)| lines).collect()
}

fn figures(line: &Line) -> impl Iterator<Item = &str> {
    let is_figure = |name: &str, value| matches!(kind(name, value), Kind::Figure(_));
    line.fields.iter().filter(move |(name, value)| is_figure(name, value)).map(|(name, _)| &**name)
}

fn table(lines: &[&Line]) -> String {
    let Some(first) = lines.first() else { return String::new() };
    let mut names: Vec<&str> = lines.iter().flat_map(|l| l.fields.keys()).map(|n| &**n).collect();
    names.sort_by_key(|name| (place(&first.part, name), by_rank(name)));
    names.dedup();
    let notes: Vec<&str> = names.extract_if(.., |name| *name == "note").collect();
    let constant = |name: &str| {
        let value = first.fields.get(name)?;
        let is_same = lines.iter().all(|line| line.fields.get(name) == Some(value));
        let is_figure = matches!(kind(name, value), Kind::Figure(_));
        (lines.len() > 1 && is_same && !is_figure).then_some(value)
    };
    let same: Vec<String> = names
        .iter()
        .filter_map(|name| Some(format!("{} {}", words(name), shown(constant(name)?))))
        .collect();
    names.retain(|name| constant(name).is_none());
    let mut columns: Vec<Column> =
        names.iter().map(|name| Column::of(&first.part, name, lines)).collect();
    let left_out = fit(&mut columns, WIDTH);

    let mut text = String::from("\n");
    if !same.is_empty() {
        text += &folded(&same.join(", "), WIDTH);
    }
    text += &rendered(&columns);
    if !left_out.is_empty() {
        text += &folded(&format!("Not shown, but in -o json: {}.", left_out.join(", ")), WIDTH);
    }
    if !notes.is_empty() {
        let mut said = BTreeSet::new();
        for note in lines.iter().filter_map(|line| line.text("note")) {
            if said.insert(note) {
                text += &folded(note, WIDTH);
            }
        }
    }
    text
}

/// Orders by name, but what a figure is spread over from the least on.
fn by_rank(name: &str) -> (&str, usize) {
    let ends = ["_min", "_p10", "_p50", "_median", "_p99", "_max"];
    let of = ends.iter().enumerate().find_map(|(at, end)| Some((name.strip_suffix(end)?, at + 1)));
    of.unwrap_or((name, 0))
}

/// A column: the words above it, and its cells.
pub(super) struct Column {
    name: String,
    heading: Vec<String>,
    cells: Vec<String>,
    is_number: bool,
    is_identity: bool,
    /// Whether its part names it among what it shows.
    is_named: bool,
}

impl Column {
    pub(super) fn new(name: &str, cells: Vec<String>, is_number: bool) -> Self {
        let heading = words(name).to_uppercase();
        let width = heading.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0).max(width);
        let heading = folded(&heading, width).lines().map(String::from).collect();
        Self { name: name.into(), heading, cells, is_number, is_identity: true, is_named: true }
    }

    fn of(part: &str, name: &str, lines: &[&Line]) -> Self {
        let values = || lines.iter().map(|line| line.fields.get(name));
        let cells = values().map(|value| value.map_or_else(|| "-".into(), shown)).collect();
        let is_number = values().flatten().all(Value::is_number);
        let is_identity = values().flatten().any(|value| kind(name, value) == Kind::Identity);
        let is_named = is_named(part, name);
        Self { is_identity, is_named, ..Self::new(name, cells, is_number) }
    }

    fn width(&self) -> usize {
        let texts = self.heading.iter().chain(&self.cells);
        texts.map(|text| text.chars().count()).max().unwrap_or(0)
    }
}

/// Leaves out columns from the end: first those that the part does not name, figures before what
/// says what was measured, then figures that it does. Their names.
fn fit(columns: &mut Vec<Column>, limit: usize) -> Vec<String> {
    let mut left_out = Vec::new();
    while columns.iter().map(|column| column.width() + GAP).sum::<usize>() > limit + GAP {
        let last = |is_named, is_identity| {
            let is_it = |c: &Column| c.is_named == is_named && c.is_identity == is_identity;
            columns.iter().rposition(is_it)
        };
        let Some(last) = last(false, false).or(last(false, true)).or(last(true, false)) else {
            break;
        };
        left_out.insert(0, words(&columns.remove(last).name));
    }
    left_out
}

pub(super) fn rendered(columns: &[Column]) -> String {
    let tall = columns.iter().map(|column| column.heading.len()).max().unwrap_or(0);
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    // Headings stand on the first row of cells.
    let heading = |column: &Column, at: usize| {
        let above = tall - column.heading.len();
        at.checked_sub(above).and_then(|at| column.heading.get(at)).cloned().unwrap_or_default()
    };
    let mut text = String::new();
    for at in 0..tall {
        push_row(&mut text, columns, |column| heading(column, at));
    }
    for at in 0..rows {
        push_row(&mut text, columns, |column| column.cells.get(at).cloned().unwrap_or_default());
    }
    text
}

fn push_row(text: &mut String, columns: &[Column], cell: impl Fn(&Column) -> String) {
    let mut row = String::new();
    for column in columns {
        let (cell, width) = (cell(column), column.width());
        // Writing to a String cannot fail.
        let _ = match column.is_number {
            true => write!(row, "{cell:>width$}  "),
            false => write!(row, "{cell:<width$}  "),
        };
    }
    text.push_str(row.trim_end());
    text.push('\n');
}

/// A field's name as words.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// Lines of at most so many characters, broken between words.
pub(super) fn folded(text: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split(' ') {
        let more = word.chars().count();
        if length > 0 && length + 1 + more > width {
            lines.push('\n');
            length = 0;
        }
        if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += more;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(values: &[Value]) -> Vec<Line> {
        values.iter().map(|value| Line::try_from(value.clone()).unwrap()).collect()
    }

    fn check(values: &[Value], expect: &str) {
        assert_eq!(tables(&lines(values)), expect, "{}", tables(&lines(values)));
    }

    #[test]
    fn the_program() {
        let line = |mode: &str, flows: u32, ns: f64| {
            json!({
                "part": "prog", "mode": mode, "family": "IPv4", "protocol": "tcp", "kind": "data",
                "flows": flows, "services": 1, "backends": 100, "ns_min": ns, "ns_p10": ns + 0.5,
                "ns_median": ns + 2.0, "floor_ns_min": 8.0, "ratio": ns / 8.0,
                "footprint_bytes": 16_384,
            })
        };
        check(
            &[line("dsr", 1, 20.0), line("nat", 1_000_000, 123.4)],
            "
family IPv4, protocol tcp, kind data, services 1, backends 100
                                            FLOOR
                   NS             NS    NS     NS  FOOTPRINT
MODE      FLOWS   MIN  RATIO  MEDIAN   P10    MIN      BYTES
dsr           1  20.0   2.50    22.0  20.5   8.00     16,384
nat   1,000,000   123   15.4     125   124   8.00     16,384
",
        );
    }

    #[test]
    fn other_figures_are_another_table() {
        let rate = |system: &str, pps: f64| {
            json!({
                "part": "wire", "case": "forward", "system": system, "pps_max": pps,
                "lost": 0, "wrong": 0, "ratio_to_bounce": null,
            })
        };
        let latency = json!({
            "part": "wire", "case": "latency", "system": "holdfast", "p50_us": 8.25, "p99_us": 20,
        });
        check(
            &[rate("holdfast", 2.5e6), latency, rate("nftables", 9e5)],
            "
case forward
SYSTEM      PPS MAX  LOST  WRONG
holdfast  2,500,000     0      0
nftables    900,000     0      0

                    P50  P99
CASE     SYSTEM      US   US
latency  holdfast  8.25   20
",
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let mut line = json!({"part": "new", "case": "a", "note": "so it is", "target_us": 2000});
        for at in 0..20 {
            line[format!("figure_{at:02}_with_a_rather_long_name")] = json!(1_000_000 + at);
        }
        let text = tables(&lines(&[line]));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        for part in ["a  ", "1,000,000", "so it is", "-o json: figure 0", "target us."] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
