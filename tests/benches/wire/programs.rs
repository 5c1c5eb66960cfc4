//! The programs of `lb-ebpf/src/bench/wire.rs`: loaded, attached, and run as live frames.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, PerCpuArray},
    programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use lb_tests::Namespace;

use crate::abi::{BUCKETS, BURST, COUNTERS, Expect, Job, LOAD};

// SAFETY: plain words without padding, as the program reads them.
unsafe impl Pod for Job {}
// SAFETY: as above.
unsafe impl Pod for Expect {}

pub(crate) struct Programs {
    ebpf: Ebpf,
}

/// The object, where the build of `lb` leaves it.
fn object() -> PathBuf {
    let target = if cfg!(target_endian = "big") { "bpfeb" } else { "bpfel" };
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../target/ebpf/{target}-unknown-none/release/bench-wire"))
}

impl Programs {
    pub(crate) fn load() -> Result<Self> {
        let path = object();
        let ebpf = Ebpf::load_file(&path).with_context(|| {
            format!(
                "cannot load {}: `cargo build --release -p lb-userspace` makes it",
                path.display()
            )
        })?;
        let mut programs = Self { ebpf };
        for name in ["load", "probe", "sink", "bounce", "pass"] {
            programs.program_mut(name)?.load().with_context(|| format!("cannot load {name}"))?;
        }
        Ok(programs)
    }

    /// Attaches one to an interface, for as long as this lives.
    pub(crate) fn attach(
        &mut self,
        name: &str,
        namespace: &Namespace,
        interface: &str,
    ) -> Result<()> {
        let program = self.program_mut(name)?;
        namespace
            .enter(|| program.attach(interface, XdpMode::Driver).map(drop))?
            .with_context(|| format!("cannot attach {name} to {interface}"))
    }

    pub(crate) fn set_job(&mut self, index: u32, job: Job) -> Result<()> {
        let map = self.ebpf.map_mut("JOBS").context("no map JOBS")?;
        Ok(Array::<_, Job>::try_from(map)?.set(index, job, 0)?)
    }

    pub(crate) fn expect(&mut self, expect: Expect) -> Result<()> {
        let map = self.ebpf.map_mut("EXPECT").context("no map EXPECT")?;
        Ok(Array::<_, Expect>::try_from(map)?.set(0, expect, 0)?)
    }

    /// What the sink counted so far.
    pub(crate) fn counts(&self) -> Result<Vec<u64>> {
        self.sums("COUNTS", COUNTERS)
    }

    /// How many probes fell into each bucket so far.
    pub(crate) fn latency(&self) -> Result<Vec<u64>> {
        self.sums("LATENCY", BUCKETS)
    }

    fn sums(&self, name: &str, length: u32) -> Result<Vec<u64>> {
        let map = self.ebpf.map(name).with_context(|| format!("no map {name}"))?;
        let map = PerCpuArray::<_, u64>::try_from(map)?;
        (0..length).map(|index| Ok(map.get(&index, 0)?.iter().sum())).collect()
    }

    /// Sends frames of a job into a cable by its end at this interface of the calling thread's
    /// namespace. How long it took on average, with all that happened to them on this core: as the
    /// kernel measured it, without the tens of milliseconds of getting ready and clearing up.
    pub(crate) fn send(
        &self,
        job: u32,
        frame: &[u8],
        interface: u32,
        frames: u32,
    ) -> Result<Duration> {
        let name = if job == LOAD { "load" } else { "probe" };
        // `struct xdp_md`: data_end and ingress_ifindex, the rest zero.
        let context = [0, frame.len() as u32, 0, interface, 0, 0];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BURST as u32),
            ..TestRunOptions::default()
        };
        let program: &Xdp =
            self.ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        let run = program.test_run(options).with_context(|| format!("cannot run {name}"))?;
        Ok(run.duration)
    }

    fn program_mut(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }
}
