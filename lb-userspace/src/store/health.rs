//! What probes had found when the daemon ended: a restart is no reason to send traffic to the dead.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::side_file::{Kept, SideFile};
use crate::control::health::{Failure, FailureKind};

/// A backend that is down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    pub service: String,
    pub backend: String,
    /// Another server under the same name is not known to be down.
    pub address: IpAddr,
    /// Milliseconds since the epoch.
    pub since_ms: u64,
    /// Nothing usable answered at all.
    pub is_hard: bool,
    /// Its last failing probe.
    pub failure: Option<String>,
}

impl Down {
    /// The failure it stands for.
    #[must_use]
    pub fn last_failure(&self) -> Option<Failure> {
        let kind = if self.is_hard { FailureKind::Timeout } else { FailureKind::Protocol };
        self.failure.clone().map(|text| Failure { kind, text })
    }
}

/// The file.
pub type HealthFile = SideFile<Down>;

impl Kept for Down {
    const FILE: &'static str = "health.json";
    const VERSION: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(backend: &str) -> Down {
        Down {
            service: "web".into(),
            backend: backend.into(),
            address: [10, 0, 0, 11].into(),
            since_ms: 7,
            is_hard: true,
            failure: Some("refused: connection refused on 10.0.0.11:80".into()),
        }
    }

    #[test]
    fn who_is_down_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let (mut file, none) = HealthFile::open(directory.path());
        assert_eq!(none, []);
        file.write(vec![down("a"), down("b")]).unwrap();
        assert_eq!(HealthFile::open(directory.path()).1, [down("a"), down("b")]);
        file.write(vec![]).unwrap();
        assert_eq!(HealthFile::open(directory.path()).1, []);
    }

    /// Version 0.1.0 had another name for the list.
    #[test]
    fn a_file_of_version_0_1_0_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let list = serde_json::to_string(&[down("a")]).unwrap();
        let text = format!(r#"{{"version":1,"down":{list}}}"#);
        std::fs::write(directory.path().join("health.json"), text).unwrap();
        assert_eq!(HealthFile::open(directory.path()).1, [down("a")]);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["{", "{}", r#"{"version":2,"down":[]}"#, "\u{0}", ""] {
            std::fs::write(directory.path().join("health.json"), content).unwrap();
            assert_eq!(HealthFile::open(directory.path()).1, [], "{content}");
        }
    }
}
