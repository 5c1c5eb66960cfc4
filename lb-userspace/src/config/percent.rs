//! A share of something, in whole percent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::malformed::Malformed;

/// 0 to 100, written `50%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(u8);

impl Percent {
    pub const HALF: Self = Self(50);
    pub const ALL: Self = Self(100);

    /// `None` above 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }

    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl From<Percent> for String {
    fn from(percent: Percent) -> Self {
        percent.to_string()
    }
}

impl TryFrom<String> for Percent {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for Percent {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let digits = text.strip_suffix('%').map(str::trim_end);
        let is_number = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.filter(is_number).and_then(|text| text.parse().ok());
        number.and_then(Self::new).ok_or_else(|| {
            Malformed::new(
                format!("'{}' is not a share", text.escape_debug()),
                "write 0% to 100%, a whole number and a percent sign, such as \"50%\"",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_written_or_refused() {
        for (text, number) in [("0%", 0), ("50%", 50), ("100%", 100), ("7 %", 7)] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(percent.get(), number);
            assert_eq!(percent.to_string().parse::<Percent>().unwrap(), percent);
        }
        for bad in ["", "%", "50", "101%", "-1%", "+5%", "0.5%", "50%%", "é%"] {
            let error = bad.parse::<Percent>().unwrap_err();
            assert!(error.to_string().contains("0% to 100%"), "{bad}: {error}");
        }
    }
}
