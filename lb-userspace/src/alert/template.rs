//! A body of the user's own: text with `{{placeholders}}`, each filled in as part of a JSON string.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::message::Body;
use crate::config::Malformed;

/// A template that makes JSON, whatever is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// The longest template read.
const LONGEST: usize = 16 << 10;

impl Template {
    /// Fills it in; `field` says what a placeholder stands for.
    #[must_use]
    pub fn fill(&self, field: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        for part in parts(&self.0) {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(name) => out.push_str(&escaped(&field(name))),
                Part::Open(text) => out.push_str(text),
            }
        }
        out
    }

    /// Reads one, and checks that it makes JSON.
    pub fn read(text: &str) -> Result<Self, Malformed> {
        if text.len() > LONGEST {
            let message = format!("the template has {} bytes", text.len());
            return Err(Malformed { message, hint: format!("use at most {LONGEST}") });
        }
        let known = || Body::FIELDS.map(|name| format!("{{{{{name}}}}}")).join(", ");
        for part in parts(text) {
            let (message, hint) = match part {
                Part::Field(name) if !Body::FIELDS.contains(&name) => (
                    format!("there is no placeholder {{{{{}}}}}", name.escape_debug()),
                    format!("placeholders are {}", known()),
                ),
                Part::Open(_) => (
                    "a placeholder is not closed".to_owned(),
                    format!("close it with }}}}; placeholders are {}", known()),
                ),
                Part::Field(_) | Part::Text(_) => continue,
            };
            return Err(Malformed { message, hint });
        }
        let template = Self(text.to_owned());
        // Text with everything in it that must be escaped.
        let filled = template.fill(|_| "a \"b\" \\ \n 1".into());
        match serde_json::from_str::<serde_json::Value>(&filled) {
            Ok(_) => Ok(template),
            Err(error) => Err(Malformed {
                message: format!("the template makes no JSON: {error}"),
                hint: "write JSON with placeholders inside of its strings, such as \
                       '{\"text\": \"{{message}}\"}'"
                    .into(),
            }),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

enum Part<'a> {
    Text(&'a str),
    /// The name within the braces.
    Field(&'a str),
    /// Braces that are not closed, and what follows.
    Open(&'a str),
}

fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(open) = rest.find("{{") else {
            return Some(Part::Text(std::mem::take(&mut rest)));
        };
        if open > 0 {
            let (before, after) = rest.split_at(open);
            rest = after;
            return Some(Part::Text(before));
        }
        let Some(close) = rest.find("}}") else {
            return Some(Part::Open(std::mem::take(&mut rest)));
        };
        let name = rest[2..close].trim();
        rest = &rest[close + 2..];
        Some(Part::Field(name))
    })
}

/// As part of a JSON string, without its quotes.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_makes_json_or_is_refused() {
        for (text, error) in [
            (r#"{"text": "{{message}}"}"#, None),
            (r#"{"text": "{{ title }}: {{message}}", "n": "{{count}}"}"#, None),
            (r#"{"count": {{sent_ms}}}"#, Some("makes no JSON")),
            (r#"{"text": "{{mesage}}"}"#, Some("no placeholder {{mesage}}")),
            (r#"{"text": "{{message"}"#, Some("not closed")),
            (r#"{"text": "{{message}}""#, Some("makes no JSON")),
            ("", Some("makes no JSON")),
        ] {
            let said = Template::read(text).err().map(|error| error.message);
            match (said, error) {
                (None, None) => {}
                (Some(said), Some(error)) => assert!(said.contains(error), "{text}: {said}"),
                (said, _) => panic!("{text}: {said:?}"),
            }
        }
        assert!(Template::read(&format!("\"{}\"", "x".repeat(LONGEST))).is_err());
    }

    proptest! {
        #[test]
        fn what_is_filled_in_is_read_as_it_was(text in any::<String>()) {
            let template = Template::read(r#"{"text": "<{{message}}>"}"#).unwrap();
            let filled = template.fill(|_| text.clone());
            let read: serde_json::Value = serde_json::from_str(&filled).unwrap();
            prop_assert_eq!(read["text"].as_str().unwrap(), format!("<{text}>"));
        }
    }
}
