//! `[[alert]]`: who is told of what.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::url::Url;
use crate::alert::{Kind, Severity, Template};

/// One target of alerts, and what it wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub target: Target,
    /// Empty: all kinds.
    pub events: Vec<Kind>,
    pub min_severity: Severity,
    /// For one attempt as a whole.
    pub timeout: Duration,
    /// Attempts after the first, 1 s, 2 s, 4 s, … apart.
    pub retries: u32,
    /// When an alert that still holds is told again.
    pub repeat: Duration,
    /// What comes within this time is one message.
    pub batch: Duration,
    /// The body, where it is not the default one.
    pub template: Option<Template>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// HTTP or HTTPS POST.
    Webhook {
        url: Url,
        /// A file of lines `Name: value`, read for each message; absolute.
        headers_file: Option<String>,
        /// A PEM file of the authorities that the server's certificate may be from, instead of the
        /// system's; absolute.
        ca_file: Option<String>,
    },
    /// A program and its arguments.
    Exec { command: Vec<String> },
}

impl Alert {
    /// With all defaults.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self {
            target,
            events: Vec::new(),
            min_severity: Severity::Warning,
            timeout: Duration::from_secs(5),
            retries: 5,
            repeat: Duration::from_secs(4 * 3600),
            batch: Duration::from_secs(1),
            template: None,
        }
    }
}

impl Target {
    /// As status and logs show it: a webhook's path may be a secret, so it is left out, and so are
    /// a program's arguments.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Webhook { url, .. } => url.shown(),
            Self::Exec { command } => {
                format!("exec {}", command.first().map_or("", String::as_str))
            }
        }
    }

    /// What tells it from all others, secrets included.
    #[must_use]
    pub fn identity(&self) -> String {
        match self {
            Self::Webhook { url, .. } => url.to_string(),
            Self::Exec { command } => command.join("\u{0}"),
        }
    }
}
