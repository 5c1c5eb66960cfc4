//! The tc programs that lead probes along a client's way: loaded, on the interfaces, and off again.
//!
//! Since kernel 6.6 by a link (TCX), which goes with the process however that ends. Before that as
//! filters of a `clsact` queueing discipline, which stay when the process is killed: such a filter
//! finds no probe, and the next start takes it off.

use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::maps::Map;
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{ProbeEntry, Settings, map};

use super::super::entries::Entries;
use super::super::object::{raise_memory_limit, verifier_said};
use super::ProbePath;
use crate::net;

/// The programs, compiled for the kernel when this crate was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-path"));

/// Probes that can be in flight: no more sockets have a port of their own.
const ROOM: u32 = 1 << 16;

/// The programs' places on an interface.
const PLACES: [TcAttachType; 2] = [TcAttachType::Egress, TcAttachType::Ingress];

/// The programs, which are off all interfaces when this is dropped.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    probes: Option<Entries<u32, ProbeEntry>>,
    /// Interfaces that got a `clsact` from us.
    clsact: Vec<u32>,
    /// Instructions that the verifier followed, of both programs together.
    pub verified_instructions: Option<u32>,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By a link: TCX.
    Links,
    /// As filters of a `clsact`.
    Filters,
}

impl Programs {
    /// Loads the programs, for a balancer with these settings.
    pub fn load(settings: &Settings) -> Result<Self> {
        raise_memory_limit();
        let mut ebpf = EbpfLoader::new()
            .override_global("SEED", &settings.seed, true)
            .override_global("GUE_PORT", &settings.gue_port, true)
            .map_max_entries(map::PROBES, ROOM)
            .load(OBJECT)
            .context("the kernel refused the maps of the probes' programs")?;
        let mut verified_instructions = Some(0);
        for place in PLACES {
            let program = classifier(&mut ebpf, place)?;
            program.load().map_err(verifier_said)?;
            let count = program.info().ok().and_then(|info| info.verified_instruction_count());
            verified_instructions = verified_instructions.zip(count).map(|(a, b)| a + b);
        }
        // Only now: aya closes the descriptor of a map that is taken, and loading needs it.
        let Some(Map::HashMap(probes)) = ebpf.take_map(map::PROBES) else {
            bail!("the eBPF object has no map of probes");
        };
        let probes = probes.fd().as_fd().try_clone_to_owned().context("cannot keep a map open")?;
        let probes = Some(Entries::new(probes, ROOM));
        Ok(Self { ebpf, probes, clsact: Vec::new(), verified_instructions })
    }

    /// Attaches the programs to all interfaces, by links if the kernel has them for tc. Says which
    /// it was.
    pub fn attach(&mut self, links: &[net::Link]) -> Result<Means> {
        let mut means = Means::Links;
        for link in links {
            if means == Means::Links
                && let Err(error) = self.attach_to(link, Means::Links)
            {
                tracing::debug!(interface = %link.name, reason = %error, "no link for tc: a filter");
                means = Means::Filters;
            }
            if means == Means::Filters {
                self.attach_to(link, means).with_context(|| {
                    format!("the kernel takes no program at {} (tc, clsact)", link.name)
                })?;
            }
        }
        Ok(means)
    }

    /// Attaches the programs to an interface, before all others there.
    pub fn attach_to(&mut self, link: &net::Link, means: Means) -> Result<()> {
        for place in PLACES {
            // A daemon that was killed left it.
            let _ = qdisc_detach_program(&link.name, place, name_of(place));
            let options = match means {
                Means::Links => TcAttachOptions::TcxOrder(LinkOrder::first()),
                Means::Filters => {
                    // It may be there, by another's hand or by ours of before.
                    if qdisc_add_clsact(&link.name).is_ok() {
                        self.clsact.push(link.ifindex);
                    }
                    // Without a priority: before all other filters.
                    TcAttachOptions::Netlink(NlOptions::default())
                }
            };
            classifier(&mut self.ebpf, place)?.attach_with_options(&link.name, place, options)?;
        }
        Ok(())
    }

    /// Opens a way that these programs lead along. Only the first time: they are the daemon's only
    /// ones.
    pub fn open(&mut self, path: &ProbePath) {
        if let Some(probes) = self.probes.take() {
            let _ = path.probes.set(probes);
        }
    }

    /// The program of a place.
    pub fn program(&mut self, place: TcAttachType) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf, place)
    }

    /// Leaves the interfaces as they were. A `clsact` that somebody else uses meanwhile stays.
    pub async fn detach(self) -> Result<()> {
        let Self { ebpf, clsact, .. } = self;
        drop(ebpf);
        for ifindex in clsact {
            net::remove_idle_clsact(ifindex).await?;
        }
        Ok(())
    }
}

/// The name of a place's program.
const fn name_of(place: TcAttachType) -> &'static str {
    match place {
        TcAttachType::Egress => "probe_leave",
        TcAttachType::Ingress | TcAttachType::Custom(_) => "probe_arrive",
    }
}

fn classifier(ebpf: &mut Ebpf, place: TcAttachType) -> Result<&mut SchedClassifier> {
    let program = ebpf.program_mut(name_of(place));
    Ok(program.context("the eBPF object lacks a program for probes")?.try_into()?)
}
