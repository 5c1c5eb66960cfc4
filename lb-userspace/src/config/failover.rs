//! The policy of a service when its backends fail.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::percent::Percent;

/// How many failing backends may be taken out, what becomes of their connections, and who stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failover {
    /// Of the backends that are ready, how many may be out at once because they fail.
    pub max_removed: Percent,
    /// The same within `window`.
    pub max_removed_in_window: Percent,
    pub window: Duration,
    /// What becomes of the connections of a backend that no longer answers.
    pub on_down: OnDown,
    /// Backups serve while less than this share of the other backends' weight is well.
    pub backup_below: Percent,
    /// How long enough must have been well before backups go back into reserve.
    pub backup_return: Duration,
}

/// What becomes of the connections of a backend that no longer answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// Their packets go to other backends, which reset them.
    #[default]
    Rehash,
    /// They stay with it, in case it comes back; new ones go elsewhere.
    Keep,
    /// Their clients get a reset with their next packet: in `nat` from the balancer itself, which knows
    /// whose they are; otherwise as by `Rehash`.
    Reset,
}

/// How a backend that returns grows to its full share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ramp {
    /// By the same amount in each second.
    #[default]
    Linear,
    /// By the same factor in each second.
    Exponential,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            max_removed: Percent::HALF,
            max_removed_in_window: Percent::HALF,
            window: Duration::from_secs(10),
            on_down: OnDown::default(),
            backup_below: Percent::HALF,
            backup_return: Duration::from_secs(10),
        }
    }
}

impl fmt::Display for OnDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rehash => "rehash",
            Self::Keep => "keep",
            Self::Reset => "reset",
        })
    }
}

impl fmt::Display for Ramp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Exponential => "exponential",
        })
    }
}
