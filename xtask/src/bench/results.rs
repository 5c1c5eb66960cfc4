//! Results: one JSON object in a line each, as the parts print them and files keep them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::machine;

/// One result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) part: String,
    /// All but `part`; what is nested in a field has the names of both, joined by `_`.
    pub(super) fields: BTreeMap<String, Value>,
    /// As it came.
    pub(super) text: String,
}

impl Line {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("it is no JSON")?;
        Self::of(&value, text)
    }

    fn of(value: &Value, text: &str) -> Result<Self> {
        let Value::Object(object) = value else { bail!("it is no JSON object") };
        let mut fields = BTreeMap::new();
        for (name, value) in object {
            flatten(name.clone(), value, &mut fields);
        }
        let part = fields.remove("part");
        let part = part.as_ref().and_then(Value::as_str).context("it names no part")?.to_owned();
        Ok(Self { part, fields, text: text.trim().to_owned() })
    }

    pub(super) fn number(&self, field: &str) -> Option<f64> {
        self.fields.get(field)?.as_f64()
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }
}

impl TryFrom<Value> for Line {
    type Error = anyhow::Error;

    fn try_from(value: Value) -> Result<Self> {
        Self::of(&value, &value.to_string())
    }
}

fn flatten(name: String, value: &Value, fields: &mut BTreeMap<String, Value>) {
    match value {
        // As good as not there.
        Value::Null => {}
        Value::Object(object) => {
            for (inner, value) in object {
                flatten(format!("{name}_{inner}"), value, fields);
            }
        }
        value => {
            fields.insert(name, value.clone());
        }
    }
}

pub(super) fn read(file: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            Line::parse(line).with_context(|| {
                format!("{}, line {}, is no result of a benchmark", file.display(), at + 1)
            })
        })
        .collect()
}

/// The parts there are results of, in their order.
pub(super) fn parts(lines: &[Line]) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for line in lines.iter().filter(|line| line.part != machine::PART) {
        if !parts.contains(&line.part.as_str()) {
            parts.push(&line.part);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_figures_become_fields() {
        let line =
            r#"{"part": "table", "build_us": {"min": 1.5, "p10": 2}, "case": "a", "x": null}"#;
        let line = Line::parse(line).unwrap();
        assert_eq!(line.part, "table");
        assert_eq!(
            line.fields.keys().collect::<Vec<_>>(),
            ["build_us_min", "build_us_p10", "case"]
        );
        assert_eq!((line.number("build_us_min"), line.text("case")), (Some(1.5), Some("a")));
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for text in ["", "hello", "[1]", "{}", r#"{"part": 1}"#] {
            assert!(Line::parse(text).is_err(), "{text}");
        }
    }
}
