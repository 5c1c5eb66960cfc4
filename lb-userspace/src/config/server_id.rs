//! The id that a QUIC server puts into its connection ids, and by which its packets find it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::malformed::Malformed;

/// 1 to 8 bytes, written in hexadecimal: `0a0b0c0d`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerId {
    /// Zero beyond the length, so that equality is exact.
    bytes: [u8; Self::LONGEST],
    length: u8,
}

impl ServerId {
    /// The most bytes it can have.
    pub const LONGEST: usize = 8;

    /// An id of these bytes; `None` unless there are 1 to 8.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut id = Self { bytes: [0; Self::LONGEST], length: u8::try_from(bytes.len()).ok()? };
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        (!bytes.is_empty()).then_some(id)
    }

    /// Its bytes, in the order in which they are on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        // Never longer: `new` saw to it.
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }

    /// In bytes, 1 to 8.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ServerId {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for ServerId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let read = digits.filter(|digits| digits.len().is_multiple_of(2)).and_then(|digits| {
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            Self::new(&bytes)
        });
        read.ok_or_else(|| {
            Malformed::new(
                format!("'{}' is not a server id", text.escape_debug()),
                "write 1 to 8 bytes in hexadecimal, two digits each, such as 0a0b0c0d",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_written_or_refused() {
        for text in ["00", "0a0b0c0d", "0102030405060708"] {
            let id: ServerId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(usize::from(id.len()), id.as_bytes().len());
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(serde_json::from_str::<ServerId>(&json).unwrap(), id);
        }
        assert_eq!("0A".parse::<ServerId>().unwrap().as_bytes(), [10]);
        assert_ne!("00".parse::<ServerId>(), "0000".parse::<ServerId>(), "lengths differ");
        for bad in ["", "0", "0x0a", "0a 0b", "0g", "é0", "010203040506070809", "+a"] {
            let error = bad.parse::<ServerId>().unwrap_err();
            assert!(error.to_string().contains("0a0b0c0d"), "{bad}: {error}");
        }
    }
}
