//! The URL of a webhook: `http` or `https`, a host, and where on it.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::malformed::Malformed;

const LONGEST: usize = 2048;

/// Where a webhook is; valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    /// As it was written.
    text: String,
    pub https: bool,
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// Host, and port if it isn't the scheme's own, as in a URL and in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let own = if self.https { 443 } else { 80 };
        if self.port == own { host } else { format!("{host}:{}", self.port) }
    }

    /// Without what may be a secret: path and query.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        let path = if self.path == "/" { "/" } else { "/…" };
        format!("{scheme}://{}{path}", self.authority())
    }
}

impl FromStr for Url {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let example = "write one such as \"https://hooks.example.org/lb\"";
        if text.len() > LONGEST {
            return Err(Malformed::new(format!("the URL has {} bytes", text.len()), example));
        }
        // The library takes bytes that no header may have.
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains('#');
        let read = || -> Option<Self> {
            let uri: Uri = text.parse().ok().filter(|_| is_plain)?;
            let https = match uri.scheme_str()? {
                "https" => true,
                "http" => false,
                _ => return None,
            };
            let host = uri.host()?;
            let port = match uri.authority()?.as_str().strip_prefix(host)? {
                "" if https => 443,
                "" => 80,
                port => port.strip_prefix(':')?.parse().ok().filter(|port| *port > 0)?,
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let path = if path.starts_with('/') { path.into() } else { format!("/{path}") };
            (!host.is_empty()).then(|| Self {
                text: text.into(),
                https,
                host: host.into(),
                port,
                path,
            })
        };
        read().ok_or_else(|| {
            let hint = match text.contains('@') {
                true => "put user and password into the header Authorization: `headers_file`",
                false => example,
            };
            Malformed::new(format!("'{}' is not a webhook's URL", text.escape_debug()), hint)
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, https, host, port, path, shown) in [
            ("https://h.example/a?b=c", true, "h.example", 443, "/a?b=c", "https://h.example/…"),
            ("http://10.0.0.1:8080", false, "10.0.0.1", 8080, "/", "http://10.0.0.1:8080/"),
            ("http://[fd00::1]:81/x", false, "fd00::1", 81, "/x", "http://[fd00::1]:81/…"),
            ("https://h?token=1", true, "h", 443, "/?token=1", "https://h/…"),
            ("https://h:443/", true, "h", 443, "/", "https://h/"),
        ] {
            let url: Url = text.parse().unwrap();
            let found = (url.https, url.host.as_str(), url.port, url.path.as_str());
            assert_eq!(found, (https, host, port, path), "{text}");
            assert_eq!((url.to_string().as_str(), url.shown().as_str()), (text, shown));
        }
        for bad in [
            "",
            "/x",
            "h.example/x",
            "ftp://h/x",
            "http://",
            "http://h:0/",
            "http://h:99999/",
            "http://h/ä",
            "http://h/a b",
            "http://h/a#b",
            "http://u:p@h/",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad}");
        }
        assert!(format!("http://h/{}", "a".repeat(LONGEST)).parse::<Url>().is_err());
    }
}
