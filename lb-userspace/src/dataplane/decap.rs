//! The program of `lb decap` from its process's side: loaded, with the sources it takes tunnels
//! from, and its counters read.

use std::net::IpAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{Address, AddressKey, list_word, map};
use lb_common::decap::LIST;
use lb_common::verdict::{ROW, Verdict};

use super::entries::Entries;
use super::load::{raise_memory_limit, verifier_said};
use super::mapped::Mapped;
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
        let mut ebpf = EbpfLoader::new()
            .override_global("GUE_PORT", &u32::from(gue_port), true)
            .map_max_entries(map::SOURCES, u32::try_from(from.len())?.max(1))
            .map_max_entries(map::COUNTERS, ROW * processors)
            .load(OBJECT)
            .context("the kernel refused the maps of the eBPF program (are you root?)")?;
        let program = program(&mut ebpf)?;
        program.load().map_err(verifier_said)?;
        let verified_instructions =
            program.info().ok().and_then(|info| info.verified_instruction_count());
        // Only now: aya closes the descriptor of a map that is taken, and loading needs it.
        let sources = Entries::<AddressKey, u32>::new(
            data(&mut ebpf, map::SOURCES)?.fd().as_fd().try_clone_to_owned()?,
            u32::try_from(from.len())?.max(1),
        );
        for prefix in from {
            sources.set(&key(prefix), 1)?;
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

/// A prefix as the program looks it up.
fn key(prefix: &Prefix) -> AddressKey {
    let mut address: Address = [0; 4];
    let family = match prefix.address {
        IpAddr::V4(v4) => {
            address[0] = u32::from_ne_bytes(v4.octets());
            4
        }
        IpAddr::V6(v6) => {
            for (word, bytes) in address.iter_mut().zip(v6.octets().chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            6
        }
    };
    AddressKey { bits: 32 + u32::from(prefix.length), list: list_word(LIST, family), address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_looked_up_by_its_family_and_its_bits() {
        let v4 = key(&"10.9.0.0/16".parse().unwrap());
        assert_eq!((v4.bits, v4.list), (48, list_word(LIST, 4)));
        assert_eq!(v4.address[0].to_ne_bytes(), [10, 9, 0, 0]);
        assert_eq!(v4.address[1..], [0; 3]);
        let v6 = key(&"fd00::9:0:0/96".parse().unwrap());
        assert_eq!((v6.bits, v6.list), (128, list_word(LIST, 6)));
        let bytes: Vec<u8> = v6.address.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes, [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]);
    }
}
