//! A set of HTTP status codes, written `200-299,301`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::malformed::Malformed;
use crate::config::value::parse_range;

/// Ranges within 100 to 599 in ascending order, none touching the next; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// `None` for a range that is no range of status codes.
    #[must_use]
    pub fn new(mut ranges: Vec<RangeInclusive<u16>>) -> Option<Self> {
        let valid = |range: &RangeInclusive<u16>| {
            range.start() <= range.end() && *range.start() >= 100 && *range.end() <= 599
        };
        if ranges.is_empty() || !ranges.iter().all(valid) {
            return None;
        }
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end() + 1 => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Some(Self(merged))
    }

    #[must_use]
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|range| range.contains(&code))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl FromStr for Statuses {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let hint = "write codes or ranges of codes, such as 204, \"200-399\" or \"200-299,301\"";
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let range = parse_range(part.trim(), true).ok_or_else(|| {
                Malformed::new(format!("'{}' is not an HTTP status", part.trim()), hint)
            })?;
            let hint = "codes are 100 to 599, the lower one first: \"200-399\"";
            Self::new(vec![range.clone()]).ok_or_else(|| {
                let message = format!("{} is no range of HTTP status codes", part.trim());
                Malformed::new(message, hint)
            })?;
            ranges.push(range);
        }
        Self::new(ranges).ok_or_else(|| Malformed::new("there is no HTTP status", hint))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Statuses {
    /// From its text, or from the one range that older versions stored.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("HTTP status codes")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Statuses, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Statuses, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                let range = RangeInclusive::<u16>::deserialize(map)?;
                Statuses::new(vec![range])
                    .ok_or_else(|| A::Error::custom("not a range of HTTP status codes"))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_have_one_form() {
        for (text, canonical) in [
            ("200", "200"),
            ("301,200-299", "200-299,301"),
            ("200-250, 251-299,260", "200-299"),
            ("599,100", "100,599"),
        ] {
            let set: Statuses = text.parse().unwrap();
            assert_eq!(set.to_string(), canonical);
            assert_eq!(set.to_string().parse(), Ok(set.clone()));
            let json = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<Statuses>(&json).unwrap(), set);
        }
        for bad in ["", ",", "200,", "99", "600", "299-200", "ok", "200-"] {
            assert!(bad.parse::<Statuses>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_older_versions_stored_is_read() {
        let old: Statuses = serde_json::from_str(r#"{"start": 200, "end": 299}"#).unwrap();
        assert_eq!(old.to_string(), "200-299");
        assert!(serde_json::from_str::<Statuses>(r#"{"start": 299, "end": 200}"#).is_err());
    }
}
