//! The embedded eBPF object: into the kernel as often as needed, always over the same maps.

use anyhow::{Context, Result};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_obj::{EbpfSectionKind, Object};
use lb_common::abi::{BACKEND_BLOCK, LIMITS, SPARES, Settings, Table, Word, map};
use lb_common::verdict::ROW;

use super::private_fs::PrivateFs;
use crate::config::model::{Limits, Node};

/// The program, compiled for the kernel when this crate was built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/holdfast"));

/// Name of the XDP program in the object.
const PROGRAM: &str = "holdfast";

/// All that a load depends on, but for the features.
#[derive(Debug)]
pub(super) struct Recipe {
    settings: Settings,
    limits: Limits,
    sizes: Sizes,
    log_drops: bool,
}

/// A program that the verifier took.
pub(super) struct Verified {
    pub(super) ebpf: Ebpf,
    pub(super) instructions: Option<u32>,
}

impl Recipe {
    pub(super) fn new(node: &Node, seed: u64, client_mtu: u32, log_drops: bool) -> Self {
        let sizes = Sizes::of(&node.limits);
        let settings = Settings {
            seed,
            service_mask: sizes.services - 1,
            backend_rows: sizes.rows,
            nat_port_first: u32::from(*node.nat_ports.start()),
            nat_port_count: u32::from(node.nat_ports.end() - node.nat_ports.start()) + 1,
            gue_port: u32::from(node.gue_port),
            flow_inserts: node.flow_inserts,
            icmp_rate: node.icmp_rate,
            client_mtu,
            features: 0,
            padding: 0,
        };
        Self { settings, limits: node.limits, sizes, log_drops }
    }

    /// The settings of a program with these features.
    pub(super) fn settings(&self, features: u32) -> Settings {
        Settings { features, ..self.settings }
    }

    /// Loads the program. Its maps are those of an earlier load, if that had the same `private`.
    pub(super) fn load(&self, features: u32, private: Option<&PrivateFs>) -> Result<Verified> {
        let (sizes, limits) = (&self.sizes, &self.limits);
        let settings = self.settings(features);
        let log_drops = u32::from(self.log_drops);
        let processors = u32::try_from(
            aya::util::nr_cpus().map_err(|(_, error)| error).context("cannot count processors")?,
        )?;
        let names = map_names()?;
        let mut loader = EbpfLoader::new();
        if let Some(private) = private {
            for name in &names {
                loader.map_pin_path(name, private.path(name));
            }
        }
        let mut ebpf = loader
            .override_global("SETTINGS", &settings, true)
            .override_global("LOG_DROPS", &log_drops, true)
            .map_max_entries(map::SERVICES, sizes.services)
            .map_max_entries(map::TABLES, sizes.table_words)
            .map_max_entries(map::MARKS, sizes.table_words / 8)
            .map_max_entries(map::WORDS, sizes.rows)
            .map_max_entries(map::PORTS, sizes.rows)
            .map_max_entries(map::SERVERS, sizes.servers)
            .map_max_entries(map::SPARE, sizes.services_numbered * SPARES / 4)
            .map_max_entries(map::FLOWS, limits.flows)
            .map_max_entries(map::NAT, limits.nat_connections.saturating_mul(2))
            .map_max_entries(map::TRAFFIC, sizes.rows * processors)
            .map_max_entries(map::NEW_FLOWS, sizes.rows * processors)
            .map_max_entries(map::COUNTERS, ROW * processors)
            .map_max_entries(map::DRAFTS, processors)
            .map_max_entries(map::DEVICES, MAX_DEVICES)
            .map_max_entries(map::PREFIXES, limits.prefixes.max(1))
            .map_max_entries(map::SOURCES, limits.sources.max(1))
            .map_max_entries(map::RATES, limits.rates.max(1))
            .map_max_entries(map::BUCKETS, LIMITS * processors)
            .map_max_entries(map::SERVER_IDS, limits.server_ids.max(1))
            .load(OBJECT)
            .context("the kernel refused the maps of the eBPF program (are you root?)")?;
        let program = program(&mut ebpf)?;
        program.load().map_err(verifier_said)?;
        let info = program.info().ok();
        let instructions = info.and_then(|info| info.verified_instruction_count());
        Ok(Verified { ebpf, instructions })
    }
}

/// The maps that loads can share: all but the constants, which differ.
fn map_names() -> Result<Vec<String>> {
    let object = Object::parse(OBJECT).context("the eBPF object is damaged")?;
    let is_map = |kind| matches!(kind, EbpfSectionKind::Maps | EbpfSectionKind::BtfMaps);
    let maps = object.maps.into_iter().filter(|(_, map)| is_map(map.section_kind()));
    Ok(maps.map(|(name, _)| name).collect())
}

/// The program of a loaded object.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(PROGRAM).context("the eBPF object has no program")?;
    Ok(program.try_into()?)
}

/// Interfaces that frames can leave by: more than a host has, members of bonds included.
const MAX_DEVICES: u32 = 256;

/// Rows of a service beyond those of its backends: as many as these, but no more than this. Backends
/// that are replaced keep theirs until their connections are over.
pub(crate) const SPARE_ROWS: u32 = 32;

/// Map sizes that follow from the limits.
#[derive(Debug)]
struct Sizes {
    services: u32,
    services_numbered: u32,
    rows: u32,
    servers: u32,
    table_words: u32,
}

impl Sizes {
    fn of(limits: &Limits) -> Self {
        // An eighth full at the most, the VIPs' own records included: searches end in their first
        // place, and none runs longer than `SERVICE_PROBES`.
        let services = limits.frontends.saturating_mul(2).saturating_mul(8).next_power_of_two();
        let block = BACKEND_BLOCK;
        Self {
            services: services.clamp(64, 1 << 24),
            services_numbered: limits.frontends.max(1),
            // A service takes its backends, its spare rows, and the rest of its last block.
            rows: limits
                .backends
                .saturating_add(limits.backends.min(limits.frontends.saturating_mul(SPARE_ROWS)))
                .saturating_add(limits.frontends.saturating_mul(block))
                .next_multiple_of(block)
                .clamp(block, Table::MAX_BLOCKS * block),
            servers: limits.servers.clamp(1, Word::MAX_SERVERS),
            table_words: (limits.table_bytes / 8).next_multiple_of(64).clamp(64, Table::MAX_BASE),
        }
    }
}

/// Before kernel 5.11 maps count as locked memory; later this changes nothing.
pub(super) fn raise_memory_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one struct; failure leaves the limit, and loading then says what is short.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

pub(super) fn verifier_said(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            anyhow::anyhow!(
                "the kernel's verifier refused the program ({io_error}); please report this with \
                 the kernel version; its last words:\n{}",
                tail.join("\n")
            )
        }
        other => anyhow::Error::new(other).context("the kernel refused the program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_suffice_for_what_the_limits_say() {
        for (services, backends) in [(1, 16), (100, 10), (1_000, 100), (1_000, 1_000), (16, 1_000)]
        {
            let limits =
                Limits { frontends: services, backends: services * backends, ..Limits::default() };
            let of_one = (backends + backends.min(SPARE_ROWS)).next_multiple_of(BACKEND_BLOCK);
            let rows = Sizes::of(&limits).rows;
            assert!(rows >= services * of_one, "{services} of {backends}: {rows}");
            assert!(rows <= Table::MAX_BLOCKS * BACKEND_BLOCK);
        }
    }
}
