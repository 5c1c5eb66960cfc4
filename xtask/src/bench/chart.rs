//! Which diagrams there are of which results.

use super::{
    fields::{Kind, kind, place, shown},
    results::{self, Line},
    svg::{self, Bars, Group, Lines, Piece},
};

/// A diagram of bars: the figure, its unit, and the field whose values are compared.
struct BarChart {
    part: &'static str,
    title: &'static str,
    figure: &'static str,
    unit: &'static str,
    series: &'static str,
}

const BARS: [BarChart; 7] = [
    BarChart {
        part: "prog",
        title: "The program alone: time for a packet",
        figure: "ns_min",
        unit: "ns, the least of all rounds",
        series: "family",
    },
    BarChart {
        part: "wire",
        title: "Through interfaces: packets a second",
        figure: "pps_max",
        unit: "packets a second on one core, the most of all rounds",
        series: "system",
    },
    BarChart {
        part: "proxy",
        title: "Requests a second",
        figure: "requests_per_s",
        unit: "requests a second",
        series: "system",
    },
    BarChart {
        part: "table",
        title: "Building a Maglev table",
        figure: "build_us_min",
        unit: "µs, the least of all rounds",
        series: "weights",
    },
    BarChart {
        part: "failover",
        title: "From a failure to the last word written",
        figure: "decision_us_min",
        unit: "µs, the least of all rounds",
        series: "case",
    },
    BarChart {
        part: "failover",
        title: "From a failure until it is found",
        figure: "detection_ms_p50",
        unit: "ms, the middle of all failures",
        series: "system",
    },
    BarChart {
        part: "failover",
        title: "From a failure until it is found: nearly the longest",
        figure: "detection_ms_p99",
        unit: "ms, 99 of 100 failures",
        series: "system",
    },
];

/// `None` if there is nothing to draw.
pub(super) fn chart(lines: &[Line]) -> Option<String> {
    let mut pieces: Vec<Piece> = Vec::new();
    for part in results::parts(lines) {
        let own: Vec<&Line> = lines.iter().filter(|line| line.part == part).collect();
        pieces.extend(BARS.iter().filter(|chart| chart.part == part).filter_map(|c| bars(c, &own)));
        if part == "prog" {
            pieces.extend(footprint(&own));
        }
    }
    (!pieces.is_empty()).then(|| svg::file(&pieces))
}

fn bars(chart: &BarChart, lines: &[&Line]) -> Option<Piece> {
    let lines: Vec<&Line> =
        lines.iter().copied().filter(|line| line.number(chart.figure).is_some()).collect();
    let mut groups: Vec<Group> = Vec::new();
    for line in &lines {
        let label = label(line, &lines, &[chart.series]);
        let series = line.fields.get(chart.series).map_or_else(|| chart.part.into(), shown);
        let bar = (series, line.number(chart.figure).unwrap_or_default());
        match groups.iter_mut().find(|group| group.label == label) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label, bars: vec![bar] }),
        }
    }
    let (title, unit) = (chart.title.into(), chart.unit.into());
    (!groups.is_empty()).then(|| Bars { title, unit, groups }.draw())
}

/// What tells this measurement from the others, but for some fields.
fn label(line: &Line, lines: &[&Line], without: &[&str]) -> String {
    let differs =
        |name: &str| lines.iter().any(|other| other.fields.get(name) != line.fields.get(name));
    let mut fields: Vec<_> = line
        .fields
        .iter()
        .filter(|(name, value)| kind(name, value) == Kind::Identity)
        .filter(|(name, _)| differs(name) && !without.contains(&name.as_str()))
        .collect();
    fields.sort_by_key(|(name, _)| place(&line.part, name));
    let text = |(name, value): &(&String, &serde_json::Value)| match value.is_number() {
        true => format!("{} {name}", shown(value)),
        false => shown(value),
    };
    fields.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// Time over the bytes that packets of the case touch: what caches are worth.
fn footprint(lines: &[&Line]) -> Option<Piece> {
    let sizes = ["flows", "services", "backends", "footprint_bytes"];
    let point = |line: &Line| Some((line.number("footprint_bytes")?, line.number("ns_min")?));
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for line in lines {
        let Some(point) = point(line) else { continue };
        let name = label(line, lines, &sizes);
        match series.iter_mut().find(|(of, _)| *of == name) {
            Some((_, points)) => points.push(point),
            None => series.push((name, vec![point])),
        }
    }
    series.retain(|(_, points)| points.len() > 1);
    for (_, points) in &mut series {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let lines = Lines {
        title: "The program alone: time over footprint".into(),
        x: "bytes of tables and state that the packets touch".into(),
        y: "ns".into(),
        series,
    };
    (!lines.series.is_empty()).then(|| lines.draw())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_drawn() {
        let prog = |mode: &str, family: &str, flows: u32| {
            json!({
                "part": "prog", "mode": mode, "family": family, "kind": "data", "flows": flows,
                "ns_min": 20.0 + f64::from(flows) / 1e5, "footprint_bytes": flows * 64,
            })
        };
        let values = [
            prog("dsr", "IPv4", 1),
            prog("dsr", "IPv6", 1),
            prog("dsr", "IPv4", 1_000_000),
            prog("n<t", "IPv4", 1),
            json!({"part": "wire", "case": "forward", "system": "holdfast", "pps_max": 2.5e6}),
            json!({"part": "wire", "case": "forward", "system": "nftables", "pps_max": 1.0e6}),
            json!({"part": "failover", "case": "detection", "system": "haproxy",
                "fault": "killed", "detection_ms": {"p50": 700, "p99": 1_200}}),
            json!({"part": "scale", "case": "start", "start_ms": 1}),
        ];
        let lines: Vec<Line> = values.into_iter().map(|v| Line::try_from(v).unwrap()).collect();
        let drawn = chart(&lines).unwrap();
        for text in [
            "dsr 1 flows",
            "n&lt;t 1 flows",
            "holdfast",
            "2.5M",
            "IPv6",
            "footprint",
            "until it is found",
        ] {
            assert!(drawn.contains(text), "{text} in {drawn}");
        }
        assert_eq!(drawn.matches("<g ").count(), 5);
        assert_eq!(drawn.matches("<polyline").count(), 1);
        assert_eq!(chart(&lines[7..]), None);
    }
}
