//! A block of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address alone.
//!
//! Bits beyond the length are always zero, so that a block has one form and equality is exact.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::malformed::Malformed;

/// Addresses that begin with the same bits. Text with host bits set is refused.
///
/// Ordered by address, then the shorter length first: a block comes before what lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The first address of the block.
    pub address: IpAddr,
    /// Bits that are fixed: 0 to 32 for IPv4, 0 to 128 for IPv6.
    pub length: u8,
}

impl Prefix {
    /// The block of this length that `address` lies in; a length beyond the family's is the whole
    /// address.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits(address));
        let address = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask_v4(length)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask_v6(length)).into(),
        };
        Self { address, length }
    }

    /// One address alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: bits(address) }
    }

    /// Whether it is one address alone.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.length >= bits(self.address)
    }

    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address lies in it; never one of the other family.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4()
            && Self::around(address, self.length) == Self::around(self.address, self.length)
    }

    /// Whether the two have an address in common: then one lies in the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The last address of the block.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() | !mask_v4(self.length)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() | !mask_v6(self.length)).into(),
        }
    }
}

/// Bits of an address of this family.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

// A shift by the whole width, which length 0 asks for, is no shift to the processor.
fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(u32::from(32 - length.min(32))).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(u32::from(128 - length.min(128))).unwrap_or(0)
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self::host(address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.length)
        }
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl FromStr for Prefix {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let shown = text.escape_debug();
        let wanted = "write an address or a prefix, such as 10.0.0.11, 10.0.0.0/8 or \
                      2001:db8::/32; names are not resolved";
        let not_one = || Malformed::new(format!("'{shown}' is not an address or a prefix"), wanted);
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| not_one())?;
        let Some(length) = length else { return Ok(Self::host(address)) };
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_one());
        }
        let longest = bits(address);
        let Some(length) = length.parse().ok().filter(|length| *length <= longest) else {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("'{shown}' is longer than an {family} address");
            return Err(Malformed::new(message, format!("write a length of 0 to {longest}")));
        };
        let prefix = Self::around(address, length);
        if prefix.address != address {
            let message = format!("'{shown}' has bits set beyond its length");
            let hint = format!("did you mean {prefix}? One address alone is {address}");
            return Err(Malformed::new(message, hint));
        }
        Ok(prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn text_is_read_as_written_or_refused() {
        for text in ["10.0.0.0/8", "10.0.0.11", "0.0.0.0/0", "2001:db8::/32", "::/0", "fd00::1"] {
            assert_eq!(read(text).to_string(), text);
        }
        assert_eq!(read("10.0.0.1/32"), Prefix::host([10, 0, 0, 1].into()));
        assert_eq!(read("fd00::1/128").to_string(), "fd00::1");
        for (text, message, hint) in [
            ("10.0.0.1/8", "bits set beyond", "did you mean 10.0.0.0/8?"),
            ("2001:db8::1/64", "bits set beyond", "did you mean 2001:db8::/64?"),
            ("10.0.0.0/33", "longer than an IPv4", "0 to 32"),
            ("::/129", "longer than an IPv6", "0 to 128"),
            ("10.0.0.0/999999", "longer than", "0 to 32"),
            ("10.0.0.0/", "not an address or a prefix", "10.0.0.0/8"),
            ("10.0.0.0/+8", "not an address or a prefix", "10.0.0.0/8"),
            ("10.0.0.0/8/8", "not an address or a prefix", "10.0.0.0/8"),
            ("10.0.0.0/255.0.0.0", "not an address or a prefix", "10.0.0.0/8"),
            ("example.org", "not an address or a prefix", "not resolved"),
            ("", "not an address or a prefix", "10.0.0.0/8"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err();
            assert!(error.message.contains(message) && error.hint.contains(hint), "{error}");
        }
    }

    #[test]
    fn holds_what_begins_with_its_bits() {
        let ten = read("10.0.0.0/8");
        assert!(ten.contains([10, 255, 0, 1].into()) && !ten.contains([11, 0, 0, 1].into()));
        assert!(!ten.contains("::ffff:10.0.0.1".parse().unwrap()), "of the other family");
        assert!(read("::/0").contains("2001:db8::1".parse().unwrap()));
        assert!(!read("::/0").contains([10, 0, 0, 1].into()));
        assert_eq!(ten.last(), IpAddr::from([10, 255, 255, 255]));
        assert!(ten.overlaps(&read("10.1.0.0/16")) && read("10.1.0.0/16").overlaps(&ten));
        assert!(!ten.overlaps(&read("11.0.0.0/8")) && !ten.overlaps(&read("::/0")));
        assert!(ten < read("10.0.0.0/16"), "a block comes before what lies in it");
    }

    proptest! {
        #[test]
        fn every_prefix_survives_text_and_json(v4 in any::<u32>(), v6 in any::<u128>(), length in 0..=128u8) {
            for address in [Ipv4Addr::from(v4).into(), IpAddr::from(Ipv6Addr::from(v6))] {
                let prefix = Prefix::around(address, length);
                prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
                let json = serde_json::to_string(&prefix).unwrap();
                prop_assert_eq!(serde_json::from_str::<Prefix>(&json).unwrap(), prefix);
                prop_assert!(prefix.contains(address) && prefix.contains(prefix.last()));
                prop_assert_eq!(prefix.is_host(), prefix.address == prefix.last());
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*", near in "[0-9a-f:./]{0,20}") {
            let _ = text.parse::<Prefix>();
            let _ = near.parse::<Prefix>();
        }
    }
}
