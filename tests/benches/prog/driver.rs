//! The kernel's side: programs run on packets that one of them writes, and are timed.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use crate::frames::{PATCHES, Template, WORDS};

/// What comes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pass = 2,
    Transmit = 3,
}

/// A program that writes the packets of one case, and calls the one under test.
#[derive(Debug)]
pub(crate) struct Driver {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

/// The programs that do the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Sends the packet.
    Tx,
    /// Makes room for another header.
    Head,
    /// And writes that header, always the same.
    Encapsulate,
}

impl Floor {
    pub(crate) const ALL: [Self; 3] = [Self::Tx, Self::Head, Self::Encapsulate];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tx => "floor_tx",
            Self::Head => "floor_head",
            Self::Encapsulate => "floor_encapsulate",
        }
    }
}

impl Driver {
    /// Loads the object for packets like this; `undo`: bytes that the program under test puts in
    /// front of them.
    pub(crate) fn load(template: &Template, undo: i32) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let object = root.join("target/ebpf/bpfel-unknown-none/release/bench-prog");
        let shape = shape(template, undo);
        let mut ebpf = EbpfLoader::new()
            .override_global("SHAPE", &shape[..], true)
            .load_file(&object)
            .with_context(|| format!("cannot load {} (are you root?)", object.display()))?;
        let driver: &mut Xdp = program(&mut ebpf, "bench")?;
        driver.load().context("the kernel refuses the driver")?;
        let mut frame = template.bytes.clone();
        frame.resize(template.length, 0);
        Ok(Self { ebpf, frame })
    }

    /// Puts a program under test.
    pub(crate) fn test(&mut self, under_test: &ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut("UNDER_TEST").context("no map UNDER_TEST")?;
        Ok(ProgramArray::try_from(map)?.set(0, under_test, 0)?)
    }

    /// Puts a floor under test.
    pub(crate) fn test_floor(&mut self, floor: Floor) -> Result<()> {
        let fd = {
            let program = program(&mut self.ebpf, floor.name())?;
            if program.fd().is_err() {
                program.load()?;
            }
            program.fd()?.try_clone()?
        };
        self.test(&fd)
    }

    /// Runs so many packets.
    pub(crate) fn run(&mut self, packets: u32, expected: Action) -> Result<()> {
        let driver = program(&mut self.ebpf, "bench")?;
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: packets,
            ..TestRunOptions::default()
        };
        let result = driver.test_run(options)?;
        ensure!(
            result.return_value == expected as u32,
            "the program answered {}, not {expected:?}",
            result.return_value
        );
        Ok(())
    }

    /// Nanoseconds per packet of so many windows of [`WINDOW`] packets, after one that is not
    /// counted.
    pub(crate) fn windows(&mut self, count: u32, expected: Action) -> Result<Vec<f64>> {
        ensure!(count < TIMES, "no more than {TIMES} windows");
        let first = self.written()? / u64::from(WINDOW) + 1;
        self.run(WINDOW * (count + 1), expected)?;
        let map = self.ebpf.map("TIMES").context("no map TIMES")?;
        let times = Array::<_, u64>::try_from(map)?;
        let at = |window: u32| times.get(&((first as u32 + window) % TIMES), 0);
        (0..count)
            .map(|window| {
                let took = at(window + 1)?.saturating_sub(at(window)?);
                Ok(took as f64 / f64::from(WINDOW))
            })
            .collect()
    }

    /// Packets written so far.
    fn written(&self) -> Result<u64> {
        let map = self.ebpf.map("NEXT").context("no map NEXT")?;
        Ok(Array::<_, u64>::try_from(map)?.get(&0, 0)?)
    }
}

/// Packets between two times that the driver takes, and times that it keeps.
const WINDOW: u32 = 1 << 12;
const TIMES: u32 = 256;

fn program<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp> {
    let Some(program) = ebpf.program_mut(name) else { bail!("the object has no program {name}") };
    Ok(program.try_into()?)
}

/// The driver's `Shape`, word by word.
fn shape(template: &Template, undo: i32) -> Vec<u32> {
    let bits = template.flows.ilog2();
    let used = (template.bytes.len() as u32 - 14).div_ceil(4);
    let mut words = vec![
        template.length as u32,
        undo as u32,
        template.flows - 1,
        bits.div_ceil(2),
        u32::from(u16::from_ne_bytes([template.bytes[12], template.bytes[13]])),
        template.written & ((1u64 << used) - 1) as u32,
    ];
    let mut bytes = template.bytes[14..].to_vec();
    bytes.resize(4 * WORDS, 0);
    words.extend(
        bytes.chunks(4).map(|word| word.iter().rev().fold(0, |w, &b| w << 8 | u32::from(b))),
    );
    for place in 0..PATCHES {
        let patch = template.patches.get(place).copied().unwrap_or_default();
        words.extend([patch.at, patch.base, patch.shift, patch.mask, patch.up]);
    }
    words
}
