//! Runs packets through the loaded program and says what became of each.
//!
//! The kernel's test runner hands out zeroed memory, a driver does not. The program never moves
//! the packet's start, so the verifier keeps it between `data` and `data_end`; all that could
//! lie around these is put there on purpose: up to 216 bytes of metadata right before the packet
//! (all the headroom the runner gives away), each `0xff`, checked to be untouched afterwards.
//! Their number shifts the packet's alignment, too. Behind the packet the runner allows nothing;
//! fixtures carry Ethernet trailers of `0xff` instead.

use std::io;
use std::sync::Arc;

use aya::programs::{ProgramError, TestRun, TestRunOptions, TestRunResult};
use lb_common::abi::{FEATURES_ALL, Traffic};
use lb_common::verdict::{Event, Verdict};
use lb_userspace::config::model::{Limits, Node, XdpPolicy};
use lb_userspace::dataplane::load::{Loaded, load};
use lb_userspace::dataplane::maps::LiveMaps;

/// The interface the test runner says packets came by: the loopback of this namespace.
pub(crate) const INGRESS: u32 = 1;
/// Most metadata the runner takes: the headroom (256) less `struct xdp_frame` (40).
pub(crate) const MOST_POISON: usize = 216;
/// Most that an older kernel's runner takes (6.1 does so); more is an invalid argument there.
const OLD_POISON: usize = 32;

/// `enum xdp_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Drop,
    Pass,
    Transmit,
    Redirect,
}

/// What a packet ended as, by the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Backend(u32),
    Verdict(Verdict),
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) action: Action,
    pub(crate) frame: Vec<u8>,
    pub(crate) end: End,
    pub(crate) events: Vec<Event>,
}

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Rig {
    loaded: Loaded,
    pub(crate) maps: Arc<LiveMaps>,
    /// Bytes of metadata before each packet; a multiple of four. Less after the first packet, if the
    /// kernel takes less.
    pub(crate) poison: usize,
    /// Packets run so far.
    pub(crate) received: u64,
    buffer: Vec<u8>,
}

/// What differs between the programs that are loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) nat_ports: (u16, u16),
    pub(crate) nat_connections: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { nat_ports: (20_000, 29_999), nat_connections: 1 << 17 }
    }
}

/// The secret of the program's hashes, so that every run is the same.
pub(crate) const SEED: u64 = 0x5eed_0f40_1dfa_5700;
/// Backend rows of the program.
pub(crate) const ROWS: u32 = 256;

impl Rig {
    /// Loads the program. Without root this fails, as no test may pass by not running.
    pub(crate) fn load(sizes: Sizes) -> Self {
        // SAFETY: takes nothing, cannot fail.
        let user = unsafe { libc::geteuid() };
        assert!(
            user == 0,
            "these tests load the packet program into the kernel: run them as root \
             (`cargo xtask test` does)"
        );
        let node = Node {
            interfaces: Vec::new(),
            xdp: XdpPolicy::Auto,
            nat_ports: sizes.nat_ports.0..=sizes.nat_ports.1,
            limits: Limits {
                frontends: 64,
                backends: ROWS,
                servers: 64,
                table_bytes: 1 << 20,
                flows: 1 << 18,
                nat_connections: sizes.nat_connections,
                ..Limits::default()
            },
            ..Node::default()
        };
        let loaded = load(&node, SEED, 1500, false, FEATURES_ALL).expect("the program loads");
        let maps = Arc::clone(&loaded.maps);
        Self { loaded, maps, poison: MOST_POISON, received: 0, buffer: Vec::new() }
    }

    pub(crate) fn verified_instructions(&self) -> Option<u32> {
        self.loaded.verified_instructions
    }

