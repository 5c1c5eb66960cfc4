//! The ways in which a backend fails, each caused and undone by one call.

use std::time::Instant;

use anyhow::Result;

use crate::lab::Lab;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`: the server's kernel refuses.
    Killed,
    /// The cable is out: silence, and no neighbour.
    LinkDown,
    /// Packets are dropped on the way in, as by a firewall: silence, but the neighbour is there.
    Dropped,
    /// The kernel accepts, and nobody answers.
    Frozen,
    /// `/healthz` answers 500, all else as before.
    Status500,
}

impl Fault {
    pub const ALL: [Self; 5] =
        [Self::Killed, Self::LinkDown, Self::Dropped, Self::Frozen, Self::Status500];

    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::LinkDown => "link down",
            Self::Dropped => "dropped",
            Self::Frozen => "frozen",
            Self::Status500 => "HTTP 500",
        }
    }

    /// Whether clients of the backend suffer, and not only probes.
    pub fn hurts_clients(self) -> bool {
        self != Self::Status500
    }

    /// Returns the last moment at which all was well.
    pub fn cause(self, lab: &Lab, backend: u8) -> Result<Instant> {
        let nginx = &lab.backend(backend.into())?.nginx;
        let well = Instant::now();
        match self {
            Self::Killed => nginx.kill(),
            Self::LinkDown => lab.link_down(backend),
            Self::Dropped => lab.drop_silently(backend),
            Self::Frozen => nginx.freeze(),
            Self::Status500 => nginx.sicken(),
        }?;
        Ok(well)
    }

    /// Returns when the backend could serve again.
    pub fn heal(self, lab: &Lab, backend: u8) -> Result<()> {
        let nginx = &lab.backend(backend.into())?.nginx;
        match self {
            Self::Killed => nginx.start(),
            Self::LinkDown => lab.link_up(backend),
            Self::Dropped => lab.drop_nothing(backend),
            Self::Frozen => nginx.thaw(),
            Self::Status500 => nginx.heal(),
        }
    }
}
