//! The program on the node's interfaces, from the first to the last packet.

use anyhow::Result;

use super::probe_way::ProbeWay;
use crate::config::Config;
use crate::config::model::XdpPolicy;
use crate::dataplane::attach::Attached;
use crate::dataplane::load::Loaded;
use crate::{net, report};

/// The program, and where it runs.
pub(super) struct Plane {
    loaded: Loaded,
    attached: Vec<Attached>,
    way: ProbeWay,
}

impl Plane {
    /// Attaches the program to all interfaces, or to none.
    pub(super) fn attach(
        mut loaded: Loaded,
        links: &[net::Link],
        xdp: XdpPolicy,
        way: ProbeWay,
    ) -> Result<Self> {
        let mut attached = Vec::new();
        for link in links {
            let interface = Attached::new(loaded.program()?, &link.name, link.ifindex, xdp)?;
            tracing::info!(interface = %link.name, mode = %interface.mode, "attached");
            // Only now: some drivers transmit frames of other interfaces only while they run
            // a program.
            loaded.maps.devices.set(&interface.index, [interface.index, 0])?;
            attached.push(interface);
        }
        Ok(Self { loaded, attached, way })
    }

    /// The interfaces, as reports show them.
    pub(super) fn interfaces(&self) -> Vec<report::Interface> {
        let interfaces = self.attached.iter().map(|a| report::Interface {
            name: a.interface.clone(),
            index: a.index,
            xdp: a.mode.to_string(),
        });
        interfaces.collect()
    }

    /// Instructions of the program that the verifier followed.
    pub(super) fn instructions(&self) -> Option<u32> {
        self.loaded.verified_instructions
    }

    /// The features of the program.
    pub(super) fn features(&self) -> u32 {
        self.loaded.features()
    }

    /// Makes sure that the program has these features: see [`Loaded::widen`].
    pub(super) async fn widen(&mut self, features: u32) -> Result<()> {
        self.loaded.widen(features, &self.attached).await
    }

    /// Has probes take the way of clients' packets, if a service wants that: see [`ProbeWay::open`].
    pub(super) fn lead_probes(&mut self, config: &Config) -> Result<()> {
        self.way.open(config)
    }

    /// Leaves the interfaces as they were.
    pub(super) async fn detach(self) -> Result<()> {
        let Self { loaded, attached, way } = self;
        let closed = way.close().await;
        let remove = |interface: Attached| loaded.maps.devices.remove(&interface.index);
        attached.into_iter().map(remove).fold(closed, Result::and)
    }
}
