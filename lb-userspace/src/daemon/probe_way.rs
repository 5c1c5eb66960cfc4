//! The programs that lead probes along the way of clients' packets: on the interfaces from the moment
//! that a service needs them.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::config::Config;
use crate::config::model::{Service, Via};
use crate::control::service::is_probed;
use crate::dataplane::probe_path::{Means, ProbePath, Programs};
use crate::net;

/// The way, and the programs if they run.
pub(super) struct ProbeWay {
    path: Arc<ProbePath>,
    links: Vec<net::Link>,
    programs: Option<Programs>,
}

impl ProbeWay {
    /// Not open yet.
    pub(super) fn new(path: Arc<ProbePath>, links: &[net::Link]) -> Self {
        Self { path, links: links.to_vec(), programs: None }
    }

    /// Opens the way if a service of this configuration is to be probed by it.
    ///
    /// Where the kernel has no place for the programs, this fails if `via = "vip"` is written
    /// somewhere. Where it is a default alone, probes go to backends' own addresses, with a warning:
    /// that is better than no balancer.
    pub(super) fn open(&mut self, config: &Config) -> Result<()> {
        let by_way = |s: &&Arc<Service>| is_probed(s) && s.probed_via() == Via::Vip;
        let mut services = config.services.iter().filter(by_way).peekable();
        if self.programs.is_some() || services.peek().is_none() {
            return Ok(());
        }
        match self.attach() {
            Ok(programs) => {
                self.programs = Some(programs);
                Ok(())
            }
            Err(error) => match services.find(|s| s.health.via.is_some()) {
                Some(service) => Err(error).with_context(|| {
                    format!("service {}: health.via = \"vip\" cannot be had here", service.name)
                }),
                None => {
                    tracing::warn!(
                        reason = format!("{error:#}"),
                        "probes go to backends' own addresses: a backend that lacks the VIP or the \
                         tunnel looks healthy"
                    );
                    Ok(())
                }
            },
        }
    }

    fn attach(&self) -> Result<Programs> {
        let mut programs = Programs::load(&self.path.settings())?;
        let means = programs.attach(&self.links)?;
        programs.open(&self.path);
        tracing::info!(
            instructions = programs.verified_instructions,
            by = if means == Means::Links { "links" } else { "filters" },
            "probes take the way of clients' packets"
        );
        Ok(programs)
    }

    /// Leaves the interfaces as they were.
    pub(super) async fn close(self) -> Result<()> {
        match self.programs {
            Some(programs) => programs.detach().await,
            None => Ok(()),
        }
    }
}
