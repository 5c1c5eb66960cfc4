//! Where a backend is, as written: an address, or a host name whose address is followed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::malformed::Malformed;

/// A host name: letters, digits and hyphens in labels of 1 to 63, at most 253 in all (RFC 1123
/// section 2.1). Lower case, without a final dot; so two that mean the same are equal. The last
/// label is not a number: that is an address, and a wrong one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// What the DNS is asked: a name's addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lookup {
    pub host: HostName,
    pub family: Family,
}

/// Where a backend is, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Location<'a> {
    At(IpAddr),
    /// Its name has no address yet.
    Named(&'a HostName, Family),
}

/// What `address` of a backend says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Ip(IpAddr),
    Name(HostName),
}

/// Characters of a name, of a label.
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

impl HostName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bad = |what: String, hint: &str| Err(Malformed::new(what, hint));
        let bare = text.strip_suffix('.').unwrap_or(text);
        let shown = text.escape_debug();
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if bare.len() > LONGEST {
            let hint = "the DNS has no longer names";
            return bad(format!("a name of {} characters; at most 253 can be", bare.len()), hint);
        }
        if !bare.chars().all(|c| sound(c) || c == '.') {
            let hint = "a host name has letters, digits, hyphens and dots (RFC 1123)";
            return bad(format!("'{shown}' is neither an address nor a host name"), hint);
        }
        for label in bare.split('.') {
            if label.is_empty() || label.len() > LONGEST_LABEL {
                let hint = "between its dots a host name has 1 to 63 characters (RFC 1123)";
                return bad(format!("'{shown}' is no host name"), hint);
            }
            if label.starts_with('-') || label.ends_with('-') {
                let hint = "no part of a host name begins or ends with a hyphen (RFC 1123)";
                return bad(format!("'{shown}' is no host name"), hint);
            }
        }
        let last = bare.rsplit('.').next().unwrap_or(bare);
        if last.chars().all(|c| c.is_ascii_digit()) {
            let hint = "write an address such as 10.0.0.11, or a host name";
            return bad(format!("'{shown}' is not an IP address"), hint);
        }
        Ok(Self(bare.to_ascii_lowercase()))
    }
}

impl FromStr for Address {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let port = |(host, port): (&str, &str)| !host.contains(':') && port.parse::<u16>().is_ok();
        if text.parse::<SocketAddr>().is_ok() || text.rsplit_once(':').is_some_and(port) {
            let hint = "write the address alone; a port has its own key, port = 8080";
            return Err(Malformed::new(format!("'{text}' has a port in it"), hint));
        }
        text.parse().map(Self::Name)
    }
}

impl Family {
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }

    /// The address that stands for none.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl FromStr for Family {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => {
                let what = format!("'{}' is no family of addresses", text.escape_debug());
                Err(Malformed::new(what, "write \"ipv4\" or \"ipv6\""))
            }
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Named(name, _) => name.fmt(f),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl TryFrom<String> for HostName {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for Address {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for (text, expect) in [
            ("10.0.0.11", "10.0.0.11"),
            ("fd00::11", "fd00::11"),
            ("web-01", "web-01"),
            ("Web-01.Internal.Example.", "web-01.internal.example"),
            ("1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"),
            ("3com.example", "3com.example"),
            (&format!("{}.example", "a".repeat(63)), &format!("{}.example", "a".repeat(63))),
        ] {
            let read: Address = text.parse().unwrap();
            assert_eq!(read.to_string(), expect, "{text}");
            assert_eq!(matches!(read, Address::Ip(_)), expect.parse::<IpAddr>().is_ok(), "{text}");
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_what_to_do() {
        let long = format!("{}.example", "a.".repeat(124));
        for (text, message, hint) in [
            ("", "no host name", "1 to 63"),
            (".", "no host name", "1 to 63"),
            ("web..example", "no host name", "1 to 63"),
            (&format!("{}.example", "a".repeat(64)), "no host name", "1 to 63"),
            (&long, "at most 253", "no longer"),
            ("-web.example", "no host name", "hyphen"),
            ("web-.example", "no host name", "hyphen"),
            ("web_01.example", "neither an address nor a host name", "letters, digits"),
            ("web 01", "neither", "letters"),
            ("wéb.example", "neither", "letters"),
            ("10.0.0.256", "not an IP address", "10.0.0.11"),
            ("10.0.0", "not an IP address", "10.0.0.11"),
            ("10.0.0.11:80", "has a port in it", "port = 8080"),
            ("web-01.example:80", "has a port in it", "port = 8080"),
            ("[fd00::1]:80", "has a port in it", "port = 8080"),
            ("10.0.0.0/8", "neither", "letters"),
            ("fd00::g", "neither", "letters"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.message.contains(message) && error.hint.contains(hint), "{error:?}");
        }
        assert_eq!("ipv6".parse(), Ok(Family::Ipv6));
        assert!("v4".parse::<Family>().unwrap_err().hint.contains("ipv4"));
    }
}
