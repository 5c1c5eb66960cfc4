//! What the fields of results mean: which say what was measured, and which what came out.
//!
//! A field nobody knows is shown all the same: texts say what was measured, numbers what came out.

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says what was measured: results with the same are the same measurement.
    Identity,
    /// What was measured.
    Figure(Better),
    /// Neither: a target, an explanation.
    Note,
}

/// Which way of a figure is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Less,
    More,
    Unknown,
}

/// Numbers that say what was measured.
const IDENTITIES: [&str; 22] = [
    "flows",
    "services",
    "backends",
    "slots",
    "connections",
    "threads",
    "servers",
    "sources",
    "prefixes",
    "packets",
    "queues",
    "processors",
    "size_bytes",
    "packet_bytes",
    "payload_bytes",
    "interval_ms",
    "fast_interval_ms",
    "timeout_ms",
    "rise",
    "fall",
    "request_every_ms",
    "probes",
];

/// In which order parts show their fields; the rest comes behind, by name.
const ORDER: [(&str, &[&str]); 6] = [
    (
        "prog",
        &[
            "mode",
            "family",
            "protocol",
            "kind",
            "flows",
            "services",
            "backends",
            "ns_min",
            "ratio",
            "ns_median",
            "ns_p10",
            "floor_ns_min",
            "footprint_bytes",
        ],
    ),
    (
        "wire",
        &[
            "case",
            "system",
            "mode",
            "family",
            "flows",
            "pps_max",
            "ns_per_packet_min",
            "p50_us",
            "p99_us",
            "ratio_to_bounce",
            "ratio_to_nftables",
            "received",
            "lost",
            "wrong",
        ],
    ),
    (
        "proxy",
        &[
            "case",
            "system",
            "connections_per_s",
            "requests_per_s",
            "p50_us",
            "p99_us",
            "cpu_us_per_request",
            "ratio_to_haproxy",
            "process_cpu_us_per_request",
        ],
    ),
    (
        "table",
        &[
            "case",
            "backends",
            "slots",
            "weights",
            "build_us_min",
            "build_us_p10",
            "build_us_median",
            "publish_us_min",
            "publish_us_p10",
            "publish_us_median",
            "bytes",
            "target_us",
        ],
    ),
    (
        "failover",
        &[
            "case",
            "services",
            "fault",
            "interval_ms",
            "system",
            "detection_ms_p50",
            "detection_ms_p99",
            "failover_ms_p50",
            "failover_ms_p99",
            "last_failed_ms_p50",
            "last_failed_ms_p99",
            "failed_requests_p50",
            "failed_requests_p99",
        ],
    ),
    (
        "scale",
        &[
            "case",
            "services",
            "backends",
            "health",
            "probes",
            "interval_ms",
            "start_ms",
            "start_cpu_ms",
            "own_mib",
            "maps_mib",
            "all_mib",
            "apply_nothing_ms",
            "sweep_loop_us",
            "sweep_read_us",
            "settle_loop_us",
        ],
    ),
];

pub(super) fn kind(name: &str, value: &Value) -> Kind {
    let is_note = matches!(name, "note" | "chosen" | "rounds" | "failures")
        || ["target", "bound"].iter().any(|part| name.contains(part));
    match value {
        _ if is_note => Kind::Note,
        Value::Number(_) if !IDENTITIES.contains(&name) => Kind::Figure(better(name)),
        _ => Kind::Identity,
    }
}

fn better(name: &str) -> Better {
    if name.contains("pps") || name.contains("_per_s") || name == "received" {
        Better::More
    } else if name.contains("ratio_to") {
        Better::Unknown
    } else {
        Better::Less
    }
}

/// Where a part's field belongs in a row.
pub(super) fn place(part: &str, name: &str) -> usize {
    let order = ORDER.iter().find(|(of, _)| *of == part).map_or(&[][..], |(_, order)| order);
    order.iter().position(|field| *field == name).unwrap_or(order.len())
}

/// Whether a part shows this field at a place of its own.
pub(super) fn is_named(part: &str, name: &str) -> bool {
    ORDER.iter().any(|(of, order)| *of == part && order.contains(&name))
}

/// A value as people read it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => grouped(whole),
            (None, Some(number)) => rounded(number),
            (None, None) => number.to_string(),
        },
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        other => other.to_string(),
    }
}

/// To three digits or so; noise is larger than the rest.
pub(super) fn rounded(number: f64) -> String {
    let sign = if number < 0.0 { "-" } else { "" };
    let size = number.abs();
    match size {
        _ if size >= 99.95 => format!("{sign}{}", grouped(size.round() as u64)),
        _ if size >= 9.995 => format!("{sign}{size:.1}"),
        _ if size >= 0.1 || size == 0.0 => format!("{sign}{size:.2}"),
        _ => format!("{sign}{size:.4}"),
    }
}

fn grouped(whole: u64) -> String {
    let digits = whole.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_read_well() {
        for (value, text) in [
            (json!(0), "0"),
            (json!(999), "999"),
            (json!(65_537), "65,537"),
            (json!(1_234_567.8), "1,234,568"),
            (json!(100.4), "100"),
            (json!(99.97), "100"),
            (json!(12.345), "12.3"),
            (json!(-1.234), "-1.23"),
            (json!(0.0123), "0.0123"),
            (json!(true), "yes"),
            (json!("dsr"), "dsr"),
        ] {
            assert_eq!(shown(&value), text, "{value}");
        }
    }

    #[test]
    fn kinds_follow_names() {
        for (name, value, expect) in [
            ("mode", json!("dsr"), Kind::Identity),
            ("flows", json!(1000), Kind::Identity),
            ("ns_min", json!(20.5), Kind::Figure(Better::Less)),
            ("pps_max", json!(1e6), Kind::Figure(Better::More)),
            ("requests_per_s", json!(1e4), Kind::Figure(Better::More)),
            ("ratio_to_bounce", json!(0.9), Kind::Figure(Better::Unknown)),
            ("target_us", json!(2000), Kind::Note),
        ] {
            assert_eq!(kind(name, &value), expect, "{name}");
        }
    }

    #[test]
    fn known_fields_come_first() {
        assert!(place("prog", "mode") < place("prog", "ns_min"));
        assert!(place("prog", "ratio") < place("prog", "new"));
        assert_eq!(place("unknown", "a"), place("unknown", "b"));
    }
}
