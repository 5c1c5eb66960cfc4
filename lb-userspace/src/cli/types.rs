//! Arguments with a form of their own, checked before anything is asked of the daemon.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::config::model::{Address, Http, Probe};

/// `SERVICE/NAME`, a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    service: String,
    name: String,
}

/// `ADDRESS` or `ADDRESS:PORT`; a host name may stand for the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendSpec {
    pub(crate) address: Address,
    pub(crate) port: Option<u16>,
}

/// `tcp`, `none` or `http:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HealthSpec {
    None,
    Tcp,
    Http(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "write SERVICE/NAME, such as web/web-01; `lb backend list` shows them";
        let (service, name) = text.split_once('/').ok_or(wanted)?;
        for part in [service, name] {
            if !crate::config::is_name(part) {
                return Err(format!("'{}' can't be a name: {wanted}", part.escape_debug()));
            }
        }
        Ok(Self { service: service.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

impl FromStr for BackendSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self { address, port: None });
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self { address: socket.ip().into(), port: Some(socket.port()) });
        }
        let named = text.rsplit_once(':').and_then(|(name, port)| {
            let (address, port) = (name.parse().ok()?, port.parse().ok()?);
            matches!(address, Address::Name(_)).then_some(Self { address, port: Some(port) })
        });
        named.ok_or_else(|| {
            "write ADDRESS or ADDRESS:PORT, such as 10.0.0.11, 10.0.0.11:8080, [fd00::11]:8080 or \
             web-01.example:8080"
                .into()
        })
    }
}

impl FromStr for HealthSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("http:")) {
            ("none", _) => Ok(Self::None),
            ("tcp", _) => Ok(Self::Tcp),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::Http(path.to_owned())),
            _ => Err("write tcp, none, or http: and a path, such as http:/healthz".into()),
        }
    }
}

impl From<HealthSpec> for Probe {
    fn from(spec: HealthSpec) -> Self {
        match spec {
            HealthSpec::None => Self::None,
            HealthSpec::Tcp => Self::Tcp,
            HealthSpec::Http(path) => Self::Http(Http::get(path)),
        }
    }
}

/// A weight; 0 is what people try who want `drain`.
pub(crate) fn weight(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) => {
            Err("a weight is 1 to 1000; to send no new connections use `lb backend drain`".into())
        }
        Ok(weight @ 1..=1000) => Ok(weight),
        _ => Err("a weight is 1 to 1000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_or_refused() {
        assert_eq!("web/web-01".parse::<Target>().unwrap().to_string(), "web/web-01");
        for bad in
            ["web", "web/", "/x", "a/b/c", "web/../x", "Web/x", "web/%2f", "web/x y", "\u{1b}/x"]
        {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        for (text, port) in [
            ("10.0.0.1", None),
            ("10.0.0.1:80", Some(80)),
            ("fd00::1", None),
            ("[fd00::1]", None),
            ("[fd00::1]:80", Some(80)),
            ("web-01.example", None),
            ("web-01.example:80", Some(80)),
        ] {
            assert_eq!(text.parse::<BackendSpec>().unwrap().port, port, "{text}");
        }
        for bad in
            ["", "a_b", "10.0.0.1:", "10.0.0.1:x", "10.0.0.1:70000", "10.0.0.1/8", "fd00::1%eth0"]
        {
            assert!(bad.parse::<BackendSpec>().is_err(), "{bad}");
        }
        assert_eq!("http:/x".parse(), Ok(HealthSpec::Http("/x".into())));
        for bad in ["", "http", "http:x", "https:/x", "icmp"] {
            assert!(bad.parse::<HealthSpec>().is_err(), "{bad}");
        }
        assert!(weight("0").unwrap_err().contains("drain"));
        for bad in ["-1", "1001", "x", "", "1.5"] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
