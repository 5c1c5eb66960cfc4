//! What can be wrong, by stable names: they are in configurations, messages and receivers' rules.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::one_of;

/// How bad it is; the last is the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As somebody asked for it: worth showing to who looks, not worth waking anybody.
    Info,
    Warning,
    /// Traffic is lost, or may be.
    Critical,
}

/// A kind of condition, in the order in which equally bad ones are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Panic,
    Coverage,
    BackendDown,
    NoNextHop,
    StaleName,
    NoProbe,
    Governor,
    CapacityLow,
    Flapping,
    Latency,
    Share,
    OverrideExpired,
    Override,
    GenericXdp,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Panic,
        Self::Coverage,
        Self::BackendDown,
        Self::NoNextHop,
        Self::StaleName,
        Self::NoProbe,
        Self::Governor,
        Self::CapacityLow,
        Self::Flapping,
        Self::Latency,
        Self::Share,
        Self::OverrideExpired,
        Self::Override,
        Self::GenericXdp,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Coverage => "coverage",
            Self::BackendDown => "backend-down",
            Self::NoNextHop => "no-next-hop",
            Self::StaleName => "stale-name",
            Self::NoProbe => "no-probe",
            Self::Governor => "governor",
            Self::CapacityLow => "capacity-low",
            Self::Flapping => "flapping",
            Self::Latency => "latency",
            Self::Share => "share",
            Self::OverrideExpired => "override-expired",
            Self::Override => "override",
            Self::GenericXdp => "generic-xdp",
        }
    }

    /// How long a condition must hold before anybody is told of it.
    #[must_use]
    pub const fn holds_for(self) -> Duration {
        match self {
            // A next hop that is being resolved again is back within a second or two; so may what a
            // probe needs.
            Self::NoNextHop | Self::NoProbe => Duration::from_secs(5),
            // One question that fails is often just that.
            Self::StaleName | Self::Latency | Self::Share => Duration::from_secs(30),
            _ => Duration::ZERO,
        }
    }

    /// Whether it follows from probes, and so is neither there nor over before they have spoken.
    #[must_use]
    pub const fn follows_from_probes(self) -> bool {
        matches!(
            self,
            Self::Panic
                | Self::BackendDown
                | Self::NoProbe
                | Self::Governor
                | Self::CapacityLow
                | Self::Flapping
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            // All of them: a list cut short would hide the one that is wanted.
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            match crate::config::closest(text, names.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("it can be {}", names.join(", ")),
            }
        })
    }
}

impl Severity {
    pub const ALL: [(&'static str, Self); 3] =
        [("info", Self::Info), ("warning", Self::Warning), ("critical", Self::Critical)];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, severity)| *severity)
            .ok_or_else(|| format!("it can be {}", one_of(Self::ALL.map(|(name, _)| name))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_text_and_json() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        for (name, severity) in Severity::ALL {
            assert_eq!((name.parse(), severity.name()), (Ok(severity), name));
            assert_eq!(serde_json::to_string(&severity).unwrap(), format!("\"{name}\""));
        }
        assert_eq!("backend-dwn".parse::<Kind>(), Err("did you mean \"backend-down\"?".into()));
        assert!("x".parse::<Kind>().unwrap_err().contains("backend-down"));
    }

    #[test]
    fn kinds_are_listed_in_their_order() {
        assert!(Kind::ALL.is_sorted());
    }
}
