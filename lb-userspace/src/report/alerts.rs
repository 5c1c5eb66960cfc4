//! What `lb alerts` and `lb alerts test` answer.

use serde::{Deserialize, Serialize};

use super::Warning;

/// What is wrong now, and who was told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alerts {
    /// Worst first.
    pub alerts: Vec<AlertState>,
    /// How many more there are, which there is no room to follow: nobody is told of them.
    pub left_out: u64,
    pub targets: Vec<AlertTarget>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertState {
    /// Its `since_ms` is always known here.
    #[serde(flatten)]
    pub condition: Warning,
    /// Names of the targets that were told of it.
    pub notified: Vec<String>,
}

/// A target of alerts, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertTarget {
    pub name: String,
    /// Messages that it took, since the start.
    pub sent: u64,
    /// Messages given up after all retries, since the start. What they said is tried again.
    pub failed: u64,
    /// Alerts that wait to be told, or told anew.
    pub waiting: u64,
    /// When it last took a message, since the epoch.
    pub last_sent_ms: Option<u64>,
    /// Why the last attempt failed, until one succeeds.
    pub last_error: Option<String>,
}

/// What became of a test message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertTest {
    pub target: String,
    /// Why it failed; `None` if it arrived.
    pub error: Option<String>,
    pub took_ms: u64,
}
