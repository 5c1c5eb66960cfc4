//! Bytes as text: printable ASCII stands for itself, `\xNN` for any byte.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::malformed::Malformed;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(Vec<u8>);

impl Payload {
    /// What fits a datagram on every path.
    pub const LONGEST: usize = 1200;

    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Payload {
    type Err = Malformed;

    /// Characters beyond ASCII stand for their UTF-8.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\\') {
            bytes.extend(before.as_bytes());
            let (byte, length) = escape(after).ok_or_else(|| {
                let escape: String = after.chars().take(1).collect();
                Malformed::new(
                    format!("'\\{}' is no escape", escape.escape_debug()),
                    "write \\xNN for a byte, \\n, \\r, \\t or \\0, and \\\\ for a backslash; in single \
                     quotes, as TOML takes the backslash out of double ones",
                )
            })?;
            bytes.push(byte);
            rest = after.get(length..).unwrap_or_default();
        }
        bytes.extend(rest.as_bytes());
        Ok(Self(bytes))
    }
}

/// The byte that an escape stands for, and the length of what follows the backslash.
fn escape(after: &str) -> Option<(u8, usize)> {
    Some(match after.as_bytes().first()? {
        b'x' => {
            let digits =
                after.get(1..3).filter(|two| two.bytes().all(|b| b.is_ascii_hexdigit()))?;
            (u8::from_str_radix(digits, 16).ok()?, 3)
        }
        b'n' => (b'\n', 1),
        b'r' => (b'\r', 1),
        b't' => (b'\t', 1),
        b'0' => (0, 1),
        same @ (b'\\' | b'\'' | b'"') => (*same, 1),
        _ => return None,
    })
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_read_or_refused() {
        for (text, bytes) in [
            ("ping", &b"ping"[..]),
            (r"\xff\x00a\\n\n\0", &b"\xff\0a\\n\n\0"[..]),
            ("é", "é".as_bytes()),
            ("", b""),
        ] {
            assert_eq!(text.parse::<Payload>().unwrap().bytes(), bytes);
        }
        for bad in [r"\", r"\x", r"\x1", r"\xg0", r"\+1", r"\é", r"\x\x00", r"a\q"] {
            assert!(bad.parse::<Payload>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_written_and_read(bytes: Vec<u8>) {
            let payload = Payload::new(&bytes);
            prop_assert_eq!(payload.to_string().parse::<Payload>().unwrap(), payload);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = text.parse::<Payload>();
        }
    }
}
