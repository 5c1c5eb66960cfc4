//! The program in the kernel: loaded with what the configuration needs, and replaced by one that
//! can do more when another configuration needs that. Maps stay, and so does all that is in them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use aya::maps::MapError;
use aya::programs::Xdp;
use aya::{Ebpf, EbpfError};
use lb_common::abi::FEATURES_ALL;

use super::attach::Attached;
use super::features::names;
use super::maps::LiveMaps;
use super::object::{Recipe, Verified, program, raise_memory_limit};
use super::private_fs::PrivateFs;
use crate::config::model::Node;

/// A program in the kernel, with its maps.
#[derive(Debug)]
pub struct Loaded {
    pub maps: Arc<LiveMaps>,
    ebpf: Ebpf,
    /// Instructions the verifier followed; its limit is one million.
    pub verified_instructions: Option<u32>,
    recipe: Arc<Recipe>,
    /// Where another load finds the maps; `None` where the program can do everything.
    private: Option<Arc<PrivateFs>>,
}

/// Loads the program for a node, with these `FEATURE_*` bits at least. `seed` is the secret of its
/// hashes, `client_mtu` the largest IP packet that all its interfaces take.
///
/// Fails if the kernel refuses it: no rights, no BPF, not enough memory for the limits.
pub fn load(
    node: &Node,
    seed: u64,
    client_mtu: u32,
    log_drops: bool,
    features: u32,
) -> Result<Loaded> {
    raise_memory_limit();
    let recipe = Recipe::new(node, seed, client_mtu, log_drops);
    let (verified, features, private) = first_load(&recipe, features)?;
    let Verified { mut ebpf, instructions } = verified;
    // Only now: aya closes the descriptor of a map that is taken, and loading needs it.
    let maps = Arc::new(LiveMaps::take(&mut ebpf, recipe.settings(features))?);
    let (recipe, private) = (Arc::new(recipe), private.map(Arc::new));
    Ok(Loaded { maps, ebpf, verified_instructions: instructions, recipe, private })
}

/// Where maps cannot be shared, the program can do everything from the start.
fn first_load(recipe: &Recipe, features: u32) -> Result<(Verified, u32, Option<PrivateFs>)> {
    let reason = match PrivateFs::new() {
        _ if features == FEATURES_ALL => None,
        Ok(private) => match recipe.load(features, Some(&private)) {
            Err(error) if cannot_name(&error) => Some(format!("{error:#}")),
            loaded => return Ok((loaded?, features, Some(private))),
        },
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason {
        tracing::warn!(
            reason,
            "no private BPF file system (it takes CAP_SYS_ADMIN): the program cannot be replaced \
             later, so it is loaded with all features, used or not"
        );
    }
    Ok((recipe.load(FEATURES_ALL, None)?, FEATURES_ALL, None))
}

/// Whether a load failed because a map could not be given a name.
fn cannot_name(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(EbpfError::MapError(MapError::PinError { .. })))
}

impl Loaded {
    /// The XDP program.
    pub fn program(&mut self) -> Result<&mut Xdp> {
        program(&mut self.ebpf)
    }

    /// The object, for the log reader.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The `FEATURE_*` bits of the program that runs.
    #[must_use]
    pub fn features(&self) -> u32 {
        self.maps.settings().features
    }

    /// Makes sure that the program has these features, too, on all interfaces. If it takes
    /// another program, that is loaded over the same maps and takes the former's place between two
    /// packets. Where this fails, all stays as it was.
    ///
    /// The verifier takes its time, some hundred milliseconds, on a thread of its own: probes
    /// would miss their timeouts behind it.
    pub async fn widen(&mut self, features: u32, attached: &[Attached]) -> Result<()> {
        let features = self.features() | features;
        if features == self.features() {
            return Ok(());
        }
        let Some(private) = &self.private else {
            bail!("this program cannot be replaced: restart `lb run`");
        };
        let began = Instant::now();
        let (recipe, private) = (Arc::clone(&self.recipe), Arc::clone(private));
        let load = tokio::task::spawn_blocking(move || recipe.load(features, Some(&private)));
        let Verified { mut ebpf, instructions } =
            load.await.context("the load was cut short")??;
        replace(attached, program(&mut self.ebpf)?, program(&mut ebpf)?)?;
        drop_maps(&mut ebpf);
        self.ebpf = ebpf;
        self.verified_instructions = instructions;
        self.maps.set_features(features);
        tracing::info!(
            features = names(features).collect::<Vec<_>>().join(","),
            instructions,
            took_ms = began.elapsed().as_millis(),
            "the program was replaced by one with more features"
        );
        Ok(())
    }
}

/// Replaces the program on all interfaces, or on none.
fn replace(attached: &[Attached], old: &Xdp, new: &Xdp) -> Result<()> {
    for (done, interface) in attached.iter().enumerate() {
        if let Err(error) = interface.replace(fd(new)?) {
            for interface in &attached[..done] {
                // It took the other program a moment ago. If not: both do the same so far.
                if let Err(error) = interface.replace(fd(old)?) {
                    tracing::error!(error = format!("{error:#}"), "the former program is not back");
                }
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The maps of a later load are the first one's: descriptors that nobody needs.
fn drop_maps(ebpf: &mut Ebpf) {
    let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        drop(ebpf.take_map(&name));
    }
}

pub(super) fn fd(program: &Xdp) -> Result<BorrowedFd<'_>> {
    Ok(program.fd().context("the program is not loaded")?.as_fd())
}
