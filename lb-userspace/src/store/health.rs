//! What probes had found when the daemon ended: a restart is no reason to send traffic to the dead.
//!
//! A file of its own beside the state, written whenever who is down changes: what is lost of it, by
//! a crash of the machine, probes find again. So it is not synced.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::control::health::{Failure, FailureKind};

/// Raised when the file's shape changes; one of another version is not read.
const VERSION: u32 = 1;

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

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    down: Vec<Down>,
}

/// The file.
#[derive(Debug)]
pub struct HealthFile {
    path: PathBuf,
    written: Vec<Down>,
}

impl HealthFile {
    /// The file of a state directory, and who was down by it. One that cannot be read says nothing.
    #[must_use]
    pub fn open(directory: &Path) -> (Self, Vec<Down>) {
        let path = directory.join("health.json");
        let read = std::fs::read(&path).ok();
        let contents = read.and_then(|text| serde_json::from_slice::<Contents>(&text).ok());
        let down = contents.filter(|c| c.version == VERSION).map(|c| c.down).unwrap_or_default();
        (Self { path, written: down.clone() }, down)
    }

    /// Replaces what it says, if that is not what it says.
    pub fn write(&mut self, down: Vec<Down>) -> Result<()> {
        if down == self.written {
            return Ok(());
        }
        let write = |down: Vec<Down>| -> Result<Vec<Down>> {
            let mut file =
                tempfile::NamedTempFile::new_in(self.path.parent().unwrap_or(Path::new(".")))?;
            let contents = Contents { version: VERSION, down };
            file.write_all(&serde_json::to_vec(&contents)?)?;
            file.persist(&self.path)?;
            Ok(contents.down)
        };
        self.written =
            write(down).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }
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

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for content in ["{", "{}", r#"{"version":2,"down":[]}"#, "\u{0}", ""] {
            std::fs::write(directory.path().join("health.json"), content).unwrap();
            assert_eq!(HealthFile::open(directory.path()).1, [], "{content}");
        }
    }
}
