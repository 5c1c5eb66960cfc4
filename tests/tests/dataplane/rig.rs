//! Runs packets through the loaded program and says what became of each.
//!
//! The kernel's test runner hands out zeroed memory, a driver does not. So up to 160 bytes of
//! metadata, each `0xff`, lie right before the packet. A packet whose start is moved takes its
//! metadata along (`bpf_xdp_adjust_head` copies them) and leaves what it was copied over: the
//! bytes that a tunnel, a tag or an ICMP error adds are `0xff` until the program writes them, as
//! far as there were metadata, and the metadata must be whole afterwards. Their number shifts the
//! packet's alignment, too.
//!
//! Not covered: memory beyond the packet's end, of which the runner has none. Fixtures carry
//! Ethernet trailers of `0xff` instead. And the kernels that take no more than 32 bytes of
//! metadata show the rest of what is added as zeroes; there [`crate::parity`] compares with the
//! host, where all headroom is `0xff`.

use std::io;
use std::sync::Arc;

use aya::programs::{ProgramError, TestRun, TestRunOptions, TestRunResult};
use lb_common::abi::{FEATURES_ALL, Traffic};
use lb_common::verdict::{Event, Verdict};
use lb_userspace::config::model::{Limits, Node, XdpPolicy};
use lb_userspace::dataplane::load::{Loaded, load};
use lb_userspace::dataplane::maps::LiveMaps;

use crate::decode::untagged;

/// The interface the test runner says packets came by: the loopback of this namespace.
pub(crate) const INGRESS: u32 = 1;
/// The runner's headroom (256) less `struct xdp_frame` (40): for metadata, and what is added.
pub(crate) const HEADROOM: usize = 216;
/// Most metadata that leave room for the most that is added: the headers of GUE in IPv6 (48) and
/// a tag (4), or an ICMP error of IPv6 (48) and a tag.
pub(crate) const MOST_POISON: usize = 160;
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
    /// Bytes of metadata before the next packet; a multiple of four. Becomes less if the kernel
    /// takes less.
    pub(crate) poison: usize,
    /// The most that the kernel takes, as far as is known.
    most_poison: usize,
    /// Packets run so far.
    pub(crate) received: u64,
    buffer: Vec<u8>,
}

/// What differs between the programs that are loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) nat_ports: (u16, u16),
    pub(crate) nat_connections: u32,
    /// Per second: ICMP errors, recorded flows.
    pub(crate) icmp_rate: u32,
    pub(crate) flow_inserts: u32,
    pub(crate) features: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            nat_ports: (20_000, 29_999),
            nat_connections: 1 << 17,
            // Never reached: the host's view has no limits.
            icmp_rate: 40_000_000,
            flow_inserts: 40_000_000,
            features: FEATURES_ALL,
        }
    }
}

/// The secret of the program's hashes, so that every run is the same.
pub(crate) const SEED: u64 = 0x5eed_0f40_1dfa_5700;
/// Backend rows of the program that are in use.
pub(crate) const ROWS: u32 = 256;
/// UDP port of GUE.
pub(crate) const GUE_PORT: u16 = 6081;

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
            gue_port: GUE_PORT,
            icmp_rate: sizes.icmp_rate,
            flow_inserts: sizes.flow_inserts,
            limits: Limits {
                frontends: 1024,
                backends: ROWS,
                servers: 256,
                table_bytes: 1 << 21,
                flows: 1 << 18,
                nat_connections: sizes.nat_connections,
                ..Limits::default()
            },
            ..Node::default()
        };
        let loaded = load(&node, SEED, 1500, false, sizes.features).expect("the program loads");
        let maps = Arc::clone(&loaded.maps);
        Self {
            loaded,
            maps,
            poison: MOST_POISON,
            most_poison: HEADROOM,
            received: 0,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn verified_instructions(&self) -> Option<u32> {
        self.loaded.verified_instructions
    }

    /// Runs one packet; the frame as it left, and the action.
    pub(crate) fn send(&mut self, frame: &[u8]) -> (Action, Vec<u8>) {
        self.poison = self.poison.min(self.most_poison);
        let mut result = self.test_run(frame);
        let too_much = result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL));
        if too_much && self.poison > OLD_POISON {
            println!("this kernel takes {OLD_POISON} bytes of metadata, not {}", self.poison);
            (self.poison, self.most_poison) = (OLD_POISON, OLD_POISON);
            result = self.test_run(frame);
        }
        let result =
            result.unwrap_or_else(|e| panic!("the kernel does not run {} bytes: {e}", frame.len()));
        let poison = self.poison;
        self.received += 1;
        let size = result.data_size_out as usize;
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
        self.buffer.resize(input.len() + 128, 0xaa);
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
        let (ends, events) = after.since(&before, untagged(frame).len() as u64);
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