    /// Runs one packet; the frame as it left, and the action.
    pub(crate) fn send(&mut self, frame: &[u8]) -> (Action, Vec<u8>) {
        let mut result = self.test_run(frame);
        let too_much = result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL));
        if too_much && self.poison > OLD_POISON && self.received == 0 {
            println!("this kernel takes {OLD_POISON} bytes of metadata, not {}", self.poison);
            self.poison = OLD_POISON;
            result = self.test_run(frame);
        }
        let result =
            result.unwrap_or_else(|e| panic!("the kernel does not run {} bytes: {e}", frame.len()));
        let poison = self.poison;
        self.received += 1;
        let size = result.data_size_out as usize;
        assert_eq!(size, poison + frame.len(), "no mode changes a packet's length");
        assert!(self.buffer[..poison].iter().all(|&b| b == 0xff), "wrote before the packet");
        assert!(self.buffer[size..].iter().all(|&b| b == 0xaa), "wrote behind the packet");
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Transmit,
            4 => Action::Redirect,
            other => panic!("the program answered {other}"),
        };
        (action, self.buffer[poison..size].to_vec())
    }

    /// The frame behind its metadata goes through the program into `buffer`.
    fn test_run(&mut self, frame: &[u8]) -> io::Result<TestRunResult> {
        let poison = self.poison;
        let mut input = vec![0xff; poison];
        input.extend_from_slice(frame);
        // Longer than what may come out, so that an overrun would show.
        self.buffer.clear();
        self.buffer.resize(input.len() + 64, 0xaa);
        // `struct xdp_md`: data and data_end, the rest zero.
        let mut context = [0u32; 6];
        context[0] = poison as u32;
        context[1] = input.len() as u32;
        let program = self.loaded.program().expect("the object has its program");
        program
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(&mut self.buffer),
                ctx_in: Some(bytemuck::bytes_of(&context)),
                ..TestRunOptions::default()
            })
            .map_err(|error| match error {
                ProgramError::SyscallError(call) => call.io_error,
                other => io::Error::other(other),
            })
    }

    /// Runs one packet and reads the counters before and after. Asserts the law of conservation:
    /// one packet ends once, as a backend's (with its bytes) or in a verdict.
    pub(crate) fn run(&mut self, frame: &[u8]) -> Outcome {
        let before = Counters::read(&self.maps);
        let (action, out) = self.send(frame);
        let after = Counters::read(&self.maps);
        let (ends, events) = after.since(&before, frame.len() as u64);
        let [end] = ends[..] else { panic!("one packet was counted as {ends:?}") };
        Outcome { action, frame: out, end, events }
    }

    /// The law of conservation, over everything run so far.
    pub(crate) fn assert_conserved(&self) {
        let counters = Counters::read(&self.maps);
        let backends: u64 = counters.traffic.iter().map(|t| t.packets).sum();
        let verdicts: u64 = counters.verdicts.iter().sum();
        assert_eq!(backends + verdicts, self.received, "received = Σ backends + Σ verdicts");
    }
}

/// All counters at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) verdicts: Vec<u64>,
    pub(crate) events: Vec<u64>,
}

impl Counters {
    pub(crate) fn read(maps: &LiveMaps) -> Self {
        Self {
            traffic: (0..ROWS).map(|row| maps.traffic(row)).collect(),
            verdicts: Verdict::ALL.iter().map(|v| maps.verdicts(*v)).collect(),
            events: Event::ALL.iter().map(|e| maps.events(*e)).collect(),
        }
    }

    /// The ends counted since, each as often as it was counted, and the events.
    fn since(&self, before: &Self, bytes: u64) -> (Vec<End>, Vec<Event>) {
        let mut ends = Vec::new();
        for (row, (now, then)) in (0..).zip(self.traffic.iter().zip(&before.traffic)) {
            let packets = now.packets - then.packets;
            assert_eq!(now.bytes - then.bytes, packets * bytes, "bytes of backend row {row}");
            ends.extend((0..packets).map(|_| End::Backend(row)));
        }
        for (verdict, (now, then)) in
            Verdict::ALL.iter().zip(self.verdicts.iter().zip(&before.verdicts))
        {
            ends.extend((*then..*now).map(|_| End::Verdict(*verdict)));
        }
        let mut events = Vec::new();
        for (event, (now, then)) in Event::ALL.iter().zip(self.events.iter().zip(&before.events)) {
            events.extend((*then..*now).map(|_| *event));
        }
        (ends, events)
    }
}
