//! The program of `lb decap` from its process's side: loaded, with the sources it takes tunnels
//! from, and its counters read.

use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{AddressKey, map};
use lb_common::decap::LIST;
use lb_common::verdict::{ROW, Verdict};

use super::entries::Entries;
use super::keys::prefix_key;
use super::mapped::Mapped;
use super::object::{raise_memory_limit, verifier_said};
use crate::config::model::Prefix;

/// The program, compiled for the kernel when this crate was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap"));

/// Name of the XDP program in the object.
const PROGRAM: &str = "decap";

/// The decapsulator in the kernel.
#[derive(Debug)]
pub struct Decapsulator {
    ebpf: Ebpf,
    counters: Mapped<u64>,
    /// Instructions the verifier followed; its limit is one million.
    pub verified_instructions: Option<u32>,
}

impl Decapsulator {
    /// Loads the program, to take tunnels from these sources only.
    pub fn load(from: &[Prefix], gue_port: u16) -> Result<Self> {
        raise_memory_limit();
        let processors = u32::try_from(
            aya::util::nr_cpus().map_err(|(_, error)| error).context("cannot count processors")?,
        )?;
        let room = u32::try_from(from.len())?.max(1);
        let mut ebpf = EbpfLoader::new()
            .override_global("GUE_PORT", &u32::from(gue_port), true)
            .map_max_entries(map::SOURCES, room)
            .map_max_entries(map::COUNTERS, ROW * processors)
            .load(OBJECT)
            .context("the kernel refused the maps of the eBPF program (are you root?)")?;
        let program = program(&mut ebpf)?;
        program.load().map_err(verifier_said)?;
        let verified_instructions =
            program.info().ok().and_then(|info| info.verified_instruction_count());
        // Only now: aya closes the descriptor of a map that is taken, and loading needs it.
        let sources = data(&mut ebpf, map::SOURCES)?.fd().as_fd().try_clone_to_owned()?;
        let sources = Entries::<AddressKey, u32>::new(sources, room);
        for prefix in from {
            sources.set(&prefix_key(LIST, *prefix), 1)?;
        }
        let counters = data(&mut ebpf, map::COUNTERS)?;
        let counters = Mapped::new(counters.fd(), ROW * processors)?;
        Ok(Self { ebpf, counters, verified_instructions })
    }

    /// The XDP program.
    pub fn program(&mut self) -> Result<&mut Xdp> {
        program(&mut self.ebpf)
    }

    /// Packets that ended so.
    #[must_use]
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        self.counters.sum(verdict as u32, ROW)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(PROGRAM).context("the eBPF object has no program")?;
    Ok(program.try_into()?)
}

fn data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::Array(data) | Map::LpmTrie(data)) => Ok(data),
        _ => bail!("the eBPF object has no map {name} of the type expected"),
    }
}
